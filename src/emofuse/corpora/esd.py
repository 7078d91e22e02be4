"""ESD: ten English and ten Chinese speakers say 350 sentences of their language in five emotions."""

from __future__ import annotations

import re
from pathlib import Path

from emofuse.corpora.card import CorpusCard, Listing, Row
from emofuse.corpora.sources import AGAIN, files_below, first_of_each, read_lines, recordings
from emofuse.errors import EmofuseError, ManifestError

_LABELS = {"neutral": "neutral", "angry": "angry", "happy": "happy", "sad": "sad", "surprise": "surprised"}
_SPEAKERS = {f"{number:04d}": "zh" if number <= 10 else "en" for number in range(1, 21)}
_SENTENCES = 350
_DEV, _TEST = 20, 50  # Last sentences of the published parts `evaluation` and `test`; the rest is `train`.
_NAME = re.compile(r"(\d{4})_(\d{6})")
_TRANSCRIPT = re.compile(r"(\d{4}_\d{6})[\t ]+(.*?)(?:[\t ]+(\w+))?[\t ]*")
_EMOTIONS = frozenset({*_LABELS, "中立", "生气", "快乐", "伤心", "惊喜", "开心", "惊讶", "愤怒"})
_PLACES = ("Emotional Speech Dataset (ESD)", "Emotion Speech Dataset", "Emotional Speech Dataset", "ESD")


def _card(speakers: int, languages: tuple[str, ...]) -> CorpusCard:
    each = speakers * len(_LABELS)
    return CorpusCard(
        name="esd",
        title="ESD",
        languages=languages,
        modalities=("speech", "text"),
        labels=tuple(_LABELS.values()),
        licence="research only",
        where="it is at https://github.com/HLTSingapore/Emotional-Speech-Data with a folder for each of 0001 to 0020",
        citation="Zhou et al., Seen and Unseen Emotional Style Transfer for Voice Conversion with a New Emotional "
        "Speech Dataset, ICASSP, 2021",
        utterances=each * _SENTENCES,
        speakers=speakers,
        note="every sentence is said in every emotion, so the text carries no label information; the published split "
        "shares speakers, so split by speaker to compare with others",
        counts={
            "label": dict.fromkeys(_LABELS.values(), speakers * _SENTENCES),
            "session": {"train": each * (_SENTENCES - _TEST), "dev": each * _DEV, "test": each * (_TEST - _DEV)},
        },
        options={"language": ("all", "en", "zh")},
    )


CARD = _card(20, ("en", "zh"))


def read(root: Path, *, language: str = "all") -> Listing:
    """List the clips of the speakers' folders, such as `0011/Angry/train/0011_000401.wav`.

    The folders `train`, `evaluation` and `test` may be absent: the split, in column `session` with `evaluation` as
    `dev`, goes by the sentence. Transcripts may be UTF-8, UTF-16, GB 18030 or Windows-1252;
    column `script` holds language and sentence.

    Args:
        root: The folder with the speakers' folders, or one that holds it.
        language: `all`, `en` (17,500 clips) or `zh` (17,500).

    Raises:
        ManifestError: There is no such folder, or no speaker's folder in it.
    """
    folder = CARD.folder(root, *_PLACES)
    speakers = [name for name, spoken in _SPEAKERS.items() if language in ("all", spoken)]
    if not any((folder / name).is_dir() for name in speakers):
        raise CARD.absent(folder, f"speaker's folder such as {speakers[0]}")
    rows: list[Row] = []
    errors: list[EmofuseError] = []
    notes = ["the published split tests speakers who are known from training"]
    for speaker in speakers:
        place = folder / speaker
        if not place.is_dir():
            errors.append(ManifestError("no such folder", where=place, remedy=AGAIN))
            continue
        transcripts = [*files_below(place, f"{speaker}.txt"), place / f"{speaker}.txt"]
        texts = _words(transcripts[0], speaker, errors)
        for stem, path in sorted(first_of_each(recordings(place), notes).items()):
            match, label = _NAME.fullmatch(stem), _label(path.relative_to(place))
            if match is None or match[1] != speaker or label is None or not 1 <= int(match[2]) <= 1750:
                what = "it is not named as a clip of this speaker and one of the five emotions"
                errors.append(ManifestError(what, where=path, remedy="take it out, or unpack the corpus again"))
                continue
            sentence = (int(match[2]) - 1) % _SENTENCES + 1
            rows.append(
                {
                    "utterance": stem,
                    "audio": str(path),
                    "text": texts.get(stem),
                    "text_source": "reference",
                    "language": _SPEAKERS[speaker],
                    "label": label,
                    "speaker": speaker,
                    "session": "dev" if sentence <= _DEV else "test" if sentence <= _TEST else "train",
                    "script": f"{_SPEAKERS[speaker]}-{sentence:03d}",
                }
            )
    wordless = sum(row["text"] is None for row in rows)
    if wordless:
        notes.append(f"{wordless} of {len(rows)} clips have no transcript")
    card = CARD if language == "all" else _card(10, (language,))
    return Listing(rows=rows, source=folder, notes=tuple(notes), skipped=tuple(errors), card=card)


def _label(path: Path) -> str | None:
    return next((_LABELS[part.lower()] for part in path.parts[:-1] if part.lower() in _LABELS), None)


def _words(path: Path, speaker: str, errors: list[EmofuseError]) -> dict[str, str]:
    """Transcripts by clip; a line holds clip, text and emotion, separated by tabs or spaces.

    Some published lines differ; they are left out.
    """
    try:
        lines = read_lines(path, "gb18030" if _SPEAKERS[speaker] == "zh" else "cp1252")
    except ManifestError as error:
        errors.append(error)
        return {}
    found: dict[str, str] = {}
    for line in lines:
        if match := _TRANSCRIPT.fullmatch(line.strip()):
            ending = match[3] or ""
            text = match[2] if ending.lower() in _EMOTIONS else f"{match[2]} {ending}".strip()
            if text:
                found.setdefault(match[1], text)
    return found
