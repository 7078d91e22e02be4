"""Distillation of a speech encoder: a small student learns several hidden states of a large teacher."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from emofuse.audio import LONGEST_UTTERANCE, load_audio
from emofuse.distill.augment import disturb
from emofuse.distill.card import write_card
from emofuse.distill.descriptor import STEPS_BETWEEN, Descriptor, moments
from emofuse.distill.recordings import gather
from emofuse.distill.settings import SpeechStudentSettings
from emofuse.distill.student import SpeechStudent
from emofuse.encoders import load_speech_encoder
from emofuse.encoders.checkpoint import quiet
from emofuse.encoders.waveform import frame_geometry, normalise, write_preprocessor
from emofuse.errors import EmofuseError
from emofuse.features.batching import plan_batches
from emofuse.features.dataset import pad, statistics_of, without_constants
from emofuse.features.extract import extract_speech
from emofuse.features.store import View
from emofuse.files import write_text, written_folder
from emofuse.locks import alone
from emofuse.manifest import utterances
from emofuse.models.device import check_device
from emofuse.progress import Progress, Silent
from emofuse.seeds import derive_seed, kept_random_state, seed_everything
from emofuse.settings import SpeechSettings, fingerprint
from emofuse.training.loop import check_finite, diverged, rate_at
from emofuse.training.state import digest, load_state, load_weights, save_state
from emofuse.types import EncoderSpecification, Utterance

CHECKPOINT, HISTORY, STUDENT = "checkpoint.safetensors", "history.json", "student"
BUCKET = 64
WATCHED_SECONDS = 300.0
SAMPLED = 400
DESCRIBED = 6000
AHEAD = 2
LOWER = "lower learning_rate"


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """What distillation leaves.

    Attributes:
        folder: The student, as `transformers` and emofuse load it.
        history: Step, training loss and held-out loss at each checkpoint.
        seconds: Sound that was listened to, copies included.
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
    progress: Progress = Silent(),
) -> Distilled:
    """Train a small wav2vec 2.0 to predict hidden states of a teacher, from recordings without labels.

    The loss is DistilHuBERT's (Chang, Yang and Lee, ICASSP 2022), L1 and cosine on each hidden state, here
    standardised, and L1 once more on their averages over the clip. Beside it stands a loss on descriptors of whole
    clips, see `emofuse.distill.descriptor`. A run that is cut off goes on from its last checkpoint and ends with the
    same weights.

    Args:
        folders: Folder of recordings of each corpus, by its name, as `nEMO (CC BY-NC-SA 4.0)`; nothing but sound is
            read.
        teacher: Any speech encoder of emofuse.
        out: Folder for copies, the teacher's features, checkpoints and the student.
        settings: How.
        licence: Of the weights, for the model card.
        command: What the user typed, for the model card.
        start: Folder of an earlier distillation, whose weights to begin with.
        device: Where to compute.
        progress: Told about each part.

    Raises:
        EncoderError: The teacher cannot be had.
        ManifestError: A folder holds no recordings.
        CheckpointError: The checkpoint in `out` is of other recordings or settings, or that in `start` is missing or
            of a student of another shape.
    """
    check_device(device)
    settings = settings or SpeechStudentSettings()
    manifest, skipped = gather(folders, settings, copies=out / "copies", progress=progress)
    heard = SpeechSettings(encoder=teacher, layers=settings.teacher_layers, precision=settings.precision)
    encoder = load_speech_encoder(heard, device=device)
    begun_with = digest(start / CHECKPOINT) if start else None
    found = extract_speech(manifest, encoder, heard, store=out / "targets", progress=progress)
    skipped += list(found.failed.values())
    usable = manifest[manifest["utterance"].isin(list(found.keys))]
    lessons = _Lessons(usable, found.views["frame"], found.keys, encoder.specification, settings, begun_with)
    run = _Run(lessons, settings, out, start=start, device=torch.device(device))
    history = run.train(progress)
    folder, seconds = out / STUDENT, float(usable["duration"].sum())
    millions = sum(value.numel() for value in run.student.encoder.parameters()) / 1e6
    specification = encoder.specification
    with written_folder(folder) as part:
        save_student(run.student, part)
    watched, loss = ("held-out", "held_out") if "held_out" in history[-1] else ("training", "loss")
    write_card(
        folder,
        title="A small speech encoder distilled by emofuse",
        licence=licence,
        heard=[*folders, *specification.exposure],
        facts={
            "What it is": f"A network of wav2vec 2.0's architecture with {millions:.1f} M parameters: 16 kHz sound in, "
            f"50 frames of {settings.width} numbers a second out. It is not Meta's wav2vec 2.0.",
            "Objective": f"Hidden states {', '.join(map(str, specification.selected))} of the {specification.family} "
            f"encoder {Path(specification.name).name} (revision {specification.revision[:12]}), by L1 and cosine, and "
            f"{lessons.descriptor.components} principal components of their averages and deviations over a clip.",
            "Exposure": f"{seconds / 3600:.1f} hours of sound of the corpora below, copies at another pitch and tempo "
            "included, and what the teacher has heard. No label and no transcript was read.",
            "Result": f"Loss on {watched} recordings {history[-1][loss]:.3f} after {settings.steps} steps "
            f"({history[0][loss]:.3f} after {history[0]['step']:.0f}).",
            "Limits": "It has heard little speech, much of it acted; far-field sound, singing and children are "
            "untested.",
        },
        settings=settings,
        command=command,
    )
    return Distilled(folder=folder, history=history, seconds=seconds, skipped=skipped)


def save_student(student: SpeechStudent, folder: Path) -> None:
    """Write the student without its heads, in half precision, as `save_pretrained` of transformers does."""
    encoder: Any = student.encoder
    with quiet():
        check_finite(encoder.half(), "rounding to float16", remedy=LOWER)
        encoder.cpu().save_pretrained(folder)
    write_preprocessor(folder)


@dataclass(frozen=True)
class _Batch:
    sound: torch.Tensor
    lengths: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor


class _Lessons:
    """Clips with what the teacher makes of them."""

    def __init__(
        self,
        manifest: pd.DataFrame,
        view: View,
        keys: Mapping[str, str],
        teacher: EncoderSpecification,
        settings: SpeechStudentSettings,
        begun_with: str | None,
    ) -> None:
        self._view, self._keys, self.teacher, self._settings = view, keys, teacher, settings
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
        self.fingerprint = fingerprint(sorted(keys.values()), view.key.folder, settings, begun_with)
        rng = np.random.default_rng(derive_seed(settings.seed, "statistics"))
        order = rng.permutation(len(self.train))
        self.mean, deviation = statistics_of(self._target(self.train[index]) for index in order[:SAMPLED])
        self.deviation = without_constants(self.mean, deviation)
        self.scale = deviation.reciprocal().where(self.deviation > 0, 0.0)
        clips = (self._target(self.train[index]) for index in order[:DESCRIBED])
        self.descriptor = Descriptor(clips, components=settings.components, seed=settings.seed)

    def _target(self, row: Utterance) -> torch.Tensor:
        return torch.from_numpy(self._view.read(self._keys[row.utterance])).float()

    def passes(self) -> Iterator[list[Utterance]]:
        """Batches of training clips, pass after pass without end, the same every time."""
        number = 0
        while True:
            rng = np.random.default_rng(derive_seed(self._settings.seed, "pass", number))
            order = [self.train[index] for index in rng.permutation(len(self.train))]
            batches = []
            # Like lengths together within a bucket: little padding, and yet another company in each pass.
            for start in range(0, len(order), BUCKET):
                batches += self.batches(order[start : start + BUCKET])
            yield from (batches[index] for index in rng.permutation(len(batches)))
            number += 1

    def batches(self, rows: Sequence[Utterance]) -> list[list[Utterance]]:
        """Clips of like length together."""
        groups = plan_batches([self._duration[row.utterance] for row in rows], budget=self._settings.batch_seconds)
        return [[rows[index] for index in group] for group in groups]

    def batch(self, rows: Sequence[Utterance], *, rng: np.random.Generator | None) -> _Batch:
        """Clips as tensors; with `rng`, some of them disturbed."""
        clips = []
        for row in rows:
            clip = load_audio(row.audio or "", start=row.start, end=row.end, longest=LONGEST_UTTERANCE)
            if rng is not None and rng.random() < self._settings.noisy:
                clip = disturb(clip, rng)
            clips.append(torch.from_numpy(normalise(clip)))
        sound = nn.utils.rnn.pad_sequence(clips, batch_first=True)
        targets, mask = pad([(self._target(row) - self.mean[:, None]) * self.scale[:, None] for row in rows])
        return _Batch(sound, torch.tensor([len(clip) for clip in clips]), targets, mask)


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


class _Run:
    """Training from the last checkpoint on."""

    def __init__(
        self,
        lessons: _Lessons,
        settings: SpeechStudentSettings,
        out: Path,
        *,
        start: Path | None,
        device: torch.device,
    ) -> None:
        self.lessons, self.settings, self.out, self.device = lessons, settings, out, device
        seed_everything(settings.seed)
        specification = lessons.teacher
        self.descriptor = lessons.descriptor.to(device)
        self.student = SpeechStudent(
            settings,
            targets=len(specification.selected),
            target_width=specification.width,
            components=self.descriptor.components,
        ).to(device)
        if start is not None:
            load_weights(start / CHECKPOINT, self.student, parts=("encoder", "heads"))
        # Frames of the same number are not at the same time, since student and teacher look at different stretches.
        field, stride = frame_geometry(self.student.encoder.config)
        first = specification.offset + specification.receptive_field / 2
        self.shift = round((field / 2 - first) / stride)
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.step = 0
        self.history: list[dict[str, float]] = []
        if (out / CHECKPOINT).exists():
            values = load_state(
                out / CHECKPOINT, self.student, self.optimizer, fingerprint=lessons.fingerprint, device=device
            )
            self.step, self.history = values["step"], values["history"]

    def train(self, progress: Progress) -> list[dict[str, float]]:
        settings = self.settings
        label = "Distilling"
        progress.start(label, settings.steps)
        progress.advance(label, self.step)
        batches = self.lessons.passes()
        for _ in range(self.step * settings.accumulate):
            next(batches)
        losses: list[float] = []
        with ThreadPoolExecutor(1) as reader:
            coming = self._prepared(batches, reader)
            while self.step < settings.steps:
                losses += self._step(coming)
                progress.advance(label)
                if self.step % settings.save_every == 0 or self.step == settings.steps:
                    self._save(losses)
                    losses = []
        progress.finish(label)
        self.student.eval()
        return self.history

    def _prepared(self, batches: Iterator[list[Utterance]], reader: ThreadPoolExecutor) -> Iterator[_Batch]:
        """The batches still to come, read and disturbed while those before them are computed."""
        waiting: deque[Future[_Batch]] = deque()
        accumulate = self.settings.accumulate
        for number in range(self.step * accumulate, self.settings.steps * accumulate):
            rng = np.random.default_rng(derive_seed(self.settings.seed, "disturb", number))
            waiting.append(reader.submit(self.lessons.batch, next(batches), rng=rng))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _step(self, coming: Iterator[_Batch]) -> list[float]:
        settings = self.settings
        rate = settings.learning_rate * rate_at(self.step, steps=settings.steps, warmup=settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Masks, too, must be the same after a resumed start.
        seed_everything(derive_seed(settings.seed, "step", self.step))
        self.student.train()
        self.optimizer.zero_grad()
        losses = []
        for _ in range(settings.accumulate):
            frames, descriptors = self._loss(next(coming), learning=True)
            loss = frames + settings.descriptor * descriptors
            (loss / settings.accumulate).backward()  # type: ignore[no-untyped-call]
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise diverged(f"the loss of step {self.step + 1} is {losses[-1]}", remedy=LOWER)
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        if self.student.readout.ready and self.step % STEPS_BETWEEN == 0:
            self.student.readout.refit()
        return losses

    def _loss(self, batch: _Batch, *, learning: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Of frames, and of descriptors of clips; while learning, of a random stretch of each clip as well."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            predicted, states = self.student(batch.sound.to(self.device), batch.lengths.to(self.device))
        targets, mask = batch.targets[:, :, self.shift :].to(self.device), batch.mask[:, self.shift :].to(self.device)
        frames = min(predicted.shape[2], targets.shape[2])
        targets, mask, states = targets[:, :, :frames], mask[:, :frames], states[:, None, :frames].float()
        loss = distillation_loss(predicted[:, :, :frames].float(), targets, mask)
        taught = targets * self.lessons.deviation[:, None].to(self.device) + self.lessons.mean[:, None].to(self.device)
        readout = self.student.readout
        told = []
        for part in [mask, stretches(mask)] if learning else [mask]:
            own, descriptors = moments(states, part), self.descriptor(taught, part)
            told.append(F.smooth_l1_loss(readout(own), descriptors))
            if learning and part is mask:
                readout.learn(own, descriptors)
        return loss, torch.stack(told).mean() if readout.ready else torch.zeros((), device=self.device)

    def _held_out(self) -> dict[str, float]:
        """Losses on recordings that are not learnt from; none where all are."""
        self.student.eval()
        with torch.no_grad():
            losses = [
                torch.stack(self._loss(self.lessons.batch(rows, rng=None), learning=False)).tolist()
                for rows in self.lessons.batches(self.lessons.watched)
            ]
        if not losses:
            return {}
        frames, descriptors = np.mean(losses, axis=0).tolist()
        if not math.isfinite(frames + descriptors):
            raise diverged(f"the loss on held-out recordings is not finite after step {self.step}", remedy=LOWER)
        return {"held_out": frames, "held_out_descriptor": descriptors}

    def _save(self, losses: Sequence[float]) -> None:
        check_finite(self.student, f"step {self.step}", remedy=LOWER)
        self.history.append({"step": self.step, "loss": float(np.mean(losses)), **self._held_out()})
        values = {"step": self.step, "history": self.history, "fingerprint": self.lessons.fingerprint}
        save_state(self.out / CHECKPOINT, self.student, self.optimizer, values)
        write_text(self.out / HISTORY, json.dumps(self.history, indent=1) + "\n")


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
