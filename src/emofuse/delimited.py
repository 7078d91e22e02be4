"""Read text and tables in any common encoding, separator and decimal mark."""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

WINDOWS = "the table is not UTF-8 and is read as Windows-1252: check names with letters such as \u00e4"
"""The note on a guessed encoding."""

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS = (",", ";", "\t", "|")
_CALLED = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_JUDGED = 50  # Rows for detecting the separator.
_EXCEL = re.compile(r'"?sep=(?P<separator>[^\r\n])"?\r?', re.IGNORECASE)
_GROUPS = re.compile(r"(?<=\d)[\u00a0\u202f\u2009' ](?=\d{3})")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def decoded(content: bytes, *encodings: str) -> tuple[str, str]:
    r"""Text in the first encoding that fits it, and the encoding.

    Args:
        content: What the file holds.
        encodings: Tried after what a mark at its beginning says, UTF-16 and UTF-8; by default Windows' Latin alphabet.

    Raises:
        ValueError: It is not text.

    Example:
        >>> decoded("naïve".encode("utf-16")), decoded(b"na\xefve")
        (('naïve', 'utf-16'), ('naïve', 'cp1252'))
    """
    marked = [encoding for mark, encoding in _MARKS if content.startswith(mark)][:1]
    if not marked and b"\0" in content[:2]:
        marked = ["utf-16-be" if content[:1] == b"\0" else "utf-16-le"]
    for encoding in (*marked, "utf-8-sig", *(encodings or ("cp1252",))):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text, encoding
    raise ValueError("this is not text")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A table of separated values.

    Attributes:
        header: Cells of its first row.
        rows: Last line number and cells of each later row; empty rows are left out.
        separator: Separator of cells.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    separator: str

    @property
    def note(self) -> str:
        """The separator, as text."""
        return f"cells are separated by {_CALLED.get(self.separator, repr(self.separator))}"


def split_rows(text: str, *, usual: str = ",") -> Rows:
    r"""Split a table with a header into cells: by what Excel's line `sep=;` says, else by what gives whole rows.

    A row of more cells than the header has lost only empty ones; of fewer or more, it is left to who reads it.

    Args:
        text: The table.
        usual: Separator of tables of this kind, where nothing speaks for another.

    Raises:
        csv.Error: A quote is never closed, or the like.

    Example:
        >>> split_rows("name;label\na;happy\n").rows
        ((2, ('a', 'happy')),)
    """
    separator, skipped = separator_of(text, usual=usual)
    if skipped:
        text = text.partition("\n")[2]
    try:
        found = _parsed(text, separator)
    except csv.Error:
        if separator != "\t":
            raise
        found = []
    if separator == "\t" and (not found or any("\t" in cell for _, cells in found for cell in cells)):
        # Tab-separated tables often have literal quotes.
        found = _parsed(text, separator, quoting=csv.QUOTE_NONE)
    if not found:
        return Rows(header=(), rows=(), separator=separator)
    header = tuple(cell.strip() for cell in found[0][1])
    rows = []
    for line, cells in found[1:]:
        while len(cells) > len(header) and not cells[-1].strip():
            cells.pop()
        rows.append((line + skipped, tuple(cells)))
    return Rows(header=header, rows=tuple(rows), separator=separator)


def _parsed(text: str, separator: str, *, quoting: int = csv.QUOTE_MINIMAL) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, quoting=quoting)  # type: ignore[arg-type]
    return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]


def separator_of(text: str, *, usual: str = ",") -> tuple[str, int]:
    r"""What stands between the cells of a table, and how many lines come before its header to say so.

    Args:
        text: The table, or its first lines.
        usual: As `split_rows` takes it.

    Example:
        >>> separator_of("sep=;\na;b\n"), separator_of("a\tb\n")
        ((';', 1), ('\t', 0))
    """
    if said := _EXCEL.fullmatch(text.partition("\n")[0]):
        return said["separator"], 1
    best, chosen = (False, 1), usual
    for separator in dict.fromkeys((usual, *_SEPARATORS)):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            sample = list(islice((cells for cells in reader if cells), _JUDGED))
        except csv.Error:
            continue
        width = len(sample[0]) if sample else 0
        whole = 2 * sum(len(cells) == width for cells in sample) >= len(sample)
        if width > 1 and (whole, width) > best:
            best, chosen = (whole, width), separator
    return chosen, 0


def numbers(cells: Iterable[str]) -> tuple[list[float], bool]:
    """The numbers of a column, NaN for others, and whether it has decimal commas.

    It has decimal commas if some comma cannot separate thousands; spaces and apostrophes may separate thousands. In a
    column with decimal commas a full stop separates thousands.

    Example:
        >>> numbers(["0,5", "1.234,5"]), numbers(["1,234.5", "2"]), numbers(["1,234"])
        (([0.5, 1234.5], True), ([1234.5, 2.0], False), ([nan], False))
    """
    plain = [_GROUPS.sub("", cell.strip().replace("\u2212", "-")) for cell in cells]
    decimal = any("," in cell and not _THOUSANDS.fullmatch(cell.rpartition(".")[0] or cell) for cell in plain)
    # `1,234` alone is ambiguous.
    grouped = not decimal and any("," in cell and "." in cell for cell in plain)
    return [_number(cell, decimal=decimal, grouped=grouped) for cell in plain], decimal


def _number(cell: str, *, decimal: bool, grouped: bool) -> float:
    if decimal:
        whole, comma, part = cell.partition(",")
        cell = (whole.replace(".", "") if re.fullmatch(r"[+-]?[1-9]\d{0,2}(\.\d{3})+", whole) else whole) + (
            "." + part if comma else ""
        )
    elif grouped and _THOUSANDS.fullmatch(cell.partition(".")[0]):
        cell = cell.replace(",", "")
    value = float(cell) if _NUMBER.fullmatch(cell) else math.nan
    return value if math.isfinite(value) else math.nan
