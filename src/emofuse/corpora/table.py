"""The user's own corpus, as a table: CSV, TSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from emofuse.corpora.card import CorpusCard, Listing, Row
from emofuse.errors import ManifestError

CARD = CorpusCard(
    name="table",
    title="your own table",
    languages=(),
    streams=("speech", "text"),
    labels=(),
    licence="yours",
    where="it may be CSV, TSV, JSON lines or Parquet with a column audio, text or both",
    citation="yours",
    note="columns with the manifest's names are taken, others can be mapped to them, and the rest are ignored",
)


def read(root: Path, columns: Mapping[str, str] | None = None) -> Listing:
    r"""List the rows of a table, with sound files relative to the table's folder.

    Args:
        root: The table, or a folder that holds just one.
        columns: The table's name for a manifest column, where it differs.

    Raises:
        ManifestError: The table is absent, unreadable or empty, or a value does not fit; the message names its row
            (counted from 1, after the header) and column.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = path.write_text("id,sentence,emotion\n1,Oh no!,sad\n")
        >>> read(path, {"utterance": "id", "text": "sentence", "label": "emotion"}).rows
        [{'utterance': '1', 'text': 'Oh no!', 'label': 'sad', 'corpus': 'table'}]
    """
    from emofuse.manifest import COLUMNS, SECONDS

    path = _find(root)
    try:
        names, table = _READERS[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise ManifestError("the table is not UTF-8 text", where=path, remedy="save it again as UTF-8") from error
    except (OSError, ValueError, NotImplementedError, RecursionError, csv.Error, KeyError) as error:
        raise ManifestError(
            "the table cannot be read, as it is damaged or not of the kind that its name says",
            where=path,
            remedy="save it again",
        ) from error
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise ManifestError(f"column {twice[0]!r} occurs twice", where=path, remedy="rename one of them")
    if not table:
        raise ManifestError("the table has no rows", where=path, remedy="add some, or choose another table")
    taken = _taken(names, columns or {}, tuple(COLUMNS), path)
    kinds = {**COLUMNS, **dict.fromkeys(SECONDS, "seconds"), "votes": "votes"}
    rows = []
    for number, cells in enumerate(table, start=1):
        row = {
            column: _value(cells.get(theirs), kinds[column], f"row {number}, column {theirs!r}", path)
            for column, theirs in taken.items()
        }
        if row.get("audio") is not None:
            row["audio"] = os.path.abspath(path.parent / Path(row["audio"]).expanduser())
        row["corpus"] = row.get("corpus") or CARD.name
        rows.append(row)
    if "utterance" not in taken:
        rows = [{"utterance": name, **row} for name, row in zip(_names(rows), rows, strict=True)]
    return Listing(rows=rows, source=path)


def _find(root: Path) -> Path:
    root = Path(os.path.abspath(root.expanduser()))
    endings = ", ".join(_READERS)
    if root.is_dir():
        tables = sorted(path for path in root.iterdir() if path.suffix.lower() in _READERS and path.is_file())
        if len(tables) != 1:
            found = f"{len(tables)} tables" if tables else "no table"
            raise ManifestError(f"this folder holds {found}", where=root, remedy=f"name one file ({endings})")
        return tables[0]
    if not root.is_file():
        raise ManifestError("no such table", where=root, remedy="check the path")
    if root.suffix.lower() not in _READERS:
        raise ManifestError("this is not a known kind of table", where=root, remedy=f"save it as one of {endings}")
    return root


def _taken(names: list[str], columns: Mapping[str, str], known: tuple[str, ...], path: Path) -> dict[str, str]:
    """The table's column for each manifest column that it has."""
    for column, theirs in columns.items():
        if column not in known:
            raise ManifestError(
                f"{column!r} is not a manifest column", where=path, remedy=f"map one of {', '.join(known)}"
            )
        if theirs not in names:
            raise ManifestError(
                f"there is no column {theirs!r} for {column!r}",
                where=path,
                remedy=f"map one of {_listed(names)}",
            )
    taken = {column: columns.get(column, column) for column in known if column in columns or column in names}
    if "audio" not in taken and "text" not in taken:
        raise ManifestError(
            "there is neither a column 'audio' nor 'text'",
            where=path,
            remedy=f"map one of {_listed(names)} to audio or text",
        )
    return taken


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names if name) or "your columns"


def _value(value: Any, kind: str, place: str, path: Path) -> Any:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind == "votes":
        return _votes(value, place, path)
    if kind in ("Float64", "seconds"):
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            rule = "it must be a number of seconds" if kind == "seconds" else "it must be a number"
            raise ManifestError(f"{place} is {value!r}", where=path, remedy=rule)
        return number
    if isinstance(value, (dict, list, tuple, bytes)):
        raise ManifestError(f"{place} is a {type(value).__name__}", where=path, remedy="it must be plain text")
    text = str(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ManifestError(f"{place} holds half a character", where=path, remedy="write the text anew") from error
    return text


def _votes(value: Any, place: str, path: Path) -> str:
    try:
        votes = json.loads(value) if isinstance(value, (str, bytes)) else value
        # Parquet gives every row the keys of all rows, with nothing where a row has none.
        counts = {str(label): count for label, count in votes.items() if count is not None}
        if not all(math.isfinite(count) and count >= 0 for count in counts.values()):
            raise ValueError(counts)
        return json.dumps(counts)
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise ManifestError(
            f"{place} is not a table of votes", where=path, remedy='it must be like {"happy": 2, "sad": 1}'
        ) from error


def _names(rows: list[Row]) -> list[str]:
    """Names by the sound file, with as much of its folder or row as makes them unique."""
    width = len(str(len(rows)))
    files = [Path(row["audio"]) if row.get("audio") else None for row in rows]
    counted = [f"row-{number:0{width}d}" for number in range(1, len(rows) + 1)]
    names = [row if file is None else file.stem for file, row in zip(files, counted, strict=True)]
    longer = [
        row if file is None else f"{file.parent.name}_{file.stem}" for file, row in zip(files, counted, strict=True)
    ]
    numbered = [row if file is None else f"{file.stem}_{row}" for file, row in zip(files, counted, strict=True)]
    for better in (longer, numbered, counted):
        often = Counter(names)
        names = [new if often[name] > 1 else name for name, new in zip(names, better, strict=True)]
    return names


def _read_delimited(path: Path) -> tuple[list[str], list[Row]]:
    text = path.read_bytes().decode("utf-8-sig")
    header = text.split("\n", 1)[0]
    # Spreadsheets of many countries write CSV with semicolons.
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if line]
    if not lines:
        raise ManifestError("the table is empty", where=path, remedy="add a header and rows")
    names = [name.strip() for name in lines[0]]
    for number, cells in enumerate(lines[1:], start=1):
        if len(cells) != len(names):
            raise ManifestError(
                f"row {number} has {len(cells)} cells where the header has {len(names)}",
                where=path,
                remedy="put cells that contain the separator into quotes",
            )
    return names, [dict(zip(names, cells, strict=True)) for cells in lines[1:]]


def _read_json_lines(path: Path) -> tuple[list[str], list[Row]]:
    rows: list[Row] = []
    names: dict[str, None] = {}
    lines = [line for line in path.read_bytes().decode("utf-8-sig").split("\n") if line.strip()]
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise ManifestError(f"row {number} is not a JSON object", where=path, remedy='write {"column": value}')
        rows.append(row)
        names.update(dict.fromkeys(row))
    return list(names), rows


def _read_parquet(path: Path) -> tuple[list[str], list[Row]]:
    import pyarrow.parquet

    # Opened here, since pyarrow takes some names for addresses.
    with path.open("rb") as file:
        table = pyarrow.parquet.read_table(file)
    return table.column_names, table.to_pylist()


_READERS: Mapping[str, Callable[[Path], tuple[list[str], list[Row]]]] = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}
