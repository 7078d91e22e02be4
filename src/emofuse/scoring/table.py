"""The score table: one row per model, seed, fold and utterance, with one column per class or value."""

from __future__ import annotations

import csv
import difflib
import io
import re
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emofuse.delimited import WINDOWS, decoded, separator_of
from emofuse.errors import ScoresError
from emofuse.escape import from_cell, to_cell
from emofuse.files import check_ending, written_atomically
from emofuse.inputs import nearest
from emofuse.names import key, tidy, unify
from emofuse.parquet import read_frame
from emofuse.scoring.kinds import CLASSES, TRUE, Kind, check_names, kind_of, listed, refuse
from emofuse.scoring.metrics import answers

NAMES = ("model", "seed", "fold", "utterance", "label", "speaker", "session", "dialogue")
"""Columns of a score table that are not classes. Every other column of numbers, or with the name of a label, is a
class. A table of values has columns `label.NAME` and `NAME` instead of `label` and classes; others are left out."""

ROW = ["model", "seed", "fold", "utterance"]
"""Columns that identify a row."""

ALL = "all"
"""Fold of a table that has none."""

CLUSTERS = ("speaker", "dialogue", "utterance")
"""Columns to cluster by: the first that is complete."""

ENDINGS = (".parquet", ".csv", ".tsv")
_SAMPLE = 1 << 16


@dataclass(frozen=True)
class Scores:
    """A checked score table.

    Attributes:
        frame: Columns `model`, `seed`, `fold`, `utterance`, `label` (of classes), those of `speaker`, `session` and
            `dialogue` that are known, that of `by`, then one column per class; or, for values, `label.NAME` and
            `NAME` of each.
        names: Names of classes or values, in column order.
        by: The column to cluster by, if given.
        notes: Notes on reading the table.
        kind: Whether it holds classes or values.
    """

    frame: pd.DataFrame
    names: tuple[str, ...]
    by: str | None = None
    notes: tuple[str, ...] = ()
    kind: Kind = CLASSES

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in column order; none where the table holds values."""
        return self.names if self.kind is CLASSES else ()

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the values, in column order; none where the table holds classes."""
        return () if self.kind is CLASSES else self.names

    @property
    def models(self) -> tuple[str, ...]:
        """Models in the table, in order of appearance."""
        return tuple(self.frame["model"].unique())

    @property
    def cluster(self) -> str:
        """The column that intervals and tests are clustered by: speaker, else dialogue, else the utterance itself.

        There must be two clusters at least, since one has no variance.
        """
        if self.by is not None:
            return self.by
        known = (
            name
            for name in CLUSTERS[:-1]
            if name in self.frame.columns and self.frame[name].notna().all() and self.frame[name].nunique() > 1
        )
        return next(known, CLUSTERS[-1])

    def of(self, model: str) -> Scores:
        """The rows of one model.

        Raises:
            ScoresError: The table has no such model.
        """
        rows = self.frame[self.frame["model"] == model]
        if rows.empty:
            raise ScoresError(f"no model is called {model!r}", remedy=nearest(model, self.models))
        return replace(self, frame=rows.reset_index(drop=True))

    def only(self, name: str) -> Scores:
        """The same of one value alone."""
        kept = set(self.kind.number_columns([name]))
        dropped = [column for column in self.kind.number_columns(self.names) if column not in kept]
        return replace(self, frame=self.frame.drop(columns=dropped), names=(name,))

    def outputs(self) -> NDArray[np.float64]:
        """Posteriors `(rows, classes)`, or predicted values `(rows, values)`."""
        return self.frame[list(self.names)].to_numpy(dtype=np.float64)

    def truth(self) -> Any:
        """Index of each row's class `(rows,)`, or its true values `(rows, values)`."""
        return self.kind.truth(self.frame, self.names)

    def posteriors(self) -> NDArray[np.float64]:
        """Posteriors, `(rows, classes)`.

        Raises:
            ScoresError: The table holds values.
        """
        self._check_classes()
        return self.outputs()

    def answers(self) -> NDArray[np.float64]:
        """Fraction of each class in each prediction, `(rows, classes)`: 1, or 1/k of k tied classes.

        Example:
            >>> frame = pd.DataFrame({"utterance": ["a"], "label": ["x"], "x": [0.4], "y": [0.4], "z": [0.2]})
            >>> make_scores(frame, source="example").answers().tolist()
            [[0.5, 0.5, 0.0]]
        """
        return answers(self.posteriors())

    def labels(self) -> NDArray[np.int64]:
        """Index of each row's label among the classes, `(rows,)`; errors are those of `posteriors`."""
        self._check_classes()
        return np.asarray(self.truth(), dtype=np.int64)

    def _check_classes(self) -> None:
        if self.kind is not CLASSES:
            raise ScoresError(
                f"the table holds values ({listed(self.names)}), not posteriors of classes",
                remedy="give a table of a model that predicts classes",
            )


def make_scores(frame: pd.DataFrame, *, source: str | Path, model: str = "model", by: str | None = None) -> Scores:
    """Check a table and add missing columns: model, seed 0, one fold.

    Names that differ by spaces or Unicode form are unified; labels, speakers, sessions and dialogues also if they
    differ by case. This is noted.

    Args:
        frame: At least `utterance`, `label` and one column of posteriors per class; or `utterance` and, for every
            value, the truth in `label.NAME` and the prediction in `NAME`.
        source: Origin of the table, for errors.
        model: Name of the model for rows without one.
        by: Column to cluster by, instead of the speaker.

    Raises:
        ScoresError: A column is missing, a posterior or value is impossible, or a row comes twice; row and column
            named.

    Example:
        >>> frame = pd.DataFrame({"utterance": ["a"], "label": ["sad"], "happy": [0.1], "sad": [0.9]})
        >>> make_scores(frame, source="example").classes
        ('happy', 'sad')
        >>> frame = pd.DataFrame({"utterance": ["a"], "label.valence": [2.5], "valence": [3.1]})
        >>> make_scores(frame, source="example").outputs().tolist()
        [[3.1]]
    """
    frame = frame.set_axis(_columns([str(name) for name in frame.columns]), axis=1).reset_index(drop=True)
    by = None if by is None else _column(by, frame.columns)
    kind = kind_of(frame.columns)
    truth = [name for name in ("label",) if name in kind.true_columns(())]
    for name in ("utterance", *truth, *([] if by is None else [by])):
        if name not in frame.columns:
            there = f"add it; there are {listed(frame.columns)}"
            remedy = nearest(name, frame.columns) if name == by else there
            raise ScoresError(f"column {name!r} is missing", where=source, remedy=remedy)
    if frame.empty:
        raise ScoresError("the table has no rows", where=source, remedy="check how it was written")
    texts = [*NAMES, *([by] if by is not None and by not in NAMES else [])]
    names = kind.names(frame, texts, source)
    check_names(names, source)
    defaults: dict[str, object] = {"model": model, "seed": 0, "fold": ALL}
    columns: dict[str, pd.Series[Any]] = {}
    notes: list[str] = []
    for name in texts:
        if name in frame.columns:
            columns[name], said = _tidied(frame[name], name, names)
            notes += said
        elif name in defaults:
            columns[name] = pd.Series([str(defaults[name])] * len(frame), dtype="object")
    for name in ("model", "seed", "fold", "utterance", *truth, *([] if by is None else [by])):
        refuse(columns[name].isna().to_numpy(), name, "empty", source, "fill it in")
    seeds = pd.to_numeric(columns["seed"], errors="coerce")
    whole = np.isfinite(seeds.to_numpy(dtype=np.float64)) & (np.abs(seeds) < 2**53) & (seeds % 1 == 0)
    refuse((~whole).to_numpy(), "seed", "not a whole number", source, "number the seeds")
    columns["seed"] = seeds.astype("int64")
    columns |= kind.checked(frame, columns, names, source)
    table = pd.DataFrame(columns)
    twice = table.duplicated(ROW).to_numpy()
    refuse(twice, "utterance", "there twice for its model, seed and fold", source, "keep one row of each")
    found = Scores(table, names, by, kind=kind)
    for name in CLUSTERS[:-1]:
        count = int(table[name].isna().sum()) if name in table.columns else 0
        if 0 < count < len(table) and found.cluster != name:
            notes.append(f"{name} is empty in {count} of {len(table)} rows, so that {found.cluster}s are the clusters")
            break
    return replace(found, notes=tuple(notes))


def _columns(names: Sequence[str]) -> list[str]:
    """Column names without stray spaces, and those of `NAMES` in lower case, unless both exist."""
    found = []
    for name in names:
        right = key(name) if key(name) in NAMES else tidy(name)
        right = TRUE + right[len(TRUE) :] if key(name).startswith(TRUE) else right
        found.append(name if right != name and right in names else right)
    return found


def _column(name: str, names: Collection[str]) -> str:
    """The table's spelling of a given column."""
    right = _columns([name])[0]
    return right if right in names else next((one for one in names if key(one) == key(name)), right)


def _tidied(column: pd.Series[Any], name: str, classes: tuple[str, ...]) -> tuple[pd.Series[Any], list[str]]:
    """A column of names as text in one spelling, None if empty; and notes on several spellings."""
    if not isinstance(column.dtype, pd.StringDtype):
        # Values of several types, or lists, are distinguished as text only.
        column = column.astype(str).where(column.notna(), None)
    codes, values = pd.factorize(column)
    counts = {str(one): int(count) for one, count in zip(values, np.bincount(codes[codes >= 0]), strict=True)}
    if name in ("label", "speaker", "session", "dialogue"):
        known = {text: count for text, count in counts.items() if text}
        spelling, notes = unify(known, what=name, known=classes if name == "label" else ())
    else:
        spelling, notes = {text: tidy(text) for text in counts}, []
    texts = np.array([*(spelling.get(text) or None for text in counts), None], dtype="object")
    return pd.Series(texts[codes], dtype="object"), notes


_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    NotImplementedError,
    RecursionError,
    csv.Error,
    pd.errors.ParserWarning,
)


def read_scores(path: Path | str, *, by: str | None = None) -> Scores:
    """Read a score table from Parquet or CSV, ours or another tool's.

    CSV may be separated by commas, semicolons, tabs or bars, also with decimal commas, in UTF-8, UTF-16 or Windows'
    Latin alphabet; the format follows from the content. The quote that `write_scores` puts before formulas is removed.

    Args:
        path: The table.
        by: Column to cluster by, instead of the speaker.

    Raises:
        ScoresError: The file is absent, of another kind, or breaks the rules of `make_scores`.
    """
    path = Path(path)
    if path.is_dir():
        raise ScoresError("this is a folder", where=path, remedy="name the table in it, such as scores.parquet")
    if not path.is_file():
        raise ScoresError("no such score table", where=path, remedy="check the path")
    try:
        frame, notes = (read_frame(path), []) if path.suffix.lower() == ".parquet" else _read_text(path, by)
    except pd.errors.ParserWarning as error:
        raise ScoresError(
            "rows have more cells than the header", where=path, remedy="put cells that hold the separator into quotes"
        ) from error
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ScoresError(
            f"this cannot be read as a table ({reason})", where=path, remedy="write it as CSV or Parquet"
        ) from error
    found = make_scores(frame, source=path, model=path.stem, by=by)
    return replace(found, notes=(*notes, *found.notes))


def _read_text(path: Path, by: str | None) -> tuple[pd.DataFrame, list[str]]:
    content = path.read_bytes()
    text, encoding = decoded(content)
    # The first lines show the format; the table is not copied.
    sample = text.lstrip("\r\n")[:_SAMPLE]
    del text
    separator, skipped = separator_of(sample, usual="\t" if path.suffix.lower() == ".tsv" else ",")
    lines = io.StringIO(sample, newline="")
    for _ in range(skipped):
        lines.readline()
    header = next(csv.reader(lines, delimiter=separator, skipinitialspace=True), [])
    decimal = "," if separator != "," and re.search(rf"[{separator}\"\s][01]?,\d", lines.read()) else "."
    names = _columns([from_cell(name) for name in header])
    if not names:
        raise ValueError("it is empty")
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise ValueError(f"column {twice[0]!r} occurs twice")
    # Columns without a name, such as pandas's row numbers, are left out.
    names = [name or f"Unnamed: {number}" for number, name in enumerate(names)]
    # Names are read as text: utterance 0123 is not 123, fold 1 is not 1.0, and a speaker may be called NA.
    texts = {*NAMES, *([] if by is None else [_column(by, names)])} - {"seed"}
    empty = {name: [""] if name in texts else ["", "NA", "NaN", "nan"] for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame = pd.read_csv(
            io.BytesIO(content),
            sep=separator,
            decimal=decimal,
            names=names,
            header=0,
            skiprows=skipped,
            index_col=False,
            dtype=dict.fromkeys(texts & set(names), str),
            keep_default_na=False,
            na_values=empty,
            skipinitialspace=True,
            encoding=encoding,
        )
    frame = frame.loc[:, [not name.startswith("Unnamed: ") for name in names]]
    for name in texts & set(frame.columns):
        frame[name] = frame[name].map(from_cell, na_action="ignore")
    return frame, [WINDOWS] if encoding == "cp1252" else []


def write_scores(scores: Scores, path: Path) -> None:
    """Write a score table as Parquet, CSV or TSV, by its ending, atomically.

    In CSV and TSV a quote precedes names that a spreadsheet would take for a formula.

    Raises:
        OutputError: The ending is another.
    """
    check_ending(path, ENDINGS, what="scores")
    with written_atomically(path) as part:
        if path.suffix.lower() == ".parquet":
            part.write_bytes(scores.frame.to_parquet(None, index=False))
            return
        frame = scores.frame.rename(columns=to_cell)
        for name in scores.frame.columns:
            if name != "seed" and name not in scores.kind.number_columns(scores.names):
                frame[to_cell(name)] = scores.frame[name].map(to_cell, na_action="ignore")
        frame.to_csv(part, index=False, sep="\t" if path.suffix.lower() == ".tsv" else ",")


def alike(tables: Sequence[Scores]) -> list[Scores]:
    """Rename classes or values as the first table spells them.

    Raises:
        ScoresError: One holds classes and another values, or not the same ones.
    """
    first = tables[0]
    spelling = {key(name): name for name in first.names}
    found = [first]
    for table in tables[1:]:
        if table.kind is not first.kind:
            raise ScoresError(
                f"one table holds {first.kind.noun} and another {table.kind.noun}",
                remedy="give tables of one kind",
            )
        others = {name: spelling[key(name)] for name in table.names if spelling.get(key(name), name) != name}
        if others:
            names = tuple(others.get(name, name) for name in table.names)
            table = replace(table, frame=table.kind.renamed(table.frame, others), names=names)
        if set(table.names) != set(first.names):
            raise ScoresError(
                f"the tables have different {first.kind.noun}: {', '.join(first.names)}, and {', '.join(table.names)}",
                remedy=f"give all tables the same columns of {first.kind.noun}",
            )
        found.append(table)
    return found


def differing(one: pd.DataFrame, two: pd.DataFrame, columns: Sequence[str]) -> tuple[str, int] | None:
    """The first column and row in which two tables differ; None if they do not."""
    for column in columns:
        ours, theirs = one[column], two[column]
        if pd.api.types.is_numeric_dtype(ours):
            bad = ~np.isclose(ours.to_numpy(), theirs.to_numpy(), rtol=1e-6, atol=1e-9)
        else:
            bad = ours.to_numpy() != theirs.to_numpy()
        if bad.any():
            return column, int(bad.argmax())
    return None


def show_apart(names: Collection[str], others: Collection[str]) -> str:
    """Difference of a name to the most similar other one, for a message; empty if there is none.

    Example:
        >>> show_apart(["Ses01F_impro01_F000"], {"Ses01F_impro01_F000.wav", "x"})
        "; the other has 'Ses01F_impro01_F000.wav', which differs in '.wav' for ''"
    """
    if not names or not others:
        return ""
    name = next(iter(names))
    near = difflib.get_close_matches(name, sorted(others)[:2000], n=1)
    if not near:
        return f"; the other has {min(others)!r}"
    begin = len(_common(name, near[0]))
    end = min(len(_common(name[::-1], near[0][::-1])), len(name) - begin, len(near[0]) - begin)
    ours, theirs = name[begin : len(name) - end], near[0][begin : len(near[0]) - end]
    return f"; the other has {near[0]!r}, which differs in {theirs!a} for {ours!a}"


def _common(one: str, two: str) -> str:
    """The common beginning of two texts."""
    count = next((place for place, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]), None)
    return one[: min(len(one), len(two)) if count is None else count]


def join_scores(tables: Sequence[Scores]) -> Scores:
    """Concatenate tables of several models, folds or seeds.

    Raises:
        ScoresError: Their classes or values differ, or they score an utterance twice by one model, seed and fold.
    """
    tables = alike(tables)
    frame = pd.concat([table.frame for table in tables], ignore_index=True)
    twice = frame.duplicated(ROW).to_numpy()
    if twice.any():
        model, seed, fold, name = frame.loc[int(twice.argmax()), ROW]
        raise ScoresError(
            f"utterance {name!r} is scored twice by model {model!r}, seed {seed}, fold {fold!r}",
            remedy="give tables of different models, seeds or folds",
        )
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    return replace(tables[0], frame=frame, notes=tuple(notes))


def over_seeds(frames: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Repeat frames of a single seed for every seed of the others."""
    seeds = max((sorted(set(frame["seed"])) for frame in frames), key=len)
    return [
        frame
        if frame["seed"].nunique() > 1
        else pd.concat([frame.assign(seed=seed) for seed in seeds], ignore_index=True)
        for frame in frames
    ]
