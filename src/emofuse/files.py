"""Atomic writes of files and folders."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from emofuse.errors import EmofuseError, OutputError

_DAY = 86400
_swept: set[Path] = set()


@contextmanager
def written_atomically(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A temporary path to write to, renamed to the file's name at the end.

    It is in a new private folder beside the file, so that no planted link is followed; a link under the file's own
    name is replaced, and its target is unchanged.

    Args:
        path: The file; its folder is made if needed, and an older file stays until the new one is complete.
        sync: Whether to flush the content to disk before renaming, for files that mark work as done: a crash of the
            machine could leave an empty file. Without it, many small files are written faster.

    Raises:
        OutputError: The disk is full, the folder is read-only, or the like.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "figures.txt"
        >>> with written_atomically(path) as part:
        ...     _ = part.write_text("81.4")
        >>> path.read_text(), part.exists()
        ('81.4', False)
    """
    with _written(path) as part:
        if path.exists() and not path.is_file():
            raise OutputError("this is not a file", where=path, remedy="name a file")
        yield part
        _set_mode(part, _usual_mode(part.parent))
        if sync:
            _sync(part)
        part.replace(path)


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """An empty temporary folder to write to, renamed to the folder's name at the end.

    Args:
        path: The folder; it replaces an older one when it is complete.

    Raises:
        OutputError: As `written_atomically`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model"
        >>> with written_folder(path) as part:
        ...     _ = (part / "weights").write_text("0.5")
        >>> [file.name for file in path.iterdir()]
        ['weights']
    """
    with _written(path) as part:
        if path.exists() and not path.is_dir():
            raise OutputError("this is not a folder", where=path, remedy="name a folder")
        part.mkdir()
        yield part
        mode = _usual_mode(part.parent)
        for file in part.rglob("*"):
            if file.is_file():
                _set_mode(file, mode)
                _sync(file)
        before = part.with_name(f"before {part.name}"[:200])
        if path.is_symlink() or path.exists():
            # Two steps, since no system replaces a non-empty folder in one.
            path.rename(before)
        try:
            part.rename(path)
        except OSError:
            with suppress(OSError):
                before.rename(path)
            raise


@contextmanager
def plain_name(path: Path) -> Iterator[Path]:
    """A path with a UTF-8 name for a file to read, by a link if needed; some libraries need it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with TemporaryDirectory() as folder:
            link = Path(folder) / f"file{path.suffix if path.suffix.isascii() else ''}"
            link.symlink_to(path.absolute())
            yield link
        return
    yield path


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Write a text file in UTF-8, atomically.

    Raises:
        OutputError: As `written_atomically`.
    """
    with written_atomically(path, sync=sync) as part:
        # Lone surrogates, which stand for bytes of a file name, become JSON's escapes.
        part.write_bytes(text.encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no JSON, or nested too deeply.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def make_folder(path: Path) -> None:
    """Make a folder and its parents, if needed.

    Raises:
        OutputError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(path, error) from error


@contextmanager
def appended(path: Path) -> Iterator[TextIO]:
    """Open a text file in UTF-8 to append lines; a link is not followed.

    Raises:
        OutputError: It cannot be written, or is a link.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "journal.jsonl"
        >>> for line in "12":
        ...     with appended(path) as file:
        ...         _ = file.write(line)
        >>> path.read_text()
        '12'
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            raise OutputError("this is a link", where=path, remedy="remove it, or choose another place")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags, 0o666), "a", encoding="utf-8", newline="\n") as file:
            yield file
    except EmofuseError:
        raise
    except OSError as error:
        raise _not_written(path, error) from error


def sweep(folder: Path) -> None:
    """Remove incomplete files of killed processes in a folder and its subfolders."""
    for above, folders, _ in os.walk(folder):
        for name in folders:
            _remove_left(Path(above, name))


def check_ending(path: Path, endings: Sequence[str], *, what: str) -> None:
    """Refuse to write a file whose ending is of another format.

    Args:
        path: The file.
        endings: Allowed endings, such as `.parquet`; an empty one allows a name without ending.
        what: Kind of content, in the plural.

    Raises:
        OutputError: The ending is none of them.

    Example:
        >>> check_ending(Path("a.txt"), [".csv", ".parquet"], what="scores")
        Traceback (most recent call last):
        emofuse.errors.OutputError: a.txt: scores cannot be written as '.txt'; let the name end in .csv, .parquet.
    """
    if path.suffix.lower() not in endings:
        raise OutputError(
            f"{what} cannot be written as {path.suffix or 'a file without an ending'!r}",
            where=path,
            remedy=f"let the name end in {', '.join(filter(None, endings))}",
        )


def check_name(path: Path) -> None:
    """Refuse an impossible name of a file or folder, such as `.` or one with a lone surrogate.

    Raises:
        OutputError: It is such a name.
    """
    with suppress(UnicodeEncodeError):
        os.fsencode(path)
        if path.name not in ("", "..") and "\0" not in str(path):
            return
    raise OutputError(
        "this cannot be the name of what is written", where=ascii(str(path)), remedy="give it a name of its own"
    )


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    check_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = path.parent.absolute()
        if folder not in _swept:
            _swept.add(folder)
            for name in os.listdir(folder):
                _remove_left(folder / name)
        # A folder, not a file: writers put temporary files beside their output, and depend on its ending.
        place = path.with_name(f".emofuse-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.part")
        place.mkdir(mode=0o700)
        try:
            yield place / path.name
        finally:
            shutil.rmtree(place, ignore_errors=True)
    except EmofuseError:
        raise
    except Exception as error:
        # safetensors has an error of its own for a full disk.
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise _not_written(path, error) from error
        raise


def _not_written(path: Path, error: Exception) -> OutputError:
    reason = error.strerror if isinstance(error, OSError) else None
    return OutputError(
        f"this cannot be written ({reason or str(error).partition(chr(10))[0]})",
        where=path,
        remedy="check the space and the rights there, or choose another place",
    )


def _usual_mode(folder: Path) -> int:
    """Permissions of a new file by the umask, which cannot be read without setting it for all threads."""
    probe = folder / f"{secrets.token_hex(8)}.mode"
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        probe.unlink()


def _set_mode(file: Path, mode: int) -> None:
    """Give a file the usual permissions: safetensors denies others to read its files."""
    about = file.lstat()
    # A hard link has the permissions of its source.
    if stat.S_ISREG(about.st_mode) and about.st_nlink == 1 and stat.S_IMODE(about.st_mode) != mode:
        file.chmod(mode)


def _sync(file: Path) -> None:
    # Windows syncs only files that are open for writing.
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())


@lru_cache
def _machine() -> str:
    """Identity of the host or container, in which a process id is unique."""
    with suppress(OSError):
        space = os.stat("/proc/self/ns/pid").st_ino
        return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _remove_left(place: Path) -> None:
    marks = place.name.split("-")
    if len(marks) != 4 or marks[0] != ".emofuse" or not marks[3].endswith(".part") or not marks[2].isdigit():
        return
    with suppress(OSError):
        if marks[1] == _machine() and sys.platform != "win32":
            left = not _is_alive(int(marks[2]))
        else:
            left = time.time() - place.lstat().st_mtime > _DAY
        if left and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def of_any_length(path: Path) -> Path:
    """The path in Windows' form for long names; unchanged elsewhere."""
    return Path(_verbatim(os.path.abspath(path))) if os.name == "nt" else path


def _verbatim(absolute: str) -> str:
    if absolute.startswith("\\\\?\\"):
        return absolute
    return "\\\\?\\UNC\\" + absolute[2:] if absolute.startswith("\\\\") else "\\\\?\\" + absolute


_STAND_INS = (
    (
        b"version https://git-lfs",
        "this is a Git LFS pointer, not the file itself",
        "run git lfs pull where it was cloned",
    ),
    (b"/annex/objects/", "this is a git-annex pointer, not the file itself", "run git annex get where it was cloned"),
    (b"<!doctype html", "this is a web page", "download the file itself"),
    (b"<html", "this is a web page", "download the file itself"),
)


def stand_in(path: Path) -> tuple[str, str] | None:
    """What a placeholder file is, and the remedy; None for any other file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.wav"
        >>> _ = path.write_text("version https://git-lfs.github.com/spec/v1")
        >>> stand_in(path)[1]
        'run git lfs pull where it was cloned'
    """
    with path.open("rb") as file:
        head = file.read(200).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next(((what, remedy) for begin, what, remedy in _STAND_INS if head.startswith(begin)), None)
