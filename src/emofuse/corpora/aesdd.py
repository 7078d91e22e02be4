"""AESDD: six actors say twenty Greek sentences in five emotions, none of them neutral."""

from __future__ import annotations

import re
from pathlib import Path

from emofuse.corpora.card import CorpusCard, Listing, Row
from emofuse.corpora.sources import list_by_name

_LABELS = {"a": "angry", "d": "disgust", "f": "fearful", "h": "happy", "s": "sad"}
# A second take of a sentence has a letter behind the speaker's number: `d01 (5)b`.
_NAME = re.compile(rf"([{''.join(_LABELS)}])(\d\d) \(0?([1-6])\)[a-z]?")

CARD = CorpusCard(
    name="aesdd",
    title="AESDD",
    languages=("el",),
    modalities=("speech",),
    labels=tuple(_LABELS.values()),
    licence="CC BY 4.0, as its card on a model hub says; its own readme states none",
    where="it is at https://m3c.web.auth.gr/research/aesdd-speech-emotion-recognition with a folder an emotion",
    citation="Vryzas et al., Speech Emotion Recognition for Performance Interaction, JAES, 2018",
    utterances=604,
    speakers=6,
    note="every sentence is said in every emotion; no clip is neutral, and none comes with its transcript",
    counts={"label": {"angry": 121, "disgust": 122, "fearful": 120, "happy": 119, "sad": 122}},
)


def read(root: Path) -> Listing:
    """List the clips below a folder.

    Raises:
        ManifestError: There is no such folder, or no clip in it.
    """

    def row(match: re.Match[str]) -> Row:
        return {
            "language": "el",
            "label": _LABELS[match[1]],
            "speaker": match[3],
            "script": match[2],
        }

    return list_by_name(CARD, root, _NAME, row, example="anger/a01 (1).wav")
