"""EMOVO: six actors say fourteen Italian sentences in seven emotions."""

from __future__ import annotations

import re
from pathlib import Path

from emofuse.corpora.card import GENDERS, CorpusCard, Listing, Row
from emofuse.corpora.sources import list_by_name

_LABELS = {
    "dis": "disgust",
    "gio": "happy",
    "pau": "fearful",
    "rab": "angry",
    "sor": "surprised",
    "tri": "sad",
    "neu": "neutral",
}
_NAME = re.compile(rf"({'|'.join(_LABELS)})-(([fm])[123])-([bdln]\d)")

CARD = CorpusCard(
    name="emovo",
    title="EMOVO",
    languages=("it",),
    modalities=("speech",),
    labels=tuple(_LABELS.values()),
    licence="open for research",
    where="ask its authors for it; its clips are in a folder a speaker, such as f1/",
    citation="Costantini et al., EMOVO Corpus: an Italian Emotional Speech Database, LREC, 2014",
    utterances=588,
    speakers=6,
    note="every sentence is said in every emotion, some of them make no sense, and no clip comes with its transcript",
    counts={"label": dict.fromkeys(_LABELS.values(), 84)},
)


def read(root: Path) -> Listing:
    """List the clips below a folder.

    Raises:
        ManifestError: There is no such folder, or no clip in it.
    """

    def row(match: re.Match[str]) -> Row:
        return {
            "language": "it",
            "label": _LABELS[match[1]],
            "speaker": match[2],
            "gender": GENDERS[match[3].upper()],
            "script": match[4],
        }

    return list_by_name(CARD, root, _NAME, row, example="f1/dis-f1-b1.wav")
