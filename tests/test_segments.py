"""Frames pooled over words, syllables and phones."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emofuse.features.segments import SegmentPooling, frame_bounds, pool_segments
from emofuse.types import EncoderSpecification, Segment

KINDS = get_args(SegmentPooling)


def encoder(**changes: Any) -> EncoderSpecification:
    values: dict[str, Any] = {
        "name": "w", "family": "wav2vec2", "stream": "speech", "revision": "1", "layers": 1, "selected": (0,),
        "width": 4, "sampling_rate": 16000, "stride": 320, "receptive_field": 400,
    }  # fmt: skip
    return EncoderSpecification(**{**values, **changes})


def plain(frames: Any, bounds: Any, kind: str, scores: Any) -> Any:
    """One segment after the other."""
    pooled = []
    for first, last in bounds:
        part = frames[first:last]
        if kind == "max":
            pooled.append(part.max(0))
        elif kind == "mean":
            pooled.append(part.mean(0))
        elif kind == "mean+std":
            pooled.append(np.concatenate([part.mean(0), part.std(0)]))
        else:
            weights = np.exp(scores[first:last] - scores[first:last].max())
            pooled.append((part * weights[:, None]).sum(0) / weights.sum())
    return np.array(pooled)


# Times as an aligner gives them, in hundredths of a second, and any others: gaps, overlaps, nothing, beyond the end.
TIMES = st.one_of(st.integers(0, 150).map(lambda value: value / 100), st.floats(-0.5, 2.0))
TIERS = st.lists(st.tuples(TIMES, TIMES).map(sorted), max_size=8)


@given(tiers=st.lists(TIERS, min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS))
def test_a_batch_is_pooled_as_one_segment_after_the_other(tiers: Any, seed: int, kind: SegmentPooling) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 60, size=len(tiers))
    frames = rng.normal(size=(len(tiers), 60, 3))
    scores = rng.normal(size=(len(tiers), 60)) * 3
    most = max(len(tier) for tier in tiers)
    bounds = torch.zeros(len(tiers), most, 2, dtype=torch.long)
    for number, tier in enumerate(tiers):
        segments = [Segment(start=start, end=end, label="x") for start, end in tier]
        bounds[number, : len(tier)] = frame_bounds(segments, encoder(), frames=int(lengths[number]))
    pooled = pool_segments(torch.from_numpy(frames), bounds, kind=kind, scores=torch.from_numpy(scores))
    assert pooled.shape == (len(tiers), most, 6 if kind == "mean+std" else 3)
    for number, tier in enumerate(tiers):
        if tier:
            found = bounds[number, : len(tier)].tolist()
            expected = plain(frames[number], found, kind, scores[number])
            np.testing.assert_allclose(pooled[number, : len(tier)], expected, atol=1e-9)
        assert not pooled[number, len(tier) :].any()


@given(start=TIMES, end=TIMES, frames=st.integers(1, 80), offset=st.sampled_from([0, -200]))
def test_a_segment_holds_the_frames_whose_centre_lies_in_it(start: float, end: float, frames: int, offset: int) -> None:
    start, end = sorted((start, end))
    one = encoder(offset=offset)
    [[first, last]] = frame_bounds([Segment(start=start, end=end, label="x")], one, frames=frames).tolist()
    centres = [one.frame_centre(frame) for frame in range(frames)]
    inside = [frame for frame, centre in enumerate(centres) if start - 1e-9 <= centre < end - 1e-9]
    if inside:
        assert list(range(first, last)) == inside
    else:
        middle = (start + end) / 2
        assert last == first + 1
        assert abs(centres[first] - middle) <= min(abs(centre - middle) for centre in centres) + 1e-6


def test_attention_within_a_segment_needs_scores() -> None:
    with pytest.raises(ValueError, match="scores"):
        pool_segments(torch.zeros(1, 3, 2), torch.tensor([[[0, 2]]]), kind="attentive")


def test_the_mean_commutes_with_the_sum_over_layers() -> None:
    """So that segments of all layers can be stored and mixed afterwards."""
    rng = np.random.default_rng(0)
    layers, weights = torch.from_numpy(rng.normal(size=(5, 40, 3))), torch.from_numpy(rng.dirichlet(np.ones(5)))
    bounds = torch.tensor([[0, 7], [7, 9], [30, 40]])
    mixed_first = pool_segments(torch.einsum("l,ltw->tw", weights, layers)[None], bounds[None])[0]
    pooled_first = torch.einsum("l,lsw->sw", weights, pool_segments(layers, bounds.expand(5, -1, -1)))
    np.testing.assert_allclose(mixed_first, pooled_first, atol=1e-12)
