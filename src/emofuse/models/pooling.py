"""Pooling of a sequence to one vector, over valid steps only."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

PoolingKind = Literal["mean", "mean+std", "attentive"]


class Pooling(nn.Module):
    """Masked pooling, `(batch, steps, width)` to `(batch, size)`.

    `mean`; `mean+std` joins both; `attentive` weighs steps by a learned score (Lin et al., ICLR 2017, one head).

    Args:
        kind: Which of the three.
        width: Numbers a step.

    Attributes:
        size: Numbers that come out.

    Example:
        >>> steps, mask = torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[True, True, False]])
        >>> Pooling("mean", 1)(steps, mask).tolist()
        [[2.0]]
    """

    def __init__(self, kind: PoolingKind, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.size = 2 * width if kind == "mean+std" else width
        self.score = nn.Linear(width, 1) if kind == "attentive" else None

    def forward(self, steps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pool; every row of the mask must have a True."""
        if self.score is not None:
            scores = self.score(steps).squeeze(-1).masked_fill(~mask, float("-inf"))
            return torch.einsum("bs,bsw->bw", scores.softmax(-1), steps)
        valid = mask.unsqueeze(-1).to(steps.dtype)
        count = valid.sum(1)
        mean = (steps * valid).sum(1) / count
        if self.kind == "mean":
            return mean
        variance = ((steps - mean.unsqueeze(1)).square() * valid).sum(1) / count
        # The root of zero has no gradient, and a sequence of one step has no variance.
        return torch.cat([mean, (variance + 1e-8).sqrt()], dim=-1)
