"""What the command line shows: progress bars and tables, on rich."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from emofuse.types import Prediction

if TYPE_CHECKING:
    from emofuse.plan import Plan

OUT = Console()
ERR = Console(stderr=True)
FEW_LABELS = 8
SOME_SKIPPED, NOTHING_DONE = 1, 2


class Bars:
    """Progress as bars on stderr; a stage shorter than two seconds leaves no trace.

    Example:
        >>> with Bars() as bars:
        ...     bars.start("Counting", 1)
        ...     bars.finish("Counting")
    """

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=ERR,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks.values():
            self._progress.remove_task(task)
        if self._progress.tasks:
            self._progress.stop()
        else:
            # Without a bar to leave behind, the line break that `stop` writes would be an empty line.
            self._progress.live.transient = True
            self._progress.live.stop()

    def start(self, description: str, total: float | None) -> None:
        """Open a bar."""
        rounded = None if total is None else round(total)
        self._tasks[description] = self._progress.add_task(description, total=rounded)

    def advance(self, description: str, steps: float = 1) -> None:
        """Move a bar on."""
        self._progress.advance(self._tasks[description], steps)

    def finish(self, description: str) -> None:
        """Close a bar; what took less than two seconds is taken away."""
        task = self._tasks.pop(description)
        elapsed = next(one.elapsed for one in self._progress.tasks if one.id == task) or 0.0
        if elapsed < 2:
            self._progress.remove_task(task)
        else:
            self._progress.stop_task(task)

    def note(self, message: str) -> None:
        """Show a line above the bars."""
        self._progress.console.print(message, style="yellow", markup=False)


def say(message: str) -> None:
    """Show a line on stdout, as it is."""
    OUT.print(message, markup=False, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    """Show a line on stderr."""
    ERR.print(message, style="yellow", markup=False, highlight=False, soft_wrap=True)


def show_results(models: Mapping[str, Any]) -> None:
    """A table of what `evaluate` gave: UA, WA and macro-F1 in percent with intervals."""
    from emofuse.scoring.result import caution

    table = Table("model", "UA %, 95 %", "WA %, 95 %", "macro-F1 %, 95 %", "ECE")
    for name, entry in models.items():
        cells = [
            f"{100 * one['value']:.1f} [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
            for one in (entry["ua"], entry["wa"], entry["macro_f1"])
        ]
        table.add_row(escape(name), *cells, f"{entry['ece']:.3f}")
    OUT.print(table)
    first = next(iter(models.values()))
    few = caution(first)
    OUT.print(
        f"{first['utterances']} utterances, {first['folds']} folds, seeds {', '.join(map(str, first['seeds']))}; "
        f"pooled over folds, averaged over seeds; intervals by bootstrap over {first['clusters']} "
        f"{first['cluster']}s{few and f'; {few}'}.",
        highlight=False,
    )


def show_comparisons(comparisons: Sequence[Mapping[str, Any]]) -> None:
    """A table of paired differences in UA, in points."""
    if not comparisons:
        return
    from emofuse.scoring.bootstrap import excludes_zero

    table = Table("UA of", "minus UA of", "points", "95 % paired", "p", "")
    for one in comparisons:
        gap = one["ua"]
        table.add_row(
            escape(one["first"]),
            escape(one["second"]),
            f"{100 * gap['value']:+.1f}",
            f"{100 * gap['low']:+.1f} to {100 * gap['high']:+.1f}",
            f"{gap['p']:.3f}",
            "excludes zero" if excludes_zero(gap["low"], gap["high"]) else "may be zero",
        )
    OUT.print(table)


def show_predictions(predictions: Sequence[Prediction]) -> None:
    """A table of predictions with the posterior of every class, and their notes."""
    if not predictions:
        return
    table = Table(Column("file", overflow="fold"), "emotion", *map(escape, predictions[0].posteriors), "from")
    for one in predictions:
        shares = [f"{value:.2f}" for value in one.posteriors.values()]
        table.add_row(escape(one.source or ""), Text(one.label, style="bold"), *shares, " + ".join(one.streams))
    OUT.print(table)
    for note in dict.fromkeys(note for one in predictions for note in one.notes):
        warn(f"Note: {note}.")


def show_plan(plan: Plan) -> None:
    """The stages of a run with their cost, and the cost of all."""
    table = Table("stage", "what", Column("time", justify="right"), Column("disk", justify="right"))
    for stage in plan.stages:
        table.add_row(stage.name, escape(stage.what), _duration(stage.seconds), _size(stage.disk))
    table.add_section()
    table.add_row("all", "", _duration(plan.seconds), _size(plan.disk))
    OUT.print(table)
    OUT.print(
        f"At most, measured on this machine as it is now; early stopping shortens training. About {_size(plan.memory)} "
        "of memory.",
        highlight=False,
    )


def _duration(seconds: float) -> str:
    if not seconds:
        return ""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    if not count:
        return ""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{max(0.1, count / 1e6):.1f} MB"


def show_corpora(cards: Mapping[str, Any]) -> None:
    """Corpora, a paragraph each: what they hold, under which licence, and where they come from."""
    for name, card in cards.items():
        OUT.print(Text.assemble((name, "bold"), f"  {card.title}"))
        labels = ", ".join(card.labels) if len(card.labels) <= FEW_LABELS else f"{len(card.labels)} emotions"
        size = "" if card.utterances is None else f"{card.utterances:,} utterances"
        what = (size, " and ".join(card.streams), ", ".join(card.languages), labels)
        about = {
            "what": "; ".join(part for part in what if part),
            "licence": card.licence,
            "where": card.where,
            "note": card.note,
            "options": "; ".join(f"{name}={'|'.join(values)}" for name, values in card.options.items()),
        }
        for title, words in about.items():
            if words:
                OUT.print(Padding(Text(f"{title}: {words}"), (0, 0, 0, 4)))


def show_checks(checks: Sequence[Any]) -> None:
    """A table of what `doctor` found."""
    table = Table("", "what", "found")
    for check in checks:
        mark = {True: "[green]ok[/green]", False: "[red]mend[/red]", None: ""}[check.ok]
        table.add_row(mark, check.name, escape(check.detail))
    OUT.print(table)


def typed_command() -> str:
    """What the user typed, to be written beside results."""
    return shlex.join(["emofuse", *sys.argv[1:]])


def finish(skipped: Mapping[str, str], *, done: bool = True) -> None:
    """Say what was left out, and let the exit status say so too.

    Args:
        skipped: What was left out, and why.
        done: Whether anything else was done.

    Raises:
        Exit: Something was left out.
    """
    if not skipped:
        return
    for name, reason in skipped.items():
        warn(f"Skipped {name}: {reason}.")
    warn(f"{len(skipped)} skipped, the rest is done." if done else "Nothing could be done.")
    raise typer.Exit(SOME_SKIPPED if done else NOTHING_DONE)
