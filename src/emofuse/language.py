"""Which language a text is in, so that a model gets no text that it cannot read."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

LEAST = 0.01
SHORTEST = 3
_JUDGED = 1 << 14  # Characters: the identifier counts in 16 bits, which overflow.


def is_foreign(text: str, languages: tuple[str, ...]) -> bool:
    """Whether a text is surely in none of some languages.

    Where the identifier does not know one of the languages, nothing is. Two words in Latin letters are too few to
    tell and pass. The identifier is py3langid (Lui and Baldwin, ACL 2012); of GoEmotions' test comments it takes
    0.3 % for foreign, of nEMO's Polish and EmoDB's German sentences all.

    Args:
        text: What is said.
        languages: ISO 639-1 codes.

    Example:
        >>> is_foreign("Das will sie am Mittwoch abgeben.", ("en",)), is_foreign("She will hand it in.", ("en",))
        (True, False)
        >>> is_foreign("孩子们在说话", ("en",)), is_foreign("Genau!", ("en",))
        (True, False)
    """
    # Where no letter is Latin, as in Chinese, words may stand without spaces, and fewer of them tell.
    latin = any("LATIN" in unicodedata.name(sign, "") for sign in text if sign.isalpha())
    if not languages or not any(map(str.isalpha, text)) or (latin and len(text.split()) < SHORTEST):
        return False
    shares = dict(_identifier().rank(text[:_JUDGED]))
    if not all(language in shares for language in languages):
        return False
    return sum(float(shares.get(language, 0.0)) for language in languages) < LEAST


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
