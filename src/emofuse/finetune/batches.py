"""Which utterances are computed when and by whom: the same batches however many processes share them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from emofuse.seeds import derive_seed


def global_batches(names: Sequence[str], *, size: int, seed: int, epoch: int) -> list[list[str]]:
    """All utterances once, in batches, in an order that seed and pass decide.

    Example:
        >>> [len(batch) for batch in global_batches("abcdefg", size=3, seed=0, epoch=1)]
        [3, 3, 1]
    """
    order = np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(len(names))
    shuffled = [names[index] for index in order]
    return [shuffled[start : start + size] for start in range(0, len(shuffled), size)]


def micro_batches(names: Sequence[str], sizes: Mapping[str, float], *, most: int) -> list[list[str]]:
    """Cut a batch into parts of at most so many utterances, those of like length together, the longest first.

    Processes take these parts in turn, so that what dropout does to a part does not depend on who computes it.

    Example:
        >>> micro_batches(["a", "b", "c"], {"a": 1.0, "b": 3.0, "c": 2.0}, most=2)
        [['b', 'c'], ['a']]
    """
    order = sorted(names, key=lambda name: (-sizes[name], name))
    return [order[start : start + most] for start in range(0, len(order), most)]
