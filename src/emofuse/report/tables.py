"""Figures as text: what a reader finds in the page's tables, and the same table for a paper or a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from emofuse.errors import ScoresError, SettingsError
from emofuse.scoring.metrics import METRICS

Style = Literal["markdown", "latex", "text"]

TITLES: Mapping[str, str] = {"ua": "UA", "wa": "WA", "macro_f1": "macro-F1"}
"""The metrics in the order of the page, by their key in `result.json`."""

NOTHING = "–"

_AGAIN = "make the run again with `emofuse run`"


@dataclass(frozen=True)
class Comparison:
    """One row of the paired comparisons, ready to be read."""

    models: str
    metric: str
    difference: str
    interval: str
    p: str
    reading: str


def percent(value: float | None) -> str:
    """A share between 0 and 1 in percent, with one decimal.

    Example:
        >>> percent(0.6349), percent(None)
        ('63.5', '–')
    """
    return NOTHING if value is None or math.isnan(value) else f"{100 * value:.1f}"


def interval(estimate: Mapping[str, float]) -> str:
    """The interval of an estimate in percent.

    Example:
        >>> interval({"value": 0.5, "low": 0.412, "high": 0.59})
        '[41.2, 59.0]'
    """
    return f"[{percent(estimate['low'])}, {percent(estimate['high'])}]"


def model_entries(result: Mapping[str, Any], *, where: str | Path | None = None) -> Mapping[str, Mapping[str, Any]]:
    """The entries of a result, one a model, checked to hold what tables and plots read.

    Raises:
        ScoresError: There is no model, or an entry lacks a figure; the message names it.
    """
    models = result.get("models")
    if not isinstance(models, Mapping) or not models:
        raise ScoresError("the result holds no models", where=where, remedy=_AGAIN)
    wanted = {name: {"value", "low", "high"} for name in METRICS}
    wanted |= {"fold_mean": set(METRICS), "seed_sd": set(METRICS)}
    for model, entry in models.items():
        if not isinstance(entry, Mapping):
            raise ScoresError(f"the entry of model {model!r} is not a table", where=where, remedy=_AGAIN)
        for name, parts in wanted.items():
            found = entry.get(name)
            if not isinstance(found, Mapping) or not parts <= set(found):
                raise ScoresError(f"model {model!r} lacks {name!r} or a part of it", where=where, remedy=_AGAIN)
        for name in ("ece", "recall", "confusion", "classes", "utterances", "seeds", "folds", "cluster", "clusters"):
            if name not in entry:
                raise ScoresError(f"model {model!r} lacks {name!r}", where=where, remedy=_AGAIN)
    return models


def results_table(result: Mapping[str, Any], *, style: Style) -> str:
    """The main table of a result: models in rows, percent with 95 % intervals.

    Args:
        result: Content of `result.json`.
        style: `markdown`, `latex` (a `tabular` that uses the booktabs package) or `text` (for a terminal).

    Raises:
        ScoresError: The result lacks a figure.
        SettingsError: Another style.

    Example:
        >>> estimate = {"value": 0.5, "low": 0.4, "high": 0.6}
        >>> entry = {"wa": estimate, "ua": estimate, "macro_f1": estimate, "ece": 0.1, "recall": {}, "confusion": [],
        ...          "fold_mean": {"wa": 0.5, "ua": 0.5, "macro_f1": 0.5}, "classes": [], "utterances": 9,
        ...          "seed_sd": {"wa": None, "ua": 0.012, "macro_f1": 0.01}, "seeds": [0, 1], "folds": 3,
        ...          "cluster": "speaker", "clusters": 3}
        >>> print(results_table({"models": {"speech": entry}}, style="text"))
        Model                 WA                 UA           macro-F1   ECE  seed SD of UA
        speech  50.0 [40.0, 60.0]  50.0 [40.0, 60.0]  50.0 [40.0, 60.0]  10.0            1.2
    """
    writers: Mapping[str, Callable[[list[list[str]]], str]] = {"markdown": _markdown, "latex": _latex, "text": _text}
    if style not in writers:
        raise SettingsError(f"no table style is called {style!r}", remedy=f"use one of {', '.join(writers)}")
    columns = ("wa", "ua", "macro_f1")
    rows = [["Model", *(TITLES[name] for name in columns), "ECE", "seed SD of UA"]]
    for model, entry in model_entries(result).items():
        figures = [f"{percent(entry[name]['value'])} {interval(entry[name])}" for name in columns]
        rows.append([one_line(model), *figures, percent(entry["ece"]), percent(entry["seed_sd"]["ua"])])
    return writers[style](rows)


def comparisons(result: Mapping[str, Any]) -> list[Comparison]:
    """The paired comparisons of a result, each with a plain reading of its interval.

    Example:
        >>> rows = [{"first": "late", "second": "speech", "ua": {"value": 0.02, "low": -0.01, "high": 0.05, "p": 0.2}}]
        >>> comparisons({"comparisons": rows})[0].reading
        'the interval includes zero: no difference can be told'
    """
    rows = []
    for pair in result.get("comparisons") or ():
        first, second = str(pair["first"]), str(pair["second"])
        for name, title in TITLES.items():
            if not (found := pair.get(name)):
                continue
            if found["low"] <= 0 <= found["high"]:
                reading = "the interval includes zero: no difference can be told"
            else:
                better, worse = (first, second) if found["value"] > 0 else (second, first)
                reading = f"the interval excludes zero: {better} is higher than {worse}"
            bounds = f"[{_signed(found['low'])}, {_signed(found['high'])}]"
            models = f"{first} − {second}"
            rows.append(Comparison(models, title, _signed(found["value"]), bounds, _p(found["p"]), reading))
    return rows


def one_line(text: object) -> str:
    """Text without line breaks and other control characters, which would break a table or a plot."""
    return "".join(character if character.isprintable() else " " for character in str(text))


def _signed(value: float) -> str:
    # Rounded first, so that a difference too small to be shown carries no sign.
    points = round(100 * value, 1)
    return f"{points:+.1f}".replace("-", "−") if points else "0.0"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _markdown(rows: list[list[str]]) -> str:
    cells = [[re.sub(r"([\\|*_`<\[\]])", r"\\\1", cell) for cell in row[:1]] + row[1:] for row in rows]
    cells.insert(1, ["---", *["---:"] * (len(rows[0]) - 1)])
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # At the start of a row it would be read as an argument of the line break before it.
    "[": "{[}",
    "–": "--",
}


def _latex(rows: list[list[str]]) -> str:
    lines = [
        " & ".join([_escape_latex(row[0]), *(cell.replace(NOTHING, "--") for cell in row[1:])]) + r" \\" for row in rows
    ]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}"
    body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join(["% needs the package booktabs; percent, 95 % intervals", begin, *body, r"\end{tabular}"])


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _text(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
