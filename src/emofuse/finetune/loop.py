"""The loop of fine-tuning: steps that processes share, early stopping on validation UA, and going on after a kill."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import nn

from emofuse.encoders.arithmetic import arithmetic, inference
from emofuse.errors import CheckpointError, SettingsError
from emofuse.features.dataset import Batch, pad_extra, statistics_of
from emofuse.features.extras import EXTRAS
from emofuse.files import plain_name, written_whole
from emofuse.finetune.batches import global_batches, micro_batches
from emofuse.finetune.network import TunedNetwork
from emofuse.finetune.processes import Processes
from emofuse.finetune.recordings import Part, Recordings
from emofuse.models.frontend import LayerMix
from emofuse.progress import Progress, Silent
from emofuse.seeds import derive_seed, seed_everything
from emofuse.settings import FinetuneSettings
from emofuse.training.data import TrainingData
from emofuse.training.folder import BEST, CHECKPOINT
from emofuse.training.loop import check_finite, diverged, rate_at
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
        data: Their truth, targets and extras.
        settings: How.
        seed: Of order and dropout.
        processes: Who shares the work.
        folder: For checkpoints; all processes must see the same one.
        mark: Changes whenever anything that shapes the weights does.

    Raises:
        SettingsError: A step has fewer parts than there are processes.
    """

    def __init__(
        self,
        network: TunedNetwork,
        recordings: Recordings,
        data: TrainingData,
        settings: FinetuneSettings,
        *,
        seed: int,
        processes: Processes,
        folder: Path,
        mark: str,
    ) -> None:
        parts = -(-settings.batch_size // settings.micro_batch)
        if processes.count > parts:
            raise SettingsError(
                f"{processes.count} processes cannot share batches of {settings.batch_size} utterances in {parts} "
                f"parts of {settings.micro_batch}",
                where="finetune.micro_batch",
                remedy="make batch_size larger or micro_batch smaller, or start fewer processes",
            )
        self.network, self.recordings, self.data, self.settings = network, recordings, data, settings
        self.seed, self.processes, self.folder, self.mark = seed, processes, folder, mark
        self.task = network.head.task
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
        done, best, history = self._resume(train)
        steps = -(-len(train) // settings.batch_size)
        progress.start(LABEL, settings.epochs * steps)
        progress.advance(LABEL, done * steps)
        for epoch in range(done + 1, settings.epochs + 1):
            if history and epoch - 1 - best["epoch"] >= settings.patience:
                break
            losses = self._epoch(train, epoch, progress)
            check_finite(self.network, f"epoch {epoch}", remedy=LOWER)
            value = self.task.metric(self.data.truths(validation), self.scores(validation))
            history.append({"epoch": epoch, **losses, f"validation_{self.task.metric_name}": value})
            if best["value"] is None or value > best["value"]:
                best = {"value": value, "epoch": epoch}
                if main:
                    self._keep()
            if main:
                values = {"epoch": epoch, "best": best, "history": history, "fingerprint": self.mark}
                save_state(self.folder / CHECKPOINT, self.network, self.optimizer, values)
        progress.finish(LABEL)
        # The others must not look for the best weights while they are being written.
        self.processes.wait()
        self.network.load_state_dict(self._best())
        return Tuned(int(best["epoch"]), history, self.scores(validation))

    def scores(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Posteriors or values of every utterance, in order, `(utterances, outputs)`, computed in float32.

        Raises:
            TrainingError: One of them is not finite.
        """
        self.network.eval()
        places = {name: place for place, name in enumerate(names)}
        values = torch.zeros(len(names), self.task.outputs, dtype=torch.float64)
        with inference(self.processes.device):
            for group, items in self.recordings.loaded(self._own(names)):
                output, _ = self.network(items, self._batch(group))
                values[[places[name] for name in group]] = self.task.scores(output.logits).cpu()
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
        batch = Batch(names=tuple(group), truth=truth, targets=targets, extras=extras)
        return batch.to(self.processes.device)

    def _own(self, names: Sequence[str]) -> list[list[str]]:
        groups = micro_batches(names, self.recordings.sizes, most=self.settings.micro_batch)
        return groups[self.processes.number :: self.processes.count]

    def _epoch(self, train: Sequence[str], epoch: int, progress: Progress) -> dict[str, float]:
        """One epoch; returns the mean of each loss, and of their sum."""
        batches = global_batches(train, size=self.settings.batch_size, seed=self.seed, epoch=epoch)
        shares = [self._own(batch) for batch in batches]
        coming = self.recordings.loaded([group for groups in shares for group in groups])
        totals: dict[str, float] = {}
        steps = self.settings.epochs * len(batches)
        for number, (batch, groups) in enumerate(zip(batches, shares, strict=True)):
            step = (epoch - 1) * len(batches) + number
            share = rate_at(step, steps=steps, warmup=self.settings.warmup)
            for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
                group["lr"] = peak * share
            parts = (next(coming) for _ in groups)
            losses = self._step(batch, parts, step, progress=step / steps)
            if not math.isfinite(losses["loss"]):
                # All processes see the same sum.
                raise diverged(f"the loss of epoch {epoch} is {losses['loss']}", remedy=LOWER)
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + len(batch) * value
            progress.advance(LABEL)
        return {name: total / len(train) for name, total in totals.items()}

    def _step(self, batch: Sequence[str], parts: Iterable[Part], step: int, *, progress: float) -> dict[str, float]:
        """One step of the optimiser on a whole batch, of which this process computes some parts; returns its losses."""
        settings, device = self.settings, self.processes.device
        self.network.train()
        self.optimizer.zero_grad()
        whole = float(self.task.weights(self._batch(batch).known().cpu()).sum())
        summed: dict[str, torch.Tensor] = {}
        for number, (group, items) in enumerate(parts):
            place = self.processes.number + number * self.processes.count
            seed_everything(derive_seed(self.seed, "step", step, place))
            with arithmetic(device, precision=settings.precision):
                output, given = self.network(items, self._batch(group))
                losses = self.network.head.losses(output, given, progress=progress)
                # Over the weight of the whole batch, not of this part: parts and processes may hold uneven fractions.
                fraction = float(self.task.weights(given.known().cpu()).sum()) / whole
                loss = torch.stack(list(losses.values())).sum() * fraction
                loss.backward()  # type: ignore[no-untyped-call]
            named = {"loss": loss, **({f"loss_{one}": value * fraction for one, value in losses.items()})}
            for name, value in named.items():
                summed[name] = summed.get(name, torch.zeros(())) + value.detach().cpu()
        self.processes.sum_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, settings.clip)
        self.optimizer.step()
        return {name: float(self.processes.total(value)) for name, value in summed.items()}

    def _resume(self, train: Sequence[str]) -> tuple[int, dict[str, Any], list[dict[str, float]]]:
        """Passes that are done, the best of them and the history; statistics are taken where there are none."""
        path = self.folder / CHECKPOINT
        done, best, history = 0, {"value": None, "epoch": 0}, []
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
        for modality, frontend in self.network.head.frontends().items():
            if isinstance(frontend.mix, LayerMix):
                frontend.mix.standardise_by(*statistics_of(self._features(modality, sample)))

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
