"""Corpora: publishers' layouts in miniature, published counts, tables of the user's own, and the real recordings."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emofuse.corpora import CORPORA, Corpus, CorpusCard, read_corpus
from emofuse.errors import AudioError, EmofuseError, ManifestError
from emofuse.manifest import COLUMNS as MANIFEST_COLUMNS
from emofuse.manifest import check_manifest

SHARED = Path(__file__).parents[2] / "shared" / "data"
CARDS = list(CORPORA.values())


def make_audio(path: Path, *, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(0).standard_normal(round(16000 * seconds))
    form, subtype = ("OGG", "OPUS") if path.suffix == ".opus" else (None, None)
    soundfile.write(path, samples, 16000, format=form, subtype=subtype)
    return path


def row(corpus: Corpus, utterance: str) -> dict[str, object]:
    manifest = corpus.manifest.set_index("utterance")
    values = manifest.loc[utterance]
    return {str(name): value for name, value in values.items() if not pd.isna(value)}


# Cards


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_agrees_with_itself(card: CorpusCard) -> None:
    assert CORPORA[card.name] is card
    assert set(card.modalities) <= {"speech", "text"}
    for column, counts in card.counts.items():
        assert sum(counts.values()) == card.utterances, column
    if "label" in card.counts:
        assert set(card.counts["label"]) == set(card.labels)
    if card.speakers and "speaker" in card.counts:
        assert len(card.counts["speaker"]) == card.speakers


def test_differences_name_what_is_counted() -> None:
    counts = {"label": {"a+b": 2, "none": 1}, "session+label": {"1+a+b": 2, "1+none": 1}}
    card = replace(CORPORA["table"], utterances=3, counts=counts)
    whole = [{"session": "1", "label": "a+b"}, {"session": "1", "label": "a+b"}, {"session": "1", "label": None}]
    assert card.differences(whole) == ""
    assert card.differences(whole[1:]) == (
        "found 2 of 3 utterances (label a+b: 1 of 2, session 1 and label a+b: 1 of 2)"
    )


def test_cards_are_listed_without_pandas() -> None:
    code = "import sys, emofuse.corpora as c; print(len(c.CORPORA), 'pandas' in sys.modules, 'av' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(CORPORA)), "False", "False"]


def test_an_unknown_corpus_is_met_with_its_neighbour() -> None:
    with pytest.raises(ManifestError, match="did you mean ravdess"):
        read_corpus("ravdes", "anywhere")
    with pytest.raises(ManifestError, match=r"use one of iemocap, msp-improv, .*, goemotions, paired, table"):
        read_corpus("xyz", "anywhere")


@pytest.mark.parametrize("name", [name for name in CORPORA if name != "table"])
@pytest.mark.parametrize("kind", ["empty", "missing", "file"])
def test_a_folder_without_the_corpus_says_how_to_get_it(tmp_path: Path, name: str, kind: str) -> None:
    root = tmp_path / kind
    if kind == "empty":
        root.mkdir()
    elif kind == "file":
        root.touch()
    with pytest.raises(ManifestError) as caught:
        read_corpus(name, root, partial=True)
    assert caught.value.where == str(root)
    assert CORPORA[name].where in caught.value.remedy


# RAVDESS


@pytest.mark.parametrize("nesting", ["Actor_{}", "audio_speech_actors_01-24/Actor_{}", "ravdess/{}"])
@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_ravdess_layouts(tmp_path: Path, nesting: str, ending: str) -> None:
    folder = tmp_path / nesting.format("07")
    clip = make_audio(folder / f"03-01-08-02-02-01-07.{ending}")
    make_audio(folder / f"03-02-08-02-02-01-07.{ending}")  # Song.
    make_audio(folder / "03-01-09-02-02-01-07.wav")  # No such emotion.
    (folder / "01-01-08-02-02-01-07.mp4").touch()  # Video.
    corpus = read_corpus("ravdess", tmp_path, partial=True)
    assert len(corpus.manifest) == 1
    assert row(corpus, "03-01-08-02-02-01-07") == {
        "corpus": "ravdess",
        "audio": str(clip),
        "duration": 0.5,
        "text": "Dogs are sitting by the door",
        "text_source": "reference",
        "language": "en",
        "label": "surprised",
        "speaker": "07",
        "gender": "male",
        "script": "02",
    }


def test_ravdess_with_every_clip_twice(tmp_path: Path) -> None:
    # As in the copy that is most often downloaded.
    for nesting in ("", "audio_speech_actors_01-24/"):
        make_audio(tmp_path / f"{nesting}Actor_01" / "03-01-01-01-01-01-01.wav")
    corpus = read_corpus("ravdess", tmp_path, partial=True)
    assert len(corpus.manifest) == 1
    assert any("1 recording is there more than once" in note for note in corpus.notes)


@pytest.mark.parametrize(
    ("name", "place", "clips"),
    [
        ("ravdess", "Actor_01", ("03-01-01-01-01-01-01", "03-01-02-01-01-01-01", "03-01-03-01-01-01-01")),
        ("emodb", "wav", ("03a01Fa", "03a01Wa", "03a01Na")),
        ("nemo", "samples", ("EB0_anger_1", "EB0_fear_1", "EB0_neutral_1")),
        ("crema-d", "AudioWAV", ("1001_DFA_ANG_XX", "1001_DFA_SAD_XX", "1001_DFA_HAP_XX")),
        ("aesdd", "anger", ("a01 (1)", "a01 (2)", "a02 (01)")),
        ("emovo", "f1", ("dis-f1-b1", "gio-f1-b1", "neu-f1-n5")),
    ],
)
def test_endings_may_be_mixed_and_in_capitals(
    tmp_path: Path, name: str, place: str, clips: tuple[str, str, str]
) -> None:
    for clip, ending in zip(clips, (".wav", ".WAV", ".Flac"), strict=True):
        make_audio(tmp_path / place / f"{clip}{ending}")
    if name == "nemo":
        table = [f"{clip}.wav\t{clip.split('_')[1]}\tA.\ta\tEB0\tfemale\t27\n" for clip in clips]
        (tmp_path / "data.tsv").write_text(NEMO_HEADER + "".join(table))
    once = read_corpus(name, tmp_path, partial=True)
    assert set(once.manifest["utterance"]) == set(clips)
    assert not any("more than once" in note for note in once.notes)
    make_audio(tmp_path / place / f"{clips[1]}.opus")
    twice = read_corpus(name, tmp_path, partial=True)
    pd.testing.assert_frame_equal(twice.manifest, once.manifest)
    assert f"1 recording is there more than once, such as {clips[1]}.WAV and {clips[1]}.opus" in str(twice.notes)


def test_names_of_aesdd_and_emovo_say_all_about_a_clip(tmp_path: Path) -> None:
    for place in ("aesdd/fear/f10 (01).wav", "aesdd/disgust/d01 (5)b.wav", "emovo/m2/tri-m2-l3.wav"):
        make_audio(tmp_path / place)
    make_audio(tmp_path / "emovo/m2/tri-m2.wav")
    found = [read_corpus(name, tmp_path, partial=True).manifest for name in ("aesdd", "emovo")]
    columns = ["utterance", "label", "speaker", "script", "language", "gender"]
    rows = pd.concat(found)[columns].astype("object")
    assert rows.where(rows.notna(), None).to_numpy().tolist() == [
        ["d01 (5)b", "disgust", "5", "01", "el", None],
        ["f10 (01)", "fearful", "1", "10", "el", None],
        ["tri-m2-l3", "sad", "m2", "l3", "it", "male"],
    ]


def whole_ravdess(root: Path) -> list[Path]:
    """Every file name of RAVDESS, one recording under them all."""
    source = make_audio(root / "source.flac", seconds=0.1)
    clips = []
    for actor in range(1, 25):
        (root / "ravdess" / f"{actor:02d}").mkdir(parents=True)
        for emotion in range(1, 9):
            for level in (1, 2)[: 1 if emotion == 1 else 2]:
                for sentence in (1, 2):
                    for take in (1, 2):
                        name = f"03-01-{emotion:02d}-{level:02d}-{sentence:02d}-{take:02d}-{actor:02d}.flac"
                        clips.append(root / "ravdess" / f"{actor:02d}" / name)
                        clips[-1].hardlink_to(source)
    return clips


def test_ravdess_counts(tmp_path: Path) -> None:
    clips = whole_ravdess(tmp_path)
    corpus = read_corpus("ravdess", tmp_path)
    assert (len(corpus.manifest), corpus.skipped, corpus.notes) == (1440, (), ())
    assert corpus.manifest["utterance"].is_monotonic_increasing

    clips[0].unlink()
    clips[60 * 2 + 7].unlink()
    with pytest.raises(ManifestError) as caught:
        read_corpus("ravdess", tmp_path)
    for part in ("found 1438 of 1440", "speaker 01: 59 of 60", "speaker 03: 59 of 60", "label neutral: 95 of 96"):
        assert part in caught.value.what
    assert "--partial" in caught.value.remedy
    corpus = read_corpus("ravdess", tmp_path, partial=True)
    assert len(corpus.manifest) == 1438
    assert corpus.notes == (caught.value.what,)


def test_one_bad_clip_is_left_out_and_the_rest_go_on(tmp_path: Path) -> None:
    clips = whole_ravdess(tmp_path)
    clips[5].unlink()
    clips[5].write_bytes(b"")
    clips[9].unlink()
    clips[9].write_text("not a recording")
    corpus = read_corpus("ravdess", tmp_path)
    assert len(corpus.manifest) == 1438
    assert [error.where for error in corpus.skipped] == [str(clips[5]), str(clips[9])]
    assert all(isinstance(error, AudioError) for error in corpus.skipped)
    assert clips[5].stem not in set(corpus.manifest["utterance"])


def test_a_corpus_of_bad_clips_alone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "03-01-01-01-01-01-01.wav").touch()
    with pytest.raises(ManifestError, match=r"none of the 1 recordings .*\(0 bytes\)"):
        read_corpus("ravdess", tmp_path, partial=True)


def test_progress_is_reported_every_header(tmp_path: Path) -> None:
    calls: list[tuple[str, object]] = []

    class Recorder:
        def start(self, description: str, total: float | None) -> None:
            calls.append(("start", total))

        def advance(self, description: str, steps: float = 1) -> None:
            calls.append(("advance", steps))

        def finish(self, description: str) -> None:
            calls.append(("finish", None))

        def note(self, message: str) -> None:
            calls.append(("note", message))

    for actor in ("01", "02"):
        make_audio(tmp_path / f"03-01-01-01-01-01-{actor}.wav")
    read_corpus("ravdess", tmp_path, partial=True, progress=Recorder())
    assert calls == [("start", 2), ("advance", 1), ("advance", 1), ("finish", None)]


# EmoDB


@pytest.mark.parametrize("place", ["wav", ".", "emodb/wav", "emodb"])
def test_emodb_layouts(tmp_path: Path, place: str) -> None:
    clip = make_audio(tmp_path / place / "16b10Lb.wav")
    make_audio(tmp_path / place / "other.wav")
    corpus = read_corpus("emodb", tmp_path, partial=True)
    assert len(corpus.manifest) == 1
    assert row(corpus, "16b10Lb") == {
        "corpus": "emodb",
        "audio": str(clip),
        "duration": 0.5,
        "text": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
        "text_source": "reference",
        "language": "de",
        "label": "bored",
        "speaker": "16",
        "gender": "female",
        "script": "b10",
    }


@pytest.mark.parametrize(
    ("letter", "label"),
    list(zip("WLEAFTN", ["angry", "bored", "disgust", "fearful", "happy", "sad", "neutral"], strict=True)),
)
def test_emodb_letters(tmp_path: Path, letter: str, label: str) -> None:
    make_audio(tmp_path / f"03a01{letter}a.wav")
    assert row(read_corpus("emodb", tmp_path, partial=True), f"03a01{letter}a")["label"] == label


# nEMO

NEMO_HEADER = "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage\n"


@pytest.mark.parametrize("ending", ["wav", "opus"])
def test_nemo_layouts(tmp_path: Path, ending: str) -> None:
    table = (
        "WR0_surprised_64.wav\tsurprised\tUcho wykrywa dźwięki.\tucho wykrywa dźwięki\t        WR0\tmale\t23\n"
        "EB0_fear_64.wav\tfear\tUcho wykrywa dźwięki.\tucho wykrywa dźwięki\t        EB0\tfemale\t27\n"
        'EB0_anger_7.wav\tanger\tPowiedział: "Nie.\tpowiedział nie\t        EB0\tfemale\t27\n'
        "EB0_anger_8.wav\tanger\tBrak.\tbrak\t        EB0\tfemale\t27\n"
    )
    (tmp_path / "data.tsv").write_text(NEMO_HEADER + table, encoding="utf-8")
    for name in ("WR0_surprised_64", "EB0_fear_64", "EB0_anger_7"):
        make_audio(tmp_path / "samples" / f"{name}.{ending}")
    corpus = read_corpus("nemo", tmp_path, partial=True)
    assert corpus.manifest["utterance"].tolist() == ["EB0_anger_7", "EB0_fear_64", "WR0_surprised_64"]
    assert corpus.manifest["label"].tolist() == ["angry", "fearful", "surprised"]
    assert corpus.manifest["speaker"].tolist() == ["EB0", "EB0", "WR0"]
    assert corpus.manifest["gender"].tolist() == ["female", "female", "male"]
    assert corpus.manifest["text"].tolist()[0] == 'Powiedział: "Nie.'
    scripts = corpus.manifest["script"].tolist()
    assert scripts[1] == scripts[2] != scripts[0]
    with pytest.raises(ManifestError, match="speaker EB0: 2 of 539"):
        read_corpus("nemo", tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.wav\tanger\n", "the line has 2 of 7 cells"),
        ("a.wav\tjoy\tA.\ta\tEB0\tfemale\t27\n", "the emotion is 'joy'"),
        ("b.wav\tanger\tA.\ta\tEB0\tfemale\t27\n", "no such file"),
    ],
)
def test_a_bad_line_of_nemo_costs_no_other(tmp_path: Path, line: str, message: str) -> None:
    make_audio(tmp_path / "samples" / "EB0_anger_1.wav")
    good = "EB0_anger_1.wav\tanger\tA.\ta\tEB0\tfemale\t27\n"
    (tmp_path / "data.tsv").write_text(NEMO_HEADER + line + good)
    corpus = read_corpus("nemo", tmp_path, partial=True)
    assert corpus.manifest["utterance"].tolist() == ["EB0_anger_1"]
    assert [error.what.startswith(message) for error in corpus.skipped] == [True]
    (tmp_path / "data.tsv").write_text("file_id\temotion\na\tb\n")
    with pytest.raises(ManifestError, match="no column 'raw_text'"):
        read_corpus("nemo", tmp_path, partial=True)


# GoEmotions


def goemotions(folder: Path, *, train: str, dev: str = "", labels: str = "emotions.txt") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.tsv").write_bytes(train.encode())
    (folder / "dev.tsv").write_bytes(dev.encode())
    (folder / labels).write_text("\n".join(CORPORA["goemotions"].labels))


@pytest.mark.parametrize("place", [".", "data", "goemotions", "goemotions/data"])
@pytest.mark.parametrize("labels", ["labels.txt", "emotions.txt"])
def test_goemotions_layouts(tmp_path: Path, place: str, labels: str) -> None:
    train = 'He said "no way\t2\tid1\n"So\u2028what\x85" ,\t0,25\tid2\r\n'
    goemotions(tmp_path / place, train=train, dev="nan\t27\tid1\n", labels=labels)
    corpus = read_corpus("goemotions", tmp_path, partial=True)
    manifest = corpus.manifest
    assert manifest["text"].tolist() == ['He said "no way', '"So\u2028what\x85" ,', "nan"]
    assert manifest["session"].tolist() == ["train", "train", "dev"]
    assert manifest["utterance"].tolist() == ["id1", "id2", "id1-dev-1"]
    assert manifest["label"].isna().tolist() == [False, True, False]
    assert manifest["label"].tolist()[::2] == ["anger", "neutral"]
    assert [json.loads(votes) for votes in manifest["votes"]] == [
        {"anger": 1},
        {"admiration": 1, "sadness": 1},
        {"neutral": 1},
    ]
    with pytest.raises(ManifestError, match="session train: 2 of 43410"):
        read_corpus("goemotions", tmp_path)


@pytest.mark.parametrize(
    ("train", "what"),
    [
        ("fine\t0\ta\ntwo cells\t3\n", "row 2 has 2 of 3 cells"),
        ("fine\t28\ta\n", "row 1, column 2 is '28'"),
        ("fine\t-1\ta\n", "row 1, column 2 is '-1'"),
        ("fine\t1,\ta\n", "row 1, column 2 is '1,'"),
    ],
)
def test_goemotions_damage_is_named(tmp_path: Path, train: str, what: str) -> None:
    goemotions(tmp_path, train=train)
    with pytest.raises(ManifestError) as caught:
        read_corpus("goemotions", tmp_path, partial=True)
    assert caught.value.where == str(tmp_path / "train.tsv")
    assert caught.value.what.startswith(what)


@pytest.mark.parametrize(("name", "file"), [("nemo", "data.tsv"), ("goemotions", "train.tsv")])
def test_what_is_no_text_is_named(tmp_path: Path, name: str, file: str) -> None:
    goemotions(tmp_path, train="")
    (tmp_path / file).write_bytes(b"f\xfc\x81r\t0\ta\n")
    with pytest.raises(ManifestError, match=r"read|not text") as caught:
        read_corpus(name, tmp_path, partial=True)
    assert caught.value.where == str(tmp_path / file)


@pytest.mark.parametrize(
    ("name", "files"),
    [("nemo", {"data.tsv": NEMO_HEADER + "a.wav\tanger\tA.\ta\tEB0\tfemale\t27\n"}), ("goemotions", {"train.tsv": ""})],
)
def test_a_corpus_without_content_is_absent(tmp_path: Path, name: str, files: dict[str, str]) -> None:
    goemotions(tmp_path, train="")
    for file, content in files.items():
        (tmp_path / file).write_text(content)
    with pytest.raises(ManifestError, match="there is no"):
        read_corpus(name, tmp_path, partial=True)


def test_goemotions_without_labels_is_refused(tmp_path: Path) -> None:
    goemotions(tmp_path, train="fine\t0\ta\n")
    (tmp_path / "emotions.txt").unlink()
    with pytest.raises(ManifestError, match=r"there is no labels\.txt"):
        read_corpus("goemotions", tmp_path, partial=True)


def test_goemotions_labels_in_another_order_are_refused(tmp_path: Path) -> None:
    goemotions(tmp_path, train="fine\t0\ta\n")
    (tmp_path / "emotions.txt").write_text("\n".join(reversed(CORPORA["goemotions"].labels)))
    with pytest.raises(ManifestError, match="not the list of 28 labels"):
        read_corpus("goemotions", tmp_path, partial=True)


# The user's own table

PEOPLE = [
    {"id": "u1", "file": "clips/a.wav", "words": 'She said, "no"', "emotion": "sad", "from": "0.1", "mood": "x"},
    {"id": "u2", "file": "clips/b.wav", "words": "Ähm…\nja; nun", "emotion": "", "from": "", "mood": "y"},
]
COLUMNS = {"utterance": "id", "audio": "file", "text": "words", "label": "emotion", "start": "from"}


def as_csv(path: Path, frame: pd.DataFrame, separator: str, *, encoding: str = "utf-8") -> Path:
    frame.to_csv(path, index=False, sep=separator, encoding=encoding)
    return path


WRITERS: dict[str, Callable[[Path, pd.DataFrame], Path]] = {
    "csv": lambda folder, frame: as_csv(folder / "t.csv", frame, ","),
    "csv with BOM": lambda folder, frame: as_csv(folder / "t.csv", frame, ",", encoding="utf-8-sig"),
    "csv with semicolons": lambda folder, frame: as_csv(folder / "t.CSV", frame, ";"),
    "tsv": lambda folder, frame: as_csv(folder / "t.tsv", frame, "\t"),
    "jsonl": lambda folder, frame: _json_lines(folder / "t.jsonl", frame),
    "ndjson": lambda folder, frame: _json_lines(folder / "t.ndjson", frame),
    "parquet": lambda folder, frame: _parquet(folder / "t.parquet", frame),
}


def _json_lines(path: Path, frame: pd.DataFrame) -> Path:
    frame.to_json(path, orient="records", lines=True, force_ascii=False)
    return path


def _parquet(path: Path, frame: pd.DataFrame) -> Path:
    frame.to_parquet(path, index=False)
    return path


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("given", ["file", "folder"])
def test_every_kind_of_table_reads_the_same(tmp_path: Path, kind: str, given: str) -> None:
    clips = [make_audio(tmp_path / "clips" / name) for name in ("a.wav", "b.wav")]
    path = WRITERS[kind](tmp_path, pd.DataFrame(PEOPLE))
    corpus = read_corpus("table", path if given == "file" else tmp_path, columns=COLUMNS)
    assert row(corpus, "u1") == {
        "corpus": "table",
        "audio": str(clips[0]),
        "start": 0.1,
        "duration": pytest.approx(0.4),
        "text": 'She said, "no"',
        "label": "sad",
    }
    assert row(corpus, "u2") == {
        "corpus": "table",
        "audio": str(clips[1]),
        "duration": 0.5,
        "text": "Ähm…\nja; nun",
    }
    check_manifest(corpus.manifest, source=path)


def table(folder: Path, content: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_names_come_from_files_and_rows(tmp_path: Path) -> None:
    for name in ("one/a.wav", "two/a.wav", "two/b.wav", "two/c.wav"):
        make_audio(tmp_path / name)
    path = table(
        tmp_path,
        "audio,start,end,text\none/a.wav,,,\ntwo/a.wav,,,\ntwo/b.wav,,,\ntwo/c.wav,0,0.2,\ntwo/c.wav,0.2,0.4,\n,,,words\n",
    )
    names = read_corpus("table", path).manifest["utterance"].tolist()
    assert names == ["one_a", "two_a", "b", "c_row-4", "c_row-5", "row-6"]


def test_a_table_of_words_alone(tmp_path: Path) -> None:
    corpus = read_corpus("table", table(tmp_path, "text,label,speaker,corpus\nnan,happy,7,mine\n"))
    assert row(corpus, "row-1") == {"corpus": "mine", "text": "nan", "label": "happy", "speaker": "7"}


def test_votes_may_be_an_object_or_text(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        '{"text": "a", "votes": {"sad": 2, "happy": 1}}\n{"text": "b", "votes": "{\\"sad\\": 1}"}\n{"text": "c"}\n',
        "t.jsonl",
    )
    votes = read_corpus("table", path).manifest["votes"]
    assert [json.loads(value) for value in votes[:2]] == [{"sad": 2, "happy": 1}, {"sad": 1}]
    assert pd.isna(votes[2])
    frame = pd.DataFrame({"text": ["a", "b"], "votes": [{"sad": 2}, {"happy": 1}]})
    frame.to_parquet(tmp_path / "p.parquet")
    votes = read_corpus("table", tmp_path / "p.parquet").manifest["votes"]
    assert [json.loads(value) for value in votes] == [{"sad": 2}, {"happy": 1}]


@pytest.mark.parametrize("mark", [".", ","])
def test_a_table_may_hold_values_of_any_name_in_place_of_labels(tmp_path: Path, mark: str) -> None:
    lines = ["text;Values.Valence;mood", "a;-1.5;2", "b;;3.25", "c;2;"]
    path = table(tmp_path, "\n".join(lines).replace(".5", f"{mark}5").replace(".25", f"{mark}25"))
    corpus = read_corpus("table", path, columns={"values.mood": "mood"})
    assert row(corpus, "row-1") == {"corpus": "table", "text": "a", "values.Valence": -1.5, "values.mood": 2}
    assert row(corpus, "row-2") == {"corpus": "table", "text": "b", "values.mood": 3.25}
    path = table(tmp_path, "text,values.valence\na,high\n")
    with pytest.raises(ManifestError, match=r"row 1, column 'values\.valence' is 'high'; it must be a number"):
        read_corpus("table", path)


@pytest.mark.parametrize("cells", ["1,2,3", "0.5,2,", '"1,5",2,3', "-3,1e1,3"])
def test_labels_that_are_numbers_are_asked_about(tmp_path: Path, cells: str) -> None:
    (tmp_path / "t.csv").write_text("")
    with (tmp_path / "t.csv").open("w", newline="") as file:
        rows = [["text", "belief"], *([str(at), cell] for at, cell in enumerate(next(csv.reader([cells]))))]
        csv.writer(file).writerows(rows)
    with pytest.raises(ManifestError, match=r"'belief' has only numbers.*as words.*--column values\.NAME=belief"):
        read_corpus("table", tmp_path / "t.csv", columns={"label": "belief"})
    found = read_corpus("table", tmp_path / "t.csv", columns={"values.belief": "belief"}).manifest
    assert found["values.belief"].dropna().between(-3, 10).all()


def test_labels_among_which_some_are_words_are_classes(tmp_path: Path) -> None:
    path = table(tmp_path, "text,label\na,1\nb,2b\nc,\n")
    assert read_corpus("table", path).manifest["label"].dropna().tolist() == ["1", "2b"]


def test_genders_of_a_table_are_read_or_left_out_with_a_note(tmp_path: Path) -> None:
    path = table(tmp_path, "text,gender\na,F\nb,male\nc,\nd,Woman\ne,other\n")
    corpus = read_corpus("table", path)
    assert corpus.manifest["gender"].fillna("").tolist() == ["female", "male", "", "female", ""]
    assert corpus.notes == ("1 genders are left out, as neither female nor male, such as 'other'",)


@pytest.mark.parametrize(("name", "women"), [("emodb", 5), ("ravdess", 12)])
def test_half_of_the_actors_are_women(tmp_path: Path, name: str, women: int) -> None:
    for speaker in CORPORA[name].counts["speaker"]:
        make_audio(tmp_path / (f"{speaker}a01Wa.wav" if name == "emodb" else f"03-01-01-01-01-01-{speaker}.wav"))
    manifest = read_corpus(name, tmp_path, partial=True).manifest
    assert manifest["gender"].value_counts().to_dict() == {"female": women, "male": women}


def test_a_bad_recording_of_a_table_is_left_out(tmp_path: Path) -> None:
    make_audio(tmp_path / "a.wav")
    path = table(tmp_path, "audio,start,end\na.wav,,\nmissing.wav,,\na.wav,0.4,0.6\n")
    corpus = read_corpus("table", path)
    assert corpus.manifest["utterance"].tolist() == ["a_row-1"]
    assert [e.what for e in corpus.skipped] == ["no such file", "the span from 0.4 to 0.6 s lies outside the audio"]


def test_an_absolute_path_and_a_link_are_kept(tmp_path: Path) -> None:
    clip = make_audio(tmp_path / "store" / "a1b2c3.wav")
    (tmp_path / "named.wav").symlink_to(clip)
    path = table(tmp_path, f"audio\n{clip}\nnamed.wav\n")
    assert read_corpus("table", path).manifest["audio"].tolist() == [str(clip), str(tmp_path / "named.wav")]


def test_columns_are_for_tables_alone(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="columns of emodb cannot be mapped"):
        read_corpus("emodb", tmp_path, columns={"label": "emotion"})


SPOKEN = [["utterance", "text", "label", "speaker", "start"], ["a", 'He; she, "they"', "fröhlich", "Zoë", "0.5"],
          ["b", "two\nlines | one", "traurig", "Bob", "1234.25"]]  # fmt: skip


def dialect(separator: str, *, mark: str = ".", thousands: str = "", head: str = "") -> str:
    rows = [list(row) for row in SPOKEN]
    for row in rows[1:]:
        row[4] = f"{float(row[4]):,}".replace(",", "#").replace(".", mark).replace("#", thousands)
    file = io.StringIO()
    csv.writer(file, delimiter=separator).writerows(rows)
    return head + file.getvalue()


DIALECTS = {
    "semicolons": (dialect(";"), "utf-8", "semicolons"),
    "bars": (dialect("|"), "utf-8", "bars"),
    "tabs in a .csv": (dialect("\t"), "utf-8", "tabs"),
    "Excel in German": (dialect(";", mark=",", thousands=".", head="sep=;\r\n"), "utf-8-sig", "decimal marks"),
    "an unusual sign that Excel names": (dialect("^", head="sep=^\n"), "utf-8", "'^'"),
    "decimal commas and narrow blanks": (dialect("\t", mark=",", thousands="\u202f"), "utf-16", "decimal marks"),
    "thousands in quotes": (dialect(",", thousands=","), "utf-8", ""),
    "UTF-16 without a mark": (dialect(","), "utf-16-le", ""),
    "Latin-1": (dialect(","), "latin-1", "not UTF-8"),
    "Unicode decomposed": (unicodedata.normalize("NFD", dialect(",")), "utf-8", ""),
    "capitals and spaces in the header": (dialect(",").replace("label", " LABEL ", 1), "utf-8", ""),
    "empty columns and rows": (dialect(";").replace("\r\n", ";;\r\n") + ";;;;;;\r\n", "utf-8", "semicolons"),
}


@pytest.mark.parametrize("kind", DIALECTS)
def test_tables_in_every_dialect_read_the_same(tmp_path: Path, kind: str) -> None:
    content, encoding, said = DIALECTS[kind]
    content = content.replace("two\nlines", "two lines") if kind.startswith("empty") else content
    (tmp_path / "t.csv").write_bytes(content.encode(encoding))
    if kind.startswith("empty"):
        content = content.replace(";;\r\n", "\r\n", 1)
        (tmp_path / "t.csv").write_bytes(content.encode(encoding))
    corpus = read_corpus("table", tmp_path / "t.csv")
    columns = corpus.manifest[["utterance", "label", "speaker", "start"]].values.tolist()
    assert columns == [["a", "fröhlich", "Zoë", 0.5], ["b", "traurig", "Bob", 1234.25]]
    assert corpus.manifest.loc[0, "text"] == 'He; she, "they"'
    assert said in " ".join(corpus.notes)
    assert bool(said) == bool(corpus.notes)


def test_a_comma_that_may_be_either_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path, "text;start\na;1,234\nb;2,500\n")
    with pytest.raises(ManifestError, match="row 1, column 'start' is '1,234'"):
        read_corpus("table", path)


def test_tables_of_tabs_may_hold_quotes_as_they_are(tmp_path: Path) -> None:
    content = 'text\tlabel\n"No way\tsad\nhe said\tsad\nfine"\thappy\n'
    manifest = read_corpus("table", table(tmp_path, content, "t.tsv")).manifest
    assert manifest["text"].tolist() == ['"No way', "he said", 'fine"']


@pytest.mark.parametrize("cell", ["CLIPS/A.WAV", "clips\\a.wav", "./clips/a.wav ", "clips/a.wav"])
def test_a_table_names_its_recordings_as_people_write(tmp_path: Path, cell: str) -> None:
    clip = make_audio(tmp_path / "clips" / "a.wav")
    if cell.startswith("CLIPS"):
        cell = cell.replace("CLIPS", "clips")
    assert read_corpus("table", table(tmp_path, f"audio\n{cell}\n")).manifest["audio"].tolist() == [str(clip)]


def test_decomposed_file_names_are_found(tmp_path: Path) -> None:
    clip = make_audio(tmp_path / "Zoe\u0308.wav")
    assert read_corpus("table", table(tmp_path, "audio\nZoë.wav\n")).manifest["audio"].tolist() == [str(clip)]


def test_one_speaker_is_counted_once_in_every_table(tmp_path: Path) -> None:
    rows = "hi,Happy,anna\nho,happy,anna \nhu,happy , Anna\nha,sad,bob\n"
    corpus = read_corpus("table", table(tmp_path, "text,label,speaker\n" + rows))
    assert set(corpus.manifest["speaker"]) == {"anna", "bob"}
    assert set(corpus.manifest["label"]) == {"happy", "sad"}
    assert "speaker 'anna' is also spelt 'anna ', ' Anna'" in corpus.notes
    assert "label 'happy' is also spelt 'Happy', 'happy '" in corpus.notes


def test_corpora_under_each_other_spell_labels_alike(tmp_path: Path) -> None:
    make_audio(tmp_path / "ravdess" / "03-01-03-01-01-01-01.wav")
    table(tmp_path, "text,label,speaker\nhi,Happy,a\n")
    corpus = read_corpus("ravdess+table", tmp_path, partial=True)
    assert set(corpus.manifest["label"]) == {"happy"}
    assert "label 'happy' is also spelt 'Happy'" in corpus.notes


TABLES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from([*MANIFEST_COLUMNS, "Text", "speaker "]), TABLES, max_size=5), max_size=3
    ),
    ending=st.sampled_from([".jsonl", ".csv", ".tsv", ".parquet"]),
    junk=st.binary(max_size=20),
    at=st.integers(0, 400),
)
def test_hostile_tables_are_read_or_refused(
    tmp_path: Path, rows: list[dict[str, object]], ending: str, junk: bytes, at: int
) -> None:
    path = tmp_path / f"t{ending}"
    content = "\n".join(json.dumps(row) for row in rows).encode()
    if ending in (".csv", ".tsv"):
        content = content.replace(b'": ', b'","').replace(b"{", b"").replace(b"}", b"")
    elif ending == ".parquet":
        try:
            pd.DataFrame(rows or [{"text": "a"}]).to_parquet(path)
        except (OSError, ValueError, TypeError, OverflowError, pa.ArrowException):
            return
        content = path.read_bytes()
    path.write_bytes(content[:at] + junk + content[at:] if len(junk) % 2 else content)
    with suppress(EmofuseError):
        check_manifest(read_corpus("table", path).manifest, source=path)


# The real ones


def test_files_of_one_name_are_left_out_each_under_its_own() -> None:
    places = ("MELD/train/dia0_utt0.mp4", "MELD/dev/dia0_utt0.mp4", "elsewhere/dia0_utt0.mp4")
    skipped = tuple(AudioError(f"no such file {place}", where=place, remedy="get it again") for place in places)
    corpus = Corpus(manifest=pd.DataFrame(), skipped=skipped)
    assert corpus.unread(Path("MELD")) == {
        "train/dia0_utt0.mp4": "no such file MELD/train/dia0_utt0.mp4; get it again",
        "dev/dia0_utt0.mp4": "no such file MELD/dev/dia0_utt0.mp4; get it again",
        "dia0_utt0.mp4": "no such file elsewhere/dia0_utt0.mp4; get it again",
    }


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the recordings in {SHARED} are not at hand")
class TestSharedRecordings:
    @pytest.mark.parametrize(
        ("name", "utterances", "speakers", "scripts", "hours"),
        [
            ("ravdess", 1440, 24, 2, 1.48),
            ("emodb", 535, 10, 10, 0.413),
            ("nemo", 4481, 9, 90, 3.07),
        ],
    )
    def test_speech(self, name: str, utterances: int, speakers: int, scripts: int, hours: float) -> None:
        corpus = read_corpus(name, SHARED)
        manifest = corpus.manifest
        assert (len(manifest), corpus.skipped) == (utterances, ())
        assert manifest["speaker"].nunique() == speakers
        assert manifest["script"].nunique() == manifest["text"].nunique() == scripts
        assert manifest.groupby("script")["text"].nunique().eq(1).all()
        assert set(manifest["label"]) == set(CORPORA[name].labels)
        assert manifest["duration"].sum() / 3600 == pytest.approx(hours, abs=0.005)
        assert manifest["utterance"].is_monotonic_increasing

    @pytest.mark.parametrize(
        ("name", "utterances", "speakers", "scripts", "hours"),
        [("aesdd", 604, 6, 20, 0.69), ("emovo", 588, 6, 14, 0.51)],
    )
    def test_speech_without_transcripts(
        self, name: str, utterances: int, speakers: int, scripts: int, hours: float
    ) -> None:
        corpus = read_corpus(name, SHARED)
        manifest = corpus.manifest
        assert (len(manifest), corpus.skipped) == (utterances, ())
        assert (manifest["speaker"].nunique(), manifest["script"].nunique()) == (speakers, scripts)
        assert set(manifest["label"]) == set(CORPORA[name].labels)
        assert manifest["text"].isna().all()
        assert manifest["duration"].sum() / 3600 == pytest.approx(hours, abs=0.005)

    def test_an_underscore_of_a_folder_stands_for_a_hyphen(self) -> None:
        corpus = read_corpus("crema-d+aesdd", SHARED, partial=True)
        assert corpus.manifest["corpus"].value_counts().to_dict() == {"crema-d": 7425, "aesdd": 604}
        assert corpus.manifest["speaker"].nunique() == 97

    def test_goemotions(self) -> None:
        manifest = read_corpus("goemotions", SHARED).manifest
        assert len(manifest) == 54263
        assert manifest["text"].notna().all()
        single = [len(json.loads(votes)) == 1 for votes in manifest["votes"]]
        assert single == manifest["label"].notna().tolist()
        assert set(manifest["label"].dropna()) == set(CORPORA["goemotions"].labels)
