"""The interface of aligners, the built-in ones, and the user's own."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from emofuse.align.normalise import is_english
from emofuse.align.text_files import in_order
from emofuse.audio import LONGEST_UTTERANCE
from emofuse.errors import AlignmentError, EmofuseError
from emofuse.outside import is_outside, load_class, options_of, with_model, without_model
from emofuse.types import TIERS, Alignment, Segment, Tier

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALIGNERS: Mapping[str, str] = {
    "sphinx": "emofuse.align.sphinx:SphinxAligner",
    "ctc": "emofuse.align.ctc:CtcAligner",
}
"""Aligners by short name."""

READ = ("auto", "shipped")
"""Choices besides aligners: alignments that a corpus ships, and these if there are any, else Sphinx."""


class Aligner(ABC):
    """A forced aligner of words, and of syllables and phones if it can.

    A subclass takes no arguments, or those of `model`, `device` and `download` that its `__init__` names.

    Attributes:
        name: Name in results.
        languages: ISO 639-1 codes that it aligns; None for any.
        parallel: Whether several processes, each with its own aligner, are faster than one.
        longest: Longest audio that it takes, in seconds.
        path: Path of a class outside the package; empty for built-in ones.
        doubt: Why the last transcript may not match its audio; None if there is no such sign.

    Example:
        >>> class Even(Aligner):
        ...     name = "even"
        ...     def align(self, clip, text, *, language=None):
        ...         words, step = text.split(), len(clip) / 16000 / len(text.split())
        ...         places = enumerate(words)
        ...         return {"word": tuple(Segment(start=n * step, end=(n + 1) * step, label=w) for n, w in places)}
        >>> align_clip(Even(), [0.0] * 32000, "oh no").tiers["word"][1]
        Segment(start=1.0, end=2.0, label='no')
    """

    name: ClassVar[str]
    languages: ClassVar[tuple[str, ...] | None] = None
    parallel: ClassVar[bool] = False
    longest: ClassVar[float] = LONGEST_UTTERANCE
    path: str = ""
    doubt: str | None = None

    @property
    def source(self) -> str:
        """Its name in alignments, with all that is needed to make them again."""
        return self.path or self.name

    @abstractmethod
    def align(
        self, clip: NDArray[np.float32], text: str, *, language: str | None = None
    ) -> Mapping[Tier, tuple[Segment, ...]]:
        """Align a clip with its transcript.

        Args:
            clip: Mono samples `(time,)` at 16 kHz.
            text: The transcript.
            language: ISO 639-1 code; None if unknown.

        Returns:
            Segments in seconds, in order, by tier: `word`, `syllable`, `phone`; pauses are left out.

        Raises:
            AlignmentError: The words cannot be aligned.
        """


def aligner_class(choice: str) -> type[Aligner]:
    """The class of an aligner by its name or path.

    Raises:
        SettingsError: There is none, or it is no aligner.
    """
    return load_class(choice, ALIGNERS, kind="aligner", base=Aligner)


def load_aligner(choice: str, *, model: str | None = None, device: str = "cpu", download: bool = True) -> Aligner:
    """Load an aligner.

    Args:
        choice: `sphinx`, `ctc`, or the path to a class of the user's own.
        model: Hub id or folder, for aligners with a choice of models, such as `ctc`.
        device: Torch device.
        download: Whether models may be downloaded from the Hub.

    Raises:
        SettingsError: There is no such aligner, or it takes no model, or needs one.
        EncoderError: Its model cannot be loaded.

    Example:
        >>> load_aligner("sphinx").source
        'sphinx'
    """
    found = aligner_class(choice)
    offered = {"device": device, "download": download}
    aligner = found(**options_of(found, kind="aligner", asked={"model": model}, offered=offered))
    if is_outside(choice):
        aligner.path = with_model(choice, model)
    return aligner


def load_again(path: str) -> Aligner:
    """Load an aligner from outside the package by its `path`; its code runs.

    Raises:
        SettingsError: It no longer exists.
    """
    choice, model = without_model(path)
    return load_aligner(choice, model=model, download=False)


def align_clip(
    aligner: Aligner, clip: NDArray[np.float32], text: str | None, *, language: str | None = None
) -> Alignment:
    """Align one clip with its transcript; the alignment states why it failed, or why it is doubtful.

    Args:
        aligner: Any.
        clip: Mono samples `(time,)` at 16 kHz.
        text: The transcript.
        language: ISO 639-1 code; None if unknown.

    Example:
        >>> from emofuse.testing import tone
        >>> found = align_clip(load_aligner("sphinx"), tone(1.0, seed=0), "Hello there")
        >>> found.source, found.note
        ('sphinx', 'the transcript hardly fits the audio; check that it is of this recording')
    """
    try:
        if text is None:
            raise AlignmentError("there is no transcript", remedy="write down what is said")
        if not knows(aligner.languages, language):
            raise AlignmentError(
                f"the language is {language}, and {aligner.name} knows {', '.join(aligner.languages or ())} only",
                remedy="align with --aligner ctc and a model of that language",
            )
        tiers = aligner.align(clip, text, language=language)
        tiers = _checked(aligner, tiers) if aligner.path else tiers
    except EmofuseError as error:
        return Alignment(utterance="", tiers={}, source=aligner.source, problem=error.advice)
    return Alignment(utterance="", tiers=tiers, source=aligner.source, note=aligner.doubt)


def _checked(aligner: Aligner, tiers: Mapping[Tier, Sequence[Segment]]) -> Mapping[Tier, tuple[Segment, ...]]:
    """Check the segments of the user's own aligner."""
    if strange := [tier for tier in tiers if tier not in TIERS]:
        raise AlignmentError(
            f"{aligner.name} has a tier {strange[0]!r}", where=aligner.path, remedy=f"name tiers {', '.join(TIERS)}"
        )
    return {tier: in_order(found, Path(aligner.path), what=f"tier {tier}") for tier, found in tiers.items()}


def knows(known: tuple[str, ...] | None, language: str | None) -> bool:
    """Whether an aligner or a recogniser knows a language; an unknown language counts as known.

    Example:
        >>> [knows(("en",), language) for language in ("en-GB", "de", None)], knows(None, "de")
        ([True, False, True], True)
    """
    code = re.split(r"[-_]", (language or "").strip().lower())[0]
    return not code or known is None or code in known or ("en" in known and is_english(language))
