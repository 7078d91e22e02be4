"""Forced alignment of English by PocketSphinx, without download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emofuse.align.base import Aligner
from emofuse.align.edges import trim_to_speech
from emofuse.align.fit import DOUBTFUL
from emofuse.align.normalise import is_english, spoken_words
from emofuse.align.pronounce import pronounce
from emofuse.align.syllables import syllable_segments
from emofuse.audio import LONGEST, SAMPLING_RATE
from emofuse.errors import AlignmentError
from emofuse.language import is_foreign
from emofuse.types import Segment, Tier

# Emotional speech fits the model badly: with pruning, or a second search of the lattice, the path is lost.
_SEARCH = {
    "lm": None,
    "cmn": "batch",
    "beam": 0.0,
    "wbeam": 0.0,
    "pbeam": 0.0,
    "bestpath": False,
    "fwdflat": False,
    "loglevel": "FATAL",
}
_FRAME = 0.01  # Frame step in seconds.
_WINDOW = 410 / SAMPLING_RATE
# A frame's time is the centre of its window; a boundary is half-way between two frames.
_BORDER = (_WINDOW - _FRAME) / 2
_CHEAP = "a"  # The word with the fewest phones.
_STATES = 3  # Fewest frames of a phone.
# Phones a second: impossible speech, but words of another recording are squeezed like that.
_HASTE = 0.04
_JUDGED = 8  # Fewest phones for a judgement.
# Acoustic score per frame of words. Right transcripts: median -19 (RAVDESS) and -27 (learners of English), -36 at the
# 5th percentile, -45 with noise at 5 dB; transcripts of other utterances: median -60 and -46.
_POOR = -45.0


class SphinxAligner(Aligner):
    """Words, syllables and phones of English speech, with the US English model of pocketsphinx.

    Words outside its dictionary are pronounced by `emofuse.align.pronounce`.

    Example:
        >>> from emofuse.testing import tone
        >>> tiers = SphinxAligner().align(tone(1.0, seed=0), "Hello there")
        >>> [segment.label for segment in tiers["syllable"]]  # Without speech, the times mean nothing.
        ['HH AH', 'L OW', 'DH EH R']
    """

    name = "sphinx"
    languages = ("en",)
    parallel = True
    longest = LONGEST

    def __init__(self) -> None:
        from pocketsphinx import Config, Decoder

        self._decoder: Any = Decoder(Config(**_SEARCH))

    def align(
        self, clip: NDArray[np.float32], text: str, *, language: str | None = None
    ) -> Mapping[Tier, tuple[Segment, ...]]:
        """See `Aligner.align`; without a language, the words count as English unless they certainly are not."""
        if not is_english(language):
            raise AlignmentError(
                f"the language is {language}, and Sphinx knows English only",
                remedy="align with --aligner ctc and a model of that language",
            )
        if language is None and is_foreign(text, ("en",)):
            raise AlignmentError(
                "the words are not English, and Sphinx knows English only",
                remedy="align with --aligner ctc and a model of their language, or give their language as en",
            )
        words = self._words(text)
        samples = (np.clip(clip, -1, 1) * 32767).astype(np.int16).tobytes()
        phones = self._decode(samples, words, seconds=len(clip) / SAMPLING_RATE)
        _check_pace([phone for own in phones for phone in own])
        phones = trim_to_speech(phones, clip)
        said = [
            Segment(start=own[0].start, end=own[-1].end, label=word) for own, word in zip(phones, words, strict=True)
        ]
        return {
            "word": tuple(said),
            "syllable": syllable_segments(phones),
            "phone": tuple(phone for own in phones for phone in own),
        }

    def _words(self, text: str) -> tuple[str, ...]:
        """The spoken words, after adding them to the decoder's dictionary."""
        words = spoken_words(text)
        if not words:
            raise AlignmentError("the transcript has no words", remedy="write down what is said")
        for word in dict.fromkeys(words):
            if self._decoder.lookup_word(word) is None:
                phones = pronounce(word)
                if not phones:
                    raise AlignmentError(
                        f"the word {word!r} has no English letters",
                        remedy="write it in English letters, or align with --aligner ctc",
                    )
                self._decoder.add_word(word, " ".join(phones), True)
        return words

    def _decode(self, samples: bytes, words: Sequence[str], *, seconds: float) -> list[list[Segment]]:
        """The phones of each word."""
        shortest = sum(len(self._decoder.lookup_word(word).split()) for word in words) * _STATES * _FRAME
        try:
            # The frontend's mean includes one frame of the previous utterance: make it one of this.
            self._decoder.set_align_text(_CHEAP)
            self._listen(samples)
            self._decoder.set_align_text(" ".join(words))
            self._listen(samples)
            # The first pass finds the words and pauses; the second, their phones.
            self._decoder.set_alignment()
            self._listen(samples)
            # Keep the alignment while its entries are read, since it owns their memory.
            alignment = self._decoder.get_alignment()
            found, score, frames = [], 0, 0
            for entry in alignment:
                if _is_word(entry.name):
                    found.append((entry.name.split("(")[0], [_segment(phone, seconds) for phone in entry]))
                    score += entry.score
                    frames += entry.duration
            self.doubt = DOUBTFUL if score < _POOR * frames else None
        except (RuntimeError, TypeError) as error:
            if seconds < shortest:
                raise AlignmentError(
                    f"{seconds:.2f} s are too short for {len(words)} words", remedy="check the words and the span"
                ) from error
            raise AlignmentError(
                "the words do not fit the audio", remedy="check that the transcript is of this recording"
            ) from error
        if [word for word, _ in found] != list(words):
            raise AlignmentError(
                "the aligner lost some of the words", remedy="check that the transcript is of this recording"
            )
        return [phones for _, phones in found]

    def _listen(self, samples: bytes) -> None:
        self._decoder.start_utt()
        try:
            self._decoder.process_raw(samples, full_utt=True)
        finally:
            self._decoder.end_utt()


def _check_pace(phones: Sequence[Segment]) -> None:
    lengths = [phone.end - phone.start for phone in phones]
    if len(lengths) >= _JUDGED and median(lengths) < _HASTE + _FRAME / 2:
        raise AlignmentError("the words do not fit the audio", remedy="check that the transcript is of this recording")


def _is_word(name: str) -> bool:
    """Whether an entry is not a pause or noise."""
    return not name.startswith(("<", "[", "(", "+"))


def _segment(phone: Any, end: float) -> Segment:
    start = 0.0 if phone.start == 0 else phone.start * _FRAME + _BORDER
    stop = (phone.start + phone.duration) * _FRAME + _BORDER
    # Rounded to 0.1 ms, since sums of hundredths are not exact.
    return Segment(start=round(min(start, end), 4), end=round(min(stop, end), 4), label=phone.name)
