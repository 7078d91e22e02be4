"""The aligner of a model's training data, for new recordings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from emofuse.align.base import Aligner, load_again, load_aligner
from emofuse.align.ctc import model_revision
from emofuse.align.shipped import AlignmentFiles
from emofuse.align.table import read_alignments
from emofuse.audio import audio_duration
from emofuse.errors import AlignmentError, EmofuseError
from emofuse.names import tidy
from emofuse.outside import is_outside
from emofuse.types import Alignment, Utterance

_GIVE = "give alignments that are made alike (--alignments FILE, or alignment= in Python)"
_CTC = "ctc "


def aligner_again(sources: Mapping[str, int] | None, *, device: str = "cpu", trust: bool = False) -> Aligner | None:
    """Load the aligner that made most alignments of the training data.

    Args:
        sources: Number of aligned utterances by `Alignment.source`; None if unknown.
        device: Torch device of a CTC model.
        trust: Also load an aligner from outside the package, which runs its code.

    Returns:
        The aligner; None if training had no alignments and used frames as segments.

    Raises:
        AlignmentError: It cannot be run: it is unknown, alignments were read from files, its weights have changed, or
            it is from outside the package and not trusted.
        EncoderError: The CTC model cannot be loaded.
        SettingsError: The one from outside no longer exists.

    Example:
        >>> aligner_again({"sphinx": 9, "shipped": 1}).name
        'sphinx'
        >>> aligner_again({"textgrid": 10})
        Traceback (most recent call last):
        emofuse.errors.AlignmentError: the model was trained with boundaries from textgrid files, which cannot be made \
here; give alignments that are made alike (--alignments FILE, or alignment= in Python).
    """
    if sources is None:
        raise AlignmentError("the model does not say who aligned its training", remedy=f"train it again, or {_GIVE}")
    if not sources:
        return None
    main = max(sources, key=sources.__getitem__)
    if main == "sphinx":
        return load_aligner(main)
    if is_outside(main):
        if not trust:
            raise AlignmentError(
                "the model was trained with an aligner that is not emofuse's own, and its code would run here",
                where=main,
                remedy=f"load the model with trust=True, or --trust, if you trust where it comes from, or {_GIVE}",
            )
        return load_again(main)
    if not main.startswith(_CTC):
        made = "files that its corpus ships" if main == "shipped" else f"{main} files"
        raise AlignmentError(
            f"the model was trained with boundaries from {made}, which cannot be made here", remedy=_GIVE
        )
    model, _, revision = main.removeprefix(_CTC).rpartition(" ")
    # A model from elsewhere may name any repository, so nothing is downloaded.
    if model_revision(model, download=False)[: len(revision)] != revision:
        raise AlignmentError("the CTC model that aligned the training has other weights now", where=model, remedy=_GIVE)
    return load_aligner("ctc", model=model, device=device, download=False)


class GivenAlignments:
    """The user's alignments, by the stem of the recording.

    Args:
        place: Table of `emofuse align`, or, as for its `--from`, a folder of TextGrids or CTMs, or a CTM.

    Raises:
        AlignmentError: It holds no alignments.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._files = AlignmentFiles(place) if place.is_dir() or place.suffix.lower() == ".ctm" else None
        self._table = {} if self._files else {tidy(name): one for name, one in read_alignments(place).items()}

    def of(self, audio: Path | str) -> Alignment | EmofuseError:
        """The alignment of a recording, or an error."""
        name = tidy(Path(audio).stem)
        try:
            if self._files is not None:
                tiers = self._files.read(Utterance(utterance=name, audio=Path(audio)), duration=audio_duration(audio))
                return Alignment(utterance=name, tiers=tiers, source=self._files.source)
        except EmofuseError as error:
            return error
        if name not in self._table:
            return AlignmentError(
                f"{self._place} has no alignment of {name!r}", where=audio, remedy="align it, or leave it out"
            )
        return self._table[name]
