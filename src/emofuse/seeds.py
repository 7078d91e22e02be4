"""The one place where randomness is set."""

from __future__ import annotations

import hashlib
import random

import numpy as np


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and ask torch for deterministic operations."""
    # Protocols derive seeds too, and must not wait for torch.
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)


def derive_seed(seed: int, *names: object) -> int:
    """A seed for one part of an experiment, so that parts do not share their draws.

    Example:
        >>> derive_seed(0, "fold", 1) != derive_seed(0, "fold", 2)
        True
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
