"""Batches to a budget: clips of similar length together, with little padding."""

from __future__ import annotations

from collections.abc import Sequence


def plan_batches(sizes: Sequence[float], *, budget: float) -> list[list[int]]:
    """Group items so that a group's longest item times its count stays within the budget.

    Args:
        sizes: Size of each item, such as its seconds.
        budget: Largest size of a group, padding included; a larger item gets a group of its own.

    Returns:
        Indices of each group, longest items first, so that a lack of memory shows at once.

    Example:
        >>> plan_batches([1.0, 5.0, 1.5, 4.0], budget=10)
        [[1, 3], [2, 0]]
    """
    order = sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))
    groups: list[list[int]] = []
    for index in order:
        if groups and sizes[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def padding_fraction(sizes: Sequence[float], groups: Sequence[Sequence[int]]) -> float:
    """Fraction of the batches' volume that is padding.

    Example:
        >>> padding_fraction([4.0, 2.0], [[0, 1]])
        0.25
    """
    volume = sum(max(sizes[index] for index in group) * len(group) for group in groups)
    return 1 - sum(sizes) / volume if volume else 0.0
