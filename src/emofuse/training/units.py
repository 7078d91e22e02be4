"""Units: one model, one fold, one seed, in a folder of its own; done once, skipped ever after."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from emofuse.errors import EmofuseError, TrainingError
from emofuse.files import make_folder, read_json, write_text, written_whole
from emofuse.models import build_model
from emofuse.progress import Progress, Silent
from emofuse.scoring.table import make_scores, write_scores
from emofuse.seeds import derive_seed, kept_random_state
from emofuse.settings import ModelKind, fingerprint
from emofuse.training.loop import fit, layer_weights, posteriors
from emofuse.training.material import (
    CLUSTERS,
    Material,
    granularities_of,
    pools_frames,
    streams_of,
    text_granularity_of,
)
from emofuse.types import TIERS, Fold
from emofuse.workers import new_pool, see_that_processes_start

VERSION = 5
LABEL = "Training"
SHOWN = 5


@dataclass(frozen=True)
class Unit:
    """One model to train: its kind, its split and its seed."""

    kind: ModelKind
    fold: Fold
    seed: int

    @property
    def name(self) -> str:
        """Its fold and seed."""
        return f"{self.fold.name}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Where its results lie, below the folder of all units."""
        # Folds are named after speakers and sessions, and those may be called anything.
        return Path(self.kind) / quote(self.name, safe=" ")

    @property
    def result(self) -> str:
        """The file that it is run for."""
        return "scores.parquet" if self.fold.test else "model.safetensors"


def unit_mark(unit: Unit, material: Material) -> str:
    """Changes whenever anything that shapes the unit's numbers does."""
    recipe = material.recipe
    streams = streams_of(unit.kind)
    fold = [list(part) for part in (unit.fold.train, unit.fold.validation, unit.fold.test)]
    names = [name for part in fold for name in part]
    inputs: list[Any] = []
    if "speech" in streams:
        found = granularities_of(unit.kind, recipe)
        tiers = set(found) & set(TIERS)
        # Where no step depends on the alignment, neither does the unit.
        keys = material.speech_keys if tiers else material.content_keys
        inputs += [*(material.speech[one].folder for one in found), _each(names, keys)]
        if pools_frames(unit.kind, recipe):
            # The view is the same whatever its frames are pooled to.
            inputs.append([recipe.speech.segments, recipe.speech.frames_per_step if tiers else 1])
    if "text" in streams and material.text:
        inputs += [material.text[text_granularity_of(unit.kind)].folder, _each(names, material.text_keys)]
    elif "text" in streams:
        inputs += [recipe.text.max_tokens, recipe.model.vocabulary, _each(names, material.texts)]
    # The granularity is part of the view, and the late rule joins units that are done.
    elsewhere = {"late_rule", "late_weights", "final", "vocabulary", "speech_granularity"}
    if not unit.kind.startswith("early"):
        elsewhere |= {"heads", "layers", "attention_dropout"}
    shape = recipe.model.model_dump(exclude=elsewhere)
    clusters = [[str(value) for value in row] for row in material.clusters.reindex(names).to_numpy(dtype=object)]
    about: list[Any] = [fold, _each(names, material.labels), clusters, list(material.classes)]
    if recipe.train_of(unit.kind).soft_labels:
        about.append([material.votes.get(name) for name in names])
    return fingerprint(VERSION, unit.kind, unit.fold.name, unit.seed, shape, recipe.train_of(unit.kind), inputs, about)


def _each(names: Sequence[str], values: Mapping[str, str]) -> list[str | None]:
    return [values.get(name) for name in names]


def is_done(unit: Unit, material: Material, root: Path) -> bool:
    """Whether the unit has been run with exactly these settings and data."""
    folder = root / unit.folder
    return (folder / unit.result).exists() and read_unit(folder).get("mark") == unit_mark(unit, material)


def read_unit(folder: Path) -> dict[str, Any]:
    """What a unit left behind beside its scores; empty where it has not finished."""
    try:
        values: dict[str, Any] = read_json(folder / "unit.json")
    except (OSError, ValueError):
        return {}
    return values


def run_unit(unit: Unit, material: Material, root: Path, *, device: str = "cpu") -> None:
    """Train, then score the test part, then write both; `unit.json` comes last and says that all is there.

    Raises:
        TrainingError: It diverged, and nothing of it is written.
    """
    with one_thread(), kept_random_state(), named(unit):
        _run_unit(unit, material, root, device=device)


@contextmanager
def named(unit: Unit) -> Iterator[None]:
    """Say of a training that diverges which it is."""
    try:
        yield
    except TrainingError as error:
        where = f"{unit.kind} {unit.name}"
        raise TrainingError(error.what, where=where, remedy=error.remedy) from error


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: the number of threads moves sums in their last bits, and `--jobs` must not."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run_unit(unit: Unit, material: Material, root: Path, *, device: str) -> None:
    started = time.monotonic()
    folder = root / unit.folder
    make_folder(folder)
    # Word pieces of an earlier recipe would pass for this one's.
    for name in ("unit.json", "words.json"):
        (folder / name).unlink(missing_ok=True)
    pieces = material.word_pieces(unit.kind, unit.fold.train)
    speech, text = material.shapes(unit.kind, pieces)
    recipe = material.recipe
    count = len(material.classes)
    validation = material.dataset(unit.kind, unit.fold.validation, pieces)
    trained = fit(
        lambda: build_model(unit.kind, recipe.model, classes=count, speech=speech, text=text),
        material.dataset(unit.kind, unit.fold.train, pieces),
        validation,
        recipe.train_of(unit.kind),
        classes=count,
        seed=derive_seed(unit.seed, unit.kind, unit.fold.name),
        device=device,
    )
    # What may still fail comes before anything is written.
    tested = None
    if unit.fold.test:
        tested = posteriors(trained.model, material.dataset(unit.kind, unit.fold.test, pieces), device=device)
    write_unit_scores(unit, material, folder / "validation.parquet", unit.fold.validation, trained.validation)
    if tested is not None:
        write_unit_scores(unit, material, folder / "scores.parquet", unit.fold.test, tested)
    else:
        from safetensors.torch import save_file

        weights = {name: value.cpu().contiguous() for name, value in trained.model.state_dict().items()}
        with written_whole(folder / "model.safetensors") as part:
            save_file(weights, part)
        if pieces is not None:
            pieces.save(folder / "words.json")
    values = {
        "mark": unit_mark(unit, material),
        "epochs": trained.epochs,
        "history": trained.history,
        "layer_weights": layer_weights(trained.model),
        "seconds": round(time.monotonic() - started, 2),
    }
    write_text(folder / "unit.json", json.dumps(values, indent=1))


def write_unit_scores(
    unit: Unit, material: Material, path: Path, names: Sequence[str], values: NDArray[np.float64]
) -> None:
    """Write posteriors of some utterances, `(utterances, classes)`, as a score table."""
    frame = pd.DataFrame(
        {
            "model": unit.kind,
            "seed": unit.seed,
            "fold": unit.fold.name,
            "utterance": list(names),
            "label": [material.labels[name] for name in names],
        }
    )
    for column in CLUSTERS:
        frame[column] = material.clusters[column].reindex(list(names)).to_numpy(dtype=object)
    frame[list(material.classes)] = values
    write_scores(make_scores(frame, source=path), path)


def run_units(
    units: Sequence[Unit],
    material: Material,
    root: Path,
    *,
    jobs: int,
    device: str = "cpu",
    progress: Progress = Silent(),
) -> int:
    """Run the units that are not done yet, in parallel processes; returns how many were run.

    A unit that fails stops the others from starting, and what has been finished stays. One that diverges stops none.

    Raises:
        TrainingError: Some have diverged; all others are done.
    """
    todo = [unit for unit in units if not is_done(unit, material, root)]
    progress.start(LABEL, len(units))
    progress.advance(LABEL, len(units) - len(todo))
    diverged = []
    try:
        outcomes: Iterator[TrainingError | None]
        if jobs <= 1 or len(todo) <= 1:
            outcomes = (_outcome(unit, material, root, device) for unit in todo)
        else:
            outcomes = _in_parallel(todo, material, root, jobs=min(jobs, len(todo)), device=device)
        for error in outcomes:
            progress.advance(LABEL)
            diverged += [error] if error is not None else []
    finally:
        progress.finish(LABEL)
    refuse_diverged(diverged)
    return len(todo)


def refuse_diverged(errors: Sequence[TrainingError]) -> None:
    """Say which trainings have diverged, after all others are done.

    Raises:
        TrainingError: There are any.
    """
    if errors:
        # In the order of names, whichever came first.
        first, *others = sorted(errors, key=lambda error: str(error.where))
        names = [str(error.where) for error in others]
        names[SHOWN:] = [f"{len(names) - SHOWN} others"] if len(names) > SHOWN else []
        also = f", as did {', '.join(names)}" if names else ""
        raise TrainingError(
            f"{first.what}{also}", where=first.where, remedy=f"{first.remedy}, and run it again: what is done stays"
        ) from first


def _outcome(unit: Unit, material: Material, root: Path, device: str) -> TrainingError | None:
    """Run a unit; its error where it diverged."""
    try:
        run_unit(unit, material, root, device=device)
    except TrainingError as error:
        return error
    return None


def _in_parallel(
    units: Sequence[Unit], material: Material, root: Path, *, jobs: int, device: str
) -> Iterator[TrainingError | None]:
    pool = new_pool(jobs, initializer=_start_worker, initargs=(material, root, device))
    with pool:
        waiting: set[Future[TrainingError | None]] = {pool.submit(_run_in_worker, unit) for unit in units}
        try:
            while waiting:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        except BrokenProcessPool as error:
            see_that_processes_start()
            raise EmofuseError(
                "a training process was killed from outside, as happens where memory runs out",
                remedy="run the same command with a smaller --jobs; what is finished stays",
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_WORKER: dict[str, Any] = {}


def _start_worker(material: Material, root: Path, device: str) -> None:
    _WORKER.update(material=material, root=root, device=device)


def _run_in_worker(unit: Unit) -> TrainingError | None:
    return _outcome(unit, _WORKER["material"], _WORKER["root"], _WORKER["device"])
