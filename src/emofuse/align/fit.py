"""Check an alignment against its transcript and recording: words, speaking rate and length."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from emofuse.align.normalise import spoken_words
from emofuse.errors import AlignmentError
from emofuse.types import Segment, Tier

OTHER_WORDS = "its words are not those of the transcript"
SHORTER = "the file of its alignment ends before the audio; check that both are of one recording at one rate"
SOME_OTHER_WORDS = "some of its words are not those of the transcript"
DOUBTFUL = "the transcript hardly fits the audio; check that it is of this recording"
"""The note on a transcript that may belong to another recording."""

_LEAST = 0.5  # Fraction of the words that must agree.
_USUAL = 0.8
_UNKNOWN = frozenset({"unk", "spn", "oov"})  # Aligners' names of an unknown word.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_FASTEST: Mapping[Tier, int] = {"word": 20, "syllable": 30, "phone": 60}  # A second: twice as many as anyone speaks.
_SLACK = 0.1  # Seconds that an alignment may exceed the audio, since frames do not end with it.
_SHORTER = 0.05  # Fraction of the audio by which a file that covers it may be shorter.


def agreement(text: str, labels: Sequence[str], *, language: str | None) -> float | None:
    """Agreement of a transcript's words with an alignment's, in order.

    Args:
        text: The transcript.
        labels: The alignment's words.
        language: ISO 639-1 code of the transcript; None counts as English.

    Returns:
        Twice the number of matching words over all words; None if unknown, as with two scripts.

    Example:
        >>> agreement("Don't go, please!", ["DON'T", "GO"], language="en")
        0.8
    """
    ours, theirs = _words(text, language), [word for label in labels for word in _words(label, language)]
    unknown = sum(label.strip("<>[](){}").lower() in _UNKNOWN for label in labels)
    theirs = [word for word in theirs if word not in _UNKNOWN]
    if not ours or not theirs or _scripts(ours).isdisjoint(_scripts(theirs)):
        return None
    matching = sum(block.size for block in SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks())
    unknown = min(unknown, len(ours) - matching)
    return 2 * (matching + unknown) / (len(ours) + len(theirs) + unknown)


def check_words(text: str | None, tiers: Mapping[Tier, Sequence[Segment]], *, language: str | None) -> str | None:
    """Check that an alignment's words are the transcript's, at a possible speaking rate.

    Returns:
        A note if some are not; None if all are or it is unknown.

    Raises:
        AlignmentError: Most are not, or the rate is impossible.
    """
    _check_pace(tiers)
    words = tiers.get("word", ())
    if not text or not words:
        return None
    agreed = agreement(text, [segment.label for segment in words], language=language)
    if agreed is not None and agreed < _LEAST:
        raise AlignmentError(OTHER_WORDS, remedy="check which file is of which utterance")
    return SOME_OTHER_WORDS if agreed is not None and agreed < _USUAL else None


def _check_pace(tiers: Mapping[Tier, Sequence[Segment]]) -> None:
    """Refuse segments at an impossible speaking rate, for example because times are in minutes."""
    for tier, segments in tiers.items():
        spoken = segments[-1].end - segments[0].start if segments else 0.0
        if len(segments) > 2 and len(segments) > _FASTEST[tier] * spoken:
            raise AlignmentError(
                f"its {len(segments)} {tier}s take {spoken:.3f} s", remedy="write its times in seconds"
            )


def check_length(start: float, end: float, duration: float) -> float:
    """Offset of a file of alignments from its audio.

    Args:
        start: Beginning of the file, in seconds.
        end: End of the file.
        duration: Of the audio.

    Returns:
        Seconds to subtract from its times: 0, or its beginning if it is as long as the audio.

    Raises:
        AlignmentError: It is of a longer recording.

    Example:
        >>> check_length(10.0, 12.5, 2.5)
        10.0
    """
    slack = max(_SLACK, _SHORTER * duration)
    if start > 0 and abs(end - start - duration) <= slack:
        return start
    if end > duration + _SLACK:
        cause = "check that they are of the same recording"
        for unit, scale in (("milliseconds", 1000), ("samples", 8000), ("frames", 100)):
            if any(abs(end / one - duration) <= slack for one in _scales(scale)):
                cause = f"its times look like {unit}: write them in seconds"
        raise AlignmentError(f"the alignment ends at {end:.2f} s and the audio at {duration:.2f} s", remedy=cause)
    return 0.0


def is_shorter(end: float, duration: float) -> bool:
    """Whether a file that covers its audio is of a shorter recording.

    Example:
        >>> is_shorter(1.7, 3.4), is_shorter(3.38, 3.4)
        (True, False)
    """
    return end < duration - max(_SLACK, _SHORTER * duration)


def _scales(scale: int) -> Sequence[int]:
    return (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000) if scale == 8000 else (scale,)


def _words(text: str, language: str | None) -> list[str]:
    words = [_folded(word) for word in spoken_words(text, language=language)]
    # Without spaces between words, an aligner's words differ from ours.
    return [sign for word in words for sign in (word if _UNSPACED.search(word) else [word])]


def _folded(word: str) -> str:
    plain = unicodedata.normalize("NFKD", word.casefold())
    return "".join(sign for sign in plain if not unicodedata.combining(sign) and sign != "'")


def _scripts(words: Sequence[str]) -> set[str]:
    return {unicodedata.name(sign, "").partition(" ")[0] for word in words for sign in word if sign.isalpha()} or {""}
