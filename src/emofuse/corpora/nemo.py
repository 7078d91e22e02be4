"""nEMO: nine actors say ninety Polish sentences in six emotions."""

from __future__ import annotations

import hashlib
from pathlib import Path

from emofuse.corpora.card import CorpusCard, Listing
from emofuse.corpora.sources import first_of_each, recordings
from emofuse.errors import ManifestError

_LABELS = {
    "anger": "angry",
    "fear": "fearful",
    "happiness": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "surprised": "surprised",
}
_COLUMNS = ("file_id", "emotion", "raw_text", "normalized_text", "speaker_id")

CARD = CorpusCard(
    name="nemo",
    title="nEMO",
    languages=("pl",),
    streams=("speech", "text"),
    labels=tuple(_LABELS.values()),
    licence="CC BY-NC-SA 4.0",
    where="it is at https://huggingface.co/datasets/amu-cai/nEMO with data.tsv beside samples/",
    citation="Christop, nEMO: Dataset of Emotional Speech in Polish, LREC-COLING, 2024",
    utterances=4481,
    speakers=9,
    note="every sentence is said in every emotion, so the words say nothing about the label",
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
    try:
        lines = table.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError("the table cannot be read", where=table, remedy="download it again") from error
    header = lines[0].rstrip("\r").split("\t")
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise ManifestError(f"column {missing[0]!r} is missing", where=table, remedy="download it again")
    notes: list[str] = []
    clips = first_of_each(recordings(folder), notes)
    rows = []
    for number, line in enumerate(lines[1:], start=1):
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != len(header):
            raise ManifestError(
                f"row {number} has {len(cells)} of {len(header)} cells", where=table, remedy="download it again"
            )
        values = dict(zip(header, cells, strict=True))
        if values["emotion"] not in _LABELS:
            raise ManifestError(
                f"row {number}, column 'emotion' is {values['emotion']!r}",
                where=table,
                remedy=f"it must be one of {', '.join(_LABELS)}",
            )
        stem = Path(values["file_id"]).stem
        path = clips.get(stem)
        if path is None:
            continue
        rows.append(
            {
                "utterance": stem,
                "audio": str(path),
                "text": values["raw_text"],
                "text_source": "reference",
                "language": "pl",
                "label": _LABELS[values["emotion"]],
                "speaker": values["speaker_id"],
                "script": hashlib.sha256(values["normalized_text"].encode()).hexdigest()[:8],
            }
        )
    if not rows:
        raise CARD.absent(folder, "clip such as samples/EB0_anger_1.wav")
    return Listing(rows=sorted(rows, key=lambda row: row["utterance"]), source=table, notes=tuple(notes))
