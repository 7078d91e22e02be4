"""Write predictions immediately, as a JSON array, or CSV with one column per class."""

from __future__ import annotations

import csv
import io
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import ClassVar

from emofuse.escape import to_cell
from emofuse.terminal import as_json, harmless
from emofuse.types import Prediction


class PredictionWriter(ABC):
    """A writer of predictions; `close` ends the output, also after an interruption.

    Args:
        write: Receives the text.
        classes: Emotions.
        ascii_only: Whether the output is ASCII only.
    """

    extension: ClassVar[str]

    def __init__(self, write: Callable[[str], object], *, classes: Sequence[str], ascii_only: bool = False) -> None:
        self._write = write
        self._classes = tuple(classes)
        self._ascii_only = ascii_only
        self._begun = False

    @abstractmethod
    def add(self, answer: Prediction) -> None:
        """Write one prediction immediately."""

    @abstractmethod
    def close(self) -> None:
        """End the output."""


class JsonWriter(PredictionWriter):
    """A JSON array, one object per prediction; valid after `close`, also after an interruption."""

    extension = ".json"

    def add(self, answer: Prediction) -> None:
        """See `PredictionWriter.add`."""
        one = textwrap.indent(as_json(asdict(answer), ascii_only=self._ascii_only), " ")
        self._write(f"{',' if self._begun else '['}\n{one}")
        self._begun = True

    def close(self) -> None:
        """See `PredictionWriter.close`."""
        self._write("\n]\n" if self._begun else "[]\n")


class CsvWriter(PredictionWriter):
    r"""CSV with a head, one row a prediction.

    A control character is written as an escape such as `\x1b`, and before a cell that a spreadsheet would take for a
    formula (one that begins with = + - @ or a tab) stands an apostrophe.
    """

    extension = ".csv"

    def add(self, answer: Prediction) -> None:
        """See `PredictionWriter.add`."""
        scores = [f"{answer.scores[name]:.6f}" for name in self._classes]
        words = [_cell(one) for one in (answer.source or "", answer.label, "; ".join(answer.notes))]
        self._begin()
        self._row([words[0], words[1], *scores, "+".join(answer.modalities), words[2]])

    def close(self) -> None:
        """See `PredictionWriter.close`."""
        self._begin()

    def _begin(self) -> None:
        if not self._begun:
            self._row(["source", "label", *map(_cell, self._classes), "modalities", "notes"])
            self._begun = True

    def _row(self, cells: Sequence[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        self._write(line.getvalue())


def _cell(text: str) -> str:
    return harmless(to_cell(text))


WRITERS: Mapping[str, type[PredictionWriter]] = {"json": JsonWriter, "csv": CsvWriter}
"""Writers of predictions by short name."""


def format_predictions(predictions: Iterable[Prediction], *, style: str) -> str:
    """Predictions as one text, by a writer of `WRITERS`.

    Example:
        >>> posteriors = {"happy": 0.25, "sad": 0.75}
        >>> one = Prediction(label="sad", posteriors=posteriors, modalities=("speech",), source="a.wav")
        >>> print(format_predictions([one], style="csv"))
        source,label,happy,sad,modalities,notes
        a.wav,sad,0.250000,0.750000,speech,
    """
    answers = list(predictions)
    text = io.StringIO()
    writer = WRITERS[style](text.write, classes=list(answers[0].scores) if answers else [])
    for answer in answers:
        writer.add(answer)
    writer.close()
    return text.getvalue().removesuffix("\n")
