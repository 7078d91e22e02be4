"""Locks against two commands that write in one place; they name the owner.

The library `filelock` empties the lock file, so that it cannot name its owner.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from emofuse.errors import OutputError
from emofuse.files import check_name, sweep
from emofuse.progress import Progress

_BUSY = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK)
_FAR = 1 << 30  # Windows denies others to read locked bytes, so a byte after the owner's name is locked.
_PAUSE = 0.2
_LOCK = ".emofuse.lock"
_mine: dict[Path, int] = {}

P = ParamSpec("P")
T = TypeVar("T")


def alone(argument: str, *, folder: bool = True) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Lock the folder of a function's argument while the function runs.

    Of processes that were launched together, as by `accelerate launch`, the first holds the lock for all.

    Args:
        argument: Name of the argument; None as its value locks nothing.
        folder: Whether it is a folder to work in, not a file or a folder that is replaced as a whole.

    Example:
        >>> import tempfile
        >>> @alone("out")
        ... def work(out: Path) -> list[str]:
        ...     return [path.name for path in out.iterdir()]
        >>> out = Path(tempfile.mkdtemp())
        >>> work(out), work(out=out)
        (['.emofuse.lock'], ['.emofuse.lock'])
    """

    def decorate(work: Callable[P, T]) -> Callable[P, T]:
        @wraps(work)
        def only_one(*args: P.args, **kwargs: P.kwargs) -> T:
            place: Path | None = signature(work).bind(*args, **kwargs).arguments.get(argument)
            if place is None or os.environ.get("RANK", "0") != "0":
                return work(*args, **kwargs)
            with alone_in(Path(place)) if folder else alone_with(Path(place)):
                return work(*args, **kwargs)

        return only_one

    return decorate


@contextmanager
def alone_in(folder: Path, *, waiting: Progress | None = None) -> Iterator[None]:
    """Lock a folder, and remove incomplete files of a killed command.

    A killed command loses its lock. The same thread may acquire it again.

    Args:
        folder: Made if needed.
        waiting: Wait for the other command and report it here; by default this is an error.

    Raises:
        OutputError: Another command works there, or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with alone_in(Path(tempfile.mkdtemp())), alone_in(Path(tempfile.mkdtemp())):
        ...     pass
    """
    with _held(folder / _LOCK, folder, waiting=waiting):
        sweep(folder)
        yield


def clear(folder: Path) -> None:
    """Remove leftovers of a killed command in a finished folder."""
    if (folder / _LOCK).exists():
        with suppress(OutputError), alone_in(folder):
            pass


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Lock a file, or a folder that is replaced as a whole.

    Raises:
        OutputError: Another command does, or the folder around it cannot be written.
    """
    check_name(path)
    # A name of 255 bytes cannot be extended.
    name = path.name if len(os.fsencode(path.name)) < 200 else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    with _held(path.with_name(f".{name}.emofuse.lock"), path, waiting=None):
        yield


@contextmanager
def _held(lock: Path, place: Path, *, waiting: Progress | None) -> Iterator[None]:
    lock = lock.absolute()
    if _mine.get(lock) == threading.get_ident():
        yield
        return
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(lock, place, waiting)
        _mine[lock] = threading.get_ident()
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_owner()).encode())
    except OutputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"the folder cannot be written ({reason})", where=lock.parent, remedy="choose another"
        ) from error
    try:
        yield
    finally:
        del _mine[lock]
        if sys.platform == "win32":
            os.close(descriptor)
            with suppress(OSError):
                lock.unlink()
        else:
            # This order prevents a lock on a deleted file.
            with suppress(OSError):
                lock.unlink()
            os.close(descriptor)


def _acquire(lock: Path, place: Path, waiting: Progress | None) -> int:
    noted = False
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if _lock(descriptor):
                # Its owner may have removed it before it was locked here.
                with suppress(OSError):
                    if os.path.samestat(os.fstat(descriptor), lock.lstat()):
                        held, descriptor = descriptor, -1
                        return held
                continue
            who = _described(descriptor)
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        if waiting is None:
            raise OutputError(
                f"another command is working here ({who})",
                where=place,
                remedy="wait until it has finished, or choose another place",
            )
        if not noted:
            noted = True
            waiting.note(f"{place}: waiting for another command that works here ({who}).")
        time.sleep(_PAUSE)


def _lock(descriptor: int) -> bool:
    """Whether this process holds the lock; also on file systems without locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, _FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _BUSY
    return True


def _owner() -> dict[str, Any]:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else ""
    return {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%H:%M"), "command": command}


def _described(descriptor: int) -> str:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        owner = json.loads(os.read(descriptor, 1 << 16))
        command = "".join(letter if letter.isprintable() else "?" for letter in str(owner["command"]))
        return f"process {int(owner['process'])} on {str(owner['host'])[:80]!a}, {str(owner['since'])[:5]!a}: {command}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "which one is not known"
