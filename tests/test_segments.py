"""Frames pooled over words, syllables and phones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from emofuse import experiment, load
from emofuse.align.sphinx import SphinxAligner
from emofuse.align.table import read_alignments
from emofuse.audio import load_audio
from emofuse.checkpoint import load_checkpoint
from emofuse.corpora import read_corpus
from emofuse.encoders import load_speech_encoder, load_text_encoder
from emofuse.errors import AlignmentError
from emofuse.experiment import extract, run, train
from emofuse.features.extract import extract_speech, extract_text
from emofuse.features.segments import SegmentPooling, frame_bounds, pool_segments
from emofuse.manifest import make_manifest
from emofuse.plan import Plan, resolve
from emofuse.protocols import make_protocol
from emofuse.recipe import Recipe, recipe_from
from emofuse.scoring.table import read_scores
from emofuse.settings import SpeechSettings, TextSettings
from emofuse.testing import tiny_corpus, tiny_text_encoder, tone
from emofuse.types import TIERS, Alignment, EncoderSpecification, Segment

pytestmark = pytest.mark.usefixtures("no_report")

KINDS = get_args(SegmentPooling)


def encoder(**changes: Any) -> EncoderSpecification:
    values: dict[str, Any] = {
        "name": "w", "family": "wav2vec2", "modality": "speech", "revision": "1", "layers": 1, "selected": (0,),
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
MADE = st.lists(st.tuples(TIMES, TIMES).map(sorted), max_size=8)


@given(tiers=st.lists(MADE, min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS))
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


def test_attention_within_segments_has_the_gradient_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(2, 9, 3, generator=generator, dtype=torch.double)
    scores = torch.randn(2, 9, generator=generator, dtype=torch.double) * 4
    # More than a power can hold, of all frames of a segment and of one of them.
    scores[0] += 1000
    scores[1, 5] += 2000
    # Overlaps, a gap, one frame, all of them, and padding.
    bounds = torch.tensor([[[0, 5], [3, 7], [8, 9], [0, 9]], [[2, 3], [4, 8], [0, 0], [0, 0]]], dtype=torch.int32)
    weight = torch.randn(2, 4, 3, generator=generator, dtype=torch.double)

    def loop(frames: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.stack([
            sum((scores[row, first:last].softmax(0)[:, None] * frames[row, first:last]).unbind(), torch.zeros(3))
            for row in range(2) for first, last in bounds[row].tolist()
        ]).reshape(2, 4, 3)  # fmt: skip

    found = []
    for pool in (loop, lambda frames, scores: pool_segments(frames, bounds, kind="attentive", scores=scores)):
        inputs = [one.clone().requires_grad_() for one in (frames, scores)]
        pooled = pool(*inputs)
        found.append([pooled.detach(), *torch.autograd.grad((pooled * weight).sum(), inputs)])
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected)


def test_attention_within_segments_keeps_no_more_than_grows_with_them() -> None:
    def kept(count: int) -> int:
        held: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
            return tensor

        frames, scores = torch.zeros(2, count, 8, requires_grad=True), torch.zeros(2, count, requires_grad=True)
        single = torch.arange(count)
        bounds = torch.stack([single, single + 1], dim=-1).expand(2, -1, -1)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            pool_segments(frames, bounds, kind="attentive", scores=scores).sum()
        return sum(held.values())

    assert kept(400) < 2.5 * kept(200)


class Largest(TorchDispatchMode):
    """The most numbers that any operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.size = max(self.size, *(one.numel() for one in tree_leaves(found) if isinstance(one, torch.Tensor)), 0)
        return found


@pytest.mark.parametrize("kind", KINDS)
def test_one_long_segment_among_many_takes_no_more_room_than_its_frames(kind: SegmentPooling) -> None:
    single = torch.arange(1000)
    bounds = torch.cat([torch.stack([single, single + 1], dim=-1), torch.tensor([[0, 1000]])])[None]
    with Largest() as largest:
        pool_segments(torch.zeros(1, 1000, 8), bounds, kind=kind, scores=torch.zeros(1, 1000))
    assert 1000 * 8 < largest.size < 4 * 1000 * 8


def test_the_mean_commutes_with_the_sum_over_layers() -> None:
    """So that segments of all layers can be stored and mixed afterwards."""
    rng = np.random.default_rng(0)
    layers, weights = torch.from_numpy(rng.normal(size=(5, 40, 3))), torch.from_numpy(rng.dirichlet(np.ones(5)))
    bounds = torch.tensor([[0, 7], [7, 9], [30, 40]])
    mixed_first = pool_segments(torch.einsum("l,ltw->tw", weights, layers)[None], bounds[None])[0]
    pooled_first = torch.einsum("l,lsw->sw", weights, pool_segments(layers, bounds.expand(5, -1, -1)))
    np.testing.assert_allclose(mixed_first, pooled_first, atol=1e-12)


# In the store


@pytest.fixture
def spoken(clips: list[dict[str, Any]]) -> Any:
    """Three utterances: two with the same audio, and their alignments, one of which failed."""
    words = (Segment(start=0.1, end=0.5, label="so"), Segment(start=0.5, end=0.9, label="good"))
    other = (Segment(start=0.2, end=0.7, label="so"),)
    alignments = {
        "u0": Alignment(utterance="u0", tiers={"word": words}, source="test"),
        "u1": Alignment(utterance="u1", tiers={"word": other}, source="test"),
        "u2": Alignment(utterance="u2", tiers={}, source="test", problem="no words were recognised"),
    }
    return make_manifest(clips, source="test"), alignments


@pytest.mark.parametrize("kind", ["mean", "max", "mean+std"])
def test_segments_are_stored_and_frames_where_there_are_none(spoken: Any, tmp_path: Path, kind: Any) -> None:
    manifest, alignments = spoken
    settings = SpeechSettings(encoder="logmel", frames_per_step=4, segments=kind)
    one = load_speech_encoder(settings)
    done = extract_speech(
        manifest, one, settings, store=tmp_path / "store", granularities=("frame", "word", "utterance"),
        alignments=alignments,
    )  # fmt: skip
    for row in manifest.itertuples():
        frames = one.encode([load_audio(row.audio)])[0].numpy()
        stored = done.feature_sets["word"].read(done.keys[row.utterance])
        tiers = alignments[row.utterance].tiers
        if tiers:
            bounds = frame_bounds(tiers["word"], one.specification, frames=frames.shape[1]).tolist()
            expected = np.stack([plain(layer, bounds, kind, None) for layer in frames])
        else:
            runs = [frames[:, start : start + 4].mean(1) for start in range(0, frames.shape[1], 4)]
            expected = np.stack(runs, 1)
            if kind == "mean+std":
                expected = np.concatenate([expected, np.zeros_like(expected)], -1)
        np.testing.assert_allclose(stored, expected, rtol=2.0**-10, atol=1e-3)
        whole = np.stack([plain(layer, [(0, frames.shape[1])], kind, None) for layer in frames])
        np.testing.assert_allclose(
            done.feature_sets["utterance"].read(done.keys[row.utterance]), whole, rtol=2.0**-10, atol=1e-3
        )
    # Frames do not depend on the alignment, so equal recordings share them.
    assert len(done.feature_sets["frame"]) == 2
    assert len(done.feature_sets["word"]) == 3


def test_another_alignment_makes_other_segments_and_keeps_the_frames(spoken: Any, tmp_path: Path) -> None:
    manifest, alignments = spoken
    settings = SpeechSettings(encoder="logmel")

    def extract_with(found: Any) -> Any:
        return extract_speech(
            manifest, load_speech_encoder(settings), settings, store=tmp_path / "store",
            granularities=("frame", "word"), alignments=found,
        )  # fmt: skip

    first = extract_with(alignments)
    assert extract_with(alignments).computed == 0
    moved = (Segment(start=0.3, end=0.6, label="so"),)
    again = extract_with({**alignments, "u0": Alignment(utterance="u0", tiers={"word": moved}, source="test")})
    assert again.computed == 1
    assert len(again.feature_sets["frame"]) == len(first.feature_sets["frame"]) == 2
    assert again.feature_sets["word"].steps(again.keys["u0"]) == 1


def test_subwords_are_averaged_to_the_words_between_spaces(tmp_path: Path) -> None:
    folder = tiny_text_encoder(tmp_path / "bert", family="bert")
    settings = TextSettings(encoder=str(folder))
    one = load_text_encoder(settings)
    text = "I'm so  very-good !"
    [words] = one.word_of_tokens([text])
    tokens = one.encode([text])[0].numpy()
    assert words[0] is None
    assert words[-1] is None
    assert sorted(set(words[1:-1])) == [0, 1, 2, 3]  # type: ignore[type-var]
    manifest = make_manifest([{"utterance": "a", "text": text}], source="test")
    done = extract_text(manifest, one, settings, store=tmp_path / "store", granularities=("token", "word"))
    expected = [tokens[:, 0]]
    expected += [tokens[:, [place for place, found in enumerate(words) if found == word]].mean(1) for word in range(4)]
    expected.append(tokens[:, -1])
    stored = done.feature_sets["word"].read(done.keys["a"])
    np.testing.assert_allclose(stored, np.stack(expected, 1), rtol=2.0**-10, atol=1e-3)


def make_recipe(*models: str, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "segments",
        "models": list(models),
        "seeds": [0],
        "speech": {"encoder": "logmel"},
        "text": {"encoder": "words"},
        "model": {"width": 8},
        "train": {"epochs": 1},
        "protocol": {"kind": "speaker", "validation_groups": 1},
    }
    return recipe_from({**values, **changes}, source="the test")


def make_plan(*models: str, **changes: Any) -> Plan:
    return resolve(make_recipe(*models, **changes))


@pytest.mark.parametrize("model", ["early-word", "early-joint", "concat"])
def test_a_model_that_reads_segments_predicts_as_it_was_scored(model: str, tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path / "corpus", utterances=1)
    manifest = read_corpus("table", corpus).manifest
    # Labelled with the words of the text, which are compared.
    alignments = {}
    for name, text in list(zip(manifest["utterance"], manifest["text"], strict=True))[1:]:
        words = str(text).split()
        edges = np.linspace(0.05, 0.33, len(words) + 1).round(4).tolist()
        spans = tuple(Segment(start=a, end=b, label=word) for word, a, b in zip(words, edges, edges[1:], strict=False))
        alignments[name] = Alignment(utterance=name, tiers=dict.fromkeys(TIERS, spans), source="test")
    bert = tiny_text_encoder(tmp_path / "bert", family="bert")
    speech = {"encoder": "logmel", "segments": "mean" if model == "early-joint" else "mean+std"}
    plan = make_plan(model, text={"encoder": str(bert)}, speech=speech, train={"epochs": 2})
    features = extract(manifest, plan, tmp_path / "store", alignments=alignments)
    outcome = train(manifest, plan, features, tmp_path / "run", jobs=1)
    predictor = load(outcome.out / "models" / model)
    data = experiment.training_data(manifest, plan, make_protocol(manifest, plan.protocol), features)
    network: Any = load_checkpoint(outcome.out / "models" / model).model
    names = list(manifest["utterance"][:4])
    with torch.no_grad():
        batches = [data.dataset(plan.models[0], [name], None).batch([0]) for name in names]
        expected = [network(batch).logits.softmax(-1)[0] for batch in batches]
    for name, posterior in zip(names, expected, strict=True):
        row = manifest.set_index("utterance").loc[name]
        none = Alignment(utterance=name, tiers={}, source="test")
        found = predictor.predict(row["audio"], text=row["text"], alignment=alignments.get(name, none))
        assert list(found.posteriors.values()) == pytest.approx(posterior.tolist(), abs=1e-5)
        if model != "concat":
            with pytest.raises(AlignmentError, match="trained with boundaries from test files, which cannot be made"):
                predictor.predict(row["audio"], text=row["text"])


PARTS = ("speech", "text", "early-frame", "early-phone", "early-syllable", "early-word")
ENSEMBLES = [
    {"name": "multi-granularity", "of": list(PARTS[2:])},
    {"name": "late", "of": list(PARTS[:2]), "rule": "product"},
    {"name": "multi-level", "of": ["multi-granularity", "late"], "calibrate": True},
]


@pytest.fixture(scope="module")
def multi_level(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The whole chain on a small corpus, to the paper's final system."""
    folder = tmp_path_factory.mktemp("multi-level")
    corpus = tiny_corpus(folder / "corpus", speakers=3, utterances=1)
    # Sphinx finds these words in beeps, and not those of the corpus.
    pd.read_csv(corpus).assign(text="Hello there").to_csv(corpus, index=False)
    return folder, run(
        make_recipe(
            *("concat", "early-joint", *PARTS),
            ensembles=ENSEMBLES,
            controls=False,
            speech={"encoder": "logmel", "frames_per_step": 5},
        ),
        *("table", corpus, folder / "run"),
        jobs=1,
    )


def test_a_run_aligns_and_fuses_to_the_final_system(multi_level: tuple[Path, Any]) -> None:
    folder, outcome = multi_level
    scores = read_scores(folder / "run" / "scores.parquet")
    everything = {*PARTS, "concat", "early-joint", "multi-granularity", "late", "multi-level"}
    assert set(scores.models) == everything
    assert set(outcome.result.fused) == {"multi-granularity", "late", "multi-level"}
    alignments = read_alignments(folder / "run" / "alignments.parquet")
    count = outcome.result.alignment.utterances
    assert count == len(alignments) == 12
    fractions = {tier: sum(bool(one.tiers.get(tier)) for one in alignments.values()) for tier in TIERS}
    assert outcome.result.alignment.aligned == fractions
    assert any("aligned by word" in note for note in outcome.result.notes)
    kept = {path.name for path in (folder / "run" / "models").iterdir()}
    assert kept == everything


def test_a_model_that_reads_segments_aligns_what_it_is_asked_about(multi_level: tuple[Path, Any]) -> None:
    folder, _ = multi_level
    predictor = load(folder / "run" / "models" / "early-joint")
    clip = tone(1.0, seed=0)
    tiers = SphinxAligner().align(clip, "Hello there")
    given = Alignment(utterance="a", tiers=tiers, source="sphinx")
    asked = predictor.predict(clip, text="Hello there")
    assert asked.posteriors == predictor.predict(clip, text="Hello there", alignment=given).posteriors
    nothing = Alignment(utterance="a", tiers={}, source="test")
    assert asked.posteriors != predictor.predict(clip, text="Hello there", alignment=nothing).posteriors
    assert any("not aligned" in note for note in predictor.predict(clip, text="...").notes)


def test_segments_without_an_alignment_are_refused(tmp_path: Path) -> None:
    manifest = read_corpus("table", tiny_corpus(tmp_path / "corpus", utterances=1)).manifest
    with pytest.raises(AlignmentError, match="no alignment is given"):
        extract(manifest, make_plan("early-word"), tmp_path / "store")


def test_coverage_is_that_of_the_manifest_not_of_the_table(tmp_path: Path) -> None:
    manifest = read_corpus("table", tiny_corpus(tmp_path / "corpus", utterances=1)).manifest
    plan = make_plan("early-word")
    first = str(manifest["utterance"].iloc[0])
    one = Alignment(utterance=first, tiers={"word": (Segment(start=0.0, end=0.2, label="x"),)}, source="test")
    found = extract(manifest, plan, tmp_path / "store", alignments={first: one, "elsewhere": one}).alignment
    assert found is not None
    assert (found.utterances, found.aligned["word"]) == (len(manifest), 1)
    assert [len(names) for names in found.problems.values()] == [len(manifest) - 1]
    with pytest.raises(AlignmentError, match="no utterance of the manifest"):
        extract(manifest, plan, tmp_path / "store", alignments={"elsewhere": one})


def test_a_kept_model_records_who_aligned_its_training(multi_level: tuple[Path, Any]) -> None:
    folder, outcome = multi_level
    counts = outcome.result.alignment.sources
    assert set(counts) == {"sphinx"}
    for name in ("early-joint", "multi-level"):
        assert load_checkpoint(folder / "run" / "models" / name).alignment == counts


def test_a_run_takes_alignments_that_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = tiny_corpus(tmp_path / "corpus", utterances=1)
    names = list(read_corpus("table", corpus).manifest["utterance"])
    word = Segment(start=0.05, end=0.2, label="x")
    given_ = {name: Alignment(utterance=name, tiers={"word": (word,)}, source="mfa") for name in names}
    recipe = make_recipe(
        "early-word",
        text={"encoder": "words", "max_tokens": 4},
        protocol={"kind": "speakers", "folds": 2, "validation_groups": 1},
    )
    monkeypatch.setattr(experiment, "align", lambda *_, **__: pytest.fail("it must not align"))
    outcome = run(recipe, "table", corpus, tmp_path / "run", alignments=given_, jobs=1)
    assert outcome.result.alignment.sources == {"mfa": len(names)}
    assert load_checkpoint(tmp_path / "run" / "models" / "early-word").alignment == {"mfa": len(names)}
    assert any("longer than the 4 tokens that are read" in note for note in outcome.result.notes)
    with pytest.raises(AlignmentError, match="no utterance of the manifest"):
        run(recipe, "table", corpus, tmp_path / "other", alignments={"x": given_[names[0]]}, jobs=1)
    assert not (tmp_path / "other" / "features").exists()
