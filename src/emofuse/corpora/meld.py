"""MELD: dialogues of the series Friends, with seven emotions."""

from __future__ import annotations

from pathlib import Path

from emofuse.corpora.card import CorpusCard, Listing, Row
from emofuse.corpora.sources import AGAIN, Line, files_below, first_of_each, no_audio, read_table, recordings, row_error
from emofuse.errors import EmofuseError, ManifestError

_LABELS = {
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fearful",
    "joy": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "surprise": "surprised",
}
_SPLITS = ("train", "dev", "test")
_COLUMNS = {
    "text": ("Utterance",),
    "speaker": ("Speaker",),
    "emotion": ("Emotion",),
    "dialogue": ("Dialogue_ID",),
    "utterance": ("Utterance_ID",),
}
# In the published archive one clip is broken and one is missing; both are neutral.
_WITHOUT_SOUND = frozenset({"train_dia125_utt3", "dev_dia110_utt7"})

CARD = CorpusCard(
    name="meld",
    title="MELD",
    languages=("en",),
    modalities=("speech", "text"),
    labels=tuple(_LABELS.values()),
    licence="GPL-3.0 for the annotations; the recordings are the series' owners'",
    where="it is at https://github.com/declare-lab/MELD as MELD.Raw.tar.gz, which holds three more archives",
    citation="Poria et al., MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in Conversations, ACL, 2019",
    utterances=13706,
    note="the published split (13,708 rows, of which two have no audio) shares its main speakers, and some clips have "
    "other voices, laughter or a wrong cut",
    counts={
        "session": {"train": 9988, "dev": 1108, "test": 2610},
        "label": {
            "angry": 1607,
            "disgust": 361,
            "fearful": 358,
            "happy": 2308,
            "neutral": 6434,
            "sad": 1002,
            "surprised": 1636,
        },
    },
)


def read(root: Path) -> Listing:
    """List the rows of `train_sent_emo.csv`, `dev_sent_emo.csv` and `test_sent_emo.csv` that have a clip.

    The tables may lie anywhere below the folder. Clips are called `dia0_utt0`, as mp4 or as recordings, below a
    folder whose name contains train, dev or test, such as `train_splits`, `dev_splits_complete` and
    `output_repeated_splits_test`. Column `session` holds the split.

    Raises:
        ManifestError: There is no such folder, or no table in it.
    """
    folder = CARD.folder(root)
    tables = {split: files_below(folder, f"{split}_sent_emo.csv") for split in _SPLITS}
    if not any(tables.values()):
        raise CARD.absent(folder, "train_sent_emo.csv")
    notes: list[str] = []
    clips = _clips(folder, notes)
    rows: list[Row] = []
    errors: list[EmofuseError] = []
    for split, paths in tables.items():
        if not paths:
            errors.append(ManifestError("no such file", where=folder / f"{split}_sent_emo.csv", remedy=AGAIN))
            continue
        try:
            lines, damaged = read_table(paths[0], _COLUMNS, needed=_COLUMNS)
        except ManifestError as error:
            errors.append(error)
            continue
        errors += damaged
        seen: set[str] = set()
        for line in lines:
            name = f"{split}_dia{line.values['dialogue']}_utt{line.values['utterance']}"
            what = _fault(line)
            if what or name in seen:
                errors.append(row_error(paths[0], line.number, what or f"{name} occurs twice"))
                continue
            seen.add(name)
            if name in _WITHOUT_SOUND:
                continue
            if name not in clips:
                errors.append(no_audio(folder / split / f"{name.partition('_')[2]}.mp4"))
                continue
            rows.append(_row(line, name, split, clips[name]))
    return Listing(rows=rows, source=folder, notes=tuple(notes), skipped=tuple(errors))


def _fault(line: Line) -> str:
    if line.values["emotion"].lower() not in _LABELS:
        return f"the emotion is {line.values['emotion']!r}, not one of {', '.join(_LABELS)}"
    for column in ("dialogue", "utterance"):
        if not line.values[column].isdecimal():
            return f"{_COLUMNS[column][0]} is {line.values[column]!r}, not a number"
    return ""


def _row(line: Line, name: str, split: str, clip: Path) -> Row:
    return {
        "utterance": name,
        "audio": str(clip),
        "text": line.values["text"] or None,
        "text_source": "reference",
        "language": "en",
        "label": _LABELS[line.values["emotion"].lower()],
        "speaker": line.values["speaker"] or None,
        "session": split,
        "dialogue": f"{split}_dia{line.values['dialogue']}",
    }


def _clips(folder: Path, notes: list[str]) -> dict[str, Path]:
    """Clips by split and name; the nearest folder with the name of a split decides."""
    found: dict[str, list[Path]] = {}
    for stem, paths in recordings(folder).items():
        for path in paths:
            for place in path.relative_to(folder).parts[-2::-1]:
                named = [split for split in _SPLITS if split in place.lower()]
                if len(named) == 1:
                    found.setdefault(f"{named[0]}_{stem}", []).append(path)
                    break
    return first_of_each(found, notes)
