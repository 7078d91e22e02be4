"""What is said in a recording, for the user who has no transcript, and for a corpus read as a recogniser hears it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emofuse.align.normalise import is_english
from emofuse.audio import content_key, read_audio
from emofuse.audio.notes import count_notes
from emofuse.encoders.hub import check_id, check_reachable
from emofuse.errors import AudioError, EmofuseError, EncoderError, ManifestError, SettingsError
from emofuse.files import appended
from emofuse.inputs import nearest
from emofuse.locks import alone
from emofuse.manifest import check_place, utterances, write_manifest
from emofuse.progress import Progress, Silent, track
from emofuse.types import Utterance
from emofuse.workers import in_processes, process_count

Recogniser = Literal["whisper", "sphinx", "none"]
RECOGNISERS: Sequence[Recogniser] = ("whisper", "sphinx", "none")
WHISPER = "base.en"
_LEVEL = 400  # Samples of a frame whose level is measured.
_JUDGED = 10  # Frames that it takes to judge.
_SILENCE = -60.0  # dB of full scale, which the loudest frames of speech exceed.
_LOW = -35.0
_STEADY = 3.0  # dB between loud and quiet frames, of which speech has ten times as many.
_LETTERS = 40.0  # A second; fast speech has 20.
LABEL = "Transcribing"

_Heard = tuple[Utterance, str | AudioError, tuple[str, ...]]
"""A recording, its words or why there are none, and notes on it."""

_HEARS_AS = {"sphinx": "sphinx 2"}
"""Names in journals of recognisers that heard the same sound otherwise in an earlier version."""


IN_SILENCE = "words were recognised in what is silence or a steady hiss"
NO_WORDS = "no words were recognised"


class Transcriber(Protocol):
    """What turns a clip into words; its `name` becomes the text's source."""

    name: str
    english_only: bool
    """Whether it makes English of whatever it hears."""

    def transcribe(self, clip: NDArray[np.float32]) -> str:
        """The words of a 16 kHz mono clip `(samples,)`; empty where none are heard."""


class SphinxTranscriber:
    """PocketSphinx with its own US English model; it needs nothing beside its package, and often mishears.

    Example:
        >>> isinstance(SphinxTranscriber().transcribe(np.zeros(16000, np.float32)), str)
        True
    """

    name = "sphinx"
    english_only = True

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder: Any = Decoder(loglevel="FATAL")

    def transcribe(self, clip: NDArray[np.float32]) -> str:
        """See `Transcriber.transcribe`."""
        sound = (np.clip(clip, -1, 1) * 32767).astype(np.int16)
        # The front end counts a frame of its last utterance into this one's mean: let it forget.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(sound.tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return "" if found is None else str(found.hypstr)


class WhisperTranscriber:
    """Whisper by faster-whisper, in the language that it hears.

    Args:
        model: A name such as `base.en`, a Hub id, or a folder in CTranslate2's format.
        device: `cpu` or `cuda`.
        local: Look in the local cache only.

    Raises:
        EncoderError: faster-whisper is not installed, or the model cannot be had.
    """

    def __init__(self, model: str = WHISPER, *, device: str = "cpu", local: bool = False) -> None:
        try:
            from faster_whisper import WhisperModel, available_models
        except ImportError as error:
            raise EncoderError(
                "faster-whisper is not installed", where="--asr whisper", remedy="run pip install faster-whisper"
            ) from error
        # What is at hand is taken without asking the Hub.
        for ask in (False,) if local or Path(model).is_dir() else (False, True):
            if ask:
                if model not in available_models():
                    check_id(model)
                check_reachable(model)
            try:
                self._model: Any = WhisperModel(model, device=device, compute_type="int8", local_files_only=not ask)
                break
            except Exception as error:
                reason = error
        else:
            raise EncoderError(
                "this speech recogniser cannot be loaded",
                where=model,
                remedy="give a name such as base.en while the Hub can be reached, or a folder",
            ) from reason
        # Models hear differently, so their words are told apart.
        self.name = f"whisper {Path(model).name}"
        self.english_only = not self._model.model.is_multilingual

    def transcribe(self, clip: NDArray[np.float32]) -> str:
        """See `Transcriber.transcribe`."""
        segments, _ = self._model.transcribe(clip, beam_size=1, condition_on_previous_text=False)
        return " ".join(segment.text.strip() for segment in segments).strip()


def is_steady(clip: NDArray[np.float32]) -> bool:
    """Whether a clip is that of a silent room: its level is very low, or low and always the same.

    Args:
        clip: Mono samples `(time,)` at 16 kHz.

    Example:
        >>> hiss = np.random.default_rng(0).normal(0, 0.01, 16000).astype(np.float32)
        >>> is_steady(hiss), is_steady(hiss * np.linspace(0, 1, 16000, dtype=np.float32))
        (True, False)
    """
    frames = clip[: len(clip) // _LEVEL * _LEVEL].reshape(-1, _LEVEL)
    if len(frames) < _JUDGED:
        return False
    levels = 20 * np.log10(np.sqrt(np.mean(np.square(frames, dtype=np.float64), axis=1)) + 1e-9)
    quiet, loud = np.quantile(levels, [0.05, 0.95])
    return bool(loud < _SILENCE or (loud < _LOW and loud - quiet < _STEADY))


def check_pace(text: str, *, seconds: float) -> list[str]:
    """Say that a transcript cannot be of a recording, where nobody speaks so fast.

    Example:
        >>> check_pace("Oh no", seconds=0.5), len(check_pace("Nobody says all of this in half a second", seconds=0.5))
        ([], 1)
    """
    letters = sum(map(str.isalnum, text))
    if letters < _LETTERS * max(seconds, 0.5):
        return []
    return [
        f"the transcript has {letters} letters and the recording {seconds:.1f} s, faster than anybody speaks: check "
        "that they belong together"
    ]


def load_transcriber(choice: str | None, *, model: str | None = None, device: str = "cpu") -> Transcriber | None:
    """Load a recogniser by name; None for no recogniser.

    Args:
        choice: `whisper`, `sphinx`, `none`; None takes whisper where it is installed with a model at hand, else none.
        model: For whisper: a name, Hub id or folder.
        device: For whisper: where to compute.

    Raises:
        SettingsError: No such recogniser.
        EncoderError: It cannot be had.
    """
    if choice is None:
        if importlib.util.find_spec("faster_whisper") is None:
            return None
        if model is not None:
            return WhisperTranscriber(model, device=device)
        try:
            return WhisperTranscriber(device=device, local=True)
        except EncoderError:
            return None
    if choice not in RECOGNISERS:
        raise SettingsError(f"{choice!r} is no recogniser", where="--asr", remedy=nearest(choice, RECOGNISERS))
    if choice == "whisper":
        return WhisperTranscriber(model or WHISPER, device=device)
    return SphinxTranscriber() if choice == "sphinx" else None


@dataclass(frozen=True, kw_only=True)
class Transcribed:
    """A manifest whose words a recogniser has written down.

    Attributes:
        manifest: With its words in `text` and its name in `text_source`, which says where it recognised words in
            silence; the rest is as before.
        failed: Utterances whose sound or language the recogniser cannot use, and why; they have no words.
        computed: How many sounds were listened to now, not found in the journal.
    """

    manifest: pd.DataFrame
    failed: Mapping[str, EmofuseError]
    computed: int


@alone("out", folder=False)
def transcribe_manifest(
    manifest: pd.DataFrame,
    transcriber: Transcriber,
    out: Path,
    *,
    jobs: int | None = None,
    progress: Progress = Silent(),
) -> Transcribed:
    """Write a manifest with the words that a recogniser hears in the place of its transcripts.

    What is heard goes into a journal beside `out` at once, by the sound's content and the recogniser's name: a run
    that was cut off goes on from there, and a manifest that has grown pays for what is new. An utterance without a
    sound, or whose text is not what its sound says (column `spoken`), keeps its words and their source.

    Args:
        manifest: Whose sounds to listen to.
        transcriber: The recogniser.
        out: Manifest to write.
        jobs: Parallel processes for Sphinx; by default one a core. Other recognisers share one process.
        progress: Told about each sound, as it is read and as it is heard.

    Raises:
        ManifestError: No utterance has a sound, or `out` is something else than a manifest of the corpus.
        SettingsError: Several processes are asked for, and the recogniser is not Sphinx.
    """
    if jobs is not None and jobs > 1 and not isinstance(transcriber, SphinxTranscriber):
        raise SettingsError(
            f"{transcriber.name} hears in one process", where="--jobs", remedy="leave it out, or use --asr sphinx"
        )
    check_place(out, manifest)
    spoken = [row for row in utterances(manifest[manifest["spoken"].isna()]) if row.audio is not None]
    if not spoken:
        raise ManifestError("no utterance has a sound that says its text", remedy="transcribe another manifest")
    journal = out.with_name(f"{out.name}.heard.jsonl")
    hearer = _HEARS_AS.get(transcriber.name, transcriber.name)
    heard = _heard_before(journal)
    failed: dict[str, EmofuseError] = _foreign(manifest, spoken, transcriber)
    sounds: dict[str, str] = {}
    readable = [row for row in spoken if row.utterance not in failed]
    for row in track(readable, "Reading audio files", total=len(readable), progress=progress):
        try:
            sounds[row.utterance] = content_key(row.audio or "", start=row.start, end=row.end)
        except AudioError as error:
            failed[row.utterance] = error
    first = {sounds[row.utterance]: row for row in reversed(spoken) if row.utterance in sounds}
    new = [row for row in first.values() if (hearer, sounds[row.utterance]) not in heard][::-1]
    deaf: dict[str, AudioError] = {}
    notes: dict[str, tuple[str, ...]] = {}
    progress.start(LABEL, len(first))
    progress.advance(LABEL, len(first) - len(new))
    try:
        with appended(journal) as file:
            for row, found, remarks in _listen(new, transcriber, jobs=process_count(jobs)):
                sound = sounds[row.utterance]
                notes[row.utterance] = remarks
                if isinstance(found, AudioError):
                    deaf[sound] = found
                else:
                    told = {"recogniser": hearer, "sound": sound, "text": found, "silence": IN_SILENCE in remarks}
                    # A line of its own, whatever was cut off before.
                    file.write(f"\n{json.dumps(told)}\n")
                    file.flush()
                    heard[hearer, sound] = (found, IN_SILENCE in remarks)
                progress.advance(LABEL)
    finally:
        progress.finish(LABEL)
    failed |= {name: deaf[sound] for name, sound in sounds.items() if sound in deaf}
    texts = {name: heard[hearer, sound] for name, sound in sounds.items() if sound not in deaf}
    for name, (text, silent) in texts.items():
        said = (IN_SILENCE,) if silent else () if text else (NO_WORDS,)
        notes[name] = tuple(dict.fromkeys((*notes.get(name, ()), *said)))
    for note in count_notes(notes):
        progress.note(f"{transcriber.name}: {note}")
    order = {row.utterance: place for place, row in enumerate(spoken)}
    failed = dict(sorted(failed.items(), key=lambda one: order[one[0]]))
    listened = manifest["utterance"].isin([row.utterance for row in spoken])
    names = manifest["utterance"]
    written = manifest.assign(
        text=manifest["text"].mask(listened, names.map({name: text or None for name, (text, _) in texts.items()})),
        text_source=manifest["text_source"].mask(
            listened,
            names.map(
                {
                    name: f"{transcriber.name}, in silence" if silent else transcriber.name
                    for name, (_, silent) in texts.items()
                }
            ),
        ),
        # What was said between these utterances has not been heard.
        omitted=None,
    ).astype({"text": "string", "text_source": "string", "omitted": "string"})
    write_manifest(written, out)
    return Transcribed(manifest=written, failed=failed, computed=len(new) - len(deaf))


def _foreign(manifest: pd.DataFrame, rows: Sequence[Utterance], transcriber: Transcriber) -> dict[str, EmofuseError]:
    """Utterances in a language of which the recogniser would make English."""
    languages = manifest.set_index("utterance")["language"].dropna()
    remedy = "use --asr whisper with a model of many languages, such as base"
    return {
        row.utterance: SettingsError(
            f"the language is {languages[row.utterance]}, and {transcriber.name} knows English only",
            where=row.audio,
            remedy=remedy,
        )
        for row in rows
        if transcriber.english_only and not is_english(languages.get(row.utterance))
    }


def _listen(rows: Sequence[Utterance], transcriber: Transcriber, *, jobs: int) -> Iterator[_Heard]:
    """What is heard in each recording, or why nothing can be, in the order in which that is known."""
    if isinstance(transcriber, SphinxTranscriber) and min(jobs, len(rows)) > 1:
        yield from in_processes(_by_sphinx, rows, jobs=jobs, died=_died)
    else:
        yield from (_hear(row, transcriber) for row in rows)


def _hear(row: Utterance, transcriber: Transcriber) -> _Heard:
    try:
        recording = read_audio(row.audio or "", start=row.start, end=row.end)
        text = transcriber.transcribe(recording.samples)
        silent = bool(text) and is_steady(recording.samples)
        return row, text, (*recording.notes, *([IN_SILENCE] * silent))
    except AudioError as error:
        return row, error, ()


_WORKER: dict[str, SphinxTranscriber] = {}


def _by_sphinx(row: Utterance) -> _Heard:
    if "sphinx" not in _WORKER:
        _WORKER["sphinx"] = SphinxTranscriber()
    return _hear(row, _WORKER["sphinx"])


def _died(row: Utterance) -> _Heard:
    remedy = "check the recording, or make more memory free"
    return row, AudioError("the recogniser died of this sound", where=row.audio, remedy=remedy), ()


def _heard_before(journal: Path) -> dict[tuple[str, str], tuple[str, bool]]:
    """What was heard, and whether in silence, by recogniser and sound."""
    heard: dict[tuple[str, str], tuple[str, bool]] = {}
    if journal.exists():
        with journal.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                # A process that was killed may have left half a line behind, whose sound is heard again.
                with suppress(ValueError, KeyError, TypeError):
                    told = json.loads(line)
                    heard[told["recogniser"], told["sound"]] = (str(told["text"]), told.get("silence") is True)
    return heard
