"""Segments whose frames the model weighs itself: `speech.segments=attentive`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emofuse import experiment
from emofuse.align.sphinx import SphinxAligner
from emofuse.audio import load_audio
from emofuse.checkpoint import load_checkpoint
from emofuse.corpora import read_corpus
from emofuse.cost import estimate
from emofuse.encoders import load_speech_encoder
from emofuse.errors import SettingsError
from emofuse.experiment import Features, extract, run, train
from emofuse.features.dataset import Batch, Dataset
from emofuse.features.extract import extract_speech, features_of
from emofuse.features.segments import frame_bounds
from emofuse.finetune.run import finetune
from emofuse.inference.predictor import load
from emofuse.manifest import make_manifest
from emofuse.models import model_class
from emofuse.models.base import EmotionModel, Shapes
from emofuse.models.ensemble import Ensemble
from emofuse.models.frontend import InputShape, LayerMix, SegmentMix
from emofuse.models.unimodal import SpeechModel
from emofuse.plan import Plan, resolve
from emofuse.protocols import make_protocol
from emofuse.recipe import Recipe, load_recipe
from emofuse.settings import SpeechSettings
from emofuse.task import Classification
from emofuse.testing import tiny_corpus, tone
from emofuse.training.data import TrainingData
from emofuse.training.folder import TRIALS
from emofuse.training.loop import predict_scores
from emofuse.training.processes import Processes
from emofuse.training.trials import Trial, is_done
from emofuse.types import TIERS, Alignment, EncoderSpecification, Segment

pytestmark = pytest.mark.usefixtures("no_report")

LAYERS, WIDTH = 3, 4
TASK = Classification(("angry", "happy", "sad"))
READERS = ("speech", "concat", "early-word")


# The network


@st.composite
def clips(draw: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Frames and bounds of some utterances: gaps, overlaps, single frames, a long segment beside short ones."""
    found = []
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    for _ in range(draw(st.integers(1, 4))):
        frames = draw(st.integers(1, 30))
        firsts = draw(st.lists(st.integers(0, frames - 1), min_size=1, max_size=7))
        bounds = [[first, draw(st.integers(first + 1, frames))] for first in firsts]
        found.append((torch.randn(LAYERS, frames, WIDTH, generator=generator).double(), torch.tensor(bounds)))
    return found


def dataset(found: list[tuple[torch.Tensor, torch.Tensor]]) -> Dataset:
    names = [f"u{number}" for number in range(len(found))]
    items = dict(zip(names, found, strict=True))
    return Dataset(
        names, dict.fromkeys(names, 0),
        {"speech": lambda name: items[name][0].float(), "text": lambda name: torch.arange(1, 3 + int(name[1:]))},
        bounds=lambda name: items[name][1],
    )  # fmt: skip


def spread(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.6)
    for one in module.modules():
        if isinstance(one, LayerMix):
            mean, deviation = torch.randn(LAYERS, WIDTH, generator=generator), torch.rand(LAYERS, WIDTH) + 0.5
            one.standardise_by(mean, deviation)


def model(name: str) -> EmotionModel:
    kind, shapes = model_class(name), Shapes(speech=InputShape(LAYERS, WIDTH, segments=True), text=InputShape(0, 20))
    made = kind(kind.Settings.model_validate({"width": 8}), shapes, TASK).eval()
    spread(made)
    return made


@settings(deadline=None, max_examples=40)
@given(found=clips())
def test_frames_are_weighed_as_in_a_loop_over_segments(found: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    mix = SegmentMix(LAYERS, WIDTH)
    spread(mix)
    batch = dataset(found).batch(range(len(found)))
    values, mask = batch.of("speech")
    pooled = mix(values, batch.speech_bounds).detach()
    assert pooled.shape[:2] == mask.shape
    own = {name: value.double().numpy() for name, value in mix.state_dict().items()}
    fractions = np.exp(own["scores"]) / np.exp(own["scores"]).sum()
    for number, (frames, bounds) in enumerate(found):
        standard = (frames.numpy() - own["mean"][:, None]) / (own["deviation"][:, None] + 1e-5)
        mixed = sum(one * layer for one, layer in zip(fractions, standard, strict=True))
        for place, (first, last) in enumerate(bounds.tolist()):
            powers = [np.exp(own["frame_score.weight"][0] @ mixed[frame]) for frame in range(first, last)]
            expected = sum(power * mixed[first + step] for step, power in enumerate(powers)) / sum(powers)
            np.testing.assert_allclose(pooled[number, place], expected, rtol=1e-4, atol=1e-5)
        assert mask[number].tolist() == [place < len(bounds) for place in range(pooled.shape[1])]
        assert not pooled[number, len(bounds) :].any()


@pytest.mark.parametrize("name", READERS)
@settings(deadline=None, max_examples=10)
@given(found=clips())
def test_an_answer_does_not_depend_on_what_it_is_batched_with(
    name: str, found: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    made, data = model(name), dataset(found)
    with torch.no_grad():
        together = made(data.batch(range(len(found)))).logits
        alone = torch.cat([made(data.batch([place])).logits for place in range(len(found))])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", READERS)
def test_gradients_reach_the_scores(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    frames = [torch.randn(LAYERS, count, WIDTH, generator=generator) for count in (9, 5)]
    # The second has a segment of padding, over which a softmax is no number.
    bounds = [torch.tensor([[0, 4], [4, 9]]), torch.tensor([[1, 4]])]
    made = model(name)
    made(dataset(list(zip(frames, bounds, strict=True))).batch([0, 1])).logits[:, 0].sum().backward()
    [gradient] = [one.grad for name, one in made.named_parameters() if name.endswith("frame_score.weight")]
    assert gradient is not None
    assert gradient.abs().max() > 1e-6
    assert all(one.grad is None or one.grad.isfinite().all() for one in made.parameters())


def test_one_segment_over_the_clip_is_attentive_pooling_of_its_frames() -> None:
    def speech(*, segments: bool, pooling: Any) -> SpeechModel:
        shapes = Shapes(speech=InputShape(LAYERS, WIDTH, segments=segments))
        return SpeechModel(SpeechModel.Settings(width=8, pooling=pooling), shapes, TASK).eval()

    pooling, segments = speech(segments=False, pooling="attentive"), speech(segments=True, pooling="mean")
    spread(pooling)
    weights = pooling.state_dict()
    weights["frontend.mix.frame_score.weight"] = weights.pop("pooling.score.weight")
    del weights["pooling.score.bias"]
    segments.load_state_dict(weights)
    frames = torch.randn(2, LAYERS, 7, WIDTH, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([7, 4])
    mask = torch.arange(7) < lengths[:, None]
    bounds = torch.stack([torch.zeros(2, dtype=torch.long), lengths], dim=-1)[:, None]
    torch.testing.assert_close(
        segments(Batch(speech=frames, speech_mask=torch.ones(2, 1).bool(), speech_bounds=bounds)).logits,
        pooling(Batch(speech=frames, speech_mask=mask)).logits,
    )


def test_a_model_without_its_bounds_says_what_it_needs() -> None:
    with pytest.raises(SettingsError, match="needs the bounds of segments; pass speech_bounds="):
        model("speech")(Batch(speech=torch.zeros(1, LAYERS, 5, WIDTH), speech_mask=torch.ones(1, 5).bool()))


# The store


@pytest.fixture
def spoken(clips: list[dict[str, Any]]) -> tuple[pd.DataFrame, dict[str, Alignment]]:
    """Three utterances: two with the same audio, and their alignments, one of which failed."""
    words = (Segment(start=0.1, end=0.5, label="so"), Segment(start=0.5, end=0.9, label="good"))
    tiers: list[dict[Any, Any]] = [{"word": words}, {"word": words[:1]}, {}]
    return make_manifest(clips, source="test"), {
        f"u{number}": Alignment(utterance=f"u{number}", tiers=one, source="test") for number, one in enumerate(tiers)
    }


@pytest.mark.parametrize("run_length", [1, 4])
def test_every_frame_is_stored_once_and_bounds_are_those_of_the_alignment(
    run_length: int, spoken: Any, tmp_path: Path
) -> None:
    manifest, alignments = spoken
    how = SpeechSettings(encoder="logmel", frames_per_step=run_length, segments="attentive")
    one = load_speech_encoder(how)
    done = extract_speech(
        manifest, one, how, store=tmp_path / "store", granularities=("frame", "phone", "utterance", "word"),
        alignments=alignments,
    )  # fmt: skip
    folders = {name: feature_set.folder for name, feature_set in done.feature_sets.items()}
    assert folders["word"] == folders["phone"] == folders["utterance"]
    assert (folders["frame"] == folders["word"]) == (run_length == 1)
    assert len([path for path in (tmp_path / "store").iterdir() if path.is_dir()]) == (1 if run_length == 1 else 2)
    assert len(done.feature_sets["word"]) == 2
    for row in manifest.itertuples():
        key, frames = done.keys[row.utterance], one.encode([load_audio(row.audio)])[0]
        np.testing.assert_allclose(done.feature_sets["word"].read(key), frames, rtol=2.0**-10, atol=1e-3)
        words = alignments[row.utterance].tiers.get("word")
        count = frames.shape[1]
        runs = [[start, min(start + run_length, count)] for start in range(0, count, run_length)]
        expected = frame_bounds(words, one.specification, frames=count).tolist() if words else runs
        assert done.bounds["word"][key].tolist() == expected
        assert done.bounds["phone"][key].tolist() == runs
        assert done.bounds["utterance"][key].tolist() == [[0, count]]


def test_frames_that_are_stored_are_found_whatever_they_were_stored_for(spoken: Any, tmp_path: Path) -> None:
    manifest, alignments = spoken
    plain = SpeechSettings(encoder="logmel")
    one = load_speech_encoder(plain)
    store = tmp_path / "store"
    assert extract_speech(manifest, one, plain, store=store, granularities=("frame",)).computed == 2
    learned = plain.model_copy(update={"segments": "attentive"})
    again = extract_speech(manifest, one, learned, store=store, granularities=("word",), alignments=alignments)
    assert again.computed == 0
    moved = {**alignments, "u2": replace(alignments["u2"], tiers=alignments["u0"].tiers)}
    other = extract_speech(manifest, one, learned, store=store, granularities=("word",), alignments=moved)
    assert other.computed == 0
    assert other.bounds["word"][other.keys["u2"]].tolist() == again.bounds["word"][again.keys["u0"]].tolist()
    assert other.keys["u2"] != again.keys["u2"]


# The whole chain


@dataclass(frozen=True)
class Made:
    """A run on features whose frames the models weigh."""

    manifest: pd.DataFrame
    alignments: dict[str, Alignment]
    recipe: Recipe
    plan: Plan
    features: Features
    data: TrainingData
    out: Path
    corpus: Path


OVERRIDES = (
    "speech.segments=attentive", "speech.encoder=logmel", "text.encoder=words", "model.width=8",
    "seeds=[0]", "train.epochs=2", "protocol.kind=speaker", "protocol.validation_groups=1",
)  # fmt: skip
TRAINED = ("speech", "text", "concat", "early-frame", "early-phone", "early-word", "early-joint")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("attentive")
    corpus = tiny_corpus(folder / "corpus", utterances=1)
    manifest = read_corpus("table", corpus).manifest
    alignments = {}
    for name, text in zip(manifest["utterance"][1:], manifest["text"][1:], strict=True):
        first, *others = text.split()
        tiers = {
            tier: (
                Segment(start=0.05, end=0.05 + 0.03 * (1 + number), label=first),
                *(Segment(start=0.2 + 0.04 * place, end=0.24 + 0.04 * place, label=one)
                  for place, one in enumerate(others)),
            )
            for number, tier in enumerate(TIERS)
        }  # fmt: skip
        alignments[name] = Alignment(utterance=name, tiers=tiers, source="test")
    recipe = load_recipe("fusion", overrides=[*OVERRIDES, f"models={[*TRAINED, 'late']}", "speech.frames_per_step=2"])
    plan = resolve(recipe)
    features = extract(manifest, plan, folder / "store", alignments=alignments)
    out = train(manifest, plan, features, folder / "run", jobs=1).out
    data = experiment.training_data(manifest, plan, make_protocol(manifest, plan.protocol), features)
    return Made(manifest, alignments, recipe, plan, features, data, out, corpus)


def by_hand(
    made: Made, kind: str, row: Any, alignment: Alignment | None, specification: EncoderSpecification
) -> list[float]:
    """Posteriors of the kept network, given frames and bounds that are put together here."""
    checkpoint = load_checkpoint(made.out / "models" / kind)
    frames = load_speech_encoder(made.plan.speech).encode([load_audio(row["audio"])])[0]
    count = frames.shape[1]
    runs = [[start, min(start + 2, count)] for start in range(0, count, 2)]
    bounds: list[list[int]] = []
    tiers = {"early-word": ["word"], "early-phone": ["phone"], "early-joint": ["", "phone", "syllable", "word"]}
    for tier in tiers.get(kind, []):
        segments = alignment.tiers.get(tier, ()) if alignment else ()  # type: ignore[call-overload]
        bounds += frame_bounds(segments, specification, frames=count).tolist() if segments else runs
    bounds = bounds or [[0, count]]
    assert checkpoint.subwords is not None
    [words] = checkpoint.subwords.encode([row["text"]])
    speech = {
        "speech": torch.from_numpy(features_of(frames))[None], "speech_mask": torch.ones(1, len(bounds)).bool(),
        "speech_bounds": torch.tensor([bounds]),
    }  # fmt: skip
    text = {"text": words[None], "text_mask": torch.ones(1, len(words)).bool()}
    with torch.no_grad():
        if isinstance(checkpoint.model, Ensemble):
            posteriors = checkpoint.model({"speech": Batch(**speech), "text": Batch(**text)})
        else:
            posteriors = checkpoint.model(Batch(**speech, **text)).logits.double().softmax(-1)
    found: list[float] = posteriors[0].tolist()
    return found


@pytest.mark.parametrize("kind", ["late", "concat", "early-phone", "early-word", "early-joint"])
def test_a_prediction_is_what_the_network_says_of_frames_and_bounds(kind: str, made: Made) -> None:
    predictor = load(made.out / "models" / kind)
    specification = load_speech_encoder(made.plan.speech).specification
    rows = made.manifest.set_index("utterance")
    # The first is not aligned.
    for name in made.manifest["utterance"][:3]:
        row, alignment = rows.loc[name], made.alignments.get(name)
        given_ = alignment or Alignment(utterance=name, tiers={}, source="test")
        asked = predictor.predict(row["audio"], text=row["text"], alignment=given_)
        assert list(asked.posteriors.values()) == pytest.approx(
            by_hand(made, kind, row, alignment, specification), abs=1e-5
        )


def test_what_is_trained_on_is_what_is_predicted_from(made: Made) -> None:
    names = list(made.manifest["utterance"])
    rows = made.manifest.set_index("utterance")
    for kind in ("early-phone", "early-joint"):
        predictor = load(made.out / "models" / kind)
        data = made.data.dataset(made.plan.model(kind), names, predictor.checkpoint.subwords)
        network = predictor.checkpoint.model
        assert isinstance(network, EmotionModel)
        for name, expected in list(zip(names, predict_scores(network, data), strict=True))[:3]:
            given_ = made.alignments.get(name) or Alignment(utterance=name, tiers={}, source="test")
            asked = predictor.predict(rows.loc[name]["audio"], text=rows.loc[name]["text"], alignment=given_)
            assert list(asked.posteriors.values()) == pytest.approx(expected, abs=1e-4)


def test_a_model_of_frames_alone_has_no_scores(made: Made) -> None:
    def scores(kind: str) -> list[str]:
        kept = load_checkpoint(made.out / "models" / kind).model.state_dict()
        return [name for name in kept if "frame_score" in name]

    assert scores("early-frame") == []
    assert scores("early-joint") == ["speech.mix.frame_score.weight"]
    assert scores("late") == ["0.frontend.mix.frame_score.weight"]


def test_another_alignment_trains_anew_what_reads_it_and_nothing_else(made: Made) -> None:
    fold = make_protocol(made.manifest, made.plan.protocol).folds[0]

    def undone(data: TrainingData, plan: Plan = made.plan) -> set[str]:
        trials = [Trial(one, fold, 0) for one in plan.models]
        return {trial.model.name for trial in trials if not is_done(trial, data, made.out / TRIALS)}

    def with_speech(**update: Any) -> TrainingData:
        return replace(made.data, speech_settings=made.plan.speech.model_copy(update=update))

    segments = {"early-phone", "early-word", "early-joint"}
    assert undone(made.data) == set()
    name = fold.train[0]
    keys = {**made.data.speech_keys, name: made.data.content_keys[name] + "+another"}
    assert undone(replace(made.data, speech_keys=keys)) == segments
    # Of what is not aligned, runs of frames are pooled.
    assert undone(with_speech(frames_per_step=3)) == segments
    # The feature sets are the same, and what is made of them is not.
    assert undone(with_speech(segments="mean")) == {*segments, "speech", "concat"}
    changed = made.recipe.model_copy(update={"model": {**made.recipe.model, "granularity": "frame"}})
    assert undone(made.data, resolve(changed)) == {"speech", "concat"}


def test_a_run_from_audio_files_aligns_and_predicts(made: Made, tmp_path: Path) -> None:
    recipe = load_recipe("fusion", overrides=[*OVERRIDES, "models=['early-syllable']", "ensembles=[]"])
    corpus = tiny_corpus(tmp_path / "corpus", utterances=1)
    # Sphinx finds these words in beeps, and not those of the corpus.
    pd.read_csv(corpus).assign(text="Hello there").to_csv(corpus, index=False)
    done = run(recipe, "table", corpus, tmp_path / "run", jobs=1)
    assert done.result.models["early-syllable"]["ua"].value >= 0
    predictor = load(tmp_path / "run" / "models" / "early-syllable")
    clip = tone(1.0, seed=0)
    asked = predictor.predict(clip, text="Hello there")
    tiers = SphinxAligner().align(clip, "Hello there")
    given_ = Alignment(utterance="a", tiers=tiers, source="sphinx")
    assert asked.posteriors == predictor.predict(clip, text="Hello there", alignment=given_).posteriors
    nothing = Alignment(utterance="a", tiers={}, source="test")
    assert asked.posteriors != predictor.predict(clip, text="Hello there", alignment=nothing).posteriors


@pytest.mark.parametrize("names", [("early-word",), ("early-frame", "early-phone", "concat")])
@pytest.mark.parametrize("run_length", [1, 2])
def test_the_estimate_counts_the_frames_once(names: Any, run_length: int, made: Made, tmp_path: Path) -> None:
    speech = made.plan.speech.model_copy(update={"frames_per_step": run_length})
    plan = replace(made.plan, models=tuple(made.plan.model(name) for name in names), ensembles=(), speech=speech)
    reported = {stage.name: stage.disk for stage in estimate(made.manifest, plan, jobs=1).stages}
    found = extract(made.manifest, plan, tmp_path / "store", alignments=made.alignments).speech
    assert found is not None
    folders = {feature_set.folder for feature_set in found.feature_sets.values()}
    real = sum(path.stat().st_size for folder in folders for path in folder.glob("*.safetensors"))
    assert reported["speech features"] == pytest.approx(real, rel=0.3)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("speech", r"not tuned under attentive of frames; use mean, and pool in the model with model\.granularity="),
        ("early-word", "not tuned under words, which early-word reads; use a model of utterances or frames"),
    ],
)
def test_fine_tuning_names_its_own_way(name: str, complaint: str, made: Made, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=complaint):
        finetune(made.manifest, made.plan, tmp_path / "tuned", model=name, processes=Processes("cpu"))
