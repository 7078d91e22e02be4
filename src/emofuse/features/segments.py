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
    """Frames of each segment: those whose centre is in it.

    A segment without any centre, shorter than a frame or outside the clip, takes the frame nearest to its centre.

    Args:
        segments: In seconds from the beginning of the clip; gaps and overlaps are fine.
        encoder: Specification of the frames' encoder.
        frames: Number of frames of the clip, at least one.

    Returns:
        First frame and the one after the last, `(segments, 2)`.

    Example:
        >>> encoder = EncoderSpecification(name="w", family="wav2vec2", modality="speech", revision="1", layers=1,
        ...     selected=(0,), width=4, sampling_rate=16000, stride=320, receptive_field=400)
        >>> frame_bounds([Segment(start=0.0, end=0.06, label="k"), Segment(start=0.06, end=0.061, label="ih")], encoder,
        ...              frames=5).tolist()
        [[0, 3], [2, 3]]
    """

    def place(time: float) -> float:
        return (time * encoder.sampling_rate - encoder.offset - encoder.receptive_field / 2) / encoder.stride

    bounds = []
    for segment in segments:
        # A centre on the boundary, up to rounding, belongs to the segment that begins there.
        first = max(0, math.ceil(round(place(segment.start), 6)))
        last = min(frames, math.ceil(round(place(segment.end), 6)))
        if last <= first:
            first = min(max(0, round(place((segment.start + segment.end) / 2))), frames - 1)
            last = first + 1
        bounds.append((first, last))
    return torch.tensor(bounds, dtype=torch.long).reshape(-1, 2)


def is_pooled_in_model(settings: SpeechSettings, granularity: Granularity) -> bool:
    """Whether the model pools a granularity by learned scores, and so needs frames."""
    return settings.segments == "attentive" and granularity != "frame"


def step_bounds(
    encoder: EncoderSpecification,
    settings: SpeechSettings,
    *,
    frames: int,
    granularity: Granularity,
    alignment: Alignment | None,
) -> torch.Tensor:
    """Bounds in frames of each step that a model pools.

    Args:
        encoder: Specification of the frames' encoder.
        settings: Length of a run of frames.
        frames: Number of frames of the clip, at least one.
        granularity: Granularity of steps; a run of frames for `frame`.
        alignment: The alignment; without segments, a tier's steps are those of `frame`.

    Returns:
        First frame and the one after the last, `(steps, 2)`, int32.

    Example:
        >>> encoder = EncoderSpecification(name="w", family="wav2vec2", modality="speech", revision="1", layers=1,
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
        kind: `mean`; `max`; `mean+std` concatenates both; `attentive` weights frames by the softmax of their scores
            within the segment.
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
    # A padded copy of all segments would take gigabytes with one long segment and many others, so frames of segments
    # are listed one after the other and pooled in bags.
    counts = (bounds[..., 1] - bounds[..., 0]).flatten().long()
    rows = torch.arange(len(bounds), device=bounds.device)[:, None] * frames.shape[1]
    begins = counts.cumsum(0) - counts
    segment = torch.arange(len(counts), device=bounds.device).repeat_interleave(counts)
    places = torch.arange(len(segment), device=bounds.device) + ((bounds[..., 0] + rows).flatten() - begins)[segment]
    flat = frames.flatten(0, 1)
    shape = (*bounds.shape[:2], frames.shape[2])
    if kind == "attentive":
        if scores is None:
            raise ValueError("attentive pooling needs scores")
        weights = _softmax(scores.flatten()[places], segment, len(counts)).to(frames.dtype)
        # An empty bag is zeros.
        pooled = functional.embedding_bag(places, flat, begins, mode="sum", per_sample_weights=weights)
        return pooled.reshape(shape)
    if kind == "max":
        return functional.embedding_bag(places, flat, begins, mode="max").reshape(shape)
    mean = functional.embedding_bag(places, flat, begins, mode="mean")
    if kind != "mean+std":
        return mean.reshape(shape)
    squares = (flat[places] - mean[segment]).square()
    variance = functional.embedding_bag(torch.arange(len(places), device=places.device), squares, begins, mode="mean")
    return torch.cat([mean.reshape(shape), variance.sqrt().reshape(shape)], dim=-1)


def _softmax(scores: torch.Tensor, segment: torch.Tensor, segments: int) -> torch.Tensor:
    """Weights of listed frames that sum to 1 within each segment."""
    # The subtracted maximum cancels out, and so has no gradient.
    highest = scores.new_zeros(segments).scatter_reduce(0, segment, scores.detach(), "amax", include_self=False)
    powers = (scores - highest[segment]).exp()
    return powers / powers.new_zeros(segments).index_add(0, segment, powers)[segment]
