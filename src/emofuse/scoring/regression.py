"""The one place that defines MAE, Pearson's r and the concordance correlation coefficient.

All take truth and prediction by row, `(rows,)` or `(rows, values)`, and give one number, or one a value. Where truth or
prediction is constant there is no correlation: r and CCC are 0, without a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CONSTANT = 1e-12
"""Numbers whose standard deviation is no larger part of the largest of them are alike but for rounding."""

DEFINITIONS: Mapping[str, str] = {
    "CCC": "concordance correlation coefficient (Lin 1989): 2 s_tp / (s_t² + s_p² + (m_t - m_p)²), of truth t and "
    "prediction p; 1 where both are equal in every utterance, 0 for a constant prediction; mean over the values",
    "Pearson r": "linear correlation of truth and prediction, whatever their means and spreads; mean over the values",
    "MAE": "mean absolute error, on the corpus's own scale; mean over the values",
}


def mean_absolute_error(truth: Array, predicted: Array) -> Array:
    """MAE.

    Example:
        >>> float(mean_absolute_error(np.array([1.0, 2.0]), np.array([1.5, 1.0])))
        0.75
    """
    return np.asarray(np.abs(truth - predicted).mean(0))


def pearson(truth: Array, predicted: Array) -> Array:
    """Pearson's r.

    Example:
        >>> truth = np.array([1.0, 2.0, 3.0])
        >>> float(pearson(truth, 2 * truth)), float(pearson(truth, 0 * truth + 0.1))
        (1.0, 0.0)
    """
    return _moments(truth, predicted).pearson()


def concordance(truth: Array, predicted: Array) -> Array:
    """Lin's concordance correlation coefficient, of variances that are divided by the number of rows.

    Example:
        >>> truth = np.array([1.0, 2.0, 3.0])
        >>> float(concordance(truth, truth)), round(float(concordance(truth, truth + 1)), 4)
        (1.0, 0.5714)
    """
    return _moments(truth, predicted).concordance()


METRICS: Mapping[str, Callable[[Array, Array], Array]] = {
    "ccc": concordance,
    "pearson": pearson,
    "mae": mean_absolute_error,
}
"""The metrics of values that every result carries, by their key in `result.json`."""


def influences(truth: Array, predicted: Array, *, other: Array | None = None) -> dict[str, Array]:
    """How much each row moves r and CCC, `(rows, values)`.

    These are the influence functions at the empirical distribution: that of r by Devlin, Gnanadesikan and Kettenring
    (Biometrika 1975), that of CCC by the chain rule on its moments, from which Lin (1989) has its variance too.

    Args:
        truth: By row.
        predicted: By row.
        other: The predictions of a second model: influences are then those at the distribution of both models' rows
            together. Exchanging the models in some rows moves the moments of one as far as those of the other, in
            opposite directions from there, so that to second order the difference of their metrics moves by the
            difference of these influences.
    """
    at = (
        _moments(truth, predicted) if other is None else _moments(np.tile(truth, (2, 1)), np.vstack([predicted, other]))
    )
    one, two = at.deviations(truth, predicted)
    return {"ccc": at.concordance_influence(one, two), "pearson": at.pearson_influence(one, two)}


@dataclass(frozen=True)
class _Moments:
    """Means, variances and covariance, `(values,)` each; a variance that is but of rounding is zero."""

    means: tuple[Array, Array]
    variances: tuple[Array, Array]
    covariance: Array

    @property
    def spread(self) -> Array:
        """What twice the covariance is divided by in CCC."""
        return np.asarray(sum(self.variances) + (self.means[0] - self.means[1]) ** 2)

    def pearson(self) -> Array:
        return np.clip(_ratio(self.covariance, np.sqrt(self.variances[0]) * np.sqrt(self.variances[1])), -1.0, 1.0)

    def concordance(self) -> Array:
        return _ratio(2 * self.covariance, self.spread)

    def deviations(self, truth: Array, predicted: Array) -> tuple[Array, Array]:
        """Differences from the means, all zero where there is no variance."""
        one, two = (
            np.where(variance > 0, values - mean, 0.0)
            for values, mean, variance in zip((truth, predicted), self.means, self.variances, strict=True)
        )
        return one, two

    def pearson_influence(self, one: Array, two: Array) -> Array:
        some = (self.variances[0] > 0) & (self.variances[1] > 0)
        ours, theirs = (
            _ratio(deviation, np.sqrt(variance)) * some
            for deviation, variance in zip((one, two), self.variances, strict=True)
        )
        return np.asarray(ours * theirs - self.pearson() * (ours**2 + theirs**2) / 2)

    def concordance_influence(self, one: Array, two: Array) -> Array:
        above = 2 * (one * two - self.covariance)
        below = one**2 + two**2 - sum(self.variances) + 2 * (self.means[0] - self.means[1]) * (one - two)
        return _ratio(above - self.concordance() * below, self.spread)


def _moments(truth: Array, predicted: Array) -> _Moments:
    means = truth.mean(0), predicted.mean(0)
    one, two = (_varying(values, mean) for values, mean in zip((truth, predicted), means, strict=True))
    return _Moments(means, ((one**2).mean(0), (two**2).mean(0)), (one * two).mean(0))


def _varying(values: Array, mean: Array) -> Array:
    found = values - mean
    return np.asarray(np.where(found.std(0) > CONSTANT * np.abs(values).max(0), found, 0.0))


def _ratio(above: Array, below: Array) -> Array:
    """A quotient, zero where there is nothing to divide by."""
    above, below = np.asarray(above, dtype=np.float64), np.broadcast_to(below, np.shape(above))
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
