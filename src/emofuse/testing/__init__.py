"""Tiny encoders and audio for tests, emofuse's and the user's: no download, a fraction of a second.

The encoders have the architecture of the real ones and random weights. Biases and norms are random too: initialised to
zero, as in `transformers`, they would hide errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emofuse.errors import EncoderError
from emofuse.testing.corpora import miniature_iemocap as miniature_iemocap

SPEECH_FAMILIES = ("wav2vec2", "wav2vec2-layer", "hubert", "wavlm", "data2vec-audio", "whisper")
TEXT_FAMILIES = ("bert", "roberta", "distilbert", "mpnet", "electra")

_SAMPLING_RATE = 16000
_WIDTH = 32
_WORDS = (
    "i",
    "you",
    "are",
    "is",
    "so",
    "very",
    "good",
    "bad",
    "happy",
    "sad",
    "angry",
    "what",
    "why",
    "it",
    "!",
    "?",
    ",",
)


def tone(
    seconds: float, *, frequency: float = 220.0, noise: float = 0.05, seed: int | None = None
) -> NDArray[np.float32]:
    """A clip at 16 kHz: a sine of amplitude 0.5, with noise on top if there is a seed.

    Args:
        seconds: Duration.
        frequency: Pitch in Hz.
        noise: Standard deviation of the noise.
        seed: Seed of the noise; None for a pure tone.

    Example:
        >>> tone(0.5).shape
        (8000,)
    """
    times = np.arange(round(seconds * _SAMPLING_RATE)) / _SAMPLING_RATE
    clip = 0.5 * np.sin(2 * np.pi * frequency * times)
    if seed is not None:
        clip = clip + noise * np.random.default_rng(seed).standard_normal(len(times))
    return clip.astype(np.float32)


def tiny_corpus(folder: Path, *, speakers: int = 4, utterances: int = 3, seed: int = 0) -> Path:
    """A corpus of beeps whose pitch and text both carry the emotion, for the `table` reader.

    Args:
        folder: Where to write `audio/*.wav` and `corpus.csv`.
        speakers: Number of speakers, each with all four emotions.
        utterances: Utterances of each emotion and speaker.
        seed: Of durations and noise.

    Returns:
        The table, with columns utterance, audio, text, label and speaker.
    """
    import soundfile

    (folder / "audio").mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    words = {"angry": "why you bad", "happy": "so very good", "neutral": "it is", "sad": "i are so sad"}
    lines = ["utterance,audio,text,label,speaker"]
    for speaker in range(speakers):
        for number, (label, text) in enumerate(words.items()):
            for take in range(utterances):
                name = f"s{speaker}_{label}_{take}"
                clip = tone(
                    float(generator.uniform(0.4, 1.2)),
                    frequency=200.0 * (number + 1) + 5 * speaker,
                    seed=int(generator.integers(2**31)),
                )
                soundfile.write(folder / "audio" / f"{name}.wav", clip, _SAMPLING_RATE)
                lines.append(f"{name},audio/{name}.wav,{text} {name[-1]},{label},s{speaker}")
    table = folder / "corpus.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def tiny_speech_encoder(folder: Path, *, family: str = "wav2vec2", seed: int = 0) -> Path:
    """Write a tiny speech encoder with random weights, 3 hidden states of width 32.

    Args:
        folder: Where to write it; made if needed.
        family: One of `SPEECH_FAMILIES`; `wav2vec2` has the group norm of the base checkpoints, `wav2vec2-layer`
            the layer norms of the large ones. The windows of `whisper` are 2 s long, not 30.
        seed: Seed of the weights.

    Returns:
        The folder, to be used as `SpeechSettings.encoder`.

    Raises:
        EncoderError: There is no such family.

    Example:
        >>> import tempfile
        >>> from emofuse.encoders import load_speech_encoder
        >>> from emofuse.settings import SpeechSettings
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     encoder = load_speech_encoder(SpeechSettings(encoder=str(tiny_speech_encoder(Path(folder)))))
        >>> encoder.encode([tone(1.0)])[0].shape
        torch.Size([3, 49, 32])
    """
    _check(family, SPEECH_FAMILIES)
    transformers = _transformers()

    shape: dict[str, Any] = {
        "hidden_size": _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": (16,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    }
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    if family == "whisper":
        config = transformers.WhisperConfig(
            d_model=_WIDTH,
            encoder_layers=2,
            encoder_attention_heads=4,
            encoder_ffn_dim=64,
            max_source_positions=100,
        )
        model_class = transformers.models.whisper.modeling_whisper.WhisperEncoder
        extractor = transformers.WhisperFeatureExtractor(chunk_length=2)
    elif family == "wav2vec2-layer":
        config = transformers.Wav2Vec2Config(
            **shape, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True
        )
        model_class = transformers.Wav2Vec2Model
    elif family == "hubert":
        config, model_class = transformers.HubertConfig(**shape), transformers.HubertModel
    elif family == "wavlm":
        config, model_class = transformers.WavLMConfig(**shape), transformers.WavLMModel
    elif family == "data2vec-audio":
        # Here the first number is that of convolutions in a row, the real model's five.
        shape["num_conv_pos_embeddings"] = 5
        config = transformers.Data2VecAudioConfig(**shape, conv_pos_kernel_size=7)
        model_class = transformers.Data2VecAudioModel
    else:
        config, model_class = transformers.Wav2Vec2Config(**shape), transformers.Wav2Vec2Model
    _save(model_class, config, folder, seed=seed)
    extractor.save_pretrained(folder)
    return folder


def tiny_text_encoder(folder: Path, *, family: str = "bert", seed: int = 0) -> Path:
    """Write a tiny text encoder with random weights, 3 hidden states of width 32, and its vocabulary.

    Args:
        folder: Where to write it; made if needed.
        family: One of `TEXT_FAMILIES`.
        seed: Seed of the weights.

    Returns:
        The folder, to be used as `TextSettings.encoder`.

    Raises:
        EncoderError: There is no such family.

    Example:
        >>> import tempfile
        >>> from emofuse.encoders import load_text_encoder
        >>> from emofuse.settings import TextSettings
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     encoder = load_text_encoder(TextSettings(encoder=str(tiny_text_encoder(Path(folder)))))
        >>> encoder.encode(["so happy"])[0].shape
        torch.Size([3, 4, 32])
    """
    _check(family, TEXT_FAMILIES)
    transformers = _transformers()
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    # RoBERTa and MPNet count positions from their padding id, 1; BERT's is 0.
    special = (
        ["[CLS]", "[PAD]", "[SEP]", "[UNK]"] if family in {"roberta", "mpnet"} else ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    )
    subwords = [*special, "[MASK]", *_WORDS, *(letter for letter in letters if letter not in _WORDS)]
    subwords += [f"##{letter}" for letter in letters]
    config = transformers.AutoConfig.for_model(
        family,
        vocab_size=len(subwords),
        hidden_size=_WIDTH,
        embedding_size=_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        hidden_dim=64,
        max_position_embeddings=72,
        pad_token_id=subwords.index("[PAD]"),
        bos_token_id=subwords.index("[CLS]"),
        eos_token_id=subwords.index("[SEP]"),
    )
    _save(transformers.AutoModel.from_config(config).__class__, config, folder, seed=seed)
    (folder / "vocab.txt").write_text("\n".join(subwords) + "\n", encoding="utf-8")
    tokenizer = transformers.BertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=64)
    tokenizer.save_pretrained(folder)
    return folder


def _check(family: str, families: tuple[str, ...]) -> None:
    if family not in families:
        raise EncoderError(f"there is no tiny {family!r} encoder", remedy=f"use one of {', '.join(families)}")


def _save(model_class: Any, config: Any, folder: Path, *, seed: int) -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = model_class(config)
        for name, weight in model.named_parameters():
            if weight.ndim < 2:
                weight.add_(torch.randn_like(weight) * 0.2)
            elif "conv" not in name:
                weight.mul_(4)
    logging = _transformers().utils.logging
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    if bar:
        logging.enable_progress_bar()


def _transformers() -> Any:
    # Parts of transformers have no types, and importing this module must not take seconds.
    import transformers
    import transformers.models.whisper.modeling_whisper

    return transformers
