"""What a score table says, as plain values: the content of `result.json` and of `emofuse evaluate --json`."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from typing import Any

import numpy as np

from emofuse.scoring.inference import (
    FEWEST,
    LEVEL,
    TOO_FEW,
    Difference,
    holm,
    intervals,
    paired_difference,
)
from emofuse.scoring.table import NAMES, Scores
from emofuse.settings import fingerprint

PACKAGES = ("emofuse", "torch", "transformers", "tokenizers", "numpy", "pandas", "scikit-learn", "soxr", "soundfile")


def caution(entry: Mapping[str, Any]) -> str:
    """What must be said of a model's intervals where clusters are few, or single utterances; empty otherwise.

    Args:
        entry: What `evaluate` gave for the model.

    Example:
        >>> caution({"cluster": "speaker", "clusters": 5})
        'there are only 5 speakers: too few clusters to tell whether two models differ'
    """
    count, name = entry["clusters"], entry["cluster"]
    if count < FEWEST:
        return f"there are only {counted(count, name)}: {TOO_FEW} whether two models differ"
    if name == "utterance":
        return "single utterances are clusters, though those of one speaker are alike: the intervals are too narrow"
    return ""


def counted(count: int, name: str) -> str:
    """A number of clusters in words, by the column that they are.

    Example:
        >>> counted(8, "speaker"), counted(1, "dialogue"), counted(3, "room")
        ('8 speakers', '1 dialogue', '3 values of room')
    """
    if name in NAMES:
        return f"{count} {name}{'' if count == 1 else 's'}"
    return f"{count} value{'' if count == 1 else 's'} of {name}"


def compare(scores: Scores, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Paired differences of pairs of models in a table, with Holm's correction over all pairs of each metric.

    Returns:
        One entry a pair, for `comparisons` in `result.json`: `first`, `second`, and by metric `value`, `low`, `high`,
        `p`, `holm` and `reading`.
    """
    found = [paired_difference(scores.of(first), scores.of(second)) for first, second in pairs]
    return [
        {"first": first, "second": second, **entry}
        for (first, second), entry in zip(pairs, corrected(found), strict=True)
    ]


def corrected(differences: Sequence[Mapping[str, Difference]]) -> list[dict[str, Any]]:
    """Differences as plain values, with Holm's correction over all of each metric and what they say in words."""
    entries: list[dict[str, Any]] = [{} for _ in differences]
    for name in differences[0] if differences else ():
        gaps = [found[name] for found in differences]
        for entry, gap, p in zip(entries, gaps, holm([gap.p for gap in gaps]), strict=True):
            entry[name] = {**asdict(gap), "holm": p, "reading": reading(gap.value, p, gap.clusters)}
    return entries


def reading(value: float, p: float, clusters: int) -> str:
    """What a difference says, by its corrected p: `higher`, `lower`, `within noise` or too few clusters.

    Example:
        >>> reading(0.02, 0.01, 24), reading(0.02, 0.2, 24), reading(0.02, 0.125, 4)
        ('higher', 'within noise', 'too few clusters to tell')
    """
    if clusters < FEWEST:
        return TOO_FEW
    if p > LEVEL:
        return "within noise"
    return "higher" if value > 0 else "lower"


def evaluate(scores: Scores) -> dict[str, Any]:
    """Every figure of every model in a table.

    Returns:
        One entry a model: each metric (`wa`, `ua` and `macro_f1` of classes; `ccc`, `pearson` and `mae` of values,
        means over them) with `value`, `low` and `high` (pooled, averaged over seeds, 95 % by Student's t over
        clusters); `fold_mean` and `seed_sd` of the same. Of classes also `ece`; `recall` by class; `confusion` (true
        classes in rows); and `ties`, the rows whose most probable classes are several, each of which counts in equal
        parts. Of values also `dimensions`, the metrics of each. And how many utterances, seeds, folds and clusters it
        rests on.

    Example:
        >>> import pandas as pd
        >>> from emofuse.scoring.table import make_scores
        >>> frame = pd.DataFrame({"utterance": ["a", "b"], "label": ["x", "y"], "x": [1.0, 0.0], "y": [0.0, 1.0]})
        >>> evaluate(make_scores(frame, source="example", model="mine"))["mine"]["ua"]
        {'value': 1.0, 'low': 0.15811388300841897, 'high': 1.0}
    """
    return {model: _evaluate_one(scores.of(model)) for model in scores.models}


def evaluate_parts(scores: Scores, parts: Mapping[str, str]) -> dict[str, Any]:
    """The same figures of each part of what was tested, such as what is improvised and what is scripted.

    Args:
        scores: Of any models.
        parts: Name of the part that an utterance belongs to.

    Returns:
        What `evaluate` returns, by part; nothing where all is one part.
    """
    part = scores.frame["utterance"].map(parts)
    names = sorted(part.dropna().unique())
    if len(names) < 2:
        return {}
    return {name: evaluate(replace(scores, frame=scores.frame[part == name])) for name in names}


def describe(scores: Scores) -> dict[str, Any]:
    """A score table by itself, in the form of `result.json`: models, what was tested, versions.

    The fingerprint covers folds, utterances and labels, all that a score table holds of its protocol.
    """
    frame = scores.frame
    return {
        "models": evaluate(scores),
        "protocol": {
            "fingerprint": tested_fingerprint(scores),
            scores.kind.noun: list(scores.names),
            "folds": int(frame["fold"].nunique()),
            "utterances": int(frame["utterance"].nunique()),
        },
        "notes": list(scores.notes),
        "versions": versions(),
    }


def tested_fingerprint(scores: Scores) -> str:
    """Changes whenever a fold tests other utterances, or a label differs; the same for every model and seed."""
    columns = ["fold", "utterance", *scores.kind.true_columns(scores.names)]
    rows = scores.frame[columns].drop_duplicates().sort_values(["fold", "utterance"])
    return fingerprint(rows.to_numpy(dtype=str).tolist())


def _evaluate_one(scores: Scores) -> dict[str, Any]:
    frame, truth, outputs = scores.frame, scores.truth(), scores.outputs()

    def by(columns: list[str]) -> list[dict[str, float]]:
        groups = frame.groupby(columns, sort=True).indices.values()
        return [scores.kind.metrics(truth[rows], outputs[rows]) for rows in groups]

    seeds, units = by(["seed"]), by(["seed", "fold"])
    entry: dict[str, Any] = {name: asdict(estimate) for name, estimate in intervals(scores).items()}
    entry["fold_mean"] = {name: float(np.mean([unit[name] for unit in units])) for name in units[0]}
    entry["seed_sd"] = {
        name: float(np.std([seed[name] for seed in seeds], ddof=1)) if len(seeds) > 1 else None for name in seeds[0]
    }
    entry |= scores.kind.details(truth, outputs, scores.names)
    if scores.values:
        entry["dimensions"] = {
            name: {key: asdict(one) for key, one in intervals(scores.only(name)).items()} for name in scores.values
        }
    entry["rows"] = len(frame)
    entry[scores.kind.noun] = list(scores.names)
    entry["utterances"] = int(frame["utterance"].nunique())
    entry["seeds"] = sorted(int(seed) for seed in frame["seed"].unique())
    entry["folds"] = int(frame["fold"].nunique())
    entry["cluster"] = scores.cluster
    entry["clusters"] = int(frame[scores.cluster].nunique())
    return entry


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape the numbers."""
    found = {"python": platform.python_version(), "platform": platform.platform(aliased=True)}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
