"""Forced alignment by a CTC recogniser of any language: the best path of symbols that spells the transcript.

Method: Viterbi search over the states of Graves et al., Connectionist Temporal Classification, ICML, 2006.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emofuse.align.base import Aligner
from emofuse.align.fit import DOUBTFUL
from emofuse.align.normalise import is_english, spoken_words
from emofuse.align.pronounce import pronounce
from emofuse.align.syllables import PHONES, plain, syllable_segments
from emofuse.audio import SAMPLING_RATE
from emofuse.errors import AlignmentError, EncoderError
from emofuse.types import Segment, Tier

_IPA: Mapping[str, tuple[str, ...]] = {
    "AA": ("ɑː", "ɑ"),
    "AE": ("æ",),
    "AH": ("ʌ", "ə"),
    "AO": ("ɔː", "ɔ"),
    "AW": ("aʊ",),
    "AY": ("aɪ",),
    "CH": ("tʃ", "ʧ"),
    "DH": ("ð",),
    "EH": ("ɛ",),
    "ER": ("ɜː", "ɚ", "ɝ"),
    "EY": ("eɪ",),
    "G": ("ɡ", "g"),
    "HH": ("h",),
    "IH": ("ɪ",),
    "IY": ("iː", "i"),
    "JH": ("dʒ", "ʤ"),
    "NG": ("ŋ",),
    "OW": ("oʊ",),
    "OY": ("ɔɪ",),
    "R": ("ɹ", "r"),
    "SH": ("ʃ",),
    "TH": ("θ",),
    "UH": ("ʊ",),
    "UW": ("uː", "u"),
    "Y": ("j",),
    "ZH": ("ʒ",),
}
"""IPA symbols of ARPAbet phones; the symbols of all others are their lower-case letters."""

_LETTERS_ONLY = "its symbols are neither letters nor phones"
_POOR = -4.0  # Log ratio of a symbol's probability to the best one's, in the symbol's best frame.
_ANY = -1  # A letter that the model does not know: it matches the best symbol of each frame.


def forced_path(log_probs: NDArray[np.floating[Any]], targets: Sequence[int], *, blank: int) -> NDArray[np.int64]:
    """Find the most probable path of `targets` through the frames.

    Args:
        log_probs: Of each symbol in each frame, `(frames, symbols)`.
        targets: Symbols in order.
        blank: The blank symbol.

    Returns:
        Index in `targets` of each frame, -1 for blank; shape `(frames,)`.

    Raises:
        AlignmentError: There are too few frames.

    Example:
        >>> frames = np.log([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
        >>> forced_path(frames, [1, 2], blank=0).tolist()
        [0, -1, 1]
    """
    symbols = np.full(2 * len(targets) + 1, blank)
    symbols[1::2] = targets
    # Transitions without a blank, unless both symbols are the same.
    leap = np.zeros(len(symbols), bool)
    leap[3::2] = symbols[3::2] != symbols[1:-2:2]
    frames = len(log_probs)
    if frames < len(targets) + int(np.sum(~leap[3::2])):
        raise AlignmentError(
            f"{frames} frames are too few for {len(targets)} symbols", remedy="check the words and the span"
        )
    scores = np.full(len(symbols), -np.inf)
    scores[:2] = log_probs[0, symbols[:2]]
    steps = np.zeros((frames, len(symbols)), np.int8)
    for frame in range(1, frames):
        ways = np.full((3, len(symbols)), -np.inf)
        ways[0] = scores
        ways[1, 1:] = scores[:-1]
        ways[2, 2:] = np.where(leap[2:], scores[:-2], -np.inf)
        steps[frame] = ways.argmax(axis=0)
        scores = ways.max(axis=0) + log_probs[frame, symbols]
    state = len(symbols) - 1
    if len(symbols) > 1 and scores[-2] > scores[-1]:
        state -= 1
    path = np.full(frames, -1, np.int64)
    for frame in range(frames - 1, -1, -1):
        if state % 2:
            path[frame] = state // 2
        state -= steps[frame, state]
    return path


class CtcAligner(Aligner):
    """Align words with any CTC model of `transformers`; also syllables and phones if the model's symbols are phones.

    Words with letters that the model does not know, such as digits, match the best remaining symbols.

    Args:
        model: A Hub id or a folder with a model, its preprocessor and its tokenizer.
        device: Torch device.
        download: Whether to download from the Hub what is not cached.

    Raises:
        EncoderError: The model cannot be loaded, or is no CTC model of letters or phones.
    """

    name = "ctc"

    def __init__(self, model: str, *, device: str = "cpu", download: bool = True) -> None:
        import transformers

        from emofuse.encoders.checkpoint import model_folder, quiet
        from emofuse.encoders.hub import offline

        # Part of the public interface of transformers is untyped.
        auto: Any = transformers

        self.model = model
        try:
            folder = model_folder(model, download=download)
            with quiet(), offline():
                self._network: Any = auto.AutoModelForCTC.from_pretrained(folder, use_safetensors=True)
                self._preprocessor: Any = auto.AutoFeatureExtractor.from_pretrained(folder)
                tokenizer: Any = auto.AutoTokenizer.from_pretrained(folder)
        except EncoderError:
            raise
        except Exception as error:
            raise _no_model(model, error) from error
        self._network = self._network.eval().to(device)
        self._device = device
        self._symbols: dict[str, int] = tokenizer.get_vocab()
        blank = tokenizer.pad_token_id
        self._blank: int = self._network.config.pad_token_id if blank is None else blank
        self._special = set(tokenizer.all_special_ids) | {self._blank}
        delimiter = getattr(tokenizer, "word_delimiter_token", None)
        self._delimiter = self._symbols.get(delimiter) if delimiter else None
        self._phones = _phone_symbols({one for one, at in self._symbols.items() if at not in self._special})
        if not self._phones and not any(len(one) == 1 and one.isalpha() for one in self._symbols):
            raise EncoderError(_LETTERS_ONLY, where=model, remedy="use a model whose vocabulary is letters or phones")

    @cached_property
    def source(self) -> str:
        """See `Aligner.source`."""
        return ctc_source(self.model, model_revision(self.model, download=False))

    def align(
        self, clip: NDArray[np.float32], text: str, *, language: str | None = None
    ) -> Mapping[Tier, tuple[Segment, ...]]:
        """See `Aligner.align`; an unknown language counts as English."""
        words = spoken_words(text, language=language)
        if not words:
            raise AlignmentError("the transcript has no words", remedy="write down what is said")
        if self._phones and not is_english(language):
            raise AlignmentError(
                f"the model's symbols are phones, and how words of {language} are said is not known here",
                remedy="use a model whose symbols are letters",
            )
        labels = [list(pronounce(word)) if self._phones else self._letters(word) for word in words]
        if not any(known for own in labels for known in self._ids(own) if known != _ANY):
            raise AlignmentError(
                "the model knows none of the transcript's letters", remedy="use a model of the transcript's language"
            )
        targets: list[int] = []
        owners: list[tuple[int, int]] = []
        for number, own in enumerate(labels):
            if number and self._delimiter is not None:
                targets.append(self._delimiter)
                owners.append((-1, -1))
            ids = self._ids(own) or [_ANY]
            targets += ids
            owners += [(number, place) for place in range(len(ids))]
        log_probs = self._listen(clip)
        wildcard = log_probs.shape[1]
        spoken = np.delete(log_probs, [at for at in self._special if at < wildcard], axis=1).max(axis=1)
        path = forced_path(
            np.column_stack([log_probs, spoken]),
            [wildcard if target == _ANY else target for target in targets],
            blank=self._blank,
        )
        gaps = [
            float(np.max(log_probs[path == at, target] - spoken[path == at]))
            for at, target in enumerate(targets)
            if target not in (_ANY, self._delimiter)
        ]
        self.doubt = DOUBTFUL if gaps and np.median(gaps) < _POOR else None
        spans = self._spans(path, len(targets), len(clip))
        said = [
            [span for span, (number, _) in zip(spans, owners, strict=True) if number == at] for at in range(len(words))
        ]
        tiers: dict[Tier, tuple[Segment, ...]] = {
            "word": tuple(
                Segment(start=own[0][0], end=own[-1][1], label=word) for own, word in zip(said, words, strict=True)
            )
        }
        if self._phones:
            phones = [
                [Segment(start=start, end=end, label=label) for (start, end), label in zip(own, names, strict=True)]
                for own, names in zip(said, labels, strict=True)
                if names
            ]
            tiers["syllable"] = syllable_segments(phones)
            tiers["phone"] = tuple(phone for own in phones for phone in own)
        return tiers

    def _letters(self, word: str) -> list[str]:
        return [next((form for form in (sign, sign.upper()) if form in self._symbols), sign) for sign in word]

    def _ids(self, labels: Sequence[str]) -> list[int]:
        names = [self._phones.get(label, label) for label in labels] if self._phones else labels
        known = [self._symbols.get(name, _ANY) for name in names]
        return [_ANY if at in self._special else at for at in known]

    def _listen(self, clip: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log probabilities `(frames, symbols)`."""
        import torch

        inputs = self._preprocessor(clip, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        with torch.inference_mode():
            logits = self._network(**{name: value.to(self._device) for name, value in inputs.items()}).logits[0]
        return np.asarray(logits.float().log_softmax(-1).cpu().numpy())

    def _spans(self, path: NDArray[np.int64], count: int, samples: int) -> list[tuple[float, float]]:
        """Begin and end of each target, in seconds."""
        kernels = getattr(self._network.config, "conv_kernel", None)
        strides = getattr(self._network.config, "conv_stride", None)
        step, window = samples / len(path), samples / len(path)
        if kernels and strides and len(kernels) == len(strides):
            step, window = 1, 1
            for kernel, stride in zip(kernels, strides, strict=True):
                window += (kernel - 1) * step
                step *= stride
        end = samples / SAMPLING_RATE
        # A boundary is half-way between the centres of its two frames.
        margin = (window - step) / 2
        spans = []
        for target in range(count):
            frames = np.flatnonzero(path == target)
            first, last = int(frames[0]), int(frames[-1])
            begins = (first * step + margin) / SAMPLING_RATE if first else 0.0
            ends = ((last + 1) * step + margin) / SAMPLING_RATE
            spans.append((round(min(begins, end), 4), round(min(ends, end), 4)))
        return spans


def ctc_source(model: str, revision: str) -> str:
    """Source of alignments by a CTC model.

    Example:
        >>> ctc_source("a/model", "0123456789abcdef")
        'ctc a/model 0123456789ab'
    """
    place = Path(model)
    return f"ctc {place.resolve() if place.is_dir() else model} {revision[:12]}"


def model_revision(model: str, *, download: bool = True) -> str:
    """Identity of a model's weights: the commit on the Hub, or a hash of the folder.

    Args:
        model: Hub id or folder.
        download: Whether to download from the Hub what is not cached.

    Raises:
        EncoderError: The model cannot be loaded.
    """
    from emofuse.encoders.checkpoint import content_hash, model_folder

    folder = model_folder(model, download=download)
    return content_hash(folder) if Path(model).is_dir() else folder.name


def _no_model(model: str, error: Exception) -> EncoderError:
    first = str(error).strip().split("\n")[0].rstrip(".")
    return EncoderError(
        f"this is no CTC model that can be loaded ({first or type(error).__name__})",
        where=model,
        remedy="give the Hub id or the folder of one with safetensors weights, preprocessor and tokenizer",
    )


def _phone_symbols(vocabulary: set[str]) -> dict[str, str]:
    """The model's symbol of each ARPAbet phone; empty if its symbols are letters."""
    arpabet = {plain(one): one for one in sorted(vocabulary, reverse=True) if plain(one) in PHONES}
    if arpabet.keys() >= PHONES:
        return arpabet
    found = {}
    for phone in PHONES:
        known = [one for one in _IPA.get(phone, (phone.lower(),)) if one in vocabulary]
        if known:
            found[phone] = known[0]
    return found if found.keys() >= PHONES else {}
