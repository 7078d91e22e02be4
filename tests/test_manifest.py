"""The manifest: its schema, its file, and errors that name row and column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from emofuse.align.run import align_manifest
from emofuse.errors import ManifestError, OutputError
from emofuse.experiment import prepare
from emofuse.manifest import (
    COLUMNS,
    check_place,
    make_manifest,
    one_spelling,
    parts,
    read_manifest,
    utterances,
    value_names,
    vote_fractions,
    write_manifest,
)
from emofuse.protocols import make_protocol
from emofuse.settings import ProtocolSettings

ROWS: list[dict[str, Any]] = [
    {"utterance": "a", "audio": "/x/a.wav", "start": 0.5, "end": 1.25, "duration": 0.75, "label": "happy"},
    {"utterance": "b", "text": "Ähm, naïve “quotes”, 日本", "speaker": "01", "votes": '{"sad": 2}'},
]


def test_all_columns_are_there_with_their_types() -> None:
    manifest = make_manifest(ROWS, source="rows")
    assert list(manifest.columns) == list(COLUMNS)
    assert {name: str(kind) for name, kind in manifest.dtypes.items()} == dict(COLUMNS)
    assert manifest.loc[0, "end"] == 1.25
    assert manifest.loc[1, ["audio", "start", "label"]].isna().all()


def test_round_trip(tmp_path: Path) -> None:
    manifest = make_manifest(ROWS, source="rows")
    path = tmp_path / "new" / "folder" / "manifest.parquet"
    write_manifest(manifest, path)
    pd.testing.assert_frame_equal(read_manifest(path), manifest)
    assert [entry.name for entry in path.parent.iterdir()] == ["manifest.parquet"]


def test_values_of_any_name_stand_beside_the_fixed_columns(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "values.valence": 2, "values.belief": -1.5}, {**ROWS[1], "values.belief": None}]
    manifest = make_manifest(rows, source="rows")
    assert list(manifest.columns) == [*COLUMNS, "values.valence", "values.belief"]
    assert manifest["values.belief"].dtype == "Float64"
    assert value_names(manifest) == ("valence", "belief")
    write_manifest(manifest, tmp_path / "manifest.parquet")
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "manifest.parquet"), manifest)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    write_manifest(make_manifest(ROWS, source="rows"), path)
    write_manifest(make_manifest(ROWS[1:], source="rows"), path)
    assert read_manifest(path)["utterance"].tolist() == ["b"]


def test_utterances_hold_plain_values() -> None:
    first, second = utterances(make_manifest(ROWS, source="rows"))
    assert (first.audio, first.start, first.end, first.text) == (Path("/x/a.wav"), 0.5, 1.25, None)
    assert (second.audio, second.start, second.end) == (None, 0.0, None)
    assert (second.text, second.speaker, second.label) == ("Ähm, naïve “quotes”, 日本", "01", None)


def test_the_word_nan_is_a_word() -> None:
    manifest = make_manifest([{"utterance": "a", "text": "nan"}, {"utterance": "b", "text": "None"}], source="rows")
    assert [utterance.text for utterance in utterances(manifest)] == ["nan", "None"]


@pytest.mark.parametrize(
    ("change", "column", "shown"),
    [
        pytest.param({"utterance": None}, "utterance", "empty", id="no name"),
        pytest.param({"utterance": " "}, "utterance", "' '", id="blank name"),
        pytest.param({"utterance": "a"}, "utterance", "'a'", id="same name"),
        pytest.param({"text": None}, "audio", "empty", id="neither audio nor text"),
        pytest.param({"label": ""}, "label", "''", id="blank label"),
        pytest.param({"start": -0.1}, "start", "-0.1", id="negative start"),
        pytest.param({"start": "soon"}, "start", "'soon'", id="start in words"),
        pytest.param({"start": 2.0, "end": 2.0}, "end", "2.0", id="end at start"),
        pytest.param({"end": 0}, "end", "0", id="end at zero"),
        pytest.param({"duration": 0}, "duration", "0", id="no duration"),
        pytest.param({"duration": "1,5"}, "duration", "'1,5'", id="decimal comma"),
        pytest.param({"values.belief": "high"}, "values.belief", "'high'", id="value in words"),
        pytest.param({"values.belief": float("inf")}, "values.belief", "inf", id="endless value"),
        pytest.param({"gender": "F"}, "gender", "'F'", id="gender in short"),
    ],
)
def test_an_error_names_row_and_column(change: dict[str, Any], column: str, shown: str) -> None:
    with pytest.raises(ManifestError) as caught:
        make_manifest([ROWS[0], {**ROWS[1], **change}], source="mine.csv")
    assert caught.value.where == "mine.csv"
    assert caught.value.what.startswith(f"row 2, column {column!r} is ")
    assert shown in caught.value.what
    assert caught.value.remedy


@pytest.mark.parametrize("kind", ["missing", "not Parquet", "empty", "cut short", "folder", "no rows"])
def test_a_bad_file_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "manifest.parquet"
    if kind == "not Parquet":
        path.write_text("utterance,text\na,hello\n")
    elif kind == "empty":
        path.touch()
    elif kind == "cut short":
        write_manifest(make_manifest(ROWS, source="rows"), path)
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "folder":
        path.mkdir()
    elif kind == "no rows":
        make_manifest(ROWS, source="rows").iloc[:0].to_parquet(path)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["mood", "values.", "values. mood"])
def test_an_unknown_column_is_named(name: str) -> None:
    with pytest.raises(ManifestError, match=f"{name!r} is not a manifest column"):
        make_manifest([{"utterance": "a", "text": "hello", name: 1}], source="rows")


def test_a_missing_column_of_a_file_is_filled(tmp_path: Path) -> None:
    pd.DataFrame({"utterance": ["a"], "text": ["hello"]}).to_parquet(tmp_path / "m.parquet")
    assert list(read_manifest(tmp_path / "m.parquet").columns) == list(COLUMNS)


@pytest.mark.parametrize("column", ["label", "speaker", "session", "dialogue", "script", "language"])
@pytest.mark.parametrize(
    "other", ["Zoë ", "Zoe\u0308", "ZOË", "Zo\u200bë", "\u200eZoë", "Zoë\u202c", "\uff3aoë", "Zoë\u00a0"]
)
def test_one_name_spelt_in_two_ways_is_refused_or_made_one(column: str, other: str) -> None:
    rows = [{"utterance": str(at), "text": "so", column: value} for at, value in enumerate(["Zoë", other, "Zoë"])]
    with pytest.raises(ManifestError, match=rf"row 2, column '{column}' is .*spelt 'Zoë'"):
        make_manifest(rows, source="rows")
    frame, notes = one_spelling(pd.DataFrame(rows))
    assert make_manifest(frame, source="rows")[column].tolist() == ["Zoë"] * 3
    assert [note.partition(" is also spelt ")[0] for note in notes] == [f"{column} 'Zoë'"]


def test_votes_are_for_labels_as_they_are_spelt() -> None:
    votes = ['{"Happy ": 2, "happy": 1, "SAD": 1}', None, "broken", '{"dull": 1}']
    rows = [{"utterance": str(at), "text": "so", "label": "happy", "votes": one} for at, one in enumerate(votes)]
    frame, _ = one_spelling(pd.DataFrame(rows), known=["sad"])
    assert json.loads(frame.loc[0, "votes"]) == {"happy": 3, "sad": 1}
    assert frame["votes"].tolist()[2:] == votes[2:]


def test_utterances_that_differ_by_spaces_are_refused() -> None:
    with pytest.raises(ManifestError, match="row 2, column 'utterance' is 'a '"):
        make_manifest([{"utterance": "a", "text": "x"}, {"utterance": "a ", "text": "y"}], source="rows")


@pytest.mark.parametrize("value", [["a"], {"a": 1}, b"a", ("a",)])
def test_nested_values_are_no_text(tmp_path: Path, value: object) -> None:
    with pytest.raises(ManifestError, match=r"row 1, column 'text'.*plain text"):
        make_manifest([{"utterance": "a", "text": value}], source="rows")


def test_settings_may_spell_labels_in_their_own_way() -> None:
    rows = [
        {"utterance": str(at), "text": "so", "label": label, "speaker": str(at % 4), "votes": f'{{"{label}": 1}}'}
        for at, label in enumerate(["excited", "Happy", "sad"] * 4)
    ]
    manifest = make_manifest(rows, source="rows")
    settings = ProtocolSettings(kind="speaker", labels=("HAPPY", " sad"), merge={"Excited": "happy "})
    protocol = make_protocol(manifest, settings)
    assert protocol.classes == ("Happy", "sad")
    assert set(protocol.labels.values()) == {"Happy", "sad"}
    fractions = vote_fractions(manifest, protocol.classes, merge=settings.merge)
    assert fractions["0"] == fractions["1"] == (1.0, 0.0)


@pytest.mark.parametrize("ending", [".csv", ".xlsx", ".jsonl", ".txt"])
def test_a_manifest_is_written_as_its_ending_says_or_refused(tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"out{ending}"
    with pytest.raises(OutputError, match="cannot be written as"):
        check_place(out)
    corpus = tmp_path / "t.csv"
    corpus.write_text("text,label\nhi,sad\n")
    with pytest.raises(OutputError, match="cannot be written as"):
        prepare("table", corpus, out)
    with pytest.raises(OutputError, match="cannot be written as"):
        align_manifest(make_manifest(ROWS, source="rows"), out)
    assert not out.exists()


def test_no_other_file_is_written_over(tmp_path: Path) -> None:
    corpus, out = tmp_path / "t.csv", tmp_path / "m.parquet"
    corpus.write_text("utterance,text,label\na,hi,sad\n")
    prepare("table", corpus, out)
    prepare("table", corpus, out)
    before = out.read_bytes()
    corpus.write_text("utterance,text,label,corpus\nb,hi,sad,mine\n")
    with pytest.raises(ManifestError, match="the manifest of table"):
        prepare("table", corpus, out)
    corpus.write_text("utterance,text,label\nc,hi,sad\n")
    with pytest.raises(ManifestError, match="other utterances"):
        prepare("table", corpus, out)
    assert out.read_bytes() == before
    pd.DataFrame({"utterance": ["a"], "happy": [1.0]}).to_parquet(out)
    with pytest.raises(ManifestError, match="no manifest"):
        prepare("table", corpus, out)


def test_several_corpora_are_parts_by_themselves() -> None:
    rows = [
        {"utterance": name, "corpus": corpus, "text": "so", "script": "impro1"}
        for name, corpus in (("a", "one"), ("b", "two"))
    ]
    assert parts(make_manifest(rows, source="this test")) == {"a": "one", "b": "two"}
    assert parts(make_manifest(rows[:1], source="this test")) == {"a": "improvised"}
