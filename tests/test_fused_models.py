"""Kept ensembles: they answer with the mean of what their members answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from emofuse import Predictor, load
from emofuse.audio import load_audio
from emofuse.checkpoint import Checkpoint, fused_checkpoint, load_checkpoint, save_checkpoint
from emofuse.corpora import read_corpus
from emofuse.encoders import SpeechEncoder, TextEncoder
from emofuse.errors import CheckpointError, SettingsError
from emofuse.experiment import extract, train
from emofuse.models.ensemble import Ensemble
from emofuse.plan import Plan, resolve
from emofuse.recipe import Recipe
from emofuse.report.model_card import model_card
from emofuse.report.paper_table import paper_table
from emofuse.scoring.fuse import Fusion
from emofuse.scoring.record import Fused, Result
from emofuse.scoring.table import Scores, make_scores
from emofuse.testing import tiny_corpus, tiny_speech_encoder, tiny_text_encoder
from emofuse.training.ensembles import fuse_members
from emofuse.types import Alignment, Segment

pytestmark = pytest.mark.usefixtures("tones_are_speech")

SINGLE = ("speech", "text")
EARLY = ("early-frame", "early-phone", "early-syllable", "early-word")
MEMBERS: dict[str, tuple[str, ...]] = {
    "multi-granularity": EARLY,
    "late": SINGLE,
    "multi-level": ("multi-granularity", "late"),
}
BOTH = ("multi-granularity", "multi-level")
"""Those that need both modalities."""
UNALIGNED = "s1_happy_0"


def ensembles(**how: Any) -> list[dict[str, Any]]:
    """Entries of a recipe, with settings of some by name."""
    return [{"name": name, "of": of, **how.get(name.replace("-", "_"), {})} for name, of in MEMBERS.items()]


def spans(labels: Sequence[str]) -> tuple[Segment, ...]:
    """A segment for each label in the first 0.36 s."""
    edges = np.linspace(0, 0.36, len(labels) + 1)
    times = zip(pairwise(edges), labels, strict=True)
    return tuple(Segment(start=float(a), end=float(b), label=label) for (a, b), label in times)


@dataclass(frozen=True)
class Made:
    out: Path
    audio: Path
    alignments: Mapping[str, Alignment]
    texts: Mapping[str, str]
    result: Result
    plan: Plan

    def model(self, name: str) -> Path:
        return self.out / "models" / name

    def how(self, name: str) -> dict[str, Any]:
        """How the kept ensemble is fused."""
        return self.result.fused[name].folds["final"].model_dump(mode="json")

    def asked(self, folder: Path, name: str) -> dict[str, float]:
        alignment = self.alignments.get(name, Alignment(utterance=name, tiers={}, source="none"))
        answer = load(folder, asr="none").predict(
            self.audio / f"{name}.wav", text=self.texts[name], alignment=alignment
        )
        return dict(answer.posteriors)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run with uneven weights on encoders in folders, whose folders are gone since, moved to another place."""
    folder = tmp_path_factory.mktemp("fused")
    speech, text = tiny_speech_encoder(folder / "speech"), tiny_text_encoder(folder / "text")
    manifest = read_corpus("table", tiny_corpus(folder / "corpus", utterances=1)).manifest
    # Of several tokens, so that words are not the same as tokens.
    manifest["text"] += " teatime"
    words = dict(zip(manifest["utterance"], manifest["text"].str.split(), strict=True))
    alignments = {
        name: Alignment(
            utterance=name,
            tiers={"word": spans(said), "syllable": spans("abc"), "phone": spans("abcdefgh")},
            source="sphinx",
        )
        for name, said in words.items()
        if name != UNALIGNED
    }
    late = {"rule": "product", "weights": "tuned"}
    uneven = {"weights": [0.4, 0.3, 0.2, 0.1]}
    asked = ensembles(late=late, multi_granularity=uneven, multi_level={"calibrate": True})
    asked.append({"name": "again", "of": ["multi-granularity", "early-word"]})
    recipe = Recipe.model_validate({
        "name": "fused", "models": [*SINGLE, *EARLY], "seeds": [0], "controls": False,
        "ensembles": asked,
        "speech": {"encoder": str(speech), "frames_per_step": 3, "segments": "mean+std", "batch_seconds": 0.01},
        "text": {"encoder": str(text), "batch_size": 1},
        "model": {"width": 8, "heads": 2}, "train": {"epochs": 2, "learning_rate": 1e-2},
        "protocol": {"kind": "speakers", "folds": 2, "validation_groups": 1},
    })  # fmt: skip
    plan = resolve(recipe)
    features = extract(manifest, plan, folder / "store", alignments=alignments)
    outcome = train(manifest, plan, features, folder / "run", jobs=1)
    shutil.rmtree(speech)
    shutil.rmtree(text)
    return Made(
        out=Path(shutil.move(folder / "run", folder / "moved")),
        audio=folder / "corpus" / "audio",
        alignments=alignments,
        texts=dict(zip(manifest["utterance"], manifest["text"], strict=True)),
        result=outcome.result,
        plan=plan,
    )


def mean(made: Made, name: str, answers: Mapping[str, Any]) -> Any:
    """By hand, from the weights and temperatures of the run's result."""
    how = made.how(name)
    total = 0.0
    for member, weight, temperature in zip(MEMBERS[name], how["weights"], how["temperatures"], strict=True):
        raised = np.array(answers[member]) ** (1 / temperature)
        total += weight * raised / raised.sum(-1, keepdims=True)
    return total


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("utterance", [UNALIGNED, "s0_sad_0", "s3_angry_0"])
def test_an_ensemble_answers_with_the_mean_of_its_members(name: str, utterance: str, made: Made) -> None:
    answers = {member: list(made.asked(made.model(member), utterance).values()) for member in MEMBERS[name]}
    found = list(made.asked(made.model(name), utterance).values())
    assert found == pytest.approx(mean(made, name, answers), abs=1e-6)
    assert len({tuple(np.round(one, 6)) for one in answers.values()}) == len(answers), "the members read other inputs"


def test_controls_can_be_left_out(made: Made) -> None:
    assert made.result.controls == {}
    assert not any(" x " in model for model in made.result.models)
    assert "its control" not in paper_table(made.result, style="markdown")


def test_it_is_fused_as_the_run_chose(made: Made) -> None:
    assert len(set(made.how("multi-granularity")["weights"])) > 1, "an even mean would prove nothing"
    assert 1.0 not in made.how("multi-level")["temperatures"], "temperatures of one would prove nothing"
    outer = load_checkpoint(made.model("multi-level")).model
    assert isinstance(outer, Ensemble)
    for name, model in (("multi-level", outer), *((one, outer.members[one]) for one in outer.names)):
        assert isinstance(model, Ensemble)
        assert model.names == MEMBERS[name]
        assert model.how == Fusion(**{key: _tuple(value) for key, value in made.how(name).items()})


def _tuple(value: Any) -> Any:
    return value if isinstance(value, str) else tuple(value)


@dataclass(frozen=True)
class Certain:
    """Networks that are so sure that many of their posteriors are exactly zero, and their answers."""

    checkpoints: dict[str, Checkpoint]
    tables: dict[str, Scores]
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

    checkpoints: dict[str, Checkpoint] = {}
    tables: dict[str, Scores] = {}
    for model in (*SINGLE, *EARLY):
        checkpoints[model] = load_checkpoint(made.model(model))
        with torch.no_grad():
            for name, parameter in checkpoints[model].model.named_parameters():
                if name.startswith("head.4"):
                    parameter.mul_(3e4)
        frame = pd.DataFrame(ask(checkpoints[model]), columns=list(checkpoints[model].task.names))
        labels = [name.split("_")[1] for name in names]
        # One fold that is validated on what it tests learns from all of it, as the kept model does.
        tables[model] = make_scores(frame.assign(model=model, utterance=names, label=labels, fold="one"), source="made")
        assert (tables[model].posteriors() == 0).any()
    return Certain(checkpoints, tables, ask)


ALL_MODELS = {**MEMBERS, "multi-level": (*EARLY, "late")}
SHAPES = [(members, rule) for members in (MEMBERS, ALL_MODELS) for rule in ("mean", "product")]


@pytest.mark.parametrize("kept", MEMBERS)
@pytest.mark.parametrize(("members", "rule"), SHAPES, ids=["levels-mean", "levels-product", "all-mean", "all-product"])
def test_what_is_scored_is_what_is_saved_is_what_predicts(
    kept: str, members: Mapping[str, Sequence[str]], rule: str, certain: Certain, made: Made, tmp_path: Path
) -> None:
    """Every ensemble, with posteriors of exactly zero."""
    late = {"rule": rule, "weights": "tuned"}
    uneven = {"weights": [0.4, 0.3, 0.2, 0.1]}
    asked = ensembles(late=late, multi_granularity=uneven, multi_level={"calibrate": True})
    asked = [{**one, "of": members[one["name"]]} for one in asked]
    plan = resolve(Recipe.model_validate({**made.plan.recipe, "ensembles": asked}))
    scored, how = fuse_members(plan, certain.tables, certain.tables)
    checkpoints = dict(certain.checkpoints)
    for one in plan.ensembles:
        assert how[one.name]["one"] == how[one.name]["final"]
        checkpoints[one.name] = fused_checkpoint(
            one.name, {name: checkpoints[name] for name in one.of}, how[one.name]["final"]
        )
    save_checkpoint(checkpoints[kept], tmp_path / kept, card="")
    found = certain.ask(load_checkpoint(tmp_path / kept))
    assert np.isfinite(found).all()
    [expected] = [one.posteriors() for one in scored if one.models == (kept,)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_ensemble_of_networks_and_an_ensemble_is_kept_with_a_weight_for_each(made: Made, tmp_path: Path) -> None:
    names, weights = ALL_MODELS["multi-level"], (0.4, 0.0, 0.2, 0.1, 0.3)
    members = {name: load_checkpoint(made.model(name)) for name in names}
    whole = fused_checkpoint("multi-level", members, Fusion("mean", weights, (1.0,) * 5))
    save_checkpoint(whole, tmp_path / "model", card="")
    expected = sum(
        weight * np.array(list(made.asked(made.model(name), "s0_sad_0").values()))
        for name, weight in zip(names, weights, strict=True)
    )
    assert list(made.asked(tmp_path / "model", "s0_sad_0").values()) == pytest.approx(expected, abs=1e-6)


def test_a_network_may_be_in_an_ensemble_twice(made: Made) -> None:
    answers = [list(made.asked(made.model(name), "s0_sad_0").values()) for name in ("multi-granularity", "early-word")]
    found = list(made.asked(made.model("again"), "s0_sad_0").values())
    assert found == pytest.approx(np.mean(answers, axis=0), abs=1e-6)


def test_speech_and_text_are_encoded_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []

    def watched(encoder: SpeechEncoder | TextEncoder, modality: str) -> Callable[[Any], Any]:
        encode: Callable[[Any], Any] = encoder.encode

        def count(batch: Any) -> Any:
            encoded.extend([modality] * len(batch))
            return encode(batch)

        return count

    predictor = load(made.model("multi-level"), asr="none")
    assert predictor._networks.speech_encoder is not None
    assert predictor._networks._text_encoder is not None
    monkeypatch.setattr(
        predictor._networks.speech_encoder, "encode", watched(predictor._networks.speech_encoder, "speech")
    )
    monkeypatch.setattr(predictor._networks._text_encoder, "encode", watched(predictor._networks._text_encoder, "text"))
    predictor.predict(made.audio / "s0_sad_0.wav", text="so", alignment=made.alignments["s0_sad_0"])
    assert encoded == ["speech", "text"]


@pytest.mark.parametrize("name", BOTH)
def test_it_needs_both_modalities_and_says_so(name: str, made: Made) -> None:
    predictor = load(made.model(name), asr="none")
    assert predictor.needs == ("speech", "text")
    with pytest.raises(SettingsError, match=f"the {name} model needs a transcript"):
        predictor.predict(made.audio / "s0_sad_0.wav")
    with pytest.raises(SettingsError, match=f"the {name} model needs speech"):
        predictor.predict(text="so sad")


@pytest.mark.parametrize("name", BOTH)
def test_it_answers_where_nothing_is_recognised(name: str, made: Made) -> None:
    mute: Any = SimpleNamespace(source="mute", transcribe=lambda clip: "")
    predictor = Predictor(load_checkpoint(made.model(name)), transcriber=mute)
    answer = predictor.predict(made.audio / "s0_sad_0.wav")
    assert answer.notes[0] == "mute recognised no words"
    assert answer.modalities == ("speech", "text")
    assert answer.posteriors == predictor.predict(made.audio / "s0_sad_0.wav", text="").posteriors


def test_words_and_recordings_are_aligned_where_no_alignment_is_given(made: Made) -> None:
    predictor = load(made.model("multi-granularity"), asr="none")
    clip = load_audio(made.audio / "s0_sad_0.wav")
    found = predictor.predict(clip, text="so sad")
    aligned, _ = predictor._networks.align(clip, "so sad", None)
    assert found.posteriors == predictor.predict(clip, text="so sad", alignment=aligned).posteriors
    nothing = predictor.predict(clip, text="...")
    assert any("not aligned, so frames stand for segments" in note for note in nothing.notes)


def fused_from(how: Mapping[str, Any], names: Sequence[str]) -> str:
    """What a card says of members."""
    found = zip(names, how["weights"], how["temperatures"], strict=True)
    return ", ".join(f"{name} (weight {weight:.2f}, temperature {heat:.2f})" for name, weight, heat in found)


@pytest.mark.parametrize("name", MEMBERS)
def test_it_can_be_saved_again_and_says_what_it_is(name: str, made: Made, tmp_path: Path) -> None:
    card = (made.model(name) / "README.md").read_text()
    assert f"**Fused from**: {fused_from(made.how(name), MEMBERS[name])}\n" in card
    assert f"| UA | {100 * made.result.models[name]['ua'].value:.1f} % |" in card
    save_checkpoint(load_checkpoint(made.model(name)), tmp_path / "again", card=card)
    assert made.asked(tmp_path / "again", "s0_sad_0") == made.asked(made.model(name), "s0_sad_0")


def test_its_card_says_whether_it_is_calibrated(made: Made) -> None:
    plain = "Its probabilities are not calibrated."
    calibrated = "The probabilities of its members are calibrated by the temperatures above"
    cards = {name: (made.model(name) / "README.md").read_text() for name in ("speech", *MEMBERS)}
    assert {name for name, card in cards.items() if calibrated in card} == {"multi-level"}
    assert {name for name, card in cards.items() if plain in card} == {"speech", "late", "multi-granularity"}


def test_a_card_names_networks_and_ensembles_as_members(made: Made) -> None:
    names = ALL_MODELS["multi-level"]
    how = {"weights": [0.4, 0.0, 0.2, 0.1, 0.3], "temperatures": [1.0] * 5}
    fused = {**made.result.fused, "multi-level": Fused.model_validate({"of": list(names), "folds": {"final": how}})}
    result = made.result.model_copy(update={"fused": fused})
    assert f"**Fused from**: {fused_from(how, names)}\n" in model_card("multi-level", result)


def changed(made: Made, place: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the outermost ensemble whose settings describe another model."""
    shutil.copytree(made.model("multi-level"), place)
    settings = json.loads((place / "settings.json").read_text())
    change(settings["model"])
    (place / "settings.json").write_text(json.dumps(settings))
    return place


def described(model: dict[str, Any], name: str) -> dict[str, Any]:
    """What a model's settings say of it or of one of its members."""
    found: dict[str, Any] = {model["name"]: model, **{one["name"]: one for one in model["members"]}}[name]
    return found


def fused_by(ensemble: str, **values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda model: described(model, ensemble).update(values)


@pytest.mark.parametrize("place", [0, 1])
def test_all_weight_on_one_member_is_that_member(place: int, made: Made, tmp_path: Path) -> None:
    weights = [float(number == place) for number in (0, 1)]
    folder = changed(made, tmp_path / "model", fused_by("multi-level", weights=weights, temperatures=[1, 1]))
    expected = made.asked(made.model(MEMBERS["multi-level"][place]), "s0_sad_0")
    assert made.asked(folder, "s0_sad_0") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("place", [0, 1])
def test_late_fusion_within_keeps_its_own_weights(place: int, made: Made, tmp_path: Path) -> None:
    def change(model: dict[str, Any]) -> None:
        model.update(weights=[0, 1], temperatures=[1, 1])
        described(model, "late").update(weights=[float(number == place) for number in (0, 1)])

    expected = made.asked(made.model(SINGLE[place]), "s0_sad_0")
    assert made.asked(changed(made, tmp_path / "model", change), "s0_sad_0") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("multi-level", {"weights": None}),
        ("multi-level", {"weights": {"multi-granularity": 0.5, "late": 0.5}}),
        ("multi-granularity", {"weights": [0.5] * 2}),
        ("multi-level", {"weights": [0.5, 0.5, 0.2]}),
        ("multi-level", {"weights": [0.5, -0.1]}),
        ("multi-level", {"weights": [0.5, float("nan")]}),
        ("multi-level", {"weights": [0.5, "much"]}),
        ("multi-level", {"weights": [0, 0]}),
        ("multi-level", {"temperatures": [0.5, 0]}),
        ("multi-level", {"temperatures": [0.5, float("nan")]}),
        ("multi-granularity", {"temperatures": [1.0] * 3}),
        ("late", {"weights": None}),
        ("late", {"weights": [1, float("inf")]}),
        ("late", {"temperatures": [0, 1]}),
        ("late", {"rule": "median"}),
        ("late", {"members": None}),
        ("late", {"members": []}),
        ("late", {"members": [{"name": "speech"}, {"name": "text"}]}),
        ("multi-level", {"members": {}}),
        ("multi-level", {"name": None}),
    ],
    ids=str,
)
def test_what_it_cannot_be_fused_by_is_named(name: str, values: dict[str, Any], made: Made, tmp_path: Path) -> None:
    folder = changed(made, tmp_path / "model", fused_by(name, **values))
    refused(folder)


def refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="do not fit") as raised:
        load(folder)
    assert raised.value.where == str(folder)
    assert "fit ()" not in str(raised.value), "the message says what is wrong"


def twice(model: dict[str, Any]) -> None:
    late = described(model, "late")
    late["members"] = late["members"][:1] * 2


def same_name_elsewhere(model: dict[str, Any]) -> None:
    """Another network that is called as one of another ensemble is."""
    described(model, "multi-granularity")["members"][0]["name"] = "speech"


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a member is lacking": lambda model: model["members"].pop(),
    "a member twice": twice,
    "a name of two networks": same_name_elsewhere,
    "a member is a network": lambda model: model.update(members=described(model, "late")["members"]),
    "a member is a word": lambda model: model.update(members=["late", "multi-granularity"]),
    "no members": lambda model: model.pop("members"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_ensemble_is_named(damage: str, made: Made, tmp_path: Path) -> None:
    refused(changed(made, tmp_path / "model", DAMAGES[damage]))
