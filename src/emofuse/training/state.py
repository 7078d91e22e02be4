"""Checkpoints of a long training: weights, optimiser and progress in one safetensors file, written whole."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from emofuse.errors import CheckpointError
from emofuse.files import written_whole


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, values: dict[str, Any]) -> None:
    """Write what a cut-off run needs to go on, in place of the file that was there."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    whole = {name: value.contiguous() for name, value in tensors.items()}
    with written_whole(path) as part:
        save_file(whole, part, metadata={"progress": json.dumps(values)})


def load_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, fingerprint: str, device: torch.device
) -> dict[str, Any]:
    """Put weights and optimiser back, and return the values that were saved with them.

    Raises:
        CheckpointError: The run had other data or settings.
    """
    weights: dict[str, torch.Tensor] = {}
    state: dict[int, dict[str, torch.Tensor]] = {}
    with safe_open(path, framework="pt", device=str(device)) as file:
        values: dict[str, Any] = json.loads(file.metadata()["progress"])
        if values["fingerprint"] != fingerprint:
            raise CheckpointError(
                "the checkpoint is of other data, other encoders or other settings",
                where=path,
                remedy="choose another folder, or remove this one",
            )
        for name in file.keys():  # noqa: SIM118 - a safetensors file is no dictionary
            kind, _, rest = name.partition(".")
            if kind == "model":
                weights[rest] = file.get_tensor(name)
            else:
                index, _, part = rest.partition(".")
                state.setdefault(int(index), {})[part] = file.get_tensor(name)
    model.load_state_dict(weights)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return values


def load_weights(path: Path, model: nn.Module, *, parts: tuple[str, ...]) -> None:
    """Begin with the weights of another run, of some parts of the model.

    Raises:
        CheckpointError: They are of a model of another shape.
    """
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(tuple(f"model.{part}." for part in parts))]  # noqa: SIM118
        weights = {name.removeprefix("model."): file.get_tensor(name) for name in names}
    wanted = {name: value.shape for name, value in model.state_dict().items() if name.startswith(parts)}
    if {name: value.shape for name, value in weights.items()} != wanted:
        raise CheckpointError(
            "this is the checkpoint of a student of another shape",
            where=path,
            remedy="start from one of the same width, layers, heads and teacher layers",
        )
    model.load_state_dict(weights, strict=False)


def digest(path: Path) -> str:
    """What tells one checkpoint from another.

    Raises:
        CheckpointError: There is none.
    """
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError:
        raise CheckpointError(
            "there is no checkpoint here", where=path, remedy="name the folder that `emofuse distill` worked in"
        ) from None
