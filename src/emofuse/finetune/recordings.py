"""Utterances for fine-tuning: checked once by all processes together, then decoded when needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emofuse.audio import LONGEST_UTTERANCE, Recording, content_key, read_audio
from emofuse.errors import AudioError
from emofuse.progress import Progress, Silent, track
from emofuse.training.processes import Alone
from emofuse.types import Utterance

DECODERS = 4
KEY = 64
LABEL = "Opening recordings"


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """Checked utterances.

    Attributes:
        rows: Every utterance that can be used, by name.
        sizes: Samples of each; letters of its text where no audio is read.
        keys: What each is, as a hash of its audio, or its text.
        failed: Utterances whose audio cannot be used, and why.
        modalities: What is read of them.
        notes: What the reader should know of some, for the process that writes the report.
    """

    rows: Mapping[str, Utterance]
    sizes: Mapping[str, float]
    keys: Mapping[str, str]
    failed: Mapping[str, AudioError]
    modalities: tuple[str, ...]
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def load(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """Clips and texts of some utterances."""
        items: dict[str, list[Any]] = {}
        if "speech" in self.modalities:
            items["speech"] = [_clip(self.rows[name]) for name in names]
        if "text" in self.modalities:
            items["text"] = [self.rows[name].text or "" for name in names]
        return items


def open_recordings(
    rows: Sequence[Utterance], modalities: Sequence[str], processes: Alone, *, progress: Progress = Silent()
) -> Recordings:
    """Open every recording once, each process a part, so that a bad one is known before training starts."""
    if "speech" not in modalities:
        sizes = {row.utterance: float(len(row.text or "")) for row in rows}
        keys = {row.utterance: row.text or "" for row in rows}
        return Recordings(
            rows={row.utterance: row for row in rows}, sizes=sizes, keys=keys, failed={}, modalities=tuple(modalities)
        )
    samples = torch.zeros(len(rows), dtype=torch.int64)
    letters = torch.zeros(len(rows), KEY, dtype=torch.int32)
    noted = torch.zeros(len(rows), dtype=torch.int32)
    own = range(processes.number, len(rows), processes.count)
    with ThreadPoolExecutor(DECODERS) as decoders:
        found = decoders.map(lambda place: _open(rows[place]), own)
        for place, (count, key, notes) in track(zip(own, found, strict=True), LABEL, total=len(own), progress=progress):
            samples[place] = count
            noted[place] = len(notes)
            letters[place, : len(key)] = torch.tensor(list(key.encode()), dtype=torch.int32)
    counts = dict(zip((row.utterance for row in rows), processes.total(samples).tolist(), strict=True))
    codes = processes.total(letters).tolist()
    # A process knows only why its own recordings failed, and all of them need to know.
    failed = {row.utterance: _failure(row) for row in rows if not counts[row.utterance]}
    marked = [row for row, count in zip(rows, processes.total(noted).tolist(), strict=True) if count]
    texts = {row.utterance: row.text or "" if "text" in modalities else "" for row in rows}
    return Recordings(
        rows={row.utterance: row for row in rows if row.utterance not in failed},
        sizes={name: float(count) for name, count in counts.items()},
        keys={
            row.utterance: bytes(code).decode() + texts[row.utterance] for row, code in zip(rows, codes, strict=True)
        },
        failed=failed,
        modalities=tuple(modalities),
        notes={row.utterance: _open(row)[2] for row in marked} if processes.main else {},
    )


def _recording(row: Utterance) -> Recording:
    return read_audio(row.audio or "", start=row.start, end=row.end, longest=LONGEST_UTTERANCE)


def _clip(row: Utterance) -> NDArray[np.float32]:
    return _recording(row).samples


def _open(row: Utterance) -> tuple[int, str, tuple[str, ...]]:
    """Samples and content key of a recording, and notes on it; none and nothing where it cannot be used."""
    try:
        recording = _recording(row)
        return len(recording.samples), content_key(row.audio or "", start=row.start, end=row.end), recording.notes
    except AudioError:
        return 0, "", ()


def _failure(row: Utterance) -> AudioError:
    try:
        _clip(row)
    except AudioError as error:
        return error
    return AudioError(
        "another process could not read it", where=row.audio, remedy="check that all machines see the same files"
    )
