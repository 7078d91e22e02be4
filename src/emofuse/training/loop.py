"""The one training loop: AdamW, warm-up, clipping, early stopping on the task's metric on validation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emofuse.errors import TrainingError
from emofuse.features.dataset import Dataset, fit_statistics
from emofuse.models.base import EmotionModel
from emofuse.models.frontend import LayerMix
from emofuse.seeds import seed_everything
from emofuse.settings import TrainSettings
from emofuse.task import Task

EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Trained:
    """What training leaves.

    Attributes:
        model: With the weights of its best epoch, in evaluation mode.
        epochs: Epochs that gave the best validation metric.
        history: Losses by name and validation metric of every epoch.
        validation: Scores of the validation part, `(utterances, outputs)`, by the model that has not been refitted
            on it.
    """

    model: EmotionModel
    epochs: int
    history: list[dict[str, float]]
    validation: NDArray[np.float64]


def fit(
    make: Callable[[Task], EmotionModel],
    train: Dataset,
    validation: Dataset,
    settings: TrainSettings,
    *,
    task: Task,
    seed: int,
    device: str = "cpu",
) -> Trained:
    """Train one model; nothing of a test set comes near it.

    Args:
        make: Builds the model with fresh weights, for a task that is fitted to its training part.
        train: What gradients and statistics come from.
        validation: What decides when to stop.
        settings: How.
        task: What is predicted.
        seed: Of weights, order and dropout.
        device: Where to compute.

    Raises:
        TrainingError: It diverged; nothing of it is kept.
    """
    runner = _Runner(make, train, settings, task=task, seed=seed, device=device)
    model = runner.model
    best, best_epoch, best_weights = -math.inf, 0, model.state_dict()
    history = []
    for epoch in range(1, settings.epochs + 1):
        losses = runner.epoch(epoch)
        value = model.task.metric(validation.truth.numpy(), predict_scores(model, validation, device=device))
        history.append({"epoch": epoch, **losses, f"validation_{task.metric_name}": value})
        if value > best:
            best, best_epoch = value, epoch
            best_weights = {name: value.clone() for name, value in model.state_dict().items()}
        elif epoch - best_epoch >= settings.patience:
            break
    model.load_state_dict(best_weights)
    held_out = predict_scores(model, validation, device=device)
    if settings.refit:
        runner = _Runner(make, train + validation, settings, task=task, seed=seed, device=device)
        for epoch in range(1, best_epoch + 1):
            runner.epoch(epoch)
    check_finite(runner.model, f"epoch {best_epoch}")
    runner.model.eval()
    return Trained(runner.model, best_epoch, history, held_out)


class _Runner:
    """Epochs over the training part."""

    def __init__(
        self,
        make: Callable[[Task], EmotionModel],
        train: Dataset,
        settings: TrainSettings,
        *,
        task: Task,
        seed: int,
        device: str,
    ) -> None:
        seed_everything(seed)
        self.model = make(task.fitted(train.truth, settings))
        for modality, frontend in self.model.frontends().items():
            if isinstance(frontend.mix, LayerMix):
                frontend.mix.standardise_by(*fit_statistics(train, modality))
        self.model.to(device)
        self.train, self.settings, self.device = train, settings, device
        self.order = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.AdamW(self.model.parameter_groups(settings))
        self.steps, self.step = settings.epochs * math.ceil(len(train) / settings.batch_size), 0
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: rate_at(step, steps=self.steps, warmup=settings.warmup)
        )

    def epoch(self, number: int = 1) -> dict[str, float]:
        """One epoch; returns the mean of each loss, and of their sum.

        Raises:
            TrainingError: The loss of a step is not finite.
        """
        self.model.train()
        totals: dict[str, float] = {}
        for batch in self.train.batches(self.settings.batch_size, generator=self.order):
            given = batch.to(self.device)
            losses = self.model.losses(self.model(given), given, progress=self.step / self.steps)
            loss = torch.stack(list(losses.values())).sum()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
            self.optimizer.step()
            self.schedule.step()
            self.step += 1
            value = float(loss.detach())
            if not math.isfinite(value):
                raise diverged(f"the loss of epoch {number} is {value}")
            named: dict[str, Any] = {"loss": value}
            named |= {f"loss_{name}": float(one.detach()) for name, one in losses.items()} if len(losses) > 1 else {}
            for name, one in named.items():
                totals[name] = totals.get(name, 0.0) + one * len(batch.names)
        return {name: total / len(self.train) for name, total in totals.items()}


def rate_at(step: int, *, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: a linear rise, then half a cosine to zero.

    Example:
        >>> [round(rate_at(step, steps=10, warmup=0.2), 2) for step in (0, 1, 6, 10)]
        [0.5, 1.0, 0.5, 0.0]
    """
    rise = warmup * steps
    if step + 1 <= rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, step - rise) / max(1.0, steps - rise))))


LOWER = "lower train.learning_rate or train.clip"


def diverged(what: str, *, remedy: str = LOWER) -> TrainingError:
    """The error of a training whose numbers have left the range of floats."""
    return TrainingError(f"the training diverged: {what}", remedy=remedy)


def check_finite(model: nn.Module, when: str, *, remedy: str = LOWER) -> None:
    """See that a model's weights are numbers.

    Raises:
        TrainingError: One of them is not.
    """
    for name, value in model.named_parameters():
        if not value.isfinite().all():
            raise diverged(f"after {when} weights {name} are not finite", remedy=remedy)


def predict_scores(model: EmotionModel, dataset: Dataset, *, device: str = "cpu") -> NDArray[np.float64]:
    """Posteriors or values of every utterance, in order, `(utterances, outputs)`.

    Raises:
        TrainingError: One of them is not finite.
    """
    model.eval()
    parts = []
    with torch.inference_mode():
        for batch in dataset.batches(EVALUATION_BATCH):
            values = model.task.scores(model(batch.to(device)).logits).cpu()
            if not values.isfinite().all():
                name = batch.names[int((~values.isfinite()).any(1).nonzero()[0])]
                raise diverged(f"the answer to utterance {name!r} is not finite")
            parts.append(values)
    return torch.cat(parts).numpy()


def layer_weights(model: EmotionModel) -> dict[str, list[float]]:
    """Learned fraction of each hidden state, by modality, of every layer mix in a model."""
    mixes = {modality: frontend.mix for modality, frontend in model.frontends().items()}
    return {
        modality: [round(value, 6) for value in mix.weights.tolist()]
        for modality, mix in mixes.items()
        if isinstance(mix, LayerMix)
    }
