"""The one place that defines WA, UA, macro-F1, recall and calibration error.

All but the last are functions of confusion matrices, `(..., classes, classes)` with true classes in rows, so that
one definition serves a single table and many at once. Tied classes count in equal parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TIE = 1e-9
"""Posteriors within this are tied: rounding depends on the order of columns."""

DEFINITIONS: Mapping[str, str] = {
    "WA": "weighted accuracy: correct utterances / all utterances",
    "UA": "unweighted accuracy: mean over classes of recall, over the classes that occur",
    "macro-F1": "mean over classes of F1, over the classes that occur",
    "ECE": "expected calibration error: mean gap between confidence and accuracy over 15 equal bins of confidence",
    "pooled": "computed over the union of all test folds, one value a seed, then averaged over seeds",
    "fold mean": "computed in each test fold and seed, then averaged",
}


def confusion(labels: NDArray[np.int64], predictions: NDArray[np.int64] | Array, *, classes: int) -> Array:
    """Count pairs of true and predicted class, `(classes, classes)`.

    Args:
        labels: Index of the true class, `(rows,)`.
        predictions: Index of the predicted class, `(rows,)`, or the fraction of each class in a prediction,
            `(rows, classes)`.
        classes: Number of classes.

    Example:
        >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), classes=2).tolist()
        [[1.0, 1.0], [0.0, 1.0]]
    """
    if predictions.ndim == 2:
        parts = [np.bincount(labels, column, minlength=classes) for column in predictions.T]
        return np.stack(parts, axis=1)
    counts = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return np.asarray(counts.reshape(classes, classes), dtype=np.float64)


def recall(matrix: Array) -> Array:
    """Recall of each class, `(..., classes)`; NaN for a class that does not occur."""
    truth = matrix.sum(-1)
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    return np.asarray(np.divide(hits, truth, out=np.full(truth.shape, np.nan), where=truth > 0))


def weighted_accuracy(matrix: Array) -> Array:
    """WA: correct / all.

    Example:
        >>> float(weighted_accuracy(np.array([[1.0, 1.0], [0.0, 2.0]])))
        0.75
    """
    return np.asarray(np.diagonal(matrix, axis1=-2, axis2=-1).sum(-1) / matrix.sum((-2, -1)))


def unweighted_accuracy(matrix: Array) -> Array:
    """UA: mean recall over the classes that occur.

    Example:
        >>> float(unweighted_accuracy(np.array([[1.0, 1.0], [0.0, 2.0]])))
        0.75
    """
    return np.asarray(np.nanmean(recall(matrix), axis=-1))


def macro_f1(matrix: Array) -> Array:
    """Mean F1 over the classes that occur."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    truth = matrix.sum(-1)
    total = truth + matrix.sum(-2)
    scores = np.divide(2 * hits, total, out=np.zeros(total.shape), where=total > 0)
    return np.asarray(np.where(truth > 0, scores, 0).sum(-1) / (truth > 0).sum(-1))


METRICS: Mapping[str, Callable[[Array], Array]] = {
    "wa": weighted_accuracy,
    "ua": unweighted_accuracy,
    "macro_f1": macro_f1,
}
"""The metrics that every result carries, by their key in `result.json`."""


def answers(posteriors: Array) -> Array:
    """Fraction of each class in a prediction, `(..., classes)`: tied classes have equal fractions.

    Example:
        >>> answers(np.array([[0.7, 0.3], [0.5, 0.5]])).tolist()
        [[1.0, 0.0], [0.5, 0.5]]
    """
    best = posteriors >= posteriors.max(-1, keepdims=True) - TIE
    return np.asarray(best / best.sum(-1, keepdims=True))


def reliability(posteriors: Array, labels: NDArray[np.int64], *, bins: int = 15) -> tuple[Array, Array, Array]:
    """Mean confidence, accuracy and count in equal bins of confidence, `(bins,)` each; NaN where a bin is empty."""
    confidence = posteriors.max(-1)
    correct = answers(posteriors)[np.arange(len(labels)), labels]
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins).astype(np.float64)
    full = count > 0
    mean_confidence = np.divide(
        np.bincount(place, confidence, minlength=bins), count, out=np.full(bins, np.nan), where=full
    )
    accuracy = np.divide(np.bincount(place, correct, minlength=bins), count, out=np.full(bins, np.nan), where=full)
    return mean_confidence, accuracy, count


def expected_calibration_error(posteriors: Array, labels: NDArray[np.int64], *, bins: int = 15) -> float:
    """ECE (Guo et al. 2017, eq. 3) of the most probable class.

    Example:
        >>> expected_calibration_error(np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1])).__round__(6)
        0.3
    """
    confidence, accuracy, count = reliability(posteriors, labels, bins=bins)
    return float(np.nansum(np.abs(accuracy - confidence) * count) / count.sum())


SURE = 0.7
"""Posterior above which an answer counts as confident."""


def confident(posteriors: Array, labels: NDArray[np.int64]) -> tuple[float, float | None]:
    """Coverage and accuracy of answers above `SURE`: their fraction of all, and how many are right; None without any.

    Example:
        >>> confident(np.array([[0.8, 0.2], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]), np.array([0, 1, 0, 1]))
        (0.5, 0.5)
    """
    sure = posteriors.max(-1) > SURE
    correct = answers(posteriors)[np.arange(len(labels)), labels]
    return float(sure.mean()), float(correct[sure].mean()) if sure.any() else None
