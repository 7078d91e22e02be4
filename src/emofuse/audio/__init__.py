"""Load any audio file, or a span, as mono float32 at 16 kHz; unusable audio raises one clear error."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emofuse.audio import kept
from emofuse.audio.checks import (
    LONGEST,
    LONGEST_UTTERANCE,
    SAMPLING_RATE,
    SHORTEST,
    SLACK,
    Levels,
    no_samples,
    outside,
    too_long,
    too_short,
)
from emofuse.audio.process import ask
from emofuse.errors import AudioError
from emofuse.files import of_any_length

__all__ = [
    "LONGEST",
    "LONGEST_UTTERANCE",
    "SAMPLING_RATE",
    "SHORTEST",
    "Recording",
    "audio_duration",
    "audio_files",
    "check_samples",
    "content_key",
    "load_audio",
    "read_audio",
    "read_samples",
]

_ENDINGS = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".mp4", ".webm"})

_LENGTHS: kept.Kept[float] = kept.Kept()
_DIGESTS: kept.Kept[Any] = kept.Kept()


@dataclass(frozen=True, eq=False)
class Recording:
    """Usable audio, and notes on it.

    Attributes:
        samples: Mono at 16 kHz, `(samples,)`, finite, full scale at 1.
        notes: Parts of the file that were not read, wrong headers, and differences between channels.
    """

    samples: NDArray[np.float32]
    notes: tuple[str, ...] = ()


def read_audio(
    path: Path | str, *, start: float = 0.0, end: float | None = None, longest: float = LONGEST
) -> Recording:
    """Load an audio file, or a span of it, as mono at 16 kHz, with notes.

    Channels are averaged, except silent and opposed ones, and the rate is converted by soxr's "HQ" resampler. Decoding
    runs in another process, so that a crash of a decoder affects this file only.

    Args:
        path: A file that libsndfile (wav, flac, ogg, opus) or FFmpeg (mp3, m4a, mp4, webm, aac) can decode.
        start: Beginning in seconds.
        end: End in seconds; None for the end of the file.
        longest: Longest audio to load, in seconds.

    Raises:
        AudioError: The file is missing, unreadable, empty, cut short, damaged, no recording, silent, not finite, out of
            range, too short or too long, or the span lies outside it.
        EmofuseError: No process can be started.

    Example:
        >>> import soundfile, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "tone.wav"
        >>> tone = np.sin(np.arange(16000) / 9)
        >>> soundfile.write(path, np.stack([tone, -tone], axis=1), 16000)
        >>> read_audio(path).notes
        ('the 2 channels are of opposite phase and would cancel, so channel 1 was used alone',)
    """
    path = Path(path)
    _check_span(path, start=start, end=end)
    _check_access(path)
    if end is not None and end - start < SHORTEST - 1e-9:
        raise too_short(path, end - start)
    if end is not None and end - start > longest:
        raise too_long(path, longest, end - start)
    try:
        return Recording(*kept.load(path, start=start, end=end, longest=longest))
    except MemoryError as error:
        raise AudioError(
            "there is not enough memory for it", where=path, remedy="cut it into utterances, or make memory free"
        ) from error


def load_audio(
    path: Path | str, *, start: float = 0.0, end: float | None = None, longest: float = LONGEST
) -> NDArray[np.float32]:
    """Load an audio file, or a span of it, as mono at 16 kHz.

    See `read_audio`, which also returns notes.

    Raises:
        AudioError: As for `read_audio`.

    Example:
        >>> import soundfile, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "tone.wav"
        >>> soundfile.write(path, np.sin(np.arange(8000) / 9), 8000)
        >>> load_audio(path, start=0.25).shape
        (12000,)
    """
    return read_audio(path, start=start, end=end, longest=longest).samples


def read_samples(samples: NDArray[Any], *, longest: float = LONGEST) -> Recording:
    """Check samples at 16 kHz, `(samples,)`, like those of an audio file.

    Args:
        samples: Floats between -1 and 1, or signed integers, whose type gives their full scale.
        longest: Longest audio to accept, in seconds.

    Raises:
        AudioError: They are neither, not mono, not finite, on another scale, silent, too short or too long.

    Example:
        >>> read_samples(np.sin(np.arange(8000, dtype=np.float32))).samples.shape
        (8000,)
    """
    where = Path("samples")
    try:
        given = np.asarray(samples)
    except (ValueError, TypeError, RuntimeError) as error:
        # Rows of different lengths, or a torch tensor outside CPU memory.
        reason = str(error).partition("\n")[0].rstrip(".")
        what = f"samples are of type {type(samples).__name__} and no array ({reason})"
        raise AudioError(what, where=where, remedy="pass an array of numpy") from error
    if given.dtype.kind not in "fi":
        what = f"samples are of type {given.dtype}"
        raise AudioError(what, where=where, remedy="pass floats between -1 and 1, or signed integers")
    if given.ndim != 1:
        raise AudioError(
            f"samples have the shape {given.shape}", where=where, remedy="pass one channel, of shape (samples,)"
        )
    if len(given) < SHORTEST * SAMPLING_RATE:
        raise too_short(where, len(given) / SAMPLING_RATE)
    if len(given) > longest * SAMPLING_RATE:
        raise too_long(where, longest, len(given) / SAMPLING_RATE)
    if given.dtype.kind == "i":
        _check_scale(where, given)
    scale = float(np.iinfo(given.dtype).max) + 1 if given.dtype.kind == "i" else 1.0
    with np.errstate(over="ignore"):
        clip = np.asarray(given / scale if given.dtype.kind == "i" else given, dtype=np.float32)
    levels = Levels(where)
    levels.see(clip)
    return Recording(clip, (*levels.check_loud(), *_unused_bits(given)))


def check_samples(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Checked samples at 16 kHz; see `read_samples`.

    Raises:
        AudioError: As for `read_samples`.

    Example:
        >>> check_samples(np.sin(np.arange(8000, dtype=np.float32))).shape
        (8000,)
    """
    return read_samples(samples).samples


def _check_scale(where: Path, given: NDArray[Any]) -> None:
    """Refuse wide integers with values of narrow ones."""
    bits = 8 * given.dtype.itemsize
    peak = max(-int(given.min()), int(given.max()))
    if bits > 16 and 0 < peak <= 1 << (bits - 16):
        narrow = next(one for one in (16, 24, 32, 48) if peak <= 1 << (one - 1) or one == 48)
        raise AudioError(
            f"samples are integers of {bits} bits, and their values those of {narrow}",
            where=where,
            remedy=f"divide them by {1 << (narrow - 1)}, to floats between -1 and 1",
        )


def _unused_bits(given: NDArray[Any]) -> tuple[str, ...]:
    if given.dtype.kind == "i" and given.dtype.itemsize == 4 and max(-int(given.min()), int(given.max())) <= 1 << 23:
        return ("samples are integers of 32 bits with values of 24 at most, so divide them by 8388608 if that is so",)
    return ()


def audio_files(folder: Path | str) -> list[Path]:
    """All audio files below a folder, by their endings, sorted.

    Example:
        >>> import tempfile
        >>> audio_files(tempfile.mkdtemp())
        []
    """
    return sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file())


def audio_duration(path: Path | str, *, start: float = 0.0, end: float | None = None) -> float:
    """Length of an audio file, or of a span of it, in seconds, without decoding.

    MP3 and AAC may come out up to a tenth of a second too long, since their encoders pad.

    Args:
        path: A file that `load_audio` takes.
        start: Beginning of the span, in seconds.
        end: Its end, in seconds; None for the end of the file.

    Raises:
        AudioError: The file is missing, unreadable, empty, visibly cut short or not a recording, or the span lies
            outside it.

    Example:
        >>> import soundfile, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "tone.wav"
        >>> soundfile.write(path, np.zeros((4000, 2)), 8000)
        >>> audio_duration(path), audio_duration(path, start=0.375)
        (0.5, 0.125)
    """
    path = Path(path)
    _check_span(path, start=start, end=end)
    key = kept.identity(path) if _check_access(path) else None
    known = _LENGTHS.get(key)
    seconds = float(ask(path, {"do": "length"})["seconds"]) if known is None else known
    _LENGTHS.put(key, seconds)
    if seconds <= 0:
        raise no_samples(path)
    if start >= seconds or (end is not None and end - SLACK > seconds):
        raise outside(path, start, end)
    return (seconds if end is None else min(end, seconds)) - start


def content_key(path: Path | str, *, start: float = 0.0, end: float | None = None) -> str:
    """Identity of a recording: SHA-256, in hexadecimal, of the file's bytes and the span in whole microseconds.

    Raises:
        AudioError: The file is missing, unreadable or empty, or the span is impossible.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "any.wav"
        >>> _ = path.write_bytes(b"RIFF")
        >>> content_key(path) == content_key(path, start=0), content_key(path) == content_key(path, end=1.0)
        (True, False)
    """
    path = Path(path)
    _check_span(path, start=start, end=end)
    _check_access(path)
    key = kept.identity(path)
    digest = _DIGESTS.get(key)
    if digest is None:
        digest = hashlib.sha256()
        try:
            with of_any_length(path).open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        except OSError as error:
            raise AudioError(
                f"the file cannot be read ({error.strerror})", where=path, remedy="check its disk, or copy it again"
            ) from error
        _DIGESTS.put(key, digest)
    digest = digest.copy()
    span = (round(start * 1e6), None if end is None else round(end * 1e6))
    digest.update(f"span {span}".encode())
    return str(digest.hexdigest())


def _check_span(path: Path, *, start: float, end: float | None) -> None:
    last = math.inf if end is None else end
    if not (0 <= start < math.inf and start < last) or (end is not None and math.isinf(end)):
        raise AudioError(
            f"the span from {start} to {end} s is impossible",
            where=path,
            remedy="give seconds with 0 <= start < end",
        )


def _check_access(path: Path) -> int:
    """Size of a readable, non-empty file."""
    try:
        status = os.stat(of_any_length(path))
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            with of_any_length(path).open("rb"):
                pass
    except FileNotFoundError as error:
        raise AudioError("no such file", where=path, remedy="check the path") from error
    except PermissionError as error:
        raise AudioError("no permission to read it", where=path, remedy="change its permissions") from error
    except (OSError, ValueError) as error:
        raise AudioError(
            "the file cannot be opened", where=repr(str(path)), remedy="check its name and disk"
        ) from error
    if kind == stat.S_IFDIR:
        raise AudioError("this is a folder", where=path, remedy="name an audio file in it")
    if kind != stat.S_IFREG:
        raise AudioError("this is not a regular file", where=path, remedy="save the audio to a file first")
    if status.st_size == 0:
        raise AudioError("the file is empty (0 bytes)", where=path, remedy="copy or record it again")
    return status.st_size
