"""Kept models that are joined from others: they answer with the mean of what their parts answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emofuse import load
from emofuse.audio import load_audio
from emofuse.checkpoint import load_checkpoint, save_checkpoint
from emofuse.corpora import read_corpus
from emofuse.encoders import SpeechEncoder, TextEncoder
from emofuse.errors import CheckpointError, SettingsError
from emofuse.experiment import extract, train
from emofuse.models import JoinedModel, LateFusion
from emofuse.scoring.table import read_scores
from emofuse.settings import ModelSettings, ProtocolSettings, Recipe, SpeechSettings, TextSettings, TrainSettings
from emofuse.testing import tiny_corpus, tiny_speech_encoder, tiny_text_encoder
from emofuse.types import Alignment, Segment

EARLY = ("early-frame", "early-phone", "early-syllable", "early-word")
PARTS = {"multi-granularity": EARLY, "multi-level": (*EARLY, "late")}
UNALIGNED = "s1_happy_0"


def spans(count: int) -> tuple[Segment, ...]:
    """So many segments in the first 0.36 s."""
    edges = np.linspace(0, 0.36, count + 1)
    return tuple(Segment(start=float(a), end=float(b), label="x") for a, b in zip(edges, edges[1:], strict=False))


@dataclass(frozen=True)
class Made:
    out: Path
    audio: Path
    alignments: Mapping[str, Alignment]
    texts: Mapping[str, str]
    result: Mapping[str, Any]

    def model(self, kind: str) -> Path:
        return self.out / "models" / kind

    def asked(self, folder: Path, name: str) -> dict[str, float]:
        alignment = self.alignments.get(name, Alignment(utterance=name, tiers={}, source="none"))
        answer = load(folder, asr="none").predict(
            self.audio / f"{name}.wav", text=self.texts[name], alignment=alignment
        )
        return dict(answer.posteriors)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run with tuned weights on encoders in folders, whose folders are gone since, moved to another place."""
    folder = tmp_path_factory.mktemp("joined")
    speech, text = tiny_speech_encoder(folder / "speech"), tiny_text_encoder(folder / "text")
    manifest = read_corpus("table", tiny_corpus(folder / "corpus", utterances=1)).manifest
    alignments = {
        name: Alignment(
            utterance=name, tiers={"word": spans(2), "syllable": spans(3), "phone": spans(6)}, source="test"
        )
        for name in manifest["utterance"]
        if name != UNALIGNED
    }
    recipe = Recipe(
        name="joined", models=("speech", "text", *EARLY, "late", "multi-granularity", "multi-level"), seeds=(0,),
        speech=SpeechSettings(encoder=str(speech), frames_per_step=3, segments="mean+std", batch_seconds=0.01),
        text=TextSettings(encoder=str(text), batch_size=1),
        model=ModelSettings(width=8, heads=2, late_weights="tuned"),
        train=TrainSettings(epochs=2, learning_rate=1e-2),
        protocol=ProtocolSettings(kind="speakers", folds=2, validation_groups=1),
    )  # fmt: skip
    features = extract(manifest, recipe, folder / "store", alignments=alignments)
    outcome = train(manifest, recipe, features, folder / "run", jobs=1)
    shutil.rmtree(speech)
    shutil.rmtree(text)
    return Made(
        out=Path(shutil.move(folder / "run", folder / "moved")),
        audio=folder / "corpus" / "audio",
        alignments=alignments,
        texts=dict(zip(manifest["utterance"], manifest["text"], strict=True)),
        result=outcome.result,
    )


def mean(made: Made, kind: str, answers: Mapping[str, Any]) -> Any:
    """By hand, from the weights of the run's result."""
    weights = made.result["joined_weights"][kind]["final-seed0"]
    return sum(weight * np.array(answers[part]) for part, weight in zip(PARTS[kind], weights, strict=True))


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("name", [UNALIGNED, "s0_sad_0", "s3_angry_0"])
def test_a_joined_model_answers_with_the_mean_of_its_parts(kind: str, name: str, made: Made) -> None:
    answers = {part: list(made.asked(made.model(part), name).values()) for part in PARTS[kind]}
    assert list(made.asked(made.model(kind), name).values()) == pytest.approx(mean(made, kind, answers), abs=1e-6)
    assert len({tuple(np.round(one, 6)) for one in answers.values()}) == len(answers), "the parts read other inputs"


def test_its_weights_are_those_that_were_tuned(made: Made) -> None:
    tuned = made.result["joined_weights"]
    assert len(set(tuned["multi-level"]["final-seed0"])) > 1, "an even mean would tell nothing"
    for kind, parts in PARTS.items():
        model = load_checkpoint(made.model(kind)).model
        assert isinstance(model, JoinedModel)
        assert dict(zip(model.parts, model.weights, strict=True)) == dict(
            zip(parts, tuned[kind]["final-seed0"], strict=True)
        )
    within = load_checkpoint(made.model("multi-level")).model.parts["late"]
    assert isinstance(within, LateFusion)
    assert list(within.weights) == tuned["late"]["final-seed0"]


def test_it_answers_as_it_was_scored(made: Made) -> None:
    """What weights were tuned on, from the tables of the units."""
    kind = "multi-level"
    late = made.result["joined_weights"]["late"]["final-seed0"]
    tables = {
        part: read_scores(made.out / "units" / part / "final-seed0" / "validation.parquet")
        for part in ("speech", "text", *EARLY)
    }
    answers: dict[str, Any] = {part: table.posteriors() for part, table in tables.items()}
    product = answers["speech"] ** late[0] * answers["text"] ** late[1]
    answers["late"] = product / product.sum(1, keepdims=True)
    names = list(tables["speech"].frame["utterance"])
    assert len(names) == 4
    found = [list(made.asked(made.model(kind), name).values()) for name in names]
    np.testing.assert_allclose(found, mean(made, kind, answers), atol=1e-4)


def test_sound_and_words_are_encoded_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []

    def watched(encoder: SpeechEncoder | TextEncoder, stream: str) -> Callable[[Any], Any]:
        encode: Callable[[Any], Any] = encoder.encode

        def count(batch: Any) -> Any:
            encoded.extend([stream] * len(batch))
            return encode(batch)

        return count

    predictor = load(made.model("multi-level"), asr="none")
    assert predictor._speech is not None
    assert predictor._text is not None
    monkeypatch.setattr(predictor._speech, "encode", watched(predictor._speech, "speech"))
    monkeypatch.setattr(predictor._text, "encode", watched(predictor._text, "text"))
    predictor.predict(made.audio / "s0_sad_0.wav", text="so", alignment=made.alignments["s0_sad_0"])
    assert encoded == ["speech", "text"]


@pytest.mark.parametrize("kind", PARTS)
def test_it_needs_both_streams_and_says_so(kind: str, made: Made) -> None:
    predictor = load(made.model(kind), asr="none")
    assert predictor.needs == ("speech", "text")
    with pytest.raises(SettingsError, match=f"the {kind} model needs the words"):
        predictor.predict(made.audio / "s0_sad_0.wav")
    with pytest.raises(SettingsError, match=f"the {kind} model needs speech"):
        predictor.predict(text="so sad")


def test_words_and_sounds_are_aligned_where_no_alignment_is_given(made: Made) -> None:
    predictor = load(made.model("multi-granularity"), asr="none")
    clip = load_audio(made.audio / "s0_sad_0.wav")
    found = predictor.predict(clip, text="so sad")
    aligned = predictor._align(clip, "so sad")
    assert found.posteriors == predictor.predict(clip, text="so sad", alignment=aligned).posteriors
    nothing = predictor.predict(clip, text="...")
    assert any("not aligned, so frames stand for segments" in note for note in nothing.notes)


@pytest.mark.parametrize("kind", PARTS)
def test_it_can_be_saved_again_and_says_what_it_is(kind: str, made: Made, tmp_path: Path) -> None:
    card = (made.model(kind) / "README.md").read_text()
    assert f"**Joined from**: {', '.join(PARTS[kind])}\n" in card
    assert f"| UA | {100 * made.result['models'][kind]['ua']['value']:.1f} % |" in card
    save_checkpoint(load_checkpoint(made.model(kind)), tmp_path / "again", card=card)
    assert made.asked(tmp_path / "again", "s0_sad_0") == made.asked(made.model(kind), "s0_sad_0")


def changed(made: Made, place: Path, **values: Any) -> Path:
    """A copy of the final system with other settings."""
    shutil.copytree(made.model("multi-level"), place)
    settings = json.loads((place / "settings.json").read_text())
    (place / "settings.json").write_text(json.dumps({**settings, **values}))
    return place


def test_all_weight_on_one_part_is_that_part(made: Made, tmp_path: Path) -> None:
    for part in PARTS["multi-level"]:
        # Names count, not their order.
        weights = {name: float(name == part) for name in reversed(PARTS["multi-level"])}
        found = made.asked(changed(made, tmp_path / part, joined_weights=weights), "s0_sad_0")
        assert found == pytest.approx(made.asked(made.model(part), "s0_sad_0"), abs=1e-6)


EVEN = dict.fromkeys(PARTS["multi-level"], 0.2)


@pytest.mark.parametrize(
    "values",
    [
        {"joined_weights": None},
        {"joined_weights": [0.2] * 5},
        {"joined_weights": dict.fromkeys(EARLY, 0.25)},
        {"joined_weights": {**EVEN, "concat": 0.2}},
        {"joined_weights": {**EVEN, "late": -0.1}},
        {"joined_weights": {**EVEN, "late": float("nan")}},
        {"joined_weights": {**EVEN, "late": "much"}},
        {"joined_weights": dict.fromkeys(EVEN, 0)},
        {"late_weights": None},
        {"late_weights": [1, float("inf")]},
        {"temperatures": [0, 1]},
        {"kind": "multi-granularity"},
        {"kind": "late"},
    ],
    ids=str,
)
def test_a_damaged_joined_model_is_named(values: dict[str, Any], made: Made, tmp_path: Path) -> None:
    folder = changed(made, tmp_path / "model", **values)
    with pytest.raises(CheckpointError, match="do not fit") as raised:
        load(folder)
    assert raised.value.where == str(folder)
    assert "fit ()" not in str(raised.value), "the message says what is wrong"
