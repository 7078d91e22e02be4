"""Checks of user input."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from emofuse.errors import SettingsError
from emofuse.names import key

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/{1,3}[^/\s]")
"""A scheme of at least two letters, so that `C:/a.wav` is a path; `Path` drops one of the slashes."""
_LARGEST = 1 << 20  # Bytes of a transcript.
_LISTED = 30  # Most names in a message: all emotions of the largest corpus, not all of its speakers.
_LONGEST = 60  # Most characters of a name in a message.


def refuse_address(value: str | Path, *, where: str | None = None) -> None:
    """Refuse a web address, since nothing is downloaded.

    Raises:
        SettingsError: It is one.

    Example:
        >>> refuse_address("clips/a.wav")
        >>> refuse_address("https://example.org/a.wav")
        Traceback (most recent call last):
        emofuse.errors.SettingsError: https://example.org/a.wav: this is an address, and only files are read; \
download it and give its path.
    """
    if _ADDRESS.match(str(value)):
        raise SettingsError(
            "this is an address, and only files are read",
            where=f"{where} {value}" if where else value,
            remedy="download it and give its path",
        )


def check_confidence(value: float) -> None:
    """Refuse what is no probability.

    Raises:
        SettingsError: It is none.
    """
    if not 0 <= value <= 1:
        raise SettingsError(f"{value} is no probability", where="min_confidence", remedy="give one from 0 to 1")


def check_text(text: object) -> None:
    """Refuse a text that is no string, a file name, a web address, or has lone surrogates.

    Raises:
        SettingsError: The text is one of them.
    """
    if not isinstance(text, str):
        raise SettingsError(
            f"text is a {type(text).__name__}", where="text", remedy="give the transcript as one string"
        )
    # Unlike `Path`, this takes a text of any length.
    if os.path.isfile(text):
        raise SettingsError(
            f"{text!r} is a file, not a transcript",
            where="text",
            remedy=f"give what it holds, on the command line with --transcript {text}",
        )
    refuse_address(text, where="text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SettingsError(
            f"the text has bytes that are not UTF-8 ({text[error.start : error.end]!r})",
            where="text",
            remedy="write it in UTF-8",
        ) from error


def read_transcript(path: Path) -> str:
    """The content of a text file in UTF-8, or UTF-16 with a byte order mark.

    Raises:
        SettingsError: There is no such file, or it is no text.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise SettingsError(
                "this is too long for a transcript", where=path, remedy="give the transcript of one recording"
            )
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"the transcript cannot be read ({error.strerror})", where=path, remedy="check the path"
        ) from error
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError("this is not text in UTF-8", where=path, remedy="save the transcript as UTF-8") from error
    if "\0" in text:
        raise SettingsError("this is not text", where=path, remedy="give a text file with the transcript")
    return " ".join(text.split())


def nearest(name: str, names: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest known one, or a list.

    Example:
        >>> nearest("Tabel", ["table", "ravdess"]), nearest("x", ["table", "ravdess"])
        ('did you mean table', 'use one of table, ravdess')
    """
    known = list(names)
    spelt = {key(one): one for one in reversed(known)}
    close = difflib.get_close_matches(key(name), spelt, n=1)
    if close:
        return f"did you mean {short(spelt[close[0]])}"
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"use one of {', '.join(map(short, known[:_LISTED]))}{more}"


def short(name: str) -> str:
    """A name in a message, cut if very long.

    Example:
        >>> short("happy"), len(short("x" * 5000))
        ('happy', 63)
    """
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."
