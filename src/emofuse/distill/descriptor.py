"""Descriptors of a clip: means and deviations of the teacher's hidden states, and a student's readout of them.

Frames of a speech encoder differ mostly by phonetic content, and a small student spends its capacity on that. Means
and deviations over a clip discard the content; their leading principal components, scaled to unit variance, describe
speaker and style.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from emofuse.features.dataset import without_constants

REMEMBERED = 3000
RIDGE = 0.05
STEPS_BETWEEN = 25
SMALLEST = 1e-6
"""Fraction of the largest variance of a component that the smallest must have."""


def moments(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Averages and standard deviations over the frames of a clip.

    Args:
        states: `(batch, layers, frames, width)`.
        mask: `(batch, frames)`, True where there is something; every row must have a True.

    Returns:
        `(batch, 2 * layers * width)`.

    Example:
        >>> states = torch.tensor([[[[1.0], [3.0], [9.0]]]])
        >>> [round(value, 2) for value in moments(states, torch.tensor([[True, True, False]]))[0].tolist()]
        [2.0, 1.0]
    """
    valid = mask[:, None, :, None].to(states.dtype)
    count = valid.sum(2)
    mean = (states * valid).sum(2) / count
    variance = ((states - mean.unsqueeze(2)).square() * valid).sum(2) / count
    return torch.cat([mean, (variance + 1e-5).sqrt()], dim=1).flatten(1)


class Descriptor(nn.Module):
    """Moments of the teacher's states on their leading principal components, of unit variance each.

    Args:
        clips: Hidden states of clips, `(layers, frames, width)` each, to take the components from.
        components: How many; never more than there are clips.
        seed: Of the decomposition.
    """

    def __init__(self, clips: Iterable[torch.Tensor], *, components: int, seed: int) -> None:
        super().__init__()
        from sklearn.decomposition import PCA

        rows, width = [], 1
        for clip in clips:
            width = clip.shape[-1]
            rows.append(moments(clip[None], torch.ones(1, clip.shape[1], dtype=torch.bool))[0].numpy())
        table = np.stack(rows)
        self.mean = nn.Buffer(torch.from_numpy(table.mean(0)))
        deviation = _varying(self.mean, torch.from_numpy(table.std(0)), width=width)
        self.scale = nn.Buffer((deviation + 1e-4).reciprocal().where(deviation > 0, 0.0))
        # With as many components as clips, the last holds only rounding errors.
        self.components = max(1, min(components, len(table) - 1, table.shape[1]))
        found = PCA(self.components, svd_solver="randomized", random_state=seed)
        found.fit((table - table.mean(0)) * self.scale.numpy())
        variance = found.explained_variance_
        # A component without variance is a random direction.
        scale = np.sqrt(np.where(variance > SMALLEST * variance.max(), variance, np.inf))
        self.basis = nn.Buffer(torch.from_numpy((found.components_ / scale[:, None]).T.astype(np.float32)))

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Describe `(batch, layers, frames, width)` as `(batch, components)`."""
        described: torch.Tensor = (moments(states, mask) - self.mean) * self.scale @ self.basis
        return described


class Readout(nn.Module):
    """Ridge regression from a student's moments to descriptors, refitted while the student learns.

    A readout trained by gradient beside the student lags behind it, since what carries emotion has little variance and
    needs large weights. The closed form, from the most recent clips, is optimal at every step, and the student's
    gradient goes to what the readout cannot predict yet.

    Args:
        width: Of the student's moments.
        components: Of the descriptor.

    Example:
        >>> readout = Readout(2, 1)
        >>> values = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
        >>> for part in values.split(40):
        ...     readout.learn(part, part.sum(1, keepdim=True))
        >>> readout.refit()
        >>> bool((readout(values) - values.sum(1, keepdim=True)).abs().mean() < 0.1)
        True
    """

    def __init__(self, width: int, components: int) -> None:
        super().__init__()
        self.mean, self.scale = nn.Buffer(torch.zeros(width)), nn.Buffer(torch.ones(width))
        self.weight, self.bias = nn.Buffer(torch.zeros(width, components)), nn.Buffer(torch.zeros(components))
        # Sums over a product of both sides, of a constant one as well: all that least squares needs.
        size = width + components + 1
        self.sums = nn.Buffer(torch.zeros(size, size, dtype=torch.float64))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Read descriptors off moments `(batch, width)`."""
        return (values - self.mean) / self.scale @ self.weight + self.bias

    @property
    def ready(self) -> bool:
        """Whether more clips were seen than it has numbers to fit."""
        return float(self.sums[-1, -1]) > len(self.mean)

    def learn(self, values: torch.Tensor, descriptors: torch.Tensor) -> None:
        """Add clips, with exponential forgetting of older ones."""
        both = torch.cat([values, descriptors, torch.ones(len(values), 1, device=values.device)], dim=1)
        both = both.detach().double()
        self.sums.mul_((1 - 1 / REMEMBERED) ** len(values)).add_(both.T @ both)

    def refit(self) -> None:
        """Solve for the clips that are remembered."""
        width = len(self.mean)
        mean = self.sums[-1, :-1] / self.sums[-1, -1]
        covariance = self.sums[:-1, :-1] / self.sums[-1, -1] - mean[:, None] * mean
        deviation = covariance.diagonal()[:width].clamp(min=0).sqrt()
        varying = _varying(mean[:width], deviation, width=width // 2)
        # A constant moment gets no weight.
        scale = deviation.where(varying > 0, torch.inf)
        system = covariance[:width, :width] / scale[:, None] / scale
        system = system + RIDGE * torch.eye(width, dtype=system.dtype, device=system.device)
        self.weight.copy_(torch.linalg.solve(system, covariance[:width, width:] / scale[:, None]))
        self.mean.copy_(mean[:width])
        self.scale.copy_(scale.nan_to_num(posinf=1.0))
        self.bias.copy_(mean[width:])


def _varying(mean: torch.Tensor, deviation: torch.Tensor, *, width: int) -> torch.Tensor:
    """Deviations of moments `(2 * layers * width,)`, 0 for those that are constant by the scale of their layer."""
    return without_constants(mean.view(-1, width), deviation.view(-1, width)).flatten()
