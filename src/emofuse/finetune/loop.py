"""Lessons of fine-tuning: encoders trained together with the model on top."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emofuse.encoders.arithmetic import inference
from emofuse.errors import SettingsError
from emofuse.features.dataset import Batch, pad_extra, statistics_of
from emofuse.features.extras import EXTRAS
from emofuse.finetune.batches import micro_batches
from emofuse.finetune.network import TunedNetwork
from emofuse.finetune.recordings import Recordings
from emofuse.models.frontend import LayerMix
from emofuse.progress import Progress, Silent
from emofuse.seeds import derive_seed
from emofuse.settings import FinetuneSettings
from emofuse.training.data import TrainingData
from emofuse.training.processes import Alone
from emofuse.training.state import CHECKPOINT
from emofuse.training.trainer import History, Listener, Part, Schedule, Trainer, diverged, prefetched, shuffled

SAMPLED = 128
LABEL = "Fine-tuning"
LOWER = "lower finetune.learning_rate, finetune.encoder_rate or finetune.clip"


@dataclass(frozen=True)
class Tuned:
    """Result of fine-tuning; the network has the weights of its best epoch.

    Attributes:
        epochs: Epochs that gave the best validation metric.
        history: Losses by name and validation metric of every epoch.
        validation: Scores of the validation part, `(utterances, outputs)`.
    """

    epochs: int
    history: History
    validation: NDArray[np.float64]


@dataclass(kw_only=True)
class Tuner:
    """Fine-tuning of one network, with a checkpoint in a folder until it is finished.

    Attributes:
        network: With new weights on top of the encoders; the same in every process.
        recordings: Its audio and text.
        data: Truth, targets and extras.
        settings: Settings of fine-tuning.
        seed: Seed of order and dropout.
        processes: The processes.
        folder: Folder of checkpoints, shared by all processes.
        key: Changes with anything that affects the weights.
        listeners: Receive the history after each epoch, see `Trainer`.

    Raises:
        SettingsError: A step has fewer micro-batches than there are processes.
    """

    network: TunedNetwork
    recordings: Recordings
    data: TrainingData
    settings: FinetuneSettings
    seed: int
    processes: Alone
    folder: Path
    key: str
    listeners: Sequence[Listener] = ()

    def __post_init__(self) -> None:
        settings, processes = self.settings, self.processes
        parts = -(-settings.batch_size // settings.micro_batch)
        if processes.count > parts:
            raise SettingsError(
                f"{processes.count} processes cannot share batches of {settings.batch_size} utterances in {parts} "
                f"parts of {settings.micro_batch}",
                where="finetune.micro_batch",
                remedy="make batch_size larger or micro_batch smaller, or start fewer processes",
            )
        self.task = self.network.head.task
        self._train: Sequence[str] = ()
        self._validation: Sequence[str] = ()

    def run(self, train: Sequence[str], validation: Sequence[str], *, progress: Progress = Silent()) -> Tuned:
        """Train until validation stops improving; the test set is never read.

        Raises:
            CheckpointError: The folder holds a checkpoint that is damaged or of something else, or processes see
                different ones.
            TrainingError: It diverged.
        """
        settings = self.settings
        self._train, self._validation = train, validation
        if not (self.folder / CHECKPOINT).exists():
            self._standardise(train)
        trainer = Trainer(
            model=self.network,
            groups=self.network.groups(settings),
            lessons=self,
            schedule=Schedule(
                epochs=settings.epochs,
                steps=settings.epochs * -(-len(train) // settings.batch_size),
                warmup=settings.warmup,
                clip=settings.clip,
                patience=settings.patience,
                precision=settings.precision,
            ),
            seed=self.seed,
            processes=self.processes,
            select=f"validation_{self.task.metric_name}",
            checkpoint=self.folder / CHECKPOINT,
            fingerprint=self.key,
            label=LABEL,
            ahead=1,
            remedy=LOWER,
            listeners=self.listeners,
        )
        fitted = trainer.run(progress=progress)
        return Tuned(fitted.epochs, fitted.history, self.scores(validation))

    def steps(self, epoch: int) -> list[list[Part[list[str]]]]:
        """See `Lessons.steps`."""
        batches = shuffled(len(self._train), size=self.settings.batch_size, seed=self.seed, epoch=epoch)
        return [
            [Part(group, self._weight(group)) for group in self._groups([self._train[place] for place in batch])]
            for batch in batches
        ]

    def load(self, item: list[str]) -> tuple[dict[str, list[Any]], Batch]:
        """See `Lessons.load`."""
        return self.recordings.load(item), self._batch(item)

    def losses(self, loaded: tuple[dict[str, list[Any]], Batch], progress: float) -> Mapping[str, torch.Tensor]:
        """See `Lessons.losses`."""
        items, batch = loaded
        output, given = self.network(items, batch.to(self.processes.device))
        return self.network.head.losses(output, given, progress=progress)

    def evaluate(self) -> dict[str, float]:
        """See `Lessons.evaluate`."""
        value = self.task.metric(self.data.truths(self._validation), self.scores(self._validation))
        return {f"validation_{self.task.metric_name}": value}

    def scores(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Posteriors or values of every utterance, in order, `(utterances, outputs)`, computed in float32.

        Raises:
            TrainingError: One of them is not finite.
        """
        self.network.eval()
        places = {name: place for place, name in enumerate(names)}
        own = self._groups(names)[self.processes.number :: self.processes.count]
        values = torch.zeros(len(names), self.task.outputs, dtype=torch.float64)
        with inference(self.processes.device):
            for items, batch in prefetched(self.load, own, ahead=1):
                output, _ = self.network(items, batch.to(self.processes.device))
                values[[places[name] for name in batch.names]] = self.task.scores(output.logits).cpu()
        found = self.processes.total(values)
        if not found.isfinite().all():
            name = names[int((~found.isfinite()).any(1).nonzero()[0])]
            raise diverged(f"the answer to utterance {name!r} is not finite", remedy=LOWER)
        return found.numpy()

    def _batch(self, group: Sequence[str]) -> Batch:
        """Truth, targets and extras of some utterances."""
        truth = torch.from_numpy(self.data.truths(group))
        truth = truth.float() if truth.is_floating_point() else truth
        soft = self.settings.soft_labels
        targets = torch.stack([self.data.target(name) for name in group]) if soft else truth
        facts = [self.data.facts[name] for name in group]
        extras = {one: pad_extra([EXTRAS[one](fact) for fact in facts]) for one in self.network.head.reads.extras}
        return Batch(names=tuple(group), truth=truth, targets=targets, extras=extras)

    def _groups(self, names: Sequence[str]) -> list[list[str]]:
        return micro_batches(names, self.recordings.sizes, most=self.settings.micro_batch)

    def _weight(self, group: Sequence[str]) -> float:
        # Fractions of votes have equal weight.
        truth = torch.from_numpy(self.data.truths(group))
        return float(len(group) if self.settings.soft_labels else self.task.weights(truth).sum())

    def _standardise(self, train: Sequence[str]) -> None:
        """Standardise each hidden state by a sample of the training part, with the encoders before tuning."""
        rng = np.random.default_rng(derive_seed(self.seed, "statistics"))
        sample = [train[index] for index in rng.permutation(len(train))[:SAMPLED]]
        self.network.eval()
        for modality, frontend in self.network.head.frontends().items():
            if isinstance(frontend.mix, LayerMix):
                frontend.mix.standardise_by(*statistics_of(self._features(modality, sample)))

    def _features(self, modality: str, names: Sequence[str]) -> Iterable[torch.Tensor]:
        recordings = replace(self.recordings, modalities=(modality,))
        for items in prefetched(recordings.load, self._groups(names), ahead=1):
            with inference(self.processes.device):
                found = [one.cpu() for one in self.network.features(modality, items[modality])]
            yield from found
