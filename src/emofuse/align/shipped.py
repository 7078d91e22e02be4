"""Alignments of a corpus or of another aligner, by utterance of a manifest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from emofuse.align.fit import SHORTER, check_length, is_shorter
from emofuse.align.readers import read_ctm, with_syllables
from emofuse.align.textgrid import NAMES, Grid, read_grid
from emofuse.audio import audio_duration
from emofuse.corpora import CORPORA
from emofuse.errors import AlignmentError
from emofuse.names import tidy
from emofuse.outside import load_object
from emofuse.types import Segment, Tier, Utterance

Tiers = Mapping[Tier, tuple[Segment, ...]]

_SHOWN = 3  # Most names in a message.


def ships_alignments(corpus: str | None) -> bool:
    """Whether a corpus ships alignments that can be read.

    Example:
        >>> ships_alignments("iemocap"), ships_alignments("ravdess")
        (True, False)
    """
    return corpus in CORPORA and CORPORA[corpus].alignments is not None


def read_shipped(utterance: Utterance, *, corpus: str | None, duration: float) -> Tiers:
    """Read the shipped alignment of an utterance.

    Raises:
        AlignmentError: The corpus ships none, or the files are absent, damaged, or of a longer recording.
        SettingsError: Its card names a reader that cannot be imported.
    """
    place = CORPORA[corpus].alignments if corpus in CORPORA else None
    if place is None or utterance.audio is None:
        raise AlignmentError(
            f"corpus {corpus or 'unknown'} ships no alignments that can be read here",
            remedy="use --aligner sphinx or ctc, or name TextGrids or CTMs with --from",
        )
    read: Callable[[Path, float], Tiers] = load_object(place, kind="reader of alignments", known={})
    return within(read(utterance.audio, duration), duration)


class AlignmentFiles:
    """A folder of TextGrids, or one or more CTMs, made by another aligner.

    TextGrids are found by the utterance's name or by that of its recording; times in the latter are of the whole file.

    Args:
        place: A folder with `*.TextGrid` at any depth; a `.ctm` of words; or a folder with `words.ctm`, `phones.ctm`,
            `syllables.ctm`.

    Raises:
        AlignmentError: There is nothing of the kind, or all of a CTM is damaged.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._ctms: dict[Tier, dict[str, tuple[Segment, ...] | AlignmentError]] = {}
        self._grids: dict[str, Path | None] = {}
        if place.is_file() and place.suffix.lower() == ".ctm":
            self._ctms = {"word": read_ctm(place)}
        elif place.is_dir():
            for tier, names in NAMES.items():
                if (path := place / f"{names[0]}.ctm").is_file():
                    self._ctms[tier] = read_ctm(path, tier=tier)
            if not self._ctms:
                # The deepest first, so that a path without a folder decides its name.
                grids = (path for path in place.rglob("*") if path.suffix.lower() == ".textgrid" and path.is_file())
                for path in sorted(grids, key=lambda path: (-len(path.parts), path)):
                    relative, stem = tidy(path.relative_to(place).with_suffix("").as_posix()), tidy(path.stem)
                    self._grids[relative] = path
                    # A name in two folders is ambiguous.
                    self._grids[stem] = None if stem in self._grids and stem != relative else path
        if not self._ctms and not self._grids:
            raise AlignmentError(
                "there are no alignments here", where=place, remedy="name a folder of TextGrids, or a .ctm"
            )
        self.source = "ctm" if self._ctms else "textgrid"
        self.doubt: str | None = None
        """Why the last alignment may be of another recording; None if there is no such sign."""

    def read(self, utterance: Utterance, *, duration: float) -> Tiers:
        """Read one utterance's alignment; missing syllables are made from words and ARPAbet phones.

        Raises:
            AlignmentError: There is none, or it is damaged or of a longer recording.
        """
        found: dict[Tier, tuple[Segment, ...]] = {}
        name, self.doubt = tidy(utterance.utterance), None
        for tier, rows in self._ctms.items():
            segments = rows.get(name)
            if isinstance(segments, AlignmentError):
                raise segments
            if segments is not None:
                found[tier] = segments
        recording = tidy(utterance.audio.stem) if utterance.audio else ""
        own, of_file = self._grids.get(name), self._grids.get(recording)
        if own is not None and own != of_file:
            found = dict(self._fitted(read_grid(own), duration))
        elif of_file is not None:
            span = utterance.start > 0 or utterance.end is not None
            whole = audio_duration(utterance.audio) if span and utterance.audio else duration
            tiers = self._fitted(read_grid(of_file), whole)
            found = {tier: _cut(segments, utterance.start, utterance.end) for tier, segments in tiers.items()}
        if not found and not {name, recording}.isdisjoint(self._grids):
            raise AlignmentError(
                "two TextGrids in different folders have its name",
                where=self._place,
                remedy="keep the one that is its own",
            )
        if not found:
            raise AlignmentError(
                "there is no alignment of it", where=self._place, remedy=f"align it, or name it as {self._examples()}"
            )
        return within(with_syllables(found), duration)

    def _examples(self) -> str:
        """Examples of names here."""
        names = [*self._grids, *(name for rows in self._ctms.values() for name in rows)]
        return "those here are, such as " + ", ".join(repr(name) for name in list(dict.fromkeys(names))[:_SHOWN])

    def _fitted(self, grid: Grid, duration: float) -> Tiers:
        """The tiers of a recording's TextGrid, relative to the beginning of the audio."""
        late = check_length(grid.start, grid.end, duration)
        self.doubt = SHORTER if grid.covers and is_shorter(grid.end - late, duration) else None
        if not late:
            return grid.tiers
        return {
            tier: tuple(
                Segment(start=max(one.start - late, 0.0), end=one.end - late, label=one.label) for one in segments
            )
            for tier, segments in grid.tiers.items()
        }


def _cut(segments: tuple[Segment, ...], start: float, end: float | None) -> tuple[Segment, ...]:
    """Segments whose centre is in a span of the file, relative to the span's beginning."""
    last = math.inf if end is None else end
    return tuple(
        Segment(start=max(one.start - start, 0.0), end=min(one.end, last) - start, label=one.label)
        for one in segments
        if start <= (one.start + one.end) / 2 < last
    )


def within(tiers: Tiers, duration: float) -> Tiers:
    """Clip segments that exceed the audio by rounding.

    Raises:
        AlignmentError: They exceed it by more.
    """
    last = max((segments[-1].end for segments in tiers.values() if segments), default=0.0)
    check_length(0.0, last, duration)
    return {
        tier: tuple(
            Segment(start=one.start, end=min(one.end, duration), label=one.label)
            for one in segments
            if one.start < duration
        )
        for tier, segments in tiers.items()
    }
