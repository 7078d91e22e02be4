"""GoEmotions: Reddit comments with one or more of 28 labels; text only."""

from __future__ import annotations

import json
from pathlib import Path

from emofuse.corpora.card import CorpusCard, Listing, Row
from emofuse.errors import ManifestError

_SPLITS = {"train": 43410, "dev": 5426, "test": 5427}
_LABELS = [
    "admiration",
    "amusement",
    "anger",
    "annoyance",
    "approval",
    "caring",
    "confusion",
    "curiosity",
    "desire",
    "disappointment",
    "disapproval",
    "disgust",
    "embarrassment",
    "excitement",
    "fear",
    "gratitude",
    "grief",
    "joy",
    "love",
    "nervousness",
    "optimism",
    "pride",
    "realization",
    "relief",
    "remorse",
    "sadness",
    "surprise",
    "neutral",
]

CARD = CorpusCard(
    name="goemotions",
    title="GoEmotions",
    languages=("en",),
    modalities=("text",),
    labels=tuple(_LABELS),
    licence="CC BY 4.0",
    where="it is at https://github.com/google-research/google-research/tree/master/goemotions/data",
    citation="Demszky et al., GoEmotions: A Dataset of Fine-Grained Emotions, ACL, 2020",
    utterances=sum(_SPLITS.values()),
    note="comments may have several labels: column label holds the one label of a comment, column votes all of them",
    counts={"session": _SPLITS},
)


def read(root: Path) -> Listing:
    """List the comments of the three published splits; column `session` holds the split.

    Raises:
        ManifestError: A file is absent or damaged; the message names its row.
    """
    folder = CARD.folder(root)
    if not (folder / "train.tsv").is_file() and (folder / "data").is_dir():
        folder = folder / "data"
    labels = _labels(folder)
    rows: list[Row] = []
    names: set[str] = set()
    for split in _SPLITS:
        table = folder / f"{split}.tsv"
        if not table.is_file():
            continue
        for number, line in enumerate(_lines(table), start=1):
            cells = line.split("\t")
            if len(cells) != 3:
                raise _bad(table, f"row {number} has {len(cells)} of 3 cells")
            text, ids, name = cells
            if not all(part.isdecimal() and int(part) < len(labels) for part in ids.split(",")):
                raise _bad(table, f"row {number}, column 2 is {ids!r}, which are not label numbers")
            votes = {labels[int(part)]: 1 for part in ids.split(",")}
            if name in names:
                name = f"{name}-{split}-{number}"
            names.add(name)
            rows.append(
                {
                    "utterance": name,
                    "text": text,
                    "text_source": "reference",
                    "language": "en",
                    "label": next(iter(votes)) if len(votes) == 1 else None,
                    "votes": json.dumps(votes),
                    "session": split,
                }
            )
    if not rows:
        raise CARD.absent(folder, "comment in train.tsv, dev.tsv or test.tsv")
    return Listing(rows=rows, source=folder)


def _labels(folder: Path) -> list[str]:
    for name in ("labels.txt", "emotions.txt"):
        if (folder / name).is_file():
            labels = [line.strip() for line in _lines(folder / name)]
            if labels != _LABELS:
                raise _bad(folder / name, f"this is not the list of {len(_LABELS)} labels")
            return labels
    raise CARD.absent(folder, "labels.txt or emotions.txt")


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(path, "the file cannot be read as UTF-8") from error
    # Comments hold quotes and Unicode line separators, so neither a CSV reader nor splitlines works.
    return [line.removesuffix("\r") for line in text.split("\n") if line.strip()]


def _bad(path: Path, what: str) -> ManifestError:
    return ManifestError(what, where=path, remedy="download it again")
