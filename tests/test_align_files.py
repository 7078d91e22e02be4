"""Files of alignments: what is written is read back, and of whatever is wrong one sentence says what and where."""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from emofuse.align.again import GivenAlignments
from emofuse.align.coverage import coverage
from emofuse.align.fit import agreement, check_words
from emofuse.align.readers import read_emodb, read_iemocap, with_syllables
from emofuse.align.run import align_manifest
from emofuse.align.shipped import AlignmentFiles
from emofuse.align.table import read_alignments, read_keys, write_alignments
from emofuse.align.textgrid import read_textgrid, write_textgrid
from emofuse.align.writers import write_files
from emofuse.audio import SAMPLING_RATE
from emofuse.cli.app import app
from emofuse.errors import AlignmentError, EmofuseError, SettingsError
from emofuse.manifest import make_manifest, write_manifest
from emofuse.testing import tone
from emofuse.types import TIERS, Alignment, Segment, Tier, Utterance

Tiers = Mapping[Tier, tuple[Segment, ...]]


def triples(segments: Sequence[Segment]) -> list[tuple[float, float, str]]:
    return [(segment.start, segment.end, segment.label) for segment in segments]


# Round trips

LABELS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8).filter(
    lambda label: (
        label.lower() not in ("sil", "sp", "<eps>", "<sil>", "<p:>", "#", "<s>", "</s>")
        and not label.startswith((";;", "[", "+"))
        and label == label.strip()
    )
)
AWKWARD = st.sampled_from(['"', 'say"ah""', "5", "a[2]:", "'s", "0.5"])


@st.composite
def tiers(draw: st.DrawFn, *, plain: bool = False) -> dict[Tier, tuple[Segment, ...]]:
    """Segments in order, with gaps, to tenths of milliseconds."""
    found: dict[Tier, tuple[Segment, ...]] = {}
    for tier in draw(st.sets(st.sampled_from(TIERS), min_size=1)):
        marks = draw(st.lists(st.integers(0, 100_000), min_size=2, max_size=9, unique=True))
        times = [mark / 10_000 for mark in sorted(marks)]
        spans = [span for span in itertools.pairwise(times) if draw(st.booleans())] or [(0.5, 0.75)]
        names = [draw(st.sampled_from(["AH", "W ER D"]) if tier == "syllable" else AWKWARD | LABELS) for _ in spans]
        found[tier] = tuple(
            Segment(start=start, end=end, label=name) for (start, end), name in zip(spans, names, strict=True)
        )
    return {tier: found[tier] for tier in TIERS if tier in found}


@given(tiers())
@settings(max_examples=25, deadline=None)
def test_a_textgrid_is_read_as_it_was_written(found: Tiers) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.TextGrid"
        write_textgrid(found, path, duration=10.0)
        assert read_textgrid(path) == found


@given(st.lists(tiers(), min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_ctms_are_read_as_they_were_written(many: list[Tiers]) -> None:
    alignments = [Alignment(utterance=f"u{n}", tiers=found, source="sphinx") for n, found in enumerate(many)]
    with tempfile.TemporaryDirectory() as folder:
        write_files(alignments, Path(folder), style="ctm")
        files = AlignmentFiles(Path(folder))
        for alignment in alignments:
            read = files.read(Utterance(utterance=alignment.utterance), duration=10.0)
            for tier, segments in alignment.tiers.items():
                assert [one.label for one in read[tier]] == [one.label for one in segments]
                times = [[one.start, one.end] for one in read[tier]]
                np.testing.assert_allclose(times, [[one.start, one.end] for one in segments], atol=1e-8)


@given(tiers(), st.text(st.characters(codec="utf-8"), max_size=9))
@settings(max_examples=20, deadline=None)
def test_json_holds_all_of_an_alignment(found: Tiers, problem: str) -> None:
    alignment = Alignment(utterance="deep/a", tiers=found, source="ctc", problem=problem or None)
    with tempfile.TemporaryDirectory() as folder:
        [path] = write_files([alignment], Path(folder), style="json")
        assert path == Path(folder) / "deep" / "a.json"
        assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(asdict(alignment)))


@given(st.lists(st.one_of(tiers(), st.just({}), st.just({"word": (), "phone": ()})), max_size=4))
@settings(max_examples=20, deadline=None)
def test_a_table_is_read_as_it_was_written(many: list[Any]) -> None:
    alignments = [
        Alignment(utterance=f"u{n}", tiers=found, source="sphinx", problem=None if found else "too short")
        for n, found in enumerate(many)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "alignments.parquet"
        write_alignments(alignments, path, keys={"u0": "x"})
        assert read_alignments(path) == {one.utterance: one for one in alignments}
        assert list(read_alignments(path)) == [one.utterance for one in alignments]
        assert read_keys(path) == {"u0": "x"}


def test_an_independent_reader_takes_the_table(tmp_path: Path) -> None:
    word = Segment(start=0.1, end=0.4, label="hello")
    failed = Alignment(utterance="b", tiers={}, source="sphinx", problem="silent")
    path = tmp_path / "a.parquet"
    write_alignments([Alignment(utterance="a", tiers={"word": (word,)}, source="sphinx"), failed], path)
    frame = pd.read_parquet(path)
    assert list(frame.columns) == ["utterance", "tier", "start", "end", "label", "source", "problem", "note"]
    assert frame.loc[0].tolist()[:6] == ["a", "word", 0.1, 0.4, "hello", "sphinx"]
    assert frame.loc[1, ["utterance", "problem"]].tolist() == ["b", "silent"]
    assert frame.loc[1, ["tier", "start", "end", "label"]].isna().all()


# What other tools write

IEMOCAP = {
    ".wdseg": """\t SFrm  EFrm    SegAScr Word
\t    0    37     -53234 <s>
\t   38    64     -92134 EXCUSE
\t   65    80     -10234 ME(2)
\t   81    90      -3333 <sil>
\t   91    99      -4444 ++BREATHING++
\t  100   120      -5555 YEAH
\t  121   130      -6666 </s>
Total score:     -173580
""",
    ".syseg": """    38    52 IH_K
    53    64 S K Y UW Z
    65    80 M IY
   100   120 Y AE
""",
    ".phseg": """\t SFrm  EFrm    SegAScr Phone
\t    0    37     -53234 SIL
\t   38    45     -1000 IH SIL K b
\t   46    52     -1000 K IH S i
\t   53    64     -1000 S K Y e
\t   65    80     -1000 M SIL IY b
\t   81    99     -1000 +NOISE+
\t  100   120     -1000 Y SIL AE b
\t  121   130     -1000 SIL
Total score:     -173580
""",
}

LONG = '''File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2.5
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "speaker 1 - words"
        xmin = 0
        xmax = 2.5
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = ""
        intervals [2]:
            xmin = 0.5
            xmax = 1.25
            text = "say ""ah"""
        intervals [3]:
            xmin = 1.25
            xmax = 2.5
            text = "sp"
    item [2]:
        class = "IntervalTier"
        name = "speaker 1 - phones"
        xmin = 0
        xmax = 2.5
        intervals: size = 2
        intervals [1]:
            xmin = 0.5
            xmax = 1
            text = "S"
        intervals [2]:
            xmin = 1
            xmax = 1.25
            text = "EY1"
    item [3]:
        class = "TextTier"
        name = "bell"
        xmin = 0
        xmax = 2.5
        points: size = 1
        points [1]:
            number = 1.5
            mark = "ding [2]: 7"
'''

SHORT = '''File type = "ooTextFile"
Object class = "TextGrid"

0
2.5
<exists>
1
"IntervalTier"
"words"
0
2.5
3
0
0.5
""
0.5
1.25
"say ""ah"""
1.25
2.5
"sil"
'''

CTM = """;; comment
a 1 0.10 0.25 hello 0.98
a 1 0.35 0.40 there
b A 0.00 0.50 <eps>
b A 0.50 0.25 yes
"""

LABLAUT = """signal wochenAO
type 0
comment created using xlabel Wed Apr 26 12:59:18 2000
color 125
separator ;
nfields 1
#
    0.080109   -1 _t
    0.119160   -1 !t\t+asp
    0.144370   -1 E6
    0.244223   -1 l
    0.348031   -1 d\t-sth
    0.427091   -1 \t-lar
    0.509149   -1 !d
    0.551660   -1 (
    0.602575   -1 k
    0.698978   -1 kasp
    0.768183   -1 a-lar
    2.100000   -1 n
    2.200000   -1 .
"""

SILB = "0.080080\tder\n0.244195\tla\n0.427094\t(\n0.643428\tliegt\n1.841390\t.\n"


def iemocap(folder: Path, contents: Mapping[str, str] = IEMOCAP) -> Path:
    for ending, text in contents.items():
        (folder / f"a{ending}").write_bytes(text.encode())
    return folder / "a"


def test_the_files_of_iemocap(tmp_path: Path) -> None:
    found = read_iemocap(iemocap(tmp_path))
    assert triples(found["word"]) == [(0.38, 0.65, "EXCUSE"), (0.65, 0.81, "ME"), (1.0, 1.21, "YEAH")]
    assert triples(found["syllable"]) == [
        (0.38, 0.53, "IH K"), (0.53, 0.65, "S K Y UW Z"), (0.65, 0.81, "M IY"), (1.0, 1.21, "Y AE"),
    ]  # fmt: skip
    assert [one.label for one in found["phone"]] == ["IH", "K", "S", "M", "Y"]


IEMOCAP_KINDS: dict[str, Tier] = {"wdseg": "word", "syseg": "syllable", "phseg": "phone"}


@pytest.mark.parametrize("kind", IEMOCAP_KINDS)
def test_what_else_iemocap_ships_of_an_utterance_is_kept(kind: str, tmp_path: Path) -> None:
    whole = read_iemocap(iemocap(tmp_path))
    for number, damage in enumerate(DAMAGES[kind].values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        stem = iemocap(folder)
        damage(folder / f"a.{kind}")
        found = read_iemocap(stem)
        assert {tier: one for tier, one in found.items() if tier != IEMOCAP_KINDS[kind]} == {
            tier: one for tier, one in whole.items() if tier != IEMOCAP_KINDS[kind]
        }
        if kind == "syseg":
            # The words' phones, of which the sample has one vowel.
            assert triples(found["syllable"]) == [(0.38, 0.65, "IH K S"), (0.65, 0.81, "M"), (1.0, 1.21, "Y")]
        else:
            assert IEMOCAP_KINDS[kind] not in found


def test_syllables_of_iemocap_are_not_made_from_phones_alone(tmp_path: Path) -> None:
    contents = {".phseg": IEMOCAP[".phseg"]}
    assert list(read_iemocap(iemocap(tmp_path, contents))) == ["phone"]


def test_textgrids_long_and_short(tmp_path: Path) -> None:
    long, short, wide = tmp_path / "long.TextGrid", tmp_path / "short.TextGrid", tmp_path / "wide.TextGrid"
    long.write_text(LONG)
    short.write_text(SHORT)
    wide.write_text(LONG, encoding="utf-16")
    word = (Segment(start=0.5, end=1.25, label='say "ah"'),)
    phones = (Segment(start=0.5, end=1.0, label="S"), Segment(start=1.0, end=1.25, label="EY1"))
    assert read_textgrid(short) == {"word": word}
    assert read_textgrid(long) == read_textgrid(wide) == {"word": word, "phone": phones}
    assert triples(with_syllables(read_textgrid(long))["syllable"]) == [(0.5, 1.25, "S EY1")]


def spelt(*words: str) -> Tiers:
    """Words of these phones, each phone a tenth of a second, with a pause before each word."""
    found: dict[Tier, list[Segment]] = {"word": [], "phone": []}
    place = 0
    for number, word in enumerate(words):
        first = place = place + 1
        for label in word.split():
            found["phone"].append(Segment(start=place / 10, end=(place + 1) / 10, label=label))
            place += 1
        found["word"].append(Segment(start=first / 10, end=place / 10, label=f"w{number}"))
    return {tier: tuple(segments) for tier, segments in found.items()}


@pytest.mark.parametrize(
    ("words", "syllables"),
    [
        (("HH AH0 L OW1", "spn", "Y EH1 S"), ["HH AH0", "L OW1", "spn", "Y EH1 S"]),
        (("spn", "hh ah l ow"), ["spn", "hh ah", "l ow"]),
        (("HH AH0 L OW1", "ʃ øː n ow ɐ"), ["HH AH0", "L OW1", "ʃ øː n ow ɐ"]),
        (("HH M", "spn"), ["HH M", "spn"]),
        (("spn", "spn"), None),
        (("ɛ k s aj ɾ ə ŋ", "b ʊ k"), None),
        # What IPA and SAMPA write as ARPAbet does is not ARPAbet.
        (("n ow", "ɛ k s aj ɾ ə ŋ"), None),
        (("n OY", "S", "I C", "g a r t @ n"), None),
    ],
)
def test_a_word_of_unknown_phones_is_one_syllable(words: tuple[str, ...], syllables: list[str] | None) -> None:
    found = with_syllables(spelt(*words))
    assert (syllables is not None) == ("syllable" in found)
    if syllables is not None:
        assert [one.label for one in found["syllable"]] == syllables
        # The first phone begins the first syllable, the last ends the last.
        assert (found["syllable"][0].start, found["syllable"][-1].end) == (0.1, found["phone"][-1].end)


def test_a_pause_of_unknown_phones_makes_no_syllable() -> None:
    found = spelt("Y EH1 S", "spn")
    assert [one.label for one in with_syllables({**found, "word": found["word"][:1]})["syllable"]] == ["Y EH1 S"]


def test_a_ctm(tmp_path: Path) -> None:
    assert ctm_of(tmp_path, CTM, "a") == [(0.1, 0.35, "hello"), (0.35, 0.75, "there")]
    assert ctm_of(tmp_path, CTM, "b") == [(0.5, 0.75, "yes")]


def ctm_of(folder: Path, content: str, name: str) -> list[tuple[float, float, str]]:
    """What a user is given of one utterance."""
    (folder / "a.ctm").write_text(content)
    return triples(AlignmentFiles(folder / "a.ctm").read(Utterance(utterance=name), duration=10.0)["word"])


def test_boundaries_that_were_rounded_to_hundredths_meet(tmp_path: Path) -> None:
    """Beginning and length are rounded apart, so that their sum may be a hundredth beyond the next beginning."""
    found = ctm_of(tmp_path, "a 1 0.00 0.34 hello\na 1 0.33 0.20 there\na 1 0.53 0.01 a\na 1 0.53 0.10 b\n", "a")
    assert found == [(0.0, 0.33, "hello"), (0.33, 0.53, "there"), (0.53, 0.53, "a"), (0.53, 0.63, "b")]
    with pytest.raises(AlignmentError, match=r"'there' at 0.328 s, before"):
        ctm_of(tmp_path, "a 1 0.00 0.34 hello\na 1 0.328 0.20 there\n", "a")


@given(st.lists(st.floats(0.006, 0.5), min_size=2, max_size=30))
@settings(max_examples=50, deadline=None)
def test_no_rounding_to_hundredths_makes_a_ctm_unreadable(lengths: list[float]) -> None:
    times = [0.0, *itertools.accumulate(lengths)]
    lines = [
        f"a 1 {start:.2f} {end - start:.2f} w{place}\n" for place, (start, end) in enumerate(itertools.pairwise(times))
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.ctm"
        path.write_text("".join(lines))
        found = AlignmentFiles(path).read(Utterance(utterance="a"), duration=20.0)["word"]
    assert [one.label for one in found] == [f"w{place}" for place in range(len(lengths))]
    for one, (start, end) in zip(found, itertools.pairwise(times), strict=True):
        assert one.start == pytest.approx(start, abs=0.006)
        assert one.end == pytest.approx(end, abs=0.011)
    assert all(one.end <= two.start for one, two in itertools.pairwise(found))


def test_what_is_wrong_with_one_utterance_of_a_ctm_costs_no_other(tmp_path: Path) -> None:
    path = make_audio(tmp_path / "audio")
    (tmp_path / "words.ctm").write_text(
        "good 1 0.5 0.25 yes\ntorn 1 0.5 0.25 yes\ntorn 1 0.75\nlate 1 soon 0.2 no\n"
        "both 1 0.5 0.25 yes\nboth 1 0.6 0.25 no\nlast 1 0.5 0.25 yes\n"
    )
    rows = [{"utterance": name, "audio": str(path)} for name in ("good", "torn", "late", "both", "last")]
    found = align_manifest(make_manifest(rows, source="test"), files=tmp_path / "words.ctm")
    for name in ("good", "last"):
        assert triples(found[name].tiers["word"]) == [(0.5, 0.75, "yes")]
        assert found[name].problem is None
    for name, problem in (
        ("torn", "the line has 3 columns"),
        ("late", "'soon' is no time"),
        ("both", "before the segment"),
    ):
        assert found[name].tiers == {}
        assert problem in str(found[name].problem)


def emodb(folder: Path, *, phones: str | None = LABLAUT, syllables: str | None = SILB) -> Path:
    for kind, name, text in (("lablaut", "03a01Faxx.lablaut", phones), ("silb", "03a01Fa.silb", syllables)):
        (folder / kind).mkdir(exist_ok=True)
        if text is not None:
            (folder / kind / name).write_bytes(text.encode("latin-1"))
    return folder


def test_the_hand_labels_of_emodb(tmp_path: Path) -> None:
    found = read_emodb(emodb(tmp_path), "03a01Fa", duration=2.0)
    # Labels say where segments begin; parts of a plosive are one phone; beyond 2 s is another recording.
    assert triples(found["phone"]) == [
        (0.080109, 0.14437, "t"),
        (0.14437, 0.244223, "E6"),
        (0.244223, 0.348031, "l"),
        (0.348031, 0.55166, "d"),
        (0.602575, 0.768183, "k"),
        (0.768183, 2.0, "a"),
    ]
    assert [one[2] for one in triples(found["syllable"])] == ["der", "la", "liegt"]
    assert found["syllable"][-1].end == 1.84139
    # Some clips have no phones, or syllables in the older format alone.
    (tmp_path / "lablaut" / "03a01Faxx.lablaut").write_text(LABLAUT.split("#")[0] + "#\n")
    (tmp_path / "silb" / "03a01Fa.silb").write_text("")
    (tmp_path / "labsilb").mkdir()
    (tmp_path / "labsilb" / "03a01Fa.labsilb").write_text("signal x\n#\n 0.1 -1 der\t0.4\n 0.2 -1 .\n")
    assert {tier: triples(one) for tier, one in read_emodb(tmp_path, "03a01Fa", duration=2.0).items()} == {
        "syllable": [(0.1, 0.2, "der")]
    }


# Damage: each changes the bytes of a good file, or puts something else in its place.

Damage = Callable[[Path], None]


def put(content: bytes) -> Damage:
    return lambda path: void(path.write_bytes(content))


def change(old: str, new: str) -> Damage:
    def do(path: Path) -> None:
        text = path.read_bytes().decode()
        assert old in text, f"{old!r} is not in the sample"
        path.write_bytes(text.replace(old, new, 1).encode())

    return do


def void(_: object) -> None:
    """Throw a result away."""


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def huge(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(80 << 20)


def twice(path: Path) -> None:
    path.write_bytes(path.read_bytes() * 2)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


EVERYWHERE: dict[str, Damage] = {
    "absent": lambda path: path.unlink(),
    "folder": folder_instead,
    "empty": put(b""),
    "blank": put(b" \n\t\n\n"),
    "zeros": put(b"\0" * 400),
    "picture": put(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10"),
    "page": put(b"<!DOCTYPE html><html><body>404 Not Found, sorry about that</body></html>"),
    "noise": put(bytes(range(128, 256)) * 3),
    "prose": put(b"This is a readme. It has words\nand lines, and no times.\n"),
    "huge": huge,
    "twice": twice,
}


def times(good: str) -> dict[str, Damage]:
    """A time in the sample replaced by what is no time."""
    bad = ("abc", "nan", "inf", "-1", "1e999", "0x10", "1,5", "\u0661")
    return {f"time {value}": change(good, good[0] + value + good[-1]) for value in bad}


DAMAGES: dict[str, dict[str, Damage]] = {
    "wdseg": {
        **EVERYWHERE,
        **times(" 38 "),
        "cut": cut,
        "overlap": change("   65    80", "   60    80"),
        "backwards": change("   38    64", "   64    38"),
        "no header": change("\t SFrm  EFrm    SegAScr Word\n", ""),
        "no score": change("Total score:     -173580\n", ""),
        "no label": change("-92134 EXCUSE", "-92134"),
        "half a frame": change("   38 ", "   38.5 "),
    },
    "syseg": {
        **EVERYWHERE,
        **times(" 38 "),
        "overlap": change("    65    80", "    60    80"),
        "backwards": change("    38    52", "    52    38"),
        "no label": change("M IY", ""),
        "half a frame": change(" 38 ", " 38.5 "),
    },
    "phseg": {
        **EVERYWHERE,
        **times(" 38 "),
        "cut": cut,
        "overlap": change("   65    80", "   60    80"),
        "backwards": change("   38    45", "   45    38"),
        "no header": change("\t SFrm  EFrm    SegAScr Phone\n", ""),
        "no score": change("Total score:     -173580\n", ""),
    },
    "textgrid": {
        **EVERYWHERE,
        **times(" 0.5\n"),
        "cut": cut,
        "overlap": change("xmin = 1\n", "xmin = 0.7\n"),
        "backwards": change("xmax = 1.25\n", "xmax = 0.25\n"),
        "too many": change("intervals: size = 2", "intervals: size = 3"),
        "half a tier": change("size = 3", "size = 2.5"),
        "less than none": change("size = 3", "size = -3"),
        "open quotation": change('text = "S"', 'text = "S'),
        "label without quotation": change('text = "S"', "text = 5"),
        "strange names": lambda path: void(path.write_text(LONG.replace("words", "mots").replace("phones", "sons"))),
        "two speakers": change("speaker 1 - phones", "speaker 2 - words"),
    },
    "ctm": {
        **EVERYWHERE,
        **times(" 0.10 "),
        "overlap": change("a 1 0.35", "a 1 0.15"),
        "too few columns": change(" there", ""),
        "too many columns": change(" there", " there 0.5 x y"),
        "commas": lambda path: void(path.write_text(CTM.replace(" ", ","))),
    },
    "lablaut": {
        **EVERYWHERE,
        **times(" 0.244223 "),
        "no head": change("#\n", ""),
        "backwards": change("0.144370", "0.344370"),
        "no colour": change("0.244223   -1 l", "0.244223"),
        "no marks": lambda path: void(path.write_text(LABLAUT.split("#")[0] + "#\n")),
    },
    "silb": {
        **EVERYWHERE,
        **{name.replace("time", "first"): change("0.244195", name[5:]) for name in times(" 1 ")},
        "backwards": change("0.244195", "0.044195"),
        "three columns": change("la", "la 0.4"),
    },
}


def sample(kind: str, folder: Path) -> tuple[Path, Callable[[], Any]]:
    """A good file, and what reads it."""
    if kind in ("wdseg", "syseg", "phseg"):
        stem = iemocap(folder, {f".{kind}": IEMOCAP[f".{kind}"]})
        return folder / f"a.{kind}", lambda: read_iemocap(stem)
    if kind == "lablaut":
        emodb(folder, syllables=None)
        return folder / "lablaut" / "03a01Faxx.lablaut", lambda: read_emodb(folder, "03a01Fa", duration=2.0)
    if kind == "silb":
        emodb(folder, phones=None)
        return folder / "silb" / "03a01Fa.silb", lambda: read_emodb(folder, "03a01Fa", duration=2.0)
    path = folder / f"a.{kind}"
    if kind == "ctm":
        path.write_text(CTM)
        return path, lambda: AlignmentFiles(path).read(Utterance(utterance="a"), duration=10.0)
    path.write_text(LONG)
    return path, lambda: read_textgrid(path)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, damages in DAMAGES.items() for name in damages])
def test_damage_is_reported_in_one_sentence(kind: str, name: str, tmp_path: Path) -> None:
    path, read = sample(kind, tmp_path)
    assert read()
    DAMAGES[kind][name](path)
    with pytest.raises(AlignmentError) as caught:
        read()
    error = caught.value
    # Where a clip's only file is gone or empty, it is its place that lacks it.
    absent = str(tmp_path) if error.what.startswith(("there are no hand labels", "there is no .wdseg")) else str(path)
    assert error.where is not None
    assert error.where.startswith(absent)
    assert str(error) == f"{error.where}: {error.what}; {error.remedy}."
    assert "\n" not in str(error)
    assert 5 < len(error.what) < 150
    assert len(error.remedy) > 5


def test_every_reader_is_damaged_in_twenty_ways() -> None:
    assert {kind: len(damages) for kind, damages in DAMAGES.items() if len(damages) < 20} == {}


@pytest.mark.parametrize("kind", DAMAGES)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_random_damage_gives_segments_in_order_or_one_error(kind: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, read = sample(kind, Path(folder))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(0, len(content) - 1))
            if data.draw(st.booleans()):
                content[place] = data.draw(st.integers(0, 255))
            else:
                del content[place : place + data.draw(st.integers(1, 40))]
            content = content or bytearray(b" ")
        path.write_bytes(bytes(content))
        try:
            found = read()
        except AlignmentError:
            return
        tiers = found.tiers if isinstance(found, Alignment) else found
        for segments in tiers.values():
            for one, two in itertools.pairwise(segments):
                assert 0 <= one.start <= one.end <= two.start <= two.end < float("inf")


# The table


def damaged(frame: pd.DataFrame, **cells: Any) -> pd.DataFrame:
    frame = frame.astype(object)
    for column, value in cells.items():
        frame.loc[1, column] = value
    return frame


WORDS = Alignment(
    utterance="a",
    tiers={"word": tuple(Segment(start=n / 10, end=n / 10 + 0.1, label=f"w{n}") for n in range(4))},
    source="sphinx",
)


@pytest.mark.parametrize(
    ("what", "make"),
    [
        ("'utterance'", lambda f: damaged(f, utterance=None)),
        ("'utterance'", lambda f: damaged(f, utterance=" ")),
        ("none of word, syllable, phone", lambda f: damaged(f, tier="sentence")),
        ("without tier", lambda f: damaged(f, tier=None)),
        ("'source'", lambda f: damaged(f, source=None)),
        ("without tier or label", lambda f: damaged(f, label=None)),
        ("seconds in order", lambda f: damaged(f, start=-0.1)),
        ("seconds in order", lambda f: damaged(f, start=9.0)),
        ("seconds in order", lambda f: damaged(f, end=float("inf"))),
        ("seconds in order", lambda f: damaged(f, start=None)),
        ("seconds in order", lambda f: damaged(f, end=None)),
        ("another source", lambda f: damaged(f, source="ctc")),
        ("another source", lambda f: damaged(f, problem="odd")),
        ("begins before", lambda f: f.iloc[[1, 0, 2, 3]]),
        ("'tier' is missing", lambda f: f.drop(columns="tier")),
        ("'problem' is missing", lambda f: f.drop(columns="problem")),
        ("'utterance' is missing", lambda f: pd.DataFrame({"x": [1]})),
        ("seconds in order", lambda f: f.assign(start=["a", "b", "c", "d"])),
    ],
)
def test_a_bad_table_is_refused(what: str, make: Callable[[pd.DataFrame], pd.DataFrame], tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_alignments([WORDS], path)
    make(pd.read_parquet(path)).to_parquet(path)
    with pytest.raises(AlignmentError, match=what) as caught:
        read_alignments(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("damage", ["absent", "folder", "empty", "prose", "cut"])
def test_what_is_no_table_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_alignments([WORDS], path)
    {**EVERYWHERE, "cut": cut}[damage](path)
    for read in (read_alignments, read_keys):
        with pytest.raises(AlignmentError) as caught:
            read(path)
        assert caught.value.where == str(path)


# What is reported of a corpus


def test_one_reason_of_many_is_reported_once(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for name in "abc":
        own = {"audio": str(make_audio(tmp_path / "audio", name=f"{name}.wav")), "text": "yes"}
        rows += [{**own, "utterance": f"emodb/{name}", "corpus": "emodb"}, {**own, "utterance": name}]
    (tmp_path / "words.ctm").write_text("d 1 0.5 0.25 yes\n")
    shipped = align_manifest(make_manifest(rows[::2], source="test"), aligner="shipped")
    given = align_manifest(make_manifest(rows[1::2], source="test"), files=tmp_path / "words.ctm")
    assert [line.split(":")[0] for line in coverage(shipped.values()).reasons()] == ["3 not aligned"]
    assert [line.split(":")[0] for line in coverage(given.values()).reasons()] == ["3 not aligned"]


def test_tiers_that_are_not_there_are_reported_by_their_source() -> None:
    phone = {"phone": WORDS.tiers["word"]}
    found = [
        Alignment(utterance="a", tiers={**WORDS.tiers, **phone}, source="sphinx"),
        Alignment(utterance="b", tiers=phone, source="shipped"),
        Alignment(utterance="c", tiers={"word": (), **phone}, source="sphinx"),
        Alignment(utterance="d", tiers={}, source="sphinx", problem="silent"),
    ]
    assert coverage(found).lacks() == [
        "word: 2 of 3 aligned utterances have none (shipped 1, sphinx 1)",
        "syllable: 3 of 3 aligned utterances have none (shipped 1, sphinx 2)",
    ]
    assert coverage(found[3:]).lacks() == []


# Alignments that are at hand


def make_audio(folder: Path, seconds: float = 3.0, name: str = "a.wav") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / name, tone(seconds, seed=0), SAMPLING_RATE)
    return folder / name


def test_a_corpus_that_ships_alignments_is_read(tmp_path: Path) -> None:
    sentences = tmp_path / "Session1" / "sentences"
    path = make_audio(sentences / "wav" / "Ses01F_impro01", name="a.wav")
    bare = make_audio(sentences / "wav" / "Ses01F_impro01", name="b.wav")
    (sentences / "ForcedAlignment" / "Ses01F_impro01").mkdir(parents=True)
    iemocap(sentences / "ForcedAlignment" / "Ses01F_impro01")
    short = make_audio(tmp_path / "emodb" / "wav", seconds=2.0, name="03a01Fa.wav")
    emodb(tmp_path / "emodb")
    rows = [
        {"utterance": "a", "corpus": "iemocap", "audio": str(path), "text": "Excuse me."},
        {"utterance": "b", "corpus": "iemocap", "audio": str(bare), "text": "Excuse me."},
        {"utterance": "emodb/03a01Fa", "corpus": "emodb", "audio": str(short), "text": "Der Lappen", "language": "de"},
    ]
    found = align_manifest(make_manifest(rows, source="test"), jobs=1)
    assert {name: one.source for name, one in found.items()} == dict.fromkeys(found, "shipped")
    assert [one.label for one in found["a"].tiers["word"]] == ["EXCUSE", "ME", "YEAH"]
    assert "there is no .wdseg, .syseg, .phseg" in str(found["b"].problem)
    assert [one.label for one in found["emodb/03a01Fa"].tiers["syllable"]] == ["der", "la", "liegt"]
    other = make_manifest([{**rows[0], "corpus": "mine"}], source="test")
    assert "ships no alignments" in str(align_manifest(other, aligner="shipped")["a"].problem)


def test_what_is_shipped_is_of_the_reference_alone(tmp_path: Path) -> None:
    """With recognised words, boundaries of the reference would be wrong."""
    sentences = tmp_path / "Session1" / "sentences"
    path = make_audio(sentences / "wav" / "Ses01F_impro01", name="a.wav")
    (sentences / "ForcedAlignment" / "Ses01F_impro01").mkdir(parents=True)
    iemocap(sentences / "ForcedAlignment" / "Ses01F_impro01")
    short = make_audio(tmp_path / "emodb" / "wav", seconds=2.0, name="03a01Fa.wav")
    emodb(tmp_path / "emodb")
    english = {"corpus": "iemocap", "audio": str(path), "text": "Excuse me."}
    rows = [
        {**english, "utterance": "not stated"},
        {**english, "utterance": "given", "text_source": "reference"},
        {**english, "utterance": "recognised", "text": "accuse", "text_source": "whisper base"},
        {**english, "utterance": "unheard", "text": None, "text_source": "sphinx"},
        {**english, "utterance": "said", "text": "So good!", "text_source": "whisper base", "spoken": "Excuse me."},
        {"utterance": "german", "corpus": "emodb", "audio": str(short), "text": "Der", "text_source": "whisper base",
         "language": "de"},
    ]  # fmt: skip
    manifest = make_manifest(rows, source="test")
    found = align_manifest(manifest, jobs=1)
    assert {name for name, one in found.items() if one.source == "shipped"} == {"not stated", "given", "said"}
    assert [one.label for one in found["recognised"].tiers["word"]] == ["accuse"]
    assert "no transcript" in str(found["unheard"].problem)
    assert "knows en only" in str(found["german"].problem)
    assert coverage(found.values()).sources == {"shipped": 3, "sphinx": 1}
    assert {one.source for one in align_manifest(manifest, aligner="shipped").values()} == {"shipped"}


def test_textgrids_of_another_aligner_are_found(tmp_path: Path) -> None:
    path = make_audio(tmp_path / "audio")
    (tmp_path / "grids" / "speaker").mkdir(parents=True)
    (tmp_path / "grids" / "speaker" / "a.TextGrid").write_text(LONG)
    rows = [
        {"utterance": "whole", "audio": str(path)},
        {"utterance": "part", "audio": str(path), "start": 0.25, "end": 2.0},
        {"utterance": "short", "audio": str(path), "start": 0.0, "end": 0.8},
        {"utterance": "other", "audio": str(make_audio(tmp_path / "audio", name="b.wav"))},
    ]
    found = align_manifest(make_manifest(rows, source="test"), files=tmp_path / "grids")
    assert triples(found["whole"].tiers["word"]) == [(0.5, 1.25, 'say "ah"')]
    assert triples(found["part"].tiers["word"]) == [(0.25, 1.0, 'say "ah"')]
    assert list(found["part"].tiers) == list(TIERS)
    assert found["short"].tiers["word"] == ()
    assert triples(found["short"].tiers["phone"]) == [(0.5, 0.8, "S")]
    assert "no alignment of it" in str(found["other"].problem)
    assert {one.source for one in found.values()} == {"textgrid"}


def test_textgrids_of_one_name_are_distinguished_by_their_folder(tmp_path: Path) -> None:
    grids = [tmp_path / "grids" / name for name in ("B/a.TextGrid", "s/a.TextGrid", "s/b.TextGrid", "b.TextGrid")]
    for grid in grids:
        write_textgrid(WORDS.tiers, grid, duration=1.0)
    write_textgrid({"word": WORDS.tiers["word"][:1]}, grids[3], duration=1.0)
    rows = [{"utterance": name, "audio": str(make_audio(tmp_path / "audio", name=f"{name[-1]}.wav"))} for name in "ab"]
    found = align_manifest(make_manifest(rows, source="test"), files=tmp_path / "grids")
    assert "two TextGrids" in str(found["a"].problem)
    # A path is a name of its own, whatever else is called so.
    assert len(found["b"].tiers["word"]) == 1
    files = AlignmentFiles(tmp_path / "grids")
    assert len(files.read(Utterance(utterance="s/a"), duration=1.0)["word"]) == 4


def test_an_alignment_of_a_longer_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ctm").write_text("a 1 0.5 0.6 yes\nb 1 0.5 2.0 yes\n")
    files = AlignmentFiles(tmp_path / "a.ctm")
    assert files.read(Utterance(utterance="a"), duration=1.05)["word"][0].end == 1.05
    with pytest.raises(AlignmentError, match=r"ends at 2.50 s and the audio at 1.00 s"):
        files.read(Utterance(utterance="b"), duration=1.0)
    with pytest.raises(AlignmentError, match="no alignments here"):
        AlignmentFiles(tmp_path / "none")


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/a", "a\\b", "a\0b", ""])
def test_no_name_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    alignment = Alignment(utterance=name, tiers=WORDS.tiers, source="sphinx")
    for style in ("textgrid", "json"):
        with pytest.raises(AlignmentError, match="cannot be that of a file"):
            write_files([alignment], tmp_path / "out", style=style)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_ctm_cannot_hold_white_space(tmp_path: Path) -> None:
    alignment = Alignment(utterance="my clip", tiers=WORDS.tiers, source="sphinx")
    with pytest.raises(AlignmentError, match="cannot stand in a CTM"):
        write_files([alignment], tmp_path, style="ctm")


# The command


def test_the_command_aligns_writes_and_counts(tmp_path: Path) -> None:
    path = make_audio(tmp_path / "audio")
    (tmp_path / "words.ctm").write_text("a 1 0.5 0.25 yes\n")
    rows = [{"utterance": name, "audio": str(path), "text": "yes"} for name in ("a", "b")]
    write_manifest(make_manifest(rows, source="test"), tmp_path / "m.parquet")
    out, folder = tmp_path / "out.parquet", tmp_path / "files"
    command = ["align", str(tmp_path / "m.parquet"), "--out", str(out), "--from", str(tmp_path / "words.ctm")]
    done = CliRunner().invoke(app, [*command, "--write", "textgrid", "--folder", str(folder)])
    assert done.exit_code == 1
    assert "2 utterances, aligned by word 50.0 %, syllable 0.0 %, phone 0.0 % (ctm 1)" in done.output
    assert (
        "1 not aligned: there is no alignment of it; align it, or name it as those here are, such as 'a' (b)"
        in done.output
    )
    assert "syllable: 1 of 1 aligned utterances have none (ctm 1)" in done.output
    assert "word: " not in done.output
    assert [path.name for path in folder.iterdir()] == ["a.TextGrid"]
    assert read_textgrid(folder / "a.TextGrid") == read_alignments(out)["a"].tiers
    write_manifest(make_manifest(rows[:1], source="test"), tmp_path / "m.parquet")
    assert CliRunner().invoke(app, command).exit_code == 0


@pytest.mark.parametrize("options", [["--write", "elan", "--folder", "x"], ["--write", "ctm"], ["--folder", "x"]])
def test_the_command_refuses_half_an_order(options: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["align", "m.parquet", "--out", str(tmp_path / "o.parquet"), *options])
    assert isinstance(done.exception, SettingsError)
    assert isinstance(done.exception, EmofuseError)


def test_json_is_plain(tmp_path: Path) -> None:
    [path] = write_files([WORDS], tmp_path, style="json")
    assert json.loads(path.read_text())["tiers"]["word"][0] == {"start": 0.0, "end": 0.1, "label": "w0"}


# Files that do not fit


def grids(folder: Path, content: str, name: str = "a.TextGrid", *, encoding: str = "utf-8") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content.encode(encoding))
    return folder


def times(content: str, convert: Callable[[float], str]) -> str:
    return re.sub(r"(xmin|xmax) = ([\d.]+)", lambda found: f"{found[1]} = {convert(float(found[2]))}", content)


HARMLESS_GRIDS: dict[str, Callable[[Path], Path]] = {
    "fewer intervals announced": lambda folder: grids(
        folder, LONG.replace("intervals: size = 3", "intervals: size = 1")
    ),
    "fewer intervals announced, short": lambda folder: grids(folder, SHORT.replace("\n3\n0\n", "\n2\n0\n")),
    "fewer tiers announced": lambda folder: grids(folder, LONG.replace("size = 3\nitem", "size = 1\nitem")),
    "decimal commas": lambda folder: grids(folder, times(LONG, lambda time: str(time).replace(".", ","))),
    "times of the file that it was cut from": lambda folder: grids(folder, times(LONG, lambda time: f"{time + 10}")),
    "capitals in the ending": lambda folder: grids(folder, LONG, "a.TEXTGRID"),
    "small letters in the ending": lambda folder: grids(folder, LONG, "a.textgrid"),
    "UTF-16": lambda folder: grids(folder, LONG, encoding="utf-16"),
    "UTF-16 without a mark": lambda folder: grids(folder, LONG, encoding="utf-16-be"),
}


@pytest.mark.parametrize("kind", HARMLESS_GRIDS)
def test_a_textgrid_is_read_as_programs_write_it(tmp_path: Path, kind: str) -> None:
    files = AlignmentFiles(HARMLESS_GRIDS[kind](tmp_path / "grids"))
    found = files.read(Utterance(utterance="a"), duration=2.5)
    assert triples(found["word"]) == [(0.5, 1.25, 'say "ah"')]
    assert files.doubt is None


@pytest.mark.parametrize(
    ("convert", "said"),
    [
        (lambda time: f"{time * 1000:.0f}", "milliseconds"),
        (lambda time: f"{time * 16000:.0f}", "samples"),
        (lambda time: f"{time * 44100:.0f}", "samples"),
        (lambda time: f"{time * 100:.0f}", "frames"),
        (lambda time: f"{time * 2}", "same recording"),
    ],
)
def test_times_of_another_unit_are_named(tmp_path: Path, convert: Callable[[float], str], said: str) -> None:
    files = AlignmentFiles(grids(tmp_path, times(LONG, convert)))
    with pytest.raises(AlignmentError, match=said):
        files.read(Utterance(utterance="a"), duration=2.5)
    end = float(convert(2.5))
    (tmp_path / "a.ctm").write_text(f"a 1 0.0 {end} yes\n")
    with pytest.raises(AlignmentError, match=said):
        AlignmentFiles(tmp_path / "a.ctm").read(Utterance(utterance="a"), duration=2.5)


def test_words_that_nobody_could_say_so_fast_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.ctm").write_text("".join(f"a 1 {place / 600:.4f} 0.0016 so\n" for place in range(5)))
    found = AlignmentFiles(tmp_path / "w.ctm").read(Utterance(utterance="a"), duration=2.0)
    with pytest.raises(AlignmentError, match=r"its 5 words take 0\.008 s; write its times in seconds"):
        check_words("so so so so so", found, language="en")


def test_given_alignments_are_found_in_another_unicode_form(tmp_path: Path) -> None:
    write_alignments([replace(WORDS, utterance="Zo\u00eb")], tmp_path / "a.parquet")
    assert isinstance(GivenAlignments(tmp_path / "a.parquet").of(tmp_path / "Zoe\u0308.wav"), Alignment)


def test_a_textgrid_of_a_shorter_recording_is_doubted(tmp_path: Path) -> None:
    path = make_audio(tmp_path / "audio", seconds=5.0)
    rows = [{"utterance": "a", "audio": str(path)}]
    found = align_manifest(make_manifest(rows, source="test"), files=grids(tmp_path / "grids", LONG))
    assert "ends before the audio" in str(found["a"].note)
    assert found["a"].tiers["word"]
    assert [line for line in coverage(found.values()).doubts() if line.startswith("1 doubtful: the file of its")]


@pytest.mark.parametrize(
    ("text", "labels", "language", "least", "most"),
    [
        ("Kids are talking.", ["KIDS", "are", "talking"], "en", 1.0, 1.0),
        ("It's 25 %, isn't it?", ["it's", "twenty", "five", "percent", "isn't", "it"], None, 1.0, 1.0),
        ("don't", ["dont"], "en", 1.0, 1.0),
        ("Der Käse ist da", ["der", "kase", "<unk>", "da"], "de", 1.0, 1.0),
        ("one two three four", ["one", "two", "spn", "four"], "en", 1.0, 1.0),
        ("one two three four", ["two", "one", "four", "three"], "en", 0.5, 0.75),
        ("kids are talking by the door", ["completely", "different", "utterance"], "en", 0.0, 0.1),
        ("one two three four", ["one", "two"], "en", 0.6, 0.7),
        ("你好吗朋友", ["你好", "吗", "朋友"], "zh", 1.0, 1.0),
        ("你好吗朋友", ["再见", "了"], "zh", 0.0, 0.1),
    ],
)
def test_how_far_words_agree(text: str, labels: list[str], language: str | None, least: float, most: float) -> None:
    found = agreement(text, labels, language=language)
    assert found is not None
    assert least <= found <= most


@pytest.mark.parametrize(("text", "labels"), [("你好", ["ni", "hao"]), ("...", ["a"]), ("a", ["<unk>"])])
def test_what_cannot_be_compared_is_no_fault(text: str, labels: list[str]) -> None:
    assert agreement(text, labels, language="zh") is None


def test_alignments_of_other_words_are_refused_and_of_some_doubted(tmp_path: Path) -> None:
    path = make_audio(tmp_path / "audio")
    lines = {"right": "yes we can", "some": "yes we go now", "other": "completely different utterance", "late": "yes"}
    words = "".join(
        f"{name} 1 {0.3 * at:.1f} 0.2 {word}\n" for name, text in lines.items() for at, word in enumerate(text.split())
    )
    (tmp_path / "w.ctm").write_text(words.replace("late 1 0.0 0.2", "late 1 -1 nan"))
    rows = [{"utterance": name, "audio": str(path), "text": "Yes, we can"} for name in lines]
    found = align_manifest(make_manifest(rows, source="test"), files=tmp_path / "w.ctm")
    assert found["right"].tiers["word"]
    assert found["right"].note is None
    assert found["some"].note == "some of its words are not those of the transcript"
    assert "not those of the transcript" in str(found["other"].problem)
    # A damaged line costs its own utterance only.
    assert "'-1' is no time" in str(found["late"].problem)


def test_names_in_another_unicode_form_are_found(tmp_path: Path) -> None:
    (tmp_path / "w.ctm").write_text("Zoe\u0308 1 0.5 0.6 yes\n", encoding="utf-8")
    assert AlignmentFiles(tmp_path / "w.ctm").read(Utterance(utterance="Zoë"), duration=2.0)["word"]
    assert AlignmentFiles(grids(tmp_path / "g", LONG, "Zoe\u0308.TextGrid")).read(
        Utterance(utterance="Zoë"), duration=2.5
    )["word"]


def test_names_that_match_nothing_are_shown(tmp_path: Path) -> None:
    (tmp_path / "w.ctm").write_text("spk1-u1 1 0.5 0.6 yes\n")
    with pytest.raises(AlignmentError, match="such as 'spk1-u1'"):
        AlignmentFiles(tmp_path / "w.ctm").read(Utterance(utterance="u1"), duration=2.0)


def test_a_pointer_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 72862\n"
    (tmp_path / "w.ctm").write_text(pointer)
    with pytest.raises(AlignmentError, match="git lfs pull"):
        AlignmentFiles(tmp_path / "w.ctm")
    files = AlignmentFiles(grids(tmp_path / "g", pointer))
    with pytest.raises(AlignmentError, match="git lfs pull"):
        files.read(Utterance(utterance="a"), duration=2.0)


def test_notes_survive_every_form(tmp_path: Path) -> None:
    doubted = replace(WORDS, note="hardly fits")
    write_alignments([doubted], tmp_path / "a.parquet")
    assert read_alignments(tmp_path / "a.parquet")[doubted.utterance] == doubted
    [path] = write_files([doubted], tmp_path, style="json")
    assert json.loads(path.read_text())["note"] == "hardly fits"


@pytest.mark.parametrize(
    "label",
    ['say "so"', 'a"\nitem [2]:\n class = "IntervalTier', "a\u2028b", "\x1b[31mred", "a\tb", '"', "IntervalTier"],
)
def test_words_of_tables_obey_no_format(tmp_path: Path, label: str) -> None:
    word = Segment(start=0.1, end=0.4, label=label)
    alignment = Alignment(utterance="a", tiers={"word": (word,)}, source="sphinx")
    [grid] = write_files([alignment], tmp_path, style="textgrid", durations={"a": 1.0})
    [found] = read_textgrid(grid)["word"]
    assert (found.start, found.end) == (0.1, 0.4)
    assert found.label.split() == "".join(sign if sign.isprintable() else " " for sign in label).split()
    assert "\x1b" not in grid.read_text(encoding="utf-8")
    [path] = write_files([alignment], tmp_path, style="json")
    assert json.loads(path.read_text(encoding="utf-8"))["tiers"]["word"] == [asdict(word)]
    if label.isprintable() and " " not in label:
        write_files([alignment], tmp_path, style="ctm")
    else:
        with pytest.raises(AlignmentError, match="cannot stand in a CTM"):
            write_files([alignment], tmp_path, style="ctm")
