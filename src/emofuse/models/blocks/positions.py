"""Positions as vectors."""

from __future__ import annotations

import math

import torch


def sinusoidal(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines of positions at falling frequencies (Vaswani et al., NIPS 2017, sec. 3.5).

    Args:
        positions: `(..., steps)`: indices, or any other numbers such as seconds.
        width: Numbers a step, even.

    Returns:
        `(..., steps, width)`: sines at even indices, cosines at odd ones.

    Example:
        >>> sinusoidal(torch.arange(3), 8).shape
        torch.Size([3, 8])
    """
    rates = torch.exp(torch.arange(0, width, 2, device=positions.device) * (-math.log(10000.0) / width))
    angles = positions.unsqueeze(-1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
