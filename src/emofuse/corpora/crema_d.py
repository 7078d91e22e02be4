"""CREMA-D: 91 actors say twelve English sentences in six emotions."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from emofuse.corpora.card import CorpusCard, Listing, Row
from emofuse.corpora.sources import first_of_each, no_audio, read_table, recordings
from emofuse.errors import EmofuseError, ManifestError

_LABELS = {
    "ANG": "angry",
    "DIS": "disgust",
    "FEA": "fearful",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
_SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
# One clip is published as 1040_ITH_SAD_X.
_NAME = re.compile(rf"(1\d\d\d)_({'|'.join(_SENTENCES)})_({'|'.join(_LABELS)})_(XX?|LO|MD|HI)")

CARD = CorpusCard(
    name="crema-d",
    title="CREMA-D",
    languages=("en",),
    modalities=("speech", "text"),
    labels=tuple(_LABELS.values()),
    licence="Open Database License 1.0",
    where="it is at https://github.com/CheyneyComputerScience/CREMA-D with its clips in AudioWAV/ (by git lfs)",
    citation="Cao et al., CREMA-D: Crowd-Sourced Emotional Multimodal Actors Dataset, IEEE TAC, 2014",
    utterances=7442,
    speakers=91,
    note="every sentence is said in every emotion, so the text carries no label information, which is the emotion that "
    "was acted; there is no common split, so folds are made of speakers",
    counts={"label": {label: 1087 if label == "neutral" else 1271 for label in _LABELS.values()}},
)


def read(root: Path) -> Listing:
    """List the clips in `AudioWAV`, or below the folder; with `SentenceFilenames.csv`, all that it names.

    A `voice_votes.csv` beside them (a column `utterance` and one for each emotion) gives the listeners' votes for the
    voice alone, and names the clips of this copy.

    Raises:
        ManifestError: There is no such folder, or no clip in it.
    """
    folder = CARD.folder(root, "CREMA-D")
    place = folder / "AudioWAV" if (folder / "AudioWAV").is_dir() else folder
    found: dict[str, list[Path]] = {}
    for stem, paths in recordings(place).items():
        if match := _NAME.fullmatch(stem):
            found.setdefault(_key(match), []).extend(paths)
    notes: list[str] = []
    clips = first_of_each(found, notes)
    if not clips:
        raise CARD.absent(folder, "clip such as AudioWAV/1001_DFA_ANG_XX.wav")
    votes, errors = _votes(folder)
    card = None
    if votes:
        errors += [no_audio(place / f"{name}.wav") for key, (name, _) in votes.items() if key not in clips]
        named = Counter(_LABELS[key.split("_")[2]] for key in votes)
        card = replace(CARD, utterances=len(votes), counts={"label": dict(named)})
    else:
        errors += _missing(folder, place, set(clips))
    rows: list[Row] = [
        {
            "utterance": path.stem,
            "audio": str(path),
            "text": _SENTENCES[match[2]],
            "text_source": "reference",
            "language": "en",
            "label": _LABELS[match[3]],
            "speaker": match[1],
            "script": match[2],
            **({"votes": votes[key][1]} if key in votes else {}),
        }
        for key, path in sorted(clips.items())
        if (match := _NAME.fullmatch(path.stem))
    ]
    return Listing(rows=rows, source=place, notes=tuple(notes), skipped=tuple(errors), card=card)


def _votes(folder: Path) -> tuple[dict[str, tuple[str, str]], list[EmofuseError]]:
    """Name and votes of each clip, from `voice_votes.csv`."""
    table = folder / "voice_votes.csv"
    if not table.exists():
        return {}, []
    labels = tuple(_LABELS.values())
    try:
        lines, errors = read_table(table, {one: (one,) for one in ("utterance", *labels)}, needed=("utterance",))
    except ManifestError as error:
        return {}, [error]
    found: dict[str, tuple[str, str]] = {}
    for line in lines:
        match = _NAME.fullmatch(line.values["utterance"])
        counts = {one: int(line.values[one]) for one in labels if line.values.get(one, "").isdigit()}
        if match:
            found[_key(match)] = (match[0], json.dumps({one: count for one, count in counts.items() if count}))
    return found, errors


def _key(match: re.Match[str]) -> str:
    return f"{match[1]}_{match[2]}_{match[3]}_{'XX' if match[4] == 'X' else match[4]}"


def _missing(folder: Path, place: Path, clips: set[str]) -> list[EmofuseError]:
    """Clips that `SentenceFilenames.csv` names and that are missing."""
    table = folder / "SentenceFilenames.csv"
    if not table.exists():
        return []
    try:
        lines, errors = read_table(table, {"name": ("Filename",)}, needed=("name",))
    except ManifestError as error:
        return [error]
    for line in lines:
        match = _NAME.fullmatch(line.values["name"])
        if match is not None and _key(match) not in clips:
            errors.append(no_audio(place / f"{line.values['name']}.wav"))
    return errors
