"""Micro-batches: the same however many processes share them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def micro_batches(names: Sequence[str], sizes: Mapping[str, float], *, most: int) -> list[list[str]]:
    """Cut a batch into parts of at most so many utterances, those of like length together, the longest first.

    Processes take these parts in turn, so that what dropout does to a part does not depend on who computes it.

    Example:
        >>> micro_batches(["a", "b", "c"], {"a": 1.0, "b": 3.0, "c": 2.0}, most=2)
        [['b', 'c'], ['a']]
    """
    order = sorted(names, key=lambda name: (-sizes[name], name))
    return [order[start : start + most] for start in range(0, len(order), most)]
