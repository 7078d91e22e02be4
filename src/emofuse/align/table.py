"""The alignments of a corpus as one Parquet table, one row per segment."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from emofuse.errors import AlignmentError
from emofuse.files import written_atomically
from emofuse.parquet import read_frame, read_parquet
from emofuse.types import TIERS, Alignment, Segment, Tier

COLUMNS: Mapping[str, str] = {
    "utterance": "string",
    "tier": "string",
    "start": "Float64",
    "end": "Float64",
    "label": "string",
    "source": "string",
    "problem": "string",
    "note": "string",
}
"""Columns of the table and their types. Times are seconds from the beginning of the utterance. An utterance without
segments has one row without tier, a tier without segments one row without times; `problem` states why, and `note` why
segments are doubtful."""

_KEYS = "emofuse.keys"
_REMEDY = "make it again with `emofuse align`"


def write_alignments(alignments: Iterable[Alignment], path: Path, *, keys: Mapping[str, str] | None = None) -> None:
    """Write alignments as Parquet, atomically.

    Args:
        alignments: One for each utterance.
        path: The table.
        keys: Cache key of each utterance, for `read_keys`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "alignments.parquet"
        >>> word = Segment(start=0.1, end=0.4, label="hello")
        >>> write_alignments([Alignment(utterance="a", tiers={"word": (word,)}, source="sphinx")], path)
        >>> read_alignments(path)["a"].tiers["word"]
        (Segment(start=0.1, end=0.4, label='hello'),)
    """
    import pyarrow as pa
    import pyarrow.parquet

    rows = [row for alignment in alignments for row in _rows(alignment)]
    columns = {name: [row[place] for row in rows] for place, name in enumerate(COLUMNS)}
    kinds = [pa.float64() if kind == "Float64" else pa.string() for kind in COLUMNS.values()]
    table = pa.table(columns, schema=pa.schema(list(zip(COLUMNS, kinds, strict=True))))
    if keys is not None:
        table = table.replace_schema_metadata({_KEYS: json.dumps(dict(keys))})
    with written_atomically(path) as part, part.open("wb") as file:
        pyarrow.parquet.write_table(table, file)


def _rows(alignment: Alignment) -> list[tuple[Any, ...]]:
    name, about = alignment.utterance, (alignment.source, alignment.problem, alignment.note)
    rows: list[tuple[Any, ...]] = []
    for tier, segments in alignment.tiers.items():
        rows += [(name, tier, segment.start, segment.end, segment.label, *about) for segment in segments]
        if not segments:
            rows.append((name, tier, None, None, None, *about))
    return rows or [(name, None, None, None, None, *about)]


def read_alignments(path: Path) -> dict[str, Alignment]:
    """Read and check a table of alignments.

    Returns:
        Alignments by utterance, in the table's order.

    Raises:
        AlignmentError: The file is absent or not Parquet, or a row breaks the schema.
    """
    frame = _frame(path)
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise AlignmentError(f"column {missing[0]!r} is missing", where=path, remedy=_REMEDY)
    tiers: dict[str, dict[Tier, list[Segment]]] = {}
    about: dict[str, tuple[str, str | None, str | None]] = {}
    columns = [frame[name].astype("object").where(frame[name].notna(), None) for name in COLUMNS]
    for number, row in enumerate(zip(*columns, strict=True), start=1):
        name, tier, start, end, label, source, problem, note = row
        given = (source, problem, note)
        wrong = _wrong(*row) or (name in about and about[name] != given and "another source, problem or note")
        if not wrong and start is not None:
            before = tiers.get(name, {}).get(tier, [])
            wrong = "a segment that begins before the one above it" if before and start < before[-1].start else ""
        if wrong:
            raise AlignmentError(f"row {number} has {wrong}", where=path, remedy=_REMEDY)
        about[name] = given
        own = tiers.setdefault(name, {})
        if tier is not None:
            segments = own.setdefault(tier, [])
            if start is not None:
                segments.append(Segment(start=float(start), end=float(end), label=label))
    return {
        name: Alignment(
            utterance=name,
            tiers={tier: tuple(segments) for tier, segments in own.items()},
            source=about[name][0],
            problem=about[name][1],
            note=about[name][2],
        )
        for name, own in tiers.items()
    }


def read_keys(path: Path) -> dict[str, str]:
    """Cache keys of utterances, as given to `write_alignments`; empty without them.

    Raises:
        AlignmentError: The file is absent or not Parquet.
    """
    try:
        keys = json.loads((read_parquet(path).schema.metadata or {}).get(_KEYS.encode(), b"{}"))
    except (ValueError, RecursionError) as error:
        raise AlignmentError("this is not a table of alignments", where=path, remedy=_REMEDY) from error
    return {str(name): str(key) for name, key in keys.items()} if isinstance(keys, dict) else {}


def _frame(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise AlignmentError("no such table of alignments", where=path, remedy="make it with `emofuse align`")
    try:
        return read_frame(path)
    except ValueError as error:
        raise AlignmentError("this is not a Parquet table", where=path, remedy=_REMEDY) from error


def _wrong(name: Any, tier: Any, start: Any, end: Any, label: Any, source: Any, problem: Any, note: Any) -> str:
    """What is wrong with a single row; empty if nothing is."""
    if not isinstance(name, str) or not name.strip():
        return "no name in column 'utterance'"
    if tier is not None and tier not in TIERS:
        return f"{tier!r} in column 'tier', which is none of {', '.join(TIERS)}"
    if not isinstance(source, str) or not source:
        return "nothing in column 'source'"
    if problem is not None and not isinstance(problem, str):
        return f"{problem!r} in column 'problem'"
    if note is not None and not isinstance(note, str):
        return f"{note!r} in column 'note'"
    if start is None and end is None and label is None:
        return ""
    if tier is None or not isinstance(label, str):
        return "a segment without tier or label"
    if not _is_time(start) or not _is_time(end) or end < start:
        return f"the times {start} to {end}, which must be seconds in order"
    return ""


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
