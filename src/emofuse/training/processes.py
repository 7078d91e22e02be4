"""Processes of a training: a single one, or those of `accelerate launch`."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import distributed

from emofuse.errors import SettingsError
from emofuse.models.device import check_device


class Alone:
    """A single process.

    Args:
        device: Torch device.

    Attributes:
        number: Number of this process, from 0.
        count: Number of processes.
        device: Torch device.

    Example:
        >>> process = Alone("cpu")
        >>> process.main, process.count, process.total(torch.tensor([1, 2])).tolist()
        (True, 1, [1, 2])
    """

    number, count = 0, 1

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)

    @property
    def main(self) -> bool:
        """Whether this process writes and reports."""
        return self.number == 0

    def wait(self) -> None:
        """Wait for all processes."""

    def close(self) -> None:
        """Leave the group."""

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over processes."""
        return values

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over processes; weights without gradient in all stay without."""


class Processes(Alone):
    """This process among others, and sums over all of them.

    The environment of `accelerate launch` or `torchrun` decides; without it there is one process. Sums are bitwise
    equal in all processes.

    Args:
        device: Torch device; None for accelerate's choice. Several processes have a device each, so that only `cpu`
            has an effect.

    Raises:
        SettingsError: The device cannot be used, or not by all processes.

    Example:
        >>> Processes("cpu").count
        1
    """

    def __init__(self, device: str | None = None) -> None:
        from accelerate import PartialState

        if device is not None:
            check_device(device)
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        # Where there is no device, accelerate treats processes as alone unless it is set to the CPU.
        bare = launched > 1 and not torch.cuda.is_available() and not torch.xpu.is_available()
        self._state = PartialState(cpu=device == "cpu" or (device is None and bare))
        self.number = self._state.process_index
        self.count = self._state.num_processes
        if self.count != launched:
            raise SettingsError(
                f"{launched} processes were launched, and they do not find one another",
                where="device",
                remedy="name the device that all of them have, such as cpu",
            )
        self.device = self._state.device
        if self.device.type == "cpu":
            # accelerate numbers CPUs, which safetensors does not support.
            self.device = torch.device("cpu")
        if device is not None and self.count == 1:
            self.device = torch.device(device)

    def wait(self) -> None:
        """See `Alone.wait`."""
        self._state.wait_for_everyone()

    def close(self) -> None:
        """See `Alone.close`."""
        self._state.destroy_process_group()

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """See `Alone.total`."""
        if self.count == 1:
            return values
        summed = values.to(self.device, copy=True)
        distributed.all_reduce(summed)
        return summed.to(values.device)

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """See `Alone.sum_gradients`.

        All gradients are sent in one message, after the last micro-batch of a step. `DistributedDataParallel` sends
        them in many while they are computed, but must know in advance which weights have none, assumes that every
        process has as many utterances, and fails with weights that are recomputed in the backward pass.
        """
        if self.count == 1:
            return
        held = self.total(torch.tensor([parameter.grad is not None for parameter in parameters]).int())
        used = [parameter for parameter, holders in zip(parameters, held.tolist(), strict=True) if holders]
        flat = torch.cat([_gradient(parameter).flatten() for parameter in used])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [parameter.numel() for parameter in used])
        for parameter, part in zip(used, parts, strict=True):
            parameter.grad = part.view_as(parameter)


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
