"""Where an encoder's files are, whether they may be used, and loading them without running anyone's pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from emofuse.encoders.cards import Card, find_card, read_card
from emofuse.errors import EncoderError

SAMPLING_RATE = 16000
BUILTIN = "builtin:"
LIGHT = ("wav2vec2",)
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
CONTENT = (".json", ".safetensors", ".txt", ".model")
"""Endings of the files of a folder that decide an encoder's features."""
# Weights that no hidden state depends on; an encoder may come without them.
_UNUSED_WEIGHTS = ("masked_spec_embed", "pooler.")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An encoder's files, found and checked.

    Attributes:
        name: Hub id, the folder's full path, or the name of a built-in encoder.
        place: What transformers is to be given: Hub id or folder.
        commit: Hub commit; None for a folder.
        revision: The commit, or a hash of the folder's files.
        family: `model_type` of the configuration.
        config: Configuration object of `transformers`; of the built-in speech encoder plain values, which come sooner.
        preprocessor: Contents of `preprocessor_config.json`; empty if there is none.
        safetensors: Whether the weights are safetensors.
        card: What is known of the weights.
        light: Whether `config` is plain values, as the built-in module wants them and transformers does not.
    """

    name: str
    place: str
    commit: str | None
    revision: str
    family: str
    config: Any
    preprocessor: dict[str, Any]
    safetensors: bool
    card: Card
    light: bool = False


def open_checkpoint(
    encoder: str, *, revision: str | None, families: Iterable[str], preprocessed: bool = False, light: bool = True
) -> Checkpoint:
    """Find an encoder by Hub id or folder and read what it says about itself.

    Args:
        encoder: Hub id or folder.
        revision: Branch, tag or commit of a Hub id; None for the newest.
        families: Values of `model_type` that the caller can use.
        preprocessed: Whether the caller heeds `preprocessor_config.json`.
        light: Whether a built-in encoder may do without transformers.

    Raises:
        EncoderError: Not found, not reachable, damaged, of another family, without safe weights, or made for
            another sampling rate.
    """
    if encoder.startswith(BUILTIN):
        return replace(_open_folder(_builtin_folder(encoder), families=families, light=light), name=encoder)
    folder = Path(encoder).expanduser()
    if encoder.strip() and folder.is_dir():
        return _open_folder(folder.resolve(), families=families)
    if _looks_like_path(encoder):
        raise EncoderError(
            "there is no such folder", where=encoder, remedy="check the path, or give the id of a model on the Hub"
        )
    return _open_hub(encoder, revision=revision, families=families, preprocessed=preprocessed)


def _builtin_folder(encoder: str) -> Path:
    within = Path(__file__).parent.parent / "builtin"
    known = (
        sorted(path.name for path in within.iterdir() if (path / "config.json").is_file()) if within.is_dir() else []
    )
    name = encoder.removeprefix(BUILTIN)
    if name not in known:
        names = ", ".join(BUILTIN + one for one in known)
        raise EncoderError("no such built-in encoder", where=encoder, remedy=f"use one of {names}")
    return within / name


def _looks_like_path(encoder: str) -> bool:
    return encoder.startswith((".", "/", "~")) or "\\" in encoder or encoder.count("/") > 1 or not encoder.strip()


def _open_folder(folder: Path, *, families: Iterable[str], light: bool = False) -> Checkpoint:
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
    light = light and family in LIGHT
    return Checkpoint(
        name=str(folder),
        place=str(folder),
        commit=None,
        revision=content_hash(folder),
        family=family,
        config=SimpleNamespace(**values) if light else _configuration(str(folder), commit=None),
        preprocessor=preprocessor,
        safetensors=True,
        card=read_card(folder) or find_card(str(values.get("_name_or_path", ""))),
        light=light,
    )


def _open_hub(name: str, *, revision: str | None, families: Iterable[str], preprocessed: bool) -> Checkpoint:
    found = _fetch(name, "config.json", revision=revision)
    if found is None:
        raise EncoderError("the repository has no config.json", where=name, remedy="give the id of a model")
    # Snapshots lie in folders named after their commit; it pins the other files to the same state.
    commit = found.parent.name
    family = _check_family(_read_json(found) or {}, where=name, families=families)
    preprocessor = _fetch(name, "preprocessor_config.json", revision=commit) if preprocessed else None
    return Checkpoint(
        name=name,
        place=name,
        commit=commit,
        revision=commit,
        family=family,
        config=_configuration(name, commit=commit),
        preprocessor=_check_rate((_read_json(preprocessor) or {}) if preprocessor else {}, where=name),
        safetensors=any(_fetch(name, file, revision=commit) for file in _SAFETENSORS),
        card=find_card(name),
    )


def _fetch(name: str, file: str, *, revision: str | None) -> Path | None:
    """A file of a repository on the Hub, from the cache where possible; None if the repository does not have it."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        # Where the cache already knows the answer, no question goes out: with a commit, it cannot have changed.
        known = try_to_load_from_cache(name, file, revision=revision)
        if known is not None and not isinstance(known, str) and revision is not None:
            return None
        return Path(hf_hub_download(name, file, revision=revision))
    except HFValidationError as error:
        raise EncoderError(
            "this is neither a folder nor the id of a model on the Hub", where=name, remedy="check the spelling"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise EncoderError(
            "the Hugging Face Hub has no such model or revision, or does not show it to you",
            where=name,
            remedy="check id and revision, log in with `hf auth login` if it is not public, or give a local folder",
        ) from error
    except EntryNotFoundError as error:
        # Its local kind says only that the file is not in the cache, not that the repository lacks it.
        if isinstance(error, LocalEntryNotFoundError):
            raise _unreachable(name) from error
        return None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise _unreachable(name) from error


def load_weights(checkpoint: Checkpoint, model_class: Any, *, device: torch.device, **options: Any) -> Any:
    """Load a model in float32 and evaluation mode.

    Args:
        checkpoint: What to load.
        model_class: A class of `transformers` with `from_pretrained`.
        device: Where the model shall live.
        **options: Passed on to `from_pretrained`.

    Raises:
        EncoderError: The files cannot be read, or lack weights that the architecture needs.
    """
    try:
        with quiet():
            model, report = model_class.from_pretrained(
                checkpoint.place,
                config=checkpoint.config,
                revision=checkpoint.commit or "main",
                # A pickle from the Hub is read with weights_only, which runs no code; one in a folder is refused above.
                use_safetensors=checkpoint.safetensors,
                dtype=torch.float32,
                output_loading_info=True,
                **options,
            )
    except Exception as error:
        raise EncoderError(
            f"the weights cannot be loaded ({_first_line(error)})",
            where=checkpoint.name,
            remedy="fetch or write the files anew",
        ) from error
    missing = sorted(key for key in report["missing_keys"] if not any(part in key for part in _UNUSED_WEIGHTS))
    if missing:
        # transformers fills missing weights with random numbers and goes on; features of those would be noise.
        raise EncoderError(
            f"{len(missing)} weights are missing, such as {missing[0]}",
            where=checkpoint.name,
            remedy="give a complete checkpoint of this architecture",
        )
    return model.eval().requires_grad_(False).to(device)


def content_hash(folder: Path) -> str:
    """Hash of the files of a folder that decide its features: configurations, tokenizer and safetensors weights."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in CONTENT and path.is_file():
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:40]


def _configuration(name: str, *, commit: str | None) -> Any:
    from transformers import AutoConfig

    try:
        with quiet():
            return AutoConfig.from_pretrained(name, revision=commit or "main", trust_remote_code=False)
    except Exception as error:
        raise EncoderError(
            f"config.json cannot be used ({_first_line(error)})", where=name, remedy="fetch or write it anew"
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
            f"the encoder was made for sound at {rate} Hz", where=where, remedy=f"use one made for {SAMPLING_RATE} Hz"
        )
    return preprocessor


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EncoderError("this is not valid JSON", where=path, remedy="fetch or write it anew") from error
    if not isinstance(values, dict):
        raise EncoderError("this holds no JSON object", where=path, remedy="fetch or write it anew")
    return values


def _unreachable(name: str) -> EncoderError:
    return EncoderError(
        "the Hugging Face Hub cannot be reached, and the model is not in its local cache",
        where=name,
        remedy="check the id and the connection, or give a local folder that holds the model",
    )


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
    """Keep transformers from writing to the terminal: what matters in its reports is raised as an error instead."""
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
