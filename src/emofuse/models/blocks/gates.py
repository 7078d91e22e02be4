"""Gates: weight inputs, feature by feature."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class VectorGate(nn.Module):
    """Factors of features by a condition: sigmoid(W c + b).

    Args:
        condition: Numbers of the condition.
        width: Numbers of what is gated.

    Example:
        >>> gate = VectorGate(6, 4)(torch.zeros(2, 5, 6))
        >>> gate.shape, bool(((gate > 0) & (gate < 1)).all())
        (torch.Size([2, 5, 4]), True)
    """

    def __init__(self, condition: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(condition, width)

    def forward(self, condition: torch.Tensor) -> torch.Tensor:
        """Give factors between 0 and 1, `(..., width)`."""
        return torch.sigmoid(self.linear(condition))


class ConvexGate(nn.Module):
    """Mixes two inputs of one width: P * a + (1 - P) * b, with P = sigmoid(W [a; b] + bias).

    Example:
        >>> ConvexGate(4)(torch.ones(2, 4), torch.ones(2, 4)).tolist() == torch.ones(2, 4).tolist()
        True
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, width)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Mix two inputs of the same shape."""
        return torch.lerp(second, first, torch.sigmoid(self.linear(torch.cat([first, second], dim=-1))))


class Highway(nn.Module):
    """Mixes a transformed input and the input itself: T * H(x) + (1 - T) * x (Srivastava et al., 2015).

    The gate starts almost closed, so that a new layer is close to the identity.

    Example:
        >>> Highway(4)(torch.ones(2, 4)).shape
        torch.Size([2, 4])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Transform `(..., width)`."""
        return torch.lerp(values, torch.relu(self.transform(values)), torch.sigmoid(self.gate(values)))


class SelectiveKernel(nn.Module):
    """Mixes several inputs of one width by a softmax over them, feature by feature (Li et al., CVPR 2019).

    Args:
        width: Numbers of each input.
        inputs: How many inputs.
        reduction: Factor by which the layer on the sum of the inputs is narrower.

    Example:
        >>> SelectiveKernel(8, inputs=2)([torch.ones(3, 8), torch.ones(3, 8)]).shape
        torch.Size([3, 8])
    """

    def __init__(self, width: int, *, inputs: int, reduction: int = 4) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Linear(width, max(1, width // reduction)), nn.ReLU())
        self.scores = nn.Linear(max(1, width // reduction), inputs * width)

    def forward(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mix inputs of the same shape, `(..., width)` each."""
        stacked = torch.stack(list(values), dim=-2)
        scores: torch.Tensor = self.scores(self.squeeze(stacked.sum(-2))).view(stacked.shape)
        return (scores.softmax(-2) * stacked).sum(-2)
