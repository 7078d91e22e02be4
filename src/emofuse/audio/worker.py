"""The process that decodes: it reads requests from its standard input until that ends, and can be lost at any time."""

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
"""What precedes each message: its kind, and how many bytes it has."""

WHOLE, BLOCK, AGAIN, DONE, REFUSED = b"w", b"b", b"a", b"d", b"r"
"""The whole file follows, not the span; samples; all samples so far are void; the answer; why there is none."""

_MEMORY = 2 << 30  # Bytes beyond what the process has when it starts.
_SECONDS = 600  # Of processor time a request may take between two messages, should the parent be gone.


def serve() -> None:
    """Answer requests, one JSON object a line, until there are no more."""
    # Decoders may print; and Ctrl-C is for the parent, whose end ends this process too.
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
    """Bindings of decoders raise whatever they come to; no such thing may cost more than this file."""
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
    """Set a limit, though never above the one that the process was started with."""
    soft, hard = resource.getrlimit(kind)
    given = _GIVEN.setdefault(kind, soft)
    ceilings = [one for one in (given, hard) if one != resource.RLIM_INFINITY]
    resource.setrlimit(kind, (min([limit, *ceilings]), hard))
