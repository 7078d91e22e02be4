"""Berlin EmoDB: ten actors say ten German sentences in seven emotions."""

from __future__ import annotations

import re
from pathlib import Path

from emofuse.corpora.card import GENDERS, CorpusCard, Listing, Row
from emofuse.corpora.sources import list_by_name

_LABELS = {
    "W": "angry",
    "L": "bored",
    "E": "disgust",
    "A": "fearful",
    "F": "happy",
    "T": "sad",
    "N": "neutral",
}
_SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
_WOMEN = ("08", "09", "13", "14", "16")
_NAME = re.compile(rf"(\d\d)({'|'.join(_SENTENCES)})([{''.join(_LABELS)}])[a-z]")

CARD = CorpusCard(
    name="emodb",
    title="Berlin EmoDB",
    languages=("de",),
    modalities=("speech", "text"),
    labels=tuple(_LABELS.values()),
    licence="CC0 1.0",
    where="it is at https://zenodo.org/records/7447302 with its clips in wav/",
    citation="Burkhardt et al., A Database of German Emotional Speech, Interspeech, 2005",
    utterances=535,
    speakers=10,
    note="every sentence is said in every emotion, so the text carries no label information",
    counts={
        "speaker": {
            "03": 49,
            "08": 58,
            "09": 43,
            "10": 38,
            "11": 55,
            "12": 35,
            "13": 61,
            "14": 69,
            "15": 56,
            "16": 71,
        },
        "label": {
            "angry": 127,
            "bored": 81,
            "disgust": 46,
            "fearful": 69,
            "happy": 71,
            "sad": 62,
            "neutral": 79,
        },
    },
    alignments="emofuse.align.readers:emodb_of",
)


def read(root: Path) -> Listing:
    """List the clips below `wav`, or below the folder itself where there is none.

    Raises:
        ManifestError: There is no such folder, or no clip in it.
    """

    def row(match: re.Match[str]) -> Row:
        return {
            "text": _SENTENCES[match[2]],
            "text_source": "reference",
            "language": "de",
            "label": _LABELS[match[3]],
            "speaker": match[1],
            "gender": GENDERS["F" if match[1] in _WOMEN else "M"],
            "script": match[2],
        }

    return list_by_name(CARD, root, _NAME, row, example="wav/03a01Fa.wav", inside="wav")
