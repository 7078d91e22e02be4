"""CMU-MOSEI: monologues on video; a crowd rated the intensity of six emotions."""

from __future__ import annotations

import json
from pathlib import Path

from emofuse.corpora.card import CorpusCard, Listing, Row
from emofuse.corpora.sources import (
    Line,
    files_below,
    first_of_each,
    no_audio,
    number,
    read_lines,
    read_table,
    recordings,
    row_error,
)
from emofuse.errors import EmofuseError, ManifestError

_EMOTIONS = {
    "angry": ("anger", "angry", "Answer.anger"),
    "disgust": ("disgust", "Answer.disgust"),
    "fearful": ("fear", "fearful", "Answer.fear"),
    "happy": ("happiness", "happy", "Answer.happiness"),
    "sad": ("sadness", "sad", "Answer.sadness"),
    "surprised": ("surprise", "surprised", "Answer.surprise"),
}
_COLUMNS = {
    "video": ("video_id", "video", "file", "Input.VIDEO_ID"),
    "clip": ("clip_id", "clip", "segment", "index", "Input.CLIP"),
    "start": ("start", "start_time"),
    "end": ("end", "end_time"),
    "text": ("text", "transcript"),
    "split": ("split", "mode", "fold"),
    **_EMOTIONS,
}
_SPLITS = {"train": "train", "valid": "dev", "validation": "dev", "dev": "dev", "test": "test"}
_STRONGEST = 3.0

CARD = CorpusCard(
    name="cmu-mosei",
    title="CMU-MOSEI",
    languages=("en",),
    modalities=("speech", "text"),
    labels=("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised"),
    licence="see its site; the videos are their makers'",
    where="it is at http://multicomp.cs.cmu.edu/resources/cmu-mosei-dataset; put a labels.csv beside Raw/Audio",
    citation="Zadeh et al., Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and Interpretable Dynamic "
    "Fusion Graph, ACL, 2018",
    note="published counts differ between the paper (23,453 segments) and its releases, so no number is expected; the "
    "label is the strongest emotion, which leaves out what several of them say: column votes has all intensities",
)


def read(root: Path) -> Listing:
    """List the segments of a table of labels, with the audio of each.

    The table is the only CSV file with a column of emotions below the folder, or `labels.csv`. It has one row per
    segment, with columns video_id, clip_id (a number within the video), anger, disgust, fear, happiness, sadness and
    surprise (intensities from 0 to 3), and may have start and end in seconds, text, and split (train, valid or test).

    The label is the emotion of the highest intensity; where all are 0 it is neutral, and on a tie there is
    none. Column `votes` holds the intensities.

    The audio is that of the segment, `<video_id>_<clip_id>.wav`, or a span of the video's, `<video_id>.wav`. Start, end
    and text that the table lacks are taken from `<video_id>.txt`, whose lines are `video___clip___start___end___text`.
    All files may be anywhere below the folder. A negative start becomes 0.

    Raises:
        ManifestError: There is no such folder, or no table in it, or it lacks columns.
    """
    folder = CARD.folder(root, "CMU-MOSEI", "CMU_MOSEI")
    table = _table(folder)
    lines, errors = read_table(table, _COLUMNS, needed=("video", "clip", *_EMOTIONS))
    notes: list[str] = []
    clips = first_of_each(recordings(folder), notes)
    transcripts = _Transcripts(folder, errors)
    rows: list[Row] = []
    seen: set[str] = set()
    for line in lines:
        video, clip = line.values["video"], line.values["clip"]
        name = f"{video}_{clip}"
        fields = {**transcripts.of(video, clip), **{key: value for key, value in line.values.items() if value}}
        whole, part = clips.get(video), clips.get(name)
        what = _fault(line, fields, spanned=part is None) or (f"{name} occurs twice" if name in seen else "")
        if what:
            errors.append(row_error(table, line.number, what))
            continue
        seen.add(name)
        path = part or whole
        if path is None:
            errors.append(no_audio(table.parent / f"{name}.wav"))
            continue
        rows.append(_row(line, fields, name, path, spanned=part is None))
    return Listing(rows=rows, source=folder, notes=tuple(notes), skipped=tuple(errors))


def _table(folder: Path) -> Path:
    tables = files_below(folder, "*.csv")
    named = [path for path in tables if path.name.lower() == "labels.csv"]
    chosen = named or tables
    if not chosen:
        raise CARD.absent(folder, "labels.csv")
    if len(chosen) > 1:
        raise ManifestError(
            f"{len(chosen)} tables are here, such as {chosen[0].name} and {chosen[1].name}",
            where=folder,
            remedy="call the one with the labels labels.csv",
        )
    return chosen[0]


def _intensities(line: Line) -> dict[str, float | None]:
    return {label: number(line.values[label]) for label in _EMOTIONS}


def _fault(line: Line, fields: dict[str, str], *, spanned: bool) -> str:
    for label, value in _intensities(line).items():
        if value is None or not 0 <= value <= _STRONGEST:
            return f"{_EMOTIONS[label][0]} is {line.values[label]!r}, not a number from 0 to 3"
    if not line.values["video"] or not line.values["clip"]:
        return "the video or clip has no name"
    if line.values["split"] and line.values["split"].lower() not in _SPLITS:
        return f"the split is {line.values['split']!r}, not train, valid or test"
    if spanned:
        start, end = number(fields.get("start", "")), number(fields.get("end", ""))
        if start is None or end is None or end <= max(start, 0.0):
            return f"the segment lasts from {fields.get('start') or 'nowhere'} to {fields.get('end') or 'nowhere'}"
    return ""


def _row(line: Line, fields: dict[str, str], name: str, clip: Path, *, spanned: bool) -> Row:
    intensities = {label: value or 0.0 for label, value in _intensities(line).items()}
    highest = max(intensities.values())
    strongest = [label for label, value in intensities.items() if value == highest]
    label = "neutral" if highest == 0 else strongest[0] if len(strongest) == 1 else None
    start, end = number(fields.get("start", "")), number(fields.get("end", ""))
    return {
        "utterance": name,
        "audio": str(clip),
        "start": max(start, 0.0) if spanned and start is not None else None,
        "end": end if spanned else None,
        "text": fields.get("text"),
        "text_source": "reference" if fields.get("text") else None,
        "language": "en",
        "label": label,
        "votes": json.dumps({label: value for label, value in intensities.items() if value}),
        # Nearly every video has its own speaker.
        "speaker": line.values["video"],
        "session": _SPLITS.get(line.values["split"].lower()),
        "dialogue": line.values["video"],
    }


class _Transcripts:
    """Times and transcripts of segments, from one file per video, read on first use."""

    def __init__(self, folder: Path, errors: list[EmofuseError]) -> None:
        self._paths = {path.stem: path for path in files_below(folder, "*.txt")}
        self._errors = errors
        self._read: dict[str, dict[str, dict[str, str]]] = {}

    def of(self, video: str, clip: str) -> dict[str, str]:
        """`start`, `end` and `text` of a segment, where known."""
        if video not in self._read:
            self._read[video] = self._segments(self._paths.get(video))
        return self._read[video].get(clip, {})

    def _segments(self, path: Path | None) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        if path is None:
            return found
        try:
            lines = read_lines(path)
        except ManifestError as error:
            self._errors.append(error)
            return found
        for count, line in enumerate(lines, start=1):
            parts = line.strip().split("___", 4)
            if len(parts) == 5:
                _, clip, start, end, text = parts
                found[clip] = {"start": start, "end": end, "text": text}
            elif line.strip():
                self._errors.append(row_error(path, count, "the line is not video___clip___start___end___text"))
        return found
