"""Folders that come from strangers: trained models, encoders and feature stores."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from benchmarks.fuzz.contract import Kind, check_posteriors, require
from benchmarks.fuzz.damage import VALUES, spoiled, spoiled_text, spoiled_value

from emofuse.encoders import load_speech_encoder, load_text_encoder
from emofuse.experiment import run
from emofuse.features.store import FeatureKey, FeatureSet
from emofuse.inference.predictor import load
from emofuse.inference.writers import format_predictions
from emofuse.recipe import EnsembleEntry, ModelEntry, Recipe
from emofuse.settings import ProtocolSettings, SpeechSettings, TextSettings, TrainSettings
from emofuse.testing import (
    SPEECH_FAMILIES,
    TEXT_FAMILIES,
    tiny_corpus,
    tiny_speech_encoder,
    tiny_text_encoder,
    tone,
)
from emofuse.types import EncoderSpecification

_CLIP = tone(0.4, seed=0)


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _spoil_file(whole: Path, name: str, chance: Random) -> bytes:
    """Damage that fits the kind of file."""
    raw = (whole / name).read_bytes()
    if name.endswith(".safetensors"):
        return _spoil_weights(raw, chance)
    if name.endswith(".json") and chance.random() < 0.7:
        values = spoiled_value(json.loads(raw), chance, most=2)
        # As any program may write it, with NaN and halves of characters.
        return json.dumps(values, ensure_ascii=chance.random() < 0.7).encode("utf-8", errors="surrogatepass")
    return spoiled_text(raw.decode("utf-8"), chance)


def _spoil_weights(raw: bytes, chance: Random) -> bytes:
    (length,) = struct.unpack("<Q", raw[:8])
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    way = chance.random()
    if way < 0.35:
        name = chance.choice(sorted(header))
        entry = header[name]
        if chance.random() < 0.6 and "shape" in entry:
            extreme = ([6], [-1, -2, 3], [10**12], [], [0], [1] * 40, [2**62, 4], ["a"], None)
            entry["shape"] = chance.choice((*extreme, [*entry["shape"], 1], entry["shape"][::-1]))
        elif chance.random() < 0.5 and "dtype" in entry:
            entry["dtype"] = chance.choice(("F16", "F64", "BF16", "I64", "BOOL", "F8_E4M3", "X", 3))
        else:
            header = spoiled_value(header, chance)
        new = json.dumps(header).encode()
        return struct.pack("<Q", len(new)) + new + body
    if way < 0.6 and len(body) > 64:
        # Weights that are numbers no more.
        values = np.frombuffer(body[: len(body) // 4 * 4], np.float32).copy()
        at = chance.randrange(len(values))
        bad = chance.choice((np.nan, np.inf, -np.inf, 3e38, 1e-44, 0))
        values[at : at + chance.choice((1, 1, 64, len(values)))] = bad
        return raw[: 8 + length] + values.tobytes()
    if way < 0.7:
        return struct.pack("<Q", chance.choice((0, 1, length - 1, length + 1, 1 << 40, (1 << 64) - 1))) + raw[8:]
    return spoiled(raw, chance)


def _damage(chance: Random, seeds: Path, case: Path, wholes: list[str]) -> dict[str, Any]:
    """Spoil or remove one or two files of one of the seeds' folders."""
    whole = chance.choice(wholes)
    names, removed = _files(seeds / whole), []
    for name in chance.sample(names, min(len(names), chance.choice((1, 1, 1, 2)))):
        if chance.random() < 0.08:
            removed.append(name)
        else:
            (case / name).parent.mkdir(parents=True, exist_ok=True)
            (case / name).write_bytes(_spoil_file(seeds / whole, name, chance))
    return {"whole": whole, "removed": removed}


@contextlib.contextmanager
def _quiet() -> Any:
    """Libraries may show bars while seeds are written."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


class Models(Kind):
    """Trained models, through `load` and `predict`."""

    name = "models"
    _KINDS = ("speech", "text", "late", "early-frame")

    def preparations(self, seeds: Path) -> list[Callable[[], Any]]:
        """One small run, with its models beside it."""

        def train() -> None:
            small = Recipe(
                name="fuzz",
                models=tuple(ModelEntry(name=name) for name in ("speech", "text", "early-frame")),
                ensembles=(EnsembleEntry(name="late", of=("speech", "text"), rule="product"),),
                seeds=(0,),
                speech=SpeechSettings(encoder="logmel"),
                text=TextSettings(encoder="words"),
                model={"width": 8, "heads": 2},
                train=TrainSettings(epochs=1),
                protocol=ProtocolSettings(kind="speakers", folds=2),
            )
            with _quiet():
                run(small, "table", tiny_corpus(seeds.parent / "corpus", utterances=1), seeds.parent / "run", jobs=1)
            for kind in self._KINDS:
                (seeds.parent / "run/models" / kind).rename(seeds / kind)

        return [train]

    def make(self, chance: Random, seeds: Path, case: Path) -> dict[str, Any]:
        """A model with damage in one or two of its files."""
        kinds = sorted(path.name for path in seeds.iterdir())
        text = chance.choice((None, "so very good", "ж", "a" * 5000, ""))
        return {**_damage(chance, seeds, case, kinds), "text": text}

    def ask(self, place: Path, parameters: dict[str, Any]) -> None:
        """Load it and ask about a recording and words."""
        answer = load(place, asr="none").predict(_CLIP, text=parameters["text"])
        check_posteriors(answer.posteriors)
        require(answer.label == max(answer.posteriors, key=answer.posteriors.__getitem__), f"{answer}")
        for style in ("json", "csv"):
            format_predictions([answer], style=style).encode()  # type: ignore[arg-type]


class Encoders(Kind):
    """Folders of pretrained encoders."""

    name = "encoders"

    def preparations(self, seeds: Path) -> list[Callable[[], Any]]:
        """Every family that is supported, with random weights."""

        def write(maker: Callable[..., Path], family: str) -> Callable[[], Any]:
            def attempt() -> None:
                with _quiet():
                    maker(seeds / family, family=family)

            return attempt

        speech = [write(tiny_speech_encoder, family) for family in SPEECH_FAMILIES]
        return speech + [write(tiny_text_encoder, family) for family in TEXT_FAMILIES]

    def make(self, chance: Random, seeds: Path, case: Path) -> dict[str, Any]:
        """An encoder with damage in one or two of its files."""
        case_of = _damage(chance, seeds, case, sorted(path.name for path in seeds.iterdir()))
        if chance.random() < 0.3:
            config = json.loads((seeds / case_of["whole"] / "config.json").read_text(encoding="utf-8"))
            sizes = [name for name, value in config.items() if isinstance(value, (int, list)) and value is not True]
            config[chance.choice(sizes)] = chance.choice((*VALUES, 1 << 20, 1 << 40, [1 << 20] * 7))
            (case / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return case_of

    def ask(self, place: Path, parameters: dict[str, Any]) -> None:
        """Load it, encode one clip or text, and store what comes."""
        if parameters["whole"] in SPEECH_FAMILIES:
            encoder = load_speech_encoder(SpeechSettings(encoder=str(place)))
            features = encoder.encode([_CLIP])[0]
            specification = encoder.specification
        else:
            reader = load_text_encoder(TextSettings(encoder=str(place)))
            features = reader.encode(["so very good"])[0]
            specification = reader.specification
        shape = (len(specification.selected), specification.width)
        require((features.shape[0], features.shape[2]) == shape, f"features are {tuple(features.shape)}, not {shape}")
        # Large weights may give what is no number; extraction refuses that where it is stored.
        key = FeatureKey(specification=specification, granularity="frame")
        FeatureSet(place / "store", key).write({"clip": features.float().numpy()})


class Stores(Kind):
    """Shards of a feature store."""

    name = "stores"
    _KEY = FeatureKey(
        specification=EncoderSpecification(
            name="logmel", family="logmel", modality="speech", revision="1", layers=1, selected=(0,), width=6,
            sampling_rate=16000, stride=320, receptive_field=400,
        ),
        granularity="frame",
    )  # fmt: skip

    def preparations(self, seeds: Path) -> list[Callable[[], Any]]:
        """A feature set of two shards."""

        def write() -> None:
            generator = np.random.default_rng(0)
            feature_set = FeatureSet(seeds / "store", self._KEY)
            for name in ("a", "b"):
                feature_set.write({f"{name}{n}": generator.random((1, 3 + n, 6), np.float32) for n in range(3)})

        return [write]

    def make(self, chance: Random, seeds: Path, case: Path) -> dict[str, Any]:
        """A store with a damaged shard or description."""
        return _damage(chance, seeds, case, ["store"])

    def ask(self, place: Path, parameters: dict[str, Any]) -> None:
        """Read all that it says to hold, and write more."""
        feature_set = FeatureSet(place, self._KEY)
        for name in feature_set:
            features = feature_set.read(name)
            require(
                features.dtype == np.float16 and features.ndim == 3, f"features are {features.dtype} {features.shape}"
            )
            require(feature_set.steps(name) == features.shape[1], f"{name} has another number of steps")
            require(bool(np.isfinite(features).all()), f"features of {name} are not finite")
        with feature_set.writing():
            feature_set.write({"fresh": np.ones((1, 2, 6), np.float32)})
        require(FeatureSet(place, self._KEY).read("fresh").shape == (1, 2, 6), "what was written is not read")
