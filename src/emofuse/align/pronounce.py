"""Pronunciations of English words: the CMU dictionary, and letter-to-sound rules for other words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path

Phones = tuple[str, ...]

_LETTERS: Mapping[str, str] = {
    "a": "EY",
    "b": "B IY",
    "c": "S IY",
    "d": "D IY",
    "e": "IY",
    "f": "EH F",
    "g": "JH IY",
    "h": "EY CH",
    "i": "AY",
    "j": "JH EY",
    "k": "K EY",
    "l": "EH L",
    "m": "EH M",
    "n": "EH N",
    "o": "OW",
    "p": "P IY",
    "q": "K Y UW",
    "r": "AA R",
    "s": "EH S",
    "t": "T IY",
    "u": "Y UW",
    "v": "V IY",
    "w": "D AH B AH L Y UW",
    "x": "EH K S",
    "y": "W AY",
    "z": "Z IY",
}
_INTERJECTIONS: Mapping[str, str] = {
    "hm": "HH M",
    "m": "M",
    "mhm": "M HH M",
    "mmhm": "M HH M",
    "sh": "SH",
    "psst": "P S T",
    "pst": "P S T",
    "br": "B ER",
    "gr": "G ER",
    "pft": "P F T",
    "tsk": "T IH S K",
    "zz": "Z",
    "nth": "EH N TH",
}
_VOICELESS = frozenset(["P", "T", "K", "F", "TH"])
_SIBILANTS = frozenset(["S", "Z", "SH", "ZH", "CH", "JH"])


def dictionary_path() -> Path:
    """Path of the CMU dictionary in the pocketsphinx package."""
    import pocketsphinx

    return Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))


@cache
def dictionary() -> Mapping[str, Phones]:
    """First pronunciation of each word of the CMU dictionary, without stress marks.

    Example:
        >>> dictionary()["hello"]
        ('HH', 'AH', 'L', 'OW')
    """
    found = {}
    with dictionary_path().open(encoding="utf-8") as file:
        for line in file:
            word, *phones = line.split()
            if not word.endswith(")"):
                found[word] = tuple(phones)
    return found


def pronounce(word: str) -> Phones:
    """Pronounce a word by the dictionary, by known parts, or by letter-to-sound rules.

    Args:
        word: In lower case, as from `spoken_words`.

    Returns:
        ARPAbet phones; empty where the word has no Latin letter.

    Example:
        >>> " ".join(pronounce("cats")), " ".join(pronounce("blorft's"))
        ('K AE T S', 'B L AO R F T S')
    """
    known = dictionary()
    if word in known:
        return known[word]
    # There are no rules for other alphabets and signs; accents are removed.
    bare = "".join(
        sign for sign in unicodedata.normalize("NFKD", word.lower()) if sign in "abcdefghijklmnopqrstuvwxyz'"
    )
    bare = bare.strip("'") if bare.strip("'") not in known or not bare.endswith("in'") else bare
    if not bare:
        return ()
    return known.get(bare) or _drawn_out(bare) or _inflected(bare) or _compound(bare) or letters_to_phones(bare)


def _drawn_out(word: str) -> Phones | None:
    """`nooo` is `no`, `pleeease` is `please`: long for emphasis."""
    once = re.sub(r"(.)\1+", r"\1", word)
    if once in _INTERJECTIONS:
        return tuple(_INTERJECTIONS[once].split())
    if not re.search(r"(.)\1\1", word):
        return None
    for drawn in (re.sub(r"(.)\1\1+", r"\1\1", word), re.sub(r"(.)\1\1+", r"\1", word), once):
        if drawn in dictionary():
            return dictionary()[drawn]
    return None


def _inflected(word: str) -> Phones | None:
    """A known word with an ending."""
    known = dictionary()
    if word.endswith("'s"):
        return _with_s(pronounce(word[:-2]))
    if word.endswith("s") and not word.endswith("ss"):
        base = next((base for base in (word[:-1], word.removesuffix("es")) if base in known), None)
        return None if base is None else _with_s(known[base])
    if word.endswith("ed"):
        base = next((base for base in (word[:-1], *_stems(word[:-2])) if base in known), None)
        return None if base is None else _with_d(known[base])
    for ending, suffix in (("ing", "IH NG"), ("in'", "IH N"), ("in", "IH N"), ("ly", "L IY"), ("ness", "N AH S")):
        if word.endswith(ending):
            stem = word.removesuffix(ending)
            base = next((base for base in (*_stems(stem), stem + "e") if base in known), None)
            return None if base is None else (*known[base], *suffix.split())
    return None


def _stems(stem: str) -> tuple[str, ...]:
    """Stems before an ending, also with a doubled last letter made single; none if very short."""
    if len(stem) < 3:
        return ()
    return (stem, stem[:-1]) if stem[-1] == stem[-2] else (stem,)


def _with_s(phones: Phones) -> Phones:
    if not phones:
        return ("EH", "S")
    last = phones[-1]
    return (*phones, *(("IH", "Z") if last in _SIBILANTS else ("S",) if last in _VOICELESS else ("Z",)))


def _with_d(phones: Phones) -> Phones:
    last = phones[-1]
    if last in ("T", "D"):
        return (*phones, "IH", "D")
    return (*phones, "T" if last in _VOICELESS | {"S", "SH", "CH"} else "D")


def _compound(word: str) -> Phones | None:
    """A compound of two known words, neither short: the split with the longest shorter part."""
    known = dictionary()
    splits = [place for place in range(3, len(word) - 2) if word[:place] in known and word[place:] in known]
    if not splits:
        return None
    best = max(splits, key=lambda place: min(place, len(word) - place))
    return known[word[:best]] + known[word[best:]]


_RULES = """
    ^ kn -> N; ^ gn -> N; ^ wr -> R; ^ ps -> S; ^ pn -> N; ^ x -> Z; ^ wh -> W; ^ mc -> M AH K; ^ y -> Y
    - augh -> AO; - ough -> AO; - eigh -> EY; - igh -> AY
    - tion -> SH AH N; - sion -> ZH AH N; - ssion -> SH AH N; - cian -> SH AH N; - cious -> SH AH S; - tious -> SH AH S
    - tial -> SH AH L; - cial -> SH AH L; - ture $ -> CH ER; - sure $ -> ZH ER
    - tch -> CH; - sch -> SH; - ck -> K; - ch -> CH; - sh -> SH; - ph -> F; - th -> TH; - dge -> JH; - ng $ -> NG
    - ng C -> NG; - nk -> NG K; - qu -> K W; - q -> K; - gh -> G; - sc F -> S; - cc F -> K S; - c F -> S; - c -> K
    - gg -> G; - g F -> JH; - g -> G; - mb $ -> M; - mn $ -> M; - x -> K S; - wh -> W
    - bb -> B; - dd -> D; - ff -> F; - kk -> K; - ll -> L; - mm -> M; - nn -> N; - pp -> P; - rr -> R; - ss -> S
    - tt -> T; - vv -> V; - zz -> Z; - j -> JH; - s $ -> Z
    - ees $ -> IY Z; - oes $ -> OW Z; - es $ -> Z; - ed $ -> D
    - ous $ -> AH S; - ful $ -> F AH L; - less $ -> L AH S; - able $ -> AH B AH L; - ible $ -> AH B AH L
    - le $ -> AH L; - man $ -> M AH N; - ski $ -> S K IY; - ism $ -> IH Z AH M
    - air -> EH R; - ear -> IH R; - eer -> IH R; - oor -> AO R; - our -> AO R; - oar -> AO R; - are $ -> EH R
    - ere $ -> IH R; - ire $ -> AY ER; - ore $ -> AO R; - ure $ -> Y UH R; - arr -> AE R; - err -> EH R
    - ar V -> AA R; - ar -> AA R; - er $ -> ER; - er C -> ER; - er -> ER; - ir C -> ER; - ir $ -> ER; - or $ -> ER
    - or -> AO R; - ur C -> ER; - ur $ -> ER; - yr C -> ER; - wa C -> W AA
    - ai -> EY; - ay -> EY; - au -> AO; - aw -> AO; - al k -> AO; - all $ -> AO L; - ea -> IY; - ee -> IY; - ei -> IY
    - eu -> Y UW; - ew -> UW; - ey $ -> IY; - ey -> EY; - ie $ -> IY; - ie -> IY; - oa -> OW; - oi -> OY; - oy -> OY
    - oo k -> UH; - oo -> UW; - ou -> AW; - ow $ -> OW; - ow -> AW; - ui -> UW; - ue $ -> UW
    - io $ -> IY OW; - ia $ -> IY AH; - ia -> IY AH; - eo -> IY OW; - io -> IY OW; - ae -> EH; - oe $ -> OW
    - a CE -> EY; - e CE -> IY; - i CE -> AY; - o CE -> OW; - u CE -> UW; - y CE -> AY
    - a $ -> AH; - e $ -> ; - i $ -> IY; - o $ -> OW; - u $ -> UW; - y $ -> IY
    - a -> AE; - e -> EH; - i -> IH; - o -> AA; - u -> AH; - y -> IH
    - b -> B; - d -> D; - f -> F; - h -> HH; - k -> K; - l -> L; - m -> M; - n -> N; - p -> P; - r -> R; - s -> S
    - t -> T; - v -> V; - w -> W; - z -> Z
"""
"""`place letters [what follows] -> phones`, the first that fits: `^` at the beginning of the word, `-` anywhere; `$` is
the word's end, `C` a consonant, `V` a vowel, `F` one of e, i and y, `CE` a consonant and a final e."""

_FOLLOWING = {
    "": "",
    "$": "$",
    "C": "(?=[^aeiouy])",
    "F": "(?=[eiy])",
    "V": "(?=[aeiouy])",
    "CE": "(?=[^aeiouywx]es?$)",
}


@cache
def _rules() -> tuple[tuple[re.Pattern[str], Phones], ...]:
    found = []
    for line in _RULES.split("\n"):
        for rule in filter(None, map(str.strip, line.split(";"))):
            spelling, _, phones = rule.partition("->")
            place, letters, *after = spelling.split()
            following = "".join(_FOLLOWING.get(one, f"(?={one})") for one in after[:1])
            found.append((re.compile(("^" if place == "^" else "") + letters + following), tuple(phones.split())))
    return tuple(found)


def letters_to_phones(word: str) -> Phones:
    """Pronounce a word by its spelling alone; a word without a vowel is spelled out.

    Example:
        >>> " ".join(letters_to_phones("splink")), " ".join(letters_to_phones("bbc"))
        ('S P L IH NG K', 'B IY B IY S IY')
    """
    base, _, ending = word.partition("'")
    base = "".join(letter for letter in base + ending if letter.isascii() and letter.isalpha())
    if not re.search("[aeiouy]", base) or len(base) == 1:
        return tuple(phone for letter in base for phone in _LETTERS[letter].split())
    phones: list[str] = []
    place = 0
    while place < len(base):
        for pattern, sounds in _rules():
            if pattern.pattern.startswith("^"):
                match = pattern.match(base) if place == 0 else None
            else:
                match = pattern.match(base, place)
            if match:
                phones += sounds
                place = match.end()
                break
        else:
            place += 1
    return tuple(phones) or ("AH",)
