"""English numbers in words.

num2words would do most of it, but adds a package that has to be built (docopt) for sixty lines.
"""

from __future__ import annotations

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def cardinal(number: int) -> list[str]:
    """Words of a number.

    Example:
        >>> " ".join(cardinal(1234))
        'one thousand two hundred thirty four'
    """
    if number < 20:
        return [_ONES[number]]
    if number < 100:
        return [_TENS[number // 10], *([_ONES[number % 10]] if number % 10 else [])]
    scale, name = next((scale, name) for scale, name in _SCALES if number >= scale)
    rest = number % scale
    return [*cardinal(number // scale), name, *(cardinal(rest) if rest else [])]


def ordinal(number: int) -> list[str]:
    """Words of an ordinal number.

    Example:
        >>> ordinal(21), ordinal(40)
        (['twenty', 'first'], ['fortieth'])
    """
    *front, last = cardinal(number)
    if last in _ORDINALS:
        return [*front, _ORDINALS[last]]
    return [*front, last[:-1] + "ieth" if last.endswith("y") else last + "th"]


def year(number: int) -> list[str]:
    """Words of a year of four digits.

    Example:
        >>> " ".join(year(1984)), " ".join(year(1905)), " ".join(year(2003)), " ".join(year(1900))
        ('nineteen eighty four', 'nineteen oh five', 'two thousand three', 'nineteen hundred')
    """
    century, rest = divmod(number, 100)
    if century % 10 == 0 and rest < 10:
        return cardinal(number)
    if rest == 0:
        return [*cardinal(century), "hundred"]
    return [*cardinal(century), *(["oh"] if rest < 10 else []), *cardinal(rest)]


def digits(number: str) -> list[str]:
    """Words of digits, one by one.

    Example:
        >>> digits("007")
        ['zero', 'zero', 'seven']
    """
    return [_ONES[int(figure)] for figure in number]


def plural(words: list[str]) -> list[str]:
    """The last word in the plural.

    Example:
        >>> plural(["nineteen", "eighty"]), plural(["third"])
        (['nineteen', 'eighties'], ['thirds'])
    """
    *front, last = words
    if last.endswith("y"):
        return [*front, last[:-1] + "ies"]
    return [*front, last + ("es" if last.endswith("x") else "s")]
