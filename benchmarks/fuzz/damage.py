"""Ways to spoil bytes, text and values."""

from __future__ import annotations

import re
import struct
from random import Random
from typing import Any

NUMBERS = (0, 1, 2, 3, 7, 8, 16, 255, 256, 1 << 15, (1 << 16) - 1, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
WORDS = (
    "", " ", "nan", "NaN", "inf", "-inf", "1e999", "-1", "0", "1e-320", "1,5", "1_000", "99999999999999999999", "0x1f",
    "true", "null", "None", "NA", "\ufeff", "\u00e9", "e\u0301", "\u202e", "\U0001f4a5", "\x1b[31m", "\0", "\x85",
    "\u2028", '"', "'", '""', "[", "]", "{", "}", "{{", "=", ",", ";", "\t", "\r", "\n", "\\", "/", "../..", "=1+1",
    "<b>", "|", "`", "a" * 3000, "[" * 2000, '{"a":' * 500, "-", "%s", "$x",
)  # fmt: skip


def spoiled(content: bytes, chance: Random, *, most: int = 4) -> bytes:
    """Bytes with one to `most` kinds of damage, half of it near the beginning, where headers are."""
    for _ in range(chance.randint(1, most)):
        if not content:
            return bytes(chance.randrange(256) for _ in range(chance.randrange(40)))
        content = chance.choice(_WAYS)(content, chance)
    return content


def _place(content: bytes, chance: Random) -> int:
    return chance.randrange(min(len(content), 200)) if chance.random() < 0.5 else chance.randrange(len(content))


def _flip(content: bytes, chance: Random) -> bytes:
    new = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        new[_place(content, chance)] ^= 1 << chance.randrange(8)
    return bytes(new)


def _overwrite(content: bytes, chance: Random) -> bytes:
    new = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        new[_place(content, chance)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return bytes(new)


def _number(content: bytes, chance: Random) -> bytes:
    """A length or rate of a header becomes an extreme one."""
    form = chance.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    raw = struct.pack(form, chance.choice(NUMBERS) % (1 << 8 * struct.calcsize(form)))
    at = _place(content, chance)
    return content[:at] + raw + content[at + len(raw) :]


def _cut(content: bytes, chance: Random) -> bytes:
    return content[: chance.randrange(len(content))]


def _behead(content: bytes, chance: Random) -> bytes:
    return content[chance.randrange(min(len(content), 64)) :]


def _span(content: bytes, chance: Random) -> tuple[int, int]:
    start = _place(content, chance)
    return start, min(len(content), start + chance.choice((1, 4, 16, 256, 4096)))


def _delete(content: bytes, chance: Random) -> bytes:
    start, end = _span(content, chance)
    return content[:start] + content[end:]


def _double(content: bytes, chance: Random) -> bytes:
    start, end = _span(content, chance)
    return content[:end] + content[start:]


def _blank(content: bytes, chance: Random) -> bytes:
    start, end = _span(content, chance)
    return content[:start] + bytes([chance.choice((0, 255))]) * (end - start) + content[end:]


def _insert(content: bytes, chance: Random) -> bytes:
    at = _place(content, chance)
    return content[:at] + chance.randbytes(chance.choice((1, 4, 64, 1024))) + content[at:]


def _move(content: bytes, chance: Random) -> bytes:
    start, end = _span(content, chance)
    rest = content[:start] + content[end:]
    at = chance.randrange(len(rest) + 1)
    return rest[:at] + content[start:end] + rest[at:]


_WAYS = (_flip, _overwrite, _number, _cut, _behead, _delete, _double, _blank, _insert, _move)


def spoiled_text(text: str, chance: Random, *, most: int = 3) -> bytes:
    """Text with damage that a hand or a program could do to it, in an encoding that may not fit."""
    for _ in range(chance.randint(1, most)):
        text = chance.choice(_TEXT_WAYS)(text, chance)
    encoding = chance.choice(("utf-8",) * 6 + ("utf-8-sig", "utf-16", "utf-16-le", "cp1252", "latin-1", "cp037"))
    raw = text.encode(encoding, errors=chance.choice(("replace", "ignore")))
    return spoiled(raw, chance, most=2) if chance.random() < 0.15 else raw


def _line(text: str, chance: Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    at = chance.randrange(len(lines))
    way = chance.randrange(5)
    if way == 0:
        del lines[at]
    elif way == 1:
        lines.insert(at, lines[at])
    elif way == 2:
        lines.insert(chance.randrange(len(lines) + 1), lines.pop(at))
    elif way == 3:
        lines[at] = lines[at].rstrip("\n")
    else:
        lines[at] = lines[at][: chance.randrange(len(lines[at]) + 1)]
    return "".join(lines)


def _token(text: str, chance: Random) -> str:
    """A word, number or sign becomes another."""
    found = list(re.finditer(r"[\w.+-]+|[^\w\s]", text))
    if not found:
        return chance.choice(WORDS)
    one = chance.choice(found)
    return text[: one.start()] + chance.choice((*WORDS, chance.choice(found).group())) + text[one.end() :]


def _signs(text: str, chance: Random) -> str:
    at = chance.randrange(len(text) + 1)
    return text[:at] + chance.choice(WORDS) + text[at + chance.randrange(3) :]


def _ends(text: str, chance: Random) -> str:
    return text.replace("\n", chance.choice(("\r\n", "\r", "\n\n", " \n", "\u2028")))


def _everywhere(text: str, chance: Random) -> str:
    signs = [sign for sign in ",;\t=\" .:[]{}'" if sign in text] or ["a"]
    return text.replace(chance.choice(signs), chance.choice(WORDS[:24]))


_TEXT_WAYS = (_line, _token, _token, _token, _signs, _ends, _everywhere)

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 1e-9, 0.5, -0.5, 1e308, float("inf"), float("nan"), 10**30, 2**31, "", "a",
    "\ud800", "\x1b[31m", "../x", [], {}, [1], ["a"], {"a": 1}, [[]], [None], [0, 0], "é" * 300, 100000, "nan",
)  # fmt: skip


def spoiled_value(value: Any, chance: Random, *, most: int = 2) -> Any:
    """JSON-like values, one to `most` of which are replaced, removed, doubled or renamed."""
    for _ in range(chance.randint(1, most)):
        value = _spoil_value(value, chance)
    return value


def _spoil_value(value: Any, chance: Random) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.93:
        key = chance.choice(list(value))
        way = chance.random()
        if way < 0.07:
            return {name: one for name, one in value.items() if name != key}
        if way < 0.12:
            return {(f"{name}x" if name == key else name): one for name, one in value.items()}
        if way < 0.16:
            return {**value, chance.choice(WORDS): chance.choice(VALUES)}
        return {**value, key: _spoil_value(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.85:
        at = chance.randrange(len(value))
        way = chance.random()
        if way < 0.15:
            return value[:at] + value[at + 1 :]
        if way < 0.3:
            return [*value, value[at]]
        return [*value[:at], _spoil_value(value[at], chance), *value[at + 1 :]]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and chance.random() < 0.5:
        return chance.choice((value + 1, value - 1, -value, value * 2, float(value), str(value), value * 1000))
    return chance.choice(VALUES)
