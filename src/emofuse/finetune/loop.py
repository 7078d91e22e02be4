"""The loop of fine-tuning: steps that processes share, early stopping on validation UA, and going on after a kill."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn import functional as F

from emofuse.encoders.arithmetic import arithmetic, inference
from emofuse.errors import CheckpointError, SettingsError
from emofuse.features.dataset import statistics_of
from emofuse.files import plain_name, written_whole
from emofuse.finetune.batches import global_batches, micro_batches
from emofuse.finetune.network import TunedNetwork
from emofuse.finetune.processes import Processes
from emofuse.finetune.recordings import Part, Recordings
from emofuse.progress import Progress, Silent
from emofuse.scoring.metrics import confusion, unweighted_accuracy
from emofuse.seeds import derive_seed, seed_everything
from emofuse.settings import FinetuneSettings
from emofuse.training.folder import BEST, CHECKPOINT
from emofuse.training.loop import check_finite, class_weights, diverged, rate_at
from emofuse.training.state import damaged, load_state, save_state

SAMPLED = 128
LABEL = "Fine-tuning"
LOWER = "lower finetune.learning_rate, finetune.encoder_rate or finetune.clip"


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning leaves beside the network, which has the weights of its best pass.

    Attributes:
        epochs: Passes that gave the best validation UA.
        history: Training loss and validation UA of every pass.
        validation: Posteriors of the validation part, `(utterances, classes)`.
    """

    epochs: int
    history: list[dict[str, float]]
    validation: NDArray[np.float64]


class Tuner:
    """Fine-tuning of one network, in a folder that holds its checkpoint until it is done.

    A step's gradient is that of its whole batch: each utterance counts the same, whoever computes it and with whom,
    and dropout is drawn anew for every micro-batch from the step's number. So one process and several train the same
    network up to rounding, and a run that was cut off goes on to the same weights.

    Args:
        network: With fresh weights above the encoders; the same in every process.
        recordings: What it listens to and reads.
        labels: Class index of every utterance.
        settings: How.
        classes: Number of emotions.
        seed: Of order and dropout.
        processes: Who shares the work.
        folder: For checkpoints; all processes must see the same one.
        mark: Changes whenever anything that shapes the weights does.
        targets: Fraction of each class in what is learnt of an utterance, for soft labels.

    Raises:
        SettingsError: A step has fewer parts than there are processes.
    """

    def __init__(
        self,
        network: TunedNetwork,
        recordings: Recordings,
        labels: Mapping[str, int],
        settings: FinetuneSettings,
        *,
        classes: int,
        seed: int,
        processes: Processes,
        folder: Path,
        mark: str,
        targets: Callable[[str], torch.Tensor] | None = None,
    ) -> None:
        parts = -(-settings.batch_size // settings.micro_batch)
        if processes.count > parts:
            raise SettingsError(
                f"{processes.count} processes cannot share batches of {settings.batch_size} utterances in {parts} "
                f"parts of {settings.micro_batch}",
                where="finetune.micro_batch",
                remedy="make batch_size larger or micro_batch smaller, or start fewer processes",
            )
        self.network, self.recordings, self.labels, self.settings = network, recordings, labels, settings
        self.classes, self.seed, self.processes, self.folder, self.mark = classes, seed, processes, folder, mark
        self.targets = targets if settings.soft_labels else None
        self.optimizer = torch.optim.AdamW(network.groups(settings))
        self.parameters = [one for group in self.optimizer.param_groups for one in group["params"]]
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]

    def run(self, train: Sequence[str], validation: Sequence[str], *, progress: Progress = Silent()) -> Tuned:
        """Train until validation no longer rises; nothing of a test set comes near it.

        Raises:
            CheckpointError: The folder holds a checkpoint that is damaged or of something else, or processes see
                different ones.
            TrainingError: It diverged; nothing of it is kept.
        """
        settings, main = self.settings, self.processes.main
        weights = self._weights(train)
        done, best, history = self._resume(train)
        steps = -(-len(train) // settings.batch_size)
        progress.start(LABEL, settings.epochs * steps)
        progress.advance(LABEL, done * steps)
        for epoch in range(done + 1, settings.epochs + 1):
            if history and epoch - 1 - best["epoch"] >= settings.patience:
                break
            loss = self._epoch(train, epoch, weights, progress)
            check_finite(self.network, f"epoch {epoch}", remedy=LOWER)
            ua = self._ua(validation)
            history.append({"epoch": epoch, "loss": loss, "validation_ua": ua})
            if ua > best["ua"]:
                best = {"ua": ua, "epoch": epoch}
                if main:
                    self._keep()
            if main:
                values = {"epoch": epoch, "best": best, "history": history, "fingerprint": self.mark}
                save_state(self.folder / CHECKPOINT, self.network, self.optimizer, values)
        progress.finish(LABEL)
        # The others must not look for the best weights while they are being written.
        self.processes.wait()
        self.network.load_state_dict(self._best())
        return Tuned(int(best["epoch"]), history, self.posteriors(validation))

    def posteriors(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Posteriors of every utterance, in order, `(utterances, classes)`, computed in float32.

        Raises:
            TrainingError: One of them is not finite.
        """
        self.network.eval()
        places = {name: place for place, name in enumerate(names)}
        values = torch.zeros(len(names), self.classes, dtype=torch.float64)
        with inference(self.processes.device):
            for group, items in self.recordings.loaded(self._own(names)):
                answered = self.network(items).cpu().double().softmax(-1)
                values[[places[name] for name in group]] = answered
        found = self.processes.total(values)
        if not found.isfinite().all():
            name = names[int((~found.isfinite()).any(1).nonzero()[0])]
            raise diverged(f"the answer to utterance {name!r} is not finite", remedy=LOWER)
        return found.numpy()

    def _own(self, names: Sequence[str]) -> list[list[str]]:
        groups = micro_batches(names, self.recordings.sizes, most=self.settings.micro_batch)
        return groups[self.processes.number :: self.processes.count]

    def _weights(self, train: Sequence[str]) -> torch.Tensor:
        if not self.settings.class_weights:
            return torch.ones(self.classes)
        return class_weights(torch.tensor([self.labels[name] for name in train]), self.classes)

    def _epoch(self, train: Sequence[str], epoch: int, weights: torch.Tensor, progress: Progress) -> float:
        """One pass; returns the mean loss."""
        batches = global_batches(train, size=self.settings.batch_size, seed=self.seed, epoch=epoch)
        shares = [self._own(batch) for batch in batches]
        coming = self.recordings.loaded([group for groups in shares for group in groups])
        total = 0.0
        for number, (batch, groups) in enumerate(zip(batches, shares, strict=True)):
            step = (epoch - 1) * len(batches) + number
            share = rate_at(step, steps=self.settings.epochs * len(batches), warmup=self.settings.warmup)
            for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
                group["lr"] = peak * share
            parts = (next(coming) for _ in groups)
            loss = self._step(batch, parts, step, weights)
            if not math.isfinite(loss):
                # All processes see the same sum.
                raise diverged(f"the loss of epoch {epoch} is {loss}", remedy=LOWER)
            total += len(batch) * loss
            progress.advance(LABEL)
        return total / len(train)

    def _step(self, batch: Sequence[str], parts: Iterable[Part], step: int, weights: torch.Tensor) -> float:
        """One step of the optimiser on a whole batch, of which this process computes some parts; returns its loss."""
        settings, device = self.settings, self.processes.device
        self.network.train()
        self.optimizer.zero_grad()
        # As torch counts where targets are fractions.
        whole = float(len(batch) if self.targets else sum(weights[self.labels[name]] for name in batch))
        loss = torch.zeros(())
        for number, (group, items) in enumerate(parts):
            place = self.processes.number + number * self.processes.count
            seed_everything(derive_seed(self.seed, "step", step, place))
            with arithmetic(device, precision=settings.precision):
                summed = F.cross_entropy(
                    self.network(items),
                    self._targets(group).to(device),
                    weight=weights.to(device),
                    label_smoothing=settings.label_smoothing or 0.0,
                    reduction="sum",
                )
                # Over the weight of the whole batch, not of this part: parts and processes may hold uneven shares.
                (summed / whole).backward()  # type: ignore[no-untyped-call]
            loss += summed.detach().cpu() / whole
        self.processes.sum_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, settings.clip)
        self.optimizer.step()
        return float(self.processes.total(loss))

    def _targets(self, group: Sequence[str]) -> torch.Tensor:
        if self.targets:
            return torch.stack([self.targets(name) for name in group])
        return torch.tensor([self.labels[name] for name in group])

    def _ua(self, names: Sequence[str]) -> float:
        labels = np.array([self.labels[name] for name in names])
        predictions = self.posteriors(names).argmax(1)
        return float(unweighted_accuracy(confusion(labels, predictions, classes=self.classes)))

    def _resume(self, train: Sequence[str]) -> tuple[int, dict[str, float], list[dict[str, float]]]:
        """Passes that are done, the best of them and the history; statistics are taken where there are none."""
        path = self.folder / CHECKPOINT
        done, best, history = 0, {"ua": -1.0, "epoch": 0}, []
        if path.exists():
            device = self.processes.device
            values = load_state(path, self.network, self.optimizer, fingerprint=self.mark, device=device)
            # Rather now than when all passes are done.
            self._best()
            done, best, history = values["epoch"], values["best"], values["history"]
        else:
            self._standardise(train)
        if int(self.processes.total(torch.tensor(done))) != done * self.processes.count:
            raise CheckpointError(
                "processes see different checkpoints", where=path, remedy="use a folder that all machines share"
            )
        return done, best, history

    def _standardise(self, train: Sequence[str]) -> None:
        """Standardise each hidden state by a sample of the training part, as the encoders are before tuning."""
        rng = np.random.default_rng(derive_seed(self.seed, "statistics"))
        sample = [train[index] for index in rng.permutation(len(train))[:SAMPLED]]
        self.network.eval()
        for stream, mix in self.network.mixes().items():
            mix.standardise_by(*statistics_of(self._features(stream, sample)))

    def _features(self, stream: str, names: Sequence[str]) -> Iterable[torch.Tensor]:
        groups = micro_batches(names, self.recordings.sizes, most=self.settings.micro_batch)
        for _, items in replace(self.recordings, streams=(stream,)).loaded(groups):
            with inference(self.processes.device):
                found = [one.cpu() for one in self.network.features(stream, items[stream])]
            yield from found

    def _keep(self) -> None:
        from safetensors.torch import save_file

        weights: dict[str, Any] = {name: value.contiguous() for name, value in self.network.state_dict().items()}
        with written_whole(self.folder / BEST) as part:
            save_file(weights, part, metadata={"fingerprint": self.mark})

    def _best(self) -> dict[str, torch.Tensor]:
        """Weights of the best pass."""
        path = self.folder / BEST
        try:
            device = str(self.processes.device)
            with plain_name(path) as place, safe_open(place, framework="pt", device=device) as file:
                if file.metadata()["fingerprint"] == self.mark:
                    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError) as error:
            raise damaged(path, besides=f" and {CHECKPOINT}") from error
        raise damaged(path, besides=f" and {CHECKPOINT}")


def discard(folder: Path) -> None:
    """Remove the checkpoint of a training that is done and kept elsewhere, or of no use."""
    for name in (CHECKPOINT, BEST):
        (folder / name).unlink(missing_ok=True)
