"""The mistakes that a model is surest of, each with its sound, so that a person can hear why."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile

from emofuse.audio import SAMPLING_RATE, load_audio
from emofuse.errors import AudioError
from emofuse.scoring.metrics import answers
from emofuse.scoring.table import Scores

COUNT = 8
LONGEST = 20.0
"""Most seconds of a clip in the page; what is beyond is left out, and the page says so."""

_WORDS = 400  # Characters of a transcript.
_SHOWN = 3  # Classes whose posterior is shown beside that of the true one.


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An utterance that a model is sure of, and wrong about.

    Attributes:
        utterance: Its name.
        label: The true class.
        predicted: The most probable class.
        posterior: Its probability, mean over seeds.
        posteriors: The most probable classes and the true one, by probability.
        speaker: Who speaks, or None.
        text: What is said, or None.
        audio: The clip as a data URI, or None.
        remark: Why there is no clip, or not all of it; empty otherwise.
    """

    utterance: str
    label: str
    predicted: str
    posterior: float
    posteriors: tuple[tuple[str, float], ...]
    speaker: str | None
    text: str | None
    audio: str | None
    remark: str


def worst_mistakes(scores: Scores, manifest: pd.DataFrame, *, count: int = COUNT) -> list[Mistake]:
    """The utterances with the highest confidence in a wrong class.

    Args:
        scores: Scores of one model; posteriors are averaged over its seeds.
        manifest: Where speaker, text and audio are found; an utterance that it lacks is shown without them.
        count: At most how many.
    """
    classes = list(scores.classes)
    groups = scores.frame.groupby("utterance", sort=True)
    means, labels = groups[classes].mean(), groups["label"].first()
    # Where classes tie, the first by name, and right if the true one is among them.
    predicted = means[sorted(classes)].idxmax(axis=1)
    best = np.asarray(answers(means.to_numpy()) > 0)
    wrong = means.index[~best[np.arange(len(means)), [classes.index(label) for label in labels]]]
    order = means.loc[wrong].max(axis=1).sort_values(ascending=False, kind="stable").index[:count]
    known = manifest.set_index("utterance").reindex(order)
    speakers = scores.frame.groupby("utterance")["speaker"].first() if "speaker" in scores.frame.columns else None
    mistakes = []
    for name in order:
        row, label = known.loc[name], str(labels[name])
        ranked = sorted(((str(key), float(value)) for key, value in means.loc[name].items()), key=lambda pair: -pair[1])
        kept = [pair for place, pair in enumerate(ranked) if place < _SHOWN or pair[0] == label]
        audio, remark = _clip(row) if name in set(manifest["utterance"]) else (None, "Not in the manifest")
        speaker = row["speaker"] if speakers is None or pd.notna(row["speaker"]) else speakers[name]
        mistakes.append(
            Mistake(
                utterance=str(name),
                label=label,
                predicted=str(predicted[name]),
                posterior=ranked[0][1],
                posteriors=tuple(kept),
                speaker=None if pd.isna(speaker) else str(speaker),
                text=None if pd.isna(row["text"]) else _shorten(str(row["text"])),
                audio=audio,
                remark=remark,
            )
        )
    return mistakes


def _shorten(text: str) -> str:
    return text if len(text) <= _WORDS else text[: _WORDS - 1].rstrip() + "…"


def _clip(row: pd.Series[Any]) -> tuple[str | None, str]:
    """A manifest row's sound as a data URI, and a remark where it is not there or not whole."""
    if pd.isna(row["audio"]):
        return None, "No audio in the corpus"
    start = 0.0 if pd.isna(row["start"]) else float(row["start"])
    end = None if pd.isna(row["end"]) else float(row["end"])
    # Without this, one hour-long file would be decoded for its first seconds.
    if pd.notna(row["duration"]) and float(row["duration"]) > LONGEST:
        end = start + LONGEST
    try:
        samples = load_audio(Path(row["audio"]), start=start, end=end)
    except AudioError as error:
        # Not the whole message: it names a path, and the page is made to be passed on.
        return None, f"Audio not available: {error.what}"
    whole = len(samples) if pd.isna(row["duration"]) else float(row["duration"]) * SAMPLING_RATE
    limit = round(LONGEST * SAMPLING_RATE)
    memory = io.BytesIO()
    # FLAC, though Vorbis would be a third of it: every browser plays it, Safari before 18.4 does not play Vorbis.
    soundfile.write(memory, samples[:limit], SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    remark = f"The first {LONGEST:g} s" if whole > limit + 1 else ""
    return "data:audio/flac;base64," + base64.b64encode(memory.getvalue()).decode("ascii"), remark
