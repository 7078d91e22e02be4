"""Audio of every container and codec that PyAV and libsndfile write here, of 1 to 8 channels, and their damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np
import soundfile
from benchmarks.fuzz.contract import Kind, require
from benchmarks.fuzz.damage import spoiled
from numpy.typing import NDArray

from emofuse.audio import SAMPLING_RATE, SHORTEST, audio_duration, content_key, load_audio
from emofuse.errors import AudioError

_RATES = (4000, 8000, 11025, 16000, 22050, 44100, 48000, 96000)
_MAJORS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3", "VOC", "NIST", "SVX", "RAW", "AVR")
_ENDINGS = {"WAVEX": "wav", "RF64": "wav", "NIST": "wav", "OGG": "ogg", "SVX": "iff"}
# Ending, container and codecs that FFmpeg writes into it.
_CONTAINERS = (
    ("m4a", "ipod", ("aac", "alac")),
    ("mp4", "mp4", ("aac", "alac", "mp3", "ac3", "eac3", "libopus", "flac")),
    ("mov", "mov", ("aac", "alac", "pcm_s16le", "pcm_s16be", "pcm_f32le", "pcm_s24le", "pcm_alaw", "adpcm_ima_qt")),
    ("mka", "matroska", ("libopus", "vorbis", "flac", "mp3", "aac", "ac3", "pcm_s16le", "pcm_f64le", "tta", "wavpack")),
    ("webm", "webm", ("libopus", "vorbis")),
    ("ogg", "ogg", ("vorbis", "flac", "libopus")),
    ("opus", "opus", ("libopus",)),
    ("3gp", "3gp", ("aac", "libopencore_amrnb")),
    ("amr", "amr", ("libopencore_amrnb",)),
    ("aac", "adts", ("aac",)),
    ("mp3", "mp3", ("libmp3lame",)),
    ("mp2", "mp2", ("mp2",)),
    ("ac3", "ac3", ("ac3",)),
    ("eac3", "eac3", ("eac3",)),
    ("flac", "flac", ("flac",)),
    ("wav", "wav", ("pcm_s16le", "pcm_mulaw", "adpcm_ms", "adpcm_ima_wav", "g722", "mp3", "aac", "ac3")),
    ("aiff", "aiff", ("pcm_s16be", "pcm_s24be")),
    ("au", "au", ("pcm_s16be", "pcm_f64be")),
    ("caf", "caf", ("pcm_s16le", "alac", "libopus")),
    ("w64", "w64", ("pcm_s16le", "pcm_f32le")),
    ("tta", "tta", ("tta",)),
    ("wv", "wv", ("wavpack",)),
    ("ts", "mpegts", ("aac", "mp2", "ac3", "libopus")),
    ("mpg", "mpeg", ("mp2", "ac3")),
    ("avi", "avi", ("mp3", "pcm_s16le", "ac3", "aac")),
    ("wma", "asf", ("wmav1", "wmav2")),
    ("flv", "flv", ("aac", "libmp3lame", "nellymoser")),
    ("voc", "voc", ("pcm_u8", "pcm_s16le")),
)
_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


def _tones(name: str, rate: int, channels: int, *, count: int) -> NDArray[np.float64]:
    chance = Random(name)
    generator = np.random.default_rng(chance.getrandbits(32))
    tone = 0.4 * np.sin(np.arange(count) * 2 * np.pi * 210 / rate)[:, None]
    noise = 0.1 * generator.standard_normal((count, channels))
    kind = chance.randrange(8)
    if kind == 0:
        return np.zeros((count, channels))
    if kind == 1:
        return np.asarray(tone * np.where(np.arange(channels) % 2, -1, 1))
    if kind == 2 and count:
        noise[chance.randrange(count)] = chance.choice((1e37, 1e300, -2.0, np.nan, np.inf, 1e-40))
    return np.asarray(tone + noise)


def _writers(folder: Path) -> Iterator[Callable[[], None]]:
    chance = Random(0)
    for major in _MAJORS:
        for subtype in soundfile.available_subtypes(major):
            for channels in (1, 2, chance.randint(3, 8)):
                rate = chance.choice(_RATES)
                count = int(rate * chance.choice((0.0, 0.01, 0.03, 0.1, 0.3, 0.3, 0.3, 0.3, 0.7)))
                path = folder / f"sf-{major}-{subtype}-{channels}-{rate}.{_ENDINGS.get(major, major.lower())}"
                yield partial(_with_soundfile, path, major, subtype, channels, rate, count)
    for ending, container, codecs in _CONTAINERS:
        for codec in codecs:
            for channels in (1, 2, chance.randint(3, 7), 8):
                rate = 8000 if "amr" in codec else 48000 if codec == "libopus" else chance.choice((16000, 44100, 48000))
                path = folder / f"av-{container}-{codec}-{channels}-{rate}.{ending}"
                yield partial(_with_av, path, container, codec, channels, rate, 2 if chance.random() < 0.15 else 1)


def _with_soundfile(path: Path, major: str, subtype: str, channels: int, rate: int, count: int) -> None:
    samples = _tones(path.name, rate, channels, count=count)
    try:
        soundfile.write(path, samples, rate, subtype=subtype, format=major)
    except (soundfile.SoundFileError, ValueError, TypeError):
        path.unlink(missing_ok=True)


def _with_av(path: Path, container: str, codec: str, channels: int, rate: int, tracks: int) -> None:
    samples = _tones(path.name, rate, channels, count=int(0.3 * rate))
    with np.errstate(over="ignore"):
        planes = np.ascontiguousarray(samples.T.astype(np.float32))
    layout = _LAYOUTS[channels]
    try:
        with av.open(str(path), "w", format=container) as file:
            for stream in [file.add_stream(codec, rate=rate, layout=layout) for _ in range(tracks)]:
                coder: Any = stream.codec_context
                coder.open()
                frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
                frame.sample_rate = rate
                resampler = av.AudioResampler(coder.format, layout, rate, coder.frame_size or 1024)
                for part in [*resampler.resample(frame), *resampler.resample(None)]:
                    file.mux(stream.encode(part))  # type: ignore[attr-defined]
                file.mux(stream.encode(None))  # type: ignore[attr-defined]
    except (av.FFmpegError, ValueError, TypeError, AttributeError, IndexError):
        path.unlink(missing_ok=True)


class Audio(Kind):
    """Files for `load_audio`, `audio_duration` and `content_key`."""

    name = "audio"

    def preparations(self, seeds: Path) -> list[Callable[[], Any]]:
        """Every container and codec; what an encoder does not take is left out."""
        return list(_writers(seeds))

    def make(self, chance: Random, seeds: Path, case: Path) -> dict[str, Any]:
        """A recording, mostly damaged, sometimes under another's ending, and the span that is asked for."""
        found = sorted(seeds.iterdir())
        path = chance.choice(found)
        content = path.read_bytes()
        way = chance.random()
        if way < 0.1:
            content += chance.choice(found).read_bytes()
        elif way < 0.2 and b"OggS" in content:
            pages = content.split(b"OggS")
            del pages[chance.randrange(1, len(pages))]
            content = b"OggS".join(pages)
        elif way < 0.9:
            content = spoiled(content, chance)
        ending = chance.choice(found).suffix if chance.random() < 0.1 else path.suffix
        (case / f"audio{ending}").write_bytes(content)
        start = chance.choice((0.0, 0.0, 0.0, 0.05, 0.1, 5.0))
        end = None if chance.random() < 0.7 else start + chance.choice((0.01, 0.05, 0.15, 9.0, 1e9))
        return {"start": start, "end": end, "seed": path.name}

    def ask(self, place: Path, parameters: dict[str, Any]) -> None:
        """Load it, ask for its length, and for what it is."""
        (path,) = place.iterdir()
        span = {"start": parameters["start"], "end": parameters["end"]}
        require(len(content_key(path, **span)) == 64, "the key is no SHA-256") if path.stat().st_size else None
        try:
            seconds = audio_duration(path, **span)
        except AudioError:
            seconds = None
        require(seconds is None or 0 < seconds < 1e7, f"the audio is {seconds} s long")
        clip = load_audio(path, **span)
        require(clip.dtype == np.float32 and clip.ndim == 1, f"samples are {clip.dtype} {clip.shape}")
        require(len(clip) >= int(SHORTEST * SAMPLING_RATE) - 1, f"there are {len(clip)} samples")
        require(bool(np.isfinite(clip).all()), "samples are not finite")
