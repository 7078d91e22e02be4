"""Predict the emotion of recordings and transcripts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emofuse.align.again import aligner_again
from emofuse.align.base import Aligner, align_clip
from emofuse.align.fit import check_words
from emofuse.asr.base import Recogniser, load_recogniser
from emofuse.asr.checks import check_pace, is_steady
from emofuse.audio import LONGEST_UTTERANCE, SAMPLING_RATE, Recording, read_audio, read_samples
from emofuse.audio.doubts import doubts
from emofuse.audio.process import start_decoder
from emofuse.checkpoint import Checkpoint, load_checkpoint
from emofuse.encoders import SpeechEncoder, TextEncoder, load_speech_encoder, load_text_encoder
from emofuse.errors import AlignmentError, AudioError, CheckpointError, EmofuseError, SettingsError
from emofuse.features.dataset import Batch, pad, pad_bounds, pad_extra
from emofuse.features.extract import cut_notes, features_of, to_steps, to_words
from emofuse.features.extras import EXTRAS, Facts
from emofuse.features.reference import FEWEST, mean_of
from emofuse.features.segments import step_bounds
from emofuse.inference.card import model_folder
from emofuse.inputs import check_confidence, check_text, refuse_address
from emofuse.language import is_foreign
from emofuse.manifest import UNSTATED
from emofuse.models.device import check_device
from emofuse.models.ensemble import Ensemble, needs_of
from emofuse.plan import ModelPlan, pools_frames
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
    min_confidence: float = 0.0,
    device: str = "cpu",
    trust: bool = False,
) -> Predictor:
    """Load a trained model from its folder, or the built-in one.

    Args:
        folder: Folder of a trained model, or of a run of one model; None for the built-in model.
        asr: Recogniser for recordings without transcript: `whisper`, `sphinx`, the path to a recogniser of the user's
            own, or `none`; None takes whisper if it is installed with a model in the cache, else none.
        asr_model: For whisper: a name, Hub id or folder.
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
    return Predictor(checkpoint, transcriber=transcriber, min_confidence=min_confidence, device=device, trust=trust)


class Predictor:
    """A trained model, ready to predict.

    Args:
        checkpoint: The model.
        transcriber: Recogniser for recordings without transcript.
        min_confidence: Posterior below which the label is `uncertain`.
        device: Torch device.
        trust: Also load an aligner from outside the package, which runs its code.

    Raises:
        SettingsError: The device cannot be used, the confidence is no probability, or the model predicts values, which
            have none.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        transcriber: Recogniser | None = None,
        min_confidence: float = 0.0,
        device: str = "cpu",
        trust: bool = False,
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
        self._aligner: Aligner | EmofuseError | None = None
        self._speech: SpeechEncoder | None = None
        self._text: TextEncoder | None = None
        if "speech" in checkpoint.modalities:
            start_decoder()
            self._speech = load_speech_encoder(checkpoint.speech, device=device, download=False)
            self._check("speech", self._speech)
        if "text" in self.needs and checkpoint.subwords is None:
            self._load_text()

    def _load_text(self) -> TextEncoder:
        # Where speech alone suffices, loading the text encoder would double the time to the first prediction;
        # `predict_many` loads it before the first file if there is text.
        if self._text is None:
            self._text = load_text_encoder(self.checkpoint.text, device=self.device, download=False)
            self._check("text", self._text)
        return self._text

    def _check(self, modality: str, encoder: SpeechEncoder | TextEncoder) -> None:
        wanted, found = self.checkpoint.encoders[modality], encoder.specification
        if (wanted.revision, wanted.selected, wanted.width) != (found.revision, found.selected, found.width):
            raise CheckpointError(
                f"the {modality} encoder has revision {found.revision[:12]}, and the model was trained on "
                f"{wanted.revision[:12]}",
                where=found.name,
                remedy="put back the encoder that the model was trained on, or train again",
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Emotions, in the order of the model's outputs."""
        return self.checkpoint.task.names

    @property
    def needs(self) -> tuple[str, ...]:
        """Modalities that the model requires; late fusion requires either."""
        return needs_of(self._model)

    @property
    def _reads_segments(self) -> bool:
        return any(one.inputs.tiers for one in self.checkpoint.networks.values())

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
            if self._reads_segments:
                alignment, more = self._alignment(clip, spoken, alignment)
                notes += more
            inputs["speech"] = self._read_speech(clip, alignment)
            if self.reference is not None:
                for name, mean in self.reference.means.items():
                    inputs["speech"][name]["speech_reference"] = mean[None]
                notes.append(f"centred on {self.reference.clips} reference clips")
        if "text" in takes and text is not None:
            inputs["text"] = self._read_text(text)
            subwords = self.checkpoint.subwords
            notes += cut_notes(self._load_text() if subwords is None else subwords, {"": text}).get("", ())
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
            >>> predictor.predict(tone(1.0)).notes[-1]
            'centred on 5 reference clips'
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
                alignment = self._alignment(samples, None, None)[0] if self._reads_segments else None
            except AudioError as error:
                skipped.append(error)
                continue
            used += 1
            for name, read in self._read_speech(samples, alignment).items():
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
        if self._reads_segments and None in bounds:
            self._aligner_of_training()
        words_come = self._transcriber is not None or set(words) != {None}
        if words_come and "text" in self.checkpoint.modalities and self.checkpoint.subwords is None:
            self._load_text()
        pairs = zip(clips, words, bounds, strict=True)
        for file, text, alignment in track(pairs, "Predicting", total=len(clips), progress=progress):
            yield self._answer(file, text, alignment)

    def _answer(
        self, file: Audio | None, text: str | None, alignment: Alignment | EmofuseError | None
    ) -> Prediction | EmofuseError:
        """A prediction or an error, which must not affect other files."""
        if isinstance(alignment, EmofuseError):
            if self._reads_segments:
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

    def _aligner_of_training(self) -> Aligner | None:
        # Loaded once, when needed: the dictionary takes as long as a small encoder.
        if self._aligner is None:
            try:
                self._aligner = aligner_again(self.checkpoint.alignment, device=self.device, trust=self._trust)
            except EmofuseError as error:
                self._aligner = error
        if isinstance(self._aligner, EmofuseError):
            raise self._aligner
        return self._aligner

    def _alignment(
        self, clip: NDArray[np.float32], text: str | None, given: Alignment | None
    ) -> tuple[Alignment | None, list[str]]:
        """The given alignment, or one by the aligner of training, and notes."""
        sources = self.checkpoint.alignment or {}
        trained = ", ".join(f"{name} {100 * count / sum(sources.values()):.0f} %" for name, count in sources.items())
        aligner = None if given else self._aligner_of_training()
        if given is None and aligner is None:
            return None, ["the model was trained without alignments, so frames stand for segments"]
        if given is None:
            assert aligner is not None  # noqa: S101
            languages = self.checkpoint.text_languages
            language = languages[0] if len(languages) == 1 and languages != ("en",) else None
            given = align_clip(aligner, clip, text or "", language=language)
        else:
            try:
                given = replace(given, note=check_words(text, given.tiers, language=None) or given.note)
            except AlignmentError as error:
                given = replace(given, tiers={}, problem=error.what)
        notes = [given.note] if given.note else []
        if given.problem:
            notes.append(f"not aligned, so frames stand for segments: {given.problem}")
        elif sources and set(sources) != {given.source}:
            notes.append(f"boundaries are from {given.source}, and in training they were from {trained}")
        return given, notes

    def _read_speech(
        self, clip: NDArray[np.float32], alignment: Alignment | None
    ) -> dict[str, dict[str, torch.Tensor]]:
        """Inputs of each network from a clip: steps, or frames and bounds where it pools them."""
        assert self._speech is not None  # noqa: S101
        settings, encoder = self.checkpoint.speech, self._speech.specification
        frames = self._speech.encode([clip])[0]
        inputs = {}
        for name, network in self._readers("speech"):
            steps = network.inputs.steps
            if pools_frames(network.inputs, settings):
                count = frames.shape[1]
                bounds = [
                    step_bounds(encoder, settings, frames=count, granularity=step, alignment=alignment)
                    for step in steps
                ]
                padded, mask = pad_bounds([torch.cat(bounds)])
                inputs[name] = _one("speech", torch.from_numpy(features_of(frames)))
                inputs[name] |= {"speech_bounds": padded, "speech_mask": mask}
            else:
                values = [to_steps(frames, encoder, settings, granularity=step, alignment=alignment) for step in steps]
                inputs[name] = _one("speech", torch.from_numpy(features_of(torch.cat(values, dim=1))))
        return inputs

    def _read_text(self, text: str) -> dict[str, dict[str, torch.Tensor]]:
        readers = self._readers("text")
        if self.checkpoint.subwords is not None:
            return dict.fromkeys(dict(readers), _one("text", self.checkpoint.subwords.encode([text])[0]))
        encoder = self._load_text()
        tokens = encoder.encode([text])[0]
        wanted = {name: network.inputs.text.step for name, network in readers if network.inputs.text}
        steps = {"token": tokens}
        if "word" in wanted.values():
            steps["word"] = to_words(tokens, encoder.word_of_tokens([text])[0])
        read = {step: _one("text", torch.from_numpy(features_of(values))) for step, values in steps.items()}
        return {name: read[step] for name, step in wanted.items()}

    def _readers(self, modality: str) -> list[tuple[str, ModelPlan]]:
        """The networks that read a modality."""
        networks = self.checkpoint.networks.items()
        return [(name, network) for name, network in networks if modality in network.inputs.modalities]

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


def _one(modality: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
    padded, mask = pad([values])
    return {modality: padded, f"{modality}_mask": mask}


def _says(text: str | None) -> bool:
    return text is not None and any(map(str.isalnum, text))


def _read(audio: Audio) -> Recording:
    if isinstance(audio, (str, os.PathLike)):
        return read_audio(Path(audio), longest=LONGEST_UTTERANCE)
    return read_samples(audio, longest=LONGEST_UTTERANCE)
