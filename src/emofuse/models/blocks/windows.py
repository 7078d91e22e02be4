"""Windows of attention and keys at several granularities (after Fan et al., ICASSP 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from emofuse.models.blocks.attention import NEVER

# Decides between two keys that are equally near, for the one to the left. It is far below any real difference.
_TIE = 1e-6


def at_levels(steps: torch.Tensor, mask: torch.Tensor, levels: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A sequence averaged over every so many valid steps, once for each level, one after another.

    The last average of a level is over the steps that are left.

    Args:
        steps: `(batch, steps, width)`.
        mask: `(batch, steps)`, True where valid.
        levels: Steps in one average; 1 is the sequence itself.

    Returns:
        `(batch, keys, width)` and the mask `(batch, keys)`, with `keys` the sum over levels of `ceil(steps / level)`.

    Example:
        >>> steps, mask = torch.tensor([[[1.0], [3.0], [8.0], [99.0]]]), torch.tensor([[True, True, True, False]])
        >>> pooled, valid = at_levels(steps, mask, (1, 2))
        >>> pooled[valid].flatten().tolist()
        [1.0, 3.0, 8.0, 2.0, 8.0]
    """
    parts = [_average(steps, mask, level) for level in levels]
    return torch.cat(parts, dim=1), torch.cat([_members(mask, level).any(-1) for level in levels], dim=1)


def windows_by_fraction(
    queries: torch.Tensor, keys: torch.Tensor, *, size: int, levels: Sequence[int] = (1,)
) -> torch.Tensor:
    """Bias that shows each query the nearest keys of each level, by position in the valid length.

    The queries fall into as many windows as `size` goes into the keys, rounded up. All queries of a window see the keys
    nearest to the window's centre; of two that are equally near, the one to the left.

    Args:
        queries: Mask of the queries, `(batch, queries)`.
        keys: Mask of the keys before `at_levels`, `(batch, keys)`.
        size: Keys that a query sees of each level.
        levels: As `at_levels` takes them.

    Returns:
        `(batch, 1, queries, keys at all levels)`: 0 inside, -inf outside.

    Example:
        >>> mask = torch.ones(1, 4).bool()
        >>> windows_by_fraction(mask, mask, size=2).exp()[0, 0].tolist()
        [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    """
    length = keys.sum(1, keepdim=True)
    windows = (length + size - 1) // size
    own = _rank(queries) * windows // queries.sum(1, keepdim=True)
    # Positions in units of half a key by the number of windows: whole numbers, so that ties are exact.
    centres = ((2 * own + 1) * length).double()
    positions = [(2 * torch.arange(_count(keys, level), device=keys.device) + 1) * level * windows for level in levels]
    return _nearest(centres, [one.double() for one in positions], keys, size, levels)


def windows_by_seconds(
    queries: torch.Tensor, times: torch.Tensor, keys: torch.Tensor, *, size: int, levels: Sequence[int] = (1,)
) -> torch.Tensor:
    """Bias that shows each query the nearest keys of each level, in seconds.

    A key of unknown time is farther than all others; a query of unknown time sees every key.

    Args:
        queries: Centre of each query in seconds, `(batch, queries)`, NaN where unknown.
        times: Centre of each key in seconds, `(batch, keys)`, NaN where unknown.
        keys: Mask of the keys before `at_levels`, `(batch, keys)`.
        size: Keys that a query sees of each level.
        levels: As `at_levels` takes them.

    Returns:
        `(batch, 1, queries, keys at all levels)`: 0 inside, -inf outside.
    """
    known = (keys & ~times.isnan()).double().unsqueeze(-1)
    seconds = times.double().nan_to_num(0.0).unsqueeze(-1)
    # An average over the steps of known time alone: the others count for nothing above and below the fraction line.
    positions = [
        (_average(seconds * known, keys, level) / _average(known, keys, level)).squeeze(-1) for level in levels
    ]
    return _nearest(queries.double(), positions, keys, size, levels)


def _nearest(
    centres: torch.Tensor, positions: Sequence[torch.Tensor], mask: torch.Tensor, size: int, levels: Sequence[int]
) -> torch.Tensor:
    parts = []
    for position, level in zip(positions, levels, strict=True):
        valid = _members(mask, level).any(-1)
        distance = (centres.unsqueeze(2) - position.unsqueeze(1)).abs().nan_to_num(nan=float("inf"))
        distance = distance.masked_fill(~valid.unsqueeze(1), float("inf"))
        distance = distance + _TIE * torch.arange(distance.shape[2], device=distance.device)
        farthest = distance.topk(min(size, distance.shape[2]), largest=False).values[..., -1:]
        parts.append((distance <= farthest) & valid.unsqueeze(1))
    inside = torch.cat(parts, dim=2).unsqueeze(1)
    return torch.zeros(inside.shape, device=inside.device).masked_fill(~inside, NEVER)


def _average(steps: torch.Tensor, mask: torch.Tensor, level: int) -> torch.Tensor:
    members = _members(mask, level).to(steps.dtype)
    return F.normalize(members, p=1, dim=-1) @ steps


def _members(mask: torch.Tensor, level: int) -> torch.Tensor:
    """Which steps each average of a level is over, `(batch, averages, steps)`."""
    groups = torch.arange(_count(mask, level), device=mask.device)
    return (_rank(mask).unsqueeze(1) // level == groups[:, None]) & mask.unsqueeze(1)


def _rank(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(1) - 1).clamp_min(0)


def _count(mask: torch.Tensor, level: int) -> int:
    return -(-mask.shape[1] // level)
