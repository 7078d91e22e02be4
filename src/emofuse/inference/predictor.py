"""Predict the emotion of recordings and transcripts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emofuse.asr.base import Recogniser, load_recogniser
from emofuse.asr.checks import check_pace, is_steady
from emofuse.audio import LONGEST_UTTERANCE, SAMPLING_RATE, Recording, read_audio, read_samples
from emofuse.audio.doubts import doubts
from emofuse.checkpoint import Checkpoint, load_checkpoint
from emofuse.errors import AudioError, CheckpointError, EmofuseError, SettingsError
from emofuse.features.dataset import Batch, pad_extra
from emofuse.features.extract import cut_notes
from emofuse.features.extras import EXTRAS, Facts
from emofuse.features.reference import FEWEST, mean_of
from emofuse.inference.card import LARGE, model_folder
from emofuse.inference.network_inputs import NetworkInputs
from emofuse.inputs import check_confidence, check_text, refuse_address
from emofuse.language import is_foreign
from emofuse.manifest import UNSTATED
from emofuse.models.device import check_device
from emofuse.models.ensemble import Ensemble, needs_of
from emofuse.progress import Progress, Silent, track
from emofuse.task import Classification
from emofuse.types import UNCERTAIN, Alignment, Prediction

Audio = str | os.PathLike[str] | NDArray[Any]
"""A recording, or samples."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Mean features of several clips of one speaker or recording.

    Attributes:
        clips: How many.
        means: By network, `(layers, width)`.
        skipped: Clips that could not be used.
    """

    clips: int
    means: Mapping[str, torch.Tensor]
    skipped: tuple[AudioError, ...] = ()


_Read = Mapping[str, Mapping[str, torch.Tensor]]
"""Inputs of each network from a modality, by the names of `Batch`."""


def load(
    folder: Path | str | None = None,
    *,
    asr: str | None = None,
    asr_model: str | None = None,
    speech_encoder: str | None = None,
    min_confidence: float = 0.0,
    device: str = "cpu",
    trust: bool = False,
) -> Predictor:
    """Load a trained model from its folder, or a shipped one.

    Args:
        folder: Folder of a trained model, or of a run of one model; None for the built-in model, `large` for that on
            Whisper-small's encoder, which is fetched from the Hub once.
        asr: Recogniser for recordings without transcript: `whisper`, `sphinx`, the path to a recogniser of the user's
            own, or `none`; None takes whisper if it is installed with a model in the cache, else none.
        asr_model: For whisper: a name, Hub id or folder.
        speech_encoder: Folder of the speech encoder, where it is not where the model names it.
        min_confidence: Posterior below which the label is `uncertain`.
        device: Torch device.
        trust: Load classes from outside the package, which runs their code.

    Raises:
        CheckpointError: The folder is not a trained model, or its encoder is not the one that it was trained on.
        EncoderError: The encoder cannot be loaded.
        SettingsError: The confidence is no probability, or the model predicts values, which have none.
    """
    checkpoint = load_checkpoint(model_folder(folder), trust=trust)
    reads_text = "text" in checkpoint.modalities
    transcriber = load_recogniser(asr, model=asr_model, device=device) if reads_text else None
    return Predictor(
        checkpoint,
        transcriber=transcriber,
        speech_encoder=speech_encoder,
        min_confidence=min_confidence,
        device=device,
        trust=trust,
        download=folder == LARGE,
    )


class Predictor:
    """A trained model, ready to predict.

    Args:
        checkpoint: The model.
        transcriber: Recogniser for recordings without transcript.
        speech_encoder: Folder of the speech encoder, where it is not where the model names it.
        min_confidence: Posterior below which the label is `uncertain`.
        device: Torch device.
        trust: Also load an aligner from outside the package, which runs its code.
        download: Whether an encoder of the Hub may be fetched.

    Raises:
        SettingsError: The device cannot be used, the confidence is no probability, or the model predicts values, which
            have none.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        transcriber: Recogniser | None = None,
        speech_encoder: str | None = None,
        min_confidence: float = 0.0,
        device: str = "cpu",
        trust: bool = False,
        download: bool = False,
    ) -> None:
        check_device(device)
        check_confidence(min_confidence)
        if min_confidence and not isinstance(checkpoint.task, Classification):
            raise SettingsError(
                f"the {checkpoint.name} model predicts values, which have no posterior",
                where="min_confidence",
                remedy="leave it out",
            )
        self._min_confidence = min_confidence
        self.checkpoint = checkpoint
        self.device, self._trust = device, trust
        self._transcriber = transcriber
        self._model = checkpoint.model.to(device)
        self.reference: Reference | None = None
        self._networks = NetworkInputs(
            checkpoint, speech_encoder=speech_encoder, device=device, trust=trust, download=download
        )
        if "text" in self.needs:
            self._networks.text_reader()

    @property
    def classes(self) -> tuple[str, ...]:
        """Emotions, in the order of the model's outputs."""
        return self.checkpoint.task.names

    @property
    def needs(self) -> tuple[str, ...]:
        """Modalities that the model requires; late fusion requires either."""
        return needs_of(self._model)

    def predict(
        self,
        audio: Audio | None = None,
        *,
        text: str | None = None,
        alignment: Alignment | None = None,
        sampling_rate: int = SAMPLING_RATE,
    ) -> Prediction:
        """Predict the emotion of one utterance.

        Args:
            audio: A recording, or mono samples at 16 kHz, `(samples,)`, as floats between -1 and 1 or signed integers.
            text: Its transcript; one without letters and digits counts as none. If the recogniser finds no words, a
                model that needs text reads an empty one, as in training.
            alignment: Its alignment, for models that read words, syllables or phones; by default the aligner of
                training aligns it, and frames replace segments where that fails.
            sampling_rate: Of samples; it must be 16,000 Hz (a file may have any).

        Raises:
            AudioError: The audio cannot be used.
            SettingsError: A modality that the model needs is missing, text is no string, or samples have another rate.
            AlignmentError: The model reads segments, and the aligner of its training cannot be run here.
            EncoderError: The CTC model that aligned its training cannot be loaded.
            CheckpointError: The output is not finite.
        """
        if text is not None:
            check_text(text)
        if isinstance(audio, os.PathLike):
            audio = Path(audio)
        if isinstance(audio, (str, Path)):
            refuse_address(audio)
        if sampling_rate != SAMPLING_RATE:
            raise SettingsError(
                f"samples at {sampling_rate} Hz were given",
                remedy=f"resample them to {SAMPLING_RATE} Hz or pass a file",
            )
        takes = self.checkpoint.modalities
        inputs: dict[str, dict[str, dict[str, torch.Tensor]]] = {}
        notes: list[str] = []
        clip = None
        if audio is not None and (self._transcriber or "speech" in takes):
            recording = _read(audio)
            clip = recording.samples
            notes += recording.notes
            notes += doubts(clip)
        recognised = False
        if not _says(text) and clip is not None and "text" in takes and self._transcriber is not None:
            text, note = self._recognise(self._transcriber, clip)
            recognised = bool(text)
            notes.append(note)
        elif clip is not None and text is not None:
            notes += check_pace(text, seconds=len(clip) / SAMPLING_RATE)
        if not _says(text) and "text" not in self.needs:
            text = None
        spoken = text
        if "text" in takes and text is not None and self._is_foreign(text, recognised=recognised):
            languages = ", ".join(self.checkpoint.text_languages)
            left_out = "text" not in self.needs and "speech" in takes and clip is not None
            notes.append(
                f"the text is not in a language that the model reads ({languages}), so "
                f"{'it was left out' if left_out else 'the prediction is unreliable'}"
            )
            text = None if left_out else text
        if "speech" in takes and clip is not None:
            notes += self._networks.notes
            if self._networks.read_segments:
                alignment, more = self._networks.align(clip, spoken, alignment)
                notes += more
            inputs["speech"] = self._networks.speech(clip, alignment)
            if self.reference is not None:
                for name, mean in self.reference.means.items():
                    inputs["speech"][name]["speech_reference"] = mean[None]
                notes.append(f"centred on {self.reference.clips} reference clips")
        if "text" in takes and text is not None:
            inputs["text"] = self._networks.text(text)
            notes += cut_notes(self._networks.text_reader(), {"": text}).get("", ())
            if self.checkpoint.text.context:
                notes.append("the model was trained with dialogue context, and here there is none")
        for modality, value in (("speech", audio), ("text", text)):
            if modality in takes and value is None:
                if modality in self.needs or not inputs:
                    raise self._lack(modality, where=audio if isinstance(audio, (str, Path)) else None)
                if modality == "text" and spoken is not None:
                    continue
                notes.append(f"no {modality} was given, so the prediction uses {' and '.join(inputs)} alone")
            elif modality not in takes and value is not None and modality == "text":
                notes.append(f"the {self.checkpoint.name} model does not read text, so it was left out")
        scores = self._scores(inputs, Facts(text=spoken or ""))
        source = str(audio) if isinstance(audio, (str, Path)) else None
        if not np.isfinite(scores).all():
            raise CheckpointError(
                "the model's output is not finite, because of its weights or the audio",
                where=source,
                remedy="copy the model again from where it was trained, and check the audio",
            )
        found = self.checkpoint.task.prediction(scores)
        if scores.max() < self._min_confidence:
            found["label"] = UNCERTAIN
        return Prediction(
            **found,
            modalities=tuple(inputs),
            source=source,
            text=spoken,
            notes=tuple(notes),
            measured=self.checkpoint.measured,
        )

    def adapt(self, clips: Iterable[Audio]) -> Reference:
        """Take clips of one speaker or recording as reference for all that follows, without labels.

        What a clip sounds like is mostly its speaker and channel, and the mean of several clips takes both away. They
        may be clips that are to be predicted. `predictor.reference = None` ends it.

        Args:
            clips: Five or more recordings or samples, at best with several emotions.

        Returns:
            The reference, also in `reference`.

        Raises:
            SettingsError: The model was not trained for it, or fewer than five clips can be used.
            AlignmentError: The model reads segments, and the aligner of its training cannot be run here.

        Example:
            >>> from emofuse.testing import tone
            >>> predictor = load(asr="none")
            >>> predictor.adapt([tone(1.0, frequency=200.0 + 10 * step) for step in range(5)]).clips
            5
            >>> "centred on 5 reference clips" in predictor.predict(tone(1.0)).notes
            True
        """
        if not self.checkpoint.references:
            raise SettingsError(
                f"the {self.checkpoint.name} model was not trained to take a reference",
                where="reference",
                remedy="leave it out, or train one with train.references=0.5",
            )
        means: dict[str, list[torch.Tensor]] = {}
        used, skipped = 0, []
        for clip in clips:
            try:
                samples = _read(clip).samples
                alignment = self._networks.align(samples, None, None)[0] if self._networks.read_segments else None
            except AudioError as error:
                skipped.append(error)
                continue
            used += 1
            for name, read in self._networks.speech(samples, alignment).items():
                means.setdefault(name, []).append(read["speech"][0].mean(1))
        if used < FEWEST:
            first = f" (the first: {skipped[0].what})" if skipped else ""
            raise SettingsError(
                f"{used} of {used + len(skipped)} reference clips can be used{first}",
                where="reference",
                remedy=f"give {FEWEST} or more of one speaker",
            )
        taken = {name: mean_of(means[name]) for name in self.checkpoint.references if name in means}
        self.reference = Reference(clips=used, means=taken, skipped=tuple(skipped))
        return self.reference

    def predict_many(
        self,
        files: Iterable[Audio | None],
        *,
        texts: Iterable[str | None] | None = None,
        alignments: Iterable[Alignment | EmofuseError | None] | None = None,
        progress: Progress = Silent(),
    ) -> Iterator[Prediction | EmofuseError]:
        """Predict the emotion of many files, one after the other, lazily.

        A bad file gives an error instead of a prediction, and the others go on.

        Args:
            files: Recordings or samples; None for text only.
            texts: Transcripts in the same order; a single one is for all files, and a single None as a file is for all
                texts.
            alignments: Alignment of each file or an error, for a model that reads segments.
            progress: Reports each file.

        Raises:
            SettingsError: Another number of texts or alignments than of files, one string instead of several, or no
                text for a model that needs it.
            AlignmentError: The model reads segments, and the aligner of its training cannot be run here.
            EncoderError: The CTC model that aligned its training cannot be loaded.
        """
        for name, given in (("files", files), ("texts", texts)):
            if isinstance(given, (str, os.PathLike)):
                raise SettingsError(f"{name} is one {type(given).__name__}", where=name, remedy="give a list")
        clips = list(files)
        words = [None] * len(clips) if texts is None else list(texts)
        silent = all(one is None for one in clips)
        if len(words) == 1:
            words *= len(clips)
        elif silent and len(clips) == 1:
            clips *= len(words)
        if len(words) != len(clips):
            raise SettingsError(
                f"{len(words)} texts were given for {len(clips)} files",
                remedy="give one text, or one for each file",
            )
        bounds = [None] * len(clips) if alignments is None else list(alignments)
        if len(bounds) != len(clips):
            raise SettingsError(
                f"{len(bounds)} alignments were given for {len(clips)} files", remedy="give one for each file"
            )
        if set(words) == {None} and "text" in self.needs and self._transcriber is None:
            raise self._lack("text")
        if silent and clips and "speech" in self.needs:
            raise self._lack("speech")
        if self._networks.read_segments and None in bounds:
            self._networks.aligner()
        words_come = self._transcriber is not None or set(words) != {None}
        if words_come and "text" in self.checkpoint.modalities:
            self._networks.text_reader()
        pairs = zip(clips, words, bounds, strict=True)
        for file, text, alignment in track(pairs, "Predicting", total=len(clips), progress=progress):
            yield self._answer(file, text, alignment)

    def _answer(
        self, file: Audio | None, text: str | None, alignment: Alignment | EmofuseError | None
    ) -> Prediction | EmofuseError:
        """A prediction or an error, which must not affect other files."""
        if isinstance(alignment, EmofuseError):
            if self._networks.read_segments:
                return alignment
            alignment = None
        name = os.fspath(file) if isinstance(file, (str, os.PathLike)) else "samples"
        try:
            return self.predict(file, text=text, alignment=alignment)
        except EmofuseError as error:
            return error
        except MemoryError:
            return AudioError("the memory does not suffice", where=name, remedy="cut it, or free some memory")
        except Exception as error:
            first = next(iter(str(error).splitlines()), "")
            return AudioError(
                f"this cannot be used ({type(error).__name__}: {first})",
                where=name,
                remedy="leave it out",
            )

    def _lack(self, modality: str, *, where: Path | str | None = None) -> SettingsError:
        what, remedy = {
            "speech": ("speech", "give a recording"),
            "text": ("a transcript", "give one with text= or --text, or use a speech or late model"),
        }[modality]
        return SettingsError(f"the {self.checkpoint.name} model needs {what}", where=where, remedy=remedy)

    def _recognise(self, transcriber: Recogniser, clip: NDArray[np.float32]) -> tuple[str, str]:
        """The recognised transcript of a clip, and a note."""
        text = transcriber.transcribe(clip)
        if not text:
            return "", f"{transcriber.source} recognised no words"
        english = ", as if all speech were English" if transcriber.languages == ("en",) else ""
        steady = ", in silence or steady noise" if is_steady(clip) else ""
        sources = self.checkpoint.text_sources
        known = sources and transcriber.source not in sources and UNSTATED not in sources
        trained = f"; the model was trained on {', '.join(sources)} transcripts" if known else ""
        return text, f"{transcriber.source} recognised {text!r}{english}{steady}{trained}"

    def _is_foreign(self, text: str, *, recognised: bool) -> bool:
        languages = self.checkpoint.text_languages
        if recognised and self._transcriber is not None and self._transcriber.languages == ("en",):
            return bool(languages) and "en" not in languages
        return is_foreign(text, languages)

    def _scores(
        self, inputs: Mapping[str, Mapping[str, Mapping[str, torch.Tensor]]], facts: Facts
    ) -> NDArray[np.float64]:
        batches: dict[str, Batch] = {}
        for name, network in self.checkpoint.networks.items():
            read = [inputs[modality][name] for modality in network.inputs.modalities if modality in inputs]
            if len(read) == len(network.inputs.modalities):
                tensors: dict[str, Any] = {key: value for one in read for key, value in one.items()}
                extras = {one: pad_extra([EXTRAS[one](facts)]) for one in network.inputs.extras_at_test}
                batches[name] = Batch(**tensors, extras=extras).to(self.device)
        with torch.inference_mode():
            if isinstance(self._model, Ensemble):
                return np.asarray(self._model(batches)[0].numpy())
            task = self.checkpoint.task
            return np.asarray(task.scores(self._model(batches[self.checkpoint.name]).logits)[0].cpu().numpy())


def _says(text: str | None) -> bool:
    return text is not None and any(map(str.isalnum, text))


def _read(audio: Audio) -> Recording:
    if isinstance(audio, (str, os.PathLike)):
        return read_audio(Path(audio), longest=LONGEST_UTTERANCE)
    return read_samples(audio, longest=LONGEST_UTTERANCE)
