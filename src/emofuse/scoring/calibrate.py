"""Temperature scaling of posteriors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

HIGHEST_TEMPERATURE = 20.0
SMALLEST = float(np.finfo(np.float64).tiny)


def logs_of(posteriors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithms of posteriors; zero counts as the smallest positive number, so that all are finite."""
    return np.asarray(np.log(np.maximum(posteriors, SMALLEST)))


def fit_temperature(posteriors: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The temperature that maximises the log likelihood of labels (Guo et al., ICML 2017).

    One additional wrong label is assumed, as in Platt (1999): otherwise a few correct predictions would lead to
    certainty.

    Args:
        posteriors: `(utterances, classes)`, of utterances that the model has not been trained on.
        labels: Index of the true class, `(utterances,)`.

    Example:
        >>> sure = np.array([[0.99, 0.01]] * 10)
        >>> fit_temperature(sure, np.array([0] * 8 + [1] * 2)) > 2
        True
    """
    logits = logs_of(posteriors)
    count, classes = posteriors.shape
    doubt = 1 / (count + 2)
    target = np.full((count, classes), doubt / (classes - 1))
    target[np.arange(count), labels] = 1 - doubt

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        norm = np.logaddexp.reduce(scaled, axis=1)
        return float(np.mean(norm - (target * scaled).sum(1)))

    limit = np.log(HIGHEST_TEMPERATURE)
    return float(np.exp(minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x))


def apply_temperature(posteriors: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Posteriors at a temperature; above one they are less confident.

    Example:
        >>> apply_temperature(np.array([[0.9, 0.1]]), 2.0).round(2).tolist()
        [[0.75, 0.25]]
    """
    if temperature == 1:
        return posteriors
    logits = logs_of(posteriors) / temperature
    return np.asarray(np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)))
