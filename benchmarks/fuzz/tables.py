"""Tables of utterances in every dialect, through `read_corpus("table")`."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.fuzz.contract import Kind, check_errors, require
from benchmarks.fuzz.damage import WORDS, spoiled, spoiled_text, spoiled_value

from emofuse.corpora import read_corpus
from emofuse.manifest import COLUMNS, check_manifest, read_manifest, write_manifest

_CELLS = {
    "utterance": ("u1", "u2", "a b", "ä", "0123"),
    "audio": ("a.wav", "none.wav", "folder", "http://x/y.wav", "~/x.wav"),
    "text": ("Oh no!", "It is, so", 'She said "no"', "línea\nnueva", "Привет", "ok"),
    "label": ("happy", "Happy", " sad", "sad", "neutral", "e\u0301", "\u00e9"),
    "speaker": ("s1", "S1", "s1 ", "1", "01", "1.0", "NA"),
    "start": ("0", "0.1", "0,1", "1e-3", "2.5"),
    "end": ("0.2", "0,25", "3", "", "9"),
    "votes": ('{"happy": 2}', '{"sad": 1, "happy": 1}', "{}", "happy"),
    "session": ("1", "2"),
    "dialogue": ("d1", "d2"),
    "script": ("x", ""),
    "language": ("en", "de", "xx"),
}


def _rows(chance: Random) -> list[dict[str, str]]:
    names = chance.sample(sorted(_CELLS), chance.randint(1, 7))
    if chance.random() < 0.9 and "text" not in names:
        names.append("text")
    if chance.random() < 0.3:
        names.append(chance.choice((*WORDS[:40], "Text", "text ", "TEXT", "audio_file", "corpus", "text")))
    count = chance.choice((0, 1, 2, 5, 30))
    rows = [
        {name: chance.choice(_CELLS.get(name, WORDS) if chance.random() < 0.95 else WORDS) for name in names}
        for _ in range(count)
    ]
    if "utterance" in names and chance.random() < 0.8:
        for number, row in enumerate(rows):
            row["utterance"] = f"u{number}"
    return rows or [dict.fromkeys(names, "")][:count] or [dict.fromkeys(names, "a")]


def _delimited(rows: list[dict[str, str]], chance: Random) -> bytes:
    out = io.StringIO()
    quoting = chance.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))
    writer = csv.writer(
        out, delimiter=chance.choice(",,,;;\t|: "), quoting=quoting, quotechar=chance.choice("\"\"\"'"),
        lineterminator=chance.choice(("\n", "\n", "\r\n", "\r")), doublequote=chance.random() < 0.9, escapechar="\\",
    )  # fmt: skip
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    text = out.getvalue()
    if chance.random() < 0.15:
        text = chance.choice(("sep=;\n", "# made by hand\n", "\n\n", "\ufeff", "\0")) + text
    if chance.random() < 0.5:
        encoding = chance.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252", "utf-32"))
        return text.encode(encoding, errors="replace")
    return spoiled_text(text, chance)


def _json_lines(rows: list[dict[str, str]], chance: Random) -> bytes:
    votes = {cell: json.loads(cell) for cell in _CELLS["votes"] if cell.startswith("{")}
    loose = [{name: votes.get(cell, cell) for name, cell in row.items()} for row in rows]
    if chance.random() < 0.5:
        at = chance.randrange(len(loose))
        loose[at] = spoiled_value(loose[at], chance)
    text = "".join(json.dumps(row, ensure_ascii=chance.random() < 0.5) + "\n" for row in loose)
    if chance.random() < 0.4:
        return spoiled_text(text, chance)
    return text.encode("utf-8", errors="surrogatepass")


def _parquet(rows: list[dict[str, str]], chance: Random) -> bytes:
    columns: dict[str, Any] = {}
    for name in rows[0]:
        cells: list[Any] = [row[name] for row in rows]
        if chance.random() < 0.4:
            made: tuple[Any, ...] = (
                1, 1.5, float("nan"), True, b"\xff", datetime.date(2020, 1, 1), decimal.Decimal("1.5"), [1],
                {"happy": 2}, {"a": [{"b": 1}]}, datetime.datetime(2300, 1, 1, tzinfo=datetime.timezone.utc), 2**62,
                None,
            )  # fmt: skip
            cells = [chance.choice(made)] * len(cells)
        columns[name] = cells
    try:
        table = pa.table(columns)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        table = pa.table({name: [str(cell) for cell in cells] for name, cells in columns.items()})
    if chance.random() < 0.2:
        table = table.append_column(table.column_names[0], table.column(0))
    out = io.BytesIO()
    pq.write_table(table, out, compression=chance.choice(("none", "snappy", "zstd", "gzip")))
    raw = out.getvalue()
    if chance.random() < 0.3:
        # The footer is where all is described.
        return raw[:-300] + spoiled(raw[-300:], chance)
    return spoiled(raw, chance) if chance.random() < 0.4 else raw


_WRITERS = {"csv": _delimited, "tsv": _delimited, "jsonl": _json_lines, "ndjson": _json_lines, "parquet": _parquet}


class Tables(Kind):
    """The user's own corpus."""

    name = "tables"

    def make(self, chance: Random, seeds: Path, case: Path) -> dict[str, Any]:
        """Rows of likely and unlikely cells, written in one dialect and mostly damaged."""
        ending = chance.choice(("csv", "csv", "csv", "tsv", "jsonl", "ndjson", "parquet", "parquet"))
        content = _WRITERS[ending](_rows(chance), chance)
        if chance.random() < 0.05:
            ending = chance.choice(sorted(_WRITERS))
        (case / f"table.{ending}").write_bytes(content)
        columns = {} if chance.random() < 0.8 else {chance.choice(sorted(COLUMNS)): chance.choice(sorted(_CELLS))}
        return {"columns": columns, "partial": chance.random() < 0.7}

    def ask(self, place: Path, parameters: dict[str, Any]) -> None:
        """Read it, check what was read, and read that again from its own file."""
        (path,) = place.iterdir()
        corpus = read_corpus("table", path, partial=parameters["partial"], columns=parameters["columns"])
        check_errors(corpus.skipped)
        require(all(isinstance(note, str) for note in corpus.notes), f"notes are {corpus.notes}")
        require(len(corpus.manifest) > 0, "the manifest is empty")
        check_manifest(corpus.manifest, source=path)
        write_manifest(corpus.manifest, place / "manifest.parquet")
        again = read_manifest(place / "manifest.parquet")
        pd.testing.assert_frame_equal(again, corpus.manifest)
