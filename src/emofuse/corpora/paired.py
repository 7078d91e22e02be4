"""Paired: real emotional speech and text of the same label, paired at random. It is artificial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from emofuse.corpora import emodb, goemotions, nemo, ravdess
from emofuse.corpora.card import CorpusCard, Listing, Row
from emofuse.errors import ManifestError
from emofuse.seeds import derive_seed

_LABELS = ("angry", "happy", "neutral", "sad")
_SPEECH_LABELS = {**{label: label for label in _LABELS}, "calm": "neutral"}
_TEXT_LABELS: Mapping[str, str] = {
    "anger": "angry",
    "annoyance": "angry",
    "joy": "happy",
    "amusement": "happy",
    "excitement": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "grief": "sad",
    "disappointment": "sad",
}
_VOICES = {module.CARD.name: module for module in (ravdess, nemo, emodb)}

CARD = CorpusCard(
    name="paired",
    title="Paired (artificial)",
    languages=("en", "pl", "de"),
    modalities=("speech", "text"),
    labels=_LABELS,
    licence="that of the voices' corpus and of GoEmotions (CC BY 4.0)",
    where="name a folder that holds goemotions and one of ravdess, nemo and emodb",
    citation=f"{ravdess.CARD.citation}; {goemotions.CARD.citation}",
    note="artificial: nobody said this text in this voice, since each clip is paired with a comment of the same label; "
    "it shows whether fusion works when both modalities are informative, and nothing about real conversations",
    options={"voices": tuple(_VOICES)},
    sources=(*_VOICES, goemotions.CARD.name),
)


def read(root: Path, *, voices: str = "ravdess") -> Listing:
    """Pair every clip of a corpus of acted speech with a comment of GoEmotions of the same label.

    No comment is used twice, so that folds that share no speaker share no text either; surplus clips are left out.
    Comments come from the development and test splits, since text encoders learn from the training split. Column
    `spoken` holds the clip's own transcript, for alignment.

    Args:
        root: Folder that holds `goemotions` and the voices' corpus under their names.
        voices: `ravdess`, `nemo` or `emodb`.

    Raises:
        ManifestError: A corpus is absent, or has no comment of a label.
    """
    folder = CARD.folder(root)
    for needed in (voices, goemotions.CARD.name):
        if not (folder / needed).is_dir():
            raise CARD.absent(folder, f"folder {needed}")
    voiced, read_words = _VOICES[voices].read(folder / voices), goemotions.read(folder / "goemotions")
    comments: dict[str, list[Row]] = {label: [] for label in _LABELS}
    seen: set[str] = set()
    for row in read_words.rows:
        label = _TEXT_LABELS.get(str(row["label"]))
        if label and row["session"] != "train" and row["text"] not in seen:
            seen.add(str(row["text"]))
            comments[label].append(row)
    rng = np.random.default_rng(derive_seed(0, "paired", voices))
    for found in comments.values():
        rng.shuffle(found)
    rows: list[Row] = []
    made_of = (voices, goemotions.CARD.name)
    if absent := [label for label, found in comments.items() if not found]:
        raise ManifestError(
            f"there is no {absent[0]} comment in dev.tsv and test.tsv", where=folder, remedy="complete goemotions"
        )
    fitting = [row for row in voiced.rows if row["label"] in _SPEECH_LABELS]
    # Drawn at random, so that not always the last speaker lacks comments.
    for index in rng.permutation(len(fitting)):
        row = fitting[index]
        label = _SPEECH_LABELS[str(row["label"])]
        if not comments[label]:
            continue
        comment = comments[label].pop()
        rows.append(
            {**row, "text": comment["text"], "label": label, "spoken": row["text"],
             "utterance": f"{row['utterance']}+{comment['utterance']}", "sources": "+".join(made_of)}
        )  # fmt: skip
    if not rows:
        raise CARD.absent(folder, f"clip of {voices} with one of four labels")
    title = _VOICES[voices].CARD.title
    card = replace(CARD, licence=f"{_VOICES[voices].CARD.licence} and CC BY 4.0", sources=made_of)
    notes = [f"artificial: voices of {title}, each with a comment of GoEmotions of the same label"]
    if len(rows) < len(fitting):
        notes.append(
            f"{len(fitting) - len(rows)} clips were left out, as GoEmotions has no more comments of their label"
        )
    rows.sort(key=lambda row: str(row["utterance"]))
    return Listing(rows=rows, source=folder, notes=(*voiced.notes, *notes), card=card)
