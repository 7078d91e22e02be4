"""Training data of a speech student: folders of recordings, cut into clips, with copies at another pitch and tempo.

Only audio is read. Labels, transcripts and tables in the folders are never opened, so a student cannot learn them.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import av.error
import av.filter
import numpy as np
import pandas as pd
import soundfile
from numpy.typing import NDArray

from emofuse.audio import SAMPLING_RATE, SHORTEST, audio_duration, audio_files, load_audio
from emofuse.distill.settings import SpeechStudentSettings
from emofuse.errors import AudioError, EmofuseError, ManifestError
from emofuse.files import written_atomically
from emofuse.manifest import make_manifest
from emofuse.progress import Progress, Silent, track
from emofuse.seeds import derive_seed

_TIME_BASE = Fraction(1, SAMPLING_RATE)


def gather(
    folders: Mapping[str, Path], settings: SpeechStudentSettings, *, copies: Path, progress: Progress = Silent()
) -> tuple[pd.DataFrame, list[EmofuseError]]:
    """List all clips of all recordings, copies included, as a manifest.

    Args:
        folders: Folder of recordings of each corpus, by the corpus's name; what follows ` (` is not part of it.
        settings: Length of clips; number and range of copies.
        copies: Where the copies are written; those that are there already are kept.
        progress: Reports each recording.

    Returns:
        The manifest, `session` being `held-out` or `train`, and the recordings that cannot be used.

    Raises:
        ManifestError: A folder holds no recordings.
    """
    recordings = []
    for title, folder in folders.items():
        corpus = title.partition(" (")[0]
        found = audio_files(folder)
        if not found:
            raise ManifestError("there are no recordings", where=folder, remedy="name a folder that holds audio files")
        recordings += [(corpus, f"{corpus}/{path.relative_to(folder).as_posix()}", path) for path in found]
    rows: list[dict[str, Any]] = []
    failed: list[EmofuseError] = []
    for corpus, name, path in track(recordings, "Preparing recordings", total=len(recordings), progress=progress):
        part = "held-out" if drawn("held-out", name, fraction=settings.held_out, seed=settings.seed) else "train"
        try:
            versions = {name: path}
            if part == "train" and drawn("copy", name, fraction=settings.views, seed=settings.seed):
                versions[f"{name}#copy"] = _copy(name, path, settings, copies)
            for version, file in versions.items():
                rows += [
                    {"utterance": f"{version}@{start:g}", "corpus": corpus, "audio": str(file.absolute()),
                     "start": start, "end": end, "duration": end - start, "session": part}
                    for start, end in clips_of(audio_duration(file), longest=settings.longest)
                ]  # fmt: skip
        except AudioError as error:
            failed.append(error)
    if not rows:
        raise ManifestError("no recording can be used", remedy=f"fix them; the first is {failed[0]}")
    return make_manifest(rows, source="recordings"), failed


def clips_of(duration: float, *, longest: float) -> list[tuple[float, float]]:
    """Cut a recording into equal clips of at most `longest` seconds.

    Example:
        >>> clips_of(9.0, longest=6.0)
        [(0.0, 4.5), (4.5, 9.0)]
    """
    count = max(1, int(np.ceil(duration / longest - 1e-9)))
    if duration / count < SHORTEST:
        count = 1
    # Whole milliseconds, so that a table names the same samples again.
    edges = [round(duration * index / count, 3) for index in range(count)] + [duration]
    return list(pairwise(edges))


def drawn(purpose: str, name: str, *, fraction: float, seed: int) -> bool:
    """Whether a recording belongs to a random fraction of all, independent of the others."""
    return derive_seed(seed, purpose, name) / 2**32 < fraction


def _copy(name: str, path: Path, settings: SpeechStudentSettings, folder: Path) -> Path:
    rng = np.random.default_rng(derive_seed(settings.seed, "voice", name))
    semitones = round(float(rng.uniform(-settings.semitones, settings.semitones)), 2)
    tempo = round(float(np.exp(rng.uniform(-1, 1) * np.log1p(settings.tempo))), 3)
    key = sha256(f"{name}/{semitones}/{tempo}".encode()).hexdigest()[:24]
    file = folder / f"{key}.flac"
    if not file.exists():
        changed = change_voice(load_audio(path), semitones=semitones, tempo=tempo)
        with written_atomically(file) as part:
            soundfile.write(part, np.clip(changed, -1, 1), SAMPLING_RATE, format="FLAC")
    return file


def change_voice(clip: NDArray[np.float32], *, semitones: float, tempo: float) -> NDArray[np.float32]:
    """Shift the pitch and tempo of a clip, by FFmpeg's filters.

    Args:
        clip: 16 kHz mono, `(samples,)`.
        semitones: Above zero is higher.
        tempo: Above one is faster.

    Example:
        >>> 0.9 < len(change_voice(np.zeros(32000, np.float32), semitones=0, tempo=2.0)) / 16000 < 1.1
        True
    """
    ratio = 2.0 ** (semitones / 12)
    graph = av.filter.Graph()
    # Resampling changes pitch and tempo together; atempo restores the tempo.
    chain = [
        graph.add_abuffer(sample_rate=SAMPLING_RATE, format="flt", layout="mono", time_base=_TIME_BASE),
        graph.add("asetrate", str(round(SAMPLING_RATE * ratio))),
        graph.add("aresample", str(SAMPLING_RATE)),
        graph.add("atempo", f"{tempo / ratio:.6f}"),
        graph.add("aformat", "sample_fmts=flt:channel_layouts=mono"),
        graph.add("abuffersink"),
    ]
    for one, following in pairwise(chain):
        one.link_to(following)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(clip[None], format="flt", layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = SAMPLING_RATE, _TIME_BASE, 0
    graph.push(frame)
    graph.push(None)
    parts = []
    while True:
        try:
            parts.append(graph.pull().to_ndarray()[0])
        except (av.error.BlockingIOError, av.error.EOFError):
            break
    return np.concatenate(parts).astype(np.float32) if parts else clip
