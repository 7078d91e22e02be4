"""Training of a model on frozen features, with early stopping on the task's metric on validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from emofuse.features.dataset import Batch, Dataset, fit_statistics
from emofuse.models.base import EmotionModel
from emofuse.models.frontend import LayerMix
from emofuse.seeds import kept_random_state, one_thread, seed_everything
from emofuse.settings import TrainSettings
from emofuse.task import Task
from emofuse.training.processes import Alone
from emofuse.training.trainer import Fitted, History, Listener, Part, Schedule, Trainer, diverged, shuffled

EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Trained:
    """Result of a training.

    Attributes:
        model: With the weights of its best epoch, in evaluation mode.
        epochs: Epochs that gave the best validation metric.
        history: Losses by name and validation metric of every epoch.
        validation: Scores of the validation part, `(utterances, outputs)`, before refitting.
    """

    model: EmotionModel
    epochs: int
    history: History
    validation: NDArray[np.float64]


@kept_random_state()
@one_thread()
def fit(
    make: Callable[[Task], EmotionModel],
    train: Dataset,
    validation: Dataset,
    settings: TrainSettings,
    *,
    task: Task,
    seed: int,
    device: str = "cpu",
    listeners: Sequence[Listener] = (),
) -> Trained:
    """Train one model; the test set is never read.

    Args:
        make: Builds the model with fresh weights, for a task that is fitted to its training part.
        train: Training part.
        validation: Validation part, for early stopping.
        settings: Settings of training.
        task: The task.
        seed: Of weights, order and dropout.
        device: Torch device.
        listeners: Receive the history after each epoch, see `Trainer`.

    Raises:
        TrainingError: It diverged.
    """

    def trained(train: Dataset, validation: Dataset | None, epochs: int) -> tuple[EmotionModel, Fitted]:
        seed_everything(seed)
        model = make(task.fitted(train.truth, settings))
        for modality, frontend in model.frontends().items():
            if isinstance(frontend.mix, LayerMix):
                frontend.mix.standardise_by(*fit_statistics(train, modality))
        model.to(device)
        trainer = Trainer(
            model=model,
            groups=model.parameter_groups(settings),
            lessons=_Lessons(model, train, validation, settings.batch_size, seed, device),
            schedule=Schedule(
                epochs=epochs,
                steps=settings.epochs * math.ceil(len(train) / settings.batch_size),
                warmup=settings.warmup,
                clip=settings.clip,
                patience=settings.patience if validation else None,
            ),
            seed=seed,
            processes=Alone(device),
            select=f"validation_{task.metric_name}" if validation else None,
            listeners=listeners if validation else (),
        )
        return model, trainer.run()

    model, fitted = trained(train, validation, settings.epochs)
    held_out = predict_scores(model, validation, device=device)
    if settings.refit:
        model, _ = trained(train + validation, None, fitted.epochs)
    return Trained(model, fitted.epochs, fitted.history, held_out)


@dataclass(frozen=True)
class _Lessons:
    """Batches of frozen features."""

    model: EmotionModel
    train: Dataset
    validation: Dataset | None
    size: int
    seed: int
    device: str

    def steps(self, epoch: int) -> list[list[Part[list[int]]]]:
        # Fractions of votes have equal weight.
        hard, count = self.train.targets is None, len(self.train)
        weights = self.model.task.weights(self.train.truth) if hard else torch.ones(count)
        batches = shuffled(count, size=self.size, seed=self.seed, epoch=epoch)
        return [[Part(batch, float(weights[batch].sum()))] for batch in batches]

    def load(self, item: list[int]) -> Batch:
        return self.train.batch(item).to(self.device)

    def losses(self, loaded: Batch, progress: float) -> Mapping[str, torch.Tensor]:
        return self.model.losses(self.model(loaded), loaded, progress=progress)

    def evaluate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        task, scores = self.model.task, predict_scores(self.model, self.validation, device=self.device)
        return {f"validation_{task.metric_name}": task.metric(self.validation.truth.numpy(), scores)}


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
