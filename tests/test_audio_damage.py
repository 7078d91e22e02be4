"""Audio that crashes its decoder, is of another scale or size, contradicts its header, or differs between channels."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emofuse.audio import (
    SAMPLING_RATE,
    Recording,
    audio_duration,
    check_samples,
    content_key,
    kept,
    load_audio,
    process,
    read_audio,
    read_samples,
)
from emofuse.audio.containers import _pages
from emofuse.audio.notes import count_notes
from emofuse.errors import AudioError
from emofuse.files import _verbatim

Clip = NDArray[np.float32]

NOISE = (0.1 * np.random.default_rng(0).standard_normal(2 * SAMPLING_RATE)).astype(np.float32)
LOW = 2 * np.convolve(NOISE, np.ones(12) / 12, mode="same").astype(np.float32)  # Vorbis leaves high phases out.
OTHER = (0.1 * np.random.default_rng(1).standard_normal(2 * SAMPLING_RATE)).astype(np.float32)

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits are those of POSIX")


def pcm(clip: Clip) -> bytes:
    return np.round(clip * 32767).astype("<i2").tobytes()


def wav(content: bytes, *, claimed: int | None = None, after: bytes = b"", code: int = 1) -> bytes:
    """A WAV of 16 bits whose header claims some number of bytes."""
    size = len(content) if claimed is None else claimed
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, code, 1, SAMPLING_RATE, 2 * SAMPLING_RATE, 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + size) + head + b"data" + struct.pack("<I", size) + content + after


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def encode(
    path: Path, clip: Clip, *, codec: str, rate: int = SAMPLING_RATE, layout: str = "mono", tracks: int = 1
) -> Path:
    """`(channels, samples)` by FFmpeg, once a track."""
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream(codec, rate=rate, layout=layout) for _ in range(tracks)]
        for stream in streams:
            fifo = av.AudioFifo()
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(clip), format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, 0
            resampler = av.AudioResampler(stream.codec_context.format, layout, rate)
            for part in resampler.resample(frame):
                fifo.write(part)
            size = stream.codec_context.frame_size or 1024
            while block := fifo.read(size) or fifo.read(0, partial=True):
                container.mux(stream.encode(block))
            container.mux(stream.encode(None))
    return path


# Crashes


def decoders() -> list[Any]:
    return process._pool()._idle


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.m4a", "aac"), ("a.mov", "pcm_s16le"), ("a.mka", "flac"), ("a.webm", "libopus"), ("a.opus", "libopus")],
)
def test_eight_channels_are_read(tmp_path: Path, name: str, codec: str) -> None:
    if not ffmpeg():
        pytest.skip("no ffmpeg command")
    soundfile.write(tmp_path / "good.wav", NOISE, SAMPLING_RATE)
    wider = ["-af", "aformat=channel_layouts=7.1", "-c:a", codec]
    made = subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "good.wav", *wider, tmp_path / name])
    assert made.returncode == 0
    assert len(load_audio(tmp_path / name)) == pytest.approx(len(NOISE), abs=2100)


def ffmpeg() -> bool:
    with suppress(OSError):
        return subprocess.run(["ffmpeg", "-version"], capture_output=True).returncode == 0
    return False


def test_a_decoder_that_ended_while_idle_is_replaced(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", NOISE, SAMPLING_RATE)
    first = load_audio(tmp_path / "a.wav")
    for decoder in decoders():
        decoder._process.kill()
        decoder._process.wait()
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav"), first)


@posix
def test_a_decoder_that_does_not_come_to_an_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", NOISE, SAMPLING_RATE)
    load_audio(tmp_path / "a.wav")
    monkeypatch.setattr(process, "PATIENCE", 0.5)
    started = process._Decoder

    def stopped() -> Any:
        decoder = started()
        os.kill(decoder._process.pid, signal.SIGSTOP)
        return decoder

    monkeypatch.setattr(process, "_Decoder", stopped)
    os.kill(decoders()[-1]._process.pid, signal.SIGSTOP)
    with pytest.raises(AudioError, match="did not come to an end"):
        load_audio(tmp_path / "a.wav")
    monkeypatch.undo()
    assert len(load_audio(tmp_path / "a.wav")) == len(NOISE)


SCRIPT = """
import sys
from emofuse.audio import load_audio, process
print(len(load_audio(sys.argv[1])), "torch" in sys.modules, flush=True)
print(process._pool()._idle[0]._process.pid, flush=True)
sys.stdin.read()
"""


@posix
def test_a_script_needs_no_guard_and_its_decoder_ends_with_it(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", NOISE, SAMPLING_RATE)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "a.flac")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == f"{len(NOISE)} False\n"
        decoder = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 30
    while is_alive(decoder):
        assert time.monotonic() < deadline, "the decoder has outlived its parent"
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read as Linux shows it")
def test_a_long_recording_takes_no_more_memory_than_its_samples(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "a.wav", "w", 48000, 2, "PCM_16") as file:
        for _ in range(300):  # Ten minutes, of 115 MB; twice as much once they are floats.
            file.write(np.stack([NOISE, OTHER], axis=1).repeat(3, axis=0)[:96000])
    decoders().clear()
    assert len(load_audio(tmp_path / "a.wav")) == 600 * SAMPLING_RATE
    status = Path(f"/proc/{decoders()[0]._process.pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 150 * 1024


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
def test_a_recording_beyond_a_limit_is_refused_by_its_length(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, NOISE, SAMPLING_RATE)
    with pytest.raises(AudioError, match=r"longer than 0\.02 minutes"):
        read_audio(tmp_path / name, longest=1.2)
    with pytest.raises(AudioError, match="longer than"):
        read_audio(tmp_path / name, start=0.2, end=1.9, longest=1.2)
    with pytest.raises(AudioError, match="longer than"):
        read_samples(NOISE, longest=1.2)
    assert len(load_audio(tmp_path / name, start=0.5, end=1.5, longest=1.2)) == SAMPLING_RATE


# Channels


def opposed(clip: Clip, noise: float = 0.0) -> Clip:
    return np.stack([clip, -clip + noise * OTHER], axis=1)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.opus", "a.m4a"])
def test_channels_that_would_cancel_are_not_averaged(tmp_path: Path, name: str, noise: float) -> None:
    path = tmp_path / name
    if name == "a.m4a":
        encode(path, opposed(LOW, noise).T, codec="aac", layout="stereo")
    else:
        form, subtype = {"a.ogg": ("OGG", "VORBIS"), "a.opus": ("OGG", "OPUS")}.get(name, (None, None))
        soundfile.write(path, opposed(LOW, noise), SAMPLING_RATE, format=form, subtype=subtype)
    recording = read_audio(path)
    assert any("opposite phase" in note for note in recording.notes)
    count = min(len(recording.samples), len(LOW))
    middle = slice(4000, count - 4000)
    # AAC begins with the samples that prime its encoder.
    shifts = range(0, 2100) if name == "a.m4a" else range(1)
    best = max(abs(np.corrcoef(np.roll(recording.samples[:count], -one)[middle], LOW[middle])[0, 1]) for one in shifts)
    assert best > 0.8


@pytest.mark.parametrize(
    ("channels", "expected", "words"),
    [
        (lambda: [NOISE, 0 * NOISE], NOISE, "1 of 2 channels is silent"),
        (lambda: [0 * NOISE, 0.001 * OTHER, NOISE], NOISE, "2 of 3 channels are silent"),
        (lambda: [NOISE, OTHER], (NOISE + OTHER) / 2, "hold different audio"),
        (lambda: [NOISE, 0.5 * NOISE], 0.75 * NOISE, None),
        (lambda: [NOISE, NOISE + 0.01 * OTHER], NOISE, None),
        (lambda: [NOISE + 0.3, NOISE - 0.3], NOISE, None),
    ],
)
def test_channels_are_mixed_by_what_they_hold(
    tmp_path: Path, channels: Callable[[], list[Clip]], expected: Clip, words: str | None
) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack(channels(), axis=1), SAMPLING_RATE, subtype="FLOAT")
    recording = read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(recording.samples, expected, atol=3e-3)
    assert [words in note for note in recording.notes] == ([True] if words else [])  # type: ignore[operator]


def test_of_several_tracks_the_first_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    recording = read_audio(encode(tmp_path / "a.mka", NOISE[None], codec="flac", tracks=2))
    assert recording.notes == ("the file has 2 audio tracks, of which the first was read",)


# Headers and what follows the audio


@pytest.mark.parametrize("claimed", [8000, 16000, 16001])
def test_a_wav_that_holds_more_than_it_claims_is_read_to_its_end(tmp_path: Path, claimed: int) -> None:
    recording = read_audio(write(tmp_path / "a.wav", wav(pcm(NOISE), claimed=claimed)))
    np.testing.assert_allclose(recording.samples, NOISE, atol=1e-4)
    assert "its header says" in recording.notes[0]
    assert audio_duration(tmp_path / "a.wav") == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (b"", None),
        (b"LIST" + struct.pack("<I", 4) + b"INFO", None),
        (bytes(5000), None),
        (b"junk!" * 2000, "10000 bytes after the end"),
        (wav(pcm(OTHER)), "bytes after the end"),
        (np.random.default_rng(0).bytes(500), "500 bytes after the end"),
    ],
    ids=["nothing", "chunk", "padding", "text", "another wav", "a few bytes"],
)
def test_what_follows_the_audio_is_no_audio(tmp_path: Path, after: bytes, words: str | None) -> None:
    recording = read_audio(write(tmp_path / "a.wav", wav(pcm(NOISE), after=after)))
    np.testing.assert_allclose(recording.samples, NOISE, atol=1e-4)
    assert [words in note for note in recording.notes] == ([True] if words else [])  # type: ignore[operator]


FORMS = {"a.wav": "RF64", "a.w64": "W64", "a.caf": "CAF", "a.au": "AU", "a.aiff": "AIFF"}


@pytest.mark.parametrize("name", FORMS)
def test_every_header_is_held_to_what_the_file_holds(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, NOISE, SAMPLING_RATE, format=FORMS[name], subtype="PCM_16")
    content = (tmp_path / name).read_bytes()
    assert read_audio(tmp_path / name).notes == ()
    with pytest.raises(AudioError, match="cut short"):
        load_audio(write(tmp_path / f"cut-{name}", content[: len(content) * 3 // 5]))
    longer = read_audio(write(tmp_path / f"longer-{name}", content + b"junk" * 50))
    assert (len(longer.samples), longer.notes) == (32000, ("200 bytes after the end of the audio were not read",))


def test_an_rf64_that_holds_more_than_it_claims_is_read_to_its_end(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", NOISE, SAMPLING_RATE, format="RF64", subtype="PCM_16")
    content = (tmp_path / "a.wav").read_bytes().replace(struct.pack("<Q", 64000), struct.pack("<Q", 16000))
    recording = read_audio(write(tmp_path / "b.wav", content))
    np.testing.assert_allclose(recording.samples, NOISE, atol=1e-4)
    assert "0.50 s" in recording.notes[0]


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_wav_that_holds_mp3_is_read(tmp_path: Path, rate: int) -> None:
    encode(tmp_path / "a.wav", NOISE.repeat(rate // 16000)[None], codec="libmp3lame", rate=rate)
    assert len(load_audio(tmp_path / "a.wav")) == pytest.approx(audio_duration(tmp_path / "a.wav") * 16000, abs=3000)


def test_a_tag_before_a_wav_is_passed_over(tmp_path: Path) -> None:
    tag = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)
    np.testing.assert_allclose(load_audio(write(tmp_path / "a.wav", tag + wav(pcm(NOISE)))), NOISE, atol=1e-4)


def test_junk_after_an_mp3_is_said(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.mp3", NOISE, SAMPLING_RATE)
    whole = read_audio(tmp_path / "a.mp3")
    longer = read_audio(write(tmp_path / "b.mp3", (tmp_path / "a.mp3").read_bytes() + b"junk" * 1000))
    assert len(longer.samples) == pytest.approx(len(whole.samples), abs=1200)
    assert (whole.notes, len(longer.notes)) == ((), 1)


def ogg(path: Path, subtype: str = "OPUS") -> bytes:
    soundfile.write(path, NOISE.repeat(4), SAMPLING_RATE, format="OGG", subtype=subtype)
    return path.read_bytes()


def pages(path: Path) -> list[Any]:
    import mmap

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return list(_pages(content, 0))


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
def test_lost_and_damaged_pages_are_noticed(tmp_path: Path, subtype: str) -> None:
    content = ogg(tmp_path / "a.ogg", subtype)
    assert read_audio(tmp_path / "a.ogg").notes == ()
    found = pages(tmp_path / "a.ogg")
    assert (found[0].begin, found[-1].end, len(found) > 4) == (0, len(content), True)
    page = found[len(found) // 2 + 1]
    flipped = bytearray(content)
    flipped[page.end - 1] ^= 1
    for name, damaged in (("lost", content[: page.begin] + content[page.end :]), ("flipped", bytes(flipped))):
        with pytest.raises(AudioError, match="damaged or missing"):
            load_audio(write(tmp_path / f"{name}.ogg", damaged))


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
def test_recordings_in_a_row_are_all_read_and_junk_behind_them_is_not(tmp_path: Path, subtype: str) -> None:
    content = ogg(tmp_path / "a.ogg", subtype)
    one, two = load_audio(tmp_path / "a.ogg"), read_audio(write(tmp_path / "b.ogg", content * 2))
    assert len(two.samples) == pytest.approx(2 * len(one), abs=2000)
    assert two.notes == ("the file is 2 recordings in a row, which were all read",)
    assert audio_duration(tmp_path / "b.ogg") == pytest.approx(len(two.samples) / 16000, abs=0.2)
    longer = read_audio(write(tmp_path / "c.ogg", content + b"junk" * 99))
    np.testing.assert_array_equal(longer.samples, one)
    assert longer.notes == ("396 bytes after the end of the audio were not read",)


def test_flacs_in_a_row_are_all_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", NOISE, SAMPLING_RATE)
    recording = read_audio(write(tmp_path / "b.flac", (tmp_path / "a.flac").read_bytes() * 2))
    np.testing.assert_allclose(recording.samples, np.tile(NOISE, 2), atol=1e-4)
    assert recording.notes == ("the file is 2 recordings in a row, which were all read",)


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.mka", "flac"), ("a.webm", "libopus")])
def test_what_follows_boxes_and_what_is_lost_between_them_is_said(tmp_path: Path, name: str, codec: str) -> None:
    content = encode(tmp_path / name, np.tile(NOISE, 3)[None], codec=codec, rate=48000).read_bytes()
    once = read_audio(tmp_path / name)
    assert once.notes == read_audio(write(tmp_path / name, content + bytes(300))).notes == ()
    notes = read_audio(write(tmp_path / name, content + b"0123456789" * 30)).notes
    assert notes == ("300 bytes after the end of the audio were not read",)
    twice = read_audio(write(tmp_path / name, content * 2))
    if name == "a.m4a":
        assert twice.notes == (f"{len(content)} bytes after the end of the audio were not read",)
    else:
        assert "the file is several recordings in a row, which were all read" in twice.notes
        assert len(twice.samples) == pytest.approx(2 * len(once.samples), rel=0.02)
    if name == "a.webm":
        content = content[: len(content) // 2] + bytes(2000) + content[len(content) // 2 + 2000 :]
        assert "could be read" in str(read_audio(write(tmp_path / name, content)).notes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n", "Git LFS"),
        (b"/annex/objects/SHA256E-s7--0.wav\n", "git-annex"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "web page"),
    ],
)
@pytest.mark.parametrize("use", [load_audio, audio_duration])
def test_what_stands_for_a_recording_is_named(
    tmp_path: Path, content: bytes, words: str, use: Callable[[Path], Any]
) -> None:
    with pytest.raises(AudioError, match=words):
        use(write(tmp_path / "a.wav", content))


# Scale


@pytest.mark.parametrize(
    ("name", "subtype"), [("a.wav", "FLOAT"), ("a.wav", "DOUBLE"), ("a.aiff", "FLOAT"), ("a.au", "DOUBLE")]
)
@pytest.mark.parametrize("change", ["integers", "one sample", "NaN", "infinite"])
def test_samples_of_another_scale_are_refused(tmp_path: Path, name: str, subtype: str, change: str) -> None:
    clip = NOISE.astype(np.float64)
    if change == "integers":
        clip = np.round(clip * 32768)
    else:
        clip[5000] = {"one sample": 1e37, "NaN": np.nan, "infinite": np.inf}[change]
    soundfile.write(tmp_path / name, clip, SAMPLING_RATE, subtype=subtype)
    words = "divide 16-bit values by 32768" if change in ("integers", "one sample") else "NaN or infinite"
    for use in (
        lambda: load_audio(tmp_path / name),
        lambda: check_samples(clip),
        lambda: check_samples(clip.astype("f4")),
    ):
        with pytest.raises(AudioError, match=words):
            use()


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_wide_integers_with_narrow_values_are_refused(kind: Any) -> None:
    with pytest.raises(AudioError, match="divide them by 32768"):
        check_samples(np.round(NOISE * 32768).astype(kind))
    scale = np.iinfo(kind).max
    assert "of 24 at most" in str(read_samples(np.round(NOISE * (1 << 23)).astype(np.int32)).notes)
    np.testing.assert_allclose(check_samples((NOISE.astype(np.float64) * scale).astype(kind)), NOISE, atol=1e-6)


def test_what_holds_no_samples_is_refused_with_its_reason() -> None:
    words = r"^samples: samples are of type \w+ and no array \(.+\); pass an array of numpy"
    for values in (torch.zeros(9000, requires_grad=True), torch.zeros(9000).bfloat16(), [[0.0], [0.0, 0.0]]):
        with pytest.raises(AudioError, match=words):
            check_samples(values)  # type: ignore[arg-type]


def test_samples_a_little_beyond_full_scale_are_taken_and_far_beyond_are_said(tmp_path: Path) -> None:
    assert read_samples(NOISE / abs(NOISE).max() * 1.5).notes == ()
    assert read_samples(NOISE / abs(NOISE).max() * 3).notes == ("samples reach 3.0 times full scale",)
    tiny = np.full(16000, 1e-40, np.float32)
    with pytest.raises(AudioError, match="silent"):
        check_samples(tiny)
    np.testing.assert_array_equal(check_samples(np.concatenate([tiny, NOISE])), np.concatenate([tiny, NOISE]))


# Spans of one file


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What decoders are asked."""
    requests: list[Any] = []

    def ask(path: Path, request: Any, **how: Any) -> dict[str, Any]:
        requests.append(request)
        return process.ask(path, request, **how)

    monkeypatch.setattr(kept, "ask", ask)
    monkeypatch.setattr("emofuse.audio.ask", ask)
    return requests


def settled(path: Path) -> Path:
    """As a file that was not written just now."""
    os.utime(path, (time.time() - 60,) * 2)
    return path


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a"])
def test_spans_of_a_file_are_those_of_the_whole_and_it_is_decoded_once(
    tmp_path: Path, name: str, asked: list[Any]
) -> None:
    path = encode(tmp_path / name, np.tile(NOISE, 3)[None], codec={"a.mp3": "libmp3lame", "a.m4a": "aac"}[name])
    whole = load_audio(settled(path))
    assert audio_duration(path, start=1.0) == audio_duration(path) - 1.0
    del asked[:]
    for start, end in ((3.0, 4.0), (0.5, 1.25), (4.0, None), (3.0, 4.0)):
        expected = whole[round(start * 16000) : None if end is None else round(end * 16000)]
        np.testing.assert_array_equal(load_audio(path, start=start, end=end), expected)
        audio_duration(path, start=start, end=end)
    assert [request["do"] for request in asked] == ["read"]
    with pytest.raises(AudioError, match="outside"):
        load_audio(path, start=60.0, end=61.0)


def test_spans_are_decoded_anew_where_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = settled(encode(tmp_path / "a.m4a", NOISE[None], codec="aac"))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept._Recording, "add", full)
    for _ in range(2):
        np.testing.assert_array_equal(load_audio(path, start=0.5, end=1.0), load_audio(path)[8000:16000])


def test_a_disk_that_fails_and_memory_that_is_short_cost_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.wav", wav(pcm(NOISE)))

    def short(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(kept._Collected, "_want", short)
    with pytest.raises(AudioError, match="not enough memory"):
        load_audio(path)
    monkeypatch.undo()
    assert len(load_audio(path)) == len(NOISE)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: os.stat(tmp_path / "none"))
    part = load_audio(settled(encode(tmp_path / "a.m4a", NOISE[None], codec="aac")), start=0.5, end=1.0)
    assert len(part) == 8000


def test_what_is_kept_of_a_file_goes_when_it_changes(tmp_path: Path) -> None:
    path = settled(write(tmp_path / "a.wav", wav(pcm(NOISE))))
    first, seconds = content_key(path, end=1.0), audio_duration(path)
    settled(write(path, wav(pcm(OTHER))))
    second = content_key(path, end=1.0)
    settled(write(path, wav(pcm(OTHER[:16000]))))
    assert len({first, second, content_key(path, end=1.0)}) == 3
    assert (seconds, audio_duration(path)) == (2.0, 1.0)


def test_notes_are_counted_by_what_they_say() -> None:
    lines = count_notes({"a": ["3 bytes", "x"], "b": ["4 bytes"], "c": ["5 bytes"], "d": ["5 bytes"], "e": []})
    assert lines == ["4 recordings (a, b, c, ...): 3 bytes, or the like", "1 recording (a): x"]
    assert count_notes({"a": []}) == []


def test_names_of_any_length_on_windows() -> None:
    assert _verbatim(r"C:\a\b.wav") == r"\\?\C:\a\b.wav"
    assert _verbatim(r"\\server\share\b.wav") == r"\\?\UNC\server\share\b.wav"
    assert _verbatim(r"\\?\C:\b.wav") == r"\\?\C:\b.wav"


# Anything in the middle of a file, of containers beyond those of `test_bad_input.py`


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("seeds")
    short = NOISE[:4800]
    for name, how in {"a.aiff": {}, "a.w64": {}, "a.au": {}, "a.caf": {}, "b.wav": {"subtype": "IMA_ADPCM"}}.items():
        soundfile.write(folder / name, short, SAMPLING_RATE, **how)
    soundfile.write(folder / "c.ogg", np.stack([short, short], 1), SAMPLING_RATE, format="OGG", subtype="OPUS")
    for name, codec in {
        "d.mka": "flac",
        "e.avi": "pcm_s16le",
        "f.m4a": "aac",
        "g.wv": "wavpack",
        "h.mov": "pcm_s16le",
    }.items():
        encode(folder / name, np.stack([short, short]), codec=codec, layout="stereo")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(deadline=None, derandomize=True, database=None, max_examples=60)
@given(data=st.data())
def test_any_damage_is_an_answer_or_one_error(
    seeds: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(seeds)))
    content = bytearray(seeds[name])
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=12)
    ):
        content[place] = value
    path = write(tmp_path_factory.getbasetemp() / name, bytes(content))
    try:
        recording = read_audio(path)
    except AudioError as error:
        assert error.where == str(path)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert isinstance(recording, Recording)
        assert np.isfinite(recording.samples).all()
        assert recording.samples.ndim == 1
        assert 400 <= len(recording.samples) < 60 * SAMPLING_RATE
