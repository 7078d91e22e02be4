"""MSP-Podcast: turns of podcasts with natural emotion, rated by a crowd."""

from __future__ import annotations

from pathlib import Path

from emofuse.corpora.card import DIMENSIONS, GENDERS, CorpusCard, Listing, Row
from emofuse.corpora.sources import (
    Line,
    files_below,
    first_of_each,
    no_audio,
    number,
    read_table,
    read_words,
    recordings,
    row_error,
)

_CODES = {
    "A": "angry",
    "C": "contempt",
    "D": "disgust",
    "F": "fearful",
    "H": "happy",
    "N": "neutral",
    "S": "sad",
    "U": "surprised",
    "O": "other",
    "X": None,
}
_SPLITS = {
    "train": "train",
    "development": "dev",
    "validation": "dev",
    "test1": "test",
    "test2": "test2",
    "test3": "test3",
}
_COLUMNS = {
    "file": ("FileName",),
    "emotion": ("EmoClass",),
    "arousal": ("EmoAct",),
    "valence": ("EmoVal",),
    "dominance": ("EmoDom",),
    "speaker": ("SpkrID",),
    "gender": ("Gender",),
    "split": ("Split_Set",),
}
_TABLES = ("labels_consensus.csv", "labels_concensus.csv")

CARD = CorpusCard(
    name="msp-podcast",
    title="MSP-Podcast",
    languages=("en",),
    modalities=("speech", "text"),
    labels=tuple(label for label in _CODES.values() if label),
    values=DIMENSIONS,
    licence="by agreement with UT Dallas",
    where="request it at https://lab-msp.com/MSP/MSP-Podcast.html and name the folder with Labels/ and Audios/",
    citation="Lotfian and Busso, Building Naturalistic Emotionally Balanced Speech Corpus by Retrieving Emotional "
    "Speech From Existing Podcast Recordings, IEEE TAC, 2019",
    note="each release has another size, so no number is expected; the split is the published one: test is Test1, "
    "while Test2 and Test3 stay apart as sessions test2 and test3; turns without agreement have no label",
)


def read(root: Path) -> Listing:
    """List the rows of `labels_consensus.csv` (`labels_concensus.csv` in older releases) that have a recording.

    The table, the recordings (`Audios/MSP-PODCAST_0001_0008.wav`) and the optional transcripts
    (`Transcripts/MSP-PODCAST_0001_0008.txt`) may be anywhere below the folder. Ratings are from 1 to 7. The speaker
    Unknown becomes an unknown speaker.

    Raises:
        ManifestError: There is no such folder, or no table in it.
    """
    folder = CARD.folder(root, "MSP-PODCAST", "MSP-Podcast")
    tables = [path for name in _TABLES for path in files_below(folder, name)]
    if not tables:
        raise CARD.absent(folder, f"Labels/{_TABLES[0]}")
    needed = ("file", "emotion", "split")
    lines, errors = read_table(tables[0], _COLUMNS, needed=needed)
    notes: list[str] = []
    clips = first_of_each(recordings(folder), notes)
    texts = {path.stem: path for path in files_below(folder, "*.txt")}
    rows: list[Row] = []
    seen: set[str] = set()
    for line in lines:
        name = Path(line.values["file"]).stem
        what = _fault(line) or (f"{name} occurs twice" if name in seen else "")
        if what:
            errors.append(row_error(tables[0], line.number, what))
            continue
        seen.add(name)
        if name not in clips:
            errors.append(no_audio(folder / "Audios" / line.values["file"]))
            continue
        rows.append(_row(line, name, clips[name], read_words(texts.get(name), errors)))
    return Listing(rows=rows, source=folder, notes=tuple(notes), skipped=tuple(errors))


def _fault(line: Line) -> str:
    values = line.values
    if not values["file"]:
        return "FileName is empty"
    if values["emotion"].upper() not in _CODES:
        return f"EmoClass is {values['emotion']!r}, not one of {', '.join(_CODES)}"
    if values["split"].lower() not in _SPLITS:
        return f"Split_Set is {values['split']!r}, not Train, Development, Test1, Test2 or Test3"
    for column in DIMENSIONS:
        if values[column].lower() not in ("", "nan") and number(values[column]) is None:
            return f"{_COLUMNS[column][0]} is {values[column]!r}, not a number"
    return ""


def _row(line: Line, name: str, clip: Path, text: str | None) -> Row:
    values = line.values
    known = values["speaker"] and values["speaker"].lower() != "unknown"
    return {
        "utterance": name,
        "audio": str(clip),
        "text": text,
        "text_source": "reference" if text else None,
        "language": "en",
        "label": _CODES[values["emotion"].upper()],
        **{f"values.{name}": number(values[name]) for name in DIMENSIONS},
        "speaker": values["speaker"] if known else None,
        "gender": GENDERS.get(values["gender"][:1].upper()),
        "session": _SPLITS[values["split"].lower()],
        "dialogue": name.rpartition("_")[0] or None,
    }
