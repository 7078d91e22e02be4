"""Batches, pooling and padding against plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emofuse.errors import StoreError
from emofuse.features.batching import padding_fraction, plan_batches
from emofuse.features.dataset import Dataset, feature_reader, fit_statistics, pad
from emofuse.features.pooling import pool_frames
from emofuse.features.store import FeatureKey, FeatureSet
from emofuse.types import EncoderSpecification

sizes_of_clips = st.lists(st.floats(0.01, 40.0), max_size=40)
few = settings(deadline=None, derandomize=True, max_examples=60)


@few
@given(sizes=sizes_of_clips, budget=st.floats(0.1, 100.0))
def test_batches_cover_each_item_once_within_the_budget(sizes: list[float], budget: float) -> None:
    groups = plan_batches(sizes, budget=budget)
    assert sorted(index for group in groups for index in group) == list(range(len(sizes)))
    for group in groups:
        assert len(group) == 1 or max(sizes[index] for index in group) * len(group) <= budget
    assert groups == plan_batches(list(sizes), budget=budget)
    longest = [max(sizes[index] for index in group) for group in groups]
    assert longest == sorted(longest, reverse=True)


@few
@given(sizes=sizes_of_clips, budget=st.floats(0.1, 100.0))
def test_a_batch_is_closed_only_when_the_next_clip_does_not_fit(sizes: list[float], budget: float) -> None:
    groups = plan_batches(sizes, budget=budget)
    for group in groups[:-1]:
        assert max(sizes[index] for index in group) * (len(group) + 1) > budget


def test_no_more_padding_than_in_the_order_given() -> None:
    sizes = np.random.default_rng(0).gamma(4.0, 1.1, 2000).tolist()
    given = [list(range(start, start + 10)) for start in range(0, len(sizes), 10)]
    assert padding_fraction(sizes, plan_batches(sizes, budget=60.0)) < 0.05 < padding_fraction(sizes, given)


@few
@given(sizes=sizes_of_clips, budget=st.floats(0.1, 100.0))
def test_the_padding_fraction_is_that_of_a_plain_loop(sizes: list[float], budget: float) -> None:
    groups = plan_batches(sizes, budget=budget)
    padding = volume = 0.0
    for group in groups:
        longest = max(sizes[index] for index in group)
        for index in group:
            padding += longest - sizes[index]
            volume += longest
    assert padding_fraction(sizes, groups) == pytest.approx(padding / volume if volume else 0.0, abs=1e-9)


@st.composite
def frames(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 30), st.integers(1, 5)))
    return torch.from_numpy(np.random.default_rng(draw(st.integers(0, 10**6))).standard_normal(shape))


@few
@given(values=frames(), run=st.integers(1, 35))
def test_pooling_is_that_of_a_plain_loop(values: torch.Tensor, run: int) -> None:
    layers, count, width = values.shape
    pooled = pool_frames(values, granularity="frame", frames_per_step=run)
    whole = pool_frames(values, granularity="utterance", frames_per_step=run)
    assert pooled.shape == (layers, -(-count // run), width)
    assert whole.shape == (layers, 1, width)
    for layer in range(layers):
        for column in range(width):
            track = values[layer, :, column].tolist()
            assert whole[layer, 0, column].item() == pytest.approx(sum(track) / count)
            for step in range(pooled.shape[1]):
                part = track[step * run : (step + 1) * run]
                assert pooled[layer, step, column].item() == pytest.approx(sum(part) / len(part))


@few
@given(values=frames(), run=st.integers(1, 35), seed=st.integers(0, 1000))
def test_pooling_commutes_with_a_mix_of_layers(values: torch.Tensor, run: int, seed: int) -> None:
    weights = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(len(values))))
    for granularity in ("frame", "utterance"):
        pooled_last = pool_frames(
            torch.einsum("l,ltw->tw", weights, values)[None], granularity=granularity, frames_per_step=run
        )
        pooled_first = pool_frames(values, granularity=granularity, frames_per_step=run)
        torch.testing.assert_close(torch.einsum("l,lsw->sw", weights, pooled_first)[None], pooled_last)


@few
@given(items=st.lists(frames(), min_size=1, max_size=5), half=st.booleans())
def test_padding_keeps_every_step_and_the_mask_says_which(items: list[torch.Tensor], half: bool) -> None:
    items = [item[:1, :, :1].to(torch.float16 if half else torch.float32) for item in items]
    values, mask = pad(items)
    longest = max(item.shape[1] for item in items)
    assert values.shape == (len(items), 1, longest, 1)
    assert values.dtype == torch.float32
    assert mask.dtype == torch.bool
    for number, item in enumerate(items):
        for step in range(longest):
            inside = step < item.shape[1]
            assert bool(mask[number, step]) == inside
            assert values[number, 0, step, 0].item() == (item[0, step, 0].item() if inside else 0.0)


def test_ids_are_padded_as_whole_numbers() -> None:
    values, mask = pad([torch.tensor([4, 5, 6]), torch.tensor([7]), torch.tensor([8, 9])])
    assert values.dtype == torch.long
    assert values.tolist() == [[4, 5, 6], [7, 0, 0], [8, 9, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]


def dataset(count: int, *, seed: int = 0) -> Dataset:
    generator = np.random.default_rng(seed)
    speech = {
        f"u{n}": torch.from_numpy(3 + 2 * generator.standard_normal((2, int(generator.integers(1, 9)), 3))).float()
        for n in range(count)
    }
    text = {name: torch.arange(1, 2 + int(generator.integers(1, 5))) for name in speech}
    labels = {name: number % 3 for number, name in enumerate(speech)}
    return Dataset(list(speech), labels, {"speech": speech.__getitem__, "text": text.__getitem__})


@few
@given(count=st.integers(1, 23), size=st.integers(1, 9))
def test_batches_hold_each_utterance_once_with_its_own_features(count: int, size: int) -> None:
    data = dataset(count)
    seen: list[str] = []
    for batch in data.batches(size):
        assert 1 <= len(batch.names) <= size
        for place, name in enumerate(batch.names):
            assert batch.truth[place].item() == int(name[1:]) % 3
            for modality, axis in (("speech", 1), ("text", 0)):
                expected = data.readers[modality](name)
                whole, masks = batch.of(modality)
                values, mask = whole[place], masks[place]
                assert mask.sum().item() == expected.shape[axis]
                torch.testing.assert_close(values[:, mask] if axis else values[mask], expected, rtol=0, atol=0)
        seen += batch.names
    assert tuple(seen) == data.names


def test_two_datasets_add_up() -> None:
    whole = dataset(7)
    labels = {name: int(label) for name, label in zip(whole.names, whole.truth, strict=True)}
    both = Dataset(whole.names[:3], labels, whole.readers) + Dataset(whole.names[3:], labels, whole.readers)
    assert both.names == whole.names
    assert both.truth.tolist() == whole.truth.tolist()
    assert len(both) == 7


@few
@given(count=st.integers(1, 12), seed=st.integers(0, 100))
def test_statistics_are_those_of_all_steps_together(count: int, seed: int) -> None:
    data = dataset(count, seed=seed)
    steps = np.concatenate([data.readers["speech"](name).numpy() for name in data.names], axis=1).astype(np.float64)
    mean, deviation = fit_statistics(data, "speech")
    assert mean.shape == deviation.shape == (2, 3)
    np.testing.assert_allclose(mean.numpy(), steps.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(deviation.numpy(), steps.std(1), rtol=1e-5, atol=1e-5)


def test_statistics_of_constant_features_have_no_spread() -> None:
    data = Dataset(["a", "b"], {"a": 0, "b": 1}, {"speech": lambda name: torch.full((2, 5, 3), 1234.567)})
    mean, deviation = fit_statistics(data, "speech")
    np.testing.assert_allclose(mean.numpy(), np.full((2, 3), 1234.567), rtol=1e-6)
    assert float(deviation.max()) < 1e-3


def test_a_reader_gives_what_the_store_holds_and_names_who_is_missing(tmp_path: Path) -> None:
    specification = EncoderSpecification(
        name="x", family="x", modality="speech", revision="1", layers=2, selected=(0, 1), width=3
    )
    feature_set = FeatureSet(tmp_path, FeatureKey(specification=specification, granularity="frame"))
    values = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
    feature_set.write({"key": values})
    read = feature_reader(feature_set, {"one": "key", "lost": "other"})
    np.testing.assert_array_equal(read("one").float().numpy(), values.astype(np.float16).astype(np.float32))
    with pytest.raises(StoreError, match=r"utterance 'two' has no features; run `emofuse extract`"):
        read("two")
    with pytest.raises(StoreError, match="are missing"):
        read("lost")
