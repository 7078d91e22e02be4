"""MSP-IMPROV: twelve actors improvise towards twenty target sentences in four emotions; a crowd rates each turn."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from emofuse.corpora.card import DIMENSIONS, GENDERS, CorpusCard, Listing, Row
from emofuse.corpora.sources import (
    files_below,
    first_of_each,
    no_audio,
    number,
    read_lines,
    read_words,
    recordings,
    row_error,
)
from emofuse.errors import EmofuseError, ManifestError

_CODES = {"A": "angry", "H": "happy", "N": "neutral", "S": "sad", "O": "other", "X": None}
_VOTES = {"angry": "angry", "happy": "happy", "neutral": "neutral", "sad": "sad", "other": "other"}
_FOUR = {"angry": 792, "happy": 2644, "neutral": 3477, "sad": 885}
_TABLES = ("Evalution.txt", "Evaluation.txt")

# Target sentence and emotion, speaker, kind of recording (P between takes, R read, S improvised, T improvised
# target), the pair in its order, and the turn.
_NAME = re.compile(
    r"(?:UTD|MSP)-IMPROV-(?P<scene>S\d\d[AHNS])-(?P<actor>[FM]\d\d)-(?P<kind>[PRST])-(?P<pair>[FM]{2})(?P<turn>\d+)"
)
_TURN = re.compile(
    r"(?P<name>(?:UTD|MSP)-IMPROV-\S+?)\.(?:avi|wav)\s*;\s*(?P<code>\w+)\s*;(?P<ratings>.*)", re.IGNORECASE
)
_VOTE = re.compile(r"(?P<judge>[^;]+);\s*(?P<vote>\w+)\s*;.*?;\s*A:.*")

CARD = CorpusCard(
    name="msp-improv",
    title="MSP-IMPROV",
    languages=("en",),
    modalities=("speech", "text"),
    labels=tuple(_FOUR),
    values=DIMENSIONS,
    licence="research only, by agreement with UT Dallas",
    where="request it at https://lab-msp.com/MSP/MSP-Improv.html and name the folder with Evalution.txt",
    citation="Busso et al., MSP-IMPROV: An Acted Corpus of Dyadic Interactions to Study Emotion Perception, IEEE TAC, "
    "2017",
    utterances=sum(_FOUR.values()),
    speakers=12,
    note="leave one of the six sessions out; of the 8,438 turns, 7,798 have one of the four labels; transcripts are "
    "taken from text files that are named as the turns, where there are some",
    counts={"label": _FOUR},
    options={"labels": ("four", "all")},
    by_session=True,
)


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """One turn of the table; `votes` by annotator, since the file has some lines twice."""

    name: re.Match[str]
    code: str
    ratings: dict[str, float | None]
    votes: dict[str, str] = field(default_factory=dict)


def read(root: Path, *, labels: str = "four") -> Listing:
    """List the turns of `Evalution.txt` (the published spelling, or `Evaluation.txt`) that have a recording.

    Each turn is a line such as `UTD-IMPROV-S01A-F01-R-FM01.avi; A; A:3.4; V:2.0; D:3.6 ; N:4.0;` with the consensus
    and the means of activation, valence, dominance and naturalness (NaN where they are absent), followed by one line
    per annotator. Recordings (`MSP-IMPROV-S01A-F01-R-FM01.wav` or `UTD-...`) and transcripts (the same names with
    `.txt`) may be anywhere below the folder. Column `script` holds the target sentence of kinds R and T, whose wording
    was given.

    Args:
        root: The folder with the table, or one that holds it.
        labels: `four` (7,798 turns) or `all` (8,438, of which some are `other` and some have votes and no label).

    Raises:
        ManifestError: There is no such folder, or no table in it.
    """
    folder = CARD.folder(root, "MSP-IMPROV")
    tables = [path for name in _TABLES for path in files_below(folder, name)]
    if not tables:
        raise CARD.absent(folder, _TABLES[0])
    rows: list[Row] = []
    errors: list[EmofuseError] = []
    turns = _turns(tables[0], errors)
    by_name: dict[str, list[Path]] = {}
    for stem, paths in recordings(folder).items():
        by_name.setdefault(stem.partition("-")[2], []).extend(paths)
    notes: list[str] = []
    clips = first_of_each(by_name, notes)
    texts = {path.stem.partition("-")[2]: path for path in files_below(folder, "*-IMPROV-*.txt")}
    omitted: dict[str, list[str]] = {}
    for turn in turns:
        label = _CODES[turn.code]
        name = turn.name[0].partition("-")[2]
        wanted = labels == "all" or label in _FOUR
        text = read_words(texts.get(name), errors if wanted else [])
        if not wanted or name not in clips:
            omitted.setdefault(_dialogue(turn), []).append(text or "")
            if wanted:
                errors.append(no_audio(folder / f"MSP-{name}.wav"))
            continue
        before = omitted.pop(_dialogue(turn), None)
        rows.append(_row(turn, f"MSP-{name}", audio=clips[name], text=text, label=label, before=before))
    card = CARD if labels == "four" else replace(CARD, labels=(*_FOUR, "other"), utterances=8438, counts={})
    return Listing(rows=rows, source=folder, notes=tuple(notes), skipped=tuple(errors), card=card)


def _session(turn: _Turn) -> str:
    return turn.name["actor"][1:].lstrip("0")


def _dialogue(turn: _Turn) -> str:
    return "-".join((_session(turn), *turn.name.group("scene", "pair", "kind")))


def _row(
    turn: _Turn, name: str, *, audio: Path, text: str | None, label: str | None, before: Sequence[str] | None
) -> Row:
    scene, kind = turn.name["scene"], turn.name["kind"]
    return {
        "utterance": name,
        "audio": str(audio),
        "text": text,
        "text_source": "reference" if text else None,
        "language": "en",
        "label": label,
        "votes": json.dumps(Counter(turn.votes.values())) if turn.votes else None,
        "values.valence": turn.ratings["V"],
        "values.arousal": turn.ratings["A"],
        "values.dominance": turn.ratings["D"],
        "speaker": turn.name["actor"],
        "gender": GENDERS[turn.name["actor"][0]],
        "session": _session(turn),
        "dialogue": _dialogue(turn),
        "omitted": json.dumps(before, ensure_ascii=False) if before else None,
        "script": scene[:3] if kind in "RT" else None,
    }


def _turns(path: Path, errors: list[EmofuseError]) -> list[_Turn]:
    try:
        lines = read_lines(path)
    except ManifestError as error:
        errors.append(error)
        return []
    found: dict[str, _Turn] = {}
    turn: _Turn | None = None
    for count, line in enumerate(lines, start=1):
        if "-IMPROV-" in line:
            turn = _turn(path, count, line, errors)
            if turn is not None and found.setdefault(turn.name[0], turn) is not turn:
                errors.append(row_error(path, count, f"{turn.name[0]} occurs twice"))
                turn = None
        elif turn is not None and (vote := _VOTE.fullmatch(line.strip())) and vote["vote"].lower() in _VOTES:
            turn.votes.setdefault(vote["judge"].strip(), _VOTES[vote["vote"].lower()])
    if not found:
        errors.append(ManifestError("there is no turn in it", where=path, remedy="unpack it again"))
    return sorted(found.values(), key=lambda turn: (*turn.name.group("scene", "pair", "kind"), int(turn.name["turn"])))


def _turn(path: Path, count: int, line: str, errors: list[EmofuseError]) -> _Turn | None:
    match = _TURN.fullmatch(line.strip())
    name = _NAME.fullmatch(match["name"]) if match else None
    if match is None or name is None:
        errors.append(row_error(path, count, "the line is not NAME.avi; EMOTION; A:..; V:..; D:..; N:..;"))
        return None
    ratings = dict(part.strip().split(":", 1) for part in match["ratings"].split(";") if ":" in part)
    what = ""
    if match["code"].upper() not in _CODES:
        what = f"the emotion is {match['code']!r}, not one of {', '.join(_CODES)}"
    for kind in "AVD":
        if number(ratings.get(kind, "")) is None and ratings.get(kind, "").strip().lower() != "nan":
            what = what or f"{kind} is {ratings.get(kind, 'absent')!r}, not a number"
    if what:
        errors.append(row_error(path, count, what))
        return None
    values = {kind: number(ratings[kind]) for kind in "AVD"}
    return _Turn(name=name, code=match["code"].upper(), ratings=values)
