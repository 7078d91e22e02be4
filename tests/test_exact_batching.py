"""Features of a clip or text are the same alone and in any batch; without our masks they are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emofuse.encoders import SpeechEncoder, load_speech_encoder, load_text_encoder
from emofuse.encoders.masking import MaskedGroupNorm, ValidLengths
from emofuse.encoders.waveform import WaveformEncoder
from emofuse.settings import SpeechSettings, TextSettings
from emofuse.testing import SPEECH_FAMILIES, TEXT_FAMILIES, tiny_speech_encoder, tiny_text_encoder, tone
from emofuse.types import EncoderSpecification

TOLERANCE = 1e-5
SECONDS = (0.0, 0.001, 0.0251, 0.4, 1.93, 0.7, 3.1, 0.02, 2.0)
Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("encoders") / family
            make = tiny_speech_encoder if family in SPEECH_FAMILIES else tiny_text_encoder
            make(made[family], family=family)
        return made[family]

    return folder


def some_clips() -> list[NDArray[np.float32]]:
    return [tone(seconds, frequency=100 + 40 * i, seed=i) for i, seconds in enumerate(SECONDS)]


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest relative difference of any layer."""
    assert one.shape == other.shape
    return max(float((a - b).norm() / b.norm()) for a, b in zip(one, other, strict=True))


def worst(encoder: SpeechEncoder, clips: list[NDArray[np.float32]]) -> float:
    together = encoder.encode(clips)
    return max(difference(features, encoder.encode([clip])[0]) for features, clip in zip(together, clips, strict=True))


@pytest.mark.parametrize("family", SPEECH_FAMILIES)
def test_a_batch_gives_what_each_clip_alone_gives(family: str, folders: Folders) -> None:
    encoder = load_speech_encoder(SpeechSettings(encoder=str(folders(family))))
    assert worst(encoder, some_clips()) <= TOLERANCE


def test_the_baseline_gives_the_same_to_the_last_bit() -> None:
    assert worst(load_speech_encoder(SpeechSettings(encoder="logmel")), some_clips()) == 0


@pytest.mark.parametrize("family", SPEECH_FAMILIES)
def test_the_order_of_a_batch_does_not_matter(family: str, folders: Folders) -> None:
    encoder = load_speech_encoder(SpeechSettings(encoder=str(folders(family))))
    clips = some_clips()
    forward, backward = encoder.encode(clips), encoder.encode(clips[::-1])[::-1]
    assert max(difference(a, b) for a, b in zip(forward, backward, strict=True)) <= TOLERANCE


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(min_value=0, max_value=24000), min_size=2, max_size=4),
    family=st.sampled_from(["wav2vec2", "data2vec-audio", "whisper"]),
)
def test_any_lengths_can_share_a_batch(lengths: list[int], family: str, folders: Folders) -> None:
    encoder = load_speech_encoder(SpeechSettings(encoder=str(folders(family))))
    clips = [tone(length / 16000, seed=length) for length in lengths]
    assert [features.shape[1] for features in encoder.encode(clips)] == [encoder.frames(length) for length in lengths]
    assert worst(encoder, clips) <= TOLERANCE


@pytest.mark.slow
def test_the_full_size_of_wav2vec2_base_is_exact_too() -> None:
    torch.manual_seed(0)
    model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config()).eval()
    specification = EncoderSpecification(
        name="random", family="wav2vec2", modality="speech", revision="0", layers=13, selected=tuple(range(13)),
        width=768, sampling_rate=16000, stride=320, receptive_field=400,
    )  # fmt: skip
    encoder = WaveformEncoder(model, specification=specification, normalise=True, device=torch.device("cpu"))
    assert worst(encoder, [tone(seconds, seed=1) for seconds in (2.5, 1.0, 0.1)]) <= TOLERANCE


@pytest.mark.parametrize(
    ("family", "attention_mask", "least"),
    [
        ("wav2vec2", False, 0.3),
        ("wav2vec2", True, 0.3),
        ("hubert", True, 0.3),
        ("wavlm", True, 0.2),
        ("data2vec-audio", True, 0.05),
        ("wav2vec2-layer", False, 0.05),
    ],
)
def test_transformers_by_itself_lets_padding_in(
    family: str, attention_mask: bool, least: float, folders: Folders
) -> None:
    model = transformers.AutoModel.from_pretrained(folders(family)).eval()
    short, long = tone(0.7, seed=1), tone(2.9, seed=2)
    batch = torch.zeros(2, len(long))
    batch[0, : len(short)], batch[1] = torch.from_numpy(short), torch.from_numpy(long)
    mask = torch.ones(batch.shape, dtype=torch.long)
    mask[0, len(short) :] = 0
    with torch.inference_mode():
        alone = model(batch[:1, : len(short)]).last_hidden_state[0]
        padded = model(batch, attention_mask=mask if attention_mask else None).last_hidden_state[0, : len(alone)]
    assert float((padded - alone).norm() / alone.norm()) > least


def test_a_batch_norm_before_the_positions_does_not_leak(tmp_path: Path) -> None:
    tiny_speech_encoder(tmp_path, family="hubert")
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    config.conv_pos_batch_norm = True
    torch.manual_seed(0)
    model = transformers.HubertModel(config)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "batch_norm" in name and tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    model.save_pretrained(tmp_path)
    assert worst(load_speech_encoder(SpeechSettings(encoder=str(tmp_path))), some_clips()) <= TOLERANCE


def test_masked_group_norm_is_the_group_norm_of_the_valid_part() -> None:
    torch.manual_seed(0)
    norm, valid = torch.nn.GroupNorm(4, 8), ValidLengths()
    features = torch.randn(2, 8, 10)
    valid.set([10, 6])
    masked = MaskedGroupNorm(norm, valid)(features)
    torch.testing.assert_close(masked[1, :, :6], norm(features[1:, :, :6])[0], rtol=0, atol=0)
    assert masked[1, :, 6:].abs().max() == 0
    torch.testing.assert_close(masked[:1], norm(features[:1]), rtol=0, atol=0)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_texts_do_not_depend_on_their_batch(family: str, folders: Folders) -> None:
    encoder = load_text_encoder(TextSettings(encoder=str(folders(family))))
    texts = ["", "i am so very happy!", "what?", "so " * 200, "why are you angry, what is it to you"]
    together = encoder.encode(texts)
    for features, words in zip(together, texts, strict=True):
        assert difference(features, encoder.encode([words])[0]) <= TOLERANCE
