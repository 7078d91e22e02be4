"""The paper's table: every row of the system, its differences, and how sure the reconstruction of each row is."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Literal

from emofuse.errors import SettingsError
from emofuse.manifest import REFERENCE
from emofuse.report.tables import (
    KINDS,
    TITLES,
    check_result,
    escape_latex,
    interval,
    latex,
    markdown,
    one_line,
    percent,
    signed,
)
from emofuse.scoring.bootstrap import excludes_zero
from emofuse.scoring.result import caution
from emofuse.types import TIERS

PaperStyle = Literal["markdown", "latex", "html"]

CERTAINTY: Mapping[str, str] = {
    "speech": "inferred",
    "text": "inferred",
    "concat": "our baseline",
    "early-frame": "co-attention stated, equations inferred",
    "early-phone": "granularity stated, pooling chosen",
    "early-syllable": "granularity stated, pooling chosen",
    "early-word": "granularity stated, pooling chosen",
    "early-joint": "chosen",
    "multi-granularity": "inferred",
    "late": "existence stated, rule chosen",
    "multi-level": "combination stated, form chosen",
}
"""How sure the reconstruction of each model is: stated in the paper, inferred from it, or chosen by emofuse."""

_SINGLE = ("speech", "text")
_JOINED = ("early-joint", "multi-granularity", "multi-level")
"""Models that read every tier, beside those that are named after one."""
_SUFFIXES: Mapping[PaperStyle, str] = {"markdown": "md", "latex": "tex", "html": "html"}


def paper_table(result: Mapping[str, Any], *, style: PaperStyle) -> str:
    """All models of a result with UA, WA and macro-F1, and their paired differences in UA.

    Differences are from the better of the single streams and from `late`, with 95 % intervals; a star marks those
    whose interval excludes zero. Notes below tell of what corpus and split the figures are, where intervals rest on
    few speakers, and which tiers not all utterances have.

    Args:
        result: Content of `result.json`.
        style: `markdown`, `latex` (a `tabular` that uses the booktabs package) or `html` (a `table`).

    Raises:
        ScoresError: The result lacks a figure.
        SettingsError: Another style.
    """
    entries = check_result(result)["models"]
    singles = [name for name in _SINGLE if name in entries]
    best = max(singles, key=lambda name: float(entries[name]["ua"]["value"]), default=None)
    others = [name for name in (best, "late" if "late" in entries else None) if name]
    columns = ("ua", "wa", "macro_f1")
    rows = [["Model", *(TITLES[name] for name in columns), *(f"UA over {name}" for name in others), "Reconstruction"]]
    for model in sorted(entries, key=lambda name: ([*CERTAINTY, name].index(name), name)):
        figures = [f"{percent(entries[model][name]['value'])} {interval(entries[model][name])}" for name in columns]
        gaps = [_gap(result, model, other) for other in others]
        rows.append([one_line(model), *figures, *gaps, CERTAINTY.get(model, "not of the paper")])
    few = caution(next(iter(entries.values())))
    notes = [*_about(result), *([few] if few else []), *_notes(result)]
    if style == "markdown":
        return "\n\n".join([markdown(rows), *notes])
    if style == "latex":
        *lines, end = latex(rows).split("\n")
        below = [rf"\multicolumn{{{len(rows[0])}}}{{l}}{{\footnotesize {escape_latex(note)}}} \\" for note in notes]
        return "\n".join([*lines, *below, end])
    if style == "html":
        return _html(rows, notes)
    raise SettingsError(f"no table style is called {style!r}", remedy=f"use one of {', '.join(_SUFFIXES)}")


def table_files(result: Mapping[str, Any]) -> dict[str, bytes]:
    """The table in every style, by file name."""
    return {
        f"table.{suffix}": (paper_table(result, style=style) + "\n").encode("utf-8")
        for style, suffix in _SUFFIXES.items()
    }


def _about(result: Mapping[str, Any]) -> list[str]:
    """What the figures are of, and what sets them apart from others of the same corpus."""
    first = next(iter(result["models"].values()))
    split = KINDS.get(str((result.get("protocol") or {}).get("kind")), "")
    about = [
        f"{one_line(result.get('corpus') or 'unnamed corpus')}: {first['utterances']} utterances",
        ", ".join(map(one_line, first["classes"])),
        f"{first['folds']} folds{split and f' ({split})'}",
        f"seeds {', '.join(map(str, first['seeds']))}",
        f"95 % intervals over {first['clusters']} {first['cluster']}s",
        "* where that of a difference excludes zero",
    ]
    notes = ["; ".join(about), *map(one_line, result.get("corpus_notes") or ())]
    if heard := [name for name in result.get("text_sources") or () if name != REFERENCE]:
        notes.append(f"words by {', '.join(map(one_line, heard))}")
    if result.get("context"):
        notes.append(f"the text encoder read up to {result['context']} earlier utterances of the dialogue")
    if ((result.get("recipe") or {}).get("model") or {}).get("late_weights") == "tuned":
        notes.append("weights of joined models were searched on the validation part of each fold")
    return notes


def _notes(result: Mapping[str, Any]) -> list[str]:
    """One for each tier that a model of the table reads and some utterances lack."""
    if not (found := result.get("alignment")):
        return []
    notes = []
    for tier in TIERS:
        readers = [name for name in CERTAINTY if name in (f"early-{tier}", *_JOINED) and name in result["models"]]
        count, whole = found["aligned"].get(tier, 0), found["utterances"]
        if readers and count < whole:
            share = f"{count} of {whole} utterances ({percent(count / whole)} %)"
            notes.append(f"{', '.join(readers)}: {share} have {tier}s; frames stand for the rest")
    return notes


def _gap(result: Mapping[str, Any], model: str, other: str) -> str:
    for pair in result.get("comparisons") or ():
        for first, second, sign in ((model, other, 1), (other, model, -1)):
            if (pair["first"], pair["second"]) == (first, second) and pair.get("ua"):
                low, high = sorted((sign * pair["ua"]["low"], sign * pair["ua"]["high"]))
                star = "*" if excludes_zero(low, high) else ""
                return f"{signed(sign * pair['ua']['value'])} [{signed(low)}, {signed(high)}]{star}"
    return ""


def _html(rows: list[list[str]], notes: list[str]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line(cells, "td") for cells in rows[1:])
    below = "".join(f'<tr><td colspan="{len(rows[0])}">{escape(note)}</td></tr>\n' for note in notes)
    foot = f"<tfoot>\n{below}</tfoot>\n" if notes else ""
    return f"<table>\n<thead>{line(rows[0], 'th')}</thead>\n<tbody>\n{body}\n</tbody>\n{foot}</table>"
