"""Fine-tuning of a corpus: fold by fold and seed by seed to the same tables and models as a run on frozen features."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from emofuse.audio.notes import count_notes
from emofuse.checkpoint import Checkpoint, save_checkpoint
from emofuse.corpora import CORPORA
from emofuse.distill.card import write_card
from emofuse.encoders import TrainableEncoder, load_speech_encoder, load_text_encoder, load_trainable_encoder
from emofuse.errors import ManifestError, SettingsError, TrainingError
from emofuse.experiment import Outcome, builtin_named, check_encoder_settings, check_recipe, learns_votes
from emofuse.files import plain_name, write_text, written_folder, written_whole
from emofuse.finetune.loop import Tuned, Tuner, discard
from emofuse.finetune.network import Steps, TunedNetwork
from emofuse.finetune.processes import Processes
from emofuse.finetune.recordings import Recordings, listen
from emofuse.inputs import nearest
from emofuse.keep import MODELS
from emofuse.locks import alone
from emofuse.manifest import parts, sources_of, text_sources, utterances, vote_shares, write_manifest
from emofuse.models import EmotionModel, InputShape, build_model
from emofuse.progress import Progress, Silent
from emofuse.protocols import FINAL, Protocol, make_protocol, save_protocol
from emofuse.report import write_report
from emofuse.report.model_card import model_card
from emofuse.scoring.result import evaluate, evaluate_parts, tested_fingerprint, versions
from emofuse.scoring.table import join_scores, read_scores, write_scores
from emofuse.seeds import derive_seed, kept_random_state, seed_everything
from emofuse.settings import ModelKind, Recipe, SpeechSettings, TextSettings, fingerprint, given_unread
from emofuse.training.folder import (
    ENCODERS,
    MANIFEST,
    PROCESSES,
    RESULT,
    UNITS,
    check_corpus,
    check_tuned,
    remove_models,
)
from emofuse.training.loop import layer_weights
from emofuse.training.material import Material, granularities_of, streams_of
from emofuse.training.units import Unit, named, read_unit, refuse_diverged, write_unit_scores
from emofuse.types import EncoderSpecification

VERSION = 1
HEAD = "model.safetensors"
TUNED = "The encoders were trained together with the model, on the training part of each fold."
KINDS: tuple[ModelKind, ...] = ("speech", "text", "concat", "early-frame")
"""What can be trained with its encoders; late fusion joins the tables of two of them."""


@kept_random_state()
@alone("out")
def finetune(
    manifest: pd.DataFrame,
    recipe: Recipe,
    out: Path,
    *,
    kind: ModelKind = "early-frame",
    folds: Sequence[str] = (),
    keep_folds: bool = False,
    processes: Processes | None = None,
    command: str = "",
    notes: Sequence[str] = (),
    skipped: Mapping[str, str] | None = None,
    progress: Progress = Silent(),
) -> Outcome:
    """Train a model and its encoders together, fold by fold and seed by seed, and score what was held out.

    Every process that shares the work calls this with the same arguments; the first one writes. Score tables,
    `result.json` and `models/<model>/` are those of a run on frozen features, and the model that is kept brings its
    tuned encoders along. Folds and seeds that are done are not trained again; one that was cut off goes on from its
    last pass.

    Args:
        manifest: The corpus.
        recipe: The experiment; `recipe.finetune` says how.
        out: The run folder; several machines must share it.
        kind: Which model stands above the encoders.
        folds: Names of folds to train, `final` for the model that is kept; none for all of them.
        keep_folds: Keep the tuned encoders and model of each fold too, in `models/<model>-<fold>-seed<seed>/`.
        processes: Who shares the work; None for this process alone, on what device accelerate finds.
        command: What the user typed, for the report.
        notes: Remarks for the report.
        skipped: Utterances that were left out before, and why.
        progress: Told about each fold.

    Raises:
        SettingsError: The settings do not fit one another, or the folder holds another run.
        TrainingError: A training diverged; all others are done.
        ManifestError: No utterance has what the model reads.
        ProtocolError: The corpus cannot be split as asked.
        EncoderError: An encoder cannot be had, or has nothing to tune.
    """
    processes = processes or Processes()
    if kind not in KINDS:
        raise SettingsError(f"{kind} is not trained with its encoders", where="model", remedy=nearest(kind, KINDS))
    check_tuned(out, kind)
    check_corpus(out, manifest)
    check_recipe(manifest, recipe, kind=kind)
    streams = streams_of(kind)
    if "speech" in streams:
        _steps(kind, recipe)
    if "text" in streams and recipe.text.context:
        raise SettingsError("encoders are not tuned with dialogue context", where="text.context", remedy="set it to 0")
    specifications = {stream: encoder.specification for stream, encoder in _load(recipe, streams, "cpu").items()}
    recordings = listen(list(utterances(manifest)), streams, processes, progress=progress)
    left_out = {**(skipped or {}), **{name: error.advice for name, error in recordings.failed.items()}}
    usable = manifest[manifest["utterance"].isin(list(recordings.rows))].reset_index(drop=True)
    if usable.empty:
        raise ManifestError("no utterance can be used", remedy="see the reasons above and fix the recordings")
    protocol = make_protocol(usable, recipe.protocol)
    job = _Job(
        kind=kind,
        recipe=recipe,
        material=Material(
            recipe=recipe,
            classes=protocol.classes,
            labels=protocol.labels,
            clusters=usable.set_index("utterance")[["speaker", "session", "dialogue"]].astype("object"),
            store=out,
            votes=vote_shares(usable, protocol.classes, merge=recipe.protocol.merge)
            if learns_votes(recipe, kind)
            else {},
        ),
        recordings=recordings,
        specifications=specifications,
        root=out / UNITS,
        corpora=_corpora(usable),
        command=command,
        keep_folds=keep_folds,
        processes=processes,
    )
    units = _units(kind, protocol, recipe, folds)
    if processes.main:
        write_manifest(manifest, out / MANIFEST)
        save_protocol(protocol, out / "protocol.json")
    diverged = []
    for unit in units:
        if not job.is_done(unit):
            try:
                job.run(unit, progress)
            except TrainingError as error:
                diverged.append(error)
        elif processes.main:
            # A command that was killed may have come no further than its last file.
            discard(job.root / unit.folder)
        processes.wait()
    result: dict[str, Any] = {}
    if processes.main:
        unread = given_unread(recipe, "finetune")
        notes = [
            *notes,
            *count_notes(recordings.notes),
            *([f"Fine-tuning does not read {', '.join(unread)} of the recipe."] if unread else []),
        ]
        result = _gather(job, protocol, usable, out, notes=notes, skipped=left_out)
    refuse_diverged(diverged)
    return Outcome(out=out, result=result, skipped=left_out)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What all folds and seeds share."""

    kind: ModelKind
    recipe: Recipe
    material: Material
    recordings: Recordings
    specifications: Mapping[str, EncoderSpecification]
    root: Path
    corpora: tuple[str, ...]
    command: str
    keep_folds: bool
    processes: Processes

    def mark(self, unit: Unit) -> str:
        """Changes whenever anything that shapes the unit's numbers does."""
        recipe, material = self.recipe, self.material
        parts = [list(part) for part in (unit.fold.train, unit.fold.validation, unit.fold.test)]
        names = [name for part in parts for name in part]
        encoders = [[one.revision, list(one.selected)] for one in self.specifications.values()]
        about = [
            [self.recordings.keys[name], material.labels[name], *map(str, material.clusters.loc[name])]
            for name in names
        ]
        limits = [recipe.speech.frames_per_step, recipe.text.max_tokens]
        split = [unit.kind, unit.fold.name, unit.seed, parts, list(material.classes)]
        how = recipe.finetune_of(unit.kind)
        votes = [[material.votes.get(name) for name in names]] if how.soft_labels else []
        return fingerprint(VERSION, split, about, encoders, limits, recipe.model, how, votes)

    def keeps(self, unit: Unit) -> bool:
        """Whether the tuned encoders and the model are kept."""
        return self.keep_folds or not unit.fold.test

    def finished(self, unit: Unit) -> bool:
        """Whether the unit has been run with exactly these settings and data."""
        folder = self.root / unit.folder
        whole = not self.keeps(unit) or (folder / HEAD).is_file()
        return whole and read_unit(folder).get("mark") == self.mark(unit)

    def is_done(self, unit: Unit) -> bool:
        """The same as the first process sees it, told to all."""
        return bool(self.processes.total(torch.tensor(int(self.processes.main and self.finished(unit)))))

    def run(self, unit: Unit, progress: Progress) -> None:
        """Train, score, write; `unit.json` comes last and says that all is there."""
        started = time.monotonic()
        recipe, folder = self.recipe, self.root / unit.folder
        if self.processes.main:
            # What an earlier training left would otherwise pass for what this one leaves.
            for name in ("unit.json", HEAD):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / ENCODERS, ignore_errors=True)
        seed = derive_seed(unit.seed, "finetune", unit.kind, unit.fold.name)
        encoders = _load(recipe, streams_of(unit.kind), str(self.processes.device))
        network = self._network(encoders, seed)
        mark = self.mark(unit)
        classes = self.material.classes
        tuner = Tuner(
            network,
            self.recordings,
            {name: classes.index(label) for name, label in self.material.labels.items()},
            recipe.finetune_of(unit.kind),
            classes=len(classes),
            seed=seed,
            processes=self.processes,
            folder=folder,
            mark=mark,
            targets=self.material.target,
        )
        try:
            with named(unit):
                tuned = tuner.run(unit.fold.train, unit.fold.validation, progress=progress)
                tested = tuner.posteriors(unit.fold.test) if unit.fold.test else None
        except TrainingError:
            # With other settings it begins anew, and with these it would diverge again.
            if self.processes.main:
                discard(folder)
            raise
        if not self.processes.main:
            return
        write_unit_scores(unit, self.material, folder / "validation.parquet", unit.fold.validation, tuned.validation)
        if tested is not None:
            write_unit_scores(unit, self.material, folder / "scores.parquet", unit.fold.test, tested)
        if self.keeps(unit):
            self._keep(network, encoders, folder)
        self._write_unit(folder, mark, network, tuned, seconds=time.monotonic() - started)
        discard(folder)

    def _network(self, encoders: Mapping[str, TrainableEncoder], seed: int) -> TunedNetwork:
        recipe = self.recipe
        seed_everything(seed)
        network = TunedNetwork(
            _head(self.kind, recipe, self.material.classes, self.specifications),
            encoders,
            granularity=_steps(self.kind, recipe),
            frames_per_step=recipe.speech.frames_per_step,
            gradient_checkpointing=recipe.finetune.gradient_checkpointing,
        )
        return network.to(self.processes.device)

    def _keep(self, network: TunedNetwork, encoders: Mapping[str, TrainableEncoder], folder: Path) -> None:
        """Write the tuned encoders, each as a folder that a recipe can name, and the weights of the model above."""
        from safetensors.torch import save_file

        for stream, encoder in encoders.items():
            place = folder / ENCODERS / stream
            with written_folder(place) as part:
                encoder.save(part)
            before = self.specifications[stream]
            write_card(
                place,
                title=f"{Path(before.name).name}, tuned by emofuse",
                licence=before.licence,
                heard=[*self.corpora, *before.exposure],
                facts={
                    "What it is": f"The {before.family} encoder {Path(before.name).name} (revision "
                    f"{before.revision[:12]}), trained further together with a model of emotion.",
                    "Exposure": "It has seen the labels of the utterances that trained it, so its features must not be "
                    "used to test on them. The terms of the corpus hold beside the licence.",
                },
                settings=self.recipe.finetune,
                command=self.command,
            )
        weights = {name: value.cpu().contiguous() for name, value in network.head.state_dict().items()}
        with written_whole(folder / HEAD) as part:
            save_file(weights, part)

    def _write_unit(self, folder: Path, mark: str, network: TunedNetwork, tuned: Tuned, *, seconds: float) -> None:
        values = {
            "mark": mark,
            "epochs": tuned.epochs,
            "history": tuned.history,
            "layer_weights": layer_weights(network.head),
            "seconds": round(seconds, 2),
            PROCESSES: self.processes.count,
        }
        write_text(folder / "unit.json", json.dumps(values, indent=1))

    def checkpoint(self, unit: Unit, protocol: str) -> Checkpoint:
        """A kept model with its tuned encoders, for prediction."""
        from safetensors.torch import load_file

        folder, recipe = self.root / unit.folder, self.recipe
        streams = streams_of(unit.kind)
        places = {stream: str((folder / ENCODERS / stream).resolve()) for stream in streams}
        update: dict[str, Any] = {}
        encoders = {}
        if "speech" in streams:
            # In float32, as its scores were computed.
            speech = {"encoder": places["speech"], "revision": None, "precision": "float32"}
            update["speech"] = recipe.speech.model_copy(update=speech)
            encoders["speech"] = load_speech_encoder(update["speech"]).specification
        if "text" in streams:
            update["text"] = recipe.text.model_copy(update={"encoder": places["text"], "revision": None})
            encoders["text"] = load_text_encoder(update["text"]).specification
        model = _head(self.kind, recipe, self.material.classes, encoders)
        with plain_name(folder / HEAD) as place:
            model.load_state_dict(load_file(place))
        return Checkpoint(
            kind=unit.kind,
            model=model.eval(),
            classes=self.material.classes,
            recipe=recipe.model_copy(update=update),
            encoders=encoders,
            pieces=None,
            protocol=protocol,
        )


def _load(recipe: Recipe, streams: Sequence[str], device: str) -> dict[str, TrainableEncoder]:
    settings: Mapping[str, SpeechSettings | TextSettings] = {"speech": recipe.speech, "text": recipe.text}
    check_encoder_settings(recipe, streams)
    with builtin_named(streams):
        return {stream: load_trainable_encoder(settings[stream], device=device) for stream in streams}


def _head(
    kind: ModelKind, recipe: Recipe, classes: Sequence[str], encoders: Mapping[str, EncoderSpecification]
) -> EmotionModel:
    shapes = {stream: InputShape(len(one.selected), one.width) for stream, one in encoders.items()}
    return build_model(kind, recipe.model, classes=len(classes), speech=shapes.get("speech"), text=shapes.get("text"))


def _steps(kind: ModelKind, recipe: Recipe) -> Steps:
    """What speech frames are pooled to. Segments of an alignment are for features that are stored."""
    (found,) = granularities_of(kind, recipe)
    if found not in ("utterance", "frame"):
        raise SettingsError(
            f"encoders are not tuned under {found}s", where="model.speech_granularity", remedy="use utterance or frame"
        )
    if found == "utterance" and recipe.speech.segments != "mean":
        raise SettingsError(
            f"encoders are not tuned under {recipe.speech.segments} of frames",
            where="speech.segments",
            remedy="use mean, and pool in the model with model.speech_granularity=frame",
        )
    return "utterance" if found == "utterance" else "frame"


def _units(kind: ModelKind, protocol: Protocol, recipe: Recipe, names: Sequence[str]) -> list[Unit]:
    """Folds by every seed, and the model that is kept by the first."""
    known = [*(fold.name for fold in protocol.folds), FINAL]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SettingsError(f"there is no fold {unknown[0]!r}", where="fold", remedy=nearest(unknown[0], known))
    wanted = names or known
    units = [Unit(kind, fold, seed) for fold in protocol.folds if fold.name in wanted for seed in recipe.seeds]
    if FINAL in wanted:
        units.append(Unit(kind, protocol.final, recipe.seeds[0]))
    return units


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
) -> dict[str, Any]:
    """Write what all folds and seeds that are done have come to, and the models that are kept."""
    recipe, kind = job.recipe, job.kind
    units = _units(kind, protocol, recipe, ())
    done = [unit for unit in units if job.finished(unit)]
    tables = [read_scores(job.root / unit.folder / "scores.parquet") for unit in done if unit.fold.test]
    models: dict[str, Any] = {}
    tested, apart = "", {}
    if tables:
        scores = join_scores(tables)
        write_scores(scores, out / "scores.parquet")
        models, tested = evaluate(scores), tested_fingerprint(scores)
        apart = evaluate_parts(scores, parts(manifest))
    mixes: dict[str, list[list[float]]] = {}
    for unit in done:
        for stream, weights in read_unit(job.root / unit.folder)["layer_weights"].items():
            if unit.fold.test and len(weights) > 1:
                mixes.setdefault(stream, []).append(weights)
    result = {
        "name": f"{recipe.name}, encoders tuned",
        "tuned": kind,
        "corpus": ", ".join(sorted(manifest["corpus"].dropna().unique())),
        "sources": sources_of(manifest),
        "models": models,
        "parts": apart,
        "comparisons": [],
        "protocol": {
            **protocol.settings.model_dump(mode="json"),
            "fingerprint": protocol.fingerprint,
            "tested_fingerprint": tested,
            "classes": list(protocol.classes),
            "folds": len(protocol.folds),
            "utterances": len(protocol.labels),
            "speakers": int(manifest["speaker"].nunique()),
            "leakage": protocol.leakage,
        },
        "text_sources": text_sources(manifest[manifest["utterance"].isin(list(protocol.labels))]),
        "context": 0,
        "encoders": {stream: asdict(one) for stream, one in job.specifications.items()},
        "layer_weights": {kind: mixes},
        "recipe": recipe.model_dump(mode="json"),
        "skipped": [{"utterance": name, "reason": reason} for name, reason in skipped.items()],
        "notes": [*notes, *protocol.notes, TUNED],
        "versions": versions(),
        "command": job.command,
    }
    # Of folds too that an earlier command kept.
    whole = [unit for unit in done if (job.root / unit.folder / HEAD).is_file()]
    kept = {f"{kind}-{unit.folder.name}" if unit.fold.test else str(kind): unit for unit in whole}
    remove_models(out / MODELS, but=kept)
    for name, unit in kept.items():
        checkpoint = job.checkpoint(unit, protocol.fingerprint)
        save_checkpoint(checkpoint, out / MODELS / name, card=model_card(kind, result))
    write_text(out / RESULT, json.dumps(result, indent=1, ensure_ascii=False))
    if tables:
        write_report(out)
    return result
