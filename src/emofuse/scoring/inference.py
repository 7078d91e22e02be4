"""Intervals and paired tests over clusters (speakers), at the nominal level from six clusters on.

Two models are compared by sign flips, which exchange the models in some clusters: under the null hypothesis every
pattern of flips is equally likely (Fisher 1935, ch. 3). The interval of a difference holds the values that this test
does not reject (Hartigan 1969), so that both always agree. One model's interval is Student's t over clusters, with the
jackknife's variance.

Both use each cluster's contribution to a metric. It is exact for WA, UA and MAE, given the counts of classes or rows.
Macro-F1, Pearson's r and CCC are linearised: a cluster contributes the sum of its rows' influence (Hampel 1974). To
first order the metric is the sum of contributions, whose signs may be flipped too (Canay, Romano and Shaikh,
Econometrica 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emofuse.errors import ScoresError
from emofuse.scoring.kinds import CLASSES, FRACTION, Additive, Kind
from emofuse.scoring.table import CLUSTERS, Scores, alike, differing, over_seeds, show_apart

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
LEVEL = 0.05
EXACT = 14
"""Most clusters with exact flips; for more, as many flips are drawn."""

KINDS = 2000
"""Most distinct clusters with drawn flips; for more, the sum of flips is taken as normal."""

FEWEST = 6
"""Fewest clusters with which a two-sided test can reject at 5 %: with five, two of 32 flips are 6.3 %."""

TOO_FEW = "too few clusters to tell"

_EDGE = 1e-12

_RANK = {name: place for place, name in enumerate(CLUSTERS)}


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Difference of two models' metrics.

    Attributes:
        value: The difference.
        low: Lower end of the 95 % interval; None with too few clusters.
        high: Upper end.
        p: Two-sided, of this difference alone.
        cluster: Column of clusters.
        clusters: Number of clusters.
    """

    value: float
    low: float | None
    high: float | None
    p: float
    cluster: str
    clusters: int


def intervals(scores: Scores) -> dict[str, Estimate]:
    """The metrics of one model's scores: pooled, averaged over seeds, with 95 % intervals over clusters.

    Student's t on the scale of log odds (WA, UA, macro-F1), of Fisher's z (r, CCC) or of logarithms (MAE). If a
    model is always right, or always wrong, the interval depends on the number of clusters only.

    Example:
        >>> frame = pd.DataFrame({"utterance": list("abcd"), "speaker": list("1122"), "label": list("xyxy"),
        ...                       "x": [0.9, 0.2, 0.8, 0.1], "y": [0.1, 0.8, 0.2, 0.9]})
        >>> from emofuse.scoring.table import make_scores
        >>> intervals(make_scores(frame, source="example"))["ua"]
        Estimate(value=1.0, low=0.15811388300841897, high=1.0)
    """
    seeds, clusters = (_numbers(scores, column) for column in ("seed", scores.cluster))
    return estimates(scores.truth(), scores.outputs(), seeds=seeds, clusters=clusters, kind=scores.kind)


def estimates(
    truth: Any, outputs: Array, *, seeds: Numbers, clusters: Numbers, kind: Kind = CLASSES
) -> dict[str, Estimate]:
    """The same for arrays by row: truth, outputs, and indices of seed and cluster."""
    return {name: _interval(one, clusters) for name, one in kind.additive(truth, outputs, seeds).items()}


def paired_difference(first: Scores, second: Scores) -> dict[str, Difference]:
    """Difference of `first` to `second` on the same utterances, by sign flips over clusters.

    A table with a single seed is compared with every seed of the other. Folds may differ: metrics are pooled over them.

    Raises:
        ScoresError: The two tables do not score the same utterances, in every seed and equally often, with the same
            truth and the same classes or values.
    """
    one, two, cluster = _matched(first, second)
    seeds, clusters = (_numbers(one, column) for column in ("seed", cluster))
    found = differences(one.truth(), one.outputs(), two.outputs(), seeds=seeds, clusters=clusters, kind=one.kind)
    return {name: replace(gap, cluster=cluster) for name, gap in found.items()}


def differences(
    truth: Any, first: Array, second: Array, *, seeds: Numbers, clusters: Numbers, kind: Kind = CLASSES
) -> dict[str, Difference]:
    """The same for arrays by row: truth, outputs of both, and indices of seed and cluster."""
    ours, theirs = (kind.additive(truth, outputs, seeds) for outputs in (first, second))
    weights = np.stack([_sums(one.weight, clusters) for one in ours.values()], axis=1)
    changes = kind.gains(truth, first, second, seeds)
    gains = np.stack([_sums(changes[name], clusters) for name in ours], axis=1)
    values = np.array([ours[name].value - theirs[name].value for name in ours])
    # Gains of a linearised metric do not quite sum to the difference: the rest is distributed by weight.
    tested = _flip_test(gains + (values - gains.sum(0)) * weights, weights)
    return {
        name: Difference(round(float(value), 15), low, high, p, "cluster", len(weights))
        for name, value, (low, high, p) in zip(ours, values, tested, strict=True)
    }


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's (1979) correction of p values.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    found, highest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        found[place] = highest
    return found


def smallest_p(clusters: int) -> float:
    """The smallest possible two-sided p over a number of clusters.

    Example:
        >>> smallest_p(5), smallest_p(6)
        (0.0625, 0.03125)
    """
    return float(2.0 ** (1 - min(clusters, EXACT)))


def _numbers(scores: Scores, column: str) -> Numbers:
    """Index of each row's value, in order of appearance."""
    return np.asarray(pd.factorize(scores.frame[column])[0], dtype=np.int64)


def _sums(values: Array, clusters: Numbers) -> Array:
    return np.bincount(clusters, values).astype(np.float64)


def _interval(metric: Additive, clusters: Numbers) -> Estimate:
    """Student's t on the metric's scale, with the jackknife's variance of a ratio.

    Few clusters may be similar by chance, so no interval is narrower than that of independent rows.
    """
    from scipy.special import ndtri, stdtrit

    value, scale = metric.value, metric.scale
    influence, weight = _sums(metric.influence, clusters), _sums(metric.weight, clusters)
    count, highest = len(influence), metric.most if scale.high is None else scale.high
    if scale is FRACTION and min(value, 1 - value) < _EDGE:
        bound = (LEVEL / 2) ** (1 / count)
        return Estimate(0.0, 0.0, 1 - bound) if value < 0.5 else Estimate(1.0, bound, 1.0)
    if count < 2:
        return Estimate(value, scale.low, highest)
    if min(value - scale.low, highest - value) < _EDGE * max(1.0, highest):
        # All errors are equal, so the variance over clusters is unknown.
        return Estimate(value, value, value)
    error = np.sqrt((count - 1) / count * np.sum((influence / (1 - weight)) ** 2))
    # Clusters of unequal size count as fewer equal ones.
    freedom = max(1.0, 1 / float(np.sum(weight**2)) - 1)
    half = stdtrit(freedom, 1 - LEVEL / 2) * error
    if count < FEWEST:
        half = max(half, ndtri(1 - LEVEL / 2) * np.sqrt(np.sum(metric.influence**2)))
    half *= scale.slope(value)
    with np.errstate(over="ignore"):
        low, high = scale.back(scale.to(value) - half), scale.back(scale.to(value) + half)
    return Estimate(value, min(value, low), max(value, high))


def _flip_test(gains: Array, weights: Array) -> list[tuple[float | None, float | None, float]]:
    """Interval and p of the sum of each column of gains, by sign flips of `gain - difference * weight`.

    A set of flipped clusters contradicts a difference if the set's ratio of gain to weight is beyond it. So the sorted
    ratios give both p and interval.
    """
    count = len(gains)
    if count <= EXACT:
        patterns = (np.arange(1, 2**count)[:, None] >> np.arange(count)) & 1
        flipped = patterns.astype(np.float64) @ np.hstack([gains, weights])
    else:
        kinds, times = _kinds(np.hstack([gains, weights]))
        if len(kinds) > KINDS:
            return [_normal(one, weight) for one, weight in zip(gains.T, weights.T, strict=True)]
        generator = np.random.default_rng(0)
        flipped = np.concatenate(
            [generator.binomial(times, 0.5, size=(size, len(kinds))) @ kinds for size in (1024,) * 15 + (1023,)]
        )
    found, columns = [], gains.shape[1]
    for gain, weight in zip(flipped.T[:columns], flipped.T[columns:], strict=True):
        some = weight > 1e-15
        ratio = np.round(np.divide(gain, weight, out=np.zeros_like(gain), where=some), 12) + 0.0
        # The empty set is the observation itself and counts on both sides.
        below, above = np.sort(np.where(some, ratio, -np.inf)), np.sort(np.where(some, ratio, np.inf))
        patterns_, place = len(ratio) + 1, int((LEVEL / 2) * (len(ratio) + 1) + 1e-9)
        tail = min(np.count_nonzero(below <= 0), np.count_nonzero(above >= 0)) + 1
        bounds = (float(below[place - 1]), float(above[-place])) if place else (None, None)
        found.append((*bounds, min(1.0, 2 * float(tail) / patterns_)))
    return found


def _kinds(values: Array) -> tuple[Array, Numbers]:
    """Distinct clusters and their counts."""
    scale = np.abs(values).max(0)
    rounded = np.round(values / np.where(scale > 0, scale, 1), 12) + 0.0
    numbers = pd.DataFrame(rounded).groupby(list(range(values.shape[1])), sort=False).ngroup().to_numpy()
    _, first, times = np.unique(numbers, return_index=True, return_counts=True)
    return values[first], times


def _normal(gain: Array, weight: Array) -> tuple[float, float, float]:
    """The same for many clusters, whose sum of flips is normal."""
    from scipy.special import ndtr, ndtri

    whole, square = gain.sum(), ndtri(1 - LEVEL / 2) ** 2
    spread = np.sum(gain**2)
    # Differences within z standard deviations of their own flips.
    a, b, c = 1 - square * np.sum(weight**2), whole - square * np.sum(gain * weight), whole**2 - square * spread
    half = np.sqrt(max(b * b - a * c, 0.0))
    p = 2 * ndtr(-abs(whole) / np.sqrt(spread)) if spread > 0 else 1.0
    return float((b - half) / a), float((b + half) / a), float(p)


def _matched(first: Scores, second: Scores) -> tuple[Scores, Scores, str]:
    """Two tables matched by row, with the column of clusters."""
    first, second = alike([first, second])
    order = ["seed", "utterance"]
    one, two = (
        frame.sort_values([*order, "fold"], ignore_index=True) for frame in over_seeds([first.frame, second.frame])
    )
    alone = one.groupby(order).size().sub(two.groupby(order).size(), fill_value=0)
    if alone.any():
        missing = alone[alone != 0]
        seed, name = missing.index[0]
        there, other = (one, two) if missing.iloc[0] > 0 else (two, one)
        names = other.loc[other["seed"] == seed, "utterance"]
        apart = show_apart([name], set(names) - set(there["utterance"]))
        raise ScoresError(
            f"{int(missing.abs().sum())} rows are in one table only, such as utterance {name!r} of seed {seed}{apart}",
            remedy="score the same utterances in every seed of both models",
        )
    if wrong := differing(one, two, first.kind.true_columns(first.names)):
        column, row = wrong
        ours, theirs = (frame[column].tolist()[row] for frame in (one, two))
        raise ScoresError(
            f"utterance {one['utterance'][row]!r} has two labels, {ours!r} and {theirs!r}",
            remedy="use the same labels in both tables",
        )
    # Clusters come from either table, so that a table of another tool may lack speakers.
    known, cluster = min(((one, first.cluster), (two, second.cluster)), key=lambda pair: _RANK.get(pair[1], -1))
    one = one.assign(**{cluster: known[cluster]})
    return replace(first, frame=one), replace(first, frame=two), cluster
