"""Licensed corpora in miniature for tests: the publishers' layout and formats, with content of our own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SAMPLING_RATE = 16000
_FRAME = 0.01  # Seconds of one frame of an alignment.
_PAUSE = 4  # Frames of silence at both ends.
_PHONE = 6  # Frames of each phone.

# Syllables, and their phones, of each word.
_WORDS = {
    "why": ("W AY",),
    "are": ("AA R",),
    "you": ("Y UW",),
    "never": ("N EH", "V ER"),
    "ready": ("R EH", "D IY"),
    "we": ("W IY",),
    "won": ("W AH N",),
    "a": ("AH",),
    "garden": ("G AA R", "D AH N"),
    "so": ("S OW",),
    "happy": ("HH AE", "P IY"),
    "he": ("HH IY",),
    "left": ("L EH F T",),
    "me": ("M IY",),
    "alone": ("AH", "L OW N"),
    "the": ("DH AH",),
    "letter": ("L EH", "T ER"),
    "is": ("IH Z",),
    "here": ("HH IY R",),
    "today": ("T AH", "D EY"),
}
_SECOND = {"the": "DH IY", "a": "EY"}  # Other pronunciations, which the aligner marks as WORD(2).

# Code of the consensus, votes of three annotators and of the actor, and what is said.
_PLAYS = {
    "script01_1": (
        ("neu", ("Neutral", "Neutral", "Neutral"), "Neutral", "The letter is here today."),
        ("ang", ("Anger", "Anger", "Frustration"), "Anger", "Why are you never ready?"),
        ("fru", ("Frustration", "Frustration", "Anger"), "Frustration", "You are never ready."),
        ("exc", ("Excited", "Excited", "Happiness"), "Excited", "We won a garden! [LAUGHTER]"),
        ("sad", ("Sadness", "Sadness", "Sadness"), "Sadness", "He left me alone."),
        ("xxx", ("Anger", "Sadness", "Neutral"), "Sadness", "Are you here?"),
    ),
    "script02_2": (
        ("hap", ("Happiness", "Happiness", "Happiness; Excited"), "Happiness", "We are so happy today."),
        ("sad", ("Sadness", "Sadness", "Frustration"), "Sadness", "He left today. So alone."),
        ("sur", ("Surprise", "Surprise", "Excited"), "Surprise", "You won the garden?"),
        ("ang", ("Anger", "Anger", "Anger"), "Anger", "He is never here!"),
        ("neu", ("Neutral", "Neutral", "Sadness"), "Neutral", "The letter is ready."),
    ),
    "impro01": (
        ("neu", ("Neutral", "Neutral", "Neutral"), "Neutral", "Are you ready?"),
        ("ang", ("Anger", "Anger", "Disgust"), "Anger", "Why is the letter never here?"),
        ("dis", ("Disgust", "Disgust", "Anger"), "Disgust", "The letter! Why me?"),
        ("hap", ("Happiness", "Happiness", "Neutral"), "Happiness", "So happy you are here."),
        ("fea", ("Fear", "Fear", "Sadness"), "Fear", "Is he here?"),
        ("oth", ("Other", "Other", "Neutral"), "Other", "A letter, a garden."),
    ),
    "impro03": (
        ("neu", ("Neutral", "Neutral", "Neutral"), "Neutral", "We are here today."),
        ("exc", ("Excited", "Excited", "Excited"), "Happiness", "We won! We won!"),
        ("sad", ("Sadness", "Sadness", "Neutral"), "Sadness", "Alone, so alone."),
    ),
}
_RATED = {"ang": (1.5, 4.5, 3.5), "hap": (4.5, 3.5, 2.5), "exc": (4.5, 4.5, 3.5), "sad": (1.5, 1.5, 2.5)}  # V, A, D.
_PITCH = {"ang": 330.0, "hap": 260.0, "exc": 300.0, "neu": 200.0, "sad": 140.0}


@dataclass(frozen=True)
class _Span:
    """A segment of an alignment: its first and last frame, and its label."""

    first: int
    last: int
    label: str


def miniature_iemocap(folder: Path, *, seed: int = 0) -> Path:
    """IEMOCAP as USC ships it, in miniature: five sessions, ten speakers, plays and improvisations.

    Every session has the same four dialogues with all of the corpus's labels, `xxx` among them, so that plays share
    their wording between sessions. The recordings are tones, whose pitch carries the emotion.

    Args:
        folder: Where to write it.
        seed: Seed of the recordings' noise.

    Returns:
        `IEMOCAP_full_release` in the folder: 100 utterances, 70 with one of the four labels.

    Example:
        >>> import tempfile
        >>> from emofuse.corpora import read_corpus
        >>> root = miniature_iemocap(Path(tempfile.mkdtemp()))
        >>> manifest = read_corpus("iemocap", root, partial=True).manifest
        >>> len(manifest), manifest["speaker"].nunique(), manifest["script"].nunique()
        (70, 10, 4)
    """
    generator = np.random.default_rng(seed)
    root = folder / "IEMOCAP_full_release"
    for session in range(1, 6):
        for place, (scene, turns) in enumerate(_PLAYS.items()):
            # Which of the two wears the markers is part of a dialogue's name.
            dialogue = f"Ses0{session}{'FM'[place % 2]}_{scene}"
            _write_dialogue(root / f"Session{session}", dialogue, turns, generator)
    return root


def _write_dialogue(
    session: Path,
    dialogue: str,
    turns: Sequence[tuple[str, tuple[str, ...], str, str]],
    generator: np.random.Generator,
) -> None:
    labels = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    words = []
    counts = {"F": 0, "M": 0}
    time = 6.2901
    for number, (code, votes, own, text) in enumerate(turns):
        # Every other dialogue and session begins with the other speaker, so that both have all four labels.
        gender = "FM"[(number + list(_PLAYS).index(dialogue[7:]) + int(session.name[-1])) % 2]
        name = f"{dialogue}_{gender}{counts[gender]:03d}"
        counts[gender] += 1
        tiers = _tiers(text)
        seconds = (tiers["wdseg"][-1].last + 1) * _FRAME
        _write_audio(session / "sentences" / "wav" / dialogue / f"{name}.wav", code, gender, seconds, generator)
        _write_alignment(session / "sentences" / "ForcedAlignment" / dialogue / name, tiers)
        ratings = _RATED.get(code, (2.5, 2.5, 2.5))
        mean = ", ".join(f"{value:.4f}" for value in ratings)
        labels.append(f"[{time:.4f} - {time + seconds:.4f}]\t{name}\t{code}\t[{mean}]")
        labels += [f"C-E{judge}:\t{vote};\t()" for judge, vote in zip((1, 3, 4), votes, strict=True)]
        labels.append(f"C-{gender}1:\t{own};\t(as I felt it)")
        # Two judges around the mean, and the actor with the highest.
        for judge, step in (("E3", 0.5), ("E4", -0.5), (f"{gender}1", -0.5)):
            valence, arousal, dominance = (math.ceil(value - step) for value in ratings)
            labels.append(f"A-{judge}:\tval {valence}; act {arousal}; dom  {dominance};\t()")
        labels.append("")
        words.append(f"{name} [{time:08.4f}-{time + seconds:08.4f}]: {text}")
        time += seconds + 0.5
    words.append("M: [BREATHING]")
    for kind, lines in (("EmoEvaluation", labels), ("transcriptions", words)):
        path = session / "dialog" / kind / f"{dialogue}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _tiers(text: str) -> dict[str, list[_Span]]:
    """Segments at the three tiers, with pauses and noises as Sphinx marks them."""
    words: list[_Span] = []
    syllables: list[_Span] = []
    phones: list[_Span] = []
    frame = 0

    def add(tier: list[_Span], first: int, label: str) -> None:
        tier.append(_Span(first, frame - 1, label))

    def pause(word: str, phone: str) -> None:
        nonlocal frame
        frame += _PAUSE
        add(words, frame - _PAUSE, word)
        add(phones, frame - _PAUSE, phone)

    pause("<s>", "SIL")
    spoken = text.split()
    for place, token in enumerate(spoken):
        if token == "[LAUGHTER]":  # noqa: S105
            pause("++NOISE++", "++NOISE++")
            continue
        word = token.strip(".,!?").lower()
        variant = place > 0 and word in _SECOND
        begin = frame
        for syllable in (_SECOND[word],) if variant else _WORDS[word]:
            start = frame
            for phone in syllable.split():
                frame += _PHONE
                add(phones, frame - _PHONE, phone)
            add(syllables, start, syllable)
        add(words, begin, word.upper() + ("(2)" if variant else ""))
        if token[-1] in ".,!?" and place + 1 < len(spoken):
            pause("<sil>", "SIL")
    pause("</s>", "SIL")
    return {"wdseg": words, "syseg": syllables, "phseg": phones}


def _write_alignment(stem: Path, tiers: dict[str, list[_Span]]) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    for ending, title in (("wdseg", "Word"), ("phseg", "Phone")):
        lines = [f"\t{'SFrm':>5} {'EFrm':>5} {'SegAScr':>10} {title}"]
        total = 0
        spans = tiers[ending]
        for place, span in enumerate(spans):
            score = -1000 * (span.last - span.first + 1)
            total += score
            label = span.label
            if ending == "phseg" and label not in ("SIL", "++NOISE++"):
                # A phone is followed by its neighbours and its place in the word.
                label = f"{label} {spans[place - 1].label} {spans[place + 1].label} i"
            lines.append(f"\t{span.first:5d} {span.last:5d} {score:10d} {label}")
        lines.append(f" Total score: {total:11d}")
        stem.with_suffix(f".{ending}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = [f"\t{span.first:5d} {span.last:5d} {span.label}" for span in tiers["syseg"]]
    stem.with_suffix(".syseg").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_audio(path: Path, code: str, gender: str, seconds: float, generator: np.random.Generator) -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    pitch = _PITCH.get(code, 230.0) * (1.3 if gender == "F" else 1.0)
    times = np.arange(round(seconds * _SAMPLING_RATE)) / _SAMPLING_RATE
    clip: NDArray[np.float64] = 0.4 * np.sin(2 * np.pi * pitch * times) + 0.02 * generator.standard_normal(len(times))
    soundfile.write(path, clip, _SAMPLING_RATE)
