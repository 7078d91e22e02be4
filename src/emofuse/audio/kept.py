"""Cache of decoded files, so that many spans of one recording cost one decoding."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Hashable
from pathlib import Path
from typing import IO, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from emofuse.audio.checks import (
    SAMPLING_RATE,
    SHORTEST,
    SLACK,
    Levels,
    outside,
    too_long,
    too_short,
)
from emofuse.audio.process import ask
from emofuse.audio.worker import AGAIN, BLOCK, WHOLE
from emofuse.files import of_any_length

Value = TypeVar("Value")

_SETTLED = 2.0  # Seconds: file systems do not distinguish two changes closer than this.
_FILES = 4096
_DISK = 2 << 30  # Most bytes of decoded samples in temporary files.
_WIDTH = 4  # Bytes a sample.


def identity(path: Path) -> Hashable | None:
    """Identity of a file's state; None if it was written too recently to tell changes apart."""
    try:
        status = of_any_length(path).stat()
    except OSError:  # Deleted meanwhile; opening it raises the error.
        return None
    if time.time() - status.st_mtime < _SETTLED:
        return None
    return (os.path.abspath(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Kept(Generic[Value]):
    """A cache of one value per file, except for files that were just written.

    Example:
        >>> lengths = Kept()
        >>> lengths.put("a", 1.5)
        >>> lengths.get("a"), lengths.get("b"), lengths.get(None)
        (1.5, None, None)
    """

    def __init__(self) -> None:
        self._values: dict[Hashable, Value] = {}

    def get(self, key: Hashable | None) -> Value | None:
        """The value of a file."""
        return None if key is None else self._values.get(key)

    def put(self, key: Hashable | None, value: Value) -> None:
        """Keep a file's value."""
        if key is not None:
            if len(self._values) >= _FILES:
                self._values.clear()
            self._values[key] = value


class _Recording:
    """All samples of a file, in a temporary file that vanishes with its last user, even after a kill."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._lock = threading.Lock()
        self.samples = 0
        self.notes: tuple[str, ...] = ()

    def clear(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.samples = 0

    def add(self, content: bytes) -> None:
        self._file.write(content)
        self.samples += len(content) // _WIDTH

    def cut(self, first: int, last: int) -> NDArray[np.float32]:
        with self._lock:
            self._file.seek(first * _WIDTH)
            return np.frombuffer(bytearray(self._file.read((last - first) * _WIDTH)), dtype="<f4")


_RECORDINGS: OrderedDict[Hashable, _Recording] = OrderedDict()
_LOCK = threading.Lock()
_BUSY: defaultdict[Hashable, threading.Lock] = defaultdict(threading.Lock)
_SEEKABLE: Kept[bool] = Kept()


def _forget() -> None:
    """Reset in a forked process: locks may be held by threads of the parent, and file positions are shared with it."""
    global _LOCK
    _LOCK = threading.Lock()
    _RECORDINGS.clear()
    _BUSY.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class _Collected:
    """Output of a decoder: the requested samples, and all samples if it must decode the whole file."""

    def __init__(self, first: int, last: int | None, *, most: int, keep: bool) -> None:
        self._first, self._last, self._most, self._keep = first, last, most, keep
        self.whole = False
        self.recording: _Recording | None = None
        self.samples = 0
        self.wanted = bytearray()

    def take(self, kind: bytes, content: bytes) -> None:
        try:
            self._take(kind, content)
        except OSError:  # No temporary file, or the disk is full: the next span is decoded again.
            self.recording = None
            if kind == BLOCK:
                self._want(content)

    def _take(self, kind: bytes, content: bytes) -> None:
        if kind == WHOLE:
            self.whole = True
            self.recording = _Recording() if self._keep else None
        elif kind == AGAIN:
            self.samples = 0
            self.wanted.clear()
            if self.recording is not None:
                self.recording.clear()
        elif kind == BLOCK:
            if self.recording is not None:
                self.recording.add(content)
            self._want(content)

    def _want(self, content: bytes) -> None:
        if not self.whole:
            self.wanted += content
        elif len(self.wanted) <= self._most * _WIDTH:
            first = max(0, self._first - self.samples) * _WIDTH
            last = len(content) if self._last is None else max(0, self._last - self.samples) * _WIDTH
            self.wanted += content[first:last]
        self.samples += len(content) // _WIDTH


def load(path: Path, *, start: float, end: float | None, longest: float) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Samples at 16 kHz of a file or a span of it, and notes for the reader.

    Files that do not support seeking are decoded as a whole, once; a span does not depend on earlier requests.

    Raises:
        AudioError: The audio cannot be used.
    """
    key = None if start == 0 and end is None else identity(path)
    if key is None or _SEEKABLE.get(key):
        return _decoded(path, None, start=start, end=end, longest=longest)
    with _BUSY[key]:
        with _LOCK:
            recording = _RECORDINGS.get(key)
            if recording is not None:
                _RECORDINGS.move_to_end(key)
        if recording is None:
            return _decoded(path, key, start=start, end=end, longest=longest)
    first, last = _bounds(path, recording.samples, start=start, end=end, longest=longest)
    return _checked(path, recording.cut(first, last), recording.notes)


def _decoded(
    path: Path, key: Hashable | None, *, start: float, end: float | None, longest: float
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    first, last = round(start * SAMPLING_RATE), None if end is None else round(end * SAMPLING_RATE)
    collected = _Collected(first, last, most=round(longest * SAMPLING_RATE), keep=key is not None)
    request = {"do": "read", "start": start, "end": end, "longest": longest}
    notes = tuple(ask(path, request, take=collected.take)["notes"])
    samples = np.frombuffer(collected.wanted, dtype="<f4")
    if not collected.whole:
        _SEEKABLE.put(key, True)
        return samples, notes
    if collected.recording is not None and key is not None:
        collected.recording.notes = notes
        _keep(key, collected.recording)
    _bounds(path, collected.samples, start=start, end=end, longest=longest)
    return _checked(path, samples, notes)


def _keep(key: Hashable, recording: _Recording) -> None:
    with _LOCK:
        _RECORDINGS[key] = recording
        while len(_RECORDINGS) > 1 and sum(one.samples for one in _RECORDINGS.values()) * _WIDTH > _DISK:
            _RECORDINGS.popitem(last=False)


def _bounds(path: Path, samples: int, *, start: float, end: float | None, longest: float) -> tuple[int, int]:
    seconds = samples / SAMPLING_RATE
    if start >= seconds or (end is not None and end - SLACK > seconds):
        raise outside(path, start, end)
    first, last = round(start * SAMPLING_RATE), samples if end is None else min(round(end * SAMPLING_RATE), samples)
    if last - first > longest * SAMPLING_RATE:
        raise too_long(path, longest, (last - first) / SAMPLING_RATE)
    return first, last


def _checked(
    path: Path, samples: NDArray[np.float32], notes: tuple[str, ...]
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    if len(samples) < SHORTEST * SAMPLING_RATE:
        raise too_short(path, len(samples) / SAMPLING_RATE)
    levels = Levels(path)
    levels.see(samples)
    return samples, (*notes, *levels.check_loud())
