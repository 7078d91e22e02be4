"""Check the installation, and state what to fix."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emofuse.scoring.result import versions
from emofuse.workers import usable_cores


@dataclass(frozen=True)
class Check:
    """One check; `ok` is None for information only."""

    name: str
    ok: bool | None
    detail: str


def examine() -> list[Check]:
    """Check Python, packages, audio formats, arithmetic and disk.

    Example:
        >>> examine()[0].name
        'Python'
    """
    supported = (3, 10) <= sys.version_info[:2] <= (3, 13)
    checks = [
        Check("Python", supported, platform.python_version() + ("" if supported else "; use 3.10 to 3.13")),
        Check("processor", None, f"{usable_cores()} cores, {platform.machine()}"),
    ]
    checks += [
        Check(name, version != "not installed", version)
        for name, version in versions().items()
        if name not in ("python", "platform")
    ]
    checks += [
        _try("recordings", _sound),
        _try("m4a, mp4, webm", _containers),
        _try("arithmetic", _arithmetic),
        _torchaudio(),
        _demo(),
    ]
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    checks.append(Check("disk", free > 1, f"{free:.0f} GB free here; 13 layers of frames take about 3.6 GB an hour"))
    return checks


def _try(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    # A broken package may raise anything.
    except Exception as error:
        return Check(name, False, f"{error}; install emofuse again in a fresh environment")


def _sound() -> str:
    soundfile = importlib.import_module("soundfile")
    formats = soundfile.available_formats()
    found = [name for name in ("WAV", "FLAC", "OGG", "MP3") if name in formats]
    return f"{', '.join(found)} by libsndfile {soundfile.__libsndfile_version__}"


def _containers() -> str:
    av = importlib.import_module("av")
    return f"by PyAV {av.__version__}"


def _arithmetic() -> str:
    import torch

    if torch.cuda.is_available():
        return f"GPU: {torch.cuda.get_device_name(0)}; use --device cuda"
    return f"CPU ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads; no GPU found"


def _torchaudio() -> Check:
    if importlib.util.find_spec("torchaudio") is None:
        return Check("torchaudio", None, "absent, which is fine: emofuse does not use it")
    try:
        importlib.import_module("torchaudio")
    except Exception:
        return Check("torchaudio", False, "installed but broken, which breaks transformers: uninstall it")
    return Check("torchaudio", None, "present; emofuse does not use it")


def _demo() -> Check:
    present = importlib.util.find_spec("hibari") is not None
    return Check(
        "demo voices", None, "installed" if present else "absent; pip install hibari-tts==0.2.1 to run the demo"
    )
