"""Decode any file or span in blocks to mono at 16 kHz, in constant memory.

This runs in a process of its own, since damaged files can crash decoders in C.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from emofuse.audio.checks import (
    LONGEST_FILE,
    SAMPLING_RATE,
    SHORTEST,
    SLACK,
    Levels,
    check_rate,
    cut_short,
    damaged,
    no_samples,
    outside,
    too_long,
    too_short,
)
from emofuse.audio.containers import Survey, survey
from emofuse.audio.mixing import Mixer
from emofuse.errors import AudioError
from emofuse.files import plain_name

Block = NDArray[np.float32]
Emit = Callable[[Block], None]
Signal = Callable[[], None]

_BLOCK = 1 << 16  # Frames decoded at once, so that memory never depends on a header.
_UNKNOWN = 1 << 62  # libsndfile returns a greater length for a streamed FLAC without a length.
_OPUS_CHANNELS = 7
_ANEW = 1.0  # Seconds by which time jumps back at the next recording of the same file.
_GAP = 0.1  # Seconds of missing audio that are noted.
_SLACK, _SHORT = 0.25, 0.03  # Seconds, and fraction of all, by which a header may exceed the audio, since encoders pad.
_HAS_LENGTH = frozenset({"matroska", "mov", "asf", "avi", "flv"})

# Plain containers only: FFmpeg also opens playlists, which refer to other files or addresses.
_CONTAINERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,voc,w64,wav,wv"
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}

_SAMPLES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}


class Source:
    """Frames of a file or a span, in blocks `(frames, channels)`; can be iterated again.

    Attributes:
        whole: Whether the whole file is decoded for a span.
        notes: Parts that were not read, and wrong headers; complete after the last block.
    """

    def __init__(self, path: Path, *, start: float, end: float | None, longest: float) -> None:
        self._path, self._start, self._end = path, start, end
        self._survey = _surveyed(path)
        self.notes = list(self._survey.notes)
        file = _open_soundfile(path, self._survey)
        self.whole = file is None and (start > 0 or end is not None)
        if file is not None:
            file.close()
        self._by_soundfile = file is not None
        self._longest = LONGEST_FILE if self.whole else longest

    def blocks(self) -> Iterator[tuple[Block, int]]:
        """Each block with its sampling rate."""
        self.notes = list(self._survey.notes)
        return self._soundfile_blocks() if self._by_soundfile else self._av_blocks()

    def _soundfile_blocks(self) -> Iterator[tuple[Block, int]]:
        opened = _open_soundfile(self._path, self._survey)
        assert opened is not None  # noqa: S101
        with opened as file:
            rate, start, end = file.samplerate, self._start, self._end
            check_rate(self._path, rate)
            if start * rate >= file.frames or (end is not None and (end - SLACK) * rate > file.frames):
                raise outside(self._path, start, end)
            first = round(start * rate)
            last = file.frames if end is None else min(round(end * rate), file.frames)
            if last - first > self._longest * rate:
                raise too_long(self._path, self._longest, (last - first) / rate)
            place = first if file.seekable() else 0
            try:
                if place:
                    file.seek(place)
                while place < last:
                    block = file.read(min(_BLOCK, last - place), dtype="float32", always_2d=True)
                    if not len(block):
                        raise cut_short(self._path)
                    yield block[max(0, first - place) :], rate
                    place += len(block)
            except soundfile.SoundFileError as error:
                raise damaged(self._path) from error

    def _av_blocks(self) -> Iterator[tuple[Block, int]]:
        import av

        with closing(_open_av(self._path, self._survey)) as container:
            tracks = len(container.streams.audio)
            if tracks > 1:
                self.notes.append(f"the file has {tracks} audio tracks, of which the first was read")
            shape: tuple[int, int] | None = None
            due: float | None = None
            failed: Exception | None = None
            lost, count = 0.0, 0
            packets = container.demux(container.streams.audio[0])
            while True:
                try:
                    packet = next(packets, None)
                    frames = [] if packet is None else packet.decode()
                except (av.FFmpegError, ValueError) as error:
                    failed = error
                    continue
                if packet is None:
                    break
                for frame in frames:
                    if failed is not None or frame.is_corrupt:
                        raise damaged(self._path) from failed
                    block = _frames(frame)
                    if shape is None:
                        shape = (frame.sample_rate, block.shape[1])
                    if shape[0] != frame.sample_rate:
                        raise _changing(self._path, "sampling rate changes")
                    if shape[1] != block.shape[1]:
                        raise _changing(self._path, "number of channels changes")
                    if frame.time is not None:
                        lost += max(0.0, frame.time - due) if due is not None and frame.time - due > _GAP else 0.0
                        due = frame.time + len(block) / frame.sample_rate
                    count += len(block)
                    if count > self._longest * frame.sample_rate:
                        raise too_long(self._path, self._longest)
                    yield block, frame.sample_rate
            if shape is None:
                raise no_samples(self._path) if failed is None else damaged(self._path) from failed
            if failed is not None:
                self.notes.append("what follows the audio, or its end, cannot be decoded and was left out")
            seconds, stated = count / shape[0], _stated_seconds(container)
            if lost <= _GAP and stated - seconds > max(_SLACK, _SHORT * stated):
                self.notes.append(f"its header says {stated:.2f} s, and no more than {seconds:.2f} s could be read")
            if lost:
                self.notes.append(f"{lost:.1f} s within the audio are missing; the rest was concatenated")


def _stated_seconds(container: Any) -> float:
    """Length of the first audio track by the header; 0 if missing or estimated."""
    stream = container.streams.audio[0]
    if not _HAS_LENGTH & set(container.format.name.split(",")):
        return 0.0
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _changing(path: Path, what: str) -> AudioError:
    return AudioError(f"its {what} midway", where=path, remedy="convert it to wav or flac first")


def _frames(frame: Any) -> Block:
    """Raw samples of FFmpeg's frame, since its conversions need a known channel layout."""
    from av.audio.plane import AudioPlane

    kind = frame.format.name.removesuffix("p")
    if kind not in _SAMPLES:
        raise ValueError(kind)
    channels, count = frame.layout.nb_channels, frame.samples
    if " channels (" in frame.layout.name:
        # PyAV would free memory twice that such a layout shares with its frame, so it is never freed.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(frame.layout))
    # Not by `frame.planes`, which reads out of bounds for eight or more.
    plane: Any = AudioPlane
    if frame.format.is_planar:
        planes = [np.frombuffer(plane(frame, channel), _SAMPLES[kind], count) for channel in range(channels)]
        values = np.stack(planes, axis=1)
    else:
        values = np.frombuffer(plane(frame, 0), _SAMPLES[kind], count * channels).reshape(count, channels)
    with np.errstate(over="ignore"):
        samples = values.astype(np.float32)
    if kind == "u8":
        samples -= 128
    if values.dtype.kind in "iu":
        samples /= np.float32(2.0 ** (8 * values.dtype.itemsize - 1))
    return samples


@lru_cache(maxsize=64)
def _survey(path: Path, _: tuple[int, ...]) -> Survey:
    return survey(path)


def _surveyed(path: Path) -> Survey:
    status = path.stat()
    return _survey(path, (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


def _open_soundfile(path: Path, found: Survey) -> Any | None:
    """The file opened by libsndfile; None if FFmpeg should decode it."""
    if not found.soundfile:
        return None
    try:
        with plain_name(path) as place:
            file = soundfile.SoundFile(place)
    except (soundfile.SoundFileError, TypeError):  # TypeError: libsndfile treats a name in .raw as headerless samples.
        return None
    # It cannot read files that were written to a pipe, without a length: FLAC, or WAV with a 0; nor Opus of more than 7
    # channels, though it opens it.
    if not 0 < file.frames < _UNKNOWN or (file.subtype == "OPUS" and file.channels > _OPUS_CHANNELS):
        file.close()
        return None
    return file


def _open_av(path: Path, found: Survey) -> Any:
    import av

    try:
        # Ignore tags in another encoding; PyAV 19 does so itself.
        lenient: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
        options = _OPTIONS | ({"ignore_length": "1"} if found.to_the_end else {})
        with plain_name(path) as place:
            container = av.open(f"file:{place}", options=options, **lenient)
    except (av.FFmpegError, ValueError) as error:
        raise AudioError(
            "this is not an audio file, or one too damaged to open",
            where=path,
            remedy="use wav, flac, ogg, opus, mp3, m4a, mp4, webm or aac",
        ) from error
    if not container.streams.audio or container.streams.audio[0].codec_context is None:
        container.close()
        raise AudioError(
            "the file has no audio track that can be decoded", where=path, remedy="choose a recording with audio"
        )
    return container


def decode(
    path: Path, emit: Emit, *, start: float, end: float | None, longest: float, whole: Signal, again: Signal
) -> tuple[str, ...]:
    """Decode a file or a span of it to mono at 16 kHz.

    Args:
        path: The file.
        emit: Receives each block.
        start: Beginning in seconds.
        end: End in seconds; None for the end of the file.
        longest: Most seconds to emit.
        whole: Called first if the whole file will be emitted, from which the caller cuts the span.
        again: Called if all blocks so far are void, since the channels must be mixed differently.

    Returns:
        Notes.

    Raises:
        AudioError: The audio cannot be used.
    """
    source = Source(path, start=start, end=end, longest=longest)
    if source.whole:
        whole()
    used, notes, levels = _pass(source, path, emit)
    if used is not None:
        again()
        levels = _pass(source, path, emit, used=used)[2]
    # The span must not be silent; the rest of the file may be.
    return (*source.notes, *notes, *(() if source.whole else levels.check_loud()))


def _pass(
    source: Source, path: Path, emit: Emit, *, used: tuple[int, ...] | None = None
) -> tuple[tuple[int, ...] | None, tuple[str, ...], Levels]:
    """Decode a file once; return the channels to use instead, if any."""
    levels = Levels(path)
    mixer: Mixer | None = None
    resampler: Any = None
    count = rate = 0
    for block, rate in source.blocks():
        if mixer is None:
            check_rate(path, rate)
            mixer = Mixer(block.shape[1], used=used)
            resampler = None if rate == SAMPLING_RATE else soxr.ResampleStream(rate, SAMPLING_RATE, 1, quality="HQ")
        count += len(block)
        levels.check(block)
        mono = mixer.mix(block)
        levels.see(mono)
        emit(mono if resampler is None else resampler.resample_chunk(mono))
    if mixer is None:
        raise no_samples(path)
    if count < SHORTEST * rate:
        raise too_short(path, count / rate)
    if resampler is not None:
        emit(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    channels, notes = mixer.verdict()
    return (channels if notes and len(channels) < mixer.channels else None), notes, levels


def length(path: Path) -> float:
    """Length of a file in seconds, without decoding.

    Raises:
        AudioError: The file cannot be used.
    """
    found = _surveyed(path)
    file = _open_soundfile(path, found)
    if file is None:
        return _packet_seconds(path, found)
    with file:
        check_rate(path, file.samplerate)
        return float(file.frames / file.samplerate)


def _packet_seconds(path: Path, found: Survey) -> float:
    """Length from the packets: some containers state none, others an estimate."""
    import av

    with closing(_open_av(path, found)) as container:
        stream = container.streams.audio[0]
        if not stream.rate:
            raise damaged(path)
        check_rate(path, stream.rate)
        begin, stop, total = math.inf, -math.inf, 0.0
        last = -math.inf
        try:
            for packet in container.demux(stream):
                if packet.pts is None or packet.time_base is None:
                    continue
                first = float(packet.pts * packet.time_base)
                if first < last - _ANEW:
                    total, begin, stop = total + _between(begin, stop), math.inf, -math.inf
                begin = min(begin, first)
                stop = max(stop, first + float((packet.duration or 0) * packet.time_base))
                last = first
        except (av.FFmpegError, ValueError) as error:
            raise damaged(path) from error
    return total + _between(begin, stop)


def _between(begin: float, stop: float) -> float:
    # Packets before zero only prime the decoder.
    return max(0.0, stop - max(0.0, begin))
