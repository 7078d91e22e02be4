"""Words as they are spoken: numbers, signs, abbreviations and punctuation of a transcript resolved, word by word."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emofuse.align.numbers import cardinal, digits, ordinal, plural, year

_QUOTES = str.maketrans("’‘`´ʼ＇", "''''''")
_NOISES = re.compile(r"\[[^\[\]]*\]|<[^<>]*>|\+\+[^+\s]+\+\+|\*[^*\s]+\*")
"""Remarks that transcribers put beside the words: [LAUGHTER], <noise>, ++BREATHING++, *sighs*."""

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
_PIECE = re.compile(
    rf"""
    (?P<money>[$€£])(?P<amount>{_NUMBER})
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


@dataclass(frozen=True, kw_only=True)
class SpokenWord:
    """One word as it is said.

    Attributes:
        text: The word in lower case, without punctuation.
        written: Which written word it belongs to, counted from 0 over `transcript.split()`: what `word_ids()` of a
            tokenizer gives for `tokenizer(transcript.split(), is_split_into_words=True)`.
    """

    text: str
    written: int


def spoken_words(text: str, *, language: str | None = "en") -> tuple[SpokenWord, ...]:
    """Turn a transcript into the words that are said.

    English has its numbers, dates, times, sums of money, signs and abbreviations written out. Of other languages only
    case and punctuation are dealt with. Remarks such as [LAUGHTER] are left out.

    Args:
        text: A transcript.
        language: Its ISO 639-1 code; None counts as English.

    Example:
        >>> [(word.text, word.written) for word in spoken_words("Mr. Fox's 25 hens -- gone!")]
        [('mister', 0), ("fox's", 1), ('twenty', 2), ('five', 2), ('hens', 3), ('gone', 5)]
    """
    english = is_english(language)
    # A remark keeps its white space, so that the count of written words stays what `split` gives.
    bare = _NOISES.sub(lambda remark: re.sub(r"\S", " ", remark[0]), text.translate(_QUOTES))
    # Where a remark stood alone or stuck to a word, places are found by where words begin in the transcript itself.
    begins = [match.start() for match in re.finditer(r"\S+", text)]
    found, place = [], -1
    for match in re.finditer(r"\S+", bare):
        while place + 1 < len(begins) and begins[place + 1] <= match.start():
            place += 1
        said = _english(match[0]) if english else _plain(match[0])
        found += [SpokenWord(text=word, written=place) for word in said]
    return tuple(found)


def is_english(language: str | None) -> bool:
    """Whether a manifest's language is English, or not said.

    Example:
        >>> is_english("en-GB"), is_english(None), is_english("de")
        (True, True, False)
    """
    return language is None or re.split(r"[-_]", language.strip().lower())[0] in ("", "en", "eng", "english")


def link_words(labels: Sequence[str], text: str, *, language: str | None = "en") -> tuple[int | None, ...]:
    """Find the written word for each segment of a word tier, also of a tier that someone else made.

    Args:
        labels: Labels of the word tier, in order.
        text: The transcript.
        language: Its ISO 639-1 code.

    Returns:
        For each label a place in `text.split()`; None where the transcript has no such word.

    Example:
        >>> link_words(["i'm", "twenty", "five", "um", "now"], "I'm 25 now.")
        (0, 1, 1, None, 2)
    """
    spoken = spoken_words(text, language=language)
    ours = [word.text for word in spoken]
    theirs = [label.lower().translate(_QUOTES) for label in labels]
    links: list[int | None] = [None] * len(labels)
    for ours_at, theirs_at, size in difflib.SequenceMatcher(a=ours, b=theirs, autojunk=False).get_matching_blocks():
        for step in range(size):
            links[theirs_at + step] = spoken[ours_at + step].written
    return tuple(links)


def _plain(token: str) -> Iterator[str]:
    for piece in re.split(r"[-‐-―/…]+|\.{2,}", unicodedata.normalize("NFC", token).lower()):
        kept = "".join(sign for sign in piece if sign == "'" or unicodedata.category(sign)[0] in "LMN").strip("'")
        if kept:
            yield kept


def _english(token: str) -> Iterator[str]:
    """Words of one written word."""
    token = unicodedata.normalize("NFC", token).lower()
    previous_end = 0
    for match in _PIECE.finditer(token):
        ahead = token[previous_end : match.start()]
        previous_end = match.end()
        kind = match.lastgroup
        if kind in ("amount", "place", "decade", "number"):
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
        yield from _money(match["amount"], *_CURRENCIES[match["money"]])
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
