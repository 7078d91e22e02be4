"""Decoding, mixing, resampling, spans, lengths and identities of audio files."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from emofuse.audio import SAMPLING_RATE, audio_duration, content_key, load_audio
from emofuse.errors import AudioError

Clip = NDArray[np.float32]
SHARED = Path(__file__).parents[2] / "shared" / "data"
shared_data = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not SHARED.is_dir(), reason=f"the recordings in {SHARED} are not at hand"),
]


def sine(frequency: float, *, rate: int, seconds: float = 1.0, level: float = 0.5) -> Clip:
    times = np.arange(round(rate * seconds)) / rate
    return (level * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


def write_av(path: Path, samples: Clip, rate: int, *, codec: str, options: dict[str, str] | None = None) -> None:
    """Encode samples of shape (channels, time) with FFmpeg; `options` go to the encoder and the container."""
    layout = {1: "mono", 2: "stereo"}[len(samples)]
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, layout=layout, options=options or {})
        size = stream.codec_context.frame_size or 1024
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


def pitch_and_level(clip: Clip) -> tuple[float, float]:
    """Strongest frequency in Hz, and amplitude of a sine of the clip's power, away from the edges."""
    middle = clip[len(clip) // 4 : -len(clip) // 4].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 8 * len(middle)))
    return float(spectrum.argmax() * SAMPLING_RATE / (8 * len(middle))), float(np.sqrt(2 * (middle**2).mean()))


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_resampling_keeps_every_sample_of_a_tone(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "tone.wav", sine(440, rate=rate), rate, subtype="FLOAT")
    clip = load_audio(tmp_path / "tone.wav")
    expected = sine(440, rate=SAMPLING_RATE)
    assert clip.dtype == np.float32
    assert clip.shape == expected.shape
    # The formula of the sine is the reference; the filter has no past or future at the edges.
    np.testing.assert_allclose(clip[800:-800], expected[800:-800], atol=2e-4)


def test_resampling_lets_nothing_fold_back(tmp_path: Path) -> None:
    low, high = sine(440, rate=48000, level=0.1), sine(11000, rate=48000, level=0.5)
    soundfile.write(tmp_path / "both.wav", low + high, 48000, subtype="FLOAT")
    expected = sine(440, rate=SAMPLING_RATE, level=0.1)
    np.testing.assert_allclose(load_audio(tmp_path / "both.wav")[800:-800], expected[800:-800], atol=2e-4)


def test_16_khz_is_passed_through_untouched(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, 4000).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", noise, SAMPLING_RATE, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(tmp_path / "noise.wav"), noise)


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_averaged(tmp_path: Path, channels: int) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (4000, channels)).astype(np.float32)
    soundfile.write(tmp_path / "many.wav", noise, SAMPLING_RATE, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "many.wav"), noise.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "form", "subtype"),
    [
        ("a.wav", "WAV", "PCM_16"),
        ("a.wav", "WAV", "PCM_24"),
        ("a.wav", "WAV", "PCM_U8"),
        ("a.wav", "WAV", "ALAW"),
        ("a.wav", "RF64", "PCM_16"),
        ("a.aiff", "AIFF", "PCM_16"),
        ("a.flac", "FLAC", "PCM_16"),
        ("a.ogg", "OGG", "VORBIS"),
        ("a.opus", "OGG", "OPUS"),
        ("a.mp3", "MP3", "MPEG_LAYER_III"),
        ("wrong-ending.raw", "WAV", "PCM_16"),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_formats_of_libsndfile(tmp_path: Path, name: str, form: str, subtype: str, channels: int) -> None:
    tone = np.stack([sine(440, rate=48000)] * channels, axis=1)
    soundfile.write(tmp_path / name, tone, 48000, format=form, subtype=subtype)
    clip = load_audio(tmp_path / name)
    assert len(clip) == pytest.approx(SAMPLING_RATE, rel=0.05)
    assert pitch_and_level(clip) == pytest.approx((440, 0.5), rel=0.02)
    assert audio_duration(tmp_path / name) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.m4a", "aac"),
        ("a.mp4", "aac"),
        ("a.aac", "aac"),
        ("a.webm", "libopus"),
        ("a.mkv", "pcm_s16le"),
        ("a.mov", "pcm_s16le"),
        ("a.mp3", "libmp3lame"),
        ("a.avi", "pcm_s16le"),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_formats_of_ffmpeg(tmp_path: Path, name: str, codec: str, channels: int) -> None:
    write_av(tmp_path / name, np.stack([sine(440, rate=48000)] * channels), 48000, codec=codec)
    clip = load_audio(tmp_path / name)
    assert len(clip) == pytest.approx(SAMPLING_RATE, rel=0.1)
    # LAME turns the volume down by 5 %.
    assert pitch_and_level(clip) == pytest.approx((440, 0.475 if codec == "libmp3lame" else 0.5), rel=0.02)
    assert audio_duration(tmp_path / name) == pytest.approx(1.0, abs=0.1)


def test_both_decoders_give_the_same_samples(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 16000)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise.T, SAMPLING_RATE, subtype="PCM_16")
    stored, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    write_av(tmp_path / "a.mov", np.ascontiguousarray(stored.T), SAMPLING_RATE, codec="pcm_s16le")
    np.testing.assert_allclose(load_audio(tmp_path / "a.mov"), load_audio(tmp_path / "a.wav"), atol=1e-4)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mov"])
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.25, 0.75), (0.6, None), (0.1, 1.005)])
def test_a_span_is_the_same_part_of_the_whole(tmp_path: Path, name: str, start: float, end: float | None) -> None:
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, 16000).astype(np.float32)
    if name.endswith("mov"):
        write_av(tmp_path / name, noise[None], SAMPLING_RATE, codec="pcm_s16le")
    else:
        soundfile.write(tmp_path / name, noise, SAMPLING_RATE)
    whole = load_audio(tmp_path / name)
    part = load_audio(tmp_path / name, start=start, end=end)
    expected = whole[round(start * 16000) : None if end is None else round(end * 16000)]
    np.testing.assert_array_equal(part, expected)
    assert audio_duration(tmp_path / name, start=start, end=end) == pytest.approx(len(expected) / 16000)


@pytest.mark.parametrize("name", ["a.ogg", "a.opus", "a.mp3", "a.m4a"])
def test_a_span_of_compressed_audio_is_in_its_place(tmp_path: Path, name: str) -> None:
    rate = 48000
    steps = np.concatenate([sine(f, rate=rate, seconds=0.5) for f in (300, 500, 700, 900)])
    if name == "a.m4a":
        write_av(tmp_path / name, steps[None], rate, codec="aac")
    else:
        form, subtype = {"a.ogg": ("OGG", "VORBIS"), "a.opus": ("OGG", "OPUS"), "a.mp3": ("MP3", None)}[name]
        soundfile.write(tmp_path / name, steps, rate, format=form, subtype=subtype)
    part = load_audio(tmp_path / name, start=1.05, end=1.45)
    assert len(part) == pytest.approx(0.4 * SAMPLING_RATE, abs=1)
    assert pitch_and_level(part)[0] == pytest.approx(700, abs=5)


def test_a_span_does_not_decode_the_rest(tmp_path: Path) -> None:
    samples = sine(440, rate=SAMPLING_RATE)
    samples[:4000] = samples[12000:] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, SAMPLING_RATE, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav", start=0.25, end=0.75), samples[4000:12000])
    with pytest.raises(AudioError, match="NaN"):
        load_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    soundfile.write(tmp_path / "a.wav", sine(440, rate=SAMPLING_RATE), SAMPLING_RATE)
    expected = load_audio(tmp_path / "a.wav")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    struct.pack_into("<I", content, 4, size)
    struct.pack_into("<I", content, content.index(b"data") + 4, size)
    (tmp_path / "pipe.wav").write_bytes(content)
    np.testing.assert_array_equal(load_audio(tmp_path / "pipe.wav"), expected)


def test_a_flac_from_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", sine(440, rate=SAMPLING_RATE), SAMPLING_RATE)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)  # The 36 bits of STREAMINFO that hold the number of samples.
    (tmp_path / "pipe.flac").write_bytes(content)
    np.testing.assert_allclose(load_audio(tmp_path / "pipe.flac"), load_audio(tmp_path / "a.flac"), atol=1e-6)
    assert audio_duration(tmp_path / "pipe.flac") == pytest.approx(1.0)


def test_a_webm_from_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    # As browsers record it: neither size nor length in the header.
    tone = sine(440, rate=48000)[None]
    write_av(tmp_path / "a.webm", tone, 48000, codec="libopus")
    write_av(tmp_path / "pipe.webm", tone, 48000, codec="libopus", options={"live": "1"})
    assert b"\x18S\x80g\x01" + 7 * b"\xff" in (tmp_path / "pipe.webm").read_bytes()
    np.testing.assert_allclose(load_audio(tmp_path / "pipe.webm"), load_audio(tmp_path / "a.webm"), atol=1e-6)
    assert audio_duration(tmp_path / "pipe.webm") == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("cut", [0, 1])
def test_an_mp4_with_a_64_bit_size(tmp_path: Path, cut: int) -> None:
    write_av(tmp_path / "a.mp4", sine(440, rate=48000)[None], 48000, codec="aac", options={"movflags": "faststart"})
    content = (tmp_path / "a.mp4").read_bytes()
    last = struct.pack(">I4sQ", 1, b"free", 100) + bytes(84)
    (tmp_path / "b.mp4").write_bytes(content + last[: len(last) - cut])
    if cut:
        with pytest.raises(AudioError, match="cut short"):
            load_audio(tmp_path / "b.mp4")
    else:
        np.testing.assert_array_equal(load_audio(tmp_path / "b.mp4"), load_audio(tmp_path / "a.mp4"))


def test_an_mp4_whose_last_part_is_open(tmp_path: Path) -> None:
    write_av(tmp_path / "a.mp4", sine(440, rate=48000)[None], 48000, codec="aac", options={"movflags": "faststart"})
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    struct.pack_into(">I", content, content.index(b"mdat") - 4, 0)
    (tmp_path / "b.mp4").write_bytes(content)
    np.testing.assert_array_equal(load_audio(tmp_path / "b.mp4"), load_audio(tmp_path / "a.mp4"))


def test_an_mp3_of_varying_rate_without_a_header_is_read_to_its_end(tmp_path: Path) -> None:
    # libsndfile would guess the length from the loud and costly beginning, and drop most of the rest.
    noise = 0.3 * np.random.default_rng(0).standard_normal(5 * SAMPLING_RATE)
    samples = np.concatenate([noise, 1e-3 * noise]).astype(np.float32)
    options = {"write_xing": "0", "global_quality": "590", "flags": "+qscale"}
    write_av(tmp_path / "a.mp3", samples[None], SAMPLING_RATE, codec="libmp3lame", options=options)
    assert soundfile.info(tmp_path / "a.mp3").duration < 9
    assert len(load_audio(tmp_path / "a.mp3")) == pytest.approx(10 * SAMPLING_RATE, rel=0.02)


@pytest.mark.parametrize("name", ["größe 100%.m4a", "a:b.m4a", "a#b?.m4a", "-.m4a", "http:x.m4a"])
def test_odd_names_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_av(tmp_path / "plain.m4a", sine(440, rate=48000)[None], 48000, codec="aac")
    shutil.copy(tmp_path / "plain.m4a", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(load_audio(name), load_audio("plain.m4a"))


@pytest.mark.parametrize("text", ["a.wav", Path("a.wav")], ids=["str", "Path"])
def test_a_path_may_be_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | Path) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", sine(440, rate=SAMPLING_RATE), SAMPLING_RATE)
    assert len(load_audio(text)) == SAMPLING_RATE


def test_a_wav_of_the_standard_library(tmp_path: Path) -> None:
    steps = np.round(sine(440, rate=8000) * 32767).astype("<i2")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(steps.tobytes())
    assert pitch_and_level(load_audio(tmp_path / "a.wav")) == pytest.approx((440, 0.5), rel=0.01)


def test_the_shortest_recording_and_one_sample_less(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sine(440, rate=SAMPLING_RATE)[:400], SAMPLING_RATE)
    soundfile.write(tmp_path / "b.wav", sine(440, rate=SAMPLING_RATE)[:399], SAMPLING_RATE)
    assert len(load_audio(tmp_path / "a.wav")) == 400
    with pytest.raises(AudioError, match=r"24\.9 ms"):
        load_audio(tmp_path / "b.wav")


def test_quiet_is_not_silent(tmp_path: Path) -> None:
    steps = np.zeros(1600, np.int16)
    steps[::2] = 1
    soundfile.write(tmp_path / "a.wav", steps, SAMPLING_RATE)
    assert load_audio(tmp_path / "a.wav").max() == pytest.approx(1 / 32768)


def test_content_key_is_of_bytes_and_span_alone(tmp_path: Path) -> None:
    one, copy, other = (tmp_path / name for name in ("one.wav", "copy.wav", "other.wav"))
    soundfile.write(one, sine(440, rate=SAMPLING_RATE), SAMPLING_RATE)
    shutil.copy(one, copy)
    os.utime(copy, (0, 0))
    soundfile.write(other, sine(441, rate=SAMPLING_RATE), SAMPLING_RATE)
    assert content_key(one) == content_key(str(copy)) == content_key(one, start=0, end=None)
    assert content_key(one, start=0.3) == content_key(one, start=0.1 + 0.2)
    keys = [content_key(one), content_key(other), content_key(one, start=0.5), content_key(one, end=0.5)]
    keys += [content_key(one, start=0.25, end=0.5)]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 and int(key, 16) >= 0 for key in keys)


def test_damage_leaves_no_noise_on_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for name, codec in (("a.m4a", "aac"), ("a.mp3", "libmp3lame"), ("a.webm", "libopus")):
        write_av(tmp_path / name, sine(440, rate=48000)[None], 48000, codec=codec)
        content = bytearray((tmp_path / name).read_bytes())
        for position in rng.integers(len(content) // 2, len(content), 50):
            content[position] ^= 0xFF
        (tmp_path / name).write_bytes(content)
        with contextlib.suppress(AudioError):
            load_audio(tmp_path / name)
    assert capfd.readouterr() == ("", "")


class TestSharedRecordings:
    pytestmark = shared_data

    @pytest.mark.parametrize(
        "name",
        [
            "ravdess/01/03-01-01-01-01-01-01.flac",
            "emodb/audio-2s/03a01Fa.flac",
            "emodb/wav/03a01Fa.flac",
            "nemo/samples/EB0_anger_1.opus",
        ],
    )
    def test_a_recording_is_as_long_as_its_header_says(self, name: str) -> None:
        clip = load_audio(SHARED / name)
        assert len(clip) / SAMPLING_RATE == pytest.approx(audio_duration(SHARED / name), abs=0.001)
        assert 0.01 < np.abs(clip).max() <= 1.1

    def test_a_span_of_opus_is_the_same_part_of_the_whole(self) -> None:
        path = SHARED / "nemo/samples/EB0_anger_1.opus"
        part, whole = load_audio(path, start=0.5, end=1.5), load_audio(path)[8000:24000]
        assert np.corrcoef(part, whole)[0, 1] > 0.999
