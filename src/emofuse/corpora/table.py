"""The user's own corpus, as a table: CSV, TSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from emofuse.corpora.card import CorpusCard, Listing, Row
from emofuse.delimited import WINDOWS, decoded, numbers, split_rows
from emofuse.errors import ManifestError
from emofuse.files import stand_in
from emofuse.inputs import nearest
from emofuse.names import key, tidy
from emofuse.parquet import read_parquet

CARD = CorpusCard(
    name="table",
    title="your own table",
    languages=(),
    modalities=("speech", "text"),
    labels=(),
    licence="yours",
    where="it may be CSV, TSV, JSON lines or Parquet with a column audio, text or both",
    citation="yours",
    note="columns with the manifest's names are taken, as are numbers in columns values.NAME; others can be mapped to "
    "them, and the rest are ignored",
)


def read(root: Path, columns: Mapping[str, str] | None = None) -> Listing:
    r"""List the rows of a table, with recordings relative to the table's folder.

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
    from emofuse.manifest import COLUMNS, SECONDS, kind_of_column

    path = _find(root)
    notes: list[str] = []
    try:
        if instead := stand_in(path):
            raise ManifestError(instead[0], where=path, remedy=instead[1])
        names, table = _READERS[path.suffix.lower()](path, notes)
    except ManifestError:
        raise
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
    values = [name for name in (*map(_valued, names), *(columns or {})) if kind_of_column(name) and name not in COLUMNS]
    taken = _taken(names, columns or {}, tuple(dict.fromkeys((*COLUMNS, *values))), path)
    kinds = {column: kind_of_column(column) or "" for column in taken}
    kinds |= {**dict.fromkeys(SECONDS, "seconds"), "votes": "votes", "gender": "gender"}
    if "label" in taken:
        _check_labels(table, taken["label"], path)
    for column, theirs in taken.items():
        if kinds[column] in ("Float64", "seconds"):
            notes += _to_numbers(table, theirs)
    rows = []
    folders: dict[str, dict[str, list[str]]] = {}
    for number, cells in enumerate(table, start=1):
        row = {
            column: _value(cells.get(theirs), kinds[column], f"row {number}, column {theirs!r}", path)
            for column, theirs in taken.items()
        }
        if row.get("audio") is not None:
            row["audio"] = _sound(path.parent, row["audio"], folders)
        row["corpus"] = row.get("corpus") or CARD.name
        rows.append(row)
    if gender := taken.get("gender"):
        given = [_value(cells.get(gender), "string", f"column {gender!r}", path) for cells in table]
        odd = [one for one, row in zip(given, rows, strict=True) if one is not None and row["gender"] is None]
        if odd:
            notes.append(f"{len(odd)} genders are left out, as neither female nor male, such as {odd[0]!r}")
    if "utterance" not in taken:
        rows = [{"utterance": name, **row} for name, row in zip(_names(rows), rows, strict=True)]
    return Listing(rows=rows, source=path, notes=tuple(notes))


def _valued(name: str) -> str:
    """The manifest's spelling of a value column."""
    from emofuse.manifest import VALUES

    plain = tidy(name)
    return VALUES + plain[len(VALUES) :] if plain.lower().startswith(VALUES) else name


def _check_labels(table: list[Row], column: str, path: Path) -> None:
    """Refuse labels that are all numbers: they may be classes or a value to predict."""
    cells = [cell for row in table if (cell := row.get(column)) is not None and str(cell).strip()]
    plain = [str(cell) for cell in cells if not isinstance(cell, bool)]
    if plain and not any(map(math.isnan, numbers(plain)[0])):
        raise ManifestError(
            f"column {column!r} has only numbers as labels, such as {cells[0]!r}, which may be classes or a value",
            where=path,
            remedy="write classes as words, such as 'class 3', or name the column values.NAME to predict its value "
            f"(--column values.NAME={column})",
        )


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
    """The table's column for each manifest column."""
    for column, theirs in columns.items():
        if column not in known:
            raise ManifestError(f"{column!r} is not a manifest column", where=path, remedy=nearest(column, known))
        if key(theirs) not in map(key, names):
            raise ManifestError(
                f"there is no column {theirs!r} for {column!r}",
                where=path,
                remedy=nearest(theirs, [name for name in names if name]) if any(names) else "name your columns",
            )
    # An exact name precedes one that differs by case, spaces or Unicode form.
    spelt = {key(name): name for name in reversed(names)} | {name: name for name in names}
    wanted = {column: columns.get(column, column) for column in known}
    taken = {
        column: spelt.get(theirs) or spelt[key(theirs)]
        for column, theirs in wanted.items()
        if theirs in spelt or key(theirs) in spelt
    }
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
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str) and not value.strip():
        return None
    if kind == "votes":
        return _votes(value, place, path)
    if kind == "gender":
        return _GENDERS.get(key(str(value)))
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
    # A column of whole numbers with a gap holds floats.
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ManifestError(f"{place} holds half a character", where=path, remedy="write the text again") from error
    return text


_GENDERS = {"female": "female", "f": "female", "woman": "female", "male": "male", "m": "male", "man": "male"}


def _votes(value: Any, place: str, path: Path) -> str:
    try:
        votes = json.loads(value) if isinstance(value, (str, bytes)) else value
        # Parquet gives every row the keys of all rows, None where it has none.
        counts = {str(label): count for label, count in votes.items() if count is not None}
        if not all(math.isfinite(count) and count >= 0 for count in counts.values()):
            raise ValueError(counts)
        return json.dumps(counts)
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise ManifestError(
            f"{place} is not a table of votes", where=path, remedy='it must be like {"happy": 2, "sad": 1}'
        ) from error


def _names(rows: list[Row]) -> list[str]:
    """Names by recording, with its folder or row where needed to be unique."""
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


def _to_numbers(table: list[Row], column: str) -> list[str]:
    """Convert text to numbers, and note decimal commas."""
    written = [cells for cells in table if isinstance(cells.get(column), str)]
    values, decimal = numbers(cells[column] for cells in written)
    for cells, value in zip(written, values, strict=True):
        if not math.isnan(value):
            cells[column] = value
    return [f"commas in column {column!r} are read as decimal marks"] if decimal else []


def _sound(folder: Path, cell: str, folders: dict[str, dict[str, list[str]]]) -> str:
    """The file of a cell: as written, else with Windows' separators, or in another spelling."""
    named = cell if os.path.exists(folder / os.path.expanduser(cell)) else cell.replace("\\", "/")
    path = os.path.abspath(folder / os.path.expanduser(named))
    if os.path.exists(path):
        return path
    place, name = os.path.split(path)
    if place not in folders:
        try:
            there = os.listdir(place)
        except (OSError, ValueError):
            there = []
        folders[place] = {}
        for one in there:
            folders[place].setdefault(key(one), []).append(one)
    alike = folders[place].get(key(name), [])
    return os.path.join(place, alike[0]) if len(alike) == 1 else os.path.abspath(folder / os.path.expanduser(cell))


def _text(path: Path, notes: list[str]) -> str:
    try:
        text, encoding = decoded(path.read_bytes())
    except ValueError as error:
        raise ManifestError("the table is not text", where=path, remedy="save it again as UTF-8") from error
    if encoding == "cp1252":
        notes.append(WINDOWS)
    return text


def _read_delimited(path: Path, notes: list[str]) -> tuple[list[str], list[Row]]:
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    found = split_rows(_text(path, notes), usual=usual)
    if not found.header:
        raise ManifestError("the table is empty", where=path, remedy="add a header and rows")
    if found.separator != usual:
        notes.append(found.note)
    names = [tidy(name) for name in found.header]
    for number, (_, cells) in enumerate(found.rows, start=1):
        if len(cells) != len(names):
            raise ManifestError(
                f"row {number} has {len(cells)} cells where the header has {len(names)}",
                where=path,
                remedy="put cells that contain the separator into quotes",
            )
    return names, [dict(zip(names, cells, strict=True)) for _, cells in found.rows]


def _read_json_lines(path: Path, notes: list[str]) -> tuple[list[str], list[Row]]:
    rows: list[Row] = []
    names: dict[str, None] = {}
    lines = [line for line in _text(path, notes).split("\n") if line.strip()]
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


def _read_parquet(path: Path, notes: list[str]) -> tuple[list[str], list[Row]]:
    table = read_parquet(path)
    return table.column_names, table.to_pylist()


_READERS: Mapping[str, Callable[[Path, list[str]], tuple[list[str], list[Row]]]] = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}
