from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from emofuse.encoders import is_trained_with_model, load_speech_encoder, load_text_encoder, waveform
from emofuse.encoders.layers import select_layers
from emofuse.encoders.logmel import MELS, mel_filters
from emofuse.encoders.whisper import WhisperFeatures
from emofuse.errors import EncoderError
from emofuse.settings import SpeechSettings, TextSettings
from emofuse.testing import SPEECH_FAMILIES, TEXT_FAMILIES, tiny_speech_encoder, tiny_text_encoder, tone

WAVEFORM = [family for family in SPEECH_FAMILIES if family != "whisper"]
Edit = Callable[[dict[str, Any]], object]


def speech(folder: Path, **options: Any) -> Any:
    return load_speech_encoder(SpeechSettings(encoder=str(folder), **options))


def edit(path: Path, change: Edit) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


# Layers


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("all", tuple(range(13))),
        ("0", (0,)),
        ("12", (12,)),
        ("-1", (12,)),
        ("-13", (0,)),
        ("4-6", (4, 5, 6)),
        ("7,4", (4, 7)),
        ("0, 4-5,-1, 4", (0, 4, 5, 12)),
    ],
)
def test_layers_are_read(choice: str, expected: tuple[int, ...]) -> None:
    assert select_layers(choice, layers=13, encoder="e") == expected


@pytest.mark.parametrize("choice", ["13", "-14", "4-13", "6-4", "", "last", "1,", "1,13", "4-", "1.5", "-3--1"])
def test_layers_that_make_no_sense_are_refused(choice: str) -> None:
    with pytest.raises(EncoderError, match=r"^e: layers"):
        select_layers(choice, layers=13, encoder="e")


@pytest.mark.parametrize("family", SPEECH_FAMILIES)
def test_a_choice_of_layers_is_a_part_of_all(family: str, tmp_path: Path) -> None:
    folder = tiny_speech_encoder(tmp_path, family=family)
    clip = tone(0.6, seed=0)
    everything = speech(folder).encode([clip])[0]
    for choice, indices in {"1": [1], "-1": [2], "0-1": [0, 1]}.items():
        encoder = speech(folder, layers=choice)
        assert encoder.specification.selected == tuple(indices)
        assert encoder.specification.layers == 3
        torch.testing.assert_close(encoder.encode([clip])[0], everything[indices], rtol=0, atol=0)


# Speech from the waveform


@pytest.mark.parametrize("family", WAVEFORM)
def test_one_clip_gives_the_hidden_states_of_transformers(family: str, tmp_path: Path) -> None:
    folder = tiny_speech_encoder(tmp_path, family=family)
    clip = tone(1.3, seed=0)
    inputs = transformers.AutoFeatureExtractor.from_pretrained(folder)(clip, sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        output = transformers.AutoModel.from_pretrained(folder).eval()(inputs.input_values, output_hidden_states=True)
    features = speech(folder).encode([clip])[0]
    for layer in range(2):
        torch.testing.assert_close(features[layer], output.hidden_states[layer][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features[2], output.last_hidden_state[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", SPEECH_FAMILIES)
def test_frame_counts_are_predicted(family: str, tmp_path: Path) -> None:
    encoder = speech(tiny_speech_encoder(tmp_path, family=family))
    lengths = [0, 1, 319, 320, 399, 400, 719, 720, 721, 16000, 31999, 32000, 32001, 32320, 40123]
    features = encoder.encode([tone(length / 16000, seed=1) for length in lengths])
    assert [clip.shape for clip in features] == [(3, encoder.frames(length), 32) for length in lengths]
    assert all(clip.dtype == torch.float32 and clip.isfinite().all() for clip in features)


def test_the_specification_gives_the_shape_and_its_origin(tmp_path: Path) -> None:
    folder = tiny_speech_encoder(tmp_path / "here")
    specification = speech(folder).specification
    assert (specification.stride, specification.receptive_field, specification.sampling_rate) == (320, 400, 16000)
    assert (specification.layers, specification.width, specification.family) == (3, 32, "wav2vec2")
    assert specification.name == str(folder.resolve())
    assert specification.licence == "unknown"


@pytest.mark.parametrize("normalised", [True, False, None])
def test_normalisation_follows_the_preprocessor(normalised: bool | None, tmp_path: Path) -> None:
    folder = tiny_speech_encoder(tmp_path)
    path = folder / "preprocessor_config.json"
    if normalised is None:
        path.unlink()
    else:
        edit(path, lambda values: values.update(do_normalize=normalised))
    clip = tone(0.8, seed=0)
    quiet, loud = speech(folder).encode([clip * 0.1 + 0.05, clip])
    alike = bool(((quiet - loud).norm() / loud.norm()) < 1e-3)
    # A group norm hides loudness but not an offset beside it; the encoder must not see either.
    assert alike == (normalised is not False)


def test_normalisation_is_that_of_the_feature_extractor() -> None:
    clip = tone(0.3, seed=0) * 0.2 + 0.1
    expected = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)(clip, sampling_rate=16000)["input_values"][0]
    np.testing.assert_allclose(waveform.normalise(clip), expected, rtol=1e-6, atol=1e-6)


def test_an_adapter_does_not_change_the_frames(tmp_path: Path) -> None:
    folder = tiny_speech_encoder(tmp_path)
    config = transformers.AutoConfig.from_pretrained(folder, add_adapter=True, output_hidden_size=32)
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    encoder = speech(folder)
    assert encoder.encode([tone(1.0)])[0].shape == (3, encoder.frames(16000), 32)


@pytest.mark.parametrize("family", SPEECH_FAMILIES)
def test_bfloat16_is_near_and_comes_back_as_float32(family: str, tmp_path: Path) -> None:
    folder = tiny_speech_encoder(tmp_path, family=family)
    clips = [tone(0.5, seed=0), tone(0.9, seed=1)]
    for exact, rough in zip(
        speech(folder).encode(clips), speech(folder, precision="bfloat16").encode(clips), strict=True
    ):
        assert rough.dtype == torch.float32
        assert 1e-5 < (rough - exact).norm() / exact.norm() < 0.1


# Whisper


def test_whisper_gives_what_transformers_gives_on_a_full_window(tmp_path: Path) -> None:
    folder = tiny_speech_encoder(tmp_path, family="whisper")
    clip = tone(2.0, seed=0)
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    mel = extractor(clip, sampling_rate=16000, return_tensors="pt").input_features
    with torch.inference_mode():
        output = WhisperEncoder.from_pretrained(folder).eval()(mel, output_hidden_states=True)
    features = speech(folder).encode([clip])[0]
    for layer in range(2):
        torch.testing.assert_close(features[layer], output.hidden_states[layer][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features[2], output.last_hidden_state[0], rtol=1e-4, atol=1e-5)


def test_whisper_encodes_a_clip_as_a_plain_loop_over_its_layers_does(tmp_path: Path) -> None:
    folder = tiny_speech_encoder(tmp_path, family="whisper")
    clip = tone(0.9, seed=0)
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    mel = extractor(clip, sampling_rate=16000, return_tensors="pt").input_features[:, :, :90]
    model = WhisperEncoder.from_pretrained(folder).eval()
    with torch.inference_mode():
        hidden = torch.nn.functional.gelu(model.conv2(torch.nn.functional.gelu(model.conv1(mel)))).transpose(1, 2)
        states = [hidden + model.embed_positions.weight[:45]]
        for layer in model.layers:
            states.append(layer(states[-1], None))
        states[-1] = model.layer_norm(states[-1])
    torch.testing.assert_close(speech(folder).encode([clip])[0], torch.cat(states), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("samples", [0, 7, 150, 320, 1000, 20000, 31500, 31900, 32000])
@pytest.mark.parametrize("kind", ["tone", "silence", "click at the end"])
def test_the_clip_s_own_mel_is_that_of_the_padded_window(samples: int, kind: str, tmp_path: Path) -> None:
    folder = tiny_speech_encoder(tmp_path, family="whisper")
    clip = tone(samples / 16000, seed=samples)
    if kind == "silence":
        clip = np.zeros_like(clip)
    elif kind == "click at the end":
        # The loudest frame is then one that the crop leaves out, and it still sets the floor of the others.
        clip = clip * np.float32(1e-4)
        clip[-40:] = 1
    encoder = speech(folder)
    assert isinstance(encoder, WhisperFeatures)
    expected = transformers.WhisperFeatureExtractor.from_pretrained(folder)(
        clip, sampling_rate=16000, return_tensors="np"
    ).input_features[0]
    own = encoder.log_mel(clip).numpy()
    assert own.shape == (80, 2 * max(1, samples // 320))
    np.testing.assert_allclose(own, expected[:, : own.shape[1]], rtol=0, atol=1e-5)


def test_long_clips_are_encoded_in_windows_of_like_length(tmp_path: Path) -> None:
    encoder = speech(tiny_speech_encoder(tmp_path, family="whisper"))
    clip = tone(5.01, seed=0)
    # 250 frames in windows of at most 100: 84, 84 and what is left.
    parts = encoder.encode([clip[:26880], clip[26880:53760], clip[53760:]])
    whole = encoder.encode([tone(0.4), clip])[1]
    assert whole.shape[1] == encoder.frames(len(clip)) == 250
    torch.testing.assert_close(whole, torch.cat(parts, dim=1), rtol=1e-4, atol=1e-5)


def test_the_encoder_of_a_whole_whisper_is_found(tmp_path: Path) -> None:
    folder = tiny_speech_encoder(tmp_path / "encoder", family="whisper")
    config = transformers.AutoConfig.from_pretrained(
        folder, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=64, vocab_size=100, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    whole = transformers.WhisperForConditionalGeneration(config)
    whole.model.encoder.load_state_dict(load_file(folder / "model.safetensors"))
    for name, model in {"generation": whole, "bare": whole.model}.items():
        model.save_pretrained(tmp_path / name)
        shutil.copy(folder / "preprocessor_config.json", tmp_path / name)
        clip = tone(0.7, seed=0)
        torch.testing.assert_close(
            speech(tmp_path / name).encode([clip])[0], speech(folder).encode([clip])[0], rtol=0, atol=0
        )


def test_a_whisper_folder_carries_the_card_of_its_origin(tmp_path: Path) -> None:
    folder = tiny_speech_encoder(tmp_path, family="whisper")
    edit(folder / "config.json", lambda values: values.update(_name_or_path="openai/whisper-small"))
    assert speech(folder).specification.licence == "MIT"


@pytest.mark.parametrize("dither", [0.5, {"a": 1}])
def test_whisper_draws_no_noise(dither: Any, tmp_path: Path) -> None:
    folder = tiny_speech_encoder(tmp_path, family="whisper")
    edit(folder / "preprocessor_config.json", lambda values: values.update(dither=dither))
    encoder = load_speech_encoder(SpeechSettings(encoder=str(folder)))
    first, second = (encoder.encode([tone(0.5, seed=0)])[0] for _ in range(2))
    assert torch.equal(first, second)


def test_a_whisper_preprocessor_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = tiny_speech_encoder(tmp_path, family="whisper")
    edit(folder / "preprocessor_config.json", lambda values: values.update(feature_size=128))
    with pytest.raises(EncoderError, match="same checkpoint"):
        speech(folder)


def test_a_spectrogram_with_empty_bands_is_refused(tmp_path: Path) -> None:
    folder = tiny_speech_encoder(tmp_path, family="whisper")
    edit(folder / "preprocessor_config.json", lambda values: values.update(n_fft=2))
    with pytest.raises(EncoderError, match=r"preprocessor_config.json describes a spectrogram with empty bands; take"):
        load_speech_encoder(SpeechSettings(encoder=str(folder)))


# The log-mel baseline


def test_logmel_is_what_a_plain_loop_computes() -> None:
    clip = tone(0.23, seed=0)
    energies = []
    filters = mel_filters()
    for start in range(0, len(clip) - 399, 320):
        window = [float(clip[start + n]) * (0.5 - 0.5 * math.cos(2 * math.pi * n / 400)) for n in range(400)]
        angles = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(400)) / 512)
        power = np.abs(angles @ np.array(window)) ** 2
        energies.append([math.log(max(1e-10, float((power * filters[:, mel]).sum()))) for mel in range(MELS)])

    def slope(rows: list[list[float]], frame: int, column: int) -> float:
        def at(index: int) -> float:
            return rows[min(max(index, 0), len(rows) - 1)][column]

        return sum(k * (at(frame + k) - at(frame - k)) for k in (1, 2)) / 10

    first = [[slope(energies, frame, mel) for mel in range(MELS)] for frame in range(len(energies))]
    second = [[slope(first, frame, mel) for mel in range(MELS)] for frame in range(len(energies))]
    expected = np.concatenate([energies, first, second], axis=1)
    encoder = load_speech_encoder(SpeechSettings(encoder="logmel"))
    features = encoder.encode([clip])[0]
    assert features.shape == (1, encoder.frames(len(clip)), 240)
    np.testing.assert_allclose(features[0].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_mel_filters_are_those_of_slaney() -> None:
    from transformers.audio_utils import mel_filter_bank

    expected = mel_filter_bank(257, 80, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_filters(), expected, rtol=1e-6, atol=1e-9)
    assert (mel_filters().sum(axis=0) > 0).all()


def test_logmel_puts_a_tone_where_it_belongs_in_time_and_pitch() -> None:
    clip = np.concatenate([np.zeros(8000, np.float32), tone(0.5, frequency=2000)])
    encoder = load_speech_encoder(SpeechSettings(encoder="logmel"))
    energies = encoder.encode([clip])[0][0, :, :MELS]
    specification = encoder.specification
    onset = next(frame for frame in range(len(energies)) if energies[frame].max() > energies.max() - 3)
    assert abs(specification.frame_centre(onset) - 0.5) < 0.02
    peak = mel_filters()[:, int(energies[-5].argmax())].argmax() * 16000 / 512
    assert abs(peak - 2000) < 60


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 719, 720, 16000])
def test_logmel_frame_counts_are_predicted(samples: int) -> None:
    encoder = load_speech_encoder(SpeechSettings(encoder="logmel"))
    features = encoder.encode([np.zeros(samples, np.float32)])[0]
    assert features.shape == (1, encoder.frames(samples), 240)
    assert features.isfinite().all()


def test_logmel_has_one_layer() -> None:
    with pytest.raises(EncoderError, match="1 hidden states"):
        load_speech_encoder(SpeechSettings(encoder="logmel", layers="6"))


# Text


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_text_gives_the_hidden_states_of_transformers(family: str, tmp_path: Path) -> None:
    folder = tiny_text_encoder(tmp_path, family=family)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)("why so angry?", return_tensors="pt")
    with torch.inference_mode():
        output = transformers.AutoModel.from_pretrained(folder).eval()(**tokens, output_hidden_states=True)
    features = load_text_encoder(TextSettings(encoder=str(folder))).encode(["why so angry?"])[0]
    torch.testing.assert_close(features, torch.cat(output.hidden_states), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_texts_are_cut_and_keep_their_special_tokens(family: str, tmp_path: Path) -> None:
    encoder = load_text_encoder(TextSettings(encoder=str(tiny_text_encoder(tmp_path, family=family)), max_tokens=6))
    assert [text.shape for text in encoder.encode(["", "so happy", "so " * 50])] == [(3, 2, 32), (3, 4, 32), (3, 6, 32)]
    assert encoder.encode([]) == []
    longest = load_text_encoder(TextSettings(encoder=str(tmp_path), max_tokens=512)).encode(["so " * 500])[0]
    assert longest.shape[1] == (70 if family in {"roberta", "mpnet"} else 72)
    assert longest.isfinite().all()


def test_text_layers_and_specification(tmp_path: Path) -> None:
    encoder = load_text_encoder(TextSettings(encoder=str(tiny_text_encoder(tmp_path)), layers="-1"))
    assert encoder.specification.modality == "text"
    assert encoder.specification.selected == (2,)
    assert encoder.encode(["so happy"])[0].shape == (1, 4, 32)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = tiny_text_encoder(tmp_path)
    edit(folder / "tokenizer.json", lambda values: values["model"]["vocab"].update(surplus=1000, more=1001))
    with pytest.raises(EncoderError, match="same checkpoint"):
        load_text_encoder(TextSettings(encoder=str(folder)))


def test_subwords_are_not_an_encoder() -> None:
    assert is_trained_with_model("words")
    assert not is_trained_with_model("bert-base-uncased")
    with pytest.raises(EncoderError, match="model itself trains"):
        load_text_encoder(TextSettings(encoder="words"))


# What goes wrong


def _remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _pickle_only(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layers.1.attention.q_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("config.json"), "no config.json"),
        (_remove("model.safetensors"), "no model.safetensors"),
        (_pickle_only, "pickle.*convert them to safetensors"),
        (_without_a_weight, "1 weights are missing, such as .*q_proj"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
        (lambda f: (f / "model.safetensors").write_bytes(b"12345678"), "weights cannot be loaded"),
        (
            lambda f: edit(f / "config.json", lambda v: v.update(model_type="clap")),
            "type clap.*wav2vec2, hubert, wavlm, data2vec-audio, whisper",
        ),
        (lambda f: edit(f / "config.json", lambda v: v.update(hidden_size="wide")), "config.json cannot be used"),
        (lambda f: edit(f / "config.json", lambda v: v.update(hidden_size=64)), "weights"),
        (lambda f: edit(f / "preprocessor_config.json", lambda v: v.update(sampling_rate=8000)), "8000 Hz.*16000 Hz"),
    ],
)
def test_a_damaged_folder_is_refused_with_a_remedy(
    damage: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    folder = tiny_speech_encoder(tmp_path)
    damage(folder)
    with pytest.raises(EncoderError, match=message):
        speech(folder)


def test_a_text_model_is_no_speech_encoder_nor_the_other_way_round(tmp_path: Path) -> None:
    text, audio = tiny_text_encoder(tmp_path / "text"), tiny_speech_encoder(tmp_path / "speech")
    with pytest.raises(EncoderError, match="type bert"):
        speech(text)
    with pytest.raises(EncoderError, match="type wav2vec2"):
        load_text_encoder(TextSettings(encoder=str(audio)))


@pytest.mark.parametrize("name", ["./gone", "/gone/too", "~/gone", "a/b/c", "C:\\gone"])
def test_a_missing_folder_is_named(name: str) -> None:
    with pytest.raises(EncoderError, match="no such folder"):
        load_speech_encoder(SpeechSettings(encoder=name))


@pytest.mark.parametrize("name", ["", "two words", "a--b"])
def test_a_name_that_cannot_be_an_id_is_refused(name: str) -> None:
    with pytest.raises(EncoderError, match="check the"):
        load_speech_encoder(SpeechSettings(encoder=name))


@pytest.mark.parametrize("make", [tiny_speech_encoder, tiny_text_encoder])
def test_there_is_no_tiny_encoder_of_an_unknown_family(make: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="use one of"):
        make(tmp_path, family="gpt")


# Revisions and the Hub


def test_the_revision_follows_the_contents_and_not_the_place(tmp_path: Path) -> None:
    one, same, other = tmp_path / "one", tmp_path / "same", tmp_path / "other"
    tiny_speech_encoder(one, seed=1)
    shutil.copytree(one, same)
    tiny_speech_encoder(other, seed=2)
    revisions = [speech(folder).specification.revision for folder in (one, same, other)]
    assert revisions[0] == revisions[1] != revisions[2]
    edit(same / "preprocessor_config.json", lambda values: values.update(do_normalize=False))
    assert speech(same).specification.revision != revisions[0]


HUB_PROGRAM = """
import json, sys
from emofuse.encoders import load_speech_encoder, load_text_encoder
assert "transformers" not in sys.modules, "importing the encoders must stay light"
from emofuse.errors import EncoderError
from emofuse.settings import SpeechSettings, TextSettings
from emofuse.testing import tone
results = []
for name in ("facebook/wav2vec2-base", "lab/pickled", "lab/unknown", "lab/half"):
    try:
        encoder = load_speech_encoder(SpeechSettings(encoder=name))
        specification = encoder.specification
        results.append([specification.name, specification.revision, specification.licence, specification.exposure,
                        float(encoder.encode([tone(0.5, seed=0)])[0].norm())])
    except EncoderError as error:
        results.append(str(error))
results.append(load_text_encoder(TextSettings(encoder="bert-base-uncased")).specification.licence)
print(json.dumps(results))
"""


def test_ids_are_read_from_the_hub_s_cache(tmp_path: Path) -> None:
    def cache(name: str, make: Callable[[Path], object], commit: str, absent: tuple[str, ...] = ()) -> None:
        repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        make(snapshot)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        for file in absent:
            (repository / ".no_exist" / commit).mkdir(parents=True, exist_ok=True)
            (repository / ".no_exist" / commit / file).touch()

    def pickled(folder: Path) -> None:
        tiny_speech_encoder(folder)
        _pickle_only(folder)

    def half(folder: Path) -> None:
        tiny_speech_encoder(folder)
        (folder / "preprocessor_config.json").unlink()

    cache("facebook/wav2vec2-base", tiny_speech_encoder, "a" * 40)
    cache("lab/pickled", pickled, "b" * 40, absent=("model.safetensors", "model.safetensors.index.json"))
    cache("lab/half", half, "c" * 40)
    cache("bert-base-uncased", tiny_text_encoder, "d" * 40)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("HF_HUB_CACHE", None)
    process = subprocess.run(
        [sys.executable, "-c", HUB_PROGRAM], capture_output=True, text=True, check=False, env=environment
    )
    assert process.returncode == 0, process.stderr
    base, pickle, unknown, without_preprocessor, licence = json.loads(process.stdout)
    assert base[:4] == ["facebook/wav2vec2-base", "a" * 40, "Apache-2.0", ["LibriSpeech"]]
    assert pickle[:4] == ["lab/pickled", "b" * 40, "unknown", []]
    assert base[4] == pickle[4]
    assert "cannot be reached" in unknown
    assert "local folder" in unknown
    # Whether it normalises cannot be known then, and a guess could change every feature.
    assert "cannot be reached" in without_preprocessor
    assert licence == "Apache-2.0"
    assert process.stderr == ""


@pytest.mark.parametrize("name", ["logmle", "wav2vec", "speech", "two words", "a/b/c", ""])
def test_no_hub_is_asked_for_what_cannot_be_an_id(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("the Hub was asked"))
    with pytest.raises(EncoderError):
        load_speech_encoder(SpeechSettings(encoder=name))


@pytest.mark.parametrize("encoder", ["logmel", "builtin:speech", "tiny"])
def test_loading_draws_none_of_the_caller_s_random_numbers(encoder: str, tmp_path: Path) -> None:
    name = str(tiny_speech_encoder(tmp_path / "tiny")) if encoder == "tiny" else encoder
    before = torch.get_rng_state()
    load_speech_encoder(SpeechSettings(encoder=name))
    load_text_encoder(TextSettings(encoder="builtin:text"))
    assert torch.equal(torch.get_rng_state(), before)
