"""The kept models of a run, each a complete folder for prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from emofuse.checkpoint import Checkpoint, fused_checkpoint, save_checkpoint
from emofuse.encoders.words import Subwords
from emofuse.files import plain_name
from emofuse.plan import Plan
from emofuse.report.model_card import model_card
from emofuse.report.tables import in_words
from emofuse.scoring.fuse import Fusion
from emofuse.scoring.record import Result
from emofuse.task import task_from
from emofuse.training.data import TrainingData
from emofuse.training.folder import TRIALS, remove_models
from emofuse.training.trials import Trial, folder_of, read_trial

MODELS = "models"


def keep_models(
    plan: Plan,
    trials: Sequence[Trial],
    data: TrainingData,
    how: Mapping[str, Fusion],
    result: Result,
    out: Path,
) -> None:
    """Write a model folder for every final trial and every ensemble, and remove those of earlier recipes.

    Args:
        plan: The experiment.
        trials: All trials; final ones are kept.
        data: Their training data.
        how: Fusion of each ensemble.
        result: The record of the run.
        out: The run folder.
    """
    kept = {
        one.model.name: _final_checkpoint(one, data, str(result.protocol.fingerprint), out)
        for one in trials
        if not one.fold.test
    }
    for one in plan.ensembles:
        if one.name in how:
            kept[one.name] = fused_checkpoint(one.name, {name: kept[name] for name in one.of}, how[one.name])
    for name, checkpoint in kept.items():
        about = replace(
            checkpoint,
            alignment=None if result.alignment is None else result.alignment.sources,
            text_languages=tuple(result.languages),
            text_sources=tuple(result.text_sources),
            measured=in_words(result, name),
        )
        save_checkpoint(about, out / MODELS / folder_of(name), card=model_card(name, result))
    remove_models(out / MODELS, but=[folder_of(name) for name in kept])


def _final_checkpoint(trial: Trial, data: TrainingData, fingerprint: str, out: Path) -> Checkpoint:
    from safetensors.torch import load_file

    folder = out / TRIALS / trial.folder
    subwords = Subwords.load(folder / "words.json") if (folder / "words.json").exists() else None
    task = task_from(read_trial(folder)["task"])
    model = trial.model.build(data.shapes(trial.model, subwords), task)
    with plain_name(folder / "model.safetensors") as place:
        model.load_state_dict(load_file(place))
    return Checkpoint(
        name=trial.model.name,
        model=model.eval(),
        networks={trial.model.name: trial.model},
        task=task,
        speech=data.speech_settings,
        text=data.text_settings,
        encoders={name: one for name, one in data.encoders.items() if name in trial.model.inputs.modalities},
        subwords=subwords,
        protocol=fingerprint,
        references=(trial.model.name,) if trial.model.takes_references else (),
    )
