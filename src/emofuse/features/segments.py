"""Segment embeddings: frames of an encoder pooled over the words, syllables or phones of an alignment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional

from emofuse.settings import Granularity, SpeechSettings
from emofuse.types import Alignment, EncoderSpecification, Segment

SegmentPooling = Literal["mean", "max", "mean+std", "attentive"]


def frame_bounds(segments: Sequence[Segment], encoder: EncoderSpecification, *, frames: int) -> torch.Tensor:
    """Which frames belong to each segment: those whose centre lies in it.

    A segment that holds no centre, being shorter than a frame or outside the clip, takes the frame nearest to its
    middle.

    Args:
        segments: In seconds from the beginning of the clip; gaps and overlaps are fine.
        encoder: Says when a frame is.
        frames: How many the clip has, at least one.

    Returns:
        First frame and the one after the last, `(segments, 2)`.

    Example:
        >>> encoder = EncoderSpecification(name="w", family="wav2vec2", stream="speech", revision="1", layers=1,
        ...     selected=(0,), width=4, sampling_rate=16000, stride=320, receptive_field=400)
        >>> frame_bounds([Segment(start=0.0, end=0.06, label="k"), Segment(start=0.06, end=0.061, label="ih")], encoder,
        ...              frames=5).tolist()
        [[0, 3], [2, 3]]
    """

    def place(time: float) -> float:
        return (time * encoder.sampling_rate - encoder.offset - encoder.receptive_field / 2) / encoder.stride

    bounds = []
    for segment in segments:
        # Centres lie on a grid, so one that is on the border by rounding belongs to the segment that begins there.
        first = max(0, math.ceil(round(place(segment.start), 6)))
        last = min(frames, math.ceil(round(place(segment.end), 6)))
        if last <= first:
            first = min(max(0, round(place((segment.start + segment.end) / 2))), frames - 1)
            last = first + 1
        bounds.append((first, last))
    return torch.tensor(bounds, dtype=torch.long).reshape(-1, 2)


def is_pooled_in_model(settings: SpeechSettings, granularity: Granularity) -> bool:
    """Whether the steps of a granularity come from scores that the model learns, so that it must be given frames."""
    return settings.segments == "attentive" and granularity != "frame"


def step_bounds(
    encoder: EncoderSpecification,
    settings: SpeechSettings,
    *,
    frames: int,
    granularity: Granularity,
    alignment: Alignment | None,
) -> torch.Tensor:
    """Which frames a model pools to each step of an utterance.

    Args:
        encoder: Says when a frame is.
        settings: How long a run of frames is.
        frames: How many the clip has, at least one.
        granularity: What a step is; a run of frames for `frame`.
        alignment: Where segments begin and end; without any, a tier's steps are those of `frame`.

    Returns:
        First frame and the one after the last, `(steps, 2)`, int32.

    Example:
        >>> encoder = EncoderSpecification(name="w", family="wav2vec2", stream="speech", revision="1", layers=1,
        ...     selected=(0,), width=4, sampling_rate=16000, stride=320, receptive_field=400)
        >>> step_bounds(encoder, SpeechSettings(frames_per_step=2), frames=5, granularity="word",
        ...             alignment=None).tolist()
        [[0, 2], [2, 4], [4, 5]]
    """
    if granularity == "utterance":
        return torch.tensor([[0, frames]], dtype=torch.int32)
    segments = alignment.tiers.get(granularity, ()) if alignment and granularity != "frame" else ()
    if segments:
        return frame_bounds(segments, encoder, frames=frames).to(torch.int32)
    first = torch.arange(0, frames, settings.frames_per_step, dtype=torch.int32)
    return torch.stack([first, (first + settings.frames_per_step).clamp(max=frames)], dim=-1)


def pool_segments(
    frames: torch.Tensor, bounds: torch.Tensor, *, kind: SegmentPooling = "mean", scores: torch.Tensor | None = None
) -> torch.Tensor:
    """Pool frames over segments, all of a batch at once.

    Args:
        frames: `(batch, frames, width)`.
        bounds: First frame and the one after the last of each segment, `(batch, segments, 2)`; a segment of padding
            is `(0, 0)` and comes out as zeros.
        kind: `mean`; `max`; `mean+std` joins both; `attentive` weighs frames by the softmax of their scores within
            the segment.
        scores: For `attentive`: of each frame, `(batch, frames)`.

    Returns:
        `(batch, segments, width)`, twice as wide for `mean+std`.

    Raises:
        ValueError: `attentive` without scores.

    Example:
        >>> frames = torch.tensor([[[1.0], [3.0], [8.0]]])
        >>> pool_segments(frames, torch.tensor([[[0, 2], [1, 3]]])).tolist()
        [[[2.0], [5.5]]]
    """
    if kind == "attentive":
        if scores is None:
            raise ValueError("attentive pooling needs scores")
        return _attend(frames, bounds, scores)
    counts = bounds[..., 1] - bounds[..., 0]
    longest = max(1, int(counts.max())) if counts.numel() else 1
    steps = torch.arange(longest, device=frames.device)
    inside = steps < counts[..., None]
    places = (bounds[..., :1] + steps).clamp(max=frames.shape[1] - 1)
    batch = torch.arange(len(frames), device=frames.device)[:, None, None]
    gathered = frames[batch, places]
    if kind == "max":
        lowest = gathered.masked_fill(~inside[..., None], float("-inf")).amax(2)
        return lowest.masked_fill((counts == 0)[..., None], 0.0)
    weights = inside / counts.clamp(min=1)[..., None]
    mean = torch.einsum("bsl,bslw->bsw", weights.to(frames.dtype), gathered)
    if kind != "mean+std":
        return mean
    squares = (gathered - mean[:, :, None]).square()
    variance = torch.einsum("bsl,bslw->bsw", weights.to(frames.dtype), squares)
    return torch.cat([mean, variance.sqrt()], dim=-1)


def _attend(frames: torch.Tensor, bounds: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    # Weights for every segment and every frame would take gigabytes where segments are about as many as frames, so
    # there is one for each frame that lies in a segment: all of these, segment after segment, in one list.
    batch, segments = bounds.shape[:2]
    counts = (bounds[..., 1] - bounds[..., 0]).flatten().long()
    rows = torch.arange(batch, device=bounds.device)[:, None] * frames.shape[1]
    begins = counts.cumsum(0) - counts
    segment = torch.arange(len(counts), device=bounds.device).repeat_interleave(counts)
    places = torch.arange(len(segment), device=bounds.device) + ((bounds[..., 0] + rows).flatten() - begins)[segment]
    listed = scores.flatten()[places]
    # What is taken off before the power cancels out, and so has no gradient.
    highest = listed.new_zeros(len(counts)).scatter_reduce(0, segment, listed.detach(), "amax", include_self=False)
    powers = (listed - highest[segment]).exp()
    weights = powers / powers.new_zeros(len(counts)).index_add(0, segment, powers)[segment]
    # A bag sums what it weighs without a copy of it, which would be kept for the gradient; an empty one is zeros.
    pooled = functional.embedding_bag(
        places, frames.flatten(0, 1), begins, mode="sum", per_sample_weights=weights.to(frames.dtype)
    )
    return pooled.reshape(batch, segments, frames.shape[2])
