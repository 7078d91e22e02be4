"""What is said in a recording, for the user who has no transcript, and for a corpus read as a recogniser hears it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emofuse.audio import content_key, load_audio
from emofuse.errors import AudioError, EncoderError, ManifestError, SettingsError
from emofuse.manifest import utterances, write_manifest
from emofuse.progress import Progress, Silent, track

Recogniser = Literal["whisper", "sphinx", "none"]
RECOGNISERS: Sequence[Recogniser] = ("whisper", "sphinx", "none")
WHISPER = "base.en"


class Transcriber(Protocol):
    """What turns a clip into words; its `name` becomes the text's source."""

    name: str

    def transcribe(self, clip: NDArray[np.float32]) -> str:
        """The words of a 16 kHz mono clip `(samples,)`; empty where none are heard."""


class SphinxTranscriber:
    """PocketSphinx with its own US English model; it needs nothing beside its package, and often mishears.

    Example:
        >>> isinstance(SphinxTranscriber().transcribe(np.zeros(16000, np.float32)), str)
        True
    """

    name = "sphinx"

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder: Any = Decoder(loglevel="FATAL")

    def transcribe(self, clip: NDArray[np.float32]) -> str:
        """See `Transcriber.transcribe`."""
        sound = (np.clip(clip, -1, 1) * 32767).astype(np.int16)
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
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise EncoderError(
                "faster-whisper is not installed", where="--asr whisper", remedy='run pip install "emofuse[asr]"'
            ) from error
        try:
            self._model: Any = WhisperModel(model, device=device, compute_type="int8", local_files_only=local)
        except Exception as error:
            raise EncoderError(
                "this speech recogniser cannot be loaded",
                where=model,
                remedy="give a name such as base.en while the Hub can be reached, or a folder",
            ) from error
        # Models hear differently, so their words are told apart.
        self.name = f"whisper {Path(model).name}"

    def transcribe(self, clip: NDArray[np.float32]) -> str:
        """See `Transcriber.transcribe`."""
        segments, _ = self._model.transcribe(clip, beam_size=1, condition_on_previous_text=False)
        return " ".join(segment.text.strip() for segment in segments).strip()


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
        raise SettingsError(
            f"{choice!r} is no recogniser", where="--asr", remedy=f"use one of {', '.join(RECOGNISERS)}"
        )
    if choice == "whisper":
        return WhisperTranscriber(model or WHISPER, device=device)
    return SphinxTranscriber() if choice == "sphinx" else None


@dataclass(frozen=True, kw_only=True)
class Transcribed:
    """A manifest whose words a recogniser has written down.

    Attributes:
        manifest: With its words in `text` and its name in `text_source`; the rest is as before.
        failed: Utterances whose sound cannot be used, and why; they have no words.
        computed: How many sounds were listened to now, not found in the journal.
    """

    manifest: pd.DataFrame
    failed: Mapping[str, AudioError]
    computed: int


def transcribe_manifest(
    manifest: pd.DataFrame, transcriber: Transcriber, out: Path, *, progress: Progress = Silent()
) -> Transcribed:
    """Write a manifest with the words that a recogniser hears in the place of its transcripts.

    What is heard goes into a journal beside `out` at once, by the sound's content and the recogniser's name: a run
    that was cut off goes on from there, and a manifest that has grown pays for what is new. An utterance without a
    sound, or whose text is not what its sound says (column `spoken`), keeps its words and their source.

    Args:
        manifest: Whose sounds to listen to.
        transcriber: The recogniser.
        out: Manifest to write.
        progress: Told about each utterance.

    Raises:
        ManifestError: No utterance has a sound.
    """
    spoken = [row for row in utterances(manifest[manifest["spoken"].isna()]) if row.audio is not None]
    if not spoken:
        raise ManifestError("no utterance has a sound that says its text", remedy="transcribe another manifest")
    journal = out.with_name(f"{out.name}.heard.jsonl")
    heard = _heard_before(journal)
    failed: dict[str, AudioError] = {}
    texts: dict[str, str] = {}
    computed = 0
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a", encoding="utf-8") as file:
        for row in track(spoken, "Transcribing", total=len(spoken), progress=progress):
            assert row.audio is not None  # noqa: S101
            try:
                sound = content_key(row.audio, start=row.start, end=row.end)
                if (transcriber.name, sound) not in heard:
                    text = transcriber.transcribe(load_audio(row.audio, start=row.start, end=row.end))
                    line = json.dumps({"recogniser": transcriber.name, "sound": sound, "text": text})
                    # A line of its own, whatever was cut off before.
                    file.write(f"\n{line}\n")
                    file.flush()
                    heard[transcriber.name, sound] = text
                    computed += 1
                texts[row.utterance] = heard[transcriber.name, sound]
            except AudioError as error:
                failed[row.utterance] = error
    listened = manifest["utterance"].isin([row.utterance for row in spoken])
    names = manifest["utterance"]
    found = manifest.assign(
        text=manifest["text"].mask(listened, names.map({name: text or None for name, text in texts.items()})),
        text_source=manifest["text_source"].mask(listened, names.map(dict.fromkeys(texts, transcriber.name))),
    ).astype({"text": "string", "text_source": "string"})
    write_manifest(found, out)
    return Transcribed(manifest=found, failed=failed, computed=computed)


def _heard_before(journal: Path) -> dict[tuple[str, str], str]:
    """What was heard, by recogniser and sound."""
    heard: dict[tuple[str, str], str] = {}
    if journal.exists():
        with journal.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                # A process that was killed may have left half a line behind, whose sound is heard again.
                with suppress(ValueError, KeyError, TypeError):
                    told = json.loads(line)
                    heard[told["recogniser"], told["sound"]] = str(told["text"])
    return heard
