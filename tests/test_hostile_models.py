"""A model or encoder folder is data from a stranger: nothing is asked, followed, filled or run that it names."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from emofuse.align.again import aligner_again
from emofuse.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from emofuse.encoders import hub, load_speech_encoder, load_text_encoder
from emofuse.errors import CheckpointError, EmofuseError, EncoderError, OutputError, SettingsError
from emofuse.inference.predictor import load
from emofuse.plan import resolve, shapes_of
from emofuse.recipe import Recipe
from emofuse.settings import SpeechSettings, TextSettings
from emofuse.task import Classification
from emofuse.testing import tiny_speech_encoder, tiny_text_encoder, tone
from emofuse.weights import read_header

CLASSES = ("angry", "happy", "sad")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of speech and text with encoders of its own."""
    folder = tmp_path_factory.mktemp("made")
    speech = SpeechSettings(encoder=str(tiny_speech_encoder(folder / "speech")))
    text = TextSettings(encoder=str(tiny_text_encoder(folder / "text")))
    encoders = {
        "speech": load_speech_encoder(speech).specification,
        "text": load_text_encoder(text).specification,
    }
    plan = resolve(Recipe.model_validate({"name": "made", "models": ["early-frame"], "model": {"width": 16}}))
    network, task = plan.model("early-frame"), Classification(CLASSES)
    checkpoint = Checkpoint(
        name="early-frame",
        model=network.build(shapes_of(network.inputs, speech, encoders, subwords=None), task),
        networks={"early-frame": network},
        task=task,
        speech=speech,
        text=text,
        encoders=encoders,
        subwords=None,
        protocol="",
    )
    save_checkpoint(checkpoint, folder / "model", card="")
    return folder / "model"


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


@pytest.fixture
def no_more_memory() -> Iterator[None]:
    """Less than half a gigabyte more than there is taken now."""
    resource = pytest.importorskip("resource")
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + (400 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Whom anything is asked over the network; nobody answers. The cache of the Hub is empty."""
    found: list[Any] = []

    def refuse(_: socket.socket, address: Any) -> None:
        found.append(address)
        raise ConnectionRefusedError(address)

    def resolve(host: Any, *_: Any, **__: Any) -> Any:
        found.append(host)
        raise socket.gaierror(host)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "_reached", set())
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return found


def edit(path: Path, change: Callable[[Any], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def settings(change: Callable[[Any], object]) -> Callable[[Path], object]:
    return lambda folder: edit(folder / "settings.json", change)


def raw_settings(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "settings.json").write_bytes(content)


def one_sentence(error: EmofuseError) -> bool:
    text = str(error)
    text.encode()
    return "\n" not in text and text.endswith(".") and "()" not in text


# The network


def test_nothing_is_asked_of_anyone_to_load_and_predict(model: Path, asked: list[Any]) -> None:
    answer = load(model).predict(tone(0.5, seed=0), text="so very good")
    assert set(answer.posteriors) == set(CLASSES)
    assert not asked


@pytest.mark.parametrize("modality", ["speech", "text"])
@pytest.mark.parametrize("name", ["somebody/encoder", "bert-base-uncased"])
def test_a_model_that_names_an_encoder_of_the_hub_asks_nothing(
    modality: str, name: str, copy: Path, asked: list[Any]
) -> None:
    settings(lambda values: values[modality].update(encoder=name, revision="a" * 40))(copy)
    with pytest.raises(EncoderError, match=rf"^{name}: .*fetch it with `hf download {name} --revision a+`"):
        load(copy).predict(tone(0.5, seed=0), text="so very good")
    assert not asked


def test_nor_does_one_that_names_an_aligner_of_the_hub(asked: list[Any]) -> None:
    with pytest.raises(EncoderError, match=r"^somebody/aligner: .*fetch it with `hf download somebody/aligner`"):
        aligner_again({"ctc somebody/aligner 0123456789ab": 3})
    assert not asked


@pytest.mark.parametrize("name", ["two words", "a--b", "../x/y", "a/b/c", "", "x" * 97, "a/b.git"])
def test_no_hub_is_asked_for_what_cannot_be_there(name: str, asked: list[Any]) -> None:
    with pytest.raises(EncoderError, match="check the"):
        load_text_encoder(TextSettings(encoder=name))
    assert not asked


def test_a_file_is_no_encoder(tmp_path: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.pt").write_text("")
    with pytest.raises(EncoderError, match="neither a folder nor the id"):
        load_speech_encoder(SpeechSettings(encoder="weights.pt"))
    assert not asked


class Hub(BaseHTTPRequestHandler):
    """Answers with its server's reply, if any."""

    def do_HEAD(self) -> None:
        if not self.server.status:  # type: ignore[attr-defined]
            time.sleep(5)
        self.send_error(200 if self.path == "/" else self.server.status)  # type: ignore[attr-defined]

    do_GET = do_HEAD  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize("status", [0, 404, 429, 500, 503, None])
def test_a_hub_that_fails_costs_less_than_three_seconds_and_other_encoders_are_named(
    status: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "_reached", set())
    monkeypatch.setattr(hub, "_PATIENCE", 0.3)
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.daemon_threads, server.block_on_close = True, False
        server.status = status  # type: ignore[attr-defined]
        if status is not None:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", place)
        files = place + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        begun = time.monotonic()
        with pytest.raises(EncoderError, match=r"the Hugging Face Hub .*local folder.*builtin:speech"):
            load_speech_encoder(SpeechSettings(encoder="somebody/encoder"))
        assert time.monotonic() - begun < 3
        if status is not None:
            server.shutdown()


# Links and other places


@pytest.mark.skipif(os.name != "posix", reason="links")
@pytest.mark.parametrize(
    "place", ["settings.json", "model.safetensors", "encoders", "encoders/speech", "encoders/text/tokenizer.json"]
)
def test_no_link_out_of_the_folder_is_followed(place: str, copy: Path, tmp_path: Path) -> None:
    (copy / place).rename(tmp_path / "elsewhere")
    (copy / place).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=f"{place} is a link to a file elsewhere; put the file itself"):
        load(copy)


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_links_within_it_and_those_of_a_snapshot_are(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").rename(copy / "weights")
    (copy / "model.safetensors").symlink_to("weights")
    load_checkpoint(copy)
    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in ("settings.json", "weights"):
        (copy / name).rename(blobs / name)
        (snapshot / name.replace("weights", "model.safetensors")).symlink_to(f"../../blobs/{name}")
    (copy / "encoders").rename(snapshot / "encoders")
    load_checkpoint(snapshot)


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_an_encoder_of_links_goes_along_as_files(model: Path, copy: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for file in (copy / "encoders/speech").iterdir():
        file.rename(blobs / file.name)
        file.symlink_to(f"../../../blobs/{file.name}")
    found = load_checkpoint(model)
    speech = load_speech_encoder(SpeechSettings(encoder=str(copy / "encoders/speech"))).specification
    save_checkpoint(
        Checkpoint(**{**vars(found), "encoders": {**found.encoders, "speech": speech}}), tmp_path / "new", card=""
    )
    shutil.rmtree(blobs)
    files = [path for path in (tmp_path / "new").rglob("*") if not path.is_dir()]
    assert files
    assert not any(path.is_symlink() for path in files)
    load(tmp_path / "new").predict(tone(0.5, seed=0), text="so very good")


@pytest.mark.parametrize("name", ["/etc", "..", "../speech", "encoders/../../x", "~", "~root/x", "C:\\x", "c:x"])
@pytest.mark.parametrize("modality", ["speech", "text"])
def test_settings_name_no_encoder_elsewhere(name: str, modality: str, copy: Path) -> None:
    settings(lambda values: values[modality].update(encoder=name))(copy)
    with pytest.raises(CheckpointError, match="which is no part of the model"):
        load(copy)


def test_a_folder_nearby_is_not_taken_for_an_encoder_of_the_hub(
    copy: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Any]
) -> None:
    monkeypatch.chdir(copy.parent)
    shutil.copytree(copy / "encoders/speech", "somebody/encoder")
    settings(lambda values: values["speech"].update(encoder="somebody/encoder"))(copy)
    with pytest.raises(EncoderError, match="not in the local cache"):
        load(copy)
    assert not asked


def test_a_folder_of_something_else_is_not_replaced_by_a_model(model: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(OutputError, match="something else than a model"):
        save_checkpoint(load_checkpoint(model), tmp_path, card="")
    assert (tmp_path / "thesis.tex").read_text() == "all of it"


@pytest.mark.parametrize(
    "name",
    ["os:system", "theirs.py:Model", "emofuse/../theirs.py:Model", "emofuse.x/../../theirs.py:Model", "theirs:M"],
)
def test_no_class_from_elsewhere_is_imported(name: str, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy)
    (copy / "theirs.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    for inside in (False, True):
        settings(lambda held: held["model"].update({"class": name}))(copy)
        if inside:
            settings(lambda held: held.update(model=nested(held["model"])))(copy)
        with pytest.raises(SettingsError, match="is not one of emofuse's own; load it with trust=True"):
            load(copy)
        assert not (copy / "ran").exists()


# Memory


def numbers(**values: Any) -> Callable[[Path], object]:
    return settings(lambda held: held["model"]["settings"].update(values))


_SIZES = r"by the settings|lacks|fewer tensors|different names|sizes"
HUGE: dict[str, Callable[[Path], object]] = {
    "width": numbers(width=80_000),
    "width beyond 64 bits": numbers(width=2**40),
    "layers": numbers(layers=500),
    "endless layers": numbers(layers=10**12),
    "width of an encoder": settings(lambda held: held["encoders"]["speech"].update(width=10**9)),
    "layers of an encoder": settings(lambda held: held["encoders"]["text"].update(selected=list(range(10**5)))),
    "classes": settings(lambda held: held["task"].update(classes=[f"c{number}" for number in range(10**5)])),
}


@pytest.mark.usefixtures("no_more_memory")
@pytest.mark.parametrize("case", HUGE)
def test_no_more_memory_is_taken_than_for_what_the_weights_hold(case: str, copy: Path) -> None:
    HUGE[case](copy)
    with pytest.raises(CheckpointError, match=_SIZES) as it:
        load(copy)
    assert one_sentence(it.value)


def shape_of(name: str, **values: Any) -> Callable[[Path], object]:
    return lambda folder: edit(folder / name / "config.json", lambda held: held.update(values))


HUGE_ENCODERS: dict[str, Callable[[Path], object]] = {
    "speech width": shape_of("speech", hidden_size=4_000_000, num_attention_heads=1),
    "speech width beyond 64 bits": shape_of("speech", hidden_size=2**62, num_attention_heads=1),
    "speech layers": shape_of("speech", num_hidden_layers=10**9),
    "speech inner": shape_of("speech", intermediate_size=10**9),
    "speech convolutions": shape_of("speech", conv_dim=[10**6] * 7),
    "speech position": shape_of("speech", num_conv_pos_embeddings=10**9),
    "text width": shape_of("text", hidden_size=4_000_000, num_attention_heads=1),
    "text layers": shape_of("text", num_hidden_layers=10**9),
    "text vocabulary": shape_of("text", vocab_size=10**9),
    "text positions": shape_of("text", max_position_embeddings=10**9),
}


@pytest.fixture
def encoders(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model / "encoders", tmp_path / "encoders"))


@pytest.mark.usefixtures("no_more_memory")
@pytest.mark.parametrize("case", HUGE_ENCODERS)
def test_nor_than_for_what_an_encoder_s_weights_hold(case: str, encoders: Path) -> None:
    HUGE_ENCODERS[case](encoders)
    with pytest.raises(EncoderError, match=r"describes|tensors|cannot be (used|loaded)") as it:
        _load(case.partition(" ")[0], encoders)
    assert one_sentence(it.value)
    assert "memory" not in str(it.value)


def _load_part(model: Path, name: str) -> Any:
    if name.startswith("encoders"):
        return _load(name.split("/")[1], model / "encoders")
    return load_checkpoint(model)


def _load(modality: str, encoders: Path) -> Any:
    if modality == "speech":
        return load_speech_encoder(SpeechSettings(encoder=str(encoders / "speech")))
    return load_text_encoder(TextSettings(encoder=str(encoders / "text")))


@pytest.mark.parametrize(
    ("modality", "values"),
    [
        ("text", {"num_attention_heads": -1}),
        ("text", {"num_attention_heads": 3}),
        ("text", {"model_type": "roberta", "architectures": ["RobertaModel"], "pad_token_id": None}),
        ("speech", {"num_attention_heads": -2}),
        ("speech", {"conv_stride": [5, 2, 2, 2, 2, 2, 0]}),
        ("speech", {"num_conv_pos_embeddings": 0}),
    ],
)
@pytest.mark.filterwarnings("error")
def test_an_encoder_that_cannot_be_computed_is_refused_when_it_is_loaded(
    modality: str, values: dict[str, Any], tmp_path: Path
) -> None:
    make = {"text": tiny_text_encoder, "speech": tiny_speech_encoder}[modality]
    folder = make(tmp_path / modality)
    edit(folder / "config.json", lambda held: held.update(values))
    with pytest.raises(EncoderError):
        _load(modality, tmp_path)


@pytest.mark.usefixtures("no_more_memory")
@pytest.mark.parametrize(
    "values", [{"n_fft": 10**7}, {"feature_size": 10**9}, {"chunk_length": 10**9}, {"hop_length": -1}, {"n_fft": "x"}]
)
def test_a_preprocessor_of_any_size_is_refused(values: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny_speech_encoder(tmp_path, family="whisper")
    edit(folder / "preprocessor_config.json", lambda held: held.update(values))
    with pytest.raises(EncoderError, match="is not a whole number up to"):
        load_speech_encoder(SpeechSettings(encoder=str(folder)))


# Damage


def header(**entry: Any) -> Callable[[bytes], bytes]:
    """Weights whose header says something else of the first tensor."""

    def change(content: bytes) -> bytes:
        start = 8 + struct.unpack("<Q", content[:8])[0]
        held = json.loads(content[8:start])
        first = next(name for name in held if name != "__metadata__")
        held[first] = {**held[first], **entry}
        text = json.dumps(held).encode()
        return struct.pack("<Q", len(text)) + text + content[start:]

    return change


WEIGHTS: dict[str, Callable[[bytes], bytes]] = {
    "one size": header(shape=[6]),
    "sizes below zero": header(shape=[-1, -2, 3]),
    "sizes beyond 64 bits": header(shape=[2**40, 2**40]),
    "sizes that are none": header(shape=["a", None]),
    "no shape": header(shape=None),
    "unknown type": header(dtype="F3"),
    "offsets below zero": header(data_offsets=[-8, 0]),
    "offsets beyond the file": header(data_offsets=[0, 2**50]),
    "offsets backwards": header(data_offsets=[8, 0]),
    "more": header(more=1),
    "deep": lambda content: struct.pack("<Q", 200_000) + b"[" * 200_000 + content,
    "long header": lambda content: struct.pack("<Q", 2**63) + content,
    "cut": lambda content: content[:-1],
    "longer": lambda content: content + b"1",
    "empty": lambda content: b"",
    "pointer": lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 72862\n",
    "not UTF-8": lambda content: struct.pack("<Q", 4) + b"\xff\xfe{}",
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_damaged_weights_are_one_sentence(case: str, copy: Path) -> None:
    for name, fails in (("model.safetensors", CheckpointError), ("encoders/speech/model.safetensors", EncoderError)):
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(WEIGHTS[case](whole))
        with pytest.raises(ValueError, match=r"it|header|file"):
            read_header(copy / name)
        with pytest.raises(fails) as it:
            _load_part(copy, name)
        assert one_sentence(it.value)
        if case == "pointer":
            assert "git lfs pull" in str(it.value)
        (copy / name).write_bytes(whole)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_weight_that_is_no_number_is_refused_whatever_it_answers(value: float, copy: Path) -> None:
    for place in ("model.safetensors", "encoders/speech/model.safetensors", "encoders/text/model.safetensors"):
        whole = (copy / place).read_bytes()
        for name in sorted(load_file(copy / place))[::20]:
            weights = load_file(copy / place)
            if weights[name].is_floating_point():
                weights[name].view(-1)[-1] = value
                save_file(weights, copy / place, metadata={"format": "pt"})
                with pytest.raises(EmofuseError, match="not finite"):
                    _load_part(copy, place)
        (copy / place).write_bytes(whole)


def test_weights_that_are_too_large_to_compute_with_give_no_answer(copy: Path) -> None:
    """Each is a finite number, and sums of them are not."""
    weights = load_file(copy / "model.safetensors")
    large = {name: torch.full_like(value, 3e38) if value.ndim > 1 else value for name, value in weights.items()}
    save_file(large, copy / "model.safetensors", metadata={"format": "pt"})
    predictor = load(copy)
    with pytest.raises(CheckpointError, match=r"the model's output is not finite.*; copy the model again"):
        predictor.predict(tone(0.5, seed=0), text="so good")


def nested(model: dict[str, Any], *, depth: int = 1) -> dict[str, Any]:
    """A model as a member of an ensemble of its own name, over and over."""
    for _ in range(depth):
        model = {"name": model["name"], "rule": "mean", "weights": [1], "temperatures": [1], "members": [model]}
    return model


SETTINGS: dict[str, Callable[[Path], object]] = {
    "deep": raw_settings(b"[" * 100_000),
    "not UTF-8": raw_settings(b'{"kind": "\xff"}'),
    "UTF-16": raw_settings("{}".encode("utf-16")),
    "endless": raw_settings(b" " * (9 << 20)),
    "a number": raw_settings(b"1"),
    "half a letter": settings(lambda held: held["task"].update(classes=["angry", "happy", "\ud800"])),
    "half a letter elsewhere": settings(lambda held: held.update(protocol="\udfff")),
    "a class twice": settings(lambda held: held["task"].update(classes=["angry", "angry", "sad"])),
    "a class without a name": settings(lambda held: held["task"].update(classes=["angry", " ", "sad"])),
    "a class that is a number": settings(lambda held: held["task"].update(classes=[1, 2, 3])),
    "classes that are a word": settings(lambda held: held["task"].update(classes="abc")),
    "class that is a list": settings(lambda held: held["model"].update({"class": []})),
    "class that is no model": settings(lambda held: held["model"].update({"class": "emofuse.plan:Plan"})),
    "class that is a function": settings(lambda held: held["model"].update({"class": "emofuse.plan:resolve"})),
    "class of no module": settings(lambda held: held["model"].update({"class": "emofuse.none:Model"})),
    "model that is a list": settings(lambda held: held.update(model=[])),
    "model within itself": settings(lambda held: held.update(model=nested(held["model"]))),
    "models within models": settings(lambda held: held.update(model=nested(held["model"], depth=200))),
    "task that is a word": settings(lambda held: held.update(task="emotion")),
    "values without a spread": settings(lambda held: held.update(task={"values": ["valence"]})),
    "width that is a word": settings(lambda held: held["encoders"]["speech"].update(width="8")),
    "layers below zero": settings(lambda held: held["encoders"]["speech"].update(selected=[-1])),
    "name that is a number": settings(lambda held: held["encoders"]["speech"].update(name=1)),
    "heads that do not divide": numbers(heads=3),
    "infinite": raw_settings(b'{"format": 1e999}'),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_damaged_settings_are_one_sentence(case: str, copy: Path) -> None:
    SETTINGS[case](copy)
    with pytest.raises(CheckpointError) as it:
        load(copy)
    assert it.value.where == str(copy)
    assert one_sentence(it.value)


def index(*names: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        held = list(load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").rename(folder.parent / "away.safetensors")
        weights = {name: names[number % len(names)] for number, name in enumerate(held)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))

    return change


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def tokens(change: Callable[[Any], object]) -> Callable[[Path], object]:
    return lambda folder: edit(folder / "tokenizer.json", change)


def configured(key: str, value: object) -> Callable[[Path], object]:
    return lambda folder: edit(folder / "tokenizer_config.json", lambda held: held.update({key: value}))


ENCODERS: dict[str, Callable[[Path], object]] = {
    "shards elsewhere": index("../away.safetensors"),
    "shards by full path": index("/etc/passwd"),
    "shards that are no names": index(1, None, ["x"]),
    "shards that are absent": index("a.safetensors", "b.safetensors"),
    "index of nothing": index({}),
    "deep configuration": write("config.json", b"[" * 100_000),
    "endless configuration": write("config.json", b" " * (9 << 20)),
    "configuration not UTF-8": write("config.json", b'{"model_type": "\xff"}'),
    "adapter": write("adapter_config.json", b'{"base_model_name_or_path": "somebody/model"}'),
    "quantised": lambda folder: edit(folder / "config.json", lambda held: held.update(quantization_config={})),
    "kernel of the hub": lambda folder: edit(
        folder / "config.json", lambda held: held.update(_attn_implementation="somebody/kernel")
    ),
    "tokenizer without sense": write("tokenizer.json", b"{}"),
    "deep tokenizer": write("tokenizer.json", b"[" * 100_000),
    "tokenizer not UTF-8": write("tokenizer.json", b"\xff"),
    "odd setting of a token": tokens(lambda held: held["added_tokens"][0].update(boom=False)),
    "no list of tokens": tokens(lambda held: held.update(added_tokens=5)),
    **{
        f"odd setting in {key}": configured(key, value)
        for key, value in (
            ("added_tokens_decoder", {"0": {"content": "[PAD]", "lstrip": False, "boom": 1}}),
            ("mask_token", {"__type": "AddedToken", "content": "x", "boom": 1}),
            ("additional_special_tokens", [{"content": "x", "boom": 1}]),
            ("extra_special_tokens", {"image": {"content": "x", "boom": 1}}),
        )
    },
    "token beyond the weights": tokens(lambda held: held["model"]["vocab"].update(so=10**6)),
}


@pytest.mark.parametrize("case", ENCODERS)
def test_a_hostile_encoder_is_one_sentence(case: str, encoders: Path, asked: list[Any]) -> None:
    ENCODERS[case](encoders / "text")
    with pytest.raises(EncoderError) as it:
        _load("text", encoders)
    assert one_sentence(it.value)
    assert not asked


def test_no_code_of_a_folder_is_run(encoders: Path, tmp_path: Path) -> None:
    for modality in ("speech", "text"):
        mark = tmp_path / modality
        (encoders / modality / "evil.py").write_text(
            f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Evil: ...\n"
        )
        kinds = dict.fromkeys(("AutoConfig", "AutoModel", "AutoFeatureExtractor"), "evil.Evil")
        for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
            if (encoders / modality / name).exists():
                auto = {**kinds, "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
                edit(encoders / modality / name, lambda held, auto=auto: held.update(auto_map=auto))  # type: ignore[misc]
        _load(modality, encoders)
        assert not mark.exists()


def test_weights_that_cannot_be_read_are_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.open

    def refuse(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == "model.safetensors":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match="Permission denied"):
        load(copy)


def test_a_folder_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    name = tmp_path / ("x" * 300)
    with pytest.raises(CheckpointError, match=r"the model cannot be read \(.+\); check path, permissions"):
        load(name)
    with pytest.raises(EncoderError, match=r"the folder cannot be read \(.+\); check path, permissions"):
        load_text_encoder(TextSettings(encoder=str(name)))
    with pytest.raises(EncoderError, match=r"the folder cannot be read \(.+\); check path, permissions"):
        load_text_encoder(TextSettings(encoder="~nobody-of-this-name/bert"))


def test_what_is_loaded_does_not_hang_on_the_file(copy: Path) -> None:
    predictor = load(copy)
    before = predictor.predict(tone(0.5, seed=0), text="so very good")
    (copy / "model.safetensors").write_bytes(b"")
    shutil.rmtree(copy)
    assert predictor.predict(tone(0.5, seed=0), text="so very good") == before
    assert not any(value.is_meta for value in predictor.checkpoint.model.state_dict().values())
    assert torch.is_grad_enabled()
