"""What a score table says, as plain values: the content of `result.json` and of `emofuse evaluate --json`."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from typing import Any

import numpy as np

from emofuse.scoring.bootstrap import intervals, pooled_confusion
from emofuse.scoring.metrics import METRICS, confusion, expected_calibration_error, recall
from emofuse.scoring.table import Scores
from emofuse.settings import fingerprint

PACKAGES = ("emofuse", "torch", "transformers", "tokenizers", "numpy", "pandas", "scikit-learn", "soxr", "soundfile")


FEW_CLUSTERS = 20
"""Below so many speakers, bootstrap intervals are told to be too narrow."""


def caution(entry: Mapping[str, Any]) -> str:
    """What must be said of a model's intervals where they rest on few clusters; empty otherwise.

    Args:
        entry: What `evaluate` gave for the model.

    Example:
        >>> caution({"cluster": "speaker", "clusters": 6})
        'there are only 6 speakers: the intervals are narrower than they should be'
    """
    count, plural = entry["clusters"], "" if entry["clusters"] == 1 else "s"
    if count >= FEW_CLUSTERS:
        return ""
    return f"there are only {count} {entry['cluster']}{plural}: the intervals are narrower than they should be"


def evaluate(scores: Scores) -> dict[str, Any]:
    """Every figure of every model in a table.

    Returns:
        One entry a model: `wa`, `ua` and `macro_f1`, each with `value`, `low` and `high` (pooled, averaged over
        seeds, 95 % cluster bootstrap); `fold_mean` and `seed_sd` of the same; `ece`; `recall` by class; `confusion`
        (true classes in rows); and how many utterances, seeds, folds and clusters it rests on.

    Example:
        >>> import pandas as pd
        >>> from emofuse.scoring.table import make_scores
        >>> frame = pd.DataFrame({"utterance": ["a", "b"], "label": ["x", "y"], "x": [1.0, 0.0], "y": [0.0, 1.0]})
        >>> evaluate(make_scores(frame, source="example", model="mine"))["mine"]["ua"]
        {'value': 1.0, 'low': 1.0, 'high': 1.0}
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
    return {name: evaluate(Scores(scores.frame[part == name], scores.classes)) for name in names}


def describe(scores: Scores) -> dict[str, Any]:
    """A score table by itself, in the form of `result.json`: models, what was tested, versions.

    The fingerprint covers folds, utterances and labels, all that a score table tells of its protocol.
    """
    frame = scores.frame
    return {
        "models": evaluate(scores),
        "protocol": {
            "fingerprint": tested_fingerprint(scores),
            "classes": list(scores.classes),
            "folds": int(frame["fold"].nunique()),
            "utterances": int(frame["utterance"].nunique()),
        },
        "versions": versions(),
    }


def tested_fingerprint(scores: Scores) -> str:
    """Changes whenever a fold tests other utterances, or a label differs; the same for every model and seed."""
    rows = scores.frame[["fold", "utterance", "label"]].drop_duplicates().sort_values(["fold", "utterance"])
    return fingerprint(rows.to_numpy(dtype=str).tolist())


def _evaluate_one(scores: Scores) -> dict[str, Any]:
    frame, classes = scores.frame, len(scores.classes)
    labels, posteriors = scores.labels(), scores.posteriors()
    predictions = posteriors.argmax(1)

    def by(columns: list[str]) -> list[Any]:
        groups = frame.groupby(columns, sort=True).indices.values()
        return [confusion(labels[rows], predictions[rows], classes=classes) for rows in groups]

    seeds, units = by(["seed"]), by(["seed", "fold"])
    matrix = pooled_confusion(scores)
    entry: dict[str, Any] = {name: asdict(estimate) for name, estimate in intervals(scores).items()}
    entry["fold_mean"] = {name: float(np.mean([f(unit) for unit in units])) for name, f in METRICS.items()}
    entry["seed_sd"] = {
        name: float(np.std([f(seed) for seed in seeds], ddof=1)) if len(seeds) > 1 else None
        for name, f in METRICS.items()
    }
    entry["ece"] = expected_calibration_error(posteriors, labels)
    recalls = recall(matrix)
    entry["recall"] = {
        name: None if math.isnan(value) else float(value) for name, value in zip(scores.classes, recalls, strict=True)
    }
    entry["confusion"] = matrix.astype(int).tolist()
    entry["classes"] = list(scores.classes)
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
