"""Whatever is wrong with a file, one error of the right class says what, where and what to do, in one sentence."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from emofuse.audio import SAMPLING_RATE, audio_duration, content_key, load_audio
from emofuse.corpora import Corpus, read_corpus
from emofuse.errors import AudioError, EmofuseError, ManifestError
from emofuse.inputs import nearest

NOISE = (0.1 * np.random.default_rng(0).standard_normal(SAMPLING_RATE)).astype(np.float32)


def check_place(error: EmofuseError, path: Path) -> None:
    """One line that begins with the file and ends with a remedy."""
    message = str(error)
    assert error.where is not None
    assert str(path) in error.where
    assert message == f"{error.where}: {error.what}; {error.remedy}."
    assert len(error.what) > 5
    assert len(error.remedy) > 5
    assert "\n" not in message


def check_message(error: EmofuseError, path: Path) -> None:
    """The same, in one sentence."""
    check_place(error, path)
    rest = str(error).removeprefix(str(error.where))
    assert ". " not in rest.removesuffix(".")
    assert not rest.endswith("..")


# Audio: each maker writes a bad file into a folder and returns its path.


def write(folder: Path, content: bytes, name: str = "bad.wav") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def encoded(folder: Path, name: str = "good.wav", samples: Any = NOISE, rate: int = SAMPLING_RATE, **how: Any) -> bytes:
    path = folder / name
    if path.suffix in {".wav", ".flac", ".ogg", ".mp3", ".aiff"}:
        soundfile.write(path, samples, rate, **how)
    else:
        with av.open(str(path), "w", options=how) as container:
            modality: Any = container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48000)
            frame = av.AudioFrame.from_ndarray(np.tile(samples, 3)[None], format="fltp", layout="mono")
            frame.sample_rate = 48000
            form, size = modality.codec_context.format, modality.codec_context.frame_size
            for part in av.AudioResampler(form, "mono", 48000, size).resample(frame):
                container.mux(modality.encode(part))
            container.mux(modality.encode(None))
    content = path.read_bytes()
    path.unlink()
    return content


def cut(name: str, fraction: float = 0.6, **how: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        content = encoded(folder, name, **how)
        return write(folder, content[: int(fraction * len(content))], name)

    return make


def samples(values: Any, name: str = "bad.wav", **how: Any) -> Callable[[Path], Path]:
    return lambda folder: write(folder, encoded(folder, name, values, **how), name)


def with_value(value: float) -> Any:
    clip = NOISE.astype(np.float64)
    clip[5000] = value
    return clip


def picture(folder: Path) -> Path:
    with av.open(str(folder / "bad.png"), "w", format="image2") as container:
        modality: Any = container.add_stream("png", rate=1)
        modality.width, modality.height, modality.pix_fmt = 16, 16, "rgb24"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        container.mux(modality.encode(frame))
    return folder / "bad.png"


def silent_film(folder: Path) -> Path:
    with av.open(str(folder / "bad.mp4"), "w") as container:
        modality: Any = container.add_stream("mpeg4", rate=5)
        modality.width, modality.height, modality.pix_fmt = 16, 16, "yuv420p"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((24, 16), np.uint8), format="yuv420p")
            container.mux(modality.encode(frame))
        container.mux(modality.encode(None))
    return folder / "bad.mp4"


def playlist(folder: Path) -> Path:
    write(folder, encoded(folder, "good.aac"), "good.aac")
    return write(folder, b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ngood.aac\n#EXT-X-ENDLIST\n", "bad.m3u8")


def folder_itself(folder: Path) -> Path:
    (folder / "bad.wav").mkdir()
    return folder / "bad.wav"


def named_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "bad.wav")
    return folder / "bad.wav"


def looping_link(folder: Path) -> Path:
    (folder / "bad.wav").symlink_to(folder / "bad.wav")
    return folder / "bad.wav"


def wav_with_rate(rate: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        content = bytearray(encoded(folder))
        struct.pack_into("<I", content, 24, rate)
        return write(folder, bytes(content))

    return make


def flac_with_a_hole(folder: Path) -> Path:
    content = bytearray(encoded(folder, "good.flac"))
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    return write(folder, bytes(content), "bad.flac")


RANDOM = np.random.default_rng(1).integers(0, 256, 5000, dtype=np.uint8).tobytes()
SILENT, SHORT, CUT, ALIEN = "silent", "ms of audio", "cut short", "not an audio file"


def rate_that_changes(folder: Path) -> Path:
    with av.open(str(folder / "low.aac"), "w") as container:
        modality: Any = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(NOISE[None, :4096], format="fltp", layout="mono")
        frame.sample_rate = 16000
        for part in av.AudioResampler("fltp", "mono", 16000, 1024).resample(frame):
            container.mux(modality.encode(part))
        container.mux(modality.encode(None))
    return write(folder, encoded(folder, "high.aac") + (folder / "low.aac").read_bytes(), "bad.aac")


BAD_SOUNDS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing file": (lambda folder: folder / "bad.wav", "no such file"),
    "missing folder": (lambda folder: folder / "none" / "bad.wav", "no such file"),
    "file as folder": (lambda folder: write(folder, b"x", "file") / "bad.wav", "cannot be opened"),
    "name too long": (lambda folder: folder / ("a" * 300 + ".wav"), "cannot be opened"),
    "link to itself": (looping_link, "cannot be opened"),
    "folder": (folder_itself, "folder"),
    "named pipe": (named_pipe, "not a regular file"),
    "0 bytes": (lambda folder: write(folder, b""), "empty"),
    "1 byte": (lambda folder: write(folder, b"R"), ALIEN),
    "wav header without samples": (samples(NOISE[:0]), "no samples"),
    "flac cut in its header": (cut("bad.flac", 0.001), ALIEN),
    "wav cut in its header": (lambda folder: write(folder, encoded(folder)[:30]), ALIEN),
    "wav cut in its samples": (cut("bad.wav"), CUT),
    "wav short of one byte": (lambda folder: write(folder, encoded(folder)[:-1]), CUT),
    "RF64 cut": (cut("bad.wav", format="RF64"), CUT),
    "aiff cut": (cut("bad.aiff"), CUT),
    "flac cut": (cut("bad.flac"), CUT),
    "ogg cut": (cut("bad.ogg"), CUT),
    "opus cut": (cut("bad.ogg", subtype="OPUS"), CUT),
    "mp3 cut": (cut("bad.mp3"), CUT),
    "m4a cut, index last": (cut("bad.m4a"), CUT),
    "m4a cut, index first": (cut("bad.m4a", movflags="faststart"), CUT),
    "webm cut": (cut("bad.webm"), CUT),
    "flac with a hole": (flac_with_a_hole, "damaged"),
    "zeros": (samples(0 * NOISE), SILENT),
    "zeros as flac": (samples(0 * NOISE, "bad.flac"), SILENT),
    "one level throughout": (samples(0 * NOISE + 0.25), SILENT),
    "peak below 1e-5": (samples(1e-5 * NOISE, subtype="FLOAT"), SILENT),
    "NaN": (samples(with_value(np.nan), subtype="FLOAT"), "NaN"),
    "infinite": (samples(with_value(-np.inf), subtype="FLOAT"), "infinite"),
    "beyond float32 once mixed": (samples(with_value(1e300), subtype="DOUBLE"), "infinite"),
    "24 ms": (samples(NOISE[:384]), SHORT),
    "1 sample": (samples(NOISE[:1]), SHORT),
    "24 ms at 48 kHz": (samples(NOISE[:1152], rate=48000), SHORT),
    "rate of 1 Hz": (wav_with_rate(1), "1 Hz"),
    "rate of 2 GHz": (wav_with_rate(2_000_000_000), "2000000000 Hz"),
    "text": (lambda folder: write(folder, b"This is a letter to you.\n" * 40, "bad.txt"), ALIEN),
    "text named wav": (lambda folder: write(folder, b"This is a letter to you.\n" * 40), ALIEN),
    "random bytes": (lambda folder: write(folder, RANDOM), ALIEN),
    "random bytes named raw": (lambda folder: write(folder, RANDOM, "bad.raw"), ALIEN),
    "zero bytes": (lambda folder: write(folder, bytes(5000)), ALIEN),
    "picture": (picture, ALIEN),
    "film without audio": (silent_film, "no audio track"),
    "playlist": (playlist, ALIEN),
    "rate that changes midway": (rate_that_changes, "changes midway"),
}


@pytest.mark.parametrize("kind", BAD_SOUNDS)
def test_a_bad_recording_is_one_clear_error(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, words = BAD_SOUNDS[kind]
    path = make(tmp_path)
    with pytest.raises(AudioError) as caught:
        load_audio(path)
    check_message(caught.value, path)
    assert words in caught.value.what
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind, (_, words) in BAD_SOUNDS.items()
        if words in {"no such file", "folder", "empty", "no samples", ALIEN}
    ]
    + ["wav cut in its samples", "m4a cut, index last", "ogg cut", "mp3 cut", "rate of 1 Hz", "film without audio"],
)
def test_a_length_is_refused_like_the_audio(tmp_path: Path, kind: str) -> None:
    make, words = BAD_SOUNDS[kind]
    path = make(tmp_path)
    with pytest.raises(AudioError) as caught:
        audio_duration(path)
    check_message(caught.value, path)
    assert words in caught.value.what


@pytest.mark.parametrize("kind", ["missing file", "folder", "0 bytes", "named pipe", "link to itself"])
def test_an_identity_is_refused_like_the_audio(tmp_path: Path, kind: str) -> None:
    make, words = BAD_SOUNDS[kind]
    path = make(tmp_path)
    with pytest.raises(AudioError) as caught:
        content_key(path)
    check_message(caught.value, path)
    assert words in caught.value.what


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Permissions mean nothing to root, so step down for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
@pytest.mark.parametrize("use", [load_audio, audio_duration, content_key])
def test_a_file_without_permission(use: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = write(folder, encoded(folder))
        path.chmod(0)
        with ordinary_user(), pytest.raises(AudioError) as caught:
            use(path)
        check_message(caught.value, path)
        assert "permission" in caught.value.what


@pytest.mark.parametrize("name", ["good.wav", "good.flac", "good.mp3", "good.m4a"])
@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        pytest.param(-0.5, None, "impossible", id="negative start"),
        pytest.param(0.5, 0.5, "impossible", id="nothing between"),
        pytest.param(0.6, 0.5, "impossible", id="end before start"),
        pytest.param(float("nan"), None, "impossible", id="start is NaN"),
        pytest.param(0.0, float("nan"), "impossible", id="end is NaN"),
        pytest.param(0.0, float("inf"), "impossible", id="end is infinite"),
        pytest.param(5.0, None, "outside", id="start after the file"),
        pytest.param(5.0, 6.0, "outside", id="all after the file"),
        pytest.param(0.5, 2.0, "outside", id="end after the file"),
        pytest.param(0.5, 0.52, SHORT, id="too short"),
    ],
)
def test_a_bad_span_is_one_clear_error(tmp_path: Path, name: str, start: float, end: float | None, words: str) -> None:
    path = write(tmp_path, encoded(tmp_path, name), name)
    with pytest.raises(AudioError) as caught:
        load_audio(path, start=start, end=end)
    check_message(caught.value, path)
    assert words in caught.value.what


# Tables: each entry is a file's name and content, the columns mapped, and words of the error.

GOOD = "text,label\nhello,happy\n"
BAD_TABLES: dict[str, tuple[str, str | bytes, dict[str, str], str]] = {
    "no bytes": ("t.csv", "", {}, "the table is empty"),
    "no bytes, tsv": ("t.tsv", "", {}, "the table is empty"),
    "no bytes, json lines": ("t.jsonl", "", {}, "no rows"),
    "no bytes, parquet": ("t.parquet", "", {}, "cannot be read"),
    "byte order mark alone": ("t.csv", b"\xef\xbb\xbf", {}, "the table is empty"),
    "header alone": ("t.csv", "text,label\n", {}, "no rows"),
    "blank lines alone": ("t.csv", "\n\n\n", {}, "the table is empty"),
    "text named parquet": ("t.parquet", GOOD, {}, "cannot be read"),
    "parquet named csv": ("t.csv", b"PAR1\x15\x04\xff\xfe\x00PAR1", {}, "not text"),
    "unknown ending": ("t.xlsx", GOOD, {}, "not a known kind"),
    "no ending": ("t", GOOD, {}, "not a known kind"),
    "quote left open": ("t.csv", 'text,label\n"hello,happy\n', {}, "cannot be read"),
    "too many cells": ("t.csv", "text,label\nhello,happy\noh, no,sad\n", {}, "row 2 has 3 cells"),
    "too few cells": ("t.csv", "text,label\nhello\n", {}, "row 1 has 1 cells"),
    "same column twice": ("t.csv", "text,text\na,b\n", {}, "'text' occurs twice"),
    "neither audio nor text": ("t.csv", "label\nhappy\n", {}, "neither a column 'audio' nor 'text'"),
    "row with neither": ("t.csv", "text,label\nhello,sad\n,sad\n", {}, "row 2, column 'audio' is empty"),
    "mapped column is absent": ("t.csv", GOOD, {"label": "mood"}, "no column 'mood' for 'label'"),
    "mapped to no such column": ("t.csv", GOOD, {"emotion": "label"}, "'emotion' is not a manifest column"),
    "same name twice": ("t.csv", "utterance,text\na,x\na,y\n", {}, "row 2, column 'utterance' is 'a'"),
    "no name": ("t.csv", "utterance,text\na,x\n,y\n", {}, "row 2, column 'utterance' is empty"),
    "start in words": ("t.csv", "text,from\na,0\nb,soon\n", {"start": "from"}, "row 2, column 'from' is 'soon'"),
    "infinite end": ("t.csv", "text,end\na,inf\n", {}, "row 1, column 'end' is 'inf'"),
    "NaN start": ("t.csv", "text,start\na,nan\n", {}, "row 1, column 'start' is 'nan'"),
    "number too large": ("t.jsonl", '{"text": "a", "end": 1' + 400 * "0" + "}", {}, "row 1, column 'end' is"),
    "truth as a time": ("t.jsonl", '{"text": "a", "start": true}', {}, "row 1, column 'start' is True"),
    "negative start": ("t.csv", "text,start\na,-1\n", {}, "row 1, column 'start' is"),
    "end before start": ("t.csv", "text,start,end\na,2,1\n", {}, "row 1, column 'end' is"),
    "list as text": ("t.jsonl", '{"text": ["a", "b"]}', {}, "row 1, column 'text' is a list"),
    "object as audio": ("t.jsonl", '{"audio": {"path": "a.wav"}}', {}, "row 1, column 'audio' is a dict"),
    "half a character": ("t.jsonl", r'{"text": "\ud83d"}', {}, "row 1, column 'text' holds half a character"),
    "votes in words": ("t.csv", "text,votes\na,many\n", {}, "row 1, column 'votes' is not a table of votes"),
    "votes as list": ("t.jsonl", '{"text": "a", "votes": ["sad"]}', {}, "row 1, column 'votes' is not"),
    "negative votes": ("t.jsonl", '{"text": "a", "votes": {"sad": -1}}', {}, "row 1, column 'votes' is not"),
    "votes that are words": ("t.jsonl", '{"text": "a", "votes": {"sad": "x"}}', {}, "row 1, column 'votes' is not"),
    "votes that are NaN": ("t.jsonl", '{"text": "a", "votes": {"sad": NaN}}', {}, "row 1, column 'votes' is not"),
    "broken json": ("t.jsonl", '{"text": "a"}\n{"text": \n', {}, "row 2 is not a JSON object"),
    "json list": ("t.ndjson", '["a"]\n', {}, "row 1 is not a JSON object"),
    "json too deep": ("t.jsonl", '{"text": ' + 100_000 * "[", {}, "row 1 is not a JSON object"),
    "only missing recordings": ("t.csv", "audio\na.wav\nb.wav\n", {}, "none of the 2 recordings"),
    "a zero in a recording's name": ("t.jsonl", r'{"audio": "a\u0000.wav"}', {}, "none of the 1 recordings"),
}


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_a_bad_table_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    name, content, columns, words = BAD_TABLES[kind]
    path = write(tmp_path, content if isinstance(content, bytes) else content.encode(), name)
    with pytest.raises(ManifestError) as caught:
        read_corpus("table", path, columns=columns)
    check_message(caught.value, path)
    assert words in caught.value.what


@pytest.mark.parametrize(
    ("names", "words"),
    [
        pytest.param([], "no table", id="folder without a table"),
        pytest.param(["a.csv", "b.jsonl"], "2 tables", id="folder with two tables"),
        pytest.param(None, "no such table", id="missing table"),
    ],
)
def test_a_place_without_one_table(tmp_path: Path, names: list[str] | None, words: str) -> None:
    for name in names or []:
        write(tmp_path, GOOD.encode(), name)
    path = tmp_path if names is not None else tmp_path / "missing.csv"
    with pytest.raises(ManifestError) as caught:
        read_corpus("table", path)
    check_message(caught.value, path)
    assert words in caught.value.what


def test_a_parquet_cut_short_or_of_odd_values(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame({"text": ["a", "b"]}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ManifestError, match="cannot be read") as caught:
        read_corpus("table", path)
    check_message(caught.value, path)
    pd.DataFrame({"text": ["a", "b"], "start": ["0", "x"]}).to_parquet(path)
    with pytest.raises(ManifestError, match="row 2, column 'start' is 'x'") as caught:
        read_corpus("table", path)
    check_message(caught.value, path)


# Anything at all


# The same examples on every run and machine, and no folder of them left in the checkout.
FUZZ = settings(deadline=None, derandomize=True, database=None)


def _seeds() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        return {
            ending: encoded(Path(name), f"seed.{ending}", NOISE[:3200])
            for ending in ("wav", "flac", "ogg", "mp3", "m4a", "webm", "aac")
        }


SEEDS = _seeds()
FOLDER = tempfile.TemporaryDirectory(prefix="emofuse-fuzz-")


def loads_or_is_refused(content: bytes, ending: str) -> None:
    path = write(Path(FOLDER.name), content, f"any.{ending}")
    try:
        clip = load_audio(path)
        assert clip.dtype == np.float32
        assert clip.ndim == 1
        assert len(clip) >= 400
        assert np.isfinite(clip).all()
    except AudioError as error:
        check_message(error, path)
    try:
        assert 0 < audio_duration(path) < float("inf")
    except AudioError as error:
        check_message(error, path)


@settings(FUZZ, max_examples=100)
@given(content=st.binary(max_size=2000), ending=st.sampled_from(["wav", "raw", "mp3", "ogg", "m4a"]))
def test_any_bytes_load_or_are_refused(content: bytes, ending: str) -> None:
    loads_or_is_refused(content, ending)


@settings(FUZZ, max_examples=250)
@given(data=st.data())
def test_any_damage_loads_or_is_refused(data: st.DataObject) -> None:
    ending = data.draw(st.sampled_from(list(SEEDS)))
    content = bytearray(SEEDS[ending])
    # Half of the damage goes to the header, where it does most.
    places = st.one_of(st.integers(0, min(199, len(content) - 1)), st.integers(0, len(content) - 1))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        content[place] = value
    length = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    loads_or_is_refused(bytes(content[:length]), ending)


@pytest.mark.parametrize("ending", SEEDS)
def test_the_undamaged_seeds_load(tmp_path: Path, ending: str) -> None:
    # Or else the tests above would pass by refusing everything.
    assert len(load_audio(write(tmp_path, SEEDS[ending], f"a.{ending}"))) == pytest.approx(3200, rel=0.5)


def reads_or_is_refused(content: bytes, ending: str) -> None:
    path = write(Path(FOLDER.name), content, f"any.{ending}")
    try:
        corpus = read_corpus("table", path)
        assert isinstance(corpus, Corpus)
        assert len(corpus.manifest) > 0
    except ManifestError as error:
        # The message may quote anything from the table, full stops too.
        check_place(error, path)


JUNK = st.text(alphabet='abt,;\t"\n\r\0 {}[]:é0.-💥', max_size=60).map(str.encode)


@settings(FUZZ, max_examples=150)
@given(
    head=st.sampled_from([b"", b"text\n", b"text,start\n", b"utterance,audio,text\n", b"text;votes\n", b'{"text": ']),
    tail=st.one_of(st.binary(max_size=100), JUNK),
    ending=st.sampled_from(["csv", "tsv", "jsonl", "parquet"]),
)
def test_any_table_reads_or_is_refused(head: bytes, tail: bytes, ending: str) -> None:
    reads_or_is_refused(head + tail, ending)


def _parquet() -> bytes:
    path = Path(FOLDER.name) / "seed.parquet"
    pd.DataFrame({"text": ["a", "b"], "start": [0.0, 1.0], "votes": ['{"a": 1}', None]}).to_parquet(path)
    return path.read_bytes()


PARQUET = _parquet()


@settings(FUZZ, max_examples=150)
@given(
    flips=st.lists(st.tuples(st.integers(0, len(PARQUET) - 1), st.integers(0, 255)), max_size=6),
    length=st.one_of(st.just(len(PARQUET)), st.integers(0, len(PARQUET))),
)
def test_any_damaged_parquet_reads_or_is_refused(flips: list[tuple[int, int]], length: int) -> None:
    content = bytearray(PARQUET)
    for place, value in flips:
        content[place] = value
    reads_or_is_refused(bytes(content[:length]), "parquet")


def test_a_message_is_one_line_whatever_it_quotes() -> None:
    error = EmofuseError("there is no setting a\r\nb\x1b[2J", where="c\u2028.csv", remedy="use\nc")
    assert str(error) == r"c\u2028.csv: there is no setting a\r\nb\x1b[2J; use\nc."
    assert error.where == "c\u2028.csv"
    long = EmofuseError("it is absent", where=f"/a/{'b' * 3000}/c.wav", remedy="give it")
    assert str(long).startswith("/a/bbb")
    assert str(long).endswith("bbb/c.wav: it is absent; give it.")
    assert len(str(long)) < 500


def test_a_message_quotes_the_beginning_of_what_is_endless() -> None:
    error = EmofuseError(f"the label is {'[' * 5000!r}", where="a.csv", remedy=f"use one of {'x' * 5000}, happy")
    assert str(error) == f"a.csv: the label is '{'[' * 149}...; use one of {'x' * 150}... happy."
    assert error.advice in str(error)
    words = [f"{'a word ' * 500}{place}" for place in range(40)]
    assert len(nearest("x", words)) < 2200
    assert len(nearest(words[0], words)) < 80
