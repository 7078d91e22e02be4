"""Readers of alignment files: IEMOCAP's Sphinx files, EmoDB's hand labels, CTM."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from emofuse.align.syllables import PHONES, VOWELS, phones_by_word, plain, syllable_segments
from emofuse.align.text_files import in_order, read_text, seconds
from emofuse.corpora import cbp
from emofuse.corpora.iemocap import frame_offset
from emofuse.errors import AlignmentError
from emofuse.names import tidy
from emofuse.types import Segment, Tier

Tiers = Mapping[Tier, tuple[Segment, ...]]

_FRAME = 0.01  # Seconds; Sphinx counts frames.
_VARIANT = re.compile(r"\(\d+\)$")
_NOISE = re.compile(r"<s>|</s>|<sil>|sil|\+\+.*\+\+|\[.*\]|\+[^+\s]+\+", re.IGNORECASE)
_UNKNOWN = "spn"  # The Montreal Forced Aligner's phone of an unknown word.
_ENDINGS: Mapping[Tier, str] = {"word": ".wdseg", "syllable": ".syseg", "phone": ".phseg"}


def read_iemocap(stem: Path, *, offset: float = 0.0) -> dict[Tier, tuple[Segment, ...]]:
    """Read the three alignment files of an utterance of IEMOCAP; noises and pauses are left out.

    Tiers whose file is absent or damaged are left out; syllables are then made from words and phones.

    Args:
        stem: Path without the ending, such as `Session1/sentences/ForcedAlignment/Ses01F_impro01/Ses01F_impro01_F000`.
        offset: Frames to add, from `emofuse.corpora.iemocap.frame_offset`.

    Raises:
        AlignmentError: All files are absent or damaged.
    """
    found: dict[Tier, tuple[Segment, ...]] = {}
    damage = None
    for tier, ending in _ENDINGS.items():
        path = stem.with_name(stem.name + ending)
        if path.exists():
            try:
                found[tier] = _moved(_read_frames(path, tier), offset * _FRAME)
            except AlignmentError as error:
                damage = damage or error
    if not found:
        raise damage or AlignmentError(
            f"there is no {', '.join(_ENDINGS.values())}",
            where=stem,
            remedy="a few utterances have none; if others lack them too, copy the corpus again",
        )
    return with_syllables(found)


def iemocap_of(audio: Path, duration: float) -> Tiers:
    """The alignment of an utterance of IEMOCAP, by its audio file.

    Raises:
        AlignmentError: There is none, or it is damaged.
    """
    # Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav
    if len(audio.parents) < 3:
        raise AlignmentError("this is not a place in IEMOCAP", where=audio, remedy="prepare the corpus again")
    offset = _offset(audio.parents[4]) if len(audio.parents) > 4 else 0.0
    return read_iemocap(audio.parents[2] / "ForcedAlignment" / audio.parent.name / audio.stem, offset=offset)


@lru_cache
def _offset(folder: Path) -> float:
    return frame_offset(folder) or 0.0


def emodb_of(audio: Path, duration: float) -> Tiers:
    """The labels of an utterance of EmoDB; the errors are those of `read_emodb`."""
    return read_emodb(audio.parent.parent, audio.stem, duration=duration)


def cbp_of(audio: Path, duration: float) -> Tiers:
    """The words of a clip of the CommitmentBank, from its table of annotations.

    Raises:
        AlignmentError: The table is absent, or has no times of the clip's words.
    """
    table = next((found for place in audio.parents[:3] if (found := cbp.table_in(place))), None)
    words = cbp.word_segments(table).get(audio.stem) if table else None
    if not words:
        raise AlignmentError(f"{cbp.TABLE} has no times of its words", where=audio, remedy="prepare the corpus again")
    return {"word": words}


def _moved(segments: tuple[Segment, ...], seconds: float) -> tuple[Segment, ...]:
    if not seconds:
        return segments
    return tuple(
        Segment(start=round(one.start + seconds, 4), end=round(one.end + seconds, 4), label=one.label)
        for one in segments
    )


def _read_frames(path: Path, tier: Tier) -> tuple[Segment, ...]:
    segments = []
    ended = begun = False
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        cells = line.split()
        place = f"{path}, line {number}"
        if not cells:
            continue
        if cells[0].lower() == "sfrm" and not begun:
            begun = True
        elif cells[0] == "Total":
            ended = True
        elif ended:
            raise AlignmentError("there is a line below the total score", where=place, remedy="get the file again")
        else:
            segments.append(_frames(cells, tier, place))
    # Syllable files were made from the other two, without header and score.
    if tier != "syllable" and not (begun and ended):
        lacking = "header" if not begun else "total score at its end"
        raise AlignmentError(f"the file has no {lacking}, so it is not whole", where=path, remedy="get the file again")
    if not segments:
        raise AlignmentError("the file has no segments", where=path, remedy="get the file again")
    return in_order([one for one in segments if not _NOISE.fullmatch(one.label)], path)


def _frames(cells: Sequence[str], tier: Tier, place: str) -> Segment:
    if len(cells) < (3 if tier == "syllable" else 4):
        raise AlignmentError(f"the line has {len(cells)} columns", where=place, remedy="get the file again")
    if not (cells[0].isascii() and cells[0].isdigit() and cells[1].isascii() and cells[1].isdigit()):
        raise AlignmentError(
            f"{cells[0][:20]!r} to {cells[1][:20]!r} are no frames", where=place, remedy="get the file again"
        )
    start, last = (seconds(cell, where=place, scale=_FRAME) for cell in cells[:2])
    rest = cells[2:]
    if tier != "syllable" or (len(rest) > 1 and re.fullmatch(r"-?\d+", rest[0])):
        rest = rest[1:]
    if tier == "syllable":
        label = " ".join(rest)
        parts = re.split(r"[_\s]+", label)
        label = " ".join(parts) if PHONES.issuperset(map(plain, parts)) else label
    else:
        # A phone may be followed by its context and its position in the word.
        label = rest[0]
    # The last frame belongs to the segment.
    return Segment(start=round(start, 4), end=round(last + _FRAME, 4), label=_VARIANT.sub("", label))


_XLABEL = re.compile(r"\s*(?P<time>\S+)\s+-?\d+(?:\s(?P<label>.*))?")


def read_emodb(folder: Path, name: str, *, duration: float) -> dict[Tier, tuple[Segment, ...]]:
    """Read the hand labels of an EmoDB clip: phones of `lablaut`, syllables of `silb` or else `labsilb`.

    A label's time is the beginning of its segment, as the noise of sibilants shows. Closure, release and aspiration of
    a plosive become one phone, as do the parts of a phone whose voicing changes.

    Args:
        folder: Of the corpus.
        name: Of the clip, such as `03a01Fa`.
        duration: Of the clip in seconds; labels beyond it are of a longer recording and left out.

    Raises:
        AlignmentError: There are no labels, or they are damaged.
    """
    found: dict[Tier, tuple[Segment, ...]] = {}
    places: tuple[tuple[Tier, Path], ...] = (
        ("phone", folder / "lablaut" / f"{name}xx.lablaut"),
        ("phone", folder / "lablaut" / f"{name}.lablaut"),
        ("syllable", folder / "silb" / f"{name}.silb"),
        ("syllable", folder / "labsilb" / f"{name}.labsilb"),
    )
    for tier, path in places:
        # A few published files have no labels.
        if tier not in found and path.exists() and path.stat().st_size:
            starts = _read_pairs(path) if path.suffix == ".silb" else _read_xlabel(path)
            if starts:
                found[tier] = _segments_from_starts(_merged(starts) if tier == "phone" else starts, path, duration)
    if not any(found.values()):
        raise AlignmentError("there are no hand labels of it", where=folder, remedy="add lablaut and silb")
    return found


def _read_xlabel(path: Path) -> list[tuple[float, str]]:
    head, hash_line, body = read_text(path).replace("\r", "").partition("\n#\n")
    if not hash_line:
        raise AlignmentError("the line # above the labels is missing", where=path, remedy="get the file again")
    found = []
    first = head.count("\n") + 3
    for number, line in enumerate(body.split("\n"), start=first):
        if not line.strip():
            continue
        match = _XLABEL.fullmatch(line)
        place = f"{path}, line {number}"
        if match is None:
            raise AlignmentError("the line is not time, colour and label", where=place, remedy="get the file again")
        # A diacritic follows a tab or a sign: `d -sth` is a voiceless d.
        label = re.split(r"[\t\s]", match["label"] or "", maxsplit=1)[0]
        found.append((seconds(match["time"], where=place), re.split(r"[-+\[\]]", label, maxsplit=1)[0]))
    return found


def _read_pairs(path: Path) -> list[tuple[float, str]]:
    found = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        cells = line.split()
        if cells:
            place = f"{path}, line {number}"
            if len(cells) > 2:
                raise AlignmentError("the line is not time and label", where=place, remedy="get the file again")
            found.append((seconds(cells[0], where=place), cells[1] if len(cells) > 1 else ""))
    return found


def _merged(starts: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Merge the parts of one phone."""
    found: list[tuple[float, str]] = []
    for start, label in starts:
        base = re.sub(r"^[!_]|asp$", "", label)
        if found and (not base or (base != label and base == found[-1][1])):
            continue
        found.append((start, base))
    return found


def _segments_from_starts(starts: list[tuple[float, str]], path: Path, duration: float) -> tuple[Segment, ...]:
    segments = []
    for (start, label), (end, _) in itertools.pairwise(starts):
        if end < start:
            raise AlignmentError(
                f"the label at {end:g} s stands below one at {start:g} s", where=path, remedy="get the file again"
            )
        # A full stop ends the utterance, a bracket is a pause.
        if label and label[0] not in ".(" and start < duration:
            segments.append(Segment(start=start, end=min(end, duration), label=label))
    return in_order(segments, path)


def read_ctm(path: Path, *, tier: Tier = "word") -> dict[str, tuple[Segment, ...] | AlignmentError]:
    """Read a CTM: utterance, channel, start, duration, label on each line, and perhaps a confidence.

    Args:
        path: The file.
        tier: What its labels are; the phones of a syllable have `_` between them.

    Returns:
        Segments by utterance, pauses left out; of an utterance with a damaged line, the error.

    Raises:
        AlignmentError: The file is absent, or all of it is damaged.
    """
    rows: dict[str, list[Segment]] = {}
    errors: dict[str, AlignmentError] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        cells = line.split()
        if not cells or line.startswith(";;"):
            continue
        name = tidy(cells[0])
        own = rows.setdefault(name, [])
        try:
            own += _ctm_segments(cells, tier, f"{path}, line {number}")
        except AlignmentError as error:
            # The utterance of a line that is cut in its first field is unknown.
            if len(cells) == 1:
                raise
            errors.setdefault(name, error)
    found: dict[str, tuple[Segment, ...] | AlignmentError] = {}
    for name, own in rows.items():
        try:
            found[name] = errors.get(name) or in_order(
                sorted(own, key=lambda one: (one.start, one.end)), path, what=name
            )
        except AlignmentError as error:
            found[name] = error
    if not found:
        raise AlignmentError("the file has no segments", where=path, remedy="check what it is")
    first = next(iter(found.values()))
    if isinstance(first, AlignmentError) and all(isinstance(one, AlignmentError) for one in found.values()):
        raise first
    return found


def _ctm_segments(cells: Sequence[str], tier: Tier, place: str) -> list[Segment]:
    """The segment of a line; none if it is a pause."""
    if len(cells) not in (5, 6):
        raise AlignmentError(
            f"the line has {len(cells)} columns",
            where=place,
            remedy="write utterance, channel, start, duration, label",
        )
    start, length = (seconds(cell, where=place) for cell in cells[2:4])
    label = cells[4].replace("_", " ") if tier == "syllable" else cells[4]
    if _NOISE.fullmatch(label) or label in ("<eps>", "sp"):
        return []
    # Nanoseconds: the sum of two decimal numbers is not exact.
    return [Segment(start=start, end=round(start + length, 9), label=label)]


def with_syllables(tiers: Mapping[Tier, tuple[Segment, ...]]) -> dict[Tier, tuple[Segment, ...]]:
    """Add syllables from words and their ARPAbet phones, if there are none.

    A word with other phones is one syllable; without any word in ARPAbet, nothing is added.

    Example:
        >>> word = Segment(start=0.0, end=0.2, label="oh")
        >>> phone = Segment(start=0.0, end=0.2, label="OW1")
        >>> with_syllables({"word": (word,), "phone": (phone,)})["syllable"][0].label
        'OW1'
    """
    found = dict(tiers)
    words, phones = tiers.get("word"), tiers.get("phone")
    if "syllable" not in tiers and words and phones:
        own = phones_by_word(words, phones)
        if _is_arpabet([[phone.label for phone in one] for one in own]):
            found["syllable"] = syllable_segments(own)
    return {tier: found[tier] for tier in ("word", "syllable", "phone") if tier in found}


def _is_arpabet(words: Sequence[Sequence[str]]) -> bool:
    """Whether the phones of some word are ARPAbet, and not a similar alphabet."""
    known = {label for word in words for label in word if label.lower() != _UNKNOWN}
    if PHONES.issuperset(map(plain, known)):
        return bool(known)
    # IPA and SAMPA also have `n ow` and `S`, but no words in capitals with such a vowel.
    bare = [{label.rstrip("012") for label in word} for word in words]
    return any(word <= PHONES and word & VOWELS for word in bare)
