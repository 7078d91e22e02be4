"""Cluster-bootstrap intervals and paired tests (Efron & Tibshirani 1993, ch. 13 and 16), resampling whole speakers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emofuse.errors import ScoresError
from emofuse.scoring.metrics import METRICS, confusion
from emofuse.scoring.table import Scores

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

    Clusters (speakers, where the table names them) are drawn with replacement, all seeds of a cluster together.

    Example:
        >>> frame = pd.DataFrame({"utterance": list("abcd"), "speaker": list("1122"), "label": list("xyxy"),
        ...                       "x": [0.9, 0.2, 0.8, 0.1], "y": [0.1, 0.8, 0.2, 0.9]})
        >>> from emofuse.scoring.table import make_scores
        >>> intervals(make_scores(frame, source="example"))["ua"]
        Estimate(value=1.0, low=1.0, high=1.0)
    """
    matrices = _matrices(scores, _clusters(scores))
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

    Raises:
        ScoresError: The two tables do not score the same utterances with the same labels and classes.
    """
    if set(first.classes) != set(second.classes):
        raise ScoresError("the two tables have different classes", remedy="compare models of the same classes")
    second = Scores(second.frame, first.classes)
    names, other = (table.frame.groupby("utterance")["label"].first() for table in (first, second))
    if not names.index.equals(other.index):
        count = len(names.index.symmetric_difference(other.index))
        raise ScoresError(
            f"{count} utterances are in one table only", remedy="score the same utterances with both models"
        )
    wrong = names.ne(other)
    if wrong.any():
        raise ScoresError(
            f"utterance {names.index[int(wrong.to_numpy().argmax())]!r} has two labels",
            remedy="use the same labels in both tables",
        )
    # Clusters come from whichever table names speakers, so that a foreign table without them can be compared.
    cluster = min((_clusters(first), _clusters(second)), key=lambda column: column.nunique())
    ours, theirs = _matrices(first, cluster), _matrices(second, cluster)
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


def _clusters(scores: Scores) -> pd.Series[str]:
    """Cluster of every utterance, indexed by utterance."""
    return scores.frame.drop_duplicates("utterance").set_index("utterance", drop=False)[scores.cluster]


def _matrices(scores: Scores, clusters: pd.Series[str]) -> NDArray[np.float64]:
    """Confusion matrices `(seeds, clusters, classes, classes)`."""
    seeds, seed_number = np.unique(scores.frame["seed"].to_numpy(), return_inverse=True)
    names = np.unique(clusters.to_numpy(dtype=str))
    place = np.searchsorted(names, scores.frame["utterance"].map(clusters).to_numpy(dtype=str))
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
    """The metric in each sample, averaged over seeds, `(samples,)`."""
    function = METRICS[metric]
    seeds, clusters, classes, _ = matrices.shape
    flat = matrices.swapaxes(0, 1).reshape(clusters, -1)
    parts = [
        function((drawn[start : start + CHUNK] @ flat).reshape(-1, seeds, classes, classes)).mean(-1)
        for start in range(0, len(drawn), CHUNK)
    ]
    return np.concatenate(parts)


def _bounds(values: NDArray[np.float64]) -> tuple[float, float]:
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def pooled_confusion(scores: Scores) -> NDArray[np.float64]:
    """Confusion matrix over all rows, `(classes, classes)`, true classes in rows."""
    return confusion(scores.labels(), scores.posteriors().argmax(1), classes=len(scores.classes))
