"""The trainer: it optimises any module on named losses, in one or several processes, and resumes after a kill."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from emofuse.encoders.arithmetic import arithmetic
from emofuse.errors import CheckpointError, TrainingError
from emofuse.progress import Progress, Silent
from emofuse.seeds import derive_seed, kept_random_state, seed_step
from emofuse.training.processes import Alone
from emofuse.training.state import BEST, load_best, load_state, save_best, save_state

LOWER = "lower train.learning_rate or train.clip"

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
History = list[dict[str, float]]
"""Record of each epoch: `epoch`, `loss`, `loss_NAME` where there are several, and validation metrics."""
Listener = Callable[[History], None]
"""Receives the history after each epoch."""


@dataclass(frozen=True)
class Part(Generic[Item]):
    """A micro-batch.

    Attributes:
        item: Input of `Lessons.load`.
        weight: Its weight in the batch, such as the sum of its utterances' weights.
    """

    item: Item
    weight: float = 1.0


class Lessons(Protocol[Item, Loaded]):
    """Lessons for the trainer: batches in order, losses, and metrics after each epoch."""

    def steps(self, epoch: int) -> Sequence[Sequence[Part[Item]]]:
        """Batches of an epoch, counted from 1, each in micro-batches; the same for every caller at any time."""

    def load(self, item: Item) -> Loaded:
        """Read a micro-batch."""

    def losses(self, loaded: Loaded, progress: float) -> Mapping[str, torch.Tensor]:
        """Losses of a micro-batch by name, each a mean over its utterances; their sum is minimised.

        Args:
            loaded: Result of `load`.
            progress: Finished fraction of all planned steps.
        """

    def evaluate(self) -> Mapping[str, float]:
        """Validation metrics by name."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Schedule of training.

    Attributes:
        epochs: Most epochs.
        steps: Steps after which the learning rate has fallen to zero.
        warmup: Fraction of the steps in which it rises.
        clip: Largest norm of the gradient.
        patience: Epochs without a better validation metric after which training stops; None to never stop early.
        precision: Arithmetic of the losses.
    """

    epochs: int
    steps: int
    warmup: float
    clip: float = 1.0
    patience: int | None = None
    precision: str = "float32"


@dataclass(frozen=True)
class Fitted:
    """Result of a trainer, besides the weights.

    Attributes:
        epochs: Number of the chosen epoch.
        history: Record of each epoch.
    """

    epochs: int
    history: History


@dataclass(kw_only=True)
class Trainer(Generic[Item, Loaded]):
    """Training of one module, fully determined by the arguments.

    The gradient of a step is that of its whole batch: each micro-batch counts by its fraction of the batch's weight.
    Every micro-batch is seeded by its position. So weights do not depend on the number of processes, up to rounding,
    and a killed training resumes to the same weights. A loss that is no mean over utterances, such as a correlation,
    is computed per micro-batch.

    Attributes:
        model: The module, on its device, the same in every process.
        groups: Its parameters with their peak learning rate and decay, as AdamW takes them.
        lessons: What it learns.
        schedule: Schedule of training.
        seed: Of everything random after the model was made.
        processes: Who shares the work, and where this process computes.
        select: Name of the validation metric, higher is better, that chooses the epoch whose weights are kept; None to
            keep the last.
        checkpoint: File to resume from, in a folder that all processes share; None for none. The weights of the best
            epoch are beside it.
        fingerprint: Changes with anything that affects the weights.
        label: Label of the progress display.
        ahead: Micro-batches that are loaded in advance.
        remedy: Remedy in the error of a diverged training.
        listeners: Receive the history after each epoch, in the first process.
    """

    model: nn.Module
    groups: Iterable[dict[str, Any]]
    lessons: Lessons[Item, Loaded]
    schedule: Schedule
    seed: int
    processes: Alone = field(default_factory=Alone)
    select: str | None = None
    checkpoint: Path | None = None
    fingerprint: str = ""
    label: str = "Training"
    ahead: int = 0
    remedy: str = LOWER
    listeners: Sequence[Listener] = ()

    def __post_init__(self) -> None:
        # One call per step instead of several per weight: much faster for small models.
        self.optimizer = torch.optim.AdamW(self.groups, fused=self.processes.device.type in ("cpu", "cuda"))
        self.parameters = [one for group in self.optimizer.param_groups for one in group["params"]]
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self._kept: dict[str, torch.Tensor] = {}

    @kept_random_state()
    def run(self, *, progress: Progress = Silent()) -> Fitted:
        """Train, and leave the model with the chosen weights in evaluation mode.

        Raises:
            CheckpointError: The checkpoint is damaged or of something else, or processes see different ones.
            TrainingError: It diverged.
        """
        main, schedule = self.processes.main, self.schedule
        state = self._resume()
        history, best = state["history"], state["best"]
        progress.start(self.label, schedule.steps)
        progress.advance(self.label, state["step"])
        for epoch in range(state["epoch"] + 1, schedule.epochs + 1):
            if schedule.patience and epoch - 1 - best["epoch"] >= schedule.patience:
                break
            losses = self._epoch(epoch, state["step"], progress)
            state["step"] += losses.pop("steps")
            check_finite(self.model, f"epoch {epoch}", remedy=self.remedy)
            history.append({"epoch": epoch, **losses, **self.lessons.evaluate()})
            value = history[-1][self.select] if self.select else 0.0
            if not self.select or not best["epoch"] or value > best["value"]:
                best |= {"value": value, "epoch": epoch}
                self._keep()
            state["epoch"] = epoch
            if main and self.checkpoint:
                save_state(self.checkpoint, self.model, self.optimizer, {**state, "fingerprint": self.fingerprint})
            for listener in self.listeners if main else ():
                listener(history)
        progress.finish(self.label)
        # Other processes must not read the best weights while they are written.
        self.processes.wait()
        if self.select:
            self.model.load_state_dict(self._best())
        self.model.eval()
        return Fitted(int(best["epoch"]), history)

    def _epoch(self, epoch: int, step: int, progress: Progress) -> dict[str, Any]:
        """One epoch; returns the mean of each loss and of their sum, and the number of steps."""
        processes, schedule = self.processes, self.schedule
        steps = self.lessons.steps(epoch)
        own = [list(enumerate(parts))[processes.number :: processes.count] for parts in steps]
        coming = prefetched(self.lessons.load, [part.item for parts in own for _, part in parts], ahead=self.ahead)
        totals: dict[str, float] = {}
        epoch_weight = 0.0
        self.model.train()
        for batch, parts in zip(steps, own, strict=True):
            rate = rate_at(step, steps=schedule.steps, warmup=schedule.warmup)
            for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
                group["lr"] = peak * rate
            self.optimizer.zero_grad()
            weight = sum(part.weight for part in batch)
            batch_loss = 0.0
            for place, part in parts:
                loaded = next(coming)
                seed_step(derive_seed(self.seed, "step", step, place), processes.device.type)
                with arithmetic(processes.device, precision=schedule.precision):
                    losses = self.lessons.losses(loaded, step / schedule.steps)
                    stacked = torch.stack(list(losses.values()))
                    (stacked.sum() * (part.weight / weight)).backward()  # type: ignore[no-untyped-call]
                values = stacked.detach().tolist()
                batch_loss += sum(values) * part.weight / weight
                for name, value in zip(losses, values, strict=True):
                    totals[name] = totals.get(name, 0.0) + value * part.weight
            # All processes see the same sum, and stop together.
            batch_loss = float(processes.total(torch.tensor(batch_loss, dtype=torch.float64)))
            if not math.isfinite(batch_loss):
                raise diverged(f"the loss of epoch {epoch} is {batch_loss}", remedy=self.remedy)
            processes.sum_gradients(self.parameters)
            nn.utils.clip_grad_norm_(self.parameters, schedule.clip)
            self.optimizer.step()
            epoch_weight += weight
            step += 1
            progress.advance(self.label)
        return {"steps": len(steps), **self._means(totals, epoch_weight)}

    def _means(self, totals: Mapping[str, float], weight: float) -> dict[str, float]:
        # A process without a part in the epoch does not know the names; the first process always has one.
        count = int(self.processes.total(torch.tensor(len(totals) if self.processes.main else 0)))
        sums = torch.zeros(count, dtype=torch.float64)
        sums[: len(totals)] = torch.tensor(list(totals.values()), dtype=torch.float64)
        means = (self.processes.total(sums) / weight).tolist()
        named = dict(zip((f"loss_{name}" for name in totals), means, strict=False)) if count > 1 else {}
        return {"loss": sum(means), **named}

    def _resume(self) -> dict[str, Any]:
        """Epochs and steps that are done, the best epoch and the history."""
        state: dict[str, Any] = {"epoch": 0, "step": 0, "best": {"value": 0.0, "epoch": 0}, "history": []}
        if self.checkpoint and self.checkpoint.exists():
            device = self.processes.device
            state = load_state(self.checkpoint, self.model, self.optimizer, fingerprint=self.fingerprint, device=device)
            if self.select:
                # Fail now, not after all epochs.
                self._best()
        if int(self.processes.total(torch.tensor(state["epoch"]))) != state["epoch"] * self.processes.count:
            raise CheckpointError(
                "processes see different checkpoints",
                where=self.checkpoint,
                remedy="use a folder that all machines share",
            )
        return state

    def _keep(self) -> None:
        if not self.select:
            return
        if self.checkpoint is None:
            self._kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        elif self.processes.main:
            save_best(self.checkpoint.with_name(BEST), self.model, fingerprint=self.fingerprint)

    def _best(self) -> dict[str, torch.Tensor]:
        if self.checkpoint is None:
            return self._kept
        place = self.checkpoint.with_name(BEST)
        return load_best(place, fingerprint=self.fingerprint, device=self.processes.device)


def shuffled(count: int, *, size: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of all utterances in batches, in an order by seed and epoch.

    Example:
        >>> [len(batch) for batch in shuffled(7, size=3, seed=0, epoch=1)]
        [3, 3, 1]
    """
    order = np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(count).tolist()
    return [order[start : start + size] for start in range(0, count, size)]


def prefetched(load: Callable[[Item], Loaded], items: Iterable[Item], *, ahead: int) -> Iterator[Loaded]:
    """Load items in order, some in advance in a thread.

    Example:
        >>> list(prefetched(str.upper, "abc", ahead=1))
        ['A', 'B', 'C']
    """
    if not ahead:
        yield from map(load, items)
        return
    with ThreadPoolExecutor(1) as reader:
        waiting: deque[Future[Loaded]] = deque()
        for item in items:
            waiting.append(reader.submit(load, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def decay_groups(parameters: Iterable[nn.Parameter], *, rate: float, decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW; biases and norms do not decay.

    Example:
        >>> [(len(group["params"]), group["weight_decay"]) for group in decay_groups(
        ...     nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)).parameters(), rate=0.1, decay=0.01)]
        [(1, 0.01), (3, 0.0)]
    """
    trained = [one for one in parameters if one.requires_grad]
    groups = [
        {"params": [one for one in trained if one.ndim > 1], "lr": rate, "weight_decay": decay},
        {"params": [one for one in trained if one.ndim <= 1], "lr": rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def rate_at(step: int, *, steps: int, warmup: float) -> float:
    """Fraction of the peak learning rate at a step: a linear rise, then half a cosine to zero.

    Example:
        >>> [round(rate_at(step, steps=10, warmup=0.2), 2) for step in (0, 1, 6, 10)]
        [0.5, 1.0, 0.5, 0.0]
    """
    rise = warmup * steps
    if step + 1 <= rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, step - rise) / max(1.0, steps - rise))))


def diverged(what: str, *, remedy: str = LOWER) -> TrainingError:
    """The error of a diverged training."""
    return TrainingError(f"the training diverged: {what}", remedy=remedy)


def check_finite(model: nn.Module, when: str, *, remedy: str = LOWER) -> None:
    """Check that a model's weights are finite.

    Raises:
        TrainingError: One of them is not.
    """
    for name, value in model.named_parameters():
        if not value.isfinite().all():
            raise diverged(f"after {when} weights {name} are not finite", remedy=remedy)
