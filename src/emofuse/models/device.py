"""Check the chosen device."""

from __future__ import annotations

import torch

from emofuse.errors import SettingsError


def check_device(device: str) -> None:
    """Refuse a device that torch cannot use here, before any work is done.

    Args:
        device: Torch device: `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        SettingsError: There is no such device.

    Example:
        >>> check_device("cpu")
        >>> check_device("abacus")
        Traceback (most recent call last):
        emofuse.errors.SettingsError: device 'abacus' cannot be used here; use cpu, or see what `emofuse doctor` finds.
    """
    try:
        torch.empty(1, device=device).cpu()
    # Without CUDA torch raises an AssertionError.
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(
            f"device {device!r} cannot be used here", remedy="use cpu, or see what `emofuse doctor` finds"
        ) from error
