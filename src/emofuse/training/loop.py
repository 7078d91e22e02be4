"""The one training loop: AdamW, warm-up, clipping, early stopping on validation UA."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from emofuse.errors import TrainingError
from emofuse.features.dataset import Dataset, fit_statistics
from emofuse.models.front import LayerMix
from emofuse.models.streams import EmotionModel
from emofuse.scoring.metrics import confusion, unweighted_accuracy
from emofuse.seeds import seed_everything
from emofuse.settings import TrainSettings

EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Trained:
    """What training leaves.

    Attributes:
        model: With the weights of its best pass, in evaluation mode.
        epochs: Passes that gave the best validation UA.
        history: Training loss and validation UA of every pass.
        validation: Posteriors of the validation part, `(utterances, classes)`, by the model that has not been
            refitted on it.
    """

    model: EmotionModel
    epochs: int
    history: list[dict[str, float]]
    validation: NDArray[np.float64]


def fit(
    make: Callable[[], EmotionModel],
    train: Dataset,
    validation: Dataset,
    settings: TrainSettings,
    *,
    classes: int,
    seed: int,
    device: str = "cpu",
) -> Trained:
    """Train one model; nothing of a test set comes near it.

    Args:
        make: Builds the model with fresh weights.
        train: What gradients and statistics come from.
        validation: What decides when to stop.
        settings: How.
        classes: Number of emotions.
        seed: Of weights, order and dropout.
        device: Where to compute.

    Raises:
        TrainingError: It diverged; nothing of it is kept.
    """
    seed_everything(seed)
    model = _fresh(make, train, device)
    runner = _Runner(model, train, settings, classes=classes, seed=seed, device=device)
    best_ua, best_epoch, best_weights = -1.0, 0, model.state_dict()
    history = []
    for epoch in range(1, settings.epochs + 1):
        loss = runner.epoch(epoch)
        predictions = posteriors(model, validation, device=device).argmax(1)
        ua = float(unweighted_accuracy(confusion(validation.labels.numpy(), predictions, classes=classes)))
        history.append({"epoch": epoch, "loss": loss, "validation_ua": ua})
        if ua > best_ua:
            best_ua, best_epoch = ua, epoch
            best_weights = {name: value.clone() for name, value in model.state_dict().items()}
        elif epoch - best_epoch >= settings.patience:
            break
    model.load_state_dict(best_weights)
    held_out = posteriors(model, validation, device=device)
    if settings.refit:
        whole = train + validation
        seed_everything(seed)
        model = _fresh(make, whole, device)
        runner = _Runner(model, whole, settings, classes=classes, seed=seed, device=device)
        for epoch in range(1, best_epoch + 1):
            runner.epoch(epoch)
    check_finite(model, f"epoch {best_epoch}")
    model.eval()
    return Trained(model, best_epoch, history, held_out)


def _fresh(make: Callable[[], EmotionModel], train: Dataset, device: str) -> EmotionModel:
    model = make()
    for stream in train.streams:
        mixes = [
            module
            for name, module in model.named_modules()
            if isinstance(module, LayerMix) and name in ("front", f"{stream}_front")
        ]
        for mix in mixes:
            mix.standardise_by(*fit_statistics(train, stream))
    return model.to(device)


class _Runner:
    """Passes through the training part."""

    def __init__(
        self, model: EmotionModel, train: Dataset, settings: TrainSettings, *, classes: int, seed: int, device: str
    ) -> None:
        self.model, self.train, self.settings, self.device = model, train, settings, device
        self.order = torch.Generator().manual_seed(seed)
        mixes = [parameter for name, parameter in model.named_parameters() if name.endswith("front.scores")]
        others = [parameter for name, parameter in model.named_parameters() if not name.endswith("front.scores")]
        rate = settings.learning_rate
        self.optimizer = torch.optim.AdamW(
            [
                {"params": others, "lr": rate, "weight_decay": settings.weight_decay},
                {"params": mixes, "lr": rate * settings.layer_rate, "weight_decay": 0.0},
            ]
        )
        steps = settings.epochs * math.ceil(len(train) / settings.batch_size)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: rate_at(step, steps=steps, warmup=settings.warmup)
        )
        self.weight = class_weights(train.labels, classes).to(device) if settings.class_weights else None

    def epoch(self, number: int = 1) -> float:
        """One pass; returns the mean loss.

        Raises:
            TrainingError: The loss of a step is not finite.
        """
        self.model.train()
        total = 0.0
        for batch in self.train.batches(self.settings.batch_size, generator=self.order):
            inputs = {name: value.to(self.device) for name, value in batch.inputs.items()}
            loss = F.cross_entropy(
                self.model(**inputs),
                batch.targets.to(self.device),
                weight=self.weight,
                label_smoothing=self.settings.label_smoothing,
            )
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
            self.optimizer.step()
            self.schedule.step()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise diverged(f"the loss of epoch {number} is {value}")
            total += value * len(batch.names)
        return total / len(self.train)


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


def class_weights(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Inverse class frequencies, scaled to a mean of 1 over utterances; 0 for a class without any.

    Example:
        >>> class_weights(torch.tensor([0, 0, 0, 1]), 2).tolist()
        [0.6666666865348816, 2.0]
    """
    counts = torch.bincount(labels, minlength=classes).float()
    present = counts > 0
    return torch.where(present, len(labels) / (counts.clamp(min=1) * present.sum()), 0.0)


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


def posteriors(model: EmotionModel, dataset: Dataset, *, device: str = "cpu") -> NDArray[np.float64]:
    """Posteriors of every utterance, in order, `(utterances, classes)`.

    Raises:
        TrainingError: One of them is not finite.
    """
    model.eval()
    parts = []
    with torch.inference_mode():
        for batch in dataset.batches(EVALUATION_BATCH):
            logits = model(**{name: value.to(device) for name, value in batch.inputs.items()})
            values = logits.double().softmax(-1).cpu()
            if not values.isfinite().all():
                name = batch.names[int((~values.isfinite()).any(1).nonzero()[0])]
                raise diverged(f"the answer to utterance {name!r} is not finite")
            parts.append(values)
    return torch.cat(parts).numpy()


def layer_weights(model: EmotionModel) -> dict[str, list[float]]:
    """Learned share of each hidden state, by stream, of every layer mix in a model."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, LayerMix):
            stream = name.removesuffix("front").strip("_.") or model.streams[0]
            found[stream] = [round(value, 6) for value in module.weights.tolist()]
    return found
