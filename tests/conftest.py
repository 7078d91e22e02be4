"""Fixtures that several files of tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from emofuse.audio import SAMPLING_RATE
from emofuse.testing import tone


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost more than they bring on tensors as small as those of the tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def clips(tmp_path: Path) -> list[dict[str, Any]]:
    """Rows of three utterances of one second, the first two alike in sound."""
    rows = []
    for number, seed in enumerate((1, 1, 2)):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, tone(1.0, seed=seed), SAMPLING_RATE)
        rows.append({"utterance": f"u{number}", "audio": str(path), "text": "so very good", "duration": 1.0})
    return rows
