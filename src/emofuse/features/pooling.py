"""Pooling of encoder frames before they are stored; linear, so it commutes with the layer mix."""

from __future__ import annotations

from typing import Literal

import torch


def pool_frames(
    features: torch.Tensor, *, granularity: Literal["utterance", "frame"], frames_per_step: int = 1
) -> torch.Tensor:
    """Average frames over the whole utterance, or over runs of a few frames.

    Args:
        features: `(layers, frames, width)`.
        granularity: `utterance` gives one step, `frame` one step per run.
        frames_per_step: Length of a run; the last may be shorter.

    Returns:
        `(layers, steps, width)`.

    Example:
        >>> pool_frames(torch.tensor([[[1.0], [3.0], [7.0]]]), granularity="frame", frames_per_step=2).tolist()
        [[[2.0], [7.0]]]
    """
    if granularity == "utterance":
        return features.mean(1, keepdim=True)
    if frames_per_step == 1:
        return features
    runs = range(0, features.shape[1], frames_per_step)
    return torch.stack([features[:, start : start + frames_per_step].mean(1) for start in runs], dim=1)
