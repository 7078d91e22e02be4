"""RAVDESS: 24 actors say two English sentences in eight emotions."""

from __future__ import annotations

import re
from pathlib import Path

from emofuse.corpora.card import GENDERS, CorpusCard, Listing, Row
from emofuse.corpora.sources import list_by_name

_LABELS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
_SENTENCES = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
_SPEAKERS = tuple(f"{actor:02d}" for actor in range(1, 25))
# Modality 03 is audio only and channel 01 is speech; songs and videos of the same actors are in the same folders.
_NAME = re.compile(r"03-01-(0[1-8])-0[12]-(0[12])-0[12]-(\d\d)")

CARD = CorpusCard(
    name="ravdess",
    title="RAVDESS speech",
    languages=("en",),
    modalities=("speech", "text"),
    labels=_LABELS,
    licence="CC BY-NC-SA 4.0",
    where="it is at https://zenodo.org/records/1188976 as Audio_Speech_Actors_01-24.zip",
    citation="Livingstone and Russo, The Ryerson Audio-Visual Database of Emotional Speech and Song, PLOS ONE, 2018",
    utterances=1440,
    speakers=24,
    note="every sentence is said in every emotion, so the text carries no label information",
    counts={
        "speaker": dict.fromkeys(_SPEAKERS, 60),
        "label": {label: 96 if label == "neutral" else 192 for label in _LABELS},
    },
    # Of EmoBox (Ma et al., Interspeech 2024).
    folds=(
        ("01", "11", "20", "21"),
        ("04", "10", "12", "14"),
        ("08", "09", "19", "23"),
        ("03", "05", "07", "24"),
        ("02", "15", "16", "18"),
        ("06", "13", "17", "22"),
    ),
)


def read(root: Path) -> Listing:
    """List the clips below a folder, however its actors' folders are nested.

    Raises:
        ManifestError: There is no such folder, or no clip in it.
    """

    def row(match: re.Match[str]) -> Row:
        return {
            "text": _SENTENCES[match[2]],
            "text_source": "reference",
            "language": "en",
            "label": _LABELS[int(match[1]) - 1],
            "speaker": match[3],
            "gender": GENDERS["M" if int(match[3]) % 2 else "F"],
            "script": match[2],
        }

    return list_by_name(CARD, root, _NAME, row, example="Actor_01/03-01-01-01-01-01-01.wav")
