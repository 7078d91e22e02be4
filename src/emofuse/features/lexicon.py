"""Lexicons of emotional intensity, in the formats of NRC-VAD, VADER and AFINN."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from emofuse.errors import SettingsError

_REMEDY = (
    "give lines of word and score (AFINN), of word, mean, deviation and ratings (VADER), or of word, valence, arousal\
 and dominance (NRC-VAD), separated by tabs"
)


def read_lexicon(path: str | Path) -> dict[str, float]:
    """Emotional intensity of each word, from 0 to 1.

    The tab-separated columns determine the format:

    - `word score`, AFINN, from -5 to 5: |score| / 5;
    - `word mean deviation ratings`, VADER, from -4 to 4, the ratings in brackets: |mean| / 4;
    - `word valence arousal dominance`, NRC-VAD, from 0 to 1: the distance from the neutral point, scaled as in KET
      (Zhong et al., EMNLP 2019).

    Args:
        path: The file; a header line is skipped.

    Raises:
        SettingsError: The file cannot be read, or a line is of none of these formats.
    """
    try:
        # A device or a pipe may have no end.
        if Path(path).exists() and not Path(path).is_file():
            raise OSError
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise SettingsError("the lexicon cannot be read", where=path, remedy="name a text file in UTF-8") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            word, *columns = line.rstrip().split("\t")
            try:
                found[normalised(word)] = _intensity(columns)
            except ValueError as error:
                if number > 1:
                    raise SettingsError(str(error), where=f"{path}, line {number}", remedy=_REMEDY) from error
    if not found:
        raise SettingsError("the lexicon holds no word", where=path, remedy=_REMEDY)
    return found


def _intensity(columns: list[str]) -> float:
    ratings = len(columns) == 3 and columns[2].startswith("[")
    numbers = [float(one) for one in (columns[:2] if ratings else columns)]
    if ratings and abs(numbers[0]) <= 4:
        return abs(numbers[0]) / 4
    if len(numbers) == 1 and abs(numbers[0]) <= 5:
        return abs(numbers[0]) / 5
    if not ratings and len(numbers) == 3 and all(0 <= one <= 1 for one in numbers):
        distance = math.hypot(numbers[0] - 0.5, numbers[1] / 2)
        return min(1.0, max(0.0, (distance - 0.06467) / 0.607468))
    raise ValueError("the numbers of this line are of no known lexicon")


def normalised(word: str) -> str:
    """A word in lower case, without surrounding punctuation.

    Example:
        >>> normalised("Don't!")
        "don't"
    """
    return word.casefold().strip(".,;:!?\"'()[]-") or word


def word_id(word: str) -> int:
    """Id of a normalised word, the same on every machine.

    Example:
        >>> word_id("Happy,") == word_id("happy"), word_id("happy") == word_id("sad")
        (True, False)
    """
    digest = hashlib.blake2b(normalised(word).encode(), digest_size=8).digest()
    # Non-negative, since padding is negative.
    return int.from_bytes(digest, "big") >> 1
