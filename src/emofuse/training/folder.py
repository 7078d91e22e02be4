"""Checks of run folders, so that training on frozen features and fine-tuning never overwrite one another."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from emofuse.errors import SettingsError
from emofuse.files import read_json
from emofuse.manifest import other_corpus
from emofuse.parquet import read_frame
from emofuse.scoring.record import RESULT
from emofuse.training.state import BEST, CHECKPOINT
from emofuse.training.trials import folder_of, read_trial

MANIFEST, TRIALS = "manifest.parquet", "trials"
ENCODERS = "encoders"
"""Folder of tuned encoders in a trial's folder."""

PROCESSES = "processes"
"""Key in `trial.json` of a trial with tuned encoders only: the number of processes."""


def check_frozen(out: Path) -> None:
    """Check that training on frozen features overwrites no fine-tuning, finished or interrupted.

    Raises:
        SettingsError: The folder holds a run whose encoders are tuned.
    """
    if _result(out).get("tuned") or any(_is_tuned(folder) for folder in _trials(out)):
        raise SettingsError(
            "the folder holds a run whose encoders are tuned with the model", where=out, remedy="choose another folder"
        )


def check_tuned(out: Path, model: str) -> None:
    """Check that fine-tuning overwrites no run of another model or on frozen features.

    Raises:
        SettingsError: The folder holds such a run, finished or interrupted.
    """
    other = (out / RESULT).exists() and _result(out).get("tuned") != model
    if other or any(
        _is_frozen(one) or (_is_tuned(one) and one.parent.name != folder_of(model)) for one in _trials(out)
    ):
        raise SettingsError(
            "the folder holds the run of another model, or one on frozen features", where=out, remedy="choose another"
        )


def check_corpus(out: Path, manifest: pd.DataFrame) -> None:
    """Check that a folder holds no run on another corpus, which would be overwritten.

    Raises:
        SettingsError: It does.
    """
    try:
        before = read_frame(out / MANIFEST)[["corpus", "utterance"]]
    except (ValueError, KeyError):
        return  # No manifest, or one of another version.
    if what := other_corpus(before, manifest):
        raise SettingsError(f"the folder holds a run on {what}", where=out, remedy="choose another --out")


def remove_models(folder: Path, *, but: Collection[str]) -> None:
    """Remove models of an earlier recipe, which would count as this one's."""
    for place in folder.glob("*/"):
        if place.name not in but and (place / "settings.json").is_file() and not place.is_symlink():
            shutil.rmtree(place)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _trials(out: Path) -> Iterator[Path]:
    return out.glob(f"{TRIALS}/*/*")


def _is_tuned(folder: Path) -> bool:
    # A finished fold may keep only its tables; an interrupted one has no `trial.json` yet.
    return PROCESSES in read_trial(folder) or any((folder / name).exists() for name in (ENCODERS, CHECKPOINT, BEST))


def _is_frozen(folder: Path) -> bool:
    trial = read_trial(folder)
    return bool(trial) and PROCESSES not in trial


def _result(out: Path) -> dict[str, Any]:
    try:
        held = read_json(out / RESULT)
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}
