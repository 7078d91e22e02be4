"""What fails, made as small as it goes while it fails in the same way."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.fuzz.contract import files_of

_TRIES = 300


def shrink(case: Path, fails: Callable[[Path], bool], scratch: Path, *, seconds: float = 30.0) -> None:
    """Leave out halves, quarters, ... of each file's lines and then bytes, as long as the case fails.

    Args:
        case: Folder of the case, whose files are replaced by smaller ones.
        fails: Whether a case fails as this one did.
        scratch: Where cases to try are laid out.
        seconds: Most time that it may take.
    """
    until, tries = time.monotonic() + seconds, 0

    def still(name: Path, content: bytes | None) -> bool:
        nonlocal tries
        tries += 1
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(case, scratch)
        if content is None:
            (scratch / name).unlink()
        else:
            (scratch / name).write_bytes(content)
        return fails(scratch)

    for path in files_of(case):
        name = path.relative_to(case)
        if len(files_of(case)) > 1 and still(name, None):
            path.unlink()
            continue
        for separator in (b"\n", b""):
            content = path.read_bytes()
            parts = content.splitlines(keepends=True) if separator else [bytes([one]) for one in content]
            size = max(1, len(parts) // 2)
            while size and parts and time.monotonic() < until and tries < _TRIES:
                at = 0
                while at < len(parts) and time.monotonic() < until and tries < _TRIES:
                    shorter = parts[:at] + parts[at + size :]
                    if still(name, b"".join(shorter)):
                        parts = shorter
                        path.write_bytes(b"".join(parts))
                    else:
                        at += size
                size //= 2
