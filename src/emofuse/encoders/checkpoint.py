"""Find, check and load an encoder's files, without unpickling."""

from __future__ import annotations

import difflib
import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from emofuse.encoders.cards import Card, find_card, read_card
from emofuse.encoders.compact import is_compact
from emofuse.encoders.hub import fetch, fetch_all, offline
from emofuse.errors import EncoderError
from emofuse.weights import check_finite, read_header

SAMPLING_RATE = 16000
BUILTIN = "builtin:"
LIGHT = ("whisper",)
_INDEX = ".index.json"
_SAFETENSORS = ("model.safetensors", "model.safetensors" + _INDEX)
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin" + _INDEX)
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
)
_TOKENS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_LARGE = ("vocab", "merges")  # They hold no tokens with settings.
_OF_A_TOKEN = {"__type", "id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}
_AGAIN = "fetch or write the files again"
_LONGEST_JSON = 8 << 20
_MOST_TOKENS = 128 << 20  # Bytes.
_ATTENTION = (None, "eager", "sdpa")
_SLACK = 1 << 20  # Numbers of a network besides its weights, such as positions.
CONTENT = (".json", ".safetensors", ".txt", ".model")
"""Endings of files that affect an encoder's features."""
# Weights that no hidden state depends on; an encoder may come without them.
_UNUSED_WEIGHTS = ("masked_spec_embed", "pooler.")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An encoder's files, found and checked.

    Attributes:
        name: Hub id, the folder's full path, or the name of a built-in encoder.
        place: The folder for transformers, also for an encoder of the Hub.
        revision: The commit, or a hash of the folder's files.
        family: `model_type` of the configuration.
        config: Configuration object of `transformers`, or plain values.
        preprocessor: Contents of `preprocessor_config.json`; empty if there is none.
        safetensors: Whether the weights are safetensors.
        card: Licence and training corpora of the weights.
        light: Whether the weights are stored in eight bits, for a module of our own; `config` is plain values then.
    """

    name: str
    place: str
    revision: str
    family: str
    config: Any
    preprocessor: dict[str, Any]
    safetensors: bool
    card: Card
    light: bool = False


def open_checkpoint(
    encoder: str,
    *,
    revision: str | None,
    families: Iterable[str],
    preprocessed: bool = False,
    download: bool = True,
) -> Checkpoint:
    """Find an encoder by Hub id or folder and read its configuration.

    Args:
        encoder: Hub id or folder.
        revision: Branch, tag or commit of a Hub id; None for the newest.
        families: Supported values of `model_type`.
        preprocessed: Whether to read `preprocessor_config.json`.
        download: Whether the Hub may be used; a model from elsewhere may neither use it nor name a relative folder.

    Raises:
        EncoderError: Not found, not reachable, damaged, of another family, without safe weights, or made for
            another sampling rate.
    """
    if encoder.startswith(BUILTIN):
        return replace(_open_folder(_builtin_folder(encoder), families=families), name=encoder)
    try:
        folder = Path(encoder).expanduser()
        if encoder.strip() and (download or folder.is_absolute()) and folder.is_dir():
            return _open_folder(folder.resolve(), families=families)
    except (OSError, RuntimeError) as error:
        # RuntimeError: the home folder of an unknown user.
        raise EncoderError(
            f"the folder cannot be read ({getattr(error, 'strerror', error)})",
            where=encoder,
            remedy="check path, permissions and disk",
        ) from error
    if _looks_like_path(encoder):
        raise EncoderError(
            "there is no such folder", where=encoder, remedy="check the path, or give the id of a model on the Hub"
        )
    return _open_hub(encoder, revision=revision, families=families, preprocessed=preprocessed, download=download)


def _builtin_folder(encoder: str) -> Path:
    within = Path(__file__).parent.parent / "builtin"
    known = (
        sorted(path.name for path in within.iterdir() if (path / "config.json").is_file()) if within.is_dir() else []
    )
    name = encoder.removeprefix(BUILTIN)
    if name not in known:
        # Compare without the prefix, which all of them have.
        close = difflib.get_close_matches(name, known, n=1)
        names = ", ".join(BUILTIN + one for one in known)
        remedy = f"did you mean {BUILTIN}{close[0]}" if close else f"use one of {names}"
        raise EncoderError("no such built-in encoder", where=encoder, remedy=remedy)
    return within / name


def _looks_like_path(encoder: str) -> bool:
    return encoder.startswith((".", "/", "~")) or "\\" in encoder or encoder.count("/") > 1 or not encoder.strip()


def _open_folder(folder: Path, *, families: Iterable[str]) -> Checkpoint:
    values = _read_json(folder / "config.json")
    if values is None:
        raise EncoderError(
            "the folder holds no config.json",
            where=folder,
            remedy="give a folder that save_pretrained of transformers has written",
        )
    family = _check_family(values, where=str(folder), families=families)
    if not any((folder / name).is_file() for name in _SAFETENSORS):
        raise _unsafe_weights(folder) if (folder / "pytorch_model.bin").is_file() else _no_weights(folder)
    preprocessor = _check_rate(_read_json(folder / "preprocessor_config.json") or {}, where=str(folder))
    light = family in LIGHT and _is_compact(folder)
    return Checkpoint(
        name=str(folder),
        place=str(folder),
        revision=content_hash(folder),
        family=family,
        config=SimpleNamespace(**values) if light else _configuration(folder, name=str(folder)),
        preprocessor=preprocessor,
        safetensors=True,
        card=read_card(folder) or find_card(str(values.get("_name_or_path", ""))),
        light=light,
    )


def _is_compact(folder: Path) -> bool:
    try:
        return is_compact(folder)
    except ValueError as error:
        raise EncoderError(f"the weights cannot be loaded ({error})", where=folder, remedy=_AGAIN) from error


def _open_hub(
    name: str, *, revision: str | None, families: Iterable[str], preprocessed: bool, download: bool
) -> Checkpoint:
    found = fetch(name, "config.json", revision=revision, download=download)
    if found is None:
        raise EncoderError("the repository has no config.json", where=name, remedy="give the id of a model")
    # A snapshot's folder is named after its commit, which pins the other files.
    folder, commit = found.parent, found.parent.name
    family = _check_family(_read_json(found) or {}, where=name, families=families)
    preprocessor = fetch(name, "preprocessor_config.json", revision=commit, download=download) if preprocessed else None
    safetensors = any(fetch(name, one, revision=commit, download=download, optional=True) for one in _SAFETENSORS)
    if not safetensors:
        fetch_all(name, _PICKLES, revision=commit, download=download)
    fetch_all(name, [*_weight_files(folder), *_TOKENIZER_FILES], revision=commit, download=download)
    return Checkpoint(
        name=name,
        place=str(folder),
        revision=commit,
        family=family,
        config=_configuration(folder, name=name),
        preprocessor=_check_rate((_read_json(preprocessor) or {}) if preprocessor else {}, where=name),
        safetensors=safetensors,
        card=find_card(name),
    )


def model_folder(name: str, *, download: bool = True) -> Path:
    """The folder of a model with safetensors weights, or the snapshot of one on the Hub.

    Args:
        name: Hub id or folder.
        download: Whether to download from the Hub what is not cached.

    Raises:
        EncoderError: There is none.
    """
    if name.strip() and Path(name).is_dir():
        return Path(name)
    found = fetch(name, "config.json", revision=None, download=download)
    if found is None:
        raise EncoderError("the repository has no config.json", where=name, remedy="give the id of a model")
    folder, commit = found.parent, found.parent.name
    fetch_all(name, ["preprocessor_config.json", *_SAFETENSORS, *_TOKENIZER_FILES], revision=commit, download=download)
    fetch_all(name, _weight_files(folder), revision=commit, download=download)
    return folder


def _weight_files(folder: Path) -> list[str]:
    """Names of the weights' files: one, or the shards of an index.

    Raises:
        EncoderError: The index is damaged, or names files elsewhere.
    """
    for name in (*_SAFETENSORS, *_PICKLES):
        if not (folder / name).is_file():
            continue
        if not name.endswith(_INDEX):
            return [name]
        parts = (_read_json(folder / name) or {}).get("weight_map")
        shards = sorted(set(map(str, parts.values()))) if isinstance(parts, dict) else []
        if not shards or any(Path(one).name != one or "\\" in one or one in ("", ".", "..") for one in shards):
            raise EncoderError("the index of the weights names no files beside it", where=folder / name, remedy=_AGAIN)
        return shards
    return [_PICKLES[0]]


def load_weights(checkpoint: Checkpoint, model_class: Any, *, device: torch.device, **options: Any) -> Any:
    """Load a model in float32 and evaluation mode.

    Args:
        checkpoint: What to load.
        model_class: A class of `transformers` with `from_pretrained`.
        device: Torch device.
        **options: Passed on to `from_pretrained`.

    Raises:
        EncoderError: The files cannot be read, or lack weights that the architecture needs.
    """
    try:
        _check_size(checkpoint, model_class)
        with quiet(), offline():
            model, report = model_class.from_pretrained(
                checkpoint.place,
                config=checkpoint.config,
                # A pickle from the Hub is read with weights_only, which runs no code; one in a folder is refused above.
                use_safetensors=checkpoint.safetensors,
                dtype=torch.float32,
                output_loading_info=True,
                **options,
            )
        check_finite(model.named_parameters(), "the weights")
    except EncoderError:
        raise
    except Exception as error:
        raise EncoderError(
            f"the weights cannot be loaded ({_first_line(error)})", where=checkpoint.name, remedy=_AGAIN
        ) from error
    missing = sorted(key for key in report["missing_keys"] if not any(part in key for part in _UNUSED_WEIGHTS))
    if missing:
        # transformers fills missing weights with random numbers; their features would be noise.
        raise EncoderError(
            f"{len(missing)} weights are missing, such as {missing[0]}",
            where=checkpoint.name,
            remedy="give a complete checkpoint of this architecture",
        )
    return model.eval().requires_grad_(False).to(device)


def _check_size(checkpoint: Checkpoint, model_class: Any) -> None:
    """Check that the configuration describes no more than the weights' files hold, before memory is allocated.

    Raises:
        ValueError: It does, or a file is damaged.
    """
    if not checkpoint.safetensors:
        return
    folder = Path(checkpoint.place)
    held = [tensor for name in _weight_files(folder) for tensor in read_header(folder / name).values()]
    counts = ("num_conv_pos_embeddings",) if checkpoint.family == "data2vec-audio" else ()
    for name, value in checkpoint.config.to_dict().items():
        if ("layers" in name or name in counts) and isinstance(value, int) and value > len(held):
            raise ValueError(f"{name} is {value} in config.json, and they have {len(held)} tensors")
    with torch.device("meta"), quiet(), offline(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        network = getattr(model_class, "from_config", model_class)(checkpoint.config)
    sizes = {name: value.numel() for name, value in (*network.named_parameters(), *network.named_buffers())}
    if nothing := next((name for name, value in network.named_parameters() if not value.numel()), None):
        raise ValueError(f"config.json gives {nothing} no numbers")
    wanted = sum(size for name, size in sizes.items() if not any(part in name for part in _UNUSED_WEIGHTS))
    numbers = sum(tensor.numbers for tensor in held)
    if wanted > numbers + _SLACK:
        raise ValueError(f"config.json describes {wanted:,} numbers, and they have {numbers:,}")


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """Load the tokenizer beside the weights, without running code from its folder.

    Raises:
        EncoderError: There is none, or it has more tokens than the weights.
    """
    from transformers import AutoTokenizer

    folder = Path(checkpoint.place)
    if any((folder / name).is_file() and (folder / name).stat().st_size > _MOST_TOKENS for name in _TOKENIZER_FILES):
        raise EncoderError("the tokenizer's files are too large", where=checkpoint.name, remedy=_AGAIN)
    if odd := _odd_setting(folder):
        raise EncoderError(f"a token of the tokenizer has a setting {odd!r}", where=checkpoint.name, remedy=_AGAIN)
    try:
        with quiet(), offline():
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            sample = tokenizer("a b")
            highest = max([*tokenizer.get_vocab().values(), *sample["input_ids"]], default=0)
            kinds = max(sample.get("token_type_ids") or [0])
    except BaseException as error:
        # A panic in Rust is not an Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise EncoderError(
            "the tokenizer cannot be loaded",
            where=checkpoint.name,
            remedy="put the tokenizer's files (tokenizer.json, or vocab.txt for BERT) beside the weights",
        ) from error
    rows = checkpoint.config.vocab_size
    if max(len(tokenizer), highest + 1) > rows or kinds >= getattr(checkpoint.config, "type_vocab_size", 0) > 0:
        raise EncoderError(
            f"the tokenizer has {max(len(tokenizer), highest + 1)} tokens and the weights only {rows}",
            where=checkpoint.name,
            remedy="take tokenizer and weights from the same checkpoint",
        )
    return tokenizer


def _odd_setting(folder: Path) -> str | None:
    """A setting of a token that the library tokenizers does not know; it would print it from Rust and go on."""
    for name in _TOKENS:
        try:
            todo: list[Any] = [json.loads((folder / name).read_bytes())]
        except (OSError, ValueError, RecursionError):
            continue
        while todo:
            part = todo.pop()
            if isinstance(part, list):
                todo += part
            elif isinstance(part, dict):
                # A normaliser has a content too, and a type.
                token = isinstance(part.get("content"), str) and "type" not in part
                if token and (odd := sorted(part.keys() - _OF_A_TOKEN)):
                    return str(odd[0])
                todo += [one for key, one in part.items() if key not in _LARGE]
    return None


def content_hash(folder: Path) -> str:
    """Hash of the files that affect features: configurations, tokenizer and safetensors weights."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in CONTENT and path.is_file():
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:40]


def _configuration(folder: Path, *, name: str) -> Any:
    from transformers import AutoConfig

    values = _read_json(folder / "config.json") or {}
    # Each of these loads more than the files that are checked here: an adapter's base, kernels, other arithmetic.
    attention = [value for key, value in values.items() if key.strip("_").startswith("attn_implementation")]
    if (folder / "adapter_config.json").is_file() or "quantization_config" in values:
        raise EncoderError("this is an adapter, or quantised", where=name, remedy="give an encoder with plain weights")
    if any(one not in _ATTENTION for one in attention):
        raise EncoderError("config.json asks for another attention", where=name, remedy="use eager or sdpa")
    try:
        with quiet(), offline():
            return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise EncoderError(
            f"config.json cannot be used ({_first_line(error)})", where=name, remedy="fetch or write it again"
        ) from error


def _check_family(values: dict[str, Any], *, where: str, families: Iterable[str]) -> str:
    family = str(values.get("model_type", "none"))
    if family not in families:
        raise EncoderError(
            f"models of type {family} are not supported here",
            where=where,
            remedy=f"use one of the families {', '.join(families)}",
        )
    return family


def _check_rate(preprocessor: dict[str, Any], *, where: str) -> dict[str, Any]:
    rate = preprocessor.get("sampling_rate", SAMPLING_RATE)
    if rate != SAMPLING_RATE:
        raise EncoderError(
            f"the encoder was made for audio at {rate} Hz", where=where, remedy=f"use one made for {SAMPLING_RATE} Hz"
        )
    for name, most in (("n_fft", 1 << 14), ("feature_size", 1 << 10), ("chunk_length", 600), ("hop_length", 1 << 14)):
        value = preprocessor.get(name, 1)
        if type(value) is not int or not 0 < value <= most:
            raise EncoderError(
                f"{name} of preprocessor_config.json is not a whole number up to {most}", where=where, remedy=_AGAIN
            )
    return preprocessor


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _LONGEST_JSON:
            raise ValueError("it is too long")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EncoderError("this is not valid JSON", where=path, remedy="fetch or write it again") from error
    if not isinstance(values, dict):
        raise EncoderError("this holds no JSON object", where=path, remedy="fetch or write it again")
    return values


def _unsafe_weights(folder: Path) -> EncoderError:
    return EncoderError(
        "the weights are a pickle (pytorch_model.bin), which may run any code when it is opened",
        where=folder,
        remedy="convert them to safetensors with AutoModel.from_pretrained(folder).save_pretrained(folder) of"
        " transformers, if you trust where they come from",
    )


def _no_weights(folder: Path) -> EncoderError:
    return EncoderError(
        "the folder holds no model.safetensors", where=folder, remedy="put the weights beside config.json"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers; its relevant reports are raised as errors instead."""
    import transformers.utils

    logging: Any = transformers.utils.logging
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
