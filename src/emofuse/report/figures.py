"""Figures of one model in a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from emofuse.escape import one_line
from emofuse.report import plots
from emofuse.report.plots import Plot
from emofuse.report.tables import figure
from emofuse.scoring.kinds import CLASSES, VALUES, Kind
from emofuse.scoring.metrics import confusion, recall, reliability
from emofuse.scoring.record import AnyEntry, ClassEntry, Entry, ValueEntry
from emofuse.scoring.table import Scores


@dataclass(frozen=True)
class Figure:
    """A plot with its file name and caption."""

    name: str
    caption: str
    plot: Plot


def figures(entry: AnyEntry, scores: Scores) -> Iterator[Figure]:
    """All figures of a model.

    Args:
        entry: Its figures.
        scores: Its rows.
    """
    yield from _DRAWN[scores.kind](entry, scores)


def _of_classes(entry: ClassEntry, scores: Scores) -> Iterator[Figure]:
    counted = "all seeds counted together" if len(entry.seeds) > 1 else "one seed"
    yield Figure(
        "confusion",
        f"Confusion matrix. Each row sums to 100 %; below each percentage its count, {counted}.",
        plots.confusion_plot(entry.confusion, entry.classes),
    )
    yield Figure(
        "recall",
        "Recall of each class.",
        plots.recall_plot(entry.recall, [_recalls(part) for _, part in _by(scores, "seed")]),
    )
    yield from _by_speaker(entry, scores, metric="ua", what="UA of each speaker over the classes that this speaker has")
    yield Figure(
        "calibration",
        "Calibration: is an answer given with 80 % confidence right in 80 % of cases?",
        plots.reliability_plot(*reliability(scores.posteriors(), scores.labels()), ece=entry.ece),
    )


def _of_values(entry: ValueEntry, scores: Scores) -> Iterator[Figure]:
    groups = scores.frame.groupby("utterance", sort=True)
    for place, name in enumerate(scores.values):
        truth, said = (groups[column].mean().to_numpy() for column in (scores.kind.true_columns([name])[0], name))
        yield Figure(
            f"scatter-{place + 1}",
            f"{one_line(name)}: prediction against truth, each utterance once, mean over seeds; dashed: equal.",
            plots.scatter_plot(truth, said, name=name, ccc=entry.dimensions[name].ccc.value),
        )
    yield from _by_speaker(entry, scores, metric="mae", what="MAE of each speaker, mean over the values")


def _by_speaker(entry: Entry, scores: Scores, *, metric: str, what: str) -> Iterator[Figure]:
    """A metric of each speaker in every seed; nothing if speakers are unknown."""
    if "speaker" not in scores.frame.columns or scores.frame["speaker"].isna().all():
        return
    kind = scores.kind
    found = {
        str(speaker): [kind.metrics(part.truth(), part.outputs())[metric] for _, part in _by(rows, "seed")]
        for speaker, rows in _by(scores, "speaker")
    }
    means = sorted((float(np.mean(values)), name) for name, values in found.items())
    lowest = ", ".join(f"{one_line(name)} ({figure(value, kind=kind)})" for value, name in means[:3])
    title = f"{kind.titles[metric]}{kind.unit and f', {kind.unit}'}"
    chance = 1 / len(scores.classes) if scores.classes else None
    plot = plots.speaker_plot(found, pooled=entry[metric].value, title=title, factor=kind.factor, chance=chance)
    yield Figure("speakers", f"{what}; lines span the seeds. Lowest: {lowest}.", plot)


_DRAWN: Mapping[Kind, Callable[[Any, Scores], Iterator[Figure]]] = {
    CLASSES: _of_classes,
    VALUES: _of_values,
}


def _by(scores: Scores, column: str) -> Iterator[tuple[Any, Scores]]:
    for name, frame in scores.frame.groupby(column, sort=True):
        yield name, replace(scores, frame=frame)


def _recalls(scores: Scores) -> dict[str, float | None]:
    values = recall(confusion(scores.labels(), scores.answers(), classes=len(scores.classes)))
    return {name: None if np.isnan(value) else float(value) for name, value in zip(scores.classes, values, strict=True)}
