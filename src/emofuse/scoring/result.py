"""What a score table says: the figures of `result.json` and of `emofuse evaluate --json`."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata

import numpy as np

from emofuse.scoring import inference
from emofuse.scoring.inference import (
    FEWEST,
    LEVEL,
    TOO_FEW,
    holm,
    intervals,
    paired_difference,
)
from emofuse.scoring.record import (
    ENTRIES,
    AnyEntry,
    Comparison,
    Difference,
    Entry,
    ProtocolRecord,
    Result,
)
from emofuse.scoring.table import NAMES, Scores
from emofuse.settings import fingerprint

PACKAGES = ("emofuse", "torch", "transformers", "tokenizers", "numpy", "pandas", "scikit-learn", "soxr", "soundfile")


def caution(entry: Entry) -> str:
    """What must be said of a model's intervals where clusters are few, or single utterances; empty otherwise.

    Args:
        entry: What `evaluate` gave for the model.

    Example:
        >>> caution(Entry(fold_mean={}, seed_sd={}, utterances=9, seeds=[0], folds=5, cluster="speaker", clusters=5))
        'there are only 5 speakers: too few clusters to tell whether two models differ'
    """
    count, name = entry.clusters, entry.cluster
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


def compare(scores: Scores, pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
    """Paired differences of pairs of models in a table, with Holm's correction over all pairs of each metric."""
    found = [paired_difference(scores.of(first), scores.of(second)) for first, second in pairs]
    return [
        Comparison(first=first, second=second, **differences)
        for (first, second), differences in zip(pairs, corrected(found), strict=True)
    ]


def corrected(differences: Sequence[Mapping[str, inference.Difference]]) -> list[dict[str, Difference]]:
    """Differences by metric, with Holm's correction over all of each metric and what they say in words."""
    entries: list[dict[str, Difference]] = [{} for _ in differences]
    for name in differences[0] if differences else ():
        gaps = [found[name] for found in differences]
        for entry, gap, p in zip(entries, gaps, holm([gap.p for gap in gaps]), strict=True):
            entry[name] = Difference(**asdict(gap), holm=p, reading=reading(gap.value, p, gap.clusters))
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


def evaluate(scores: Scores) -> dict[str, AnyEntry]:
    """Every figure of every model in a table.

    Returns:
        One entry a model: each metric (`wa`, `ua` and `macro_f1` of classes; `ccc`, `pearson` and `mae` of values,
        means over them) with `value`, `low` and `high` (pooled, averaged over seeds, 95 % by Student's t over
        clusters); `fold_mean` and `seed_sd` of the same. Of classes also `ece`; `confident`, coverage and accuracy of
        the answers above 0.7; `recall` by class; `confusion` (true classes in rows); and `ties`, the rows whose most
        probable classes are several, each of which counts in equal parts. Of values also `dimensions`, the metrics of
        each. And how many utterances, seeds, folds and clusters it rests on.

    Example:
        >>> import pandas as pd
        >>> from emofuse.scoring.table import make_scores
        >>> frame = pd.DataFrame({"utterance": ["a", "b"], "label": ["x", "y"], "x": [1.0, 0.0], "y": [0.0, 1.0]})
        >>> evaluate(make_scores(frame, source="example", model="mine"))["mine"].ua
        Estimate(value=1.0, low=0.15811388300841897, high=1.0)
    """
    return {model: _evaluate_one(scores.of(model)) for model in scores.models}


def evaluate_parts(scores: Scores, parts: Mapping[str, str]) -> dict[str, dict[str, AnyEntry]]:
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


def describe(scores: Scores) -> Result:
    """The record of a score table by itself: models, what was tested, versions.

    The fingerprint covers folds, utterances and labels, all that a score table holds of its protocol.
    """
    frame = scores.frame
    protocol = ProtocolRecord(
        fingerprint=tested_fingerprint(scores),
        folds=int(frame["fold"].nunique()),
        utterances=int(frame["utterance"].nunique()),
        classes=list(scores.classes),
        values=list(scores.values),
    )
    return Result(models=evaluate(scores), protocol=protocol, notes=list(scores.notes), versions=versions())


def tested_fingerprint(scores: Scores) -> str:
    """Changes whenever a fold tests other utterances, or a label differs; the same for every model and seed."""
    columns = ["fold", "utterance", *scores.kind.true_columns(scores.names)]
    rows = scores.frame[columns].drop_duplicates().sort_values(["fold", "utterance"])
    return fingerprint(rows.to_numpy(dtype=str).tolist())


def _evaluate_one(scores: Scores) -> AnyEntry:
    frame, truth, outputs = scores.frame, scores.truth(), scores.outputs()

    def by(columns: list[str]) -> list[dict[str, float]]:
        groups = frame.groupby(columns, sort=True).indices.values()
        return [scores.kind.metrics(truth[rows], outputs[rows]) for rows in groups]

    def with_intervals(scores: Scores) -> dict[str, dict[str, float]]:
        return {name: asdict(estimate) for name, estimate in intervals(scores).items()}

    seeds, units = by(["seed"]), by(["seed", "fold"])
    spread = {name: [seed[name] for seed in seeds] for name in seeds[0]}
    entry = {
        **with_intervals(scores),
        **scores.kind.details(truth, outputs, scores.names),
        scores.kind.noun: scores.names,
        "dimensions": {name: with_intervals(scores.only(name)) for name in scores.values},
        "fold_mean": {name: float(np.mean([unit[name] for unit in units])) for name in units[0]},
        "seed_sd": {name: float(np.std(one, ddof=1)) if len(one) > 1 else None for name, one in spread.items()},
        "rows": len(frame),
        "utterances": frame["utterance"].nunique(),
        "seeds": sorted(int(seed) for seed in frame["seed"].unique()),
        "folds": frame["fold"].nunique(),
        "cluster": scores.cluster,
        "clusters": frame[scores.cluster].nunique(),
    }
    return ENTRIES[scores.kind].model_validate(entry)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape the numbers."""
    found = {"python": platform.python_version(), "platform": platform.platform(aliased=True)}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
