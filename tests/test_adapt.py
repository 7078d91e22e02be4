"""A model of own recordings: any labels, speakers or none, beside the built-in model on the same clips."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from sklearn.metrics import recall_score

import emofuse
from emofuse.adaptation import adapt
from emofuse.audio import SAMPLING_RATE, read_audio
from emofuse.errors import AudioError, CheckpointError
from emofuse.inference.card import BUILTIN, model_folder
from emofuse.recipe import load_recipe
from emofuse.scoring.table import read_scores
from emofuse.testing import tone

QUICK = ["--seeds", "0", "--set", "train.epochs=2", "--set", "protocol.folds=2", "--jobs", "1"]
LABELS = ("Angry", "happy", "neutral", "sad")

pytestmark = pytest.mark.usefixtures("no_report")


def table(folder: Path, labels: tuple[str, ...], *, speakers: bool = True) -> Path:
    rows = []
    for number, label in enumerate(label for label in labels for _ in range(4)):
        path = folder / f"{number}.wav"
        soundfile.write(path, tone(0.4, seed=number), SAMPLING_RATE)
        rows.append({"audio": path.name, "mood": label, "speaker": f"s{number % 4}"})
    frame = pd.DataFrame(rows)
    (frame if speakers else frame.drop(columns="speaker")).to_csv(folder / "mine.csv", index=False)
    return folder / "mine.csv"


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, emo: Callable[..., Any], no_report: None) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("adapt")
    table(folder, LABELS)
    done = emo("adapt", "--table", "mine.csv", "--out", "mine", "--column", "label=mood", *QUICK, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_both_models_are_tested_on_the_same_clips(adapted: tuple[Path, str]) -> None:
    folder, shown = adapted
    own = read_scores(folder / "mine" / "scores.parquet").frame
    # The user's spelling of a label is the label.
    truth = own["label"]
    assert set(truth) == set(LABELS)
    predictor = emofuse.load()
    spelt = {label.lower(): label for label in LABELS}
    theirs = [spelt[predictor.predict(folder / f"{name}.wav").label] for name in own["utterance"]]
    posteriors = own[list(LABELS)].to_numpy()
    ours = np.array(LABELS)[posteriors.argmax(1)]
    for name, answers in (("own", ours), ("built-in", theirs)):
        ua = 100 * recall_score(truth, answers, average="macro")
        line = next(line for line in shown.splitlines() if line.startswith(f"│ {name} "))
        assert f" {ua:.1f} [" in line
    assert "minus UA of" in shown
    assert "means nothing on recordings of its own training" in shown


def test_the_folder_is_a_model(adapted: tuple[Path, str], emo: Callable[..., Any]) -> None:
    folder, _ = adapted
    done = emo("predict", "0.wav", "--model", "mine", "--format", "json", folder=folder)
    (row,) = json.loads(done.stdout)
    assert set(row["posteriors"]) == set(LABELS)
    assert emo("info", "mine", folder=folder).stdout.startswith("# emofuse `speech` model")


def test_other_labels_without_speakers(tmp_path: Path, emo: Callable[..., Any]) -> None:
    table(tmp_path, ("calm", "agitated"), speakers=False)
    done = emo("adapt", "--table", "mine.csv", "--out", "mine", "--column", "label=mood", *QUICK, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The built-in model knows none of these labels." in done.stdout
    assert "Speakers are unknown, and one may both train and test: the figures are optimistic." in done.stderr
    assert "built-in" not in done.stdout.replace("built-in model knows", "")


def test_one_more_label_and_one_row_without_sound(tmp_path: Path, emo: Callable[..., Any]) -> None:
    place = table(tmp_path, ("angry", "calm"))
    typed = ("adapt", "--table", "mine.csv", "--out", "mine", "--column", "label=mood", *QUICK)
    done = emo(*typed, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The built-in model knows the labels of 4 of 8 recordings." in done.stdout
    assert "minus UA of" not in done.stdout
    place.write_text(place.read_text() + ",angry,s0\n")
    done = emo(*typed[:4], "other", *typed[5:], folder=tmp_path)
    assert done.returncode == 2
    assert "audio" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("changed", ['models=["text"]', 'task.values=["valence"]'])
def test_other_models_are_refused_before_training(changed: str, tmp_path: Path, emo: Callable[..., Any]) -> None:
    table(tmp_path, LABELS)
    done = emo("adapt", "--table", "mine.csv", "--out", "mine", "--column", "label=mood", "--set", changed,
               "--set", "train.class_weights=false", folder=tmp_path)  # fmt: skip
    assert done.returncode == 2
    assert "one model, `speech`, that predicts classes; leave out these settings" in done.stderr
    assert not (tmp_path / "mine").exists()


def test_a_file_that_has_gone_is_not_compared(adapted: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = adapted

    def gone(path: Path, **span: Any) -> Any:
        if path.name == "3.wav":
            raise AudioError("no such file", where=path, remedy="check the path")
        return read_audio(path, **span)

    monkeypatch.setattr("emofuse.adaptation.read_audio", gone)
    recipe = load_recipe("adapt", overrides=["seeds=[0]", "train.epochs=2", "protocol.folds=2"])
    found = adapt(recipe, folder / "mine.csv", folder / "mine", columns={"label": "mood"}, jobs=1)
    assert found.builtin is not None
    assert (found.own.utterances, found.builtin.utterances) == (16, 15)
    assert found.comparison is not None


def test_a_run_of_several_models_is_none(tmp_path: Path) -> None:
    for name in ("late", "speech"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "settings.json").touch()
    with pytest.raises(CheckpointError, match="a run of several models; name one of models/late, models/speech"):
        model_folder(tmp_path)
    assert model_folder(None) == BUILTIN
    assert model_folder(tmp_path / "models" / "late") == tmp_path / "models" / "late"
    (tmp_path / "models" / "late" / "settings.json").unlink()
    assert model_folder(tmp_path) == tmp_path / "models" / "speech"
