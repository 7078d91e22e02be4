"""Seeds of randomness, and the number of threads, which affects rounding."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and set torch to deterministic operations."""
    # Protocols derive seeds too, without importing torch.
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)


def seed_step(seed: int, device: str) -> None:
    """Seed a training step on a device, fast enough for every step.

    Args:
        seed: Of the step.
        device: Type of the device, such as `cpu`.
    """
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    # `torch.manual_seed` takes a millisecond to look for devices of all kinds.
    if device == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Restore the caller's random state, and torch's deterministic mode.

    Example:
        >>> random.seed(0)
        >>> with kept_random_state():
        ...     seed_everything(1)
        >>> random.random() == random.Random(0).random()
        True
    """
    import torch

    python, numbers, drawn = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    exact = _exact()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        torch.set_rng_state(drawn)
        if devices:
            torch.cuda.set_rng_state_all(devices)
        # The call imports torch's compiler, which takes a second.
        if _exact() != exact:
            torch.use_deterministic_algorithms(exact[0], warn_only=exact[1])


def _exact() -> tuple[bool, bool]:
    import torch

    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread, so that results do not depend on the machine and `--jobs`.

    Example:
        >>> import torch
        >>> with one_thread():
        ...     torch.get_num_threads()
        1
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def derive_seed(seed: int, *names: object) -> int:
    """A seed for one part of an experiment, independent of other parts.

    Example:
        >>> derive_seed(0, "fold", 1) != derive_seed(0, "fold", 2)
        True
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
