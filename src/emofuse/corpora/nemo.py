"""nEMO: nine actors say ninety Polish sentences in six emotions."""

from __future__ import annotations

import hashlib
from pathlib import Path

from emofuse.corpora.card import GENDERS, CorpusCard, Listing, Row
from emofuse.corpora.sources import first_of_each, no_audio, read_table, recordings, row_error

_LABELS = {
    "anger": "angry",
    "fear": "fearful",
    "happiness": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "surprised": "surprised",
}
_COLUMNS = {
    "file": ("file_id",),
    "emotion": ("emotion",),
    "text": ("raw_text",),
    "plain": ("normalized_text",),
    "speaker": ("speaker_id",),
    "gender": ("gender",),
}

CARD = CorpusCard(
    name="nemo",
    title="nEMO",
    languages=("pl",),
    modalities=("speech", "text"),
    labels=tuple(_LABELS.values()),
    licence="CC BY-NC-SA 4.0",
    where="it is at https://huggingface.co/datasets/amu-cai/nEMO with data.tsv beside samples/",
    citation="Christop, nEMO: Dataset of Emotional Speech in Polish, LREC-COLING, 2024",
    utterances=4481,
    speakers=9,
    note="every sentence is said in every emotion, so the text carries no label information",
    counts={
        "speaker": {
            "EB0": 539,
            "IC0": 540,
            "KD0": 540,
            "KS0": 540,
            "MK0": 450,
            "MP0": 256,
            "SM0": 538,
            "TP0": 539,
            "WR0": 539,
        },
        "label": {
            "angry": 749,
            "fearful": 736,
            "happy": 749,
            "neutral": 809,
            "sad": 769,
            "surprised": 669,
        },
    },
)


def read(root: Path) -> Listing:
    """List the rows of `data.tsv` whose clip lies in `samples`.

    Raises:
        ManifestError: The table is absent or damaged, or there is no clip.
    """
    folder = CARD.folder(root)
    table = folder / "data.tsv"
    if not table.is_file():
        raise CARD.absent(folder, "data.tsv")
    lines, errors = read_table(table, _COLUMNS, needed=[name for name in _COLUMNS if name != "gender"])
    notes: list[str] = []
    clips = first_of_each(recordings(folder), notes)
    if not clips:
        raise CARD.absent(folder, "clip such as samples/EB0_anger_1.wav")
    rows: list[Row] = []
    for line in lines:
        values = line.values
        emotion, stem = values["emotion"].lower(), Path(values["file"]).stem
        if emotion not in _LABELS:
            what = f"the emotion is {values['emotion']!r}, not one of {', '.join(_LABELS)}"
            errors.append(row_error(table, line.number, what))
        elif stem not in clips:
            errors.append(no_audio(folder / "samples" / values["file"]))
        else:
            rows.append(
                {
                    "utterance": stem,
                    "audio": str(clips[stem]),
                    "text": values["text"],
                    "text_source": "reference",
                    "language": "pl",
                    "label": _LABELS[emotion],
                    "speaker": values["speaker"],
                    "gender": GENDERS.get(values["gender"][:1].upper()),
                    "script": hashlib.sha256(values["plain"].encode()).hexdigest()[:8],
                }
            )
    rows.sort(key=lambda row: row["utterance"])
    return Listing(rows=rows, source=table, notes=tuple(notes), skipped=tuple(errors))
