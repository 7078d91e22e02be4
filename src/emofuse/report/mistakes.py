"""The worst mistakes of a model, each with its audio."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile

from emofuse.audio import SAMPLING_RATE, load_audio
from emofuse.errors import AudioError
from emofuse.scoring.kinds import CLASSES, VALUES, Kind
from emofuse.scoring.metrics import answers
from emofuse.scoring.table import Scores

COUNT = 8
LONGEST = 20.0
"""Most seconds of a clip in the page; the page states what is left out."""

_WORDS = 400  # Most characters of a transcript.
_SHOWN = 3  # Classes whose posterior is shown beside that of the true one.


RANKED: Mapping[Kind, str] = {
    CLASSES: "The utterances with the highest confidence in a wrong class, mean over seeds. Bars are posteriors in "
    "percent, that of the true class in blue.",
    VALUES: "The utterances whose predictions, mean over seeds, are furthest from the truth, in standard deviations of "
    "each value, mean over the values.",
}
"""What the worst mistakes are, in words."""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A confident or large mistake of a model.

    Attributes:
        utterance: Its name.
        label: The true class, or the true values.
        predicted: The most probable class, or the predicted values.
        size: What mistakes are ranked by: the probability of the wrong class, or the error in standard deviations.
        posteriors: The most probable classes and the true one, by probability; none of values.
        speaker: Who speaks, or None.
        text: Transcript, or None.
        audio: The clip as a data URI, or None.
        remark: Why there is no clip, or not all of it; empty otherwise.
    """

    utterance: str
    label: str
    predicted: str
    size: float
    posteriors: tuple[tuple[str, float], ...]
    speaker: str | None
    text: str | None
    audio: str | None
    remark: str


def worst_mistakes(scores: Scores, manifest: pd.DataFrame, *, count: int = COUNT) -> list[Mistake]:
    """The utterances with the highest confidence in a wrong class, or the largest errors.

    Args:
        scores: Scores of one model; outputs are averaged over its seeds.
        manifest: With speaker, text and audio of utterances; one that it lacks is shown without.
        count: Most mistakes.
    """
    wrong = _FOUND[scores.kind](scores)
    order = wrong["size"].sort_values(ascending=False, kind="stable").index[:count]
    known = manifest.set_index("utterance").reindex(order)
    speakers = scores.frame.groupby("utterance")["speaker"].first() if "speaker" in scores.frame.columns else None
    mistakes = []
    for name in order:
        row, found = known.loc[name], wrong.loc[name]
        audio, remark = _clip(row) if name in set(manifest["utterance"]) else (None, "Not in the manifest")
        speaker = row["speaker"] if speakers is None or pd.notna(row["speaker"]) else speakers[name]
        mistakes.append(
            Mistake(
                utterance=str(name),
                label=str(found["label"]),
                predicted=str(found["predicted"]),
                size=float(found["size"]),
                posteriors=found["posteriors"],
                speaker=None if pd.isna(speaker) else str(speaker),
                text=None if pd.isna(row["text"]) else _shorten(str(row["text"])),
                audio=audio,
                remark=remark,
            )
        )
    return mistakes


def _wrong_classes(scores: Scores) -> pd.DataFrame:
    """Each wrong prediction: true class, most probable class, and posteriors."""
    classes = list(scores.classes)
    groups = scores.frame.groupby("utterance", sort=True)
    means, labels = groups[classes].mean(), groups["label"].first()
    # Where classes tie, the first by name, and right if the true one is among them.
    predicted = means[sorted(classes)].idxmax(axis=1)
    best = np.asarray(answers(means.to_numpy()) > 0)
    wrong = means.index[~best[np.arange(len(means)), [classes.index(label) for label in labels]]]

    def shown(name: str) -> tuple[tuple[str, float], ...]:
        values = means.to_numpy()[means.index.get_loc(name)].tolist()
        ranked = sorted(zip(classes, values, strict=True), key=lambda pair: -pair[1])
        return tuple(pair for place, pair in enumerate(ranked) if place < _SHOWN or pair[0] == labels[name])

    rows = {"label": labels[wrong], "predicted": predicted[wrong], "size": means.loc[wrong].max(axis=1)}
    return pd.DataFrame({**rows, "posteriors": pd.Series({name: shown(name) for name in wrong}, dtype="object")})


def _wrong_values(scores: Scores) -> pd.DataFrame:
    """True values, predicted values and error of each utterance."""
    groups = scores.frame.groupby("utterance", sort=True)
    truth, said = (
        groups[columns].mean().set_axis(list(scores.values), axis=1)
        for columns in (scores.kind.true_columns(scores.values), list(scores.values))
    )
    spread = truth.std(ddof=0)
    sizes = ((said - truth).abs() / spread.where(spread > 0, 1.0)).mean(axis=1)

    def words(values: pd.DataFrame) -> pd.Series[str]:
        return pd.Series(
            [", ".join(f"{name} {value:.3g}" for name, value in row.items()) for _, row in values.iterrows()],
            index=values.index,
        )

    nothing = pd.Series([()] * len(truth), index=truth.index, dtype="object")
    return pd.DataFrame({"label": words(truth), "predicted": words(said), "size": sizes, "posteriors": nothing})


_FOUND: Mapping[Kind, Callable[[Scores], pd.DataFrame]] = {CLASSES: _wrong_classes, VALUES: _wrong_values}


def _shorten(text: str) -> str:
    return text if len(text) <= _WORDS else text[: _WORDS - 1].rstrip() + "…"


def _clip(row: pd.Series[Any]) -> tuple[str | None, str]:
    """A manifest row's audio as a data URI, and a remark if it is missing or cut."""
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
        # Not the whole message, which names a path: the page may be published.
        return None, f"Audio not available: {error.what}"
    whole = len(samples) if pd.isna(row["duration"]) else float(row["duration"]) * SAMPLING_RATE
    limit = round(LONGEST * SAMPLING_RATE)
    memory = io.BytesIO()
    # FLAC, though Vorbis would be a third of it: every browser plays it, Safari before 18.4 does not play Vorbis.
    soundfile.write(memory, samples[:limit], SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    remark = f"The first {LONGEST:g} s" if whole > limit + 1 else ""
    return "data:audio/flac;base64," + base64.b64encode(memory.getvalue()).decode("ascii"), remark
