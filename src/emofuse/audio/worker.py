"""The decoder process: it reads requests from standard input until that ends, and may crash at any time."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from emofuse.audio.checks import damaged
from emofuse.audio.decode import decode, length
from emofuse.errors import AudioError

HEADER = struct.Struct("<cI")
"""Header of each message: its kind and its size in bytes."""

WHOLE, BLOCK, AGAIN, DONE, REFUSED = b"w", b"b", b"a", b"d", b"r"
"""The whole file follows, not the span; samples; all samples so far are void; the answer; an error."""

_MEMORY = 2 << 30  # Bytes beyond the process's memory at its start.
_SECONDS = 600  # Most processor time between two messages, in case the parent is gone.


def serve() -> None:
    """Answer requests, one JSON object per line, until input ends."""
    # Decoders may print; Ctrl-C is for the parent, and this process ends with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    _limit_memory()
    for line in sys.stdin.buffer:
        _limit_time()
        try:
            _answer(json.loads(line), answers)
            answers.flush()
        except BrokenPipeError:
            os._exit(0)


def _answer(request: Mapping[str, Any], answers: BinaryIO) -> None:
    path = Path(request["path"])

    def send(kind: bytes, content: bytes = b"") -> None:
        answers.write(HEADER.pack(kind, len(content)))
        answers.write(content)

    def emit(block: NDArray[np.float32]) -> None:
        send(BLOCK, np.ascontiguousarray(block, dtype="<f4").tobytes())

    try:
        if request["do"] == "length":
            found: dict[str, Any] = {"seconds": length(path)}
        else:
            span = {name: request[name] for name in ("start", "end", "longest")}
            found = {"notes": decode(path, emit, whole=lambda: send(WHOLE), again=lambda: send(AGAIN), **span)}
    except BrokenPipeError:
        raise
    except Exception as error:
        refused = error if isinstance(error, AudioError) else _other(path, error)
        send(REFUSED, json.dumps({"what": refused.what, "remedy": refused.remedy}).encode())
    else:
        send(DONE, json.dumps(found).encode())


def _other(path: Path, error: Exception) -> AudioError:
    """Decoders' bindings raise any exception; it must affect this file only."""
    if isinstance(error, MemoryError):
        return AudioError("decoding it takes too much memory", where=path, remedy="convert it to wav or flac first")
    return damaged(path)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows.
        return
    try:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return
    _lower(resource, resource.RLIMIT_AS, held + _MEMORY)
    _lower(resource, resource.RLIMIT_CORE, 0)


def _limit_time() -> None:
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource, resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + _SECONDS)


_GIVEN: dict[int, int] = {}


def _lower(resource: Any, kind: int, limit: int) -> None:
    """Set a limit, never above the process's initial one."""
    soft, hard = resource.getrlimit(kind)
    given = _GIVEN.setdefault(kind, soft)
    ceilings = [one for one in (given, hard) if one != resource.RLIM_INFINITY]
    resource.setrlimit(kind, (min([limit, *ceilings]), hard))
