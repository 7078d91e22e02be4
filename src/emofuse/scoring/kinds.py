"""Kinds of score tables: posteriors of classes, or values.

Everything that differs between the two is here: columns, metrics and each row's contribution to them, rules of fusion,
and the format of figures. Other code asks the table's kind, never which of the two it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emofuse.errors import ScoresError
from emofuse.inputs import short
from emofuse.names import key
from emofuse.scoring import metrics, regression

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
Columns = Mapping[str, "pd.Series[Any]"]

TRUE = "label."
"""Before the name of a value in the column that holds the truth: `label.valence` beside the prediction `valence`."""

SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Scale:
    """Range of a metric, and the transform on which its interval is symmetric.

    Attributes:
        low: The smallest value.
        high: The largest; None if unbounded.
        to: The function: log odds, Fisher's z or the logarithm.
        back: Its inverse.
        slope: Its derivative.
    """

    low: float
    high: float | None
    to: Callable[[float], float]
    back: Callable[[float], float]
    slope: Callable[[float], float]


def _logit(value: float) -> float:
    return float(np.log(value) - np.log1p(-value))


def _expit(value: float) -> float:
    return float(1 / (1 + np.exp(-value))) if value > 0 else float(np.exp(value) / (1 + np.exp(value)))


FRACTION = Scale(0.0, 1.0, _logit, _expit, lambda value: 1 / (value * (1 - value)))
CORRELATION = Scale(-1.0, 1.0, lambda v: float(np.arctanh(v)), lambda v: float(np.tanh(v)), lambda v: 1 / (1 - v**2))
ERROR = Scale(0.0, None, lambda v: float(np.log(v)), lambda v: float(np.exp(v)), lambda v: 1 / v)


@dataclass(frozen=True)
class Additive:
    """Contribution of each row to a metric.

    Attributes:
        value: The metric.
        gain: The row's part of the sum, given the counts of classes; its influence for macro-F1, r and CCC, which are
            no sums over rows.
        influence: Influence of the row on the metric; sums to zero.
        weight: Weight of the row; sums to one.
        scale: Scale of the metric.
        most: Largest possible value on these rows.
    """

    value: float
    gain: Array
    influence: Array
    weight: Array
    scale: Scale = FRACTION
    most: float = 1.0


class Kind(ABC):
    """One of the two kinds of score table.

    Attributes:
        noun: Name of the outputs, and their key in `result.json`.
        titles: Titles of the metrics, in order, by key.
        definitions: Their definitions.
        decisive: The metric of tuning and notes.
        compared: Metrics whose differences a terminal shows.
        scales: Scales of symmetric intervals, as text.
        factor: Factor of displayed figures.
        digits: Their decimals.
        unit: Their unit, for a heading; empty for the corpus's own.
        points: Unit of differences, as text.
        rules: Rules of fusion; the first is the default.
        calibrated: Whether outputs are probabilities, which a temperature can calibrate.
    """

    noun: ClassVar[str]
    titles: ClassVar[Mapping[str, str]]
    definitions: ClassVar[Mapping[str, str]]
    decisive: ClassVar[str]
    compared: ClassVar[tuple[str, ...]]
    scales: ClassVar[str]
    factor: ClassVar[float]
    digits: ClassVar[int]
    unit: ClassVar[str]
    points: ClassVar[str]
    rules: ClassVar[tuple[str, ...]]
    calibrated: ClassVar[bool]

    @abstractmethod
    def true_columns(self, names: Sequence[str]) -> list[str]:
        """The columns that hold the truth."""

    def number_columns(self, names: Sequence[str]) -> list[str]:
        """The columns that hold numbers of outputs or truth."""
        return list(names)

    @abstractmethod
    def names(self, frame: pd.DataFrame, texts: Collection[str], source: str | Path) -> tuple[str, ...]:
        """The classes or values of a table, by its columns.

        Raises:
            ScoresError: There are none, or too few.
        """

    @abstractmethod
    def checked(
        self, frame: pd.DataFrame, columns: Columns, names: Sequence[str], source: str | Path
    ) -> dict[str, pd.Series[Any]]:
        """The columns of numbers, all of them possible.

        Raises:
            ScoresError: One is not; row and column are named.
        """

    @abstractmethod
    def renamed(self, frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
        """A table whose classes or values have other names."""

    @abstractmethod
    def truth(self, frame: pd.DataFrame, names: Sequence[str]) -> Any:
        """The truth by row: number of the class `(rows,)`, or values `(rows, values)`."""

    @abstractmethod
    def metrics(self, truth: Any, outputs: Array) -> dict[str, float]:
        """All metrics of the rows."""

    @abstractmethod
    def additive(self, truth: Any, outputs: Array, seeds: Numbers) -> Mapping[str, Additive]:
        """Contributions to every metric, averaged over seeds."""

    def gains(self, truth: Any, first: Array, second: Array, seeds: Numbers) -> dict[str, Array]:
        """Differences of contributions to every metric between two models."""
        ours, theirs = (self.additive(truth, outputs, seeds) for outputs in (first, second))
        return {name: ours[name].gain - theirs[name].gain for name in ours}

    def details(self, truth: Any, outputs: Array, names: Sequence[str]) -> dict[str, Any]:
        """Further figures of a model, for `result.json`."""
        return {}

    @abstractmethod
    def agrees(self, entry: Any, truth: Any, outputs: Array, seeds: Numbers) -> bool:
        """Whether a model's figures in `result.json` are those of these rows."""

    def figure(self, value: float) -> str:
        """A metric as text.

        Example:
            >>> CLASSES.figure(0.6349), VALUES.figure(0.6349)
            ('63.5', '0.635')
        """
        return f"{self.factor * value:.{self.digits}f}"

    def signed(self, value: float) -> str:
        """A difference as text, with its sign.

        Example:
            >>> CLASSES.signed(0.0123), VALUES.signed(0.0123), CLASSES.signed(-0.0001)
            ('+1.2', '+0.012', '0.0')
        """
        # Rounded first, so that a zero has no sign.
        rounded = round(self.factor * value, self.digits)
        return f"{rounded:+.{self.digits}f}" if rounded else f"{0:.{self.digits}f}"


class Classes(Kind):
    """Posteriors of classes, and the true class in column `label`."""

    noun = "classes"
    titles: ClassVar[Mapping[str, str]] = {"ua": "UA", "wa": "WA", "macro_f1": "macro-F1"}
    definitions = metrics.DEFINITIONS
    decisive, compared, scales = "ua", ("ua",), "on log odds"
    factor, digits, unit, points = 100.0, 1, "percent", "points"
    rules = ("product", "mean", "bayes")
    calibrated = True

    def true_columns(self, names: Sequence[str]) -> list[str]:
        """The class."""
        return ["label"]

    def names(self, frame: pd.DataFrame, texts: Collection[str], source: str | Path) -> tuple[str, ...]:
        """Columns of numbers, and those that are named as a label."""
        labels = {key(str(name)) for name in frame["label"].dropna().unique()}
        classes = tuple(
            name
            for name in frame.columns
            if name and name not in texts and (key(name) in labels or _holds_posteriors(frame[name]))
        )
        if len(classes) < 2:
            raise ScoresError(
                "there are fewer than two columns of posteriors",
                where=source,
                remedy=f"add one column of numbers a class (true values of a regression are called {TRUE}NAME)",
            )
        return classes

    def checked(
        self, frame: pd.DataFrame, columns: Columns, names: Sequence[str], source: str | Path
    ) -> dict[str, pd.Series[Any]]:
        """Posteriors, which sum to 1 in each row."""
        refuse(
            ~columns["label"].isin(names).to_numpy(),
            "label",
            f"not one of the classes {', '.join(names)}",
            source,
            "give every label its own column of posteriors",
        )
        found = {}
        for name in names:
            values = numbers_of(frame[name])
            bad = ~((values >= -SUM_TOLERANCE) & (values <= 1 + SUM_TOLERANCE))
            refuse(
                bad,
                name,
                "not a probability",
                source,
                "write posteriors between 0 and 1, such as a softmax gives, and leave out columns that are no class",
            )
            found[name] = pd.Series(values.clip(0, 1), dtype="float64")
        off = np.abs(np.sum([one.to_numpy() for one in found.values()], axis=0) - 1) > SUM_TOLERANCE * len(names)
        refuse(off, " + ".join(names), "not 1 in sum", source, "normalise the posteriors of each row")
        return found

    def renamed(self, frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
        """Labels are renamed with their classes."""
        frame = frame.rename(columns=dict(names))
        return frame.assign(label=frame["label"].replace(dict(names)))

    def truth(self, frame: pd.DataFrame, names: Sequence[str]) -> Numbers:
        """Number of the class, `(rows,)`."""
        index = {name: number for number, name in enumerate(names)}
        return np.asarray(frame["label"].map(index), dtype=np.int64)

    def metrics(self, truth: Numbers, outputs: Array) -> dict[str, float]:
        """UA, WA and macro-F1."""
        matrix = metrics.confusion(truth, metrics.answers(outputs), classes=outputs.shape[1])
        return {name: float(metric(matrix)) for name, metric in metrics.METRICS.items()}

    def additive(self, truth: Numbers, outputs: Array, seeds: Numbers) -> Mapping[str, Additive]:
        """WA and UA exactly, macro-F1 by its influence."""
        answers, classes = metrics.answers(outputs), outputs.shape[1]
        count, cell = int(seeds.max()) + 1, seeds * classes + truth
        hit = answers[np.arange(len(truth)), truth]

        def table(values: Array | None = None) -> Array:
            return np.bincount(cell, values, minlength=count * classes).reshape(count, classes).astype(np.float64)

        there, hits = table(), table(hit)
        predicted = np.stack([np.bincount(seeds, column, minlength=count) for column in answers.T], axis=1)
        occurring = (there > 0).sum(1)
        recalls = hits / np.maximum(there, 1)
        by_row = 1 / (there.sum(1)[seeds] * count)
        by_class = 1 / (there.ravel()[cell] * occurring[seeds] * count)
        scale = np.where(there > 0, 1 / np.maximum(there + predicted, 1), 0) / (occurring[:, None] * count)
        f1 = 2 * hits / np.maximum(there + predicted, 1)
        wrong = (f1 * scale)[seeds]
        change = (2 * hit - f1.ravel()[cell]) * scale.ravel()[cell] - np.einsum("rc,rc->r", wrong, answers)
        accuracy = hits.sum(1) / there.sum(1)
        return {
            "wa": Additive(float(accuracy.mean()), hit * by_row, (hit - accuracy[seeds]) * by_row, by_row),
            "ua": Additive(
                float((recalls.sum(1) / occurring).mean()),
                hit * by_class,
                (hit - recalls.ravel()[cell]) * by_class,
                by_class,
            ),
            "macro_f1": Additive(
                float((np.where(there > 0, f1, 0).sum(1) / occurring).mean()), change, change, by_class
            ),
        }  # fmt: skip

    def details(self, truth: Numbers, outputs: Array, names: Sequence[str]) -> dict[str, Any]:
        """Calibration error, confident answers, recall, confusion matrix and ties."""
        answers = metrics.answers(outputs)
        matrix = metrics.confusion(truth, answers, classes=len(names))
        recalls = zip(names, metrics.recall(matrix), strict=True)
        coverage, right = metrics.confident(outputs, truth)
        return {
            "ece": metrics.expected_calibration_error(outputs, truth),
            "confident": {"coverage": coverage, "accuracy": right},
            "recall": {name: None if np.isnan(value) else float(value) for name, value in recalls},
            "confusion": [[int(cell) if cell == int(cell) else float(cell) for cell in row] for row in matrix.round(6)],
            "ties": int(np.count_nonzero(answers.max(1) < 1)),
        }

    def agrees(self, entry: Any, truth: Numbers, outputs: Array, seeds: Numbers) -> bool:
        """By the confusion matrix."""
        matrix = metrics.confusion(truth, metrics.answers(outputs), classes=outputs.shape[1])
        return bool(np.allclose(matrix, entry.confusion, rtol=0, atol=1e-5))


class Values(Kind):
    """Predicted values in columns of their names, and the true ones in columns `label.NAME`."""

    noun = "values"
    titles: ClassVar[Mapping[str, str]] = {"ccc": "CCC", "pearson": "Pearson r", "mae": "MAE"}
    definitions: ClassVar[Mapping[str, str]] = {
        **regression.DEFINITIONS,
        **{name: metrics.DEFINITIONS[name] for name in ("pooled", "fold mean")},
    }
    decisive, compared, scales = "ccc", ("ccc", "mae"), "on Fisher's z of CCC and r, on the logarithm of MAE"
    factor, digits, unit, points = 1.0, 3, "", ""
    rules = ("mean",)
    calibrated = False

    def true_columns(self, names: Sequence[str]) -> list[str]:
        """One a value."""
        return [f"{TRUE}{name}" for name in names]

    def number_columns(self, names: Sequence[str]) -> list[str]:
        """Truth and prediction of each value."""
        return [*self.true_columns(names), *names]

    def names(self, frame: pd.DataFrame, texts: Collection[str], source: str | Path) -> tuple[str, ...]:
        """Those whose truth is there."""
        names = tuple(name.removeprefix(TRUE) for name in frame.columns if name.startswith(TRUE))
        if "label" in frame.columns:
            raise ScoresError(
                f"there are both 'label', of classes, and {TRUE + names[0]!r}, of a value",
                where=source,
                remedy="keep one of them: a table holds classes or values",
            )
        for name in names:
            if name in texts or name not in frame.columns:
                what = f"the value {name!r} has the name of another column" if name in texts else ""
                raise ScoresError(
                    what or f"column {name!r} is missing, where there is {TRUE + name!r}",
                    where=source,
                    remedy="give the value another name" if what else "add what the model predicted",
                )
        return names

    def checked(
        self, frame: pd.DataFrame, columns: Columns, names: Sequence[str], source: str | Path
    ) -> dict[str, pd.Series[Any]]:
        """Finite numbers."""
        found = {}
        for name in self.number_columns(names):
            values = numbers_of(frame[name])
            refuse(~np.isfinite(values), name, "not a number", source, "leave out rows without a value")
            found[name] = pd.Series(values, dtype="float64")
        return found

    def renamed(self, frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
        """The truth is renamed with its value."""
        return frame.rename(columns={**names, **{TRUE + old: TRUE + new for old, new in names.items()}})

    def truth(self, frame: pd.DataFrame, names: Sequence[str]) -> Array:
        """True values, `(rows, values)`."""
        return frame[self.true_columns(names)].to_numpy(dtype=np.float64)

    def metrics(self, truth: Array, outputs: Array) -> dict[str, float]:
        """Means over the values of CCC, r and MAE."""
        return {name: float(metric(truth, outputs).mean()) for name, metric in regression.METRICS.items()}

    def additive(self, truth: Array, outputs: Array, seeds: Numbers) -> Mapping[str, Additive]:
        """MAE exactly, r and CCC by their influence; means over the values."""
        errors, count = np.abs(truth - outputs).mean(1), int(seeds.max()) + 1
        weight = 1 / (np.bincount(seeds)[seeds] * count)
        changes = {name: np.zeros(len(truth)) for name in ("ccc", "pearson", "mae")}
        found = []
        for seed in range(count):
            rows = seeds == seed
            one = {name: change.mean(1) for name, change in regression.influences(truth[rows], outputs[rows]).items()}
            found.append(self.metrics(truth[rows], outputs[rows]))
            one["mae"] = errors[rows] - found[-1]["mae"]
            for name, change in one.items():
                changes[name][rows] = change * weight[rows]
        means = {name: float(np.mean([one[name] for one in found])) for name in changes}
        correlations = {
            name: Additive(means[name], changes[name], changes[name], weight, CORRELATION)
            for name in ("ccc", "pearson")
        }
        most = float(errors.max())
        return {**correlations, "mae": Additive(means["mae"], errors * weight, changes["mae"], weight, ERROR, most)}

    def agrees(self, entry: Any, truth: Array, outputs: Array, seeds: Numbers) -> bool:
        """By every metric."""
        found = self.additive(truth, outputs, seeds)
        return all(np.isclose(entry[name].value, one.value, rtol=1e-6, atol=1e-9) for name, one in found.items())

    def gains(self, truth: Array, first: Array, second: Array, seeds: Numbers) -> dict[str, Array]:
        """Of r and CCC by the influence at both models' rows together, as `regression.influences` says."""
        found = super().gains(truth, first, second, seeds)
        count = int(seeds.max()) + 1
        for seed in range(count):
            rows = seeds == seed
            one, two = (
                regression.influences(truth[rows], ours[rows], other=theirs[rows])
                for ours, theirs in ((first, second), (second, first))
            )
            for name, change in one.items():
                found[name][rows] = (change - two[name]).mean(1) / (rows.sum() * count)
        return found


CLASSES, VALUES = Classes(), Values()


def kind_of(columns: Collection[str]) -> Kind:
    """The kind of a table, by the names of its columns.

    Example:
        >>> kind_of(["utterance", "label", "happy", "sad"]).noun, kind_of(["label.belief", "belief"]).noun
        ('classes', 'values')
    """
    return VALUES if any(name.startswith(TRUE) for name in columns) else CLASSES


def kind_with(metrics: Collection[str]) -> Kind:
    """The kind whose figures, of a model or of a comparison in `result.json`, have these keys."""
    return VALUES if VALUES.decisive in metrics else CLASSES


def check_names(names: Sequence[str], source: str | Path) -> None:
    """Refuse two classes or values of one name.

    Raises:
        ScoresError: There are.
    """
    often = Counter(map(key, names))
    if several := [name for name in names if often[key(name)] > 1]:
        raise ScoresError(f"the columns {listed(several)} are one name", where=source, remedy="keep one of them")


def _holds_posteriors(column: pd.Series[Any]) -> bool:
    if pd.api.types.is_bool_dtype(column):
        return False
    if pd.api.types.is_numeric_dtype(column):
        return bool(column.notna().any())
    values = numbers_of(column.dropna().iloc[:100])
    return bool(len(values) and ((values >= 0) & (values <= 1)).all())


def numbers_of(column: pd.Series[Any]) -> Array:
    """Numbers, also such as are written with a decimal comma; NaN for what is none."""
    if not pd.api.types.is_numeric_dtype(column):
        column = column.map(lambda value: value.strip().replace(",", ".") if isinstance(value, str) else value)
    return np.asarray(pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan))


def listed(names: Collection[str], most: int = 12) -> str:
    """Names in quotes, and how many more there are."""
    shown = ", ".join(repr(short(name)) for name in list(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def refuse(bad: NDArray[np.bool_], column: str, what: str, source: str | Path, remedy: str) -> None:
    """Name the first row of a column that is wrong.

    Raises:
        ScoresError: There is one.
    """
    if bad.any():
        raise ScoresError(f"row {int(bad.argmax()) + 1}, column {column!r} is {what}", where=source, remedy=remedy)
