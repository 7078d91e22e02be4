"""Tasks: classification or regression, with loss, scores and metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from emofuse.scoring.metrics import confusion, unweighted_accuracy
from emofuse.scoring.regression import concordance, mean_absolute_error
from emofuse.settings import RegressionLoss

Array = NDArray[np.float64]
SMALLEST_SPREAD = 1e-8


class Learning(Protocol):
    """Common settings of training on frozen features and fine-tuning."""

    class_weights: Any
    label_smoothing: Any


class Task(ABC):
    """A task.

    Attributes:
        names: Classes or values, in the order of a model's outputs.
    """

    names: tuple[str, ...]
    metric_name: ClassVar[str]

    @property
    def outputs(self) -> int:
        """Number of outputs per utterance."""
        return len(self.names)

    @abstractmethod
    def fitted(self, truth: torch.Tensor, settings: Learning) -> Task:
        """The task with statistics of the training part: class weights, or mean and spread of values."""

    @abstractmethod
    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss of a batch, by `weights`.

        Args:
            logits: Model outputs, `(batch, outputs)`.
            targets: Classes `(batch,)`, fractions of them `(batch, classes)`, or values `(batch, values)`.
        """

    @abstractmethod
    def weights(self, targets: torch.Tensor) -> torch.Tensor:
        """Weight of each utterance in the loss, `(batch,)`."""

    @abstractmethod
    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Posteriors or values, `(batch, outputs)`, in double precision."""

    @abstractmethod
    def metric(self, truth: NDArray[Any], scores: Array) -> float:
        """Metric of early stopping; higher is better."""

    @abstractmethod
    def columns(self, truth: NDArray[Any], scores: Array) -> dict[str, Any]:
        """Columns of a score table: the truth, and a number for each output."""

    @abstractmethod
    def prediction(self, scores: Array) -> dict[str, Any]:
        """Fields of a `Prediction` from the scores of one utterance, `(outputs,)`."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """The record in a checkpoint; `task_from` reads it."""


@dataclass(frozen=True)
class Classification(Task):
    """One of several classes; cross-entropy, posteriors, UA.

    Attributes:
        names: The classes.
        class_weights: Of each class in the loss; None for equal weights.
        label_smoothing: Fraction of the target spread over all classes.

    Example:
        >>> task = Classification(("angry", "sad"))
        >>> task.scores(torch.tensor([[0.0, 0.0]])).tolist(), task.metric(np.array([0]), np.array([[0.9, 0.1]]))
        ([[0.5, 0.5]], 1.0)
    """

    names: tuple[str, ...]
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    metric_name: ClassVar[str] = "ua"

    def fitted(self, truth: torch.Tensor, settings: Learning) -> Classification:
        """See `Task.fitted`."""
        weights = tuple(balanced_weights(truth, self.outputs).tolist()) if settings.class_weights else None
        return replace(self, class_weights=weights, label_smoothing=settings.label_smoothing or 0.0)

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See `Task.loss`."""
        weight = None if self.class_weights is None else torch.tensor(self.class_weights, device=logits.device)
        return F.cross_entropy(logits, targets, weight=weight, label_smoothing=self.label_smoothing)

    def weights(self, targets: torch.Tensor) -> torch.Tensor:
        """See `Task.weights`; where targets are fractions all count alike, as in torch."""
        if self.class_weights is None or targets.is_floating_point():
            return torch.ones(len(targets))
        return torch.tensor(self.class_weights)[targets]

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """See `Task.scores`."""
        return logits.double().softmax(-1)

    def metric(self, truth: NDArray[Any], scores: Array) -> float:
        """Unweighted accuracy."""
        return float(unweighted_accuracy(confusion(truth, scores.argmax(1), classes=self.outputs)))

    def columns(self, truth: NDArray[Any], scores: Array) -> dict[str, Any]:
        """See `Task.columns`."""
        return {"label": [self.names[index] for index in truth], **dict(zip(self.names, scores.T, strict=True))}

    def prediction(self, scores: Array) -> dict[str, Any]:
        """See `Task.prediction`."""
        posteriors = dict(zip(self.names, scores.tolist(), strict=True))
        return {"label": self.names[int(scores.argmax())], "posteriors": posteriors}

    def record(self) -> dict[str, Any]:
        """See `Task.record`."""
        return {"classes": list(self.names)}


@dataclass(frozen=True)
class Regression(Task):
    """Named values such as valence and arousal.

    Outputs are standardised by the training part, so that they begin near the mean and dimensions have equal weight.

    Attributes:
        names: The values.
        objective: `mse`, epochs chosen by the mean absolute error; or `ccc`, one minus the concordance correlation
            (Lin, Biometrics 1989), epochs chosen by it.
        centre: Mean of each value in training.
        spread: Standard deviation of each.

    Example:
        >>> task = Regression(("valence",), centre=(3.0,), spread=(2.0,))
        >>> task.scores(torch.tensor([[0.5]])).tolist()
        [[4.0]]
    """

    names: tuple[str, ...]
    objective: RegressionLoss = "mse"
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    metric_name: ClassVar[str] = "score"

    def fitted(self, truth: torch.Tensor, settings: Learning) -> Regression:
        """See `Task.fitted`."""
        spread = truth.std(0, correction=0).clamp(min=SMALLEST_SPREAD)
        return replace(self, centre=tuple(truth.mean(0).tolist()), spread=tuple(spread.tolist()))

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See `Task.loss`."""
        centre, spread = (torch.tensor(one, device=logits.device) for one in (self.centre, self.spread))
        wanted = (targets - centre) / spread
        if self.objective == "mse":
            return F.mse_loss(logits, wanted)
        return ccc_loss(logits, wanted)

    def weights(self, targets: torch.Tensor) -> torch.Tensor:
        """See `Task.weights`."""
        return torch.ones(len(targets))

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """See `Task.scores`."""
        centre, spread = (torch.tensor(one, device=logits.device).double() for one in (self.centre, self.spread))
        return logits.double() * spread + centre

    def metric(self, truth: NDArray[Any], scores: Array) -> float:
        """Mean over the values of the concordance, or of the mean absolute error in units of the spread, negated."""
        pairs = list(zip(truth.T, scores.T, strict=True))
        if self.objective == "ccc":
            return float(np.mean([concordance(*pair) for pair in pairs]))
        return -float(np.mean([mean_absolute_error(*pair) / one for pair, one in zip(pairs, self.spread, strict=True)]))

    def columns(self, truth: NDArray[Any], scores: Array) -> dict[str, Any]:
        """See `Task.columns`."""
        known = {f"label.{name}": values for name, values in zip(self.names, truth.T, strict=True)}
        return {**known, **dict(zip(self.names, scores.T, strict=True))}

    def prediction(self, scores: Array) -> dict[str, Any]:
        """See `Task.prediction`."""
        return {"values": dict(zip(self.names, scores.tolist(), strict=True))}

    def record(self) -> dict[str, Any]:
        """See `Task.record`."""
        return {
            "values": list(self.names),
            "objective": self.objective,
            "centre": list(self.centre),
            "spread": list(self.spread),
        }


def task_from(record: Mapping[str, Any]) -> Task:
    """The task of a checkpoint's record.

    Raises:
        ValueError: The record is invalid.
    """
    if "classes" in record:
        classes = _names(record["classes"])
        if len(classes) < 2:
            raise ValueError("there is one class only")
        return Classification(classes)
    names = _names(record["values"])
    centre, spread = (tuple(float(one) for one in record[part]) for part in ("centre", "spread"))
    if len(centre) != len(names) or len(spread) != len(names) or not np.isfinite([*centre, *spread]).all():
        raise ValueError("mean and spread do not fit the values")
    return Regression(names, record["objective"], centre, spread)


MOST = 1000


def _names(values: Any) -> tuple[str, ...]:
    good = isinstance(values, (list, tuple)) and all(isinstance(one, str) and one.strip() for one in values)
    if not good or not 1 <= len(values) <= MOST or len(set(values)) < len(values):
        raise ValueError("the classes are not different names")
    return tuple(values)


def balanced_weights(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Inverse class frequencies, scaled to a mean of 1 over utterances; 0 for a class without any.

    Example:
        >>> balanced_weights(torch.tensor([0, 0, 0, 1]), 2).tolist()
        [0.6666666865348816, 2.0]
    """
    counts = torch.bincount(labels, minlength=classes).float()
    present = counts > 0
    return torch.where(present, len(labels) / (counts.clamp(min=1) * present.sum()), 0.0)


def ccc_loss(values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One minus the concordance correlation of a batch, mean over dimensions `(batch, values)`.

    Example:
        >>> ccc_loss(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [2.0]])).item()
        0.0
    """
    apart = values.mean(0) - targets.mean(0)
    ours, theirs = values - values.mean(0), targets - targets.mean(0)
    spread = ours.square().mean(0) + theirs.square().mean(0) + apart.square()
    return (1 - 2 * (ours * theirs).mean(0) / spread.clamp(min=SMALLEST_SPREAD)).mean()
