"""IEMOCAP: ten actors in five sessions act and improvise, in English; several annotators rate each utterance."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from emofuse.corpora.card import DIMENSIONS, GENDERS, NONE, CorpusCard, Listing, Row, listed
from emofuse.corpora.sources import AGAIN, first_of_each, no_audio, number, read_lines, read_text, recordings, row_error
from emofuse.errors import EmofuseError, ManifestError

# Codes of the annotators' consensus; `xxx` is none.
_CODES: Mapping[str, str | None] = {
    "ang": "angry",
    "hap": "happy",
    "exc": "excited",
    "neu": "neutral",
    "sad": "sad",
    "fru": "frustrated",
    "fea": "fearful",
    "sur": "surprised",
    "dis": "disgust",
    "oth": "other",
    "xxx": None,
}
# Names in an annotator's line.
_VOTES = {
    "anger": "angry",
    "happiness": "happy",
    "excited": "excited",
    "neutral": "neutral",
    "neutral state": "neutral",
    "sadness": "sad",
    "frustration": "frustrated",
    "fear": "fearful",
    "surprise": "surprised",
    "disgust": "disgust",
    "other": "other",
}
_SETS: Mapping[str, tuple[str | None, ...]] = {
    "four": ("angry", "happy", "neutral", "sad"),
    "six": ("angry", "happy", "excited", "neutral", "sad", "frustrated"),
    "all": tuple(_CODES.values()),
}
_PARTS = {"all": "", "improvised": "impro", "scripted": "script"}
_MERGED = {"excited": "happy"}  # With four classes.

_SESSIONS = ("1", "2", "3", "4", "5")
_EACH_SESSION = {
    "angry": (229, 137, 240, 327, 170),
    "happy": (135, 117, 135, 65, 143),
    "excited": (143, 210, 151, 238, 299),
    "neutral": (384, 362, 320, 258, 384),
    "sad": (194, 197, 305, 143, 245),
    "frustrated": (280, 325, 382, 481, 381),
}
_IMPROVISED = {"angry": 289, "happy": 947, "neutral": 1099, "sad": 608}

_DIALOGUE = re.compile(r"Ses0[1-5][FM]_(?P<script>script\d+|impro\d+)\w*")
_TURN = re.compile(r"\[\s*(\S+)\s*-\s*(\S+)\s*\]\s+(\S+)\s+(\S+)\s+\[(.*)\]\s*")
_NAME = re.compile(rf"(?P<dialogue>{_DIALOGUE.pattern})_(?P<gender>[FM])\w+")
_VOTE = re.compile(r"C-(\w+):\s*([^(]*)")
_RATING = re.compile(r"A-(\w+):\s*val\s*(.*?);\s*act\s*(.*?);\s*dom\s*(.*?);")
_WORDS = re.compile(r"(Ses\w+)\s*\[.*?\]\s*:\s*(.*)")
_EXAMPLE = 40  # Characters of a line in a note.
_ALIGNMENTS = (".wdseg", ".syseg", ".phseg")
_TIMEINFO = Path("Documentation", "timeinfo.txt")
_OFFSET = re.compile(r"\+\s*(\d{1,2}(?:\.\d+)?)\s*\)\s*(?:/\s*100\b|\*\s*0?\.01\b)")


def _counts(labels: Sequence[str], merged: Mapping[str, str]) -> dict[str, dict[str, int]]:
    found: Counter[str] = Counter()
    for label, each in _EACH_SESSION.items():
        if merged.get(label, label) in labels:
            for session, count in zip(_SESSIONS, each, strict=True):
                found[f"{session}+{merged.get(label, label)}"] += count
    return {"session+label": dict(found)}


CARD = CorpusCard(
    name="iemocap",
    title="IEMOCAP",
    languages=("en",),
    modalities=("speech", "text"),
    labels=("angry", "happy", "neutral", "sad"),
    values=DIMENSIONS,
    licence="research only, by agreement with USC",
    where="request it at https://sail.usc.edu/iemocap and name the folder IEMOCAP_full_release",
    citation="Busso et al., IEMOCAP: Interactive emotional dyadic motion capture database, LREC, 2008",
    utterances=5531,
    speakers=10,
    note="all sessions act the same three plays, so that a tested sentence may be known from training: compare folds "
    "that share no script, or improvisations alone; excited counts as happy where there are four labels",
    counts=_counts(("angry", "happy", "neutral", "sad"), _MERGED),
    options={"labels": tuple(_SETS), "part": tuple(_PARTS), "votes": ("others", "all")},
    by_session=True,
    alignments="emofuse.align.readers:iemocap_of",
)


def read(root: Path, *, labels: str = "four", part: str = "all", votes: str = "others") -> Listing:
    """List the utterances of the folder that USC ships, with the annotators' votes and ratings.

    Text is read as UTF-8 or, where it is not that, as Windows-1252; recordings may end in `.WAV`. Transcripts keep
    their tags, such as `[LAUGHTER]`. Column `script` holds the play (`script01`) or the situation (`impro03`), which
    recur in all sessions, and `dialogue` the recording. The rows of a dialogue are in order of time, and column
    `omitted` has the transcripts of those that were left out between them.

    Args:
        root: `IEMOCAP_full_release`, or the folder that holds it.
        labels: `four` (5,531 utterances, excited counted as happy), `six` (7,380, with excited and frustrated) or
            `all` (10,039; the 2,507 on which annotators did not agree have votes and no label).
        part: `all`, `improvised` or `scripted`.
        votes: Whose votes and ratings count: those of the `others`, who define the published label, or of `all`,
            the actors included.

    Raises:
        ManifestError: There is no such folder, or no session in it.
    """
    folder = CARD.folder(root, "IEMOCAP_full_release")
    if not any((folder / f"Session{session}").is_dir() for session in _SESSIONS):
        raise CARD.absent(folder, "folder Session1")
    reading = _Reading(folder=folder, labels=labels, votes=votes)
    for session in _SESSIONS:
        for dialogue in reading.dialogues(session):
            if dialogue["script"].startswith(_PARTS[part]):
                reading.add(session, dialogue)
    return Listing(
        rows=reading.rows,
        source=folder,
        notes=tuple(reading.notes()),
        skipped=tuple(reading.errors),
        card=_expected(labels, part),
    )


def frame_offset(folder: Path) -> float | None:
    r"""Frames to add to those of IEMOCAP's alignments, as the corpus's `Documentation/timeinfo.txt` has it.

    Returns:
        The number in a formula such as `(SFrm + 2) / 100`; None where the file is absent or holds none.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "Documentation").mkdir()
        >>> _ = (folder / "Documentation" / "timeinfo.txt").write_text("Start time in seconds = (SFrm + 2)/100\n")
        >>> frame_offset(folder), frame_offset(folder / "other")
        (2.0, None)
    """
    try:
        found = {float(match[1]) for match in _OFFSET.finditer(read_text(folder / _TIMEINFO))}
    except ManifestError:
        return None
    return found.pop() if len(found) == 1 else None


def _expected(labels: str, part: str) -> CorpusCard:
    """Published counts of a choice, by session and label where they are known."""
    names = tuple(name for name in _SETS[labels] if name)
    counts: Mapping[str, Mapping[str, int]] = {}
    utterances: int | None = None
    if part == "all" and labels == "all":
        each = {name: sum(counts) for name, counts in _EACH_SESSION.items()}
        others = {"fearful": 40, "surprised": 107, "disgust": 2, "other": 3, NONE: 2507}
        sessions = zip(_SESSIONS, (1819, 1811, 2136, 2103, 2170), strict=True)
        counts, utterances = {"session": dict(sessions), "label": {**each, **others}}, 10039
    elif part == "all":
        counts = _counts(names, _MERGED if labels == "four" else {})
        utterances = sum(counts["session+label"].values())
    elif labels == "four":
        both = Counter({name: sum(each) for name, each in _EACH_SESSION.items() if name in names})
        both["happy"] += sum(_EACH_SESSION["excited"])
        chosen = _IMPROVISED if part == "improvised" else {name: both[name] - _IMPROVISED[name] for name in names}
        counts, utterances = {"label": chosen}, sum(chosen.values())
    elif labels == "all":
        utterances = 4784 if part == "improvised" else 5255
    return replace(CARD, labels=names, utterances=utterances, counts=counts)


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """One utterance of EmoEvaluation; `votes` and `rated` begin with the annotator."""

    name: str
    gender: str
    start: float
    code: str
    ratings: tuple[float | None, ...]
    votes: list[tuple[str, str]] = field(default_factory=list)
    rated: list[tuple[str, tuple[float | None, ...]]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """The state of the reader."""

    folder: Path
    labels: str
    votes: str
    rows: list[Row] = field(default_factory=list)
    errors: list[EmofuseError] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    strange: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)
    wordless: list[str] = field(default_factory=list)
    unaligned: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    unlabelled: Counter[str] = field(default_factory=Counter)

    def dialogues(self, session: str) -> list[re.Match[str]]:
        """A session's dialogues, by labels or transcripts."""
        place = self.folder / f"Session{session}"
        if not place.is_dir():
            self.errors.append(ManifestError("no such folder", where=place, remedy=AGAIN))
            return []
        found: set[str] = set()
        for kind in ("EmoEvaluation", "transcriptions"):
            if not (place / "dialog" / kind).is_dir():
                self.errors.append(ManifestError("no such folder", where=place / "dialog" / kind, remedy=AGAIN))
            found |= {path.stem for path in _files(place / "dialog" / kind, (".txt",)).values()}
        return [match for name in sorted(found) if (match := _DIALOGUE.fullmatch(name))]

    @staticmethod
    def _text(folder: Path, dialogue: str) -> Path:
        name = f"{dialogue}.txt"
        return _files(folder, (".txt",)).get(name, folder / name)

    def add(self, session: str, match: re.Match[str]) -> None:
        """Read a dialogue."""
        dialogue, place = match[0], self.folder / f"Session{session}"
        known = len(self.errors)
        labels, transcript = (
            self._text(place / "dialog" / kind, dialogue) for kind in ("EmoEvaluation", "transcriptions")
        )
        turns = list(self._turns(labels, dialogue))
        whole = len(self.errors) == known
        if not turns:
            return
        texts = self._words(transcript)
        clips = first_of_each(recordings(place / "sentences" / "wav" / dialogue), self.copies)
        aligned = _files(place / "sentences" / "ForcedAlignment" / dialogue, _ALIGNMENTS)
        if whole:
            named = {name for name in clips if _NAME.fullmatch(name)}
            self.unlabelled[f"{dialogue}.txt"] += len(named - {turn.name for turn in turns})
        omitted: list[str] = []
        for turn in sorted(turns, key=lambda turn: turn.start):
            label = self._merged(_CODES[turn.code])
            wanted = label in _SETS[self.labels]
            audio = clips.get(turn.name)
            if not wanted or audio is None:
                omitted.append(texts.get(turn.name, ""))
                if wanted:
                    self.errors.append(no_audio(place / "sentences" / "wav" / dialogue / f"{turn.name}.wav"))
                continue
            if not texts.get(turn.name):
                self.wordless.append(turn.name)
            if any(f"{turn.name}{ending}" not in aligned for ending in _ALIGNMENTS):
                self.unaligned.append(turn.name)
            counted = Counter(self._merged(vote) for annotator, vote in turn.votes if self._counts(annotator))
            valence, arousal, dominance = self._ratings(turn)
            self.rows.append(
                {
                    "utterance": turn.name,
                    "audio": str(audio),
                    "text": texts.get(turn.name) or None,
                    "text_source": "reference",
                    "language": "en",
                    "label": label,
                    "votes": json.dumps(counted) if counted else None,
                    "values.valence": valence,
                    "values.arousal": arousal,
                    "values.dominance": dominance,
                    "speaker": f"Ses0{session}{turn.gender}",
                    "gender": GENDERS[turn.gender],
                    "session": session,
                    "dialogue": dialogue,
                    "omitted": json.dumps(omitted, ensure_ascii=False) if omitted else None,
                    "script": match["script"],
                }
            )
            omitted.clear()

    def notes(self) -> Iterator[str]:
        """Notes on what is missing or unusual."""
        yield from self.copies
        if cut := sorted(name for name, count in self.unlabelled.items() if count):
            yield (
                f"{self.unlabelled.total()} recordings have no label, as where a file of EmoEvaluation is cut short: "
                f"{listed(cut)}"
            )
        if self.wordless:
            yield f"{len(self.wordless)} of {len(self.rows)} utterances have no transcript, as {self.wordless[0]}"
        if len(self.unaligned) < len(self.rows) and frame_offset(self.folder) is None:
            why = "says nothing that is understood" if (self.folder / _TIMEINFO).exists() else "is absent"
            yield (
                f"{_TIMEINFO} {why}, so frames of the shipped alignments are counted from 0: boundaries may be "
                "hundredths of a second off"
            )
        if self.unaligned:
            yield (
                f"{len(self.unaligned)} of {len(self.rows)} utterances lack one of the alignments that are shipped "
                f"with the corpus, as {self.unaligned[0]}"
            )
        if self.strange:
            name, count = self.strange.most_common(1)[0]
            yield f"{self.strange.total()} votes are for no known emotion and not counted, as {name!r} ({count})"
        if self.unread:
            yield f"{len(self.unread)} lines are neither votes nor ratings and not counted, as {self.unread[0]}"

    def _merged(self, label: str | None) -> str | None:
        return _MERGED.get(label, label) if self.labels == "four" and label else label

    def _counts(self, annotator: str) -> bool:
        # The actors are called F and M, the others E.
        return self.votes == "all" or annotator.startswith("E")

    def _ratings(self, turn: _Turn) -> tuple[float | None, ...]:
        if self.votes == "others" or not turn.rated:
            return turn.ratings
        means: list[float | None] = []
        for values in zip(*(rated for _, rated in turn.rated), strict=True):
            known = [value for value in values if value is not None]
            means.append(sum(known) / len(known) if known else None)
        return tuple(means)

    def _turns(self, path: Path, dialogue: str) -> Iterator[_Turn]:
        lines = self._lines(path)
        turn, found = None, False
        for count, line in enumerate(lines, start=1):
            if line.startswith("[") or "\tSes0" in line:
                turn, found = self._turn(path, count, line, dialogue), True
                if turn is not None:
                    yield turn
            elif turn is None:
                continue
            elif vote := _VOTE.match(line):
                for word in (part.strip() for part in vote[2].split(";")):
                    if word.lower() in _VOTES:
                        turn.votes.append((vote[1], _VOTES[word.lower()]))
                    elif word:
                        self.strange[word] += 1
            elif rating := _RATING.match(line):
                turn.rated.append((rating[1], tuple(number(rating[part]) for part in (2, 3, 4))))
            elif line.strip():
                self.unread.append(f"{line[:_EXAMPLE]!r} in {path.name}, line {count}")
        if lines and not found:
            self.errors.append(ManifestError("there is no utterance in it", where=path, remedy=AGAIN))

    def _turn(self, path: Path, count: int, line: str, dialogue: str) -> _Turn | None:
        """The utterance of a line, or None and an error."""
        match = _TURN.fullmatch(line)
        if match is None:
            self.errors.append(row_error(path, count, "the line is not [START - END] NAME EMOTION [V, A, D]"))
            return None
        start, end, name, code, rated = match.groups()
        named, begins, ends = _NAME.fullmatch(name), number(start), number(end)
        ratings = tuple(number(value) for value in rated.split(","))
        what = ""
        if named is None or named["dialogue"] != dialogue:
            what = f"{name!r} is no utterance of this dialogue"
        elif code not in _CODES:
            what = f"the emotion is {code!r}, not one of {', '.join(_CODES)}"
        elif begins is None or ends is None or begins >= ends:
            what = f"the utterance lasts from {start} to {end}"
        elif len(ratings) != 3 or None in ratings:
            what = f"the ratings are [{rated}], not three numbers"
        elif name in self.seen:
            what = f"{name!r} occurs twice"
        if what or named is None or begins is None:
            self.errors.append(row_error(path, count, what))
            return None
        self.seen.add(name)
        return _Turn(name=name, gender=named["gender"], start=begins, code=code, ratings=ratings)

    def _lines(self, path: Path) -> list[str]:
        """A file's lines, or none and an error; a missing folder has one error only."""
        try:
            return read_lines(path) if path.parent.is_dir() else []
        except ManifestError as error:
            self.errors.append(error)
            return []

    def _words(self, path: Path) -> dict[str, str]:
        """Transcripts by utterance; remarks between utterances have no name."""
        found: dict[str, str] = {}
        for line in self._lines(path):
            if match := _WORDS.fullmatch(line.strip()):
                found.setdefault(match[1], match[2].strip())
        return found


def _files(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    """Files of a folder by name, with a lower-case ending."""
    if not folder.is_dir():
        return {}
    paths = (path for path in folder.iterdir() if path.suffix.lower() in endings and path.is_file())
    return {path.stem + path.suffix.lower(): path for path in paths}
