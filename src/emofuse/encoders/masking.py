"""Masks that keep padding out of valid frames where `transformers` does not.

Three layers mix padding into valid frames in spite of the attention mask: a group norm over time, a stack of padded
convolutions, and a batch norm before a padded convolution. With these masks, features of a clip do not depend on its
batch, up to rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class ValidLengths(threading.local):
    """Valid frames of each clip of this thread's current batch; masks read it during a forward pass."""

    def __init__(self) -> None:
        self.frames: tuple[int, ...] = ()

    def set(self, frames: Sequence[int]) -> None:
        """Set the lengths of the next batch."""
        self.frames = tuple(frames)


class MaskedGroupNorm(nn.Module):
    """A group norm over the valid frames of each clip; padding becomes zero.

    Args:
        norm: The layer to replace; its weights are shared.
        valid: Lengths of the current batch.

    Example:
        >>> valid = ValidLengths()
        >>> norm = MaskedGroupNorm(nn.GroupNorm(1, 1), valid)
        >>> valid.set([2])
        >>> norm(torch.tensor([[[1.0, 3.0, 9.0]]])).round().tolist()
        [[[-1.0, 1.0, 0.0]]]
    """

    def __init__(self, norm: nn.GroupNorm, valid: ValidLengths) -> None:
        super().__init__()
        self.norm = norm
        self._valid = valid

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Normalise `(clips, channels, frames)`."""
        total = features.shape[-1]
        # One clip at a time uses the same kernel as the clip alone, and needs no second full-size array for masked
        # sums: in this layer it would be the largest of the whole encoder.
        clips = [
            F.pad(self.norm(features[clip : clip + 1, :, :length]), (0, total - length))
            for clip, length in enumerate(self._valid.frames)
        ]
        return torch.cat(clips)


def mask_frames(features: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Set the padding of `(clips, channels, frames)` to zero.

    Example:
        >>> mask_frames(torch.ones(2, 1, 3), [3, 1]).tolist()
        [[[1.0, 1.0, 1.0]], [[1.0, 0.0, 0.0]]]
    """
    return features * frame_mask(lengths, total=features.shape[-1], device=features.device)[:, None, :]


def frame_mask(lengths: Sequence[int], *, total: int, device: torch.device) -> torch.Tensor:
    """A boolean mask `(clips, frames)` that is true where a frame is valid.

    Example:
        >>> frame_mask([2, 1], total=2, device=torch.device("cpu")).tolist()
        [[True, True], [True, False]]
    """
    return torch.arange(total, device=device)[None, :] < torch.tensor(list(lengths), device=device)[:, None]


def mask_convolution_inputs(module: nn.Module, valid: ValidLengths) -> None:
    """Zero the padding before every convolution inside `module`, as at the end of a single clip."""

    def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (mask_frames(inputs[0], valid.frames), *inputs[1:])

    for layer in module.modules():
        if isinstance(layer, nn.Conv1d):
            layer.register_forward_pre_hook(hook)
