"""Cluster-bootstrap intervals and paired tests (Efron & Tibshirani 1993, ch. 13 and 16), resampling whole speakers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emofuse.errors import ScoresError
from emofuse.scoring.metrics import METRICS, confusion
from emofuse.scoring.table import Scores, over_seeds

SAMPLES = 2000
COVERAGE = 0.95
CHUNK = 250


@dataclass(frozen=True)
class Estimate:
    """A value with its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much higher one model's metric is than another's, with its paired interval and two-sided p."""

    value: float
    low: float
    high: float
    p: float


def intervals(scores: Scores, *, samples: int = SAMPLES, seed: int = 0) -> dict[str, Estimate]:
    """WA, UA and macro-F1 of one model's scores: pooled, averaged over seeds, with 95 % intervals.

    Clusters (speakers, where the table names them) are drawn with replacement, all seeds of a cluster together. Where
    each seed tests clusters of its own, clusters of all seeds are drawn, and a seed that tests none of those drawn
    is left out of that draw's mean.

    Example:
        >>> frame = pd.DataFrame({"utterance": list("abcd"), "speaker": list("1122"), "label": list("xyxy"),
        ...                       "x": [0.9, 0.2, 0.8, 0.1], "y": [0.1, 0.8, 0.2, 0.9]})
        >>> from emofuse.scoring.table import make_scores
        >>> intervals(make_scores(frame, source="example"))["ua"]
        Estimate(value=1.0, low=1.0, high=1.0)
    """
    matrices = _matrices(scores, scores.frame[scores.cluster])
    drawn = _draws(matrices.shape[1], samples=samples, seed=seed)
    whole = np.ones((1, matrices.shape[1]))
    result = {}
    for name in METRICS:
        value = float(_values(matrices, whole, name)[0])
        low, high = _bounds(_values(matrices, drawn, name))
        result[name] = Estimate(value, low, high)
    return result


def paired_difference(first: Scores, second: Scores, *, samples: int = SAMPLES, seed: int = 0) -> dict[str, Difference]:
    """How much higher `first` scores than `second` on the same utterances, resampling the same clusters for both.

    A table with a single seed is compared with every seed of the other. Folds may differ: metrics are pooled over them.

    Raises:
        ScoresError: The two tables do not score the same utterances, in every seed and equally often, with the same
            labels and classes.
    """
    if set(first.classes) != set(second.classes):
        raise ScoresError("the two tables have different classes", remedy="compare models of the same classes")
    order = ["seed", "utterance"]
    one, two = (
        frame.sort_values([*order, "fold"], ignore_index=True) for frame in over_seeds([first.frame, second.frame])
    )
    alone = one.groupby(order).size().sub(two.groupby(order).size(), fill_value=0).abs()
    if alone.any():
        seed, name = alone.index[int(alone.to_numpy().argmax())]
        raise ScoresError(
            f"{int(alone.sum())} rows are in one table only, such as utterance {name!r} of seed {seed}",
            remedy="score the same utterances in every seed of both models",
        )
    wrong = one["label"].ne(two["label"])
    if wrong.any():
        raise ScoresError(
            f"utterance {one['utterance'][int(wrong.to_numpy().argmax())]!r} has two labels",
            remedy="use the same labels in both tables",
        )
    # Clusters come from whichever table names speakers, so that a foreign table without them can be compared.
    cluster = min((one[first.cluster], two[second.cluster]), key=lambda column: column.nunique())
    ours, theirs = _matrices(Scores(one, first.classes), cluster), _matrices(Scores(two, first.classes), cluster)
    drawn = _draws(ours.shape[1], samples=samples, seed=seed)
    whole = np.ones((1, ours.shape[1]))
    result = {}
    for name in METRICS:
        value = float(_values(ours, whole, name)[0] - _values(theirs, whole, name)[0])
        # Rounded, so that equal means of recalls tie although they were added up in another order.
        gaps = np.round(_values(ours, drawn, name) - _values(theirs, drawn, name), 12)
        low, high = _bounds(gaps)
        tail = min((np.count_nonzero(gaps <= 0) + 1), (np.count_nonzero(gaps >= 0) + 1)) / (samples + 1)
        result[name] = Difference(value, low, high, min(1.0, 2 * float(tail)))
    return result


def excludes_zero(low: float, high: float) -> bool:
    """Whether an interval tells a difference; one that could not be computed tells none.

    Example:
        >>> excludes_zero(0.01, 0.03), excludes_zero(-0.01, 0.03), excludes_zero(float("nan"), float("nan"))
        (True, False, False)
    """
    return low > 0 or high < 0


def _matrices(scores: Scores, clusters: pd.Series[str]) -> NDArray[np.float64]:
    """Confusion matrices `(seeds, clusters, classes, classes)`, from the cluster of each row."""
    seeds, seed_number = np.unique(scores.frame["seed"].to_numpy(), return_inverse=True)
    names, place = np.unique(clusters.to_numpy(dtype=str), return_inverse=True)
    labels, predictions = scores.labels(), scores.posteriors().argmax(1)
    classes = len(scores.classes)
    shape = (len(seeds), len(names), classes, classes)
    cell = np.ravel_multi_index((seed_number, place, labels, predictions), shape)
    return np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape).astype(np.float64)


def _draws(clusters: int, *, samples: int, seed: int) -> NDArray[np.float64]:
    """How often each cluster is drawn in each bootstrap sample, `(samples, clusters)`."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=samples).astype(np.float64)


def _values(matrices: NDArray[np.float64], drawn: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    """The metric in each sample, averaged over the seeds that have rows in it, `(samples,)`."""
    function = METRICS[metric]
    seeds, clusters, classes, _ = matrices.shape
    flat = matrices.swapaxes(0, 1).reshape(clusters, -1)

    def means(times: NDArray[np.float64]) -> NDArray[np.float64]:
        found = (times @ flat).reshape(-1, seeds, classes, classes)
        tested = found.sum((-2, -1)) > 0
        values = np.zeros(tested.shape)
        values[tested] = function(found[tested])
        return np.asarray(values.sum(-1) / tested.sum(-1))

    return np.concatenate([means(drawn[start : start + CHUNK]) for start in range(0, len(drawn), CHUNK)])


def _bounds(values: NDArray[np.float64]) -> tuple[float, float]:
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def pooled_confusion(scores: Scores) -> NDArray[np.float64]:
    """Confusion matrix over all rows, `(classes, classes)`, true classes in rows."""
    return confusion(scores.labels(), scores.posteriors().argmax(1), classes=len(scores.classes))
