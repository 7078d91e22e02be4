"""Fine-tuning of a corpus: fold by fold and seed by seed to the same tables and models as a run on frozen features."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from emofuse.audio.notes import count_notes
from emofuse.checkpoint import Checkpoint, save_checkpoint
from emofuse.corpora import CORPORA
from emofuse.distill.card import write_card
from emofuse.encoders import TrainableEncoder, load_speech_encoder, load_text_encoder, load_trainable_encoder
from emofuse.errors import ManifestError, SettingsError, TrainingError
from emofuse.experiment import Outcome, builtin_named, check_encoder_settings, check_plan
from emofuse.files import plain_name, write_text, written_atomically, written_folder
from emofuse.finetune.loop import Tuned, Tuner
from emofuse.finetune.network import TunedNetwork
from emofuse.finetune.recordings import Recordings, open_recordings
from emofuse.inputs import nearest
from emofuse.keep import MODELS
from emofuse.locks import alone
from emofuse.manifest import sources_of, utterances, write_manifest
from emofuse.models.base import EmotionModel
from emofuse.plan import ModelPlan, Plan, shapes_of
from emofuse.progress import Progress, Silent
from emofuse.protocols import FINAL, Protocol, make_protocol, save_protocol
from emofuse.report import write_report
from emofuse.report.model_card import model_card
from emofuse.scoring.record import Result
from emofuse.scoring.table import join_scores, read_scores, write_scores
from emofuse.seeds import derive_seed, kept_random_state, seed_everything
from emofuse.settings import SpeechSettings, TextSettings, fingerprint
from emofuse.task import Task, task_from
from emofuse.training.data import TrainingData, facts_of, task_of
from emofuse.training.folder import (
    ENCODERS,
    MANIFEST,
    PROCESSES,
    TRIALS,
    check_corpus,
    check_tuned,
    remove_models,
)
from emofuse.training.logs import check_log, listeners
from emofuse.training.loop import layer_weights
from emofuse.training.processes import Processes
from emofuse.training.state import CHECKPOINT, discard
from emofuse.training.summary import summarise
from emofuse.training.trials import (
    Trial,
    curves,
    folder_of,
    layer_mixes,
    named,
    read_trial,
    refuse_diverged,
    write_trial_scores,
)
from emofuse.types import EncoderSpecification, Log

VERSION = 1
HEAD = "model.safetensors"
TUNED = "The encoders were trained together with the model, on the training part of each fold."


@kept_random_state()
@alone("out")
def finetune(
    manifest: pd.DataFrame,
    plan: Plan,
    out: Path,
    *,
    model: str = "early-frame",
    folds: Sequence[str] = (),
    keep_folds: bool = False,
    processes: Processes | None = None,
    log: Log | None = None,
    command: str = "",
    notes: Sequence[str] = (),
    skipped: Mapping[str, str] | None = None,
    progress: Progress = Silent(),
) -> Outcome:
    """Train a model and its encoders together, fold by fold and seed by seed, and score what was held out.

    Every process calls this with the same arguments; the first one writes. Score tables,
    `result.json` and `models/<model>/` are those of a run on frozen features, and the model that is kept brings its
    tuned encoders along. Folds and seeds that are done are not trained again; one that was cut off goes on from its
    last epoch.

    Args:
        manifest: The corpus.
        plan: The experiment.
        out: The run folder; several machines must share it.
        model: Name of the one that stands above the encoders.
        folds: Names of folds to train, `final` for the model that is kept; none for all of them.
        keep_folds: Keep the tuned encoders and model of each fold too, in `models/<model>-<fold>-seed<seed>/`.
        processes: The processes; None for this one alone, on accelerate's device.
        log: What to write of each epoch into the trials' folders, such as `tensorboard`.
        command: What the user typed, for the report.
        notes: Remarks for the report.
        skipped: Utterances that were left out before, and why.
        progress: Reports each fold.

    Raises:
        SettingsError: The settings do not fit one another, or the folder holds another run.
        TrainingError: A training diverged; all others are done.
        ManifestError: No utterance has what the model reads.
        ProtocolError: The corpus cannot be split as the settings say.
        EncoderError: An encoder cannot be loaded, or has nothing to tune.
    """
    check_log(log)
    processes = processes or Processes()
    plan = plan.tuned(model)
    network = plan.model(model)
    check_tuned(out, model)
    check_corpus(out, manifest)
    check_plan(manifest, plan)
    _check_inputs(network, plan)
    if "text" in plan.modalities and plan.text.context:
        raise SettingsError("encoders are not tuned with dialogue context", where="text.context", remedy="set it to 0")
    specifications = {modality: encoder.specification for modality, encoder in _load(plan, "cpu").items()}
    recordings = open_recordings(list(utterances(manifest)), plan.modalities, processes, progress=progress)
    left_out = {**(skipped or {}), **{name: error.advice for name, error in recordings.failed.items()}}
    usable = manifest[manifest["utterance"].isin(list(recordings.rows))].reset_index(drop=True)
    if usable.empty:
        raise ManifestError("no utterance can be used", remedy="see the reasons above and fix the recordings")
    protocol = make_protocol(usable, plan.protocol, values=plan.task.values)
    job = _Job(
        model=network,
        plan=plan,
        data=TrainingData(
            task=task_of(plan, protocol),
            truth=protocol.truth,
            clusters=usable.set_index("utterance")[["speaker", "session", "dialogue"]].astype("object"),
            store=out,
            speech_settings=plan.speech,
            text_settings=plan.text,
            facts=facts_of(usable, plan, protocol),
        ),
        recordings=recordings,
        specifications=specifications,
        root=out / TRIALS,
        corpora=_corpora(usable),
        command=command,
        keep_folds=keep_folds,
        processes=processes,
        log=log,
    )
    trials = _trials(network, protocol, plan, folds)
    if processes.main:
        write_manifest(manifest, out / MANIFEST)
        save_protocol(protocol, out / "protocol.json")
    diverged = []
    for trial in trials:
        if not job.is_done(trial):
            try:
                job.run(trial, progress)
            except TrainingError as error:
                diverged.append(error)
        elif processes.main:
            # A command that was killed may have come no further than its last file.
            discard(job.root / trial.folder)
        processes.wait()
    result = Result(models={})
    if processes.main:
        notes = [
            *notes,
            *count_notes(recordings.notes),
            *([f"Fine-tuning does not read {', '.join(plan.not_tuned)} of the recipe."] if plan.not_tuned else []),
        ]
        result = _gather(job, protocol, usable, out, notes=notes, skipped=left_out)
    refuse_diverged(diverged)
    return Outcome(out=out, result=result, skipped=left_out)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What all folds and seeds share."""

    model: ModelPlan
    plan: Plan
    data: TrainingData
    recordings: Recordings
    specifications: Mapping[str, EncoderSpecification]
    root: Path
    corpora: tuple[str, ...]
    command: str
    keep_folds: bool
    processes: Processes
    log: Log | None

    def key(self, trial: Trial) -> str:
        """Changes whenever anything that shapes the trial's numbers does."""
        data, model = self.data, self.model
        parts = [list(part) for part in (trial.fold.train, trial.fold.validation, trial.fold.test)]
        names = [name for part in parts for name in part]
        encoders = [[one.revision, list(one.selected)] for one in self.specifications.values()]
        about = [[self.recordings.keys[name], data.truth[name], *map(str, data.clusters.loc[name])] for name in names]
        limits = [self.plan.speech.frames_per_step, self.plan.text.max_tokens]
        split = [model.name, trial.fold.name, trial.seed, parts, data.task.record()]
        soft = model.finetune.soft_labels
        votes = [[list(data.facts[name].votes) for name in names]] if soft else []
        return fingerprint(VERSION, split, about, encoders, limits, model.record(), model.finetune, votes)

    def keeps(self, trial: Trial) -> bool:
        """Whether the tuned encoders and the model are kept."""
        return self.keep_folds or not trial.fold.test

    def finished(self, trial: Trial) -> bool:
        """Whether the trial has been run with exactly these settings and data."""
        folder = self.root / trial.folder
        whole = not self.keeps(trial) or (folder / HEAD).is_file()
        return whole and read_trial(folder).get("key") == self.key(trial)

    def is_done(self, trial: Trial) -> bool:
        """The value that the first process has, sent to all."""
        return bool(self.processes.total(torch.tensor(int(self.processes.main and self.finished(trial)))))

    def run(self, trial: Trial, progress: Progress) -> None:
        """Train, score, write; `trial.json` comes last and says that all is there."""
        started = time.monotonic()
        folder = self.root / trial.folder
        if self.processes.main:
            # Results of an earlier training would otherwise count as this one's.
            for name in ("trial.json", HEAD):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / ENCODERS, ignore_errors=True)
        seed = derive_seed(trial.seed, "finetune", trial.model.name, trial.fold.name)
        encoders = _load(self.plan, str(self.processes.device))
        truth = torch.from_numpy(self.data.truths(trial.fold.train))
        task = self.data.task.fitted(truth, self.model.finetune)
        network = self._network(encoders, task, seed)
        key, resumes = self.key(trial), (folder / CHECKPOINT).exists()
        tuner = Tuner(
            network=network,
            recordings=self.recordings,
            data=self.data,
            settings=self.model.finetune,
            seed=seed,
            processes=self.processes,
            folder=folder,
            key=key,
            listeners=listeners(self.log, folder, resumes=resumes) if self.processes.main else (),
        )
        try:
            with named(trial):
                tuned = tuner.run(trial.fold.train, trial.fold.validation, progress=progress)
                tested = tuner.scores(trial.fold.test) if trial.fold.test else None
        except TrainingError:
            # With other settings it begins again, and with these it would diverge again.
            if self.processes.main:
                discard(folder)
            raise
        if not self.processes.main:
            return
        write_trial_scores(trial, self.data, folder / "validation.parquet", trial.fold.validation, tuned.validation)
        if tested is not None:
            write_trial_scores(trial, self.data, folder / "scores.parquet", trial.fold.test, tested)
        if self.keeps(trial):
            self._keep(network, encoders, folder)
        self._write_trial(folder, key, network, tuned, seconds=time.monotonic() - started)
        discard(folder)

    def _network(self, encoders: Mapping[str, TrainableEncoder], task: Task, seed: int) -> TunedNetwork:
        seed_everything(seed)
        network = TunedNetwork(
            _head(self.model, self.plan, task, self.specifications),
            encoders,
            granularity="utterance" if self.model.inputs.steps == ("utterance",) else "frame",
            frames_per_step=self.plan.speech.frames_per_step,
            gradient_checkpointing=self.model.finetune.gradient_checkpointing,
        )
        return network.to(self.processes.device)

    def _keep(self, network: TunedNetwork, encoders: Mapping[str, TrainableEncoder], folder: Path) -> None:
        """Write the tuned encoders, each as a folder that a recipe can name, and the weights of the model above."""
        from safetensors.torch import save_file

        for modality, encoder in encoders.items():
            place = folder / ENCODERS / modality
            with written_folder(place) as part:
                encoder.save(part)
            before = self.specifications[modality]
            write_card(
                place,
                title=f"{Path(before.name).name}, tuned by emofuse",
                licence=before.licence,
                exposure=[*self.corpora, *before.exposure],
                facts={
                    "What it is": f"The {before.family} encoder {Path(before.name).name} (revision "
                    f"{before.revision[:12]}), trained further together with a model of emotion.",
                    "Exposure": "It has seen the labels of the utterances that trained it, so its features must not be "
                    "used to test on them. The terms of the corpus hold beside the licence.",
                },
                settings=self.model.finetune,
                command=self.command,
            )
        weights = {name: value.cpu().contiguous() for name, value in network.head.state_dict().items()}
        with written_atomically(folder / HEAD) as part:
            save_file(weights, part)

    def _write_trial(self, folder: Path, key: str, network: TunedNetwork, tuned: Tuned, *, seconds: float) -> None:
        values = {
            "key": key,
            "task": network.head.task.record(),
            "epochs": tuned.epochs,
            "history": tuned.history,
            "layer_weights": layer_weights(network.head),
            "seconds": round(seconds, 2),
            PROCESSES: self.processes.count,
        }
        write_text(folder / "trial.json", json.dumps(values, indent=1))

    def checkpoint(self, trial: Trial, protocol: str) -> Checkpoint:
        """A kept model with its tuned encoders, for prediction."""
        from safetensors.torch import load_file

        folder, plan = self.root / trial.folder, self.plan
        places = {modality: str((folder / ENCODERS / modality).resolve()) for modality in plan.modalities}
        speech, text = plan.speech, plan.text
        encoders = {}
        if "speech" in places:
            # In float32, as its scores were computed.
            update = {"encoder": places["speech"], "revision": None, "precision": "float32"}
            speech = speech.model_copy(update=update)
            encoders["speech"] = load_speech_encoder(speech).specification
        if "text" in places:
            text = text.model_copy(update={"encoder": places["text"], "revision": None})
            encoders["text"] = load_text_encoder(text).specification
        task = task_from(read_trial(folder)["task"])
        model = _head(self.model, plan, task, encoders)
        with plain_name(folder / HEAD) as place:
            model.load_state_dict(load_file(place))
        return Checkpoint(
            name=self.model.name,
            model=model.eval(),
            networks={self.model.name: self.model},
            task=task,
            speech=speech,
            text=text,
            encoders=encoders,
            subwords=None,
            protocol=protocol,
        )


def _load(plan: Plan, device: str) -> dict[str, TrainableEncoder]:
    settings: Mapping[str, SpeechSettings | TextSettings] = {"speech": plan.speech, "text": plan.text}
    check_encoder_settings(plan.speech, plan.text, plan.modalities)
    with builtin_named(plan.modalities):
        return {one: load_trainable_encoder(settings[one], device=device) for one in plan.modalities}


def _head(model: ModelPlan, plan: Plan, task: Task, encoders: Mapping[str, EncoderSpecification]) -> EmotionModel:
    return model.build(shapes_of(model.inputs, plan.speech, encoders, subwords=None), task)


def _check_inputs(model: ModelPlan, plan: Plan) -> None:
    """Check that a model reads what encoders give while they are tuned; segments are for features that are stored."""
    steps, text = model.inputs.steps, model.inputs.text
    if len(steps) > 1 or not set(steps) <= {"utterance", "frame"}:
        raise SettingsError(
            f"encoders are not tuned under {' and '.join(f'{step}s' for step in steps)}, which {model.name} reads",
            where="model",
            remedy="use a model of utterances or frames",
        )
    if text and text.step != "token":
        raise SettingsError(
            f"encoders are not tuned under {text.step}s, which {model.name} reads", where="model", remedy="use tokens"
        )
    if steps == ("utterance",) and plan.speech.segments != "mean":
        raise SettingsError(
            f"encoders are not tuned under {plan.speech.segments} of frames",
            where="speech.segments",
            remedy="use mean, and pool in the model with model.granularity=frame",
        )


def _trials(model: ModelPlan, protocol: Protocol, plan: Plan, names: Sequence[str]) -> list[Trial]:
    """Folds by every seed, and the model that is kept by the first."""
    known = [*(fold.name for fold in protocol.folds), FINAL]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SettingsError(f"there is no fold {unknown[0]!r}", where="fold", remedy=nearest(unknown[0], known))
    wanted = names or known
    trials = [Trial(model, fold, seed) for fold in protocol.folds if fold.name in wanted for seed in plan.seeds]
    if FINAL in wanted:
        trials.append(Trial(model, protocol.final, plan.seeds[0]))
    return trials


def _corpora(manifest: pd.DataFrame) -> tuple[str, ...]:
    return tuple(
        f"{CORPORA[name].title} ({CORPORA[name].licence})" if name in CORPORA else name for name in sources_of(manifest)
    )


def _gather(
    job: _Job,
    protocol: Protocol,
    manifest: pd.DataFrame,
    out: Path,
    *,
    notes: Sequence[str],
    skipped: Mapping[str, str],
) -> Result:
    """Write what all folds and seeds that are done have come to, and the models that are kept."""
    plan, name = job.plan, job.model.name
    trials = _trials(job.model, protocol, plan, ())
    done = [trial for trial in trials if job.finished(trial)]
    tables = [read_scores(job.root / trial.folder / "scores.parquet") for trial in done if trial.fold.test]
    scores = None
    if tables:
        scores = join_scores(tables)
        write_scores(scores, out / "scores.parquet")
    result = summarise(
        plan,
        protocol,
        manifest,
        scores,
        skipped=skipped,
        name=f"{plan.title}, encoders tuned",
        tuned=name,
        certainty={name: job.model.certainty},
        modalities={name: plan.modalities},
        encoders={modality: asdict(one) for modality, one in job.specifications.items()},
        layer_weights=layer_mixes(done, job.root),
        curves=curves(done, job.root),
        notes=[*notes, *protocol.notes, TUNED],
        command=job.command,
    )
    # Of folds too that an earlier command kept.
    whole = [trial for trial in done if (job.root / trial.folder / HEAD).is_file()]
    kept = {f"{folder_of(name)}-{trial.folder.name}" if trial.fold.test else folder_of(name): trial for trial in whole}
    remove_models(out / MODELS, but=kept)
    for place, trial in kept.items():
        checkpoint = replace(job.checkpoint(trial, protocol.fingerprint), text_sources=tuple(result.text_sources))
        save_checkpoint(checkpoint, out / MODELS / place, card=model_card(name, result))
    result.write(out)
    if tables:
        write_report(out)
    return result
