from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from transformers import get_cosine_schedule_with_warmup
from typer.testing import CliRunner

from emofuse.checkpoint import load_checkpoint
from emofuse.cli.app import app
from emofuse.corpora import read_corpus
from emofuse.cost import estimate
from emofuse.errors import EmofuseError, EncoderError, ManifestError, SettingsError, TrainingError
from emofuse.experiment import extract, prepare, run, train
from emofuse.features.dataset import Dataset
from emofuse.features.extras import Facts
from emofuse.features.store import FeatureKey, FeatureSet
from emofuse.finetune.run import finetune
from emofuse.manifest import read_manifest, write_manifest
from emofuse.models.base import Batch, EmotionModel, Inputs, ModelSettings, Output, Shapes, Speech
from emofuse.models.frontend import InputShape
from emofuse.models.unimodal import SpeechModel
from emofuse.plan import Plan, resolve
from emofuse.recipe import Recipe, load_recipe, recipe_from
from emofuse.scoring.table import read_scores
from emofuse.settings import SpeechSettings, TextSettings
from emofuse.settings import TrainSettings as Train
from emofuse.task import Classification, Task, balanced_weights
from emofuse.testing import tiny_corpus, tiny_text_encoder
from emofuse.training import loop as training_loop
from emofuse.training import trials
from emofuse.training.data import TrainingData
from emofuse.training.loop import fit, predict_scores
from emofuse.training.trainer import Schedule, Trainer, rate_at
from emofuse.training.trials import Trial, is_done, read_trial, run_trial, run_trials
from emofuse.types import EncoderSpecification, Fold

pytestmark = pytest.mark.usefixtures("no_report")

LAYERS, WIDTH = 2, 5
CLASSES = ("angry", "happy", "sad")
TASK = Classification(CLASSES)
NAMES = ("speech", "text", "concat", "early-frame")


# The rate, and the weights of classes


@given(steps=st.integers(4, 400), fraction=st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.5]))
@settings(max_examples=40, deadline=None)
def test_the_rate_is_that_of_transformers(steps: int, fraction: float) -> None:
    steps = steps // 20 * 20 or 20
    rise = round(fraction * steps)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, rise, steps)
    for step in range(steps):
        # Theirs begins its rise at zero, a step that changes nothing; ours is one step ahead until the peak.
        expected = theirs.lr_lambdas[0](step + 1 if step < rise else step)
        assert rate_at(step, steps=steps, warmup=fraction) == pytest.approx(expected, abs=1e-9)


@given(steps=st.integers(1, 500), warmup=st.floats(0, 0.99))
@settings(max_examples=40, deadline=None)
def test_the_rate_stays_between_zero_and_the_peak(steps: int, warmup: float) -> None:
    rates = [rate_at(step, steps=steps, warmup=warmup) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates), "no step is wasted on a rate of zero"
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_class_weights_are_the_balanced_ones(labels: list[int]) -> None:
    present = np.unique(labels)
    expected = np.zeros(5)
    expected[present] = compute_class_weight("balanced", classes=present, y=np.array(labels))
    np.testing.assert_allclose(balanced_weights(torch.tensor(labels), 5).numpy(), expected, rtol=1e-6)


# One training


def toy(
    classes: Sequence[int], *, count: int = 30, seed: int = 0, noise: float = 0.3, shift: float = 0.0, prefix: str = "u"
) -> Dataset:
    """Utterances of uneven length whose second layer encodes the class."""
    generator = torch.Generator().manual_seed(seed)
    features, labels = {}, {}
    for number in range(count):
        label = classes[number % len(classes)]
        values = noise * torch.randn(LAYERS, 1 + number % 4, WIDTH, generator=generator) + shift
        values[1, :, label] += 2
        features[f"{prefix}{number}"], labels[f"{prefix}{number}"] = values, label
    return Dataset(list(features), labels, {"speech": features.__getitem__})


def make_speech(task: Task = TASK) -> EmotionModel:
    settings = SpeechModel.Settings(width=16, dropout=0.2, pooling="mean")
    return SpeechModel(settings, Shapes(speech=InputShape(LAYERS, WIDTH)), task)


def accuracy(model: EmotionModel, dataset: Dataset) -> float:
    return float((predict_scores(model, dataset).argmax(1) == dataset.truth.numpy()).mean())


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


QUICK = Train(epochs=8, learning_rate=1e-2, batch_size=8)
LONGER = QUICK.model_copy(update={"epochs": 16})


def test_training_learns_what_can_be_learned() -> None:
    trained = fit(make_speech, toy([0, 1, 2]), toy([0, 1, 2], seed=1), LONGER, task=TASK, seed=0)
    fresh = toy([0, 1, 2], seed=2)
    assert accuracy(make_speech(), fresh) < 0.7
    assert accuracy(trained.model, fresh) > 0.95
    assert trained.history[-1]["loss"] < 0.7 * trained.history[0]["loss"]


def test_nothing_is_learned_where_there_is_nothing() -> None:
    """The counterpart: on labels that mean nothing, validation stays near chance."""
    train, validation = toy([0, 1, 2], noise=4, count=90), toy([0, 1, 2], noise=4, seed=1, count=300)
    train.truth = train.truth[torch.randperm(90, generator=torch.Generator().manual_seed(0))]
    trained = fit(make_speech, train, validation, QUICK, task=TASK, seed=0)
    assert accuracy(trained.model, validation) == pytest.approx(1 / 3, abs=0.12)


def test_the_best_epoch_is_kept() -> None:
    train, validation = toy([0, 1, 2], noise=2.0), toy([0, 1, 2], noise=2.0, seed=1, count=40)
    how = Train(epochs=25, patience=25, learning_rate=3e-2, batch_size=8)
    trained = fit(make_speech, train, validation, how, task=TASK, seed=0)
    found = [one["validation_ua"] for one in trained.history]
    assert len(found) == 25
    assert found[-1] < max(found), "the last epoch must not be the best, or this proves nothing"
    assert trained.epochs == found.index(max(found)) + 1
    predictions = trained.validation.argmax(1)
    assert balanced_accuracy_score(validation.truth.numpy(), predictions) == pytest.approx(max(found))
    np.testing.assert_array_equal(predict_scores(trained.model, validation), trained.validation)
    assert not trained.model.training


def test_training_stops_when_validation_no_longer_rises() -> None:
    train, validation = toy([0, 1, 2], noise=2.0), toy([0, 1, 2], noise=2.0, seed=1, count=40)
    how = Train(epochs=60, patience=4, learning_rate=3e-2, batch_size=8)
    trained = fit(make_speech, train, validation, how, task=TASK, seed=0)
    assert len(trained.history) == trained.epochs + 4


def test_seeds_decide_everything() -> None:
    def train(seed: int) -> Any:
        torch.rand(seed + 3)  # What was drawn before must not matter.
        np.random.rand(seed + 5)
        return fit(make_speech, toy([0, 1, 2]), toy([0, 1, 2], seed=1), QUICK, task=TASK, seed=seed)

    first, again, other = train(1), train(1), train(2)
    assert same(first.model.state_dict(), again.model.state_dict())
    assert first.history == again.history
    np.testing.assert_array_equal(first.validation, again.validation)
    assert not same(first.model.state_dict(), other.model.state_dict())


def step_once(**options: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Parameters before and after a single step of the optimiser at its full rate."""
    made: list[EmotionModel] = []
    before: dict[str, torch.Tensor] = {}

    def make(task: Task) -> EmotionModel:
        made.append(make_speech(task))
        before.update({name: value.detach().clone() for name, value in made[-1].named_parameters()})
        return made[-1]

    train = toy([0, 1, 2])
    how = Train(epochs=1, warmup=0.0, batch_size=len(train), weight_decay=0.0, clip=1e9, **options)
    trained = fit(make, train, toy([0, 1, 2], seed=1), how, task=TASK, seed=0)
    return before, dict(trained.model.named_parameters())


def test_layer_weights_learn_at_their_own_rate() -> None:
    """AdamW's first step has the length of the rate, whatever the gradient."""
    before, after = step_once(learning_rate=1e-3, layer_rate=7.0)
    moved = {name: (after[name] - value).abs().max().item() for name, value in before.items()}
    assert moved.pop("frontend.mix.scores") == pytest.approx(7e-3, rel=1e-2)
    assert len(moved) == 4
    for name, distance in moved.items():
        assert distance == pytest.approx(1e-3, rel=1e-2), name


def test_layer_weights_do_not_decay() -> None:
    how = Train(epochs=1, warmup=0.0, learning_rate=0.1, layer_rate=1e-9, weight_decay=0.5, batch_size=30)

    def make(task: Task) -> EmotionModel:
        model = make_speech(task)
        with torch.no_grad():
            model.get_parameter("frontend.mix.scores").fill_(3.0)
        return model

    trained = fit(make, toy([0, 1, 2]), toy([0, 1, 2], seed=1), how, task=TASK, seed=0)
    torch.testing.assert_close(trained.model.get_parameter("frontend.mix.scores"), torch.full((LAYERS,), 3.0))


def test_class_weights_lift_the_rare_class() -> None:
    train = toy([0] * 9 + [1], count=60, noise=2.5)
    fresh = toy([0, 1], count=300, noise=2.5, seed=3)
    rare = fresh.truth.numpy() == 1

    def found(weighted: bool) -> float:
        how = Train(epochs=6, learning_rate=1e-2, batch_size=16, class_weights=weighted)
        trained = fit(make_speech, train, toy([0, 1], seed=1), how, task=TASK, seed=0)
        return float((predict_scores(trained.model, fresh).argmax(1) == 1)[rare].mean())

    assert found(True) > found(False) + 0.1


@pytest.mark.parametrize("refit", [False, True])
def test_statistics_come_from_the_training_part_only(refit: bool) -> None:
    train, validation = joint(toy([0, 1, 2], shift=1.0), toy([0, 1, 2], seed=1, shift=-50.0, prefix="v"))
    how = QUICK.model_copy(update={"refit": refit})
    trained = fit(make_speech, train, validation, how, task=TASK, seed=0)
    used = [train, validation] if refit else [train]
    frames = np.concatenate([part.readers["speech"](name).numpy() for part in used for name in part.names], axis=1)
    state = trained.model.state_dict()
    np.testing.assert_allclose(
        state["frontend.mix.mean"].numpy(), frames.mean(1, dtype=np.float64), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(state["frontend.mix.deviation"].numpy(), frames.std(1, dtype=np.float64), rtol=1e-5)


def joint(train: Dataset, validation: Dataset) -> tuple[Dataset, Dataset]:
    """Both parts with one reader, as the folds of one corpus have."""
    sources = {name: part for part in (train, validation) for name in part.names}

    def read(name: str) -> torch.Tensor:
        return sources[name].readers["speech"](name)

    parts = [
        Dataset(part.names, dict(zip(part.names, part.truth.tolist(), strict=True)), {"speech": read})
        for part in (train, validation)
    ]
    return parts[0], parts[1]


def test_refitting_learns_from_the_validation_part_too() -> None:
    """A class that only the validation part has is known after refitting, and unknown without."""
    train, validation = joint(toy([0, 1]), toy([0, 1, 2, 2], seed=1, count=40, prefix="v"))
    fresh = toy([2], seed=5)
    how = Train(epochs=8, learning_rate=3e-2, batch_size=4)
    plain = fit(make_speech, train, validation, how, task=TASK, seed=0)
    refitted = fit(make_speech, train, validation, how.model_copy(update={"refit": True}), task=TASK, seed=0)
    assert accuracy(plain.model, fresh) == 0.0
    assert accuracy(refitted.model, fresh) == 1.0
    # What fusion weights are tuned on stays blind to the validation part.
    assert refitted.epochs == plain.epochs
    np.testing.assert_array_equal(refitted.validation, plain.validation)


# Trials, on a store made by hand

WORDS = {"angry": "why you bad", "happy": "so very good", "sad": "it is gone"}


def specification(modality: str = "speech") -> EncoderSpecification:
    return EncoderSpecification(
        name="made", family="made", modality=modality, revision="1", layers=LAYERS, selected=tuple(range(LAYERS)),
        width=WIDTH, sampling_rate=16000, stride=320, receptive_field=400)  # fmt: skip


def make_plan(**changes: Any) -> Plan:
    values = {
        "name": "trials",
        "models": list(NAMES),
        "ensembles": [{"name": "late", "of": ["speech", "text"]}],
        "seeds": [0],
        "text": {"encoder": "words"},
        "model": {"width": 8, "heads": 2},
        "train": {"epochs": 3, "batch_size": 8, "learning_rate": 1e-2},
    }
    return resolve(recipe_from({**values, **changes}, source="the test"))


def trial(model: str, fold: Fold | None = None, seed: int = 0, *, plan: Plan | None = None) -> Trial:
    return Trial((plan or make_plan()).model(model), fold or make_fold(), seed)


def make_data(folder: Path, *, spoil: Sequence[str] = ()) -> TrainingData:
    """Six speakers; the utterances in `spoil` get other features, words and labels, as if the corpus had them."""
    generator = np.random.default_rng(0)
    names = [f"s{speaker}-{number}" for speaker in range(6) for number in range(6)]
    labels = {name: CLASSES[int(name[-1]) % 3] for name in names}
    texts = {name: f"{WORDS[labels[name]]} {name[-1]}" for name in names}
    frames, pooled = {}, {}
    for name in names:
        values = generator.normal(size=(LAYERS, int(generator.integers(1, 6)), WIDTH)).astype(np.float32)
        values[1, :, CLASSES.index(labels[name])] += 1.5
        if name in spoil:
            values = 100 - 40 * values
            texts[name] = "zzz unheard of"
            labels[name] = CLASSES[(CLASSES.index(labels[name]) + 1) % 3]
        frames[f"key-{name}"], pooled[f"key-{name}"] = values, values.mean(1, keepdims=True)
    feature_sets = {}
    for granularity, features in (("frame", frames), ("utterance", pooled)):
        feature_sets[granularity] = FeatureKey(specification=specification(), granularity=granularity)
        FeatureSet(folder, feature_sets[granularity]).write(features)
    clusters = pd.DataFrame({"speaker": [name[:2] for name in names], "session": None, "dialogue": None}, index=names)
    return TrainingData(
        task=TASK,
        truth={name: CLASSES.index(label) for name, label in labels.items()},
        clusters=clusters.astype("object"),
        store=folder,
        speech_settings=SpeechSettings(),
        text_settings=TextSettings(encoder="words"),
        speech=feature_sets,
        speech_keys={name: f"key-{name}" for name in names},
        facts={name: Facts(text=text) for name, text in texts.items()},
    )


def make_fold(name: str = "fold-1", *, test: Sequence[str] = ("s4", "s5")) -> Fold:
    def of(*speakers: str) -> tuple[str, ...]:
        return tuple(f"{speaker}-{number}" for speaker in speakers for number in range(6))

    return Fold(name=name, train=of("s0", "s1", "s2"), validation=of("s3"), test=of(*test))


@pytest.fixture
def data(tmp_path: Path) -> TrainingData:
    return make_data(tmp_path / "store")


def watch(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Weights of every model that `fit` hands to a trial from now on."""
    seen: list[dict[str, torch.Tensor]] = []

    def watched(*given: Any, **options: Any) -> Any:
        trained = fit(*given, **options)
        seen.append(trained.model.state_dict())
        return trained

    monkeypatch.setattr(trials, "fit", watched)
    return seen


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("model", NAMES)
def test_the_trainer_cannot_see_the_test_fold(
    model: str, refit: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(monkeypatch)
    how = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, "class_weights": True, "refit": refit}
    one = trial(model, plan=make_plan(train=how))
    folders = []
    for name, spoil in (("clean", ()), ("spoilt", one.fold.test)):
        run_trial(one, make_data(tmp_path / name / "store", spoil=spoil), tmp_path / name)
        folders.append(tmp_path / name / one.folder)
    clean, spoilt = folders
    assert same(seen[0], seen[1])
    assert (clean / "validation.parquet").read_bytes() == (spoilt / "validation.parquet").read_bytes()
    left = [{key: read_trial(folder)[key] for key in ("epochs", "history", "layer_weights")} for folder in folders]
    assert left[0] == left[1]
    assert (clean / "scores.parquet").read_bytes() != (spoilt / "scores.parquet").read_bytes()


@pytest.mark.parametrize("part", ["train", "validation"])
def test_the_trainer_does_see_the_other_parts(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, the test above could pass because spoiling does nothing."""
    seen = watch(monkeypatch)
    how = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, "refit": True}
    one = trial("early-frame", plan=make_plan(train=how))
    for name, spoil in (("clean", ()), ("spoilt", getattr(one.fold, part))):
        run_trial(one, make_data(tmp_path / name / "store", spoil=spoil), tmp_path / name)
    assert not same(seen[0], seen[1])


def scores_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.parquet"))}


def all_trials(plan: Plan | None = None) -> list[Trial]:
    return [trial(name, fold, plan=plan) for name in NAMES for fold in folds()]


def folds() -> list[Fold]:
    return [make_fold("fold-1", test=["s4"]), make_fold("fold-2", test=["s5"])]


def test_the_number_of_jobs_changes_no_bit(data: TrainingData, tmp_path: Path) -> None:
    for jobs in (1, 2):
        assert run_trials(all_trials(), data, tmp_path / str(jobs), jobs=jobs) == len(all_trials())
    found = scores_of(tmp_path / "1")
    assert len(found) == 2 * len(all_trials())
    assert found == scores_of(tmp_path / "2")


def test_scores_hold_the_model_s_posteriors_of_the_test_part(data: TrainingData, tmp_path: Path) -> None:
    one = trial("concat", seed=3)
    run_trial(one, data, tmp_path)
    table = pd.read_parquet(tmp_path / one.folder / "scores.parquet")
    assert table["utterance"].tolist() == list(one.fold.test)
    assert table["label"].tolist() == [CLASSES[data.truth[name]] for name in one.fold.test]
    assert set(table["seed"]) == {3}
    assert table["speaker"].tolist() == [name[:2] for name in one.fold.test]
    np.testing.assert_allclose(table[list(CLASSES)].sum(axis=1), 1)
    assert pd.read_parquet(tmp_path / one.folder / "validation.parquet")["utterance"].tolist() == list(
        one.fold.validation
    )


Case = tuple[Plan, TrainingData]


def with_recipe(**changes: Any) -> Callable[[TrainingData], Case]:
    return lambda data: (make_plan(**changes), data)


def with_data(change: Callable[[TrainingData], Mapping[str, Any]]) -> Callable[[TrainingData], Case]:
    return lambda data: (make_plan(), replace(data, **change(data)))


def with_value(name: str, utterance: str, value: Any) -> Callable[[TrainingData], Case]:
    """Another value of one utterance."""

    def change(data: TrainingData) -> Mapping[str, Any]:
        values = getattr(data, name)
        assert values[utterance] != value
        return {name: {**values, utterance: value}}

    return with_data(change)


def with_text(**changes: Any) -> Callable[[TrainingData], Case]:
    return with_data(lambda data: {"text_settings": data.text_settings.model_copy(update=changes)})


def rename_speaker(data: TrainingData) -> Mapping[str, Any]:
    clusters = data.clusters.copy()
    clusters.loc["s0-0", "speaker"] = "somebody else"
    return {"clusters": clusters}


def other_train(**changes: Any) -> Callable[[TrainingData], Case]:
    return with_recipe(train={"epochs": 3, "batch_size": 8, "learning_rate": 1e-2, **changes})


def other_model(**changes: Any) -> Callable[[TrainingData], Case]:
    return with_recipe(model={"width": 8, "heads": 2, **changes})


ONE_OF_THEM = [*NAMES[:3], {"name": "early-frame", "settings": {"pooling": "mean"}, "train": {"epochs": 2}}]
READS_SPEECH, READS_TEXT = {"speech", "concat", "early-frame"}, {"text", "concat", "early-frame"}
CHANGES: dict[str, tuple[Callable[[TrainingData], Case], set[str]]] = {
    "rate": (other_train(learning_rate=2e-2), set(NAMES)),
    "dropout": (other_model(dropout=0.5), set(NAMES)),
    "pooling": (other_model(pooling="mean"), set(NAMES)),
    "heads": (other_model(heads=4), {"early-frame"}),
    "layers": (other_model(layers=2), {"early-frame"}),
    "granularity": (other_model(granularity="frame"), {"speech", "concat"}),
    "settings of one model": (with_recipe(models=ONE_OF_THEM), {"early-frame"}),
    "ensembles": (
        with_recipe(ensembles=[{"name": "both", "of": ["concat", "text"], "rule": "product", "weights": "tuned"}]),
        set(),
    ),
    "vocabulary": (with_text(vocabulary=99), READS_TEXT),
    "longest text": (with_text(max_tokens=9), READS_TEXT),
    "batch of an encoder that is not used": (with_text(batch_size=9), set()),
    "name": (with_recipe(name="other"), set()),
    "label": (with_value("truth", "s0-0", 2), set(NAMES)),
    "words": (with_value("facts", "s0-0", Facts(text="corrected")), READS_TEXT),
    "words of a test utterance": (with_value("facts", "s4-0", Facts(text="changed")), READS_TEXT),
    "audio": (with_value("speech_keys", "s0-0", "key-s0-1"), READS_SPEECH),
    "speaker": (with_data(rename_speaker), set(NAMES)),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingData, Path]:
    folder = tmp_path_factory.mktemp("finished")
    data = make_data(folder / "store")
    assert run_trials(all_trials(), data, folder / "trials", jobs=1) == len(all_trials())
    assert run_trials(all_trials(), data, folder / "trials", jobs=1) == 0
    return data, folder / "trials"


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_reruns_what_it_touches_and_nothing_else(change: str, finished: tuple[TrainingData, Path]) -> None:
    data, root = finished
    apply, touched = CHANGES[change]
    plan, changed = apply(data)
    assert {one.model.name for one in all_trials(plan) if not is_done(one, changed, root)} == touched


def test_a_changed_trial_is_run_anew_and_the_others_stay(data: TrainingData, tmp_path: Path) -> None:
    run_trials(all_trials(), data, tmp_path, jobs=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("trial.json")}
    assert run_trials(all_trials(make_plan(model={"width": 8, "heads": 4})), data, tmp_path, jobs=1) == 2
    again = {path for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert again == {tmp_path / one.folder / "trial.json" for one in all_trials() if one.model.name == "early-frame"}


def test_a_trial_without_its_scores_is_not_done(data: TrainingData, tmp_path: Path) -> None:
    one = trial("speech")
    run_trials([one], data, tmp_path, jobs=1)
    assert is_done(one, data, tmp_path)
    (tmp_path / one.folder / one.result).unlink()
    assert not is_done(one, data, tmp_path)


def test_a_speaker_with_a_path_for_a_name_stays_in_the_folder_of_trials() -> None:
    assert len(trial("speech", make_fold("speaker-/../../x")).folder.parts) == 2


def test_a_trial_that_was_cut_off_is_run_again(data: TrainingData, tmp_path: Path) -> None:
    one = trial("speech")
    run_trial(one, data, tmp_path)
    complete = (tmp_path / one.folder / "scores.parquet").read_bytes()
    (tmp_path / one.folder / "trial.json").unlink()
    (tmp_path / one.folder / "scores.parquet").write_bytes(complete[:100])
    assert run_trials([one], data, tmp_path, jobs=1) == 1
    assert (tmp_path / one.folder / "scores.parquet").read_bytes() == complete


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_trial_that_fails_says_why_and_leaves_the_others(jobs: int, data: TrainingData, tmp_path: Path) -> None:
    broken = replace(data, speech_keys={key: value for key, value in data.speech_keys.items() if key != "s5-0"})
    with pytest.raises(EmofuseError, match="utterance 's5-0' has no features"):
        run_trials([trial("speech", fold) for fold in folds()], broken, tmp_path, jobs=jobs)
    assert is_done(trial("speech", folds()[0]), broken, tmp_path)
    assert not is_done(trial("speech", folds()[1]), broken, tmp_path)


def diverge(data: TrainingData, fold: Fold, monkeypatch: pytest.MonkeyPatch, *, epoch: int) -> None:
    """Let the loss of one fold leave the range of floats in an epoch."""
    real = training_loop._Lessons.steps

    def steps(self: Any, number: int) -> Any:
        if number == epoch and set(self.train.names) <= set(fold.train):
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))
        return real(self, number)

    monkeypatch.setattr(training_loop._Lessons, "steps", steps)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_training_that_diverges_is_named_and_costs_no_other(
    epoch: int, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (replace(make_fold(f"fold-{n}"), train=make_fold().train[: 18 - n]) for n in (1, 2))
    second = replace(second, train=second.train[:-1])
    wanted = [trial("speech", second), trial("speech", first)]
    diverge(data, second, monkeypatch, epoch=epoch)
    with pytest.raises(TrainingError) as caught:
        run_trials(wanted, data, tmp_path, jobs=1)
    assert str(caught.value).startswith(f"speech fold-2-seed0: the training diverged: the loss of epoch {epoch} is nan")
    assert "lower train.learning_rate" in str(caught.value)
    assert is_done(wanted[1], data, tmp_path)
    assert not is_done(wanted[0], data, tmp_path)
    assert list((tmp_path / wanted[0].folder).iterdir()) == []
    monkeypatch.undo()
    assert run_trials(wanted, data, tmp_path, jobs=1) == 1


def test_several_that_diverge_are_named_in_their_order(tmp_path: Path) -> None:
    names = [f"text fold-{number}-seed0" for number in (3, 1, 2)]
    errors = [TrainingError("the training diverged", where=name, remedy="lower it") for name in names]
    with pytest.raises(TrainingError) as caught:
        trials.refuse_diverged(errors)
    assert str(caught.value) == (
        "text fold-1-seed0: the training diverged, as did text fold-2-seed0, text fold-3-seed0; "
        "lower it, and run it again: what is done stays."
    )
    trials.refuse_diverged([])


@pytest.mark.parametrize("where", ["weights", "answers", "features"])
def test_what_is_not_finite_is_never_kept(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the last step of all, after which no loss is computed, and in features that were stored before."""
    data, how = toy([0, 1, 2], count=12), Train(epochs=1, batch_size=12)
    if where == "answers":
        reader = data.readers["speech"]
        spoilt = Dataset(data.names, dict(zip(data.names, data.truth.tolist(), strict=True)),
                         {"speech": lambda name: reader(name) * float("inf")})  # fmt: skip
        with pytest.raises(TrainingError, match=r"the answer to utterance '.*' is not finite"):
            fit(make_speech, data, spoilt, how, task=TASK, seed=0)
        return
    if where == "features":
        data.readers["speech"](data.names[2])[0, 0, 0] = float("inf")
        with pytest.raises(TrainingError, match=f"speech features of utterance '{data.names[2]}' are not finite"):
            fit(make_speech, data, data, how, task=TASK, seed=0)
        return
    real = torch.optim.AdamW.step

    def step(self: Any, closure: Any = None) -> Any:
        result = real(self, closure)
        with torch.no_grad():
            self.param_groups[0]["params"][0][...] = float("nan")
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    for one in (how, how.model_copy(update={"refit": True})):
        with pytest.raises(TrainingError, match="finite"):
            fit(make_speech, data, data, one, task=TASK, seed=0)


def test_the_caller_keeps_random_numbers_and_threads(data: TrainingData, tmp_path: Path) -> None:
    def state() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(),
                torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()]  # fmt: skip

    before = state()
    run_trial(trial("speech"), data, tmp_path)
    assert state() == before


# Whole runs


RECIPE = """
name = "Killed"
models = ["speech", "text"]
seeds = [0, 1]
[speech]
encoder = "logmel"
[text]
encoder = "words"
[model]
width = 16
pooling = "mean"
[[ensembles]]
name = "late"
of = ["speech", "text"]
rule = "product"
weights = "tuned"
calibrate = true
[train]
epochs = 12
patience = 12
batch_size = 4
[protocol]
kind = "speakers"
folds = 3
"""


def small_recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "small",
        "models": ["speech"],
        "seeds": [0],
        "speech": {"encoder": "logmel"},
        "text": {"encoder": "words"},
        "model": {"width": 8},
        "train": {"epochs": 1},
        "protocol": {"kind": "speakers", "folds": 2},
    }
    return recipe_from({**values, **changes}, source="the test")


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(status[1]) == parent and b"spawn_main" in (entry / "cmdline").read_bytes():
            found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_a_worker_that_the_system_kills_is_reported_in_a_sentence(data: TrainingData, tmp_path: Path) -> None:
    """As happens where memory runs out."""
    endless = make_plan(train={"epochs": 100_000, "patience": 100_000, "batch_size": 8})
    killer = threading.Thread(target=kill_first_child)
    killer.start()
    with pytest.raises(EmofuseError, match=r"killed.*--jobs"):
        run_trials(all_trials(endless), data, tmp_path, jobs=2)
    killer.join()


def kill_first_child() -> None:
    while not (found := children(os.getpid())):
        time.sleep(0.01)
    time.sleep(0.5)
    for one in found[:1]:
        os.kill(one, signal.SIGKILL)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


def kill_and_go_on(
    tmp_path: Path, start: Callable[[Path, Plan, Any], Callable[[], None]], go_on: Callable[[Path, Plan, Any], None]
) -> None:
    """Kill a run once two of its trials are done; it goes on with the others and ends as if undisturbed."""
    (tmp_path / "killed.toml").write_text(RECIPE)
    out = tmp_path / "killed"
    plan = resolve(load_recipe(str(tmp_path / "killed.toml")))
    prepare("table", tiny_corpus(tmp_path / "corpus", utterances=2), tmp_path / "manifest.parquet")
    features = extract(read_manifest(tmp_path / "manifest.parquet"), plan, tmp_path / "store")

    def done() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in out.glob("trials/*/*/trial.json")}

    kill = start(out, plan, features)
    until = time.monotonic() + 120
    while len(done()) < 2 and time.monotonic() < until:
        time.sleep(0.005)
    kill()
    finished = done()
    assert 2 <= len(finished) < 14
    assert not (out / "scores.parquet").exists()

    go_on(out, plan, features)
    assert len(done()) == 14
    assert {path: when for path, when in done().items() if path in finished} == finished
    alone = train(read_manifest(tmp_path / "manifest.parquet"), plan, features, tmp_path / "undisturbed", jobs=1).out
    assert (out / "scores.parquet").read_bytes() == (alone / "scores.parquet").read_bytes()
    for name in ("speech", "late"):
        kept = [folder / "models" / name / "model.safetensors" for folder in (out, alone)]
        assert kept[0].read_bytes() == kept[1].read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    def whole(out: Path, plan: Plan, features: Any) -> None:
        train(read_manifest(tmp_path / "manifest.parquet"), plan, features, out, jobs=1)

    def start(out: Path, plan: Plan, features: Any) -> Callable[[], None]:
        child = os.fork()
        if not child:
            try:
                whole(out, plan, features)
            finally:
                os._exit(0)

        def kill() -> None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

        return kill

    kill_and_go_on(tmp_path, start, whole)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no groups of processes to kill")
def test_a_killed_command_goes_on_where_it_was(tmp_path: Path) -> None:
    def command(out: Path, jobs: int) -> subprocess.Popen[str]:
        places = {"manifest": tmp_path / "manifest.parquet", "store": tmp_path / "store", "out": out, "jobs": jobs}
        options = [word for name, value in places.items() for word in (f"--{name}", str(value))]
        return subprocess.Popen(
            [sys.executable, "-m", "emofuse", "train", str(tmp_path / "killed.toml"), *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def start(out: Path, *_: Any) -> Callable[[], None]:
        process = command(out, 2)

        def kill() -> None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

        return kill

    def go_on(out: Path, *_: Any) -> None:
        process = command(out, 1)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors

    kill_and_go_on(tmp_path, start, go_on)


def test_another_text_encoder_in_the_same_folder_leaves_no_subwords(tmp_path: Path) -> None:
    table = tiny_corpus(tmp_path / "corpus", utterances=1)
    for encoder in ("words", str(tiny_text_encoder(tmp_path / "bert", family="bert"))):
        small = small_recipe(models=["text"], text={"encoder": encoder})
        run(small, "table", table, tmp_path / "run", jobs=1)
    assert load_checkpoint(tmp_path / "run/models/text").subwords is None


def test_a_recording_or_transcript_that_is_fixed_counts(tmp_path: Path) -> None:
    """A run into the same folder after the corpus was corrected gives what a fresh run gives."""
    import soundfile

    table = tiny_corpus(tmp_path / "corpus", utterances=1)
    small = small_recipe(models=["speech", "text"], train={"epochs": 2})
    run(small, "table", table, tmp_path / "run", jobs=1)
    before = (tmp_path / "run" / "scores.parquet").read_bytes()
    clip, rate = soundfile.read(tmp_path / "corpus/audio/s0_sad_0.wav")
    soundfile.write(tmp_path / "corpus/audio/s0_sad_0.wav", clip[::-1] * np.linspace(0, 1, len(clip)), rate)
    table.write_text(table.read_text().replace("so very good 0", "so very glad 0", 1))
    for out in ("run", "fresh"):
        run(small, "table", table, tmp_path / out, jobs=1)
    after = (tmp_path / "run" / "scores.parquet").read_bytes()
    assert after == (tmp_path / "fresh" / "scores.parquet").read_bytes()
    assert after != before
    kept = json.loads((tmp_path / "run" / "result.json").read_text())
    assert kept["models"].keys() == {"speech", "text"}


# Soft labels.


def test_soft_labels_are_learnt_as_fractions() -> None:
    """A linear model on one constant input ends at the votes' mean, which the labels' mean is not."""
    votes = {f"u{place}": (0.6, 0.4) if place % 4 else (0.0, 1.0) for place in range(64)}
    labels = {name: int(fractions[1] > fractions[0]) for name, fractions in votes.items()}

    def read(_: str) -> torch.Tensor:
        return torch.ones(1, 1, 2)

    def fraction(name: str) -> torch.Tensor:
        return torch.tensor(votes[name])

    class Bias(EmotionModel):
        def __init__(self, task: Task) -> None:
            super().__init__(ModelSettings(), Shapes(), task)
            self.bias = torch.nn.Parameter(torch.zeros(2))

        @classmethod
        def inputs(cls, settings: Any) -> Inputs:
            return Inputs(speech=Speech())

        def forward(self, batch: Batch) -> Output:
            return Output(self.bias.expand(len(batch.names), 2))

    how = Train(learning_rate=0.05, weight_decay=0.0, epochs=60, patience=60, batch_size=64, warmup=0.0)
    for targets, expected in ((fraction, np.mean(list(votes.values()), axis=0)), (None, [0.75, 0.25])):
        data = Dataset(list(votes), labels, {"speech": read}, targets=targets)
        bias = Bias(Classification(("calm", "sad")))
        Trainer(
            model=bias,
            groups=bias.parameter_groups(how),
            lessons=training_loop._Lessons(bias, data + data, None, 64, 0, "cpu"),
            schedule=Schedule(epochs=60, steps=120, warmup=0.0),
            seed=0,
        ).run()
        np.testing.assert_allclose(predict_scores(bias, data)[0], expected, atol=0.02)


@pytest.mark.parametrize("model", ["speech", "text", "early-frame"])
def test_a_refit_learns_votes_of_training_and_validation(model: str, tmp_path: Path) -> None:
    """Of one epoch over everything, in the order that the seed gives, nothing but the votes differ."""
    plan = make_plan(train={"epochs": 1, "batch_size": 8, "soft_labels": True, "refit": True})
    one, trained = trial(model, plan=plan), {}
    for name, validation in (("soft", (0.5, 0.5, 0.0)), ("label", None)):
        data = make_data(tmp_path / name / "store")
        votes = {utterance: (1 / 3, 1 / 3, 1 / 3) for utterance in data.truth if not utterance.startswith("s3")}
        votes |= dict.fromkeys(one.fold.validation, validation) if validation else {}
        facts = {utterance: replace(known, votes=votes.get(utterance, ())) for utterance, known in data.facts.items()}
        run_trial(one, replace(data, facts=facts), tmp_path / name)
        trained[name] = read_scores(tmp_path / name / one.folder / "scores.parquet").posteriors()
    assert (trained["soft"] != trained["label"]).any()


def test_votes_change_training_and_nothing_else(tmp_path: Path) -> None:
    table = tiny_corpus(tmp_path / "corpus", utterances=1)
    frame = pd.read_csv(table)
    frame["votes"] = [json.dumps({label: 2, "sad": 1}) for label in frame["label"]]
    frame.to_csv(table, index=False)
    results = {}
    for name, soft in (("hard", False), ("soft", True), ("again", True)):
        small = small_recipe(train={"epochs": 2, "soft_labels": soft})
        results[name] = read_scores(run(small, "table", table, tmp_path / name, jobs=1).out / "scores.parquet")
    assert results["soft"].labels().tolist() == results["hard"].labels().tolist()
    assert (results["soft"].posteriors() != results["hard"].posteriors()).all()
    np.testing.assert_array_equal(results["soft"].posteriors(), results["again"].posteriors())
    # Changed votes are another training, where votes are what is learnt.
    frame["votes"] = [json.dumps({label: 1}) for label in frame["label"]]
    frame.to_csv(table, index=False)
    relabelled = read_scores(run(small, "table", table, tmp_path / "soft", jobs=1).out / "scores.parquet")
    np.testing.assert_allclose(relabelled.posteriors(), results["hard"].posteriors(), atol=1e-6)
    frame.drop(columns="votes").to_csv(table, index=False)
    with pytest.raises(ManifestError, match=r"train.soft_labels: no utterance has votes for these emotions; set it"):
        run(small, "table", table, tmp_path / "none", jobs=1)


# What a folder and a corpus allow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("tiny"), utterances=1)


def with_protocol(**changes: Any) -> Recipe:
    return small_recipe(protocol={"kind": "speakers", "folds": 2, **changes})


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (with_protocol(merge={"exited": "happy"}), "no utterance is labelled 'exited'"),
        (with_protocol(labels=["angry", "joy"]), "no utterance is labelled 'joy'"),
        (small_recipe(train={"soft_labels": True}), "train.soft_labels: no utterance has votes for these emotions"),
        (small_recipe(finetune={"soft_labels": True}), "no utterance has votes for these emotions"),
    ],
)
def test_what_conflicts_with_the_corpus_is_refused_before_anything_is_computed(
    chosen: Recipe, message: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: Any, **options: Any) -> Any:
        raise AssertionError("computed before it was refused")

    for place in (
        "experiment.load_speech_encoder",
        "finetune.run.load_trainable_encoder",
        "finetune.run.open_recordings",
    ):
        monkeypatch.setattr(f"emofuse.{place}", never)
    manifest = read_corpus("table", tiny).manifest
    plan = resolve(chosen)
    works: list[Callable[[], Any]] = [lambda: finetune(manifest, plan, tmp_path / "out", model="speech")]
    if not chosen.finetune.soft_labels:
        works += [
            lambda: run(chosen, "table", tiny, tmp_path / "out"),
            lambda: extract(manifest, plan, tmp_path / "store"),
            lambda: estimate(manifest, plan, jobs=1),
        ]
    for work in works:
        with pytest.raises(EmofuseError, match=message):
            work()


def test_the_command_train_refuses_before_it_encodes(tiny: Path, tmp_path: Path) -> None:
    prepare("table", tiny, tmp_path / "manifest.parquet")
    options = ["--manifest", str(tmp_path / "manifest.parquet"), "--store", str(tmp_path / "store"), "--out"]
    options += [str(tmp_path / "out"), "--speech-encoder", "logmel", "--set", "protocol.kind=split"]
    done = CliRunner().invoke(app, ["train", "speech", *options], standalone_mode=False)
    assert "has no session" in str(done.exception)
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "out/manifest.parquet").exists()


def test_an_encoder_that_cannot_be_had_is_said_before_the_alignment(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emofuse.experiment.align", lambda *given, **options: pytest.fail("it was aligned before"))
    chosen = small_recipe(models=["early-word"], speech={"encoder": str(tmp_path / "absent")}, text={})
    with pytest.raises(EncoderError) as caught:
        run(chosen, "table", tiny, tmp_path / "out")
    assert "--speech-encoder builtin:speech --text-encoder builtin:text" in str(caught.value)


def test_a_run_leaves_the_caller_s_random_numbers_and_threads_alone(tiny: Path, tmp_path: Path) -> None:
    def state() -> list[object]:
        draws = [random.getstate(), *(str(part) for part in np.random.get_state())]
        exact = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
        return [*draws, torch.get_rng_state().tolist(), torch.get_num_threads(), exact]

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = state()
        run(small_recipe(), "table", tiny, tmp_path / "out", jobs=1)
        assert state() == before
    finally:
        torch.set_num_threads(threads)


def test_models_of_an_earlier_recipe_do_not_stay(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    late = {"name": "late", "of": ["speech", "text"]}
    run(small_recipe(models=["speech", "text"], ensembles=[late]), "table", tiny, out, jobs=1)
    assert {path.name for path in (out / "models").iterdir()} == {"speech", "text", "late"}
    (out / "models/mine").mkdir()
    (out / "models/mine/notes.txt").write_text("of a person")
    run(small_recipe(models=["text"]), "table", tiny, out, jobs=1)
    assert {path.name for path in (out / "models").iterdir()} == {"text", "mine"}


def test_the_folder_of_another_corpus_is_refused_by_every_command(tiny: Path, tmp_path: Path) -> None:
    """Tables that people make are all of the corpus `table`, and may share no utterance."""
    out, plan = tmp_path / "out", resolve(small_recipe())
    ours = read_corpus("table", tiny).manifest
    write_manifest(ours, out / "manifest.parquet")
    other = ours.assign(utterance="other-" + ours["utterance"])
    for manifest, message in (
        (other, "the folder holds a run on other utterances; choose another --out"),
        (ours.assign(corpus="ravdess"), "the folder holds a run on table; choose another --out"),
    ):
        features = extract(manifest, plan, tmp_path / "store")
        for work in (
            lambda manifest=manifest, features=features: train(manifest, plan, features, out),
            lambda manifest=manifest: finetune(manifest, plan, out, model="speech"),
            lambda manifest=manifest: estimate(manifest, plan, jobs=1, out=out),
        ):
            with pytest.raises(SettingsError, match=message):
                work()
    frame = pd.read_csv(tiny)
    frame["utterance"] = [f"new{number}" for number in range(len(frame))]
    frame.to_csv(tiny.with_name("other.csv"), index=False)
    with pytest.raises(SettingsError, match="holds a run on other utterances"):
        run(small_recipe(), "table", tiny.with_name("other.csv"), out)
    pd.testing.assert_frame_equal(read_manifest(out / "manifest.parquet"), ours)
