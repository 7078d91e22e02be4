"""How often tests over speakers reject a true null hypothesis, see a true difference, and intervals hold the truth.

`python benchmarks/intervals.py [--tables 1000]` prints, side by side, the percentile bootstrap over speakers that
emofuse used before and the sign-flip test and t intervals that it uses now, in percent.

What is drawn is as on RAVDESS, where four classifiers of log-mel statistics were measured (24 speakers, 60 clips each,
six folds by speaker): the correctness of an answer correlates within a speaker by 0.015 to 0.025, that is, speakers'
accuracies have a standard deviation of about 0.07; differences between two classifiers by 0 to 0.017, that is, 0.075;
two of them disagree in correctness on a sixth to a third of the clips.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from emofuse.scoring.inference import LEVEL, differences, estimates
from emofuse.scoring.metrics import METRICS, confusion

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

ACCURACY, SPEAKERS, APART = 0.6, 0.07, 0.075
"""Mean accuracy, standard deviation of it over speakers, and of the difference of two systems over speakers."""

EASE, SYSTEM = 0.6, 0.2
"""Fractions of the variance of a latent answer that an utterance has for all, and a system has over its seeds."""

DRAWS = 400


@dataclass(frozen=True)
class Case:
    """What tables are like.

    Attributes:
        clusters: Number of speakers.
        unequal: Whether speakers differ in how many utterances they have, by a factor of ten.
        seeds: Of both systems.
        apart: Whether the systems differ by speaker, at random and not on average.
        gain: How much more accurate the first system is.
    """

    clusters: int
    unequal: bool = False
    seeds: int = 1
    apart: bool = False
    gain: float = 0.0


@dataclass(frozen=True)
class Tables:
    """Labels and both systems' answers, by row."""

    labels: Numbers
    first: Array
    second: Array
    seeds: Numbers
    clusters: Numbers


def draw(case: Case, generator: np.random.Generator, *, classes: int = 4, each: int = 30) -> Tables:
    """Scores of two systems on the same utterances."""
    sizes = np.full(case.clusters, each)
    if case.unequal:
        sizes = np.maximum(3, (each * np.exp(generator.uniform(-1.15, 1.15, case.clusters))).astype(np.int64))
    speaker = np.repeat(np.arange(case.clusters), sizes)
    labels = generator.integers(0, classes, len(speaker))
    skill = ACCURACY + SPEAKERS * generator.standard_normal(case.clusters)
    half = (case.gain + case.apart * APART * generator.standard_normal(case.clusters)) / 2
    ease = np.sqrt(EASE) * generator.standard_normal(len(speaker))
    answers = []
    for accuracy in (skill + half, skill - half):
        limit = ndtri(np.clip(accuracy, 0.02, 0.98))[speaker]
        system = np.sqrt(SYSTEM) * generator.standard_normal(len(speaker))
        rest = np.sqrt(1 - EASE - SYSTEM) * generator.standard_normal((case.seeds, len(speaker)))
        right = (ease + system + rest < limit).ravel()
        other = (np.tile(labels, case.seeds) + generator.integers(1, classes, len(right))) % classes
        answers.append(np.eye(classes)[np.where(right, np.tile(labels, case.seeds), other)])
    seeds = np.repeat(np.arange(case.seeds), len(speaker))
    return Tables(np.tile(labels, case.seeds), *answers, seeds, np.tile(speaker, case.seeds))


def resampled(tables: Tables, answers: Array, generator: np.random.Generator) -> dict[str, Array]:
    """Each metric in draws of speakers with replacement, the first draw being the table itself."""
    classes, count, seeds = answers.shape[1], tables.clusters.max() + 1, tables.seeds.max() + 1
    matrices = np.zeros((count, seeds, classes, classes))
    np.add.at(matrices, (tables.clusters, tables.seeds, tables.labels, answers.argmax(1)), 1)
    times = np.vstack([np.ones(count), generator.multinomial(count, np.full(count, 1 / count), size=DRAWS)])
    drawn = np.tensordot(times, matrices, axes=1)
    return {name: metric(drawn).mean(-1) for name, metric in METRICS.items()}


def rejections(case: Case, tables: int, *, seed: int = 0, before: bool = True) -> dict[str, float]:
    """How often each test finds a difference, as a fraction, by the name of the metric; `before` is the old one."""
    generator, found = np.random.default_rng(seed), dict.fromkeys([*METRICS, "before"], 0.0)
    for number in range(tables):
        one = draw(case, generator)
        gaps = differences(one.labels, one.first, one.second, seeds=one.seeds, clusters=one.clusters)
        for name, gap in gaps.items():
            found[name] += (gap.p <= LEVEL) / tables
        if before:
            first, second = (
                resampled(one, answers, np.random.default_rng(number))["ua"][1:] for answers in (one.first, one.second)
            )
            low, high = np.quantile(first - second, [LEVEL / 2, 1 - LEVEL / 2])
            found["before"] += (low > 0 or high < 0) / tables
    return found


def coverage(case: Case, tables: int, *, seed: int = 0, before: bool = True) -> dict[str, float]:
    """How often intervals of one system's metrics hold the truth; `before` and `bca` are bootstraps of UA."""
    generator, found = np.random.default_rng(seed), dict.fromkeys([*METRICS, "before", "bca"], 0.0)
    truth = _truth()
    for number in range(tables):
        one = draw(case, generator)
        for name, gap in estimates(one.labels, one.first, seeds=one.seeds, clusters=one.clusters).items():
            found[name] += (gap.low <= truth[name] <= gap.high) / tables
        if before:
            values = resampled(one, one.first, np.random.default_rng(number))["ua"]
            for name, (low, high) in (("before", _percentile(values[1:])), ("bca", _bca(one, values))):
                found[name] += (low <= truth["ua"] <= high) / tables
    return found


def _truth() -> dict[str, float]:
    """The metrics of a system on speakers without number; WA, UA and macro-F1 are one where classes are alike."""
    return dict.fromkeys(METRICS, ACCURACY)


def _percentile(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def _bca(tables: Tables, values: Array) -> tuple[float, float]:
    """Bias-corrected and accelerated (Efron 1987), the acceleration by the jackknife over speakers."""
    from scipy.special import ndtr

    left = []
    for cluster in range(tables.clusters.max() + 1):
        kept = tables.clusters != cluster
        matrix = confusion(tables.labels[kept], tables.first[kept], classes=tables.first.shape[1])
        left.append(float(METRICS["ua"](matrix)))
    apart = np.mean(left) - np.array(left)
    pull = np.sum(apart**3) / max(6 * np.sum(apart**2) ** 1.5, 1e-12)
    bias = ndtri(np.clip(np.mean(values[1:] < values[0]), 1 / DRAWS, 1 - 1 / DRAWS))
    ends = [bias + ndtri(tail) for tail in (LEVEL / 2, 1 - LEVEL / 2)]
    low, high = np.quantile(values[1:], [float(ndtr(bias + end / (1 - pull * end))) for end in ends])
    return float(low), float(high)


def cases() -> Iterator[Case]:
    """Every kind of table."""
    for clusters in (4, 6, 8, 10, 12, 24, 60):
        for unequal, seeds in ((False, 1), (True, 1), (False, 3), (True, 3)):
            yield Case(clusters, unequal=unequal, seeds=seeds)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=1000, help="tables a case")
    tables = parser.parse_args().tables
    print("Rejected at 5 %, percent: bootstrap before | sign flips now (UA, WA, macro-F1); power: UA 5 points higher")
    print(
        f"{'speakers':>8} {'sizes':>8} {'seeds':>5} | {'exchangeable':^22} | {'differ by speaker':^22} | {'power':^11}"
    )
    for case in cases():
        row = [f"{case.clusters:8d} {'unequal' if case.unequal else 'equal':>8} {case.seeds:5d}"]
        for apart, gain in ((False, 0.0), (True, 0.0), (True, 0.05)):
            one = rejections(Case(case.clusters, case.unequal, case.seeds, apart, gain), tables)
            shown = ("before", "ua") if gain else ("before", "ua", "wa", "macro_f1")
            row.append(" ".join(f"{100 * one[name]:5.1f}" for name in shown))
        print(" | ".join(row), flush=True)
    print("\nIntervals of one system that hold the truth, percent: percentile, BCa | t now (UA, WA, macro-F1)")
    for case in cases():
        one = coverage(case, tables)
        shown = " ".join(f"{100 * one[name]:5.1f}" for name in ("before", "bca", "ua", "wa", "macro_f1"))
        print(f"{case.clusters:8d} {'unequal' if case.unequal else 'equal':>8} {case.seeds:5d} | {shown}", flush=True)


if __name__ == "__main__":
    main()
