"""Micro-batches that do not depend on the number of processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def micro_batches(names: Sequence[str], sizes: Mapping[str, float], *, most: int) -> list[list[str]]:
    """Split a batch into micro-batches of similar lengths, the longest first.

    Processes take them in turn, so that dropout does not depend on the process.

    Example:
        >>> micro_batches(["a", "b", "c"], {"a": 1.0, "b": 3.0, "c": 2.0}, most=2)
        [['b', 'c'], ['a']]
    """
    order = sorted(names, key=lambda name: (-sizes[name], name))
    return [order[start : start + most] for start in range(0, len(order), most)]
