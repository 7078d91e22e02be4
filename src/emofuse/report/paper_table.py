"""The paper's table: every row of the system, its differences, and how sure the reconstruction of each row is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from emofuse import escape
from emofuse.errors import SettingsError
from emofuse.escape import one_line
from emofuse.inputs import nearest
from emofuse.manifest import REFERENCE
from emofuse.report.tables import (
    KINDS,
    control_notes,
    interval,
    latex,
    markdown,
    percent,
    signed_interval,
)
from emofuse.scoring.inference import FEWEST, LEVEL, holm, smallest_p
from emofuse.scoring.kinds import Kind
from emofuse.scoring.record import Difference, Result
from emofuse.scoring.result import caution, counted
from emofuse.types import TIERS

PaperStyle = Literal["markdown", "latex", "html"]

_SUFFIXES: Mapping[PaperStyle, str] = {"markdown": "md", "latex": "tex", "html": "html"}


def paper_table(result: Result, *, style: PaperStyle) -> str:
    """All models of a result with UA, WA and macro-F1, or CCC, r and MAE, and their paired differences in the first.

    Differences are from the better of the single modalities and from `late`, and that of an ensemble from its control
    (see `emofuse.training.ensembles.choose_controls`), each with its own 95 % interval. A star marks those whose
    sign-flip test rejects at 5 % after Holm's correction over all differences of the table. Notes below name corpus and
    split, the test and what it cannot show, and which tiers not all utterances have.

    Args:
        result: The record of a run.
        style: `markdown`, `latex` (a `tabular` that uses the booktabs package) or `html` (a `table`).

    Raises:
        SettingsError: Another style.
    """
    entries, kind, controls = result.models, result.kind, result.controls
    singles = [name for name in entries if len(result.modalities.get(name, ())) == 1]
    best = max(singles, key=lambda name: float(entries[name][kind.decisive].value), default=None)
    others = [name for name in (best, "late" if "late" in entries else None) if name]
    over = [*others, *(["its control"] if controls else [])]
    differing = [f"{kind.titles[kind.decisive]} over {name}" for name in over]
    rows = [["Model", *kind.titles.values(), *differing, "Reconstruction"]]
    pairs = [(model, other) for model in entries for other in others]
    pairs += [(model, one.controls[0]) for model, one in controls.items()]
    gaps = {pair: gap for pair in pairs if (gap := _gap(result, *pair))}
    # One difference may stand in both columns, once with each sign.
    tested = {frozenset(pair): gap for pair, gap in gaps.items()}
    corrected = dict(zip(tested, holm([gap.p for gap in tested.values()]), strict=True))

    def difference(model: str, other: str) -> str:
        return _difference(gaps.get((model, other)), corrected.get(frozenset((model, other))), kind)

    for model in entries:
        estimates = [entries[model][name] for name in kind.titles]
        figures = [f"{kind.figure(one.value)} {interval(one, kind=kind)}" for one in estimates]
        differences = [difference(model, other) for other in others]
        if controls:
            control = controls[model].controls[0] if model in controls else ""
            differences.append(f"{difference(model, control)} ({control})" if control else "")
        rows.append([one_line(model), *figures, *differences, result.certainty.get(model, "")])
    few = caution(result.first)
    notes = [*_about(result), *_test(list(tested.values())), *([few] if few else []), *_notes(result)]
    if style == "markdown":
        return "\n\n".join([markdown(rows), *map(escape.markdown, notes)])
    if style == "latex":
        *lines, end = latex(rows, unit=kind.unit).split("\n")
        below = [rf"\multicolumn{{{len(rows[0])}}}{{l}}{{\footnotesize {escape.latex(note)}}} \\" for note in notes]
        return "\n".join([*lines, *below, end])
    if style == "html":
        return _html(rows, notes)
    raise SettingsError(f"no table style is called {style!r}", remedy=nearest(style, _SUFFIXES))


def table_files(result: Result) -> dict[str, bytes]:
    """The table in every style, by file name."""
    return {
        f"table.{suffix}": (paper_table(result, style=style) + "\n").encode("utf-8")
        for style, suffix in _SUFFIXES.items()
    }


def _about(result: Result) -> list[str]:
    """What the figures are of, and what sets them apart from others of the same corpus."""
    first = result.first
    split = KINDS.get(str(result.protocol.kind), "")
    about = [
        f"{result.corpus or 'unnamed corpus'}: {first.utterances} utterances",
        ", ".join(first.names),
        f"{first.folds} folds{split and f' ({split})'}",
        f"seeds {', '.join(map(str, first.seeds))}",
        f"95 % intervals over {counted(first.clusters, first.cluster)}",
    ]
    notes = ["; ".join(about), *result.corpus_notes, *control_notes(result)]
    if recognisers := [name for name in result.text_sources if name != REFERENCE]:
        notes.append(f"transcripts by {', '.join(recognisers)}")
    if result.context:
        notes.append(f"the text encoder read up to {result.context} earlier utterances of the dialogue")
    if any(one.get("weights") == "tuned" for one in result.recipe.get("ensembles", ())):
        notes.append("weights of ensembles were searched on the other folds of each")
    return notes


def _notes(result: Result) -> list[str]:
    """One for each tier that a model of the table reads and some utterances lack."""
    if not (found := result.alignment):
        return []
    notes = []
    for tier in TIERS:
        readers = [name for name in result.models if any(tier in result.tiers.get(n, ()) for n in result.leaves(name))]
        count, whole = found.aligned.get(tier, 0), found.utterances
        if readers and count < whole:
            those = f"{count} of {whole} utterances ({percent(count / whole)} %)"
            notes.append(f"{', '.join(readers)}: {those} have {tier}s; frames stand for the rest")
    return notes


def _gap(result: Result, model: str, other: str) -> Difference | None:
    """The difference of a model from another in UA or CCC, whichever of the two came first in the comparison."""
    for pair in result.comparisons:
        found = pair.differences.get(pair.kind.decisive)
        if found and {pair.first, pair.second} == {model, other}:
            return found if pair.first == model else found.reversed()
    return None


def _difference(gap: Difference | None, corrected: float | None, kind: Kind) -> str:
    if gap is None or corrected is None:
        return ""
    star = "*" if gap.clusters >= FEWEST and corrected <= LEVEL else ""
    return f"{kind.signed(gap.value)} {signed_interval(gap, kind=kind)}{star}"


def _test(gaps: Sequence[Difference]) -> list[str]:
    """What a star stands for, and where there can be none."""
    if not gaps:
        return []
    count, clusters, name = len(gaps), gaps[0].clusters, gaps[0].cluster
    if clusters < FEWEST:
        return [f"no stars: over {counted(clusters, name)} no two-sided test can reject at 5 %"]
    over = f"the {count} differences of this table" if count > 1 else "the one difference of this table"
    test = f"* p below 0.05 by sign flips over {counted(clusters, name)}, with Holm's correction over {over}"
    if count * smallest_p(clusters) > LEVEL:
        test += f"; over so few {name}s not all of these could have one: the smallest p is {smallest_p(clusters):.3f}"
    return [f"{test}; each interval is of its own difference alone"]


def _html(rows: list[list[str]], notes: list[str]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape.html(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line(cells, "td") for cells in rows[1:])
    below = "".join(f'<tr><td colspan="{len(rows[0])}">{escape.html(note)}</td></tr>\n' for note in notes)
    foot = f"<tfoot>\n{below}</tfoot>\n" if notes else ""
    return f"<table>\n<thead>{line(rows[0], 'th')}</thead>\n<tbody>\n{body}\n</tbody>\n{foot}</table>"
