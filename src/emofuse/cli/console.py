"""Progress bars and tables of the command line, by rich."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from emofuse.inference.writers import WRITERS, PredictionWriter
from emofuse.terminal import as_json, harmless, holds_all
from emofuse.types import UNCERTAIN, Prediction

if TYPE_CHECKING:
    from emofuse.cost import Cost
    from emofuse.scoring.kinds import Kind
    from emofuse.scoring.record import AnyEntry, Comparison, Estimate


class _Console(Console):
    """A console that escapes control characters of all text."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=harmless(segment.text, keep="\n"))


OUT = _Console()
ERR = _Console(stderr=True)
FEW_LABELS = 8
SOME_SKIPPED, NOTHING_DONE = 1, 2
STOPPED = 130
NAMED = 3
_WIDEST = 10_000  # Width of an output that is no terminal.


class Bars:
    """Progress as bars on stderr; a stage shorter than two seconds leaves no trace.

    Args:
        hidden: Show notes only, if the same terminal shows the progress otherwise.

    Example:
        >>> with Bars() as bars:
        ...     bars.start("Counting", 1)
        ...     bars.finish("Counting")
    """

    def __init__(self, *, hidden: bool = False) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=ERR,
            disable=hidden,
            # Do not redirect other output above the bars.
            redirect_stdout=False,
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
            # Without a bar, the line break of `stop` would be an empty line.
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
        """Close a bar; one of less than two seconds is removed."""
        task = self._tasks.pop(description)
        elapsed = next(one.elapsed for one in self._progress.tasks if one.id == task) or 0.0
        if elapsed < 2:
            self._progress.remove_task(task)
        else:
            self._progress.stop_task(task)

    def note(self, message: str) -> None:
        """Show a line above the bars."""
        warn(message)


def say(message: str) -> None:
    """Show a line on stdout."""
    OUT.print(harmless(message), markup=False, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    """Show a line on stderr."""
    ERR.print(harmless(message), style="yellow", markup=False, highlight=False, soft_wrap=True)


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    _write(as_json(value, ascii_only=not holds_all(sys.stdout)) + "\n")


def _write(text: str) -> None:
    OUT.file.write(text)
    OUT.file.flush()


def _show_table(heads: Sequence[str], rows: Iterable[Sequence[str | Text]], *, last_is_total: bool = False) -> None:
    """A table; if it would be cut, a few lines per row.

    Args:
        heads: Column titles.
        rows: Cells, without markup.
        last_is_total: Whether to draw a line above the last row.
    """
    table = Table()
    for head in heads:
        table.add_column(Text(head), overflow="fold")
    cells = [[Text(harmless(one)) if isinstance(one, str) else one for one in row] for row in rows]
    for number, row in enumerate(cells, start=1):
        if last_is_total and number == len(cells):
            table.add_section()
        table.add_row(*row)
    whole = Measurement.get(OUT, OUT.options.update(width=_WIDEST), table)
    if not _has_width():
        _Console(width=max(OUT.width, whole.maximum)).print(table)
    elif whole.minimum <= OUT.width:
        OUT.print(table)
    else:
        for row in cells:
            OUT.print(row[0], style="bold", soft_wrap=True)
            for head, cell in zip(heads[1:], row[1:], strict=True):
                if cell.plain:
                    OUT.print(Text.assemble(f"  {head}: " if head else "  ", cell), soft_wrap=True)


def _has_width() -> bool:
    """Whether lines are limited: on a terminal, or by a given width."""
    return OUT.is_terminal or "COLUMNS" in os.environ


def show_results(models: Mapping[str, AnyEntry]) -> None:
    """A table of results of `evaluate`: each metric with its interval."""
    from emofuse.scoring.record import ClassEntry
    from emofuse.scoring.result import caution, counted

    first = next(iter(models.values()))
    kind = first.kind
    rows = []
    for name, entry in models.items():
        rows.append([name, *(_estimate(entry[key], kind) for key in kind.titles)])
        rows[-1] += [f"{entry.ece:.3f}"] if isinstance(entry, ClassEntry) else []
        for value, figures in entry.dimensions.items() if len(entry.dimensions) > 1 else ():
            rows.append([f"{name}, {value}", *(_estimate(figures[key], kind) for key in kind.titles)])
    unit = " %" if kind.unit else ""
    heads = [f"{title}{unit}, 95 %" for title in kind.titles.values()]
    _show_table(["model", *heads, *(["ECE"] if kind.calibrated else [])], rows)
    few = caution(first)
    say(
        f"{first.utterances} utterances, {first.folds} folds, seeds {', '.join(map(str, first.seeds))}; "
        f"pooled over folds, averaged over seeds; intervals over {counted(first.clusters, first.cluster)}"
        f"{few and f'; {few}'}."
    )
    for name, entry in models.items():
        if entry.ties:
            say(
                f"{name}: classes tie in {entry.ties} of {entry.rows} answers; each of k classes counts as 1/k "
                "of the answer."
            )


def _estimate(estimate: Estimate, kind: Kind) -> str:
    return f"{kind.figure(estimate.value)} [{kind.figure(estimate.low)}, {kind.figure(estimate.high)}]"


def show_comparisons(comparisons: Sequence[Comparison]) -> None:
    """A table of paired differences in UA, in points, or in CCC and MAE, and the test."""
    if not comparisons:
        return
    from emofuse.scoring.result import counted

    kind, count = comparisons[0].kind, len(comparisons)
    for metric in kind.compared:
        rows = []
        for one in comparisons:
            gap = one[metric]
            bounds = "" if gap.low is None else f"{kind.signed(gap.low)} to {kind.signed(gap.high)}"
            shown = [kind.signed(gap.value), bounds, f"{gap.p:.3f}", f"{gap.holm:.3f}", gap.reading]
            rows.append([one.first, one.second, *shown])
        title = kind.titles[metric]
        heads = [f"{title} of", f"minus {title} of", kind.points or "difference", "95 % paired", "p", "p, Holm", ""]
        _show_table(heads, rows)
    gap = comparisons[0][kind.decisive]
    over = f", with Holm's correction over {count} comparisons" if count > 1 else ""
    say(f"Sign-flip test over {counted(gap.clusters, gap.cluster)}{over}; intervals are of single differences.")


class TableWriter:
    """Predictions as lines of a table, immediately; in two lines per file if the width is too small.

    Args:
        classes: Emotions, one per column.
        sources: All files, for the width of the first column.
    """

    def __init__(self, classes: Sequence[str], sources: Sequence[str]) -> None:
        self._classes = list(classes)
        self._notes: dict[str, list[str]] = {}
        self._count = 0
        self._heads = heads = ["file", "emotion", *map(harmless, classes), "from"]
        longest = [
            max(map(cell_len, map(harmless, sources)), default=0),
            max(map(cell_len, map(harmless, (*classes, UNCERTAIN))), default=0),
            *[4] * len(classes),
            len("speech + text"),
        ]
        self._widths = [max(cell_len(head), width) for head, width in zip(heads, longest, strict=True)]
        self._fits = not _has_width() or sum(self._widths) + 2 * (len(heads) - 1) <= OUT.width

    def add(self, answer: Prediction) -> None:
        """See `PredictionWriter.add`."""
        if self._fits and not self._count:
            self._line(self._heads, style="bold")
        self._count += 1
        for note in answer.notes:
            self._notes.setdefault(note, []).append(answer.source or "")
        source, modalities = answer.source or "", " + ".join(answer.modalities)
        if self._fits:
            scores = [f"{answer.scores[name]:.2f}" for name in self._classes]
            self._line([source, answer.label, *scores, modalities])
            return
        order = sorted(self._classes, key=lambda name: (name != answer.label, -answer.scores[name]))
        if source:
            say(source)
        shown = [f"{name} {answer.scores[name]:.2f}" for name in order]
        unsure = [f"{answer.label}:"] if answer.label == UNCERTAIN else []
        say(f"  {' '.join([*unsure, ', '.join(shown)])} (from {modalities})")

    def close(self) -> None:
        """Print notes, with their files unless they concern all."""
        for note, sources in self._notes.items():
            named = [harmless(one) for one in dict.fromkeys(sources) if one]
            if len(sources) == self._count or not named:
                warn(f"Note: {note}.")
            else:
                more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
                warn(f"Note on {', '.join(named[:NAMED])}{more}: {note}.")

    def _line(self, cells: Sequence[str], *, style: str = "") -> None:
        shown = [harmless(cell) for cell in cells]
        padded = [one + " " * (width - cell_len(one)) for one, width in zip(shown, self._widths, strict=True)]
        OUT.print("  ".join(padded).rstrip(), style=style, markup=False, highlight=False, soft_wrap=True)


def answer_writer(style: str, *, classes: Sequence[str], sources: Sequence[str]) -> PredictionWriter | TableWriter:
    """A writer of predictions to standard output.

    Args:
        style: `table`, `json` or `csv`.
        classes: Emotions.
        sources: All files.
    """
    if style == "table":
        return TableWriter(classes, sources)
    return WRITERS[style](_write, classes=classes, ascii_only=not holds_all(sys.stdout))


def show_predictions(predictions: Sequence[Prediction]) -> None:
    """A table of predictions with the posterior of every class, and their notes."""
    if not predictions:
        return
    table = TableWriter(list(predictions[0].scores), [one.source or "" for one in predictions])
    for one in predictions:
        table.add(one)
    table.close()


def show_cost(cost: Cost) -> None:
    """The stages of a run with their cost, and the cost of all."""
    rows = [[stage.name, stage.what, _duration(stage.seconds), _size(stage.disk)] for stage in cost.stages]
    rows.append(["all", "", _duration(cost.seconds), _size(cost.disk)])
    _show_table(["stage", "what", "time", "disk"], rows, last_is_total=True)
    OUT.print(
        f"At most, measured on this machine as it is now; early stopping shortens training. About {_size(cost.memory)} "
        "of memory.",
        markup=False,
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
    """Corpora, one paragraph each: content, licence and source."""
    for name, card in cards.items():
        OUT.print(Text.assemble((name, "bold"), f"  {card.title}"))
        labels = ", ".join(card.labels) if len(card.labels) <= FEW_LABELS else f"{len(card.labels)} emotions"
        size = "" if card.utterances is None else f"{card.utterances:,} utterances"
        values = f"rated {', '.join(card.values)}" if card.values else ""
        what = (size, " and ".join(card.modalities), ", ".join(card.languages), labels, values)
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
    """A table of the results of `doctor`."""
    marks = {True: Text("ok", style="green"), False: Text("fix", style="red"), None: Text("")}
    _show_table(["what", "", "found"], [[check.name, marks[check.ok], check.detail] for check in checks])


def typed_command() -> str:
    """The user's command, to be stored with results."""
    return harmless(shlex.join(["emofuse", *sys.argv[1:]]))


def show_skipped(skipped: Mapping[str, str]) -> None:
    """One line per skipped item, with the reason."""
    for name, reason in skipped.items():
        warn(f"Skipped {name}: {reason}.")


def finish(skipped: Mapping[str, str], *, done: bool = True) -> None:
    """Print skipped items, and exit with an error status if there are any.

    Args:
        skipped: Skipped items with reasons.
        done: Whether anything else was done.

    Raises:
        Exit: Something was skipped.
    """
    if not skipped:
        return
    show_skipped(skipped)
    warn(f"{len(skipped)} skipped, the rest is done." if done else "Nothing could be done.")
    raise typer.Exit(SOME_SKIPPED if done else NOTHING_DONE)
