"""Precision and gradients of encoders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def inference(device: torch.device, *, precision: str = "float32") -> Iterator[None]:
    """Compute without gradients in `float32`, or in `bfloat16` where autocast allows it.

    Example:
        >>> with inference(torch.device("cpu")):
        ...     torch.is_inference_mode_enabled()
        True
    """
    with torch.inference_mode(), arithmetic(device, precision=precision):
        yield


@contextmanager
def arithmetic(device: torch.device, *, precision: str = "float32") -> Iterator[None]:
    """Compute in `float32`, or in `bfloat16` where autocast allows it; gradients are unchanged.

    Example:
        >>> with arithmetic(torch.device("cpu"), precision="bfloat16"):
        ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
        torch.bfloat16
    """
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"))
        if device.type == "cuda" and precision == "float32":
            # cuDNN convolutions default to TF32, whose ten bits would make features depend on the batch.
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False))
        yield


def to_features(states: list[torch.Tensor], lengths: list[int]) -> list[torch.Tensor]:
    """Split a batch of hidden states into one tensor per clip.

    Args:
        states: The chosen hidden states, each `(clips, frames, width)`.
        lengths: Valid frames of each clip.

    Returns:
        One float32 tensor `(layers, frames, width)` per clip, without padding, in memory of its own.

    Example:
        >>> [tuple(clip.shape) for clip in to_features([torch.zeros(2, 5, 4)] * 3, [5, 2])]
        [(3, 5, 4), (3, 2, 4)]
    """
    return [torch.stack([state[clip, :length].float() for state in states]) for clip, length in enumerate(lengths)]
