"""Pooling of a sequence to one vector, over valid steps only."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from emofuse.models.blocks.attention import NEVER

PoolingKind = Literal["mean", "mean+std", "attentive", "max", "dot", "top-k"]


class Pooling(nn.Module):
    """Masked pooling, `(batch, steps, width)` to `(batch, size)`.

    - `mean`; `mean+std` concatenates both.
    - `attentive` weights steps by a learned score (Lin et al., ICLR 2017, one head).
    - `dot` weights steps by their dot product with a learned query over the root of the width (Casals-Salvador et al.,
      IberLEF 2024).
    - `max` is the maximum of each feature, `top-k` the mean of its `k` largest values, or of all where there are fewer.

    Args:
        kind: Kind of pooling.
        width: Numbers per step.
        k: Values that `top-k` averages.

    Attributes:
        size: Size of the pooled vector.

    Example:
        >>> steps, mask = torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[True, True, False]])
        >>> Pooling("mean", 1)(steps, mask).tolist(), Pooling("max", 1)(steps, mask).tolist()
        ([[2.0]], [[3.0]])
    """

    def __init__(self, kind: PoolingKind, width: int, *, k: int = 4) -> None:
        super().__init__()
        self.kind, self.k = kind, k
        self.size = 2 * width if kind == "mean+std" else width
        self.score = nn.Linear(width, 1) if kind == "attentive" else None
        self.query = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, width))[0]) if kind == "dot" else None

    def forward(self, steps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pool; every row of the mask must have a True."""
        if self.score is not None:
            return _weighted(steps, mask, self.score(steps).squeeze(-1))
        if self.query is not None:
            return _weighted(steps, mask, steps @ self.query / self.query.shape[0] ** 0.5)
        valid = mask.unsqueeze(-1)
        count = valid.sum(1)
        if self.kind == "max":
            return steps.masked_fill(~valid, NEVER).amax(1)
        if self.kind == "top-k":
            largest = steps.masked_fill(~valid, NEVER).topk(min(self.k, steps.shape[1]), dim=1).values
            return largest.masked_fill(largest == NEVER, 0.0).sum(1) / count.clamp_max(self.k)
        mean = (steps * valid).sum(1) / count
        if self.kind == "mean":
            return mean
        variance = ((steps - mean.unsqueeze(1)).square() * valid).sum(1) / count
        # The root of zero has no gradient, and a sequence of one step has no variance.
        return torch.cat([mean, (variance + 1e-8).sqrt()], dim=-1)


def _weighted(steps: torch.Tensor, mask: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bs,bsw->bw", scores.masked_fill(~mask, NEVER).softmax(-1), steps)
