"""Distillation of a speech encoder: a small student learns several hidden states of a large teacher."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from emofuse.audio import LONGEST_UTTERANCE, load_audio
from emofuse.distill.augment import disturb
from emofuse.distill.card import write_card
from emofuse.distill.descriptor import STEPS_BETWEEN, Descriptor, moments
from emofuse.distill.recordings import gather
from emofuse.distill.settings import SpeechStudentSettings
from emofuse.distill.student import SpeechStudent
from emofuse.encoders import load_speech_encoder, load_trainable_encoder
from emofuse.encoders.arithmetic import arithmetic
from emofuse.encoders.checkpoint import LIGHT
from emofuse.encoders.compact import compress
from emofuse.errors import EmofuseError, SettingsError
from emofuse.features.batching import plan_batches
from emofuse.features.dataset import pad, statistics_of, without_constants
from emofuse.features.extract import extract_speech
from emofuse.features.store import FeatureSet
from emofuse.files import write_text, written_folder
from emofuse.locks import alone
from emofuse.manifest import utterances
from emofuse.models.device import check_device
from emofuse.progress import Progress, Silent
from emofuse.seeds import derive_seed, kept_random_state, seed_everything
from emofuse.settings import SpeechSettings, fingerprint
from emofuse.training.logs import check_log, listeners
from emofuse.training.processes import Alone
from emofuse.training.state import CHECKPOINT, digest, load_weights
from emofuse.training.trainer import History, Part, Schedule, Trainer, check_finite, decay_groups, diverged
from emofuse.types import EncoderSpecification, Log, Utterance

HISTORY, STUDENT = "history.json", "student"
BUCKET = 64
WATCHED_SECONDS = 300.0
SAMPLED = 400
DESCRIBED = 6000
AHEAD = 2
LOWER = "lower learning_rate"


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """Result of a distillation.

    Attributes:
        folder: The student, as `transformers` and emofuse load it.
        history: Training and held-out losses at each checkpoint, one every `save_every` steps.
        seconds: Length of all clips, copies included.
        skipped: Recordings that could not be used.
    """

    folder: Path
    history: list[dict[str, float]]
    seconds: float
    skipped: list[EmofuseError]


@kept_random_state()
@alone("out")
def distill_speech(
    folders: Mapping[str, Path],
    teacher: str,
    out: Path,
    *,
    settings: SpeechStudentSettings | None = None,
    licence: str = "unknown",
    command: str = "",
    start: Path | None = None,
    device: str = "cpu",
    log: Log | None = None,
    progress: Progress = Silent(),
) -> Distilled:
    """Train the first layers of a teacher to predict its deeper ones, from recordings without labels.

    The loss is DistilHuBERT's (Chang, Yang and Lee, ICASSP 2022), L1 and cosine on each hidden state, here
    standardised, and L1 once more on their averages over the clip. Beside it stands a loss on descriptors of whole
    clips, see `emofuse.distill.descriptor`. A run that is cut off goes on from its last checkpoint and ends with the
    same weights.

    Args:
        folders: Folder of recordings of each corpus, by its name, as `nEMO (CC BY-NC-SA 4.0)`; only audio is read.
        teacher: Any speech encoder of emofuse.
        out: Folder for copies, the teacher's features, checkpoints and the student.
        settings: How.
        licence: Of the weights, for the model card.
        command: What the user typed, for the model card.
        start: Folder of an earlier distillation, whose weights to begin with.
        device: Torch device.
        log: Where to log each epoch beside the history, such as `tensorboard`.
        progress: Reports each part.

    Raises:
        EncoderError: The teacher cannot be loaded, has no weights, or too few layers.
        SettingsError: The logger is not installed, or the teacher does not have the student's layers.
        ManifestError: A folder holds no recordings.
        CheckpointError: The checkpoint in `out` is of other recordings or settings, or that in `start` is missing or
            of a student of another shape.
    """
    check_device(device)
    check_log(log)
    settings = settings or SpeechStudentSettings()
    manifest, skipped = gather(folders, settings, copies=out / "copies", progress=progress)
    encoded = SpeechSettings(encoder=teacher, layers=settings.teacher_layers, precision=settings.precision)
    encoder = load_speech_encoder(encoded, device=device)
    _check_shape(encoder.specification, settings)
    begun_with = digest(start / CHECKPOINT) if start else None
    found = extract_speech(manifest, encoder, encoded, store=out / "targets", progress=progress)
    skipped += list(found.failed.values())
    usable = manifest[manifest["utterance"].isin(list(found.keys))]
    lessons = _Lessons(usable, found.feature_sets["frame"], found.keys, settings, begun_with)
    specification = encoder.specification
    seed_everything(settings.seed)
    student = SpeechStudent(
        load_trainable_encoder(SpeechSettings(encoder=teacher), device=device),
        layers=settings.layers,
        seconds=math.ceil(settings.longest),
        targets=len(specification.selected),
        target_width=specification.width,
        components=lessons.descriptor.components,
    ).to(device)
    first = {name: value.clone() for name, value in student.encoder.state_dict().items()}
    if start is not None:
        load_weights(start / CHECKPOINT, student, parts=("encoder", "heads"))
    trainer = Trainer(
        model=student,
        groups=decay_groups(student.parameters(), rate=settings.learning_rate, decay=settings.weight_decay),
        lessons=_Teaching(lessons, student, torch.device(device)),
        schedule=Schedule(
            epochs=-(-settings.steps // settings.save_every), steps=settings.steps, warmup=settings.warmup
        ),
        seed=settings.seed,
        processes=Alone(device),
        checkpoint=out / CHECKPOINT,
        fingerprint=lessons.fingerprint,
        label="Distilling",
        ahead=AHEAD,
        remedy=LOWER,
        listeners=[partial(_write_history, out), *listeners(log, out, resumes=(out / CHECKPOINT).exists())],
    )
    history = trainer.run(progress=progress).history
    folder, seconds = out / STUDENT, float(usable["duration"].sum())
    millions = sum(value.numel() for value in student.encoder.parameters()) / 1e6
    student.encoder.load_state_dict(
        {
            name: settings.kept * first[name] + (1 - settings.kept) * value
            for name, value in student.encoder.state_dict().items()
        }
    )
    check_finite(student.encoder.half(), "rounding to float16", remedy=LOWER)
    described = (
        f", and {lessons.descriptor.components} principal components of their averages and deviations over a clip"
        if settings.descriptor
        else ""
    )
    with written_folder(folder) as part:
        student.features.save(part)
        if settings.stored == "int8":
            compress(part)
    held_out = "validation_frames" in history[-1]
    watched, loss = ("held-out", "validation_frames") if held_out else ("training", "loss")
    write_card(
        folder,
        title="A small speech encoder distilled by emofuse",
        licence=licence,
        exposure=[*folders, *specification.exposure],
        facts={
            "What it is": f"The first {settings.layers} layers of the {specification.family} encoder "
            f"{Path(specification.name).name}, trained further: {millions:.1f} M parameters, 16 kHz audio in, "
            f"{specification.frame_rate:g} frames of {specification.width} numbers a second out.",
            "Objective": f"Hidden states {', '.join(map(str, specification.selected))} of that encoder (revision "
            f"{specification.revision[:12]}), by L1 and cosine{described}. The student keeps {settings.kept:g} of the "
            "teacher's own weights.",
            "Exposure": f"{seconds / 3600:.1f} hours of audio of the corpora below, copies at another pitch and tempo "
            "included, and what the teacher was trained on. No label and no transcript was read.",
            "Result": f"Loss on {watched} recordings {history[-1][loss]:.3f} after {settings.steps} steps "
            f"({history[0][loss]:.3f} after {min(settings.save_every, settings.steps)}), of the trained weights alone.",
            "Limits": "It was trained on little speech, much of it acted; far-field audio, singing and children are "
            "untested.",
        },
        settings=settings,
        command=command,
    )
    return Distilled(folder=folder, history=history, seconds=seconds, skipped=skipped)


def _check_shape(teacher: EncoderSpecification, settings: SpeechStudentSettings) -> None:
    """Check that a teacher has the student's layers, and that these can be stored as asked.

    Raises:
        SettingsError: It has not, or they cannot.
    """
    most = teacher.layers - 1
    if settings.layers > most:
        remedy = f"set at most {most}" if most else "name another teacher"
        raise SettingsError(f"the teacher has {most} layers", where="layers", remedy=remedy)
    if settings.stored == "int8" and teacher.family not in LIGHT:
        raise SettingsError(
            f"a {teacher.family} encoder cannot be loaded from eight bits", where="stored", remedy="use float16"
        )


def _write_history(out: Path, history: History) -> None:
    write_text(out / HISTORY, json.dumps(history, indent=1) + "\n")


@dataclass(frozen=True)
class _Batch:
    clips: list[NDArray[np.float32]]
    targets: torch.Tensor
    mask: torch.Tensor


_Item = tuple[int, list[Utterance]]
"""Number of a batch among all, and its clips."""


class _Lessons:
    """Clips and the teacher's hidden states."""

    def __init__(
        self,
        manifest: pd.DataFrame,
        features: FeatureSet,
        keys: Mapping[str, str],
        settings: SpeechStudentSettings,
        begun_with: str | None,
    ) -> None:
        self._features, self._keys, self.settings = features, keys, settings
        self._duration = dict(zip(manifest["utterance"], manifest["duration"], strict=True))
        rows = list(utterances(manifest))
        held_out = set(manifest["utterance"][manifest["session"] == "held-out"])
        self.train = [row for row in rows if row.utterance not in held_out]
        self.watched: list[Utterance] = []
        total = 0.0
        for row in sorted(rows, key=lambda row: derive_seed(settings.seed, "watched", row.utterance)):
            if row.utterance in held_out and total < WATCHED_SECONDS:
                self.watched.append(row)
                total += self._duration[row.utterance]
        self.fingerprint = fingerprint(sorted(keys.values()), features.key.folder, settings, begun_with)
        rng = np.random.default_rng(derive_seed(settings.seed, "statistics"))
        order = rng.permutation(len(self.train))
        self.mean, deviation = statistics_of(self._target(self.train[index]) for index in order[:SAMPLED])
        self.deviation = without_constants(self.mean, deviation)
        self.scale = deviation.reciprocal().where(self.deviation > 0, 0.0)
        clips = (self._target(self.train[index]) for index in order[:DESCRIBED])
        self.descriptor = Descriptor(clips, components=settings.components, seed=settings.seed)

    def _target(self, row: Utterance) -> torch.Tensor:
        return torch.from_numpy(self._features.read(self._keys[row.utterance])).float()

    def endless(self) -> Iterator[list[Utterance]]:
        """Batches of training clips, all of them again and again, the same every time."""
        number = 0
        while True:
            rng = np.random.default_rng(derive_seed(self.settings.seed, "pass", number))
            order = [self.train[index] for index in rng.permutation(len(self.train))]
            batches = []
            # Like lengths together within a bucket: little padding, and yet other neighbours in each epoch.
            for start in range(0, len(order), BUCKET):
                batches += self.batches(order[start : start + BUCKET])
            yield from (batches[index] for index in rng.permutation(len(batches)))
            number += 1

    def batches(self, rows: Sequence[Utterance]) -> list[list[Utterance]]:
        """Clips of like length together."""
        groups = plan_batches([self._duration[row.utterance] for row in rows], budget=self.settings.batch_seconds)
        return [[rows[index] for index in group] for group in groups]

    def batch(self, rows: Sequence[Utterance], *, rng: np.random.Generator | None) -> _Batch:
        """Clips as tensors; with `rng`, some of them disturbed."""
        clips = []
        for row in rows:
            clip = load_audio(row.audio or "", start=row.start, end=row.end, longest=LONGEST_UTTERANCE)
            if rng is not None and rng.random() < self.settings.noisy:
                clip = disturb(clip, rng)
            clips.append(clip)
        targets, mask = pad([(self._target(row) - self.mean[:, None]) * self.scale[:, None] for row in rows])
        return _Batch(clips, targets, mask)


def distillation_loss(predicted: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """L1 and cosine distance over frames, and L1 over averages of clips.

    Args:
        predicted: `(batch, layers, frames, width)`.
        targets: The same shape.
        mask: `(batch, frames)`, True where there is something.

    Example:
        >>> values = torch.randn(2, 3, 5, 4)
        >>> abs(float(distillation_loss(values, values, torch.ones(2, 5).bool()))) < 1e-5
        True
    """
    valid = mask[:, None, :, None].to(targets.dtype)
    frames = valid.sum() * targets.shape[1]
    absolute = ((predicted - targets).abs() * valid).sum() / (frames * targets.shape[-1])
    distance = ((1 - F.cosine_similarity(predicted, targets, dim=-1)) * valid[..., 0]).sum() / frames
    counts = valid.sum(2)
    average = (((predicted - targets) * valid).sum(2) / counts).abs().mean()
    return absolute + distance + average


class _Teaching:
    """What the trainer is given: clips, losses of the student, and those on held-out recordings."""

    def __init__(self, lessons: _Lessons, student: SpeechStudent, device: torch.device) -> None:
        self.lessons, self.settings, self.student, self.device = lessons, lessons.settings, student, device
        self.descriptor = lessons.descriptor.to(device)

    def steps(self, epoch: int) -> list[list[Part[_Item]]]:
        """The steps between two checkpoints."""
        settings = self.settings
        first, last = (min(one * settings.save_every, settings.steps) for one in (epoch - 1, epoch))
        accumulate = settings.accumulate
        batches = islice(self.lessons.endless(), first * accumulate, last * accumulate)
        parts = [Part((number, rows)) for number, rows in enumerate(batches, first * accumulate)]
        return [parts[start : start + accumulate] for start in range(0, len(parts), accumulate)]

    def load(self, item: _Item) -> tuple[int, _Batch]:
        """Clips as tensors, some of them disturbed."""
        number, rows = item
        rng = np.random.default_rng(derive_seed(self.settings.seed, "disturb", number))
        return number, self.lessons.batch(rows, rng=rng)

    def losses(self, loaded: tuple[int, _Batch], progress: float) -> dict[str, torch.Tensor]:
        """Of frames and of descriptors."""
        number, batch = loaded
        if number and number % (STEPS_BETWEEN * self.settings.accumulate) == 0 and self.student.readout.ready:
            self.student.readout.refit()
        frames, descriptors = self._losses(batch, learning=True)
        return {"frames": frames, "descriptors": self.settings.descriptor * descriptors}

    def _losses(self, batch: _Batch, *, learning: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Of frames, and of descriptors of clips; while learning, of a random stretch of each clip as well."""
        with arithmetic(self.device, precision=self.settings.precision):
            predicted, last = self.student(batch.clips)
        targets, mask, states = batch.targets.to(self.device), batch.mask.to(self.device), last[:, None].float()
        loss = distillation_loss(predicted.float(), targets, mask)
        taught = targets * self.lessons.deviation[:, None].to(self.device) + self.lessons.mean[:, None].to(self.device)
        readout = self.student.readout
        described = []
        for part in [mask, stretches(mask)] if learning else [mask]:
            own, descriptors = moments(states, part), self.descriptor(taught, part)
            described.append(F.smooth_l1_loss(readout(own), descriptors))
            if learning and part is mask:
                readout.learn(own, descriptors)
        return loss, torch.stack(described).mean() if readout.ready else torch.zeros((), device=self.device)

    def evaluate(self) -> dict[str, float]:
        """Losses on recordings that are not learnt from; none where all are."""
        self.student.eval()
        with torch.no_grad():
            losses = [
                torch.stack(self._losses(self.lessons.batch(rows, rng=None), learning=False)).tolist()
                for rows in self.lessons.batches(self.lessons.watched)
            ]
        if not losses:
            return {}
        frames, descriptors = np.mean(losses, axis=0).tolist()
        if not math.isfinite(frames + descriptors):
            raise diverged("the loss on held-out recordings is not finite", remedy=LOWER)
        return {"validation_frames": frames, "validation_descriptors": descriptors}


def stretches(mask: torch.Tensor) -> torch.Tensor:
    """A random stretch of a third to four fifths of each clip, as a mask `(batch, frames)`.

    Example:
        >>> part = stretches(torch.ones(2, 100, dtype=torch.bool))
        >>> bool(((part.sum(1) >= 30) & (part.sum(1) <= 81)).all())
        True
    """
    lengths = mask.sum(1)
    sizes = (lengths * (0.33 + 0.47 * torch.rand(len(mask)).to(mask.device))).ceil()
    starts = ((lengths - sizes) * torch.rand(len(mask)).to(mask.device)).floor()
    place = torch.arange(mask.shape[1], device=mask.device)
    return (place >= starts[:, None]) & (place < (starts + sizes)[:, None])
