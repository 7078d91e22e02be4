"""Syllables of English words by the maximal onset principle, over ARPAbet phones."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from emofuse.types import Segment

VOWELS = frozenset(["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"])
CONSONANTS = frozenset(
    [
        "B",
        "CH",
        "D",
        "DH",
        "F",
        "G",
        "HH",
        "JH",
        "K",
        "L",
        "M",
        "N",
        "NG",
        "P",
        "R",
        "S",
        "SH",
        "T",
        "TH",
        "V",
        "W",
        "Y",
        "Z",
        "ZH",
    ]
)
PHONES = VOWELS | CONSONANTS
"""ARPAbet without stress marks, as the CMU dictionary and Sphinx use it."""

_PAIRS = """
    P L, P R, P Y, B L, B R, B Y, T R, T W, T Y, D R, D W, D Y, K L, K R, K W, K Y, G L, G R, G W, G Y, F L, F R, F Y,
    V Y, TH R, TH W, TH Y, S P, S T, S K, S F, S M, S N, S L, S W, S Y, SH R, SH L, SH M, SH N, SH W, HH W, HH Y, M Y,
    N Y, L Y, Z Y
"""
_TRIPLES = "S P L, S P R, S P Y, S T R, S T Y, S K R, S K W, S K Y, S K L"
ONSETS = frozenset(
    [(phone,) for phone in CONSONANTS - {"NG"}]
    + [tuple(one.split()) for one in f"{_PAIRS}, {_TRIPLES}".replace("\n", " ").split(",")]
)
"""Legal onsets of English syllables."""


def plain(phone: str) -> str:
    """A phone without its stress mark, in capitals.

    Example:
        >>> plain("ah0")
        'AH'
    """
    return phone.upper().rstrip("012")


def syllabify(phones: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Divide the phones of one word into syllables.

    Maximal onset principle (Kahn, 1976): between two vowels, the second takes the longest legal onset.

    Args:
        phones: ARPAbet, with or without stress marks.

    Returns:
        The phones in order, with one vowel per syllable; a word without a vowel is one syllable, as is one with a phone
        outside ARPAbet, such as `spn` of an unknown word.

    Example:
        >>> [" ".join(one) for one in syllabify("EH K S T R AH".split())]
        ['EH K', 'S T R AH']
    """
    if not phones:
        return ()
    bare = [plain(phone) for phone in phones]
    if not PHONES.issuperset(bare):
        return (tuple(phones),)
    nuclei = [place for place, phone in enumerate(bare) if phone in VOWELS]
    begins = [0]
    for before, nucleus in itertools.pairwise(nuclei):
        begin = nucleus
        while begin - 1 > before and tuple(bare[begin - 1 : nucleus]) in ONSETS:
            begin -= 1
        begins.append(begin)
    return tuple(tuple(phones[begin:end]) for begin, end in zip(begins, [*begins[1:], len(phones)], strict=True))


def syllable_segments(words: Iterable[Sequence[Segment]]) -> tuple[Segment, ...]:
    """Merge the phones of each word into segments, one per syllable.

    Args:
        words: The phones of each word, in order.

    Example:
        >>> phones = [Segment(start=0.1 * place, end=0.1 * place + 0.1, label=label)
        ...           for place, label in enumerate("HH AH L OW".split())]
        >>> [(one.label, round(one.start, 1), round(one.end, 1)) for one in syllable_segments([phones])]
        [('HH AH', 0.0, 0.2), ('L OW', 0.2, 0.4)]
    """
    found = []
    for phones in words:
        place = 0
        for labels in syllabify([phone.label for phone in phones]):
            own = phones[place : place + len(labels)]
            place += len(labels)
            found.append(Segment(start=own[0].start, end=own[-1].end, label=" ".join(labels)))
    return tuple(found)


def phones_by_word(words: Sequence[Segment], phones: Sequence[Segment]) -> list[list[Segment]]:
    """Phones of each word, by their centres; phones outside all words are left out.

    Both must be sorted and free of overlaps.

    Example:
        >>> word = Segment(start=0.0, end=0.2, label="a")
        >>> [len(own) for own in phones_by_word([word], [word, Segment(start=0.2, end=0.4, label="B")])]
        [1]
    """
    found: list[list[Segment]] = [[] for _ in words]
    place = 0
    for phone in phones:
        middle = (phone.start + phone.end) / 2
        while place < len(words) and words[place].end <= middle:
            place += 1
        if place < len(words) and words[place].start <= middle:
            found[place].append(phone)
    return found
