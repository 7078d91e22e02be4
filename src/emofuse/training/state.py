"""Checkpoints of a long training: weights, optimiser and progress in one safetensors file, written atomically."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from emofuse.errors import CheckpointError
from emofuse.files import plain_name, written_atomically

CHECKPOINT, BEST = "checkpoint.safetensors", "best.safetensors"
"""Files of an unfinished training: its state, and the weights of its best epoch."""

MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
"""AdamW's state per parameter."""


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, values: dict[str, Any]) -> None:
    """Write all that an interrupted run needs to resume, replacing the file."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    whole = {name: value.contiguous() for name, value in tensors.items()}
    with written_atomically(path) as part:
        encoded = json.dumps(values)
        save_file(whole, part, metadata={"progress": encoded, "sum": sha256(encoded.encode()).hexdigest()})


def load_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, fingerprint: str, device: torch.device
) -> dict[str, Any]:
    """Restore weights and optimiser, and return the values that were saved with them.

    Raises:
        CheckpointError: The run had other data or settings, or the file is damaged.
    """
    try:
        with plain_name(path) as place, safe_open(place, framework="pt", device=str(device)) as file:
            about = file.metadata()
            values: dict[str, Any] = json.loads(about["progress"])
            key = values["fingerprint"]
            # Checkpoints of earlier versions have no checksum.
            if "sum" in about and about["sum"] != sha256(about["progress"].encode()).hexdigest():
                raise ValueError("the progress is not what was written")
            tensors = {name: file.get_tensor(name) for name in file.keys() if key == fingerprint}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path) from error
    if key != fingerprint:
        raise CheckpointError(
            "the checkpoint is of other data, other encoders or other settings",
            where=path,
            remedy="choose another folder, or remove this one",
        )
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    state: dict[int, dict[str, torch.Tensor]] = {}
    try:
        for name in tensors.keys() - {f"model.{known}" for known in weights}:
            _, index, part = name.split(".", 2)
            state.setdefault(int(index), {})[part] = tensors[name]
        model.load_state_dict(weights)
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except (RuntimeError, ValueError) as error:
        raise damaged(path) from error
    # The optimiser accepts any state, and would fail at its next step.
    for parameter, held in optimizer.state.items():
        if held.keys() != MOMENTS or any(held[name].shape != parameter.shape for name in MOMENTS - {"step"}):
            raise damaged(path)
    return values


def save_best(path: Path, model: nn.Module, *, fingerprint: str) -> None:
    """Write the weights of the best epoch so far."""
    weights: dict[str, Any] = {name: value.contiguous() for name, value in model.state_dict().items()}
    with written_atomically(path) as part:
        save_file(weights, part, metadata={"fingerprint": fingerprint})


def load_best(path: Path, *, fingerprint: str, device: torch.device) -> dict[str, torch.Tensor]:
    """Weights of the best epoch.

    Raises:
        CheckpointError: They are missing, damaged or of something else.
    """
    try:
        with plain_name(path) as place, safe_open(place, framework="pt", device=str(device)) as file:
            if file.metadata()["fingerprint"] == fingerprint:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise damaged(path, besides=f" and {CHECKPOINT}") from error
    raise damaged(path, besides=f" and {CHECKPOINT}")


def discard(folder: Path) -> None:
    """Remove the checkpoint of a training that is finished and kept elsewhere, or useless."""
    for name in (CHECKPOINT, BEST):
        (folder / name).unlink(missing_ok=True)


def damaged(path: Path, *, besides: str = "") -> CheckpointError:
    """The error for a checkpoint that cannot be resumed."""
    return CheckpointError(
        "this checkpoint is damaged or cannot be read",
        where=path,
        remedy=f"remove it{besides}, and the same command begins this training again",
    )


def load_weights(path: Path, model: nn.Module, *, parts: tuple[str, ...]) -> None:
    """Load the weights of another run into some parts of the model.

    Raises:
        CheckpointError: They are of a model of another shape, or the file is damaged.
    """
    try:
        with plain_name(path) as place, safe_open(place, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(tuple(f"model.{part}." for part in parts))]  # noqa: SIM118
            weights = {name.removeprefix("model."): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            "this checkpoint is damaged or cannot be read", where=path, remedy="start from another, or from none"
        ) from error
    wanted = {name: value.shape for name, value in model.state_dict().items() if name.startswith(parts)}
    if {name: value.shape for name, value in weights.items()} != wanted:
        raise CheckpointError(
            "this is the checkpoint of a student of another shape",
            where=path,
            remedy="start from one of the same width, layers, heads and teacher layers",
        )
    model.load_state_dict(weights, strict=False)


def digest(path: Path) -> str:
    """Identity of a checkpoint.

    Raises:
        CheckpointError: There is none.
    """
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError:
        raise CheckpointError(
            "there is no checkpoint here", where=path, remedy="name the folder that `emofuse distill` worked in"
        ) from None
