"""Damage in Parquet that pyarrow reads without a word, and in what it refuses, is one sentence of every reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emofuse.align.table import read_alignments
from emofuse.corpora import read_corpus
from emofuse.errors import EmofuseError
from emofuse.manifest import read_manifest
from emofuse.parquet import read_frame, read_parquet
from emofuse.scoring.table import read_scores

READERS: dict[str, Callable[[Path], object]] = {
    "corpus": lambda path: read_corpus("table", path),
    "manifest": read_manifest,
    "scores": read_scores,
    "alignments": read_alignments,
}


def bad_text(path: Path) -> None:
    """Bytes that are no UTF-8 in a column that says it is text."""
    buffers = pa.array(["so good", "so bad"]).buffers()
    text = pa.StringArray.from_buffers(2, buffers[1], pa.py_buffer(b"so \xff\xfe\x80 so bad!"))
    columns = ("utterance", "audio", "text", "label", "tier", "source", "happy", "sad")
    pq.write_table(pa.table(dict.fromkeys(columns, text)), path)


def bad_page(path: Path) -> None:
    pd.DataFrame({"text": ["a b"] * 50, "label": ["x"] * 50}).to_parquet(path, compression="zstd")
    raw = bytearray(path.read_bytes())
    raw[8:40] = bytes(32)
    path.write_bytes(raw)


def bad_pandas(path: Path) -> None:
    table = pa.table({"text": ["a"]}).replace_schema_metadata({"pandas": '{"columns": 3, "index_columns": [7]}'})
    pq.write_table(table, path)


@pytest.mark.parametrize("damage", [bad_text, bad_page])
@pytest.mark.parametrize("reader", READERS)
def test_damage_is_refused_in_one_sentence(reader: str, damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    damage(path)
    with pytest.raises(EmofuseError) as caught:
        READERS[reader](path)
    assert caught.value.where == str(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [bad_text, bad_page, bad_pandas])
def test_whatever_is_wrong_is_one_kind_of_error(damage: Callable[[Path], None], tmp_path: Path) -> None:
    damage(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        read_frame(tmp_path / "a.parquet")


def test_what_is_whole_is_read_as_pandas_reads_it(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, None], "c": ["é", None], "d": pd.array([1, None], "Int64")})
    frame.to_parquet(tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(read_frame(tmp_path / "a.parquet"), pd.read_parquet(tmp_path / "a.parquet"))


def test_a_small_file_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that say the same hundred kilobytes are a file of a few."""
    monkeypatch.setattr("emofuse.parquet._MOST", 1 << 26)
    table = pa.table({"text": pa.DictionaryArray.from_arrays(np.zeros(4000, np.int8), ["x" * 100_000])})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 1 << 17
    with pytest.raises(ValueError, match="would fill more than"):
        read_parquet(path)
