"""Any sound file, or a span of one, as mono float32 at 16 kHz; what cannot be used raises one clear error."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from emofuse.containers import promised_end
from emofuse.errors import AudioError

SAMPLING_RATE = 16000
"""Sampling rate of everything that `load_audio` returns, in Hz."""

SHORTEST = 0.025
"""Shortest sound that can be used, in seconds: one analysis window of the speech encoders."""

_SLACK = 0.01  # Seconds that a span may reach past the end, since tables round their times.
_QUIETEST = 2e-5  # Range of samples, below one step of 16-bit audio (3e-5).
_RATES = (4000, 768000)  # Hz; a damaged header can claim any rate, and memory would grow with it.
_BLOCK = 1 << 20  # Frames decoded at once, so that a header's claim never decides how much memory is taken.
_UNKNOWN = 1 << 62  # libsndfile gives a length beyond this where a streamed FLAC does not say.

# First bytes of what libsndfile decodes here. MP3 is not among them, though it could: it takes the length from the
# first frames, drops what is beyond, and writes its doubts to standard error.
_SOUNDFILE_HEADS = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"fLaC", b"OggS", b"caff", b".snd", b"NIST")

_ENDINGS = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".mp4", ".webm"})

# FFmpeg also opens playlists, which would make it read other files or addresses: only plain containers are allowed.
_CONTAINERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,voc,w64,wav,wv"
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}


def load_audio(path: Path | str, *, start: float = 0.0, end: float | None = None) -> NDArray[np.float32]:
    """Load a sound file, or a span of it, as mono at 16 kHz.

    Channels are averaged and the rate is converted by soxr's "HQ" resampler; 16 kHz sounds are not resampled.

    Args:
        path: A file that libsndfile (wav, flac, ogg, opus) or FFmpeg (mp3, m4a, mp4, webm, aac) can decode.
        start: Where to begin, in seconds.
        end: Where to end, in seconds; None for the end of the file.

    Returns:
        Finite samples of shape (time,), at `SAMPLING_RATE` Hz, full scale at 1.

    Raises:
        AudioError: The file is missing, unreadable, empty, cut short, damaged, not a sound, silent, not finite or
            too short, or the span lies outside it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "tone.wav"
        >>> soundfile.write(path, np.sin(np.arange(8000) / 9), 8000)
        >>> load_audio(path, start=0.25).shape
        (12000,)
    """
    path = Path(path)
    _check_span(path, start=start, end=end)
    _check_file(path)
    if end is not None and end - start < SHORTEST - 1e-9:
        raise _too_short(path, end - start)
    samples, rate = _decode(path, start=start, end=end)
    if len(samples) < SHORTEST * rate:
        raise _too_short(path, len(samples) / rate)
    _check_finite(path, samples)
    _check_loud(path, samples)
    if rate != SAMPLING_RATE:
        samples = np.asarray(soxr.resample(samples, rate, SAMPLING_RATE, quality="HQ"), dtype=np.float32)
        _check_finite(path, samples)
    return samples


def check_samples(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Hold samples at 16 kHz, `(samples,)`, to what is asked of a sound file.

    Args:
        samples: Floats between -1 and 1, or signed integers, whose type tells their full scale.

    Raises:
        AudioError: They are neither, not mono, not finite, silent or too short.

    Example:
        >>> check_samples(np.sin(np.arange(8000, dtype=np.float32))).shape
        (8000,)
    """
    where = Path("samples")
    try:
        given = np.asarray(samples)
    except ValueError:
        given = np.asarray(None)
    if given.dtype.kind not in "fi":
        what = f"samples are of type {given.dtype}"
        raise AudioError(what, where=where, remedy="pass floats between -1 and 1, or signed integers")
    scale = float(np.iinfo(given.dtype).max) + 1 if given.dtype.kind == "i" else 1.0
    clip = given.astype(np.float32) / np.float32(scale)
    if clip.ndim != 1 or not np.isfinite(clip).all():
        raise AudioError("samples are not a finite mono signal", where=where, remedy="pass (samples,) floats")
    if len(clip) < SHORTEST * SAMPLING_RATE:
        raise _too_short(where, len(clip) / SAMPLING_RATE)
    _check_loud(where, clip)
    return clip


def sound_files(folder: Path | str) -> list[Path]:
    """All files below a folder whose ending is that of sound, sorted.

    Example:
        >>> import tempfile
        >>> sound_files(tempfile.mkdtemp())
        []
    """
    return sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file())


def audio_duration(path: Path | str, *, start: float = 0.0, end: float | None = None) -> float:
    """Length of a sound file, or of a span of it, in seconds, read without decoding it.

    MP3 and AAC may come out up to a tenth of a second too long, since their encoders pad.

    Args:
        path: A file that `load_audio` takes.
        start: Where the span begins, in seconds.
        end: Where it ends, in seconds; None for the end of the file.

    Raises:
        AudioError: The file is missing, unreadable, empty, visibly cut short or not a sound, or the span lies
            outside it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "tone.wav"
        >>> soundfile.write(path, np.zeros((4000, 2)), 8000)
        >>> audio_duration(path), audio_duration(path, start=0.375)
        (0.5, 0.125)
    """
    path = Path(path)
    _check_span(path, start=start, end=end)
    _check_file(path)
    file = _open_soundfile(path)
    if file is None:
        seconds = _packet_seconds(path)
    else:
        with file:
            _check_rate(path, file.samplerate)
            seconds = file.frames / file.samplerate
    if seconds <= 0:
        raise _no_samples(path)
    if start >= seconds or (end is not None and end - _SLACK > seconds):
        raise _outside(path, start, end)
    return (seconds if end is None else min(end, seconds)) - start


def content_key(path: Path | str, *, start: float = 0.0, end: float | None = None) -> str:
    """Identity of a sound: SHA-256, in hexadecimal, of the file's bytes and the span in whole microseconds.

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
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    span = (round(start * 1e6), None if end is None else round(end * 1e6))
    digest.update(f"span {span}".encode())
    return digest.hexdigest()


def _check_span(path: Path, *, start: float, end: float | None) -> None:
    last = math.inf if end is None else end
    if not (0 <= start < math.inf and start < last) or (end is not None and math.isinf(end)):
        raise AudioError(
            f"the span from {start} to {end} s is impossible",
            where=path,
            remedy="give seconds with 0 <= start < end",
        )


def _check_access(path: Path) -> int:
    """Size of a readable file with something in it."""
    try:
        status = os.stat(path)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            with path.open("rb"):
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
        raise AudioError("this is a folder", where=path, remedy="name a sound file in it")
    if kind != stat.S_IFREG:
        raise AudioError("this is not a regular file", where=path, remedy="save the sound to a file first")
    if status.st_size == 0:
        raise AudioError("the file is empty (0 bytes)", where=path, remedy="copy or record it again")
    return status.st_size


def _check_file(path: Path) -> None:
    size = _check_access(path)
    with path.open("rb") as file:
        if promised_end(file, size) > size:
            raise _cut_short(path)


def _check_rate(path: Path, rate: int) -> None:
    if not _RATES[0] <= rate <= _RATES[1]:
        raise AudioError(
            f"its header says {rate} Hz",
            where=path,
            remedy=f"convert it to a rate between {_RATES[0]} and {_RATES[1]} Hz",
        )


def _check_finite(path: Path, samples: NDArray[np.float32]) -> None:
    if not np.isfinite(samples).all():
        raise AudioError(
            "some samples are NaN or infinite", where=path, remedy="save it again as 16-bit or clipped samples"
        )


def _check_loud(path: Path, samples: NDArray[np.float32]) -> None:
    if float(samples.max()) - float(samples.min()) < _QUIETEST:
        raise AudioError("the sound is silent", where=path, remedy="check the microphone or channel, or leave it out")


def _no_samples(path: Path) -> AudioError:
    return AudioError("the file holds no samples", where=path, remedy="record it again or leave it out")


def _too_short(path: Path, seconds: float) -> AudioError:
    return AudioError(
        f"only {1000 * seconds:.1f} ms of sound",
        where=path,
        remedy=f"leave it out, since at least {1000 * SHORTEST:.0f} ms are needed",
    )


def _cut_short(path: Path) -> AudioError:
    return AudioError("the file is cut short", where=path, remedy="copy it again from its source")


def _damaged(path: Path) -> AudioError:
    return AudioError("the sound is damaged or cut short", where=path, remedy="copy it again from its source")


def _outside(path: Path, start: float, end: float | None) -> AudioError:
    span = f"from {start:g} s on" if end is None else f"from {start:g} to {end:g} s"
    return AudioError(f"the span {span} lies outside the sound", where=path, remedy="correct its start and end")


def _decode(path: Path, *, start: float, end: float | None) -> tuple[NDArray[np.float32], int]:
    """Mono samples of a span, at the file's own rate."""
    file = _open_soundfile(path)
    if file is None:
        return _decode_av(path, start=start, end=end)
    with file:
        rate = file.samplerate
        _check_rate(path, rate)
        if start * rate >= file.frames or (end is not None and (end - _SLACK) * rate > file.frames):
            raise _outside(path, start, end)
        first = round(start * rate)
        last = file.frames if end is None else min(round(end * rate), file.frames)
        position = first if file.seekable() else 0
        try:
            if position:
                file.seek(position)
            blocks = _soundfile_blocks(file, limit=last - position)
            samples = _span(blocks, path, rate, start=start, end=end, position=position)
        except soundfile.SoundFileError as error:
            raise _damaged(path) from error
        if len(samples) < last - first:
            raise _cut_short(path)
        return samples, rate


def _open_soundfile(path: Path) -> Any | None:
    """The file opened by libsndfile, or None where FFmpeg should have it."""
    with path.open("rb") as opened:
        if opened.read(4) not in _SOUNDFILE_HEADS:
            return None
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.SoundFileError, TypeError):  # TypeError: it takes a name in .raw for headerless samples.
        return None
    # It cannot read what was written to a pipe, so that its header leaves the length open: FLAC, or WAV with a 0.
    if not 0 < file.frames < _UNKNOWN:
        file.close()
        return None
    return file


def _soundfile_blocks(file: Any, *, limit: int) -> Iterator[NDArray[np.float32]]:
    while limit > 0:
        block = file.read(min(_BLOCK, limit), dtype="float32", always_2d=True)
        if not len(block):
            return
        limit -= len(block)
        yield _mono(block, axis=1)


def _mono(block: NDArray[Any], *, axis: int) -> NDArray[np.float32]:
    # In 64 bits the sum of loud channels cannot overflow; what is not finite is reported by the caller.
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(block.mean(axis=axis, dtype=np.float64), dtype=np.float32)


def _span(
    blocks: Iterator[NDArray[np.float32]],
    path: Path,
    rate: int,
    *,
    start: float,
    end: float | None,
    position: int,
) -> NDArray[np.float32]:
    """Join what blocks hold of the span, the first of them being `position` frames into the file."""
    first, last = round(start * rate), _UNKNOWN if end is None else round(end * rate)
    kept = [np.zeros(0, np.float32)]
    for block in blocks:
        kept.append(block[max(0, first - position) : max(0, last - position)])
        position += len(block)
        if position >= last:
            break
    if 0 < first >= position or (end is not None and position < (end - _SLACK) * rate):
        raise _outside(path, start, end)
    return np.concatenate(kept)


def _open_av(path: Path) -> Any:
    import av

    try:
        # Tags in another encoding must not stop the sound from being read; PyAV 19 sees to that by itself.
        lenient: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
        container = av.open(f"file:{path}", options=_OPTIONS, **lenient)
    except (av.FFmpegError, ValueError) as error:
        raise AudioError(
            "this is not a sound file, or one too damaged to open",
            where=path,
            remedy="use wav, flac, ogg, opus, mp3, m4a, mp4, webm or aac",
        ) from error
    if not container.streams.audio or container.streams.audio[0].codec_context is None:
        container.close()
        raise AudioError(
            "the file has no sound track that can be decoded", where=path, remedy="choose a recording with sound"
        )
    return container


def _decode_av(path: Path, *, start: float, end: float | None) -> tuple[NDArray[np.float32], int]:
    with closing(_open_av(path)) as container:
        blocks = _av_blocks(container, path)
        first = next(blocks, None)
        if first is None:
            raise _no_samples(path)
        rate = first[1]
        _check_rate(path, rate)

        def samples() -> Iterator[NDArray[np.float32]]:
            yield first[0]
            for block, block_rate in blocks:
                if block_rate != rate:
                    raise AudioError(
                        "its sampling rate changes midway", where=path, remedy="convert it to wav or flac first"
                    )
                yield block

        return _span(samples(), path, rate, start=start, end=end, position=0), rate


def _av_blocks(container: Any, path: Path) -> Iterator[tuple[NDArray[np.float32], int]]:
    import av

    try:
        for frame in container.decode(audio=0):
            for part in av.AudioResampler(format="fltp").resample(frame):
                yield _mono(part.to_ndarray(), axis=0), part.sample_rate
    except (av.FFmpegError, ValueError) as error:
        raise _damaged(path) from error


def _packet_seconds(path: Path) -> float:
    """Length from the packets themselves: some containers state none, others a guess."""
    import av

    with closing(_open_av(path)) as container:
        stream = container.streams.audio[0]
        if not stream.rate:
            raise _damaged(path)
        _check_rate(path, stream.rate)
        try:
            spans = [
                (float(packet.pts * packet.time_base), float((packet.pts + (packet.duration or 0)) * packet.time_base))
                for packet in container.demux(stream)
                if packet.pts is not None and packet.time_base is not None
            ]
        except (av.FFmpegError, ValueError) as error:
            raise _damaged(path) from error
    if not spans:
        return 0.0
    # Packets before zero only prime the decoder.
    return max(end for _, end in spans) - max(0.0, min(start for start, _ in spans))
