"""Trials: one model, fold and seed, each in its own folder; finished trials are skipped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emofuse.errors import EmofuseError, TrainingError
from emofuse.features.reference import TESTED
from emofuse.files import make_folder, read_json, write_text, written_atomically
from emofuse.plan import ModelPlan, pools_frames
from emofuse.progress import Progress, Silent
from emofuse.scoring.table import make_scores, write_scores
from emofuse.seeds import derive_seed, kept_random_state, one_thread
from emofuse.settings import fingerprint
from emofuse.training.data import CLUSTERS, TrainingData
from emofuse.training.logs import listeners
from emofuse.training.loop import fit, layer_weights, predict_scores
from emofuse.types import Fold, Log
from emofuse.workers import new_pool, see_that_processes_start

VERSION = 7
LABEL = "Training"
SHOWN = 5
DIGITS = 5
REFERRED = "reference"


def folder_of(name: str) -> str:
    """Folder name of a model, or of a fold and seed, for any name.

    Example:
        >>> folder_of("early-frame"), folder_of("a/b")
        ('early-frame', 'a%2Fb')
    """
    return quote(name, safe=" ")


@dataclass(frozen=True)
class Trial:
    """One model to train: its plan, its split and its seed."""

    model: ModelPlan
    fold: Fold
    seed: int

    @property
    def name(self) -> str:
        """Its fold and seed."""
        return f"{self.fold.name}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Folder of its results, below the folder of all trials."""
        # Folds are named after speakers and sessions.
        return Path(folder_of(self.model.name)) / folder_of(self.name)

    @property
    def result(self) -> str:
        """Its main result file."""
        return "scores.parquet" if self.fold.test else "model.safetensors"


def cache_key(trial: Trial, data: TrainingData) -> str:
    """Changes with anything that affects the trial's results."""
    model, reads = trial.model, trial.model.inputs
    fold = [list(part) for part in (trial.fold.train, trial.fold.validation, trial.fold.test)]
    names = [name for part in fold for name in part]
    inputs: list[Any] = []
    if reads.speech:
        # The trial depends on the alignment only if its steps do.
        keys = data.speech_keys if reads.tiers else data.content_keys
        inputs += [*(data.speech[step].folder for step in reads.steps), _each(names, keys)]
        if pools_frames(reads, data.speech_settings):
            # The feature set is the same for all poolings of its frames.
            settings = data.speech_settings
            inputs.append([settings.segments, settings.frames_per_step if reads.tiers else 1])
    if reads.text and data.text:
        inputs += [data.text[reads.text.step].folder, _each(names, data.text_keys)]
    elif reads.text:
        texts = {name: data.facts[name].text for name in names}
        inputs += [data.text_settings.max_tokens, data.text_settings.vocabulary, _each(names, texts)]
    clusters = [[str(value) for value in row] for row in data.clusters.reindex(names).to_numpy(dtype=object)]
    about: list[Any] = [fold, [data.truth.get(name) for name in names], clusters, data.task.record()]
    if model.train.soft_labels:
        about.append([list(data.facts[name].votes) for name in names])
    if reads.extras:
        about.append([asdict(data.facts[name]) for name in names])
    return fingerprint(
        VERSION,
        model.name,
        model.record(),
        model.code,
        reads.record(),
        trial.fold.name,
        trial.seed,
        model.train,
        inputs,
        about,
    )


def _each(names: Sequence[str], values: Mapping[str, str]) -> list[str | None]:
    return [values.get(name) for name in names]


def is_done(trial: Trial, data: TrainingData, root: Path) -> bool:
    """Whether the trial has been run with exactly these settings and data."""
    folder = root / trial.folder
    return (folder / trial.result).exists() and read_trial(folder).get("key") == cache_key(trial, data)


def read_trial(folder: Path) -> dict[str, Any]:
    """Record of a finished trial; empty otherwise."""
    try:
        values: dict[str, Any] = read_json(folder / "trial.json")
    except (OSError, ValueError):
        return {}
    return values


def run_trial(trial: Trial, data: TrainingData, root: Path, *, device: str = "cpu", log: Log | None = None) -> None:
    """Train, score the test part, and write both; `trial.json` comes last and marks the trial as finished.

    Raises:
        TrainingError: It diverged; nothing is written.
    """
    with one_thread(), kept_random_state(), named(trial):
        _run_trial(trial, data, root, device=device, log=log)


def curves(trials: Iterable[Trial], root: Path) -> dict[str, list[dict[str, list[float]]]]:
    """Training loss and validation metric by epoch of every trial of a fold, by model."""
    found: dict[str, list[dict[str, list[float]]]] = {}
    for trial in trials:
        history = read_trial(root / trial.folder).get("history") if trial.fold.test else None
        if history:
            names = [name for name in history[0] if name == "loss" or name.startswith("validation_")]
            curve = {name: [round(record[name], DIGITS) for record in history] for name in names}
            found.setdefault(trial.model.name, []).append(curve)
    return found


def layer_mixes(trials: Iterable[Trial], root: Path) -> dict[str, dict[str, list[list[float]]]]:
    """Learned fractions of layers in every trial of a fold, by model and modality, where there are several layers."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for trial in trials:
        for modality, weights in read_trial(root / trial.folder)["layer_weights"].items() if trial.fold.test else ():
            if len(weights) > 1:
                found.setdefault(trial.model.name, {}).setdefault(modality, []).append(weights)
    return found


@contextmanager
def named(trial: Trial) -> Iterator[None]:
    """Name the trial in the error of a diverged training."""
    try:
        yield
    except TrainingError as error:
        where = f"{trial.model.name} {trial.name}"
        raise TrainingError(error.what, where=where, remedy=error.remedy) from error


def _run_trial(trial: Trial, data: TrainingData, root: Path, *, device: str, log: Log | None) -> None:
    started = time.monotonic()
    folder = root / trial.folder
    make_folder(folder)
    # Subwords of an earlier recipe would count as this one's.
    for name in ("trial.json", "words.json"):
        (folder / name).unlink(missing_ok=True)
    subwords = data.subwords(trial.model, trial.fold.train)
    shapes = data.shapes(trial.model, subwords)
    seed = derive_seed(trial.seed, trial.model.name, trial.fold.name)
    known = (*trial.fold.train, *trial.fold.validation)
    drawn = data.handfuls(trial.model, known, seed=seed, fraction=trial.model.train.references)
    trained = fit(
        lambda task: trial.model.build(shapes, task),
        data.dataset(trial.model, trial.fold.train, subwords, handfuls=drawn),
        data.dataset(trial.model, trial.fold.validation, subwords),
        trial.model.train,
        task=data.task,
        seed=seed,
        device=device,
        listeners=listeners(log, folder),
    )
    # Do all that may fail before writing.
    tested = referred = None
    if trial.fold.test:
        tested = predict_scores(trained.model, data.dataset(trial.model, trial.fold.test, subwords), device=device)
        if drawn is not None:
            given = data.handfuls(trial.model, trial.fold.test, seed=seed, clips=(TESTED, TESTED))
            dataset = data.dataset(trial.model, trial.fold.test, subwords, handfuls=given)
            referred = predict_scores(trained.model, dataset, device=device)
    write_trial_scores(trial, data, folder / "validation.parquet", trial.fold.validation, trained.validation)
    if referred is not None:
        write_trial_scores(trial, data, folder / f"{REFERRED}.parquet", trial.fold.test, referred)
    if tested is not None:
        write_trial_scores(trial, data, folder / "scores.parquet", trial.fold.test, tested)
    else:
        from safetensors.torch import save_file

        weights = {name: value.cpu().contiguous() for name, value in trained.model.state_dict().items()}
        with written_atomically(folder / "model.safetensors") as part:
            save_file(weights, part)
        if subwords is not None:
            subwords.save(folder / "words.json")
    values = {
        "key": cache_key(trial, data),
        "task": trained.model.task.record(),
        "epochs": trained.epochs,
        "history": trained.history,
        "layer_weights": layer_weights(trained.model),
        "seconds": round(time.monotonic() - started, 2),
    }
    write_text(folder / "trial.json", json.dumps(values, indent=1))


def referred_name(model: str) -> str:
    """Name of a model's scores with a reference of ten clips of each speaker.

    Example:
        >>> referred_name("speech")
        'speech, 10 clips as reference'
    """
    return f"{model}, {TESTED} clips as reference"


def write_trial_scores(
    trial: Trial, data: TrainingData, path: Path, names: Sequence[str], values: NDArray[np.float64]
) -> None:
    """Write scores of some utterances, `(utterances, outputs)`, as a score table."""
    frame = pd.DataFrame(
        {"model": trial.model.name, "seed": trial.seed, "fold": trial.fold.name, "utterance": list(names)}
    )
    for column in CLUSTERS:
        frame[column] = data.clusters[column].reindex(list(names)).to_numpy(dtype=object)
    for column, found in data.task.columns(data.truths(names), values).items():
        frame[column] = found
    write_scores(make_scores(frame, source=path), path)


def run_trials(
    trials: Sequence[Trial],
    data: TrainingData,
    root: Path,
    *,
    jobs: int,
    device: str = "cpu",
    log: Log | None = None,
    progress: Progress = Silent(),
) -> int:
    """Run the unfinished trials in parallel processes; return their number.

    A failing trial stops others from starting, and finished ones stay. A diverging one stops none.

    Raises:
        TrainingError: Some have diverged; all others are finished.
    """
    todo = [trial for trial in trials if not is_done(trial, data, root)]
    progress.start(LABEL, len(trials))
    progress.advance(LABEL, len(trials) - len(todo))
    diverged = []
    try:
        outcomes: Iterator[TrainingError | None]
        if jobs <= 1 or len(todo) <= 1:
            outcomes = (_outcome(trial, data, root, device, log) for trial in todo)
        else:
            outcomes = _in_parallel(todo, data, root, jobs=min(jobs, len(todo)), device=device, log=log)
        for error in outcomes:
            progress.advance(LABEL)
            diverged += [error] if error is not None else []
    finally:
        progress.finish(LABEL)
    refuse_diverged(diverged)
    return len(todo)


def refuse_diverged(errors: Sequence[TrainingError]) -> None:
    """Report diverged trainings, after all others have finished.

    Raises:
        TrainingError: There are any.
    """
    if errors:
        # Sorted, since the order of completion varies.
        first, *others = sorted(errors, key=lambda error: str(error.where))
        names = [str(error.where) for error in others]
        names[SHOWN:] = [f"{len(names) - SHOWN} others"] if len(names) > SHOWN else []
        also = f", as did {', '.join(names)}" if names else ""
        raise TrainingError(
            f"{first.what}{also}", where=first.where, remedy=f"{first.remedy}, and run it again: what is done stays"
        ) from first


def _outcome(trial: Trial, data: TrainingData, root: Path, device: str, log: Log | None) -> TrainingError | None:
    """Run a trial; return its error if it diverged."""
    try:
        run_trial(trial, data, root, device=device, log=log)
    except TrainingError as error:
        return error
    return None


def _in_parallel(
    trials: Sequence[Trial], data: TrainingData, root: Path, *, jobs: int, device: str, log: Log | None
) -> Iterator[TrainingError | None]:
    pool = new_pool(jobs, initializer=_start_worker, initargs=(data, root, device, log))
    with pool:
        waiting: set[Future[TrainingError | None]] = {pool.submit(_run_in_worker, trial) for trial in trials}
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


def _start_worker(data: TrainingData, root: Path, device: str, log: Log | None) -> None:
    _WORKER.update(data=data, root=root, device=device, log=log)


def _run_in_worker(trial: Trial) -> TrainingError | None:
    return _outcome(trial, _WORKER["data"], _WORKER["root"], _WORKER["device"], _WORKER["log"])
