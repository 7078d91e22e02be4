"""IEMOCAP as USC ships it: what is read, what is counted, and what is said of a copy with holes in it."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from typer.testing import CliRunner

from emofuse.align.readers import read_iemocap
from emofuse.align.shipped import read_shipped
from emofuse.cli.app import app
from emofuse.corpora import CORPORA, Corpus, read_corpus
from emofuse.corpora.iemocap import read
from emofuse.errors import AudioError, ManifestError, SettingsError
from emofuse.manifest import read_manifest, utterances
from emofuse.protocols import make_protocol
from emofuse.settings import ProtocolSettings
from emofuse.testing import miniature_iemocap

# The design's own numbers.
LABELS = {"angry": 1103, "happy": 1636, "neutral": 1708, "sad": 1084}
SESSIONS = {"1": 1085, "2": 1023, "3": 1151, "4": 1031, "5": 1241}

CODES = {"ang": "angry", "hap": "happy", "exc": "excited", "neu": "neutral", "sad": "sad", "fru": "frustrated"}
CODES |= {"fea": "fearful", "sur": "surprised", "dis": "disgust", "oth": "other", "xxx": ""}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_iemocap(tmp_path_factory.mktemp("iemocap"))


@pytest.fixture
def root(tmp_path: Path, original: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(original, tmp_path / original.name))


def get(root: Path, **options: str) -> Corpus:
    return read_corpus("iemocap", root, partial=True, options=options)


def blocks(root: Path) -> dict[str, list[str]]:
    """Lines of each utterance in EmoEvaluation."""
    found = {}
    for path in root.glob("Session?/dialog/EmoEvaluation/*.txt"):
        for block in path.read_text().split("\n\n"):
            lines = block.strip().splitlines()
            if lines and lines[0].startswith("["):
                found[lines[0].split("\t")[1]] = lines
    return found


# What is read


def test_a_row_holds_what_the_folder_says(tmp_path: Path, root: Path) -> None:
    path = root / "Session2/dialog/EmoEvaluation/Ses02M_script02_2.txt"
    path.write_text(
        "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        "[31.0500 - 33.1000]\tSes02M_script02_2_F010\texc\t[4.5000, 4.0000, 3.5000]\n"
        "C-E1:\tExcited;\t()\nC-E3:\tHappiness; Surprise;\t(glad)\nC-E4:\tNeutral;\t()\nC-F2:\tSadness;\t()\n"
        "A-E3:\tval 5; act 4; dom  3;\t()\nA-E4:\tval 4; act 4; dom  4;\t()\nA-F2:\tval 3; act 1; dom  ;\t()\n"
    )
    words = root / "Session2/dialog/transcriptions/Ses02M_script02_2.txt"
    words.write_text("M: [BREATHING]\nSes02M_script02_2_F010 [031.0500-033.1000]: Oh: [really]?\n")
    clip = root / "Session2/sentences/wav/Ses02M_script02_2/Ses02M_script02_2_F010.wav"
    soundfile.write(clip, 0.1 * np.random.default_rng(0).standard_normal(8000), 16000)
    for votes, counted, rated in (
        ("others", {"happy": 2, "surprised": 1, "neutral": 1}, (4.5, 4.0, 3.5)),
        ("all", {"happy": 2, "surprised": 1, "neutral": 1, "sad": 1}, (4.0, 3.0, 3.5)),
    ):
        manifest = get(root, votes=votes).manifest.set_index("utterance")
        row = manifest.loc["Ses02M_script02_2_F010"].dropna().to_dict()
        assert json.loads(row.pop("votes")) == counted
        assert row == {
            "corpus": "iemocap",
            "audio": str(clip),
            "duration": 0.5,
            "text": "Oh: [really]?",
            "text_source": "reference",
            "language": "en",
            "label": "happy",
            "values.valence": rated[0],
            "values.arousal": rated[1],
            "values.dominance": rated[2],
            "speaker": "Ses02F",
            "gender": "female",
            "session": "2",
            "dialogue": "Ses02M_script02_2",
            "script": "script02",
        }


@pytest.mark.parametrize("labels", ["four", "six", "all"])
@pytest.mark.parametrize("part", ["all", "improvised", "scripted"])
def test_label_sets_and_parts(root: Path, labels: str, part: str) -> None:
    kept = {"four": ["ang", "hap", "exc", "neu", "sad"], "six": ["ang", "hap", "exc", "neu", "sad", "fru"]}
    wanted = {}
    for name, lines in blocks(root).items():
        code = lines[0].split("\t")[2]
        if code in kept.get(labels, CODES) and (part == "all" or part[:5] in name):
            wanted[name] = "happy" if labels == "four" and code == "exc" else CODES[code]
    manifest = get(root, labels=labels, part=part).manifest
    assert dict(zip(manifest["utterance"], manifest["label"].fillna(""), strict=True)) == wanted
    assert len(wanted) > 10


@pytest.mark.parametrize("votes", ["others", "all"])
def test_votes_and_ratings_are_those_of_the_file(root: Path, votes: str) -> None:
    manifest = get(root, labels="all", votes=votes).manifest.set_index("utterance")
    spelt = {"anger": "angry", "happiness": "happy", "sadness": "sad", "surprise": "surprised", "fear": "fearful"}
    spelt |= {"frustration": "frustrated"}
    annotators = "E" if votes == "others" else "EFM"
    for name, lines in blocks(root).items():
        counted: Counter[str] = Counter()
        rated = []
        for line in lines[1:]:
            annotator, rest = line.split(":\t")
            if annotator[2] in annotators and annotator[0] == "C":
                counted.update(spelt.get(w, w) for w in rest.split("(")[0].lower().replace(";", " ").split())
            elif annotator[2] in annotators:
                rated.append([float(value) for value in re.findall(r"\d+", rest)])
        row = manifest.loc[name]
        assert json.loads(row["votes"]) == counted
        found = row[[f"values.{one}" for one in ("valence", "arousal", "dominance")]].tolist()
        assert found == pytest.approx(np.mean(rated, axis=0).tolist())
    assert manifest["label"].isna().sum() == 5
    assert manifest["votes"].notna().all()


def test_speakers_sessions_and_wording(root: Path) -> None:
    manifest = get(root, labels="all").manifest
    assert set(manifest["speaker"]) == {f"Ses0{session}{gender}" for session in range(1, 6) for gender in "FM"}
    assert (manifest["speaker"].str[4] == manifest["session"]).all()
    assert (manifest["speaker"].str[5] == manifest["utterance"].str[-4]).all()
    assert manifest.groupby("dialogue")["script"].nunique().eq(1).all()
    assert set(manifest["script"]) == {"script01", "script02", "impro01", "impro03"}
    assert manifest.groupby("script")["session"].nunique().eq(5).all()


def test_rows_of_a_dialogue_are_in_the_order_of_time(root: Path) -> None:
    path = root / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    lines = blocks(root)
    starts = {name: float(lines[name][0][1:].split()[0]) for name in lines if name.startswith("Ses01F_impro01")}
    order = sorted(starts, key=lambda name: starts[name])
    path.write_text("\n\n".join("\n".join(lines[name]) for name in reversed(order)) + "\n")
    manifest = get(root, labels="all").manifest
    assert manifest.loc[manifest["dialogue"] == "Ses01F_impro01", "utterance"].tolist() == order


@pytest.mark.parametrize("place", [".", "IEMOCAP_full_release", "..", "../iemocap"])
def test_the_folder_may_be_named_from_above(tmp_path: Path, place: str) -> None:
    above = tmp_path / "iemocap" if place == "../iemocap" else tmp_path
    root = miniature_iemocap(above)
    given = {".": root, "IEMOCAP_full_release": root, "..": tmp_path, "../iemocap": tmp_path}[place]
    assert len(get(given).manifest) == 70


def test_folds_by_session_share_scripts_but_no_speaker(root: Path) -> None:
    protocol = make_protocol(get(root).manifest, ProtocolSettings(kind="session", validation_by="speaker"))
    assert [fold.name for fold in protocol.folds] == [f"session-{number}" for number in range(1, 6)]
    assert protocol.leakage["speakers"] == protocol.leakage["dialogues"] == 0
    assert protocol.leakage["exact"]["fraction"] == 1.0


# Counts


def test_what_is_expected_adds_up_to_what_was_published(root: Path) -> None:
    card = CORPORA["iemocap"]
    found: dict[str, Counter[str]] = {"session": Counter(), "label": Counter()}
    for pair, count in card.counts["session+label"].items():
        session, label = pair.split("+")
        found["session"][session] += count
        found["label"][label] += count
    assert found == {"session": SESSIONS, "label": LABELS}
    assert card.utterances == 5531
    sizes = {}
    for labels in ("four", "six", "all"):
        for part in ("all", "improvised", "scripted"):
            expected = read(root, labels=labels, part=part).card
            assert expected is not None
            sizes[labels, part] = expected.utterances
            for counts in expected.counts.values():
                assert sum(counts.values()) == expected.utterances
    assert sizes["six", "all"] == 7380
    assert sizes["all", "all"] == 10039
    for labels in ("four", "all"):
        assert sizes[labels, "improvised"] + sizes[labels, "scripted"] == sizes[labels, "all"]  # type: ignore[operator]


def whole(folder: Path) -> Path:
    """All 5,531 names, one recording under them all."""
    root = folder / "IEMOCAP_full_release"
    source = root / "source.wav"
    root.mkdir(parents=True)
    soundfile.write(source, 0.1 * np.random.default_rng(0).standard_normal(1600), 16000)
    codes = {"angry": "ang", "happy": "exc", "neutral": "neu", "sad": "sad"}
    for session in SESSIONS:
        dialogue = f"Ses0{session}F_impro01"
        place = root / f"Session{session}"
        wavs = place / "sentences/wav" / dialogue
        for path in (wavs, place / "dialog/EmoEvaluation", place / "dialog/transcriptions"):
            path.mkdir(parents=True)
        labels, words = ["%"], []
        for pair, count in CORPORA["iemocap"].counts["session+label"].items():
            if pair[0] == session:
                for number in range(count):
                    name = f"{dialogue}_M{pair[2]}{number:03d}"
                    time = len(labels)
                    labels.append(f"[{time}.0 - {time}.5]\t{name}\t{codes[pair[2:]]}\t[2.5, 2.5, 2.5]")
                    words.append(f"{name} [{time}-{time}]: yes")
                    (wavs / f"{name}.wav").hardlink_to(source)
        (place / f"dialog/EmoEvaluation/{dialogue}.txt").write_text("\n".join(labels))
        (place / f"dialog/transcriptions/{dialogue}.txt").write_text("\n".join(words))
    return root


def test_a_whole_copy_is_read_and_a_gap_is_reported_by_session_class_and_name(tmp_path: Path) -> None:
    root = whole(tmp_path)
    corpus = read_corpus("iemocap", root)
    assert corpus.manifest["label"].value_counts().to_dict() == LABELS
    assert corpus.manifest["session"].value_counts().to_dict() == SESSIONS
    assert corpus.skipped == ()
    lost = sorted(root.glob("Session3/sentences/wav/*/*_Ms*.wav"))[:8]
    for path in lost:
        path.unlink()
    with pytest.raises(ManifestError) as caught:
        read_corpus("iemocap", root)
    assert caught.value.where == str(root)
    assert "found 5523 of 5531 utterances (session 3 and label sad: 297 of 305)" in caught.value.what
    assert "8 missing or damaged" in caught.value.what
    assert str(lost[0].relative_to(root)) in caught.value.what
    assert str(lost[7].relative_to(root)) not in caught.value.what
    assert caught.value.what.endswith("and 2 more")
    assert "--partial" in caught.value.remedy


# Options


def test_an_unknown_option_is_refused_with_what_there_is(root: Path) -> None:
    with pytest.raises(SettingsError, match="option labels of iemocap is 'five'; use one of four, six, all"):
        get(root, labels="five")
    with pytest.raises(SettingsError, match="no option 'label'; did you mean labels"):
        get(root, label="four")
    with pytest.raises(SettingsError, match="ravdess has no option 'labels'; leave it out"):
        read_corpus("ravdess", root, options={"labels": "four"})
    with pytest.raises(SettingsError, match="none of ravdess, emodb has an option 'labels'"):
        read_corpus("ravdess+emodb", root, options={"labels": "four"})


def test_of_several_corpora_each_takes_its_own_options(tmp_path: Path) -> None:
    miniature_iemocap(tmp_path / "iemocap")
    (tmp_path / "table").mkdir()
    (tmp_path / "iemocap" / "t.csv").write_text("text,label\nhello,happy\n")
    clip = tmp_path / "ravdess" / "03-01-01-01-01-01-01.wav"
    clip.parent.mkdir()
    soundfile.write(clip, 0.1 * np.random.default_rng(0).standard_normal(8000), 16000)
    corpus = read_corpus("iemocap+ravdess", tmp_path, partial=True, options={"part": "scripted"})
    assert corpus.manifest["corpus"].value_counts().to_dict() == {"iemocap": 40, "ravdess": 1}


def test_the_choice_is_reported_in_the_notes(root: Path) -> None:
    assert "read with labels=six, part=all, votes=others" in get(root, labels="six").notes
    assert not any(note.startswith("read with") for note in get(root).notes)


def test_the_command_line_takes_options(tmp_path: Path, root: Path) -> None:
    out = tmp_path / "manifest.parquet"
    given = ["prepare", "--corpus", "iemocap", "--root", str(root), "--out", str(out)]
    done = CliRunner().invoke(app, [*given, "--partial", "--option", "labels=six", "--option", "part=improvised"])
    assert done.exit_code == 0, done.output
    manifest = read_manifest(out)
    assert set(manifest["label"]) == {"angry", "happy", "excited", "neutral", "sad"}
    assert manifest["script"].str.startswith("impro").all()
    wrong = CliRunner().invoke(app, [*given, "--option", "labels"])
    assert str(wrong.exception) == "--option: 'labels' is not NAME=VALUE; write, say, labels=six."


# Damage: each kind changes a copy and says what must come of it

LABELLED = "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
SPOKEN = "Session1/dialog/transcriptions/Ses01F_impro01.txt"
CLIP = "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M000.wav"


@dataclass(frozen=True)
class Damage:
    """A change, how many of the 100 utterances are left, and what the report says of which file."""

    change: Callable[[Path], object]
    left: int
    where: str = ""
    what: str = ""


def text(place: str, old: str, new: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        content = (root / place).read_text()
        assert re.search(old, content)
        (root / place).write_text(re.sub(old, new, content, count=1))

    return change


def raw(place: str, convert: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda root: (root / place).write_bytes(convert((root / place).read_bytes()))


def gone(place: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        if (root / place).is_dir():
            (root / place).rename(root.parent / "elsewhere")
        else:
            (root / place).unlink()

    return change


def folder(place: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        (root / place).unlink()
        (root / place).mkdir()

    return change


def twice(root: Path) -> None:
    path = root / LABELLED
    path.write_text(path.read_text() + path.read_text())


FIRST = r"\[6\.2901 - (\S+)\]\t(\S+)\t(\w+)\t\[(.*)\]"

REPORTED = {
    "a session is missing": Damage(gone("Session3"), 80, "Session3", "no such folder"),
    "no folder of labels": Damage(gone("Session2/dialog/EmoEvaluation"), 80, "EmoEvaluation", "no such folder"),
    "no folder of words": Damage(gone("Session2/dialog/transcriptions"), 100, "transcriptions", "no such folder"),
    "a file of labels is missing": Damage(gone(LABELLED), 94, LABELLED, "no such file"),
    "a file of words is missing": Damage(gone(SPOKEN), 100, SPOKEN, "no such file"),
    "a file of labels is empty": Damage(raw(LABELLED, lambda _: b""), 94, LABELLED, "empty"),
    "a file of labels is blank": Damage(raw(LABELLED, lambda _: b" \n\n"), 94, LABELLED, "empty"),
    "a file of labels is bytes": Damage(raw(LABELLED, lambda _: bytes(range(256))), 94, LABELLED, "not text"),
    "a file of labels is zeros": Damage(raw(LABELLED, lambda content: bytes(len(content))), 94, LABELLED, "not text"),
    "a file of labels has none": Damage(raw(LABELLED, lambda _: b"hello\n"), 94, LABELLED, "no utterance in it"),
    "a folder for labels": Damage(folder(LABELLED), 94, LABELLED, "a folder is in its place"),
    "a folder for words": Damage(folder(SPOKEN), 100, SPOKEN, "a folder is in its place"),
    "a line is cut short": Damage(text(LABELLED, FIRST, r"[6.2901 - \1]\t\2"), 99, "line 3", "[START - END]"),
    "a line lost its begin": Damage(text(LABELLED, FIRST, r"\1]\t\2\t\3\t[\4]"), 99, "line 3", "[START - END]"),
    "an unknown emotion": Damage(text(LABELLED, FIRST, r"[6.2901 - \1]\t\2\tjoy\t[\4]"), 99, "line 3", "'joy'"),
    "a rating is NaN": Damage(text(LABELLED, FIRST, r"[6.2901 - \1]\t\2\t\3\t[nan, 2, 2]"), 99, "line 3", "nan"),
    "a rating is missing": Damage(text(LABELLED, FIRST, r"[6.2901 - \1]\t\2\t\3\t[2, 2]"), 99, "line 3", "[2, 2]"),
    "times are reversed": Damage(text(LABELLED, FIRST, r"[9.5 - 6.2]\t\2\t\3\t[\4]"), 99, "line 3", "9.5 to 6.2"),
    "a time is no number": Damage(text(LABELLED, FIRST, r"[soon - 6.2]\t\2\t\3\t[\4]"), 99, "line 3", "soon"),
    "a strange name": Damage(text(LABELLED, "Ses01F_impro01_M000", "Ses09X_1"), 99, "line 3", "'Ses09X_1'"),
    "a name of another dialogue": Damage(
        text(LABELLED, "Ses01F_impro01_M0", "Ses01F_impro02_M0"), 99, "line 3", "02_M0"
    ),
    "all lines twice": Damage(twice, 100, LABELLED, "occurs twice"),
    "a clip is missing": Damage(gone(CLIP), 99, CLIP, "no such file"),
    "a folder for a clip": Damage(folder(CLIP), 99, CLIP, "no such file"),
    "an empty clip": Damage(raw(CLIP, lambda _: b""), 99, CLIP, "empty"),
    "a clip is cut short": Damage(raw(CLIP, lambda content: content[: len(content) // 2]), 99, CLIP, "cut short"),
    "a clip is no audio": Damage(raw(CLIP, lambda _: b"hello"), 99, CLIP, "not"),
}


@pytest.mark.parametrize("kind", REPORTED)
def test_damage_is_reported_by_name_and_the_rest_is_read(root: Path, kind: str) -> None:
    damage = REPORTED[kind]
    damage.change(root)
    corpus = get(root, labels="all")
    assert len(corpus.manifest) == damage.left
    found = [error for error in corpus.skipped if damage.where in str(error.where) and damage.what in error.what]
    assert found, [str(error) for error in corpus.skipped]
    assert len(corpus.skipped) == (6 if kind == "all lines twice" else 1)
    assert all(str(root) in str(error.where) and error.remedy for error in corpus.skipped)
    if not isinstance(found[0], AudioError) or found[0].what == "no such file":
        with pytest.raises(ManifestError) as caught:
            read_corpus("iemocap", root, options={"labels": "all"})
        assert f"{len(corpus.skipped)} missing or damaged: " in caught.value.what
        assert str(found[0].where).removeprefix(f"{root}/") in caught.value.what


def upper(root: Path) -> None:
    for path in root.glob("Session1/sentences/wav/Ses01F_impro01/*.wav"):
        path.rename(path.with_suffix(".WAV"))


def apple(root: Path) -> None:
    for place in (LABELLED, SPOKEN, CLIP):
        path = root / place
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")


HARMLESS: dict[str, Callable[[Path], object]] = {
    "BOM": raw(LABELLED, lambda content: b"\xef\xbb\xbf" + content),
    "BOM before a label": raw(LABELLED, lambda content: b"\xef\xbb\xbf" + content.split(b"\n", 2)[2]),
    "BOM before words": raw(SPOKEN, lambda content: b"\xef\xbb\xbf" + content),
    "CRLF": raw(LABELLED, lambda content: content.replace(b"\n", b"\r\n")),
    "CRLF in words": raw(SPOKEN, lambda content: content.replace(b"\n", b"\r\n")),
    "UTF-16": raw(LABELLED, lambda content: content.decode().encode("utf-16")),
    "blank lines": raw(LABELLED, lambda content: content.replace(b"\n", b"\n\n")),
    "no line at the end": raw(LABELLED, lambda content: content.rstrip()),
    "blanks for tabs": raw(LABELLED, lambda content: content.replace(b"\t", b"  ")),
    "a remark in Windows-1252": text(LABELLED, r"\(\)", "(r\u00e9sum\u00e9)"),
    "upper-case endings": upper,
    "what macOS leaves": apple,
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_does_no_harm_is_read_as_it_was(root: Path, kind: str) -> None:
    before = get(root, labels="all")
    HARMLESS[kind](root)
    if "1252" in kind:
        (root / LABELLED).write_bytes((root / LABELLED).read_text(encoding="utf-8").encode("cp1252"))
    after = get(root, labels="all")
    assert after.skipped == ()
    lower = after.manifest.assign(audio=after.manifest["audio"].str.replace(".WAV", ".wav"))
    pd.testing.assert_frame_equal(lower, before.manifest)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (text(SPOKEN, "Ses01F_impro01_M000 ", "M "), "1 of 100 utterances have no transcript, as Ses01F_impro01_M000"),
        (
            gone("Session1/sentences/ForcedAlignment/Ses01F_impro01/Ses01F_impro01_M000.syseg"),
            "1 of 100 utterances lack one of the alignments that are shipped with the corpus, as Ses01F_impro01_M000",
        ),
        (gone("Session1/sentences/ForcedAlignment"), "20 of 100 utterances lack one of the alignments"),
        (text(LABELLED, "Neutral;", "Awe;"), "1 votes are for no known emotion and not counted, as 'Awe' (1)"),
        (
            text(LABELLED, "C-E1:.*", "broken line here"),
            "1 lines are neither votes nor ratings and not counted, as 'broken line here' in "
            "Ses01F_impro01.txt, line 4",
        ),
        (text(LABELLED, "; dom.*", ""), "1 lines are neither votes nor ratings and not counted, as 'A-E3:"),
    ],
)
def test_what_is_missing_without_harm_is_noted(root: Path, change: Callable[[Path], object], note: str) -> None:
    change(root)
    corpus = get(root, labels="all")
    assert (len(corpus.manifest), corpus.skipped) == (100, ())
    assert any(found.startswith(note) for found in corpus.notes), corpus.notes


def test_usual_lines_of_votes_and_ratings_are_not_noted(root: Path) -> None:
    usual = "C-E2:\tNeutral;\t()\nC-F1:\tAnger; Other;\t(cross)\nC-M1:\t;\t()\n  \n"
    usual += "A-E3:\tval 3; act 2; dom  2;\t()\nA-M1:\tval 3; act 2; dom  ;\t()\nA-F1:\tval ; act ; dom ;\t()\n"
    text(LABELLED, "C-E1:", usual + "C-E1:")(root)
    assert not any("lines" in note or "votes are" in note for note in get(root, labels="all").notes)


@pytest.mark.parametrize(("mark", "lost"), [("\n[8.9501", 4), ("C-F1:\tAnger", 4), ("\n[12.5301", 1)])
def test_a_file_of_labels_that_is_cut_between_lines_is_noted_by_name(root: Path, mark: str, lost: int) -> None:
    content = (root / LABELLED).read_text()
    (root / LABELLED).write_text(content[: content.index(mark)])
    corpus = get(root, labels="all")
    assert (len(corpus.manifest), corpus.skipped) == (100 - lost, ())
    message = f"{lost} recordings have no label, as where a file of EmoEvaluation is cut short: Ses01F_impro01.txt"
    assert message in corpus.notes, corpus.notes


def test_a_folder_of_nothing_but_damage_is_an_error(root: Path) -> None:
    for path in root.glob("Session?/dialog/EmoEvaluation/*.txt"):
        path.write_text("")
    with pytest.raises(ManifestError, match="20 missing or damaged") as caught:
        get(root)
    assert "--partial" not in caught.value.remedy


# The miniature is what it says


def test_the_miniatures_alignments_fit_its_recordings_and_words(root: Path) -> None:
    for row in get(root, labels="all").manifest.itertuples():
        stem = root / f"Session{row.session}/sentences/ForcedAlignment/{row.dialogue}/{row.utterance}"
        tiers = {}
        for ending in ("wdseg", "phseg"):
            header, *lines, trailer = stem.with_suffix(f".{ending}").read_text().splitlines()
            assert header.split()[:3] == ["SFrm", "EFrm", "SegAScr"]
            cells = [line.split() for line in lines]
            assert trailer.split() == ["Total", "score:", str(sum(int(cell[2]) for cell in cells))]
            assert int(cells[0][0]) == 0
            assert all(int(after[0]) == int(before[1]) + 1 for before, after in pairwise(cells))
            assert (int(cells[-1][1]) + 1) / 100 == pytest.approx(row.duration)
            tiers[ending] = [cell[3] for cell in cells]
        words = [re.sub(r"\(\d\)", "", word) for word in tiers["wdseg"] if word[0] not in "<+"]
        assert words == re.sub(r"\[.*?\]|[.,!?]", "", str(row.text)).upper().split()
        syllables = [line.split()[2:] for line in stem.with_suffix(".syseg").read_text().splitlines()]
        assert list(chain(*syllables)) == [phone for phone in tiers["phseg"] if phone not in ("SIL", "++NOISE++")]


def test_the_miniature_has_every_mark_of_an_alignment(root: Path) -> None:
    found = "\n".join(path.read_text() for path in root.glob("Session1/sentences/ForcedAlignment/*/*"))
    for mark in ("<s>", "</s>", "<sil>", " SIL", "++NOISE++", "THE(2)"):
        assert mark in found


@pytest.mark.parametrize(
    ("content", "frames"),
    [("start = (SFrm + 2) / 100", 2), ("End time: (EFrm+1.5)*0.01 s", 1.5), ("ask us", None), (None, None)],
)
def test_the_offset_of_frames_is_settled_by_the_documentation_or_said(
    root: Path, content: str | None, frames: float | None
) -> None:
    if content is not None:
        (root / "Documentation").mkdir()
        (root / "Documentation" / "timeinfo.txt").write_text(content)
    corpus = get(root)
    assert any("timeinfo.txt" in note and "counted from 0" in note for note in corpus.notes) == (frames is None)
    one = next(row for row in utterances(corpus.manifest))
    assert one.audio is not None
    plain = read_iemocap(one.audio.parents[2] / "ForcedAlignment" / one.audio.parent.name / one.audio.stem)
    duration = float(corpus.manifest.loc[0, "duration"])
    moved = read_shipped(one, corpus="iemocap", duration=duration)
    assert moved["word"][0].start == pytest.approx(plain["word"][0].start + (frames or 0) / 100)
