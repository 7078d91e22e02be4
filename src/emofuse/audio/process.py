"""Decoders in reusable processes, so that a crash affects one file only."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from emofuse.audio.worker import AGAIN, DONE, HEADER, REFUSED
from emofuse.errors import AudioError, EmofuseError
from emofuse.files import of_any_length
from emofuse.workers import usable_cores

Take = Callable[[bytes, bytes], None]

PATIENCE = 60.0
"""Seconds without an answer after which a decoder is stopped."""

MOST = 4
"""Most decoders per process."""

_START = "import sys; sys.path[:] = sys.argv[1:]; from emofuse.audio.worker import serve; serve()"


class _CrashError(Exception):
    """A decoder ended, or was stopped, before it answered."""


class _Decoder:
    """A decoder process."""

    def __init__(self) -> None:
        # With this process's module path; not by `multiprocessing`, which would run the main script again and need a
        # guard in it.
        command = [sys.executable, "-c", _START, *(one or os.getcwd() for one in sys.path)]
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        try:
            self._process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **single},
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError as error:
            raise EmofuseError(
                "the process that decodes audio cannot be started",
                where=sys.executable,
                remedy="see that Python may start processes, or make memory free",
            ) from error
        self._deadline: float | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while self._process.poll() is None:
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._process.kill()
            time.sleep(1.0)

    def ask(self, request: Mapping[str, Any], *, take: Take) -> tuple[bool, dict[str, Any]]:
        """Whether a request was answered, and the answer or the reason."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None  # noqa: S101
        assert answers is not None  # noqa: S101
        try:
            requests.write(json.dumps(request).encode() + b"\n")
            requests.flush()
            while True:
                self._deadline = time.monotonic() + PATIENCE
                kind, count = HEADER.unpack(_whole(answers, HEADER.size))
                content = _whole(answers, count)
                self._deadline = None
                if kind not in (DONE, REFUSED):
                    take(kind, content)
                else:
                    return kind == DONE, json.loads(content)
        except (OSError, EOFError) as error:
            raise _CrashError from error
        finally:
            self._deadline = None

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def leave(self) -> None:
        """Forget a process of the parent."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.returncode = 0


def _whole(pipe: IO[bytes], count: int) -> bytes:
    content = pipe.read(count)
    if len(content) < count:
        raise EOFError
    return content


class _Pool:
    """Idle decoders: as many as were used at the same time, up to a limit."""

    def __init__(self) -> None:
        self._idle: list[_Decoder] = []
        self._free = threading.BoundedSemaphore(min(MOST, usable_cores()))

    def ask(self, request: Mapping[str, Any], *, take: Take) -> tuple[bool, dict[str, Any]]:
        with self._free:
            try:
                # If it ended while idle, this file is not the cause.
                answer = self._by(self._idle.pop(), request, take)
            except IndexError:
                answer = self._by(_Decoder(), request, take)
            except _CrashError:
                take(AGAIN, b"")
                answer = self._by(_Decoder(), request, take)
            return answer

    def _by(self, decoder: _Decoder, request: Mapping[str, Any], take: Take) -> tuple[bool, dict[str, Any]]:
        try:
            answer = decoder.ask(request, take=take)
        except BaseException:
            # Also after an interrupt: a late answer would be taken for that to the next request.
            decoder.end()
            raise
        self._idle.append(decoder)
        return answer

    def warm(self) -> None:
        if not self._idle:
            self._idle.append(_Decoder())

    def end(self) -> None:
        while self._idle:
            self._idle.pop().end()

    def leave(self) -> None:
        while self._idle:
            self._idle.pop().leave()


_POOL: list[_Pool] = []
_STARTING = threading.Lock()


def _pool() -> _Pool:
    with _STARTING:
        if not _POOL:
            _POOL.append(_Pool())
        return _POOL[0]


def _after_fork() -> None:
    global _STARTING
    _STARTING = threading.Lock()
    while _POOL:
        _POOL.pop().leave()


def _at_exit() -> None:
    for pool in _POOL:
        pool.end()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def start_decoder() -> None:
    """Start a decoder in advance, while other things are loaded.

    Raises:
        EmofuseError: No process can be started.
    """
    _pool().warm()


def ask(
    path: Path,
    request: Mapping[str, Any],
    *,
    take: Take = lambda kind, content: None,
) -> dict[str, Any]:
    """Decode a file, or find its length, in another process.

    Args:
        path: The file.
        request: Request to `worker`.
        take: Receives each message before the last, with its kind.

    Raises:
        AudioError: The file cannot be used, or crashes the decoder.
        EmofuseError: No process can be started.
    """
    try:
        done, answer = _pool().ask({**request, "path": os.path.abspath(of_any_length(path))}, take=take)
    except _CrashError as error:
        raise AudioError(
            "the decoder crashed or did not come to an end", where=path, remedy="convert it to wav or flac first"
        ) from error
    if not done:
        raise AudioError(answer["what"], where=path, remedy=answer["remedy"])
    return answer
