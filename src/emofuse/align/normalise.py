"""Text normalisation: numbers, signs, abbreviations and punctuation of a transcript as spoken words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from emofuse.align.numbers import cardinal, digits, ordinal, plural, year

_QUOTES = str.maketrans("’‘`´ʼ＇", "''''''")
_NOISES = re.compile(r"\[[^\[\]]*\]|<[^<>]*>|\+\+[^+\s]+\+\+|\*[^*\s]+\*")
"""Transcribers' tags: [LAUGHTER], <noise>, ++BREATHING++, *sighs*."""

_ABBREVIATIONS = {
    "mr": "mister",
    "mrs": "missus",
    "ms": "miss",
    "dr": "doctor",
    "prof": "professor",
    "sr": "senior",
    "jr": "junior",
    "st": "saint",
    "vs": "versus",
    "etc": "et cetera",
}
_SIGNS = {"&": "and", "%": "percent", "@": "at", "+": "plus", "=": "equals", "°": "degrees"}
_CURRENCIES = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "penny")}

_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_SCALE = r"(?:thousand|million|billion|trillion)\b"
_PIECE = re.compile(
    rf"""
    (?P<money>[$€£])(?P<amount>{_NUMBER})(?:-?(?P<scale>{_SCALE}))?
  | (?P<hour>\d{{1,2}}):(?P<minute>[0-5]\d)(?!\d)
  | (?P<upper>\d{{1,3}})/(?P<lower>\d{{1,3}})(?![\d/])
  | (?P<place>\d+)(?:st|nd|rd|th)\b
  | '?(?P<decade>\d{{2,4}})'?s\b
  | (?P<number>{_NUMBER})
  | (?P<initials>(?:[^\W\d_]\.){{2,}}(?:[^\W\d_]\b)?(?:'s)?)
  | (?P<word>'?[^\W\d_](?:[^\W\d_]|[\u0300-\u036f])*(?:'[^\W\d_]+)*'?)
  | (?P<sign>[&%@+=°])
    """,
    re.VERBOSE,
)
_LARGE_SUM = re.compile(rf"([$€£](?:{_NUMBER}))\s+(?={_SCALE})", re.IGNORECASE)
"""The currency is said after both words of `$2.5 million`."""


def spoken_words(text: str, *, language: str | None = "en") -> tuple[str, ...]:
    """Turn a transcript into spoken words, in lower case and without punctuation.

    In English, numbers, dates, times, sums of money, signs and abbreviations are written out. In other languages only
    case and punctuation are normalised. Tags such as [LAUGHTER] are left out.

    Args:
        text: A transcript.
        language: Its ISO 639-1 code; None counts as English.

    Example:
        >>> spoken_words("Mr. Fox's 25 hens -- gone!")
        ('mister', "fox's", 'twenty', 'five', 'hens', 'gone')
    """
    # A tag ends a word.
    bare = _NOISES.sub(" ", text.translate(_QUOTES))
    if not is_english(language):
        return tuple(word for token in bare.split() for word in _plain(token))
    return tuple(word for token in _LARGE_SUM.sub(r"\1", bare).split() for word in _english(token))


def is_english(language: str | None) -> bool:
    """Whether a manifest's language is English or unknown.

    Example:
        >>> is_english("en-GB"), is_english(None), is_english("de")
        (True, True, False)
    """
    return language is None or re.split(r"[-_]", language.strip().lower())[0] in ("", "en", "eng", "english")


def _plain(token: str) -> Iterator[str]:
    for part in re.split(r"[-‐-―/…]+|\.{2,}", unicodedata.normalize("NFC", token).lower()):
        kept = "".join(sign for sign in part if sign == "'" or unicodedata.category(sign)[0] in "LMN").strip("'")
        if kept:
            yield kept


def _english(token: str) -> Iterator[str]:
    """Spoken words of one written word."""
    token = unicodedata.normalize("NFC", token).lower()
    previous_end = 0
    for match in _PIECE.finditer(token):
        ahead = token[previous_end : match.start()]
        previous_end = match.end()
        kind = match.lastgroup
        if kind in ("amount", "scale", "place", "decade", "number"):
            if _is_minus(ahead, token, match.start()):
                yield "minus"
            yield from _numeral(match, token[match.end() :])
        elif kind == "minute":
            yield from _time(int(match["hour"]), int(match["minute"]))
        elif kind == "lower":
            yield from _fraction(int(match["upper"]), int(match["lower"]))
        elif kind == "initials":
            yield from _initials(match["initials"])
        elif kind == "sign":
            yield _SIGNS[match["sign"]]
        else:
            yield from _word(match["word"], dotted=token[match.end() : match.end() + 1] == ".")


def _is_minus(ahead: str, token: str, start: int) -> bool:
    return ahead[-1:] in ("-", "−") and (start < 2 or not token[start - 2].isalnum())


def _numeral(match: re.Match[str], rest: str) -> Iterator[str]:
    if match["money"]:
        unit, small = _CURRENCIES[match["money"]]
        if match["scale"]:
            yield from [*_quantity(match["amount"].replace(",", "")), match["scale"], unit + "s"]
        else:
            yield from _money(match["amount"], unit, small)
    elif match["place"]:
        yield from ordinal(int(match["place"]))
    elif match["decade"]:
        number = match["decade"]
        yield from plural(year(int(number)) if len(number) == 4 else cardinal(int(number)))
    else:
        number = match["number"]
        whole = number.replace(",", "")
        is_year = re.fullmatch(r"(1[1-9]|20)\d\d", number) and not rest.startswith("%")
        yield from year(int(number)) if is_year else _quantity(whole)


def _quantity(number: str) -> list[str]:
    whole, point, part = number.partition(".")
    if not point:
        # Leading zeros and very long numbers are codes, which are read digit by digit.
        return digits(whole) if (whole[0] == "0" and len(whole) > 1) or len(whole) > 12 else cardinal(int(whole))
    return (
        [*(cardinal(int(whole)) if len(whole) <= 12 else digits(whole)), "point", *digits(part)]
        if whole
        else [
            "point",
            *digits(part),
        ]
    )


def _money(amount: str, unit: str, small: str) -> Iterator[str]:
    whole, _, part = amount.replace(",", "").partition(".")
    if len(part) not in (0, 2):
        yield from [*_quantity(amount.replace(",", "")), unit + "s"]
        return
    if int(whole or 0) or not part:
        yield from _quantity(whole or "0")
        yield unit if int(whole or 0) == 1 else unit + "s"
    if part and int(part):
        yield from cardinal(int(part))
        yield small if int(part) == 1 else {"penny": "pence"}.get(small, small + "s")


def _time(hour: int, minute: int) -> Iterator[str]:
    yield from cardinal(hour)
    if 0 < minute < 10:
        yield "oh"
    if minute:
        yield from cardinal(minute)


def _fraction(upper: int, lower: int) -> Iterator[str]:
    yield from cardinal(upper)
    if lower in (0, 1):
        yield from ["over", *cardinal(lower)]
        return
    name = {2: ["half"], 4: ["quarter"]}.get(lower) or ordinal(lower)
    yield from name if upper == 1 else {2: ["halves"]}.get(lower) or plural(name)


def _initials(word: str) -> Iterator[str]:
    base = word.removesuffix("'s")
    letters = [sign for sign in base if sign != "."]
    yield from letters[:-1]
    yield letters[-1] + ("'s" if base != word else "")


def _word(word: str, *, dotted: bool) -> Iterator[str]:
    whole = _ABBREVIATIONS.get(word)
    # "St" without a full stop may be anything; the others are never words of their own.
    if whole and (dotted or word not in ("st",)):
        yield from whole.split()
        return
    kept = word if word in _APOSTROPHES else word.strip("'") + ("'" if word.endswith(("in'", "s'")) else "")
    if kept.strip("'"):
        yield kept


_APOSTROPHES = frozenset(
    [
        "'em",
        "'cause",
        "'til",
        "'tis",
        "'twas",
        "'bout",
        "'round",
        "'n",
        "'kay",
        "'course",
        "'m",
        "ol'",
        "an'",
        "o'",
        "th'",
    ]
)
"""Words that begin or end with an apostrophe of their own; elsewhere it is a quotation mark."""
