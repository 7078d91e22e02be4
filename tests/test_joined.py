"""Kept models that are joined from others: they answer with the mean of what their parts answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from emofuse.training.material import PARTS as MODEL_PARTS
from emofuse.training.material import joined_kinds, members_of, trained_kinds

from emofuse import Predictor, load
from emofuse.audio import load_audio
from emofuse.checkpoint import Checkpoint, joined_checkpoint, load_checkpoint, save_checkpoint
from emofuse.corpora import read_corpus
from emofuse.encoders import SpeechEncoder, TextEncoder
from emofuse.errors import CheckpointError, SettingsError
from emofuse.experiment import extract, train
from emofuse.models import JoinedModel
from emofuse.report.model_card import model_card
from emofuse.report.paper_table import paper_table
from emofuse.scoring.fuse import Joining
from emofuse.scoring.table import Scores, make_scores
from emofuse.settings import (
    ModelKind,
    ModelSettings,
    ProtocolSettings,
    Recipe,
    SpeechSettings,
    TextSettings,
    TrainSettings,
)
from emofuse.testing import tiny_corpus, tiny_speech_encoder, tiny_text_encoder
from emofuse.training.ensembles import join_members
from emofuse.types import Alignment, Segment

EARLY: tuple[ModelKind, ...] = ("early-frame", "early-phone", "early-syllable", "early-word")
PARTS = {"multi-granularity": EARLY, "multi-level": ("multi-granularity", "late")}
MEMBERS: dict[str, tuple[str, ...]] = {**PARTS, "late": ("speech", "text")}
UNALIGNED = "s1_happy_0"


def spans(count: int) -> tuple[Segment, ...]:
    """So many segments in the first 0.36 s."""
    edges = np.linspace(0, 0.36, count + 1)
    return tuple(Segment(start=float(a), end=float(b), label="x") for a, b in pairwise(edges))


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
    # Of several pieces, so that words are not the same as pieces.
    manifest["text"] += " teatime"
    alignments = {
        name: Alignment(
            utterance=name, tiers={"word": spans(2), "syllable": spans(3), "phone": spans(6)}, source="sphinx"
        )
        for name in manifest["utterance"]
        if name != UNALIGNED
    }
    recipe = Recipe(
        name="joined", models=("speech", "text", *EARLY, "late", "multi-granularity", "multi-level"), seeds=(0,),
        speech=SpeechSettings(encoder=str(speech), frames_per_step=3, segments="mean+std", batch_seconds=0.01),
        text=TextSettings(encoder=str(text), batch_size=1),
        model=ModelSettings(width=8, heads=2, late_weights="tuned"),
        train=TrainSettings(epochs=2, learning_rate=1e-2), controls=False,
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
    """By hand, from the weights and temperatures of the run's result."""
    how = made.result["joined"][kind]["final"]
    total = 0.0
    for part, weight, temperature in zip(PARTS[kind], how["weights"], how["temperatures"], strict=True):
        raised = np.array(answers[part]) ** (1 / temperature)
        total += weight * raised / raised.sum(-1, keepdims=True)
    return total


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("name", [UNALIGNED, "s0_sad_0", "s3_angry_0"])
def test_a_joined_model_answers_with_the_mean_of_its_parts(kind: str, name: str, made: Made) -> None:
    answers = {part: list(made.asked(made.model(part), name).values()) for part in PARTS[kind]}
    assert list(made.asked(made.model(kind), name).values()) == pytest.approx(mean(made, kind, answers), abs=1e-6)
    assert len({tuple(np.round(one, 6)) for one in answers.values()}) == len(answers), "the parts read other inputs"


def test_controls_can_be_left_out(made: Made) -> None:
    assert made.result["controls"] == {}
    assert not any(" x " in model for model in made.result["models"])
    assert "its control" not in paper_table(made.result, style="markdown")


def test_it_is_joined_as_the_run_chose(made: Made) -> None:
    chosen = {kind: made.result["joined"][kind]["final"] for kind in (*PARTS, "late")}
    assert len(set(chosen["multi-granularity"]["weights"])) > 1, "an even mean would tell nothing"
    assert 1.0 not in chosen["multi-level"]["temperatures"], "temperatures of one would tell nothing"
    outer = load_checkpoint(made.model("multi-level")).model
    assert isinstance(outer, JoinedModel)
    inner, late = outer.members["multi-granularity"], outer.members["late"]
    for kind, model in (("multi-level", outer), ("multi-granularity", inner), ("late", late)):
        assert isinstance(model, JoinedModel)
        assert tuple(model) == MEMBERS[kind]
        assert model.how == Joining(**{name: _tuple(value) for name, value in chosen[kind].items()})


def _tuple(value: Any) -> Any:
    return value if isinstance(value, str) else tuple(value)


@dataclass(frozen=True)
class Certain:
    """Networks that are so sure that many of their posteriors are exactly zero, and their answers."""

    checkpoints: dict[ModelKind, Checkpoint]
    tables: dict[ModelKind, Scores]
    ask: Callable[[Checkpoint], Any]


@pytest.fixture(scope="module")
def certain(made: Made) -> Certain:
    names = sorted(made.texts)[::5]

    def ask(checkpoint: Checkpoint) -> Any:
        predictor = Predictor(checkpoint)
        alignments = [made.alignments.get(name, Alignment(utterance=name, tiers={}, source="none")) for name in names]
        answers = [
            predictor.predict(made.audio / f"{name}.wav", text=made.texts[name], alignment=alignment)
            for name, alignment in zip(names, alignments, strict=True)
        ]
        return np.array([list(one.posteriors.values()) for one in answers])

    checkpoints: dict[ModelKind, Checkpoint] = {}
    tables: dict[ModelKind, Scores] = {}
    for kind in members_of("multi-level"):
        checkpoints[kind] = load_checkpoint(made.model(kind))
        with torch.no_grad():
            for name, parameter in checkpoints[kind].model.named_parameters():
                if name.startswith("head.4"):
                    parameter.mul_(3e4)
        frame = pd.DataFrame(ask(checkpoints[kind]), columns=list(checkpoints[kind].classes))
        labels, folds = [name.split("_")[1] for name in names], np.arange(len(names)) % 2
        tables[kind] = make_scores(frame.assign(model=kind, utterance=names, label=labels, fold=folds), source="made")
        assert (tables[kind].posteriors() == 0).any()
    return Certain(checkpoints, tables, ask)


SHAPES = [{"final": final, "late_rule": rule} for final in ("levels", "models") for rule in ("mean", "product")]


@pytest.mark.parametrize("kind", MODEL_PARTS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(shape.values()))
def test_what_is_scored_is_what_is_saved_is_what_predicts(
    kind: ModelKind, shape: Any, certain: Certain, tmp_path: Path
) -> None:
    """Every model that is joined, with posteriors of exactly zero."""
    kept: dict[ModelKind, Checkpoint] = {}
    for name, one in certain.checkpoints.items():
        model = one.recipe.model.model_copy(update=shape)
        kept[name] = replace(one, recipe=one.recipe.model_copy(update={"models": (kind,), "model": model}))
    recipe = kept["speech"].recipe
    # One fold that is validated on what it tests learns from all of it, as the kept model does.
    whole = {
        name: Scores(certain.tables[name].frame.assign(fold="one"), certain.tables[name].classes)
        for name in trained_kinds(recipe)
    }
    scored, how = join_members(recipe, whole, whole)
    for joined in joined_kinds(recipe):
        assert how[joined]["one"] == how[joined]["final"]
        kept[joined] = joined_checkpoint(joined, kept, how[joined]["final"])
    save_checkpoint(kept[kind], tmp_path / kind, card="")
    found = certain.ask(load_checkpoint(tmp_path / kind))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, scored[-1].posteriors(), atol=1e-6)


def test_a_final_system_of_all_models_is_kept_with_a_weight_for_each(made: Made, tmp_path: Path) -> None:
    kinds: tuple[ModelKind, ...] = (*EARLY, "late")
    weights = (0.4, 0.0, 0.2, 0.1, 0.3)
    parts: dict[ModelKind, Any] = {}
    for kind in kinds:
        part = load_checkpoint(made.model(kind))
        shape = part.recipe.model.model_copy(update={"final": "models"})
        parts[kind] = replace(part, recipe=part.recipe.model_copy(update={"model": shape}))
    whole = joined_checkpoint("multi-level", parts, Joining("mean", weights, (1.0,) * 5))
    save_checkpoint(whole, tmp_path / "model", card="")
    expected = sum(
        weight * np.array(list(made.asked(made.model(kind), "s0_sad_0").values()))
        for kind, weight in zip(kinds, weights, strict=True)
    )
    assert list(made.asked(tmp_path / "model", "s0_sad_0").values()) == pytest.approx(expected, abs=1e-6)


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


@pytest.mark.parametrize("kind", PARTS)
def test_it_answers_where_a_recogniser_hears_no_words(kind: str, made: Made) -> None:
    deaf: Any = SimpleNamespace(source="deaf", transcribe=lambda clip: "")
    predictor = Predictor(load_checkpoint(made.model(kind)), transcriber=deaf)
    answer = predictor.predict(made.audio / "s0_sad_0.wav")
    assert answer.notes[0] == "deaf recognised no words"
    assert answer.streams == ("speech", "text")
    assert answer.posteriors == predictor.predict(made.audio / "s0_sad_0.wav", text="").posteriors


def test_words_and_sounds_are_aligned_where_no_alignment_is_given(made: Made) -> None:
    predictor = load(made.model("multi-granularity"), asr="none")
    clip = load_audio(made.audio / "s0_sad_0.wav")
    found = predictor.predict(clip, text="so sad")
    aligned, _ = predictor._alignment(clip, "so sad", None)
    assert found.posteriors == predictor.predict(clip, text="so sad", alignment=aligned).posteriors
    nothing = predictor.predict(clip, text="...")
    assert any("not aligned, so frames stand for segments" in note for note in nothing.notes)


@pytest.mark.parametrize("kind", PARTS)
def test_it_can_be_saved_again_and_says_what_it_is(kind: str, made: Made, tmp_path: Path) -> None:
    card = (made.model(kind) / "README.md").read_text()
    how = made.result["joined"][kind]["final"]
    shares = zip(PARTS[kind], how["weights"], how["temperatures"], strict=True)
    told = [f"{part} (weight {weight:.2f}, temperature {heat:.2f})" for part, weight, heat in shares]
    assert f"**Joined from**: {', '.join(told)}\n" in card
    assert f"| UA | {100 * made.result['models'][kind]['ua']['value']:.1f} % |" in card
    save_checkpoint(load_checkpoint(made.model(kind)), tmp_path / "again", card=card)
    assert made.asked(tmp_path / "again", "s0_sad_0") == made.asked(made.model(kind), "s0_sad_0")


def test_its_card_says_whether_it_is_calibrated(made: Made) -> None:
    plain = "Its probabilities are not calibrated."
    told = "The probabilities of its parts are calibrated by the temperatures above"
    cards = {kind: (made.model(kind) / "README.md").read_text() for kind in ("speech", "late", *PARTS)}
    assert {kind for kind, card in cards.items() if told in card} == {"multi-level"}
    assert {kind for kind, card in cards.items() if plain in card} == {"speech", "late", "multi-granularity"}


def test_the_card_of_a_final_system_of_all_models_names_them_all(made: Made) -> None:
    recipe, how = made.result["recipe"], {"weights": [0.4, 0.0, 0.2, 0.1, 0.3], "temperatures": [1.0] * 5}
    result = {
        **made.result,
        "recipe": {**recipe, "model": {**recipe["model"], "final": "models"}},
        "joined": {"multi-level": {"final": how}},
    }
    shares = zip((*EARLY, "late"), how["weights"], strict=True)
    told = ", ".join(f"{part} (weight {weight:.2f}, temperature 1.00)" for part, weight in shares)
    assert f"**Joined from**: {told}\n" in model_card("multi-level", result)


def changed(made: Made, place: Path, **values: Any) -> Path:
    """A copy of the final system with other settings."""
    shutil.copytree(made.model("multi-level"), place)
    settings = json.loads((place / "settings.json").read_text())
    (place / "settings.json").write_text(json.dumps({**settings, **values}))
    return place


def joined(made: Made, kind: str, **values: Any) -> dict[str, Any]:
    """What the final system's settings say of how it is joined, with other values for one kind."""
    settings = json.loads((made.model("multi-level") / "settings.json").read_text())
    return {**settings["joined"], kind: {**settings["joined"][kind], **values}}


def test_all_weight_on_one_part_is_that_part(made: Made, tmp_path: Path) -> None:
    plain = dict.fromkeys(PARTS["multi-level"], 1.0)
    for part in PARTS["multi-level"]:
        # Names count, not their order.
        weights = {name: float(name == part) for name in reversed(PARTS["multi-level"])}
        how = joined(made, "multi-level", weights=weights, temperatures=plain)
        found = made.asked(changed(made, tmp_path / part, joined=how), "s0_sad_0")
        assert found == pytest.approx(made.asked(made.model(part), "s0_sad_0"), abs=1e-6)


def test_late_fusion_within_keeps_its_own_weights(made: Made, tmp_path: Path) -> None:
    how = joined(
        made,
        "multi-level",
        weights={"multi-granularity": 0, "late": 1},
        temperatures=dict.fromkeys(PARTS["multi-level"], 1),
    )
    for stream in ("speech", "text"):
        how["late"] = {**how["late"], "weights": {name: name == stream for name in ("speech", "text")}}
        folder = changed(made, tmp_path / stream, joined=how)
        assert made.asked(folder, "s0_sad_0") == pytest.approx(made.asked(made.model(stream), "s0_sad_0"), abs=1e-6)


EVEN = dict.fromkeys(PARTS["multi-level"], 0.5)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("multi-level", {"weights": None}),
        ("multi-level", {"weights": [0.5] * 2}),
        ("multi-granularity", {"weights": EVEN}),
        ("multi-level", {"weights": {**EVEN, "concat": 0.2}}),
        ("multi-level", {"weights": {**EVEN, "late": -0.1}}),
        ("multi-level", {"weights": {**EVEN, "late": float("nan")}}),
        ("multi-level", {"weights": {**EVEN, "late": "much"}}),
        ("multi-level", {"weights": dict.fromkeys(EVEN, 0)}),
        ("multi-level", {"temperatures": {**EVEN, "late": 0}}),
        ("multi-level", {"temperatures": {**EVEN, "late": float("nan")}}),
        ("multi-granularity", {"temperatures": dict.fromkeys(EARLY[:3], 1.0)}),
        ("late", {"weights": None}),
        ("late", {"weights": {"speech": 1, "text": float("inf")}}),
        ("late", {"temperatures": {"speech": 0, "text": 1}}),
        ("late", {"rule": "median"}),
    ],
    ids=str,
)
def test_what_it_cannot_be_joined_by_is_named(kind: str, values: dict[str, Any], made: Made, tmp_path: Path) -> None:
    folder = changed(made, tmp_path / "model", joined=joined(made, kind, **values))
    with pytest.raises(CheckpointError, match="do not fit") as raised:
        load(folder)
    assert raised.value.where == str(folder)
    assert "fit ()" not in str(raised.value), "the message says what is wrong"


@pytest.mark.parametrize(
    "values",
    [
        {"joined": None},
        {"joined": {}},
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
