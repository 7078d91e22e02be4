"""The spoken part of the CommitmentBank: to what degree speakers of Switchboard believe a clause."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from emofuse.corpora.card import CorpusCard, Listing, Row
from emofuse.corpora.sources import first_of_each, no_audio, read_lines, recordings, row_error
from emofuse.errors import EmofuseError
from emofuse.types import Segment

TABLE = "annotations.jsonl"

# The rounded mean, with the two middle steps of each side merged, as in the strata of Murzaku et al.
_CLASSES = {-3: "disbelieved", -2: "doubted", -1: "doubted", 0: "open", 1: "suspected", 2: "suspected", 3: "believed"}
_NEEDED = ("speaker", "words", "word_times", "cb_val", "number", "clip_start", "clip_end", "audio_file")

CARD = CorpusCard(
    name="cbp",
    title="CommitmentBank with prosody",
    languages=("en",),
    modalities=("speech", "text"),
    labels=tuple(dict.fromkeys(_CLASSES.values())),
    values=("belief",),
    licence="recordings by agreement with the LDC (Switchboard)",
    where=f"name the folder with {TABLE} of https://github.com/cogstates/multimodal-belief and the clips that it lists",
    citation="Murzaku, Soubki and Rambow, Multimodal Belief Prediction, Interspeech, 2024",
    utterances=337,
    note="values.belief is the annotators' mean from -3 (certainly false) to 3 (certainly true); labels are its steps",
    counts={"label": dict(zip(dict.fromkeys(_CLASSES.values()), (19, 177, 60, 71, 10), strict=True))},
    alignments="emofuse.align.readers:cbp_of",
)


def read(root: Path) -> Listing:
    """List the rows of `annotations.jsonl` that name a dialogue and have a clip anywhere below the folder.

    A row has `number` (the dialogue), `speaker`, `words` (a list, or text), `word_times` (begin and end of each
    word in seconds of the dialogue), `cb_val` (the belief), `clip_start` and `clip_end` (seconds of the dialogue), and
    `audio_file` (the clip). The one published row without `number` is left out.

    Raises:
        ManifestError: There is no such folder, or no table in it.
    """
    folder = CARD.folder(root)
    table = table_in(folder)
    if table is None:
        raise CARD.absent(folder, TABLE)
    errors: list[EmofuseError] = []
    notes: list[str] = []
    clips = first_of_each(recordings(folder), notes)
    rows: list[Row] = []
    seen: set[str] = set()
    for line, values in _lines(table, errors):
        stem = Path(str(values["audio_file"])).stem
        if stem not in clips:
            errors.append(no_audio(folder / str(values["audio_file"])))
            continue
        # Two clauses of one clip are two utterances.
        name = stem if stem not in seen else f"{stem}-{line}"
        seen.add(name)
        rows.append(
            {
                "utterance": name,
                "audio": str(clips[stem]),
                "text": " ".join(_words(values)) or None,
                "text_source": "reference",
                "language": "en",
                "label": _CLASSES[round(float(values["cb_val"]))],
                "values.belief": float(values["cb_val"]),
                "speaker": f"{values['number']}-{values['speaker']}",
                "dialogue": str(values["number"]),
            }
        )
    return Listing(rows=rows, source=table, notes=tuple(notes), skipped=tuple(errors))


def table_in(folder: Path) -> Path | None:
    """The table of annotations in a folder, in any case; None if there is none."""
    return next((path for path in sorted(folder.iterdir()) if path.name.lower() == TABLE), None)


@lru_cache(maxsize=4)
def word_segments(table: Path) -> Mapping[str, tuple[Segment, ...]]:
    """The words of each clip, in seconds from its beginning, by the clip's stem.

    Args:
        table: `annotations.jsonl`.

    Raises:
        ManifestError: It is absent or no text.
    """
    found = {}
    for _, values in _lines(table, []):
        start, end = float(values["clip_start"]), float(values["clip_end"])
        found[Path(str(values["audio_file"])).stem] = tuple(
            Segment(start=begin - start, end=stop - start, label=word)
            for word, (begin, stop) in zip(_words(values), values["word_times"], strict=True)
            if start <= begin < stop <= end
        )
    return found


def _lines(table: Path, errors: list[EmofuseError]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Usable rows with their numbers, and an error for each other one; rows without a dialogue are ignored."""
    for count, line in enumerate(read_lines(table), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            absent = [name for name in _NEEDED if name not in values]
            if not absent and values["number"] in ("", None):
                continue
            what = f"there is no {absent[0]!r}" if absent else _fault(values)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            what = "the line is not an object of the fields that are published"
        if what:
            errors.append(row_error(table, count, what))
        else:
            yield count, values


def _fault(values: Mapping[str, Any]) -> str:
    belief, words, times = float(values["cb_val"]), _words(values), values["word_times"]
    if not (math.isfinite(belief) and -3 <= belief <= 3):
        return f"cb_val is {values['cb_val']!r}, not a number from -3 to 3"
    if len(words) != len(times) or any(len(pair) != 2 for pair in times):
        return f"there are {len(words)} words and {len(times)} times"
    if not all(math.isfinite(float(one)) for one in (values["clip_start"], values["clip_end"], *chain(*times))):
        return "a time is no number"
    return ""


def _words(values: Mapping[str, Any]) -> list[str]:
    words = values["words"]
    return words.split() if isinstance(words, str) else [str(word) for word in words]
