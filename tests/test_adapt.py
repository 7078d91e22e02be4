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
from emofuse.audio import SAMPLING_RATE
from emofuse.errors import CheckpointError
from emofuse.inference.card import BUILTIN, model_folder
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
        assert f"│ {name} " in shown
        line = next(line for line in shown.splitlines() if line.startswith(f"│ {name} "))
        assert f" {ua:.1f} [" in line
    assert "minus UA of" in shown
    assert "means nothing on recordings of its training" in shown


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
    assert "built-in │" not in done.stdout


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
