"""Output of commands: control characters are escaped, and any encoding is supported."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from typing import Any, TextIO

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line separators, direction marks and lone surrogates."""
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def harmless(text: str, *, keep: str = "") -> str:
    r"""Show what would control a terminal as an escape; bytes of a file name that are not UTF-8 too.

    Args:
        text: A name, label or message, from whoever wrote it.
        keep: Characters to leave as they are, such as line breaks.

    Example:
        >>> print(harmless("\x1b[2Jb.wav"), harmless("k\udcf6ln.wav"), harmless("two\nlines"))
        \x1b[2Jb.wav k\xf6ln.wav two\nlines
    """

    def escape(found: re.Match[str]) -> str:
        sign = found[0]
        if sign in keep:
            return sign
        code = ord(sign)
        # Python's own code for a byte of a file name that is not UTF-8.
        code = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
        return _SHORT.get(sign) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")

    return _CONTROL.sub(escape, text)


def as_json(value: Any, *, ascii_only: bool = False) -> str:
    r"""JSON that no terminal obeys and, in ASCII, any output can hold.

    Example:
        >>> print(as_json("müde\x9b2J"), as_json("müde", ascii_only=True))
        "müde\u009b2J" "m\u00fcde"
    """
    text = json.dumps(value, ensure_ascii=ascii_only, indent=1)
    return _CONTROL.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def holds_all(stream: TextIO) -> bool:
    """Whether a stream's encoding has every character."""
    return (stream.encoding or "").lower().replace("_", "-").startswith("utf")


class _Steady(io.TextIOBase):
    """Standard error that ignores write errors, such as a full disk or a closed pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            _to_nowhere(self._stream)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding


def make_ready() -> None:
    """Let standard output and error accept any text; call it once, before the first output.

    Characters outside their encoding are escaped. A closed one is replaced by the null device, so that a file that is
    opened later does not get its number.
    """
    # With zero columns, which some terminals report, nothing would be shown.
    if not os.environ.get("COLUMNS", "1").strip("0"):
        del os.environ["COLUMNS"]
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not isinstance(sys.stderr, _Steady):
        sys.stderr = _Steady(sys.stderr)


def let_go() -> None:
    """Discard unwritable output, so that Python does not report it at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _to_nowhere(sys.stdout)


def _to_nowhere(stream: TextIO) -> None:
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        return
