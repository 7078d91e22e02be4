"""Fixtures that several files of tests share."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import soundfile

# Threads cost more than they bring on tensors as small as those of the tests, and the tests themselves run in several
# processes. Set before torch is imported, and inherited by what the tests start.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from emofuse.audio import SAMPLING_RATE
from emofuse.report.plots import Plot
from emofuse.testing import tone


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run slow tests too, and more random examples of the others")


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.register_profile("few", max_examples=25, deadline=None, derandomize=True)
    hypothesis.settings.register_profile("many", max_examples=200, deadline=None)
    hypothesis.settings.load_profile("many" if config.getoption("--all") else "few")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="takes long: `make test-all` runs it"))


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """A crash of the machine is not tested, and each wait for its disk takes some milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def tones_are_speech() -> Iterator[None]:
    """The recordings of tests are tones, in which no detector finds speech, so that all would get one more note."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emofuse.audio.doubts.speech_seconds", lambda clip: (1.0, True))
        yield


@pytest.fixture(scope="module")
def no_report() -> Iterator[None]:
    """Runs of this module write no page and no plots, which take longer than all else of a small run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emofuse.experiment.write_report", lambda out, **_: out)
        yield


@pytest.fixture(scope="module")
def blank_plots() -> Iterator[None]:
    """Pages of this module have empty plots: drawing takes most of a small report's time, and has its own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emofuse.report.plots._plot", lambda draw, **named: Plot(b"", 1, 1, named["alt"]))
        yield


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """No file takes more than so many bytes, as if the disk had no more."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


class CommandLine:
    """Runs commands in this process, which has imported torch already: a fresh one takes seconds for that."""

    def __call__(self, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
        """What a command with these arguments, typed in a folder, prints and ends with."""
        from emofuse.cli.app import main
        from emofuse.cli.console import OUT

        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        status = 0
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(folder)
            patch.setenv("COLUMNS", "160")
            # The console keeps the width that it was made with, where the variable was set by then.
            patch.setattr(OUT, "_width", 160)
            patch.setattr(sys, "argv", ["emofuse", *map(str, arguments)])
            try:
                main()
            except SystemExit as stop:
                status = int(stop.code or 0)
        said = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
        return subprocess.CompletedProcess(arguments, status, *said)


@pytest.fixture(scope="session")
def emo() -> CommandLine:
    return CommandLine()


@pytest.fixture
def clips(tmp_path: Path) -> list[dict[str, Any]]:
    """Rows of three utterances of one second, the first two alike in sound."""
    rows = []
    for number, seed in enumerate((1, 1, 2)):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, tone(1.0, seed=seed), SAMPLING_RATE)
        rows.append({"utterance": f"u{number}", "audio": str(path), "text": "so very good", "duration": 1.0})
    return rows
