"""The score table: one row per model, seed, fold and utterance, with one posterior a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emofuse.errors import ScoresError
from emofuse.files import written_whole

NAMES = ("model", "seed", "fold", "utterance", "label", "speaker", "session", "dialogue")
"""Columns of a score table that are not classes. Every other column that holds numbers, or has the name of a label,
is a class."""

ROW = ["model", "seed", "fold", "utterance"]
"""What tells a row from every other."""

ALL = "all"
"""Fold of a table that has none."""

SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Scores:
    """A checked score table.

    Attributes:
        frame: Columns `model`, `seed`, `fold`, `utterance`, `label`, those of `speaker`, `session` and
            `dialogue` that are known, then one column a class.
        classes: Names of the classes, in column order.
    """

    frame: pd.DataFrame
    classes: tuple[str, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """Models in the table, in order of appearance."""
        return tuple(self.frame["model"].unique())

    @property
    def cluster(self) -> str:
        """The column that intervals are clustered by: speaker, else dialogue, else the utterance itself.

        A single cluster says nothing of how results vary, so there must be two.
        """
        for name in ("speaker", "dialogue"):
            if name in self.frame.columns and self.frame[name].notna().all() and self.frame[name].nunique() > 1:
                return name
        return "utterance"

    def of(self, model: str) -> Scores:
        """The rows of one model.

        Raises:
            ScoresError: The table has no such model.
        """
        rows = self.frame[self.frame["model"] == model]
        if rows.empty:
            raise ScoresError(f"no model is called {model!r}", remedy=f"use one of {', '.join(self.models)}")
        return Scores(rows.reset_index(drop=True), self.classes)

    def posteriors(self) -> NDArray[np.float64]:
        """Posteriors, `(rows, classes)`."""
        return self.frame[list(self.classes)].to_numpy(dtype=np.float64)

    def labels(self) -> NDArray[np.int64]:
        """Index of each row's label among the classes, `(rows,)`."""
        index = {name: number for number, name in enumerate(self.classes)}
        return np.asarray(self.frame["label"].map(index), dtype=np.int64)


def make_scores(frame: pd.DataFrame, *, source: str | Path, model: str = "model") -> Scores:
    """Check a table and fill in what it may leave out: model, seed 0, one fold.

    Args:
        frame: At least `utterance`, `label` and one column of posteriors a class.
        source: Where the table comes from, for error messages.
        model: Name for rows that carry none.

    Raises:
        ScoresError: A column is missing, a posterior is impossible, or a row comes twice; row and column named.

    Example:
        >>> frame = pd.DataFrame({"utterance": ["a"], "label": ["sad"], "happy": [0.1], "sad": [0.9]})
        >>> make_scores(frame, source="example").classes
        ('happy', 'sad')
    """
    for name in ("utterance", "label"):
        if name not in frame.columns:
            raise ScoresError(f"column {name!r} is missing", where=source, remedy="add it")
    if frame.empty:
        raise ScoresError("the table has no rows", where=source, remedy="check how it was written")
    frame = frame.rename(columns=str).reset_index(drop=True)
    labels = set(frame["label"].dropna().astype(str))
    classes = tuple(
        name for name in frame.columns if name not in NAMES and (_holds_numbers(frame[name]) or name in labels)
    )
    if len(classes) < 2:
        raise ScoresError(
            "there are fewer than two columns of posteriors", where=source, remedy="add one column of numbers a class"
        )
    defaults: dict[str, object] = {"model": model, "seed": 0, "fold": ALL}
    columns: dict[str, pd.Series[Any]] = {}
    for name in NAMES:
        if name in frame.columns:
            known = frame[name].notna()
            columns[name] = frame[name].astype("object").where(~known, frame[name].astype(str)).where(known, None)
        elif name in defaults:
            columns[name] = pd.Series([str(defaults[name])] * len(frame), dtype="object")
    for name in ("model", "seed", "fold", "utterance", "label"):
        _refuse(columns[name].isna().to_numpy(), name, "empty", source, "fill it in")
    seeds = pd.to_numeric(columns["seed"], errors="coerce")
    _refuse((seeds.isna() | (seeds % 1 != 0)).to_numpy(), "seed", "not a whole number", source, "number the seeds")
    columns["seed"] = seeds.astype("int64")
    _refuse(
        ~columns["label"].isin(classes).to_numpy(),
        "label",
        f"not one of the classes {', '.join(classes)}",
        source,
        "give every label its own column of posteriors",
    )
    for name in classes:
        values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        bad = ~((values >= -SUM_TOLERANCE) & (values <= 1 + SUM_TOLERANCE))
        _refuse(bad, name, "not a probability", source, "write posteriors between 0 and 1, such as a softmax gives")
        columns[name] = pd.Series(values.clip(0, 1), dtype="object").astype("float64")
    table = pd.DataFrame(columns)
    off = np.abs(table[list(classes)].sum(axis=1).to_numpy() - 1) > SUM_TOLERANCE * len(classes)
    _refuse(off, " + ".join(classes), "not 1 in sum", source, "normalise the posteriors of each row")
    twice = table.duplicated(ROW).to_numpy()
    _refuse(twice, "utterance", "there twice for its model, seed and fold", source, "keep one row of each")
    return Scores(table, classes)


def _holds_numbers(column: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _refuse(bad: NDArray[np.bool_], column: str, what: str, source: str | Path, remedy: str) -> None:
    if bad.any():
        raise ScoresError(f"row {int(bad.argmax()) + 1}, column {column!r} is {what}", where=source, remedy=remedy)


def read_scores(path: Path) -> Scores:
    """Read a score table from Parquet or CSV, ours or another tool's.

    Raises:
        ScoresError: The file is absent, of another kind, or breaks the rules of `make_scores`.
    """
    if not path.is_file():
        raise ScoresError("no such score table", where=path, remedy="check the path")
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            # Names are read as text: utterance 0123 is not 123, fold 1 is not 1.0, and a speaker may be called NA.
            names = {name: str for name in NAMES if name != "seed"}
            header = pd.read_csv(path, nrows=0, sep=_separator(path)).columns
            empty = {name: [""] if name in names else ["", "NA", "NaN", "nan"] for name in header}
            frame = pd.read_csv(path, dtype=names, keep_default_na=False, na_values=empty, sep=_separator(path))
            # What pandas calls a column without a name, such as the row numbers that its own `to_csv` writes.
            frame = frame.loc[:, [not name.startswith("Unnamed: ") for name in frame.columns]]
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise ScoresError(
            f"this cannot be read as a table ({str(error).splitlines()[0]})",
            where=path,
            remedy="write it as CSV or Parquet",
        ) from error
    return make_scores(frame, source=path, model=path.stem)


def _separator(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def write_scores(scores: Scores, path: Path) -> None:
    """Write a score table as Parquet (or CSV or TSV, by its suffix), whole or not at all."""
    with written_whole(path) as part:
        if path.suffix in (".csv", ".tsv"):
            scores.frame.to_csv(part, index=False, sep=_separator(path))
        else:
            scores.frame.to_parquet(part, index=False)


def join_scores(tables: Sequence[Scores]) -> Scores:
    """Put tables of several models, folds or seeds below one another.

    Raises:
        ScoresError: Their classes differ, or they score an utterance twice by one model, seed and fold.
    """
    first = tables[0].classes
    for table in tables[1:]:
        if set(table.classes) != set(first):
            raise ScoresError(
                f"the classes {', '.join(table.classes)} are not {', '.join(first)}",
                remedy="give all tables the same class columns",
            )
    frame = pd.concat([table.frame for table in tables], ignore_index=True)
    twice = frame.duplicated(ROW).to_numpy()
    if twice.any():
        model, seed, fold, name = frame.loc[int(twice.argmax()), ROW]
        raise ScoresError(
            f"utterance {name!r} is scored twice by model {model!r}, seed {seed}, fold {fold!r}",
            remedy="give tables of different models, seeds or folds",
        )
    return Scores(frame, first)


def over_seeds(frames: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Repeat frames that have a single seed for every seed of the frame that has most."""
    seeds = max((sorted(set(frame["seed"])) for frame in frames), key=len)
    return [
        frame
        if frame["seed"].nunique() > 1
        else pd.concat([frame.assign(seed=seed) for seed in seeds], ignore_index=True)
        for frame in frames
    ]
