"""What is written is whole or absent, in nobody's way, readable as the umask says; and of two commands one waits."""

from __future__ import annotations

import ast
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file

import emofuse
from emofuse.align.table import write_alignments
from emofuse.align.writers import write_files
from emofuse.checkpoint import Checkpoint, save_checkpoint
from emofuse.encoders.words import Subwords
from emofuse.errors import EmofuseError, OutputError
from emofuse.features.store import FeatureKey, FeatureSet
from emofuse.files import appended, make_folder, sweep, write_text, written_atomically, written_folder
from emofuse.locks import alone_in, alone_with, clear
from emofuse.manifest import make_manifest, write_manifest
from emofuse.models.base import Inputs, Shapes, Text
from emofuse.models.frontend import InputShape
from emofuse.models.unimodal import TextModel
from emofuse.plan import ModelPlan
from emofuse.protocols import make_protocol, save_protocol
from emofuse.scoring.table import Scores, make_scores, write_scores
from emofuse.settings import ProtocolSettings, SpeechSettings, TextSettings
from emofuse.task import Classification
from emofuse.training.state import save_state
from emofuse.types import Alignment, EncoderSpecification, Segment

Limit = Callable[[int], AbstractContextManager[None]]

posix = pytest.mark.skipif(os.name != "posix", reason="rights and links of POSIX")


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@posix
@pytest.mark.parametrize("value", [0o022, 0o002, 0o077])
def test_files_and_folders_follow_the_umask_whoever_writes_them(tmp_path: Path, value: int) -> None:
    with umask(value):
        with written_atomically(tmp_path / "a" / "w.safetensors") as part:
            save_file({"a": np.zeros(3)}, part)
        with written_folder(tmp_path / "b") as part:
            (part / "inner").mkdir()
            save_file({"a": np.zeros(3)}, part / "inner" / "w.safetensors")
        with appended(tmp_path / "journal") as file:
            file.write("1")
    assert mode(tmp_path / "a") == mode(tmp_path / "b") == mode(tmp_path / "b/inner") == 0o777 & ~value
    for file_name in ("a/w.safetensors", "b/inner/w.safetensors", "journal"):
        assert mode(tmp_path / file_name) == 0o666 & ~value, file_name


def test_what_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("before")
    for stop in (KeyboardInterrupt, ValueError):
        with pytest.raises(stop):
            _write_and_stop(tmp_path, stop)
    assert names(tmp_path) == ["file", "folder", "folder/file"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder/file").read_text() == "before"


def _write_and_stop(folder: Path, stop: type[BaseException]) -> None:
    with written_atomically(folder / "file") as one, written_folder(folder / "folder") as other:
        one.write_text("half")
        (other / "file").write_text("half")
        raise stop


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with written_folder(tmp_path / "model") as part:
            (part / name).write_text(name)
    assert names(tmp_path) == ["model", "model/new"]


@posix
def test_no_link_is_followed(tmp_path: Path) -> None:
    victim, shared = tmp_path / "victim", tmp_path / "shared"
    victim.write_text("precious")
    (tmp_path / "folder").mkdir()
    shared.mkdir()
    for name in ("file", "file.part", ".file.part", "journal", ".emofuse.lock", ".file.emofuse.lock"):
        (shared / name).symlink_to(victim)
    (shared / "model").symlink_to(tmp_path / "folder")
    write_text(shared / "file", "new")
    with written_folder(shared / "model") as part:
        (part / "weights").write_text("new")
    with pytest.raises(OutputError, match=r"this is a link; remove it"), appended(shared / "journal"):
        pass
    with pytest.raises(OutputError, match="cannot be written"), alone_in(shared):
        pass
    with pytest.raises(OutputError, match="cannot be written"), alone_with(shared / "file"):
        pass
    assert victim.read_text() == "precious"
    assert not list((tmp_path / "folder").iterdir())
    assert not (shared / "file").is_symlink()
    assert not (shared / "model").is_symlink()


@posix
def test_devices_and_folders_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for name in ("pipe", "link", "."):
        with pytest.raises(OutputError, match="this is not a file; name a file"):
            write_text(tmp_path / name, "new")
    with pytest.raises(OutputError, match="this is not a folder"), written_folder(tmp_path / "pipe"):
        pass
    assert names(tmp_path) == ["link", "pipe"]


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "a b\n", "-.safetensors"])
def test_any_name_that_a_file_may_have(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "1")
    with alone_with(tmp_path / name):
        write_text(tmp_path / name, "2")
    with alone_in(tmp_path / "run" / name):
        pass
    assert (tmp_path / name).read_text() == "2"


@posix
@pytest.mark.parametrize("name", [".", "", "/", "..", "a\0b", "half \ud800"])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    for way in (written_atomically, written_folder, alone_with):
        with pytest.raises(OutputError, match="give it a name of its own"), way(Path(name)):
            pass


def test_names_of_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"b\xe9")
    write_text(path, "1")
    with alone_with(path), pytest.raises(OutputError), _from_another_thread(path):
        pass
    assert path.read_text() == "1"


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, full_disk: Limit) -> None:
    big = {"a": np.zeros(10_000)}
    with full_disk(4096):
        for write in (
            lambda: write_text(tmp_path / "text", "x" * 9000),
            lambda: _write_tensors(tmp_path / "tensors", big),
            lambda: _write_folder(tmp_path / "folder", big),
        ):
            with pytest.raises(OutputError, match=r"this cannot be written \(.*File too large.*\); check the space"):
                write()
    assert names(tmp_path) == []
    _write_tensors(tmp_path / "tensors", big)
    assert load_file(tmp_path / "tensors")["a"].size == 10_000


def _write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    with written_atomically(path) as part:
        save_file(tensors, part)


def _write_folder(path: Path, tensors: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    with written_folder(path) as part:
        save_file(tensors, part / "weights")


def test_a_file_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    inside = tmp_path / "file" / "inside"
    for write in (lambda: write_text(inside, "1"), lambda: make_folder(inside), lambda: _write_folder(inside, {})):
        with pytest.raises(OutputError, match="cannot be written"):
            write()
    for held in (alone_in(inside), alone_with(inside), appended(inside)):
        with pytest.raises(OutputError, match="cannot be written"), held:
            pass


KILLED = """
import os, signal, sys
from pathlib import Path
from emofuse.files import written_folder, written_atomically
from emofuse.locks import alone_in
folder = Path(sys.argv[1])
with alone_in(folder), written_atomically(folder / "deep" / "file") as one, written_folder(folder / "model") as other:
    one.write_text("half")
    (other / "file").write_text("half")
    print("there", flush=True)
    os.kill(os.getpid(), signal.SIGKILL) if sys.argv[2:] else sys.stdin.read()
"""


@posix
def test_what_a_killed_process_left_goes_and_what_a_live_one_writes_stays(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "die"], check=False, stdout=subprocess.DEVNULL)
    assert any("part" in name for name in names(tmp_path))
    live = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with live:
        assert live.stdout is not None
        assert live.stdout.readline() == "there\n"
        sweep(tmp_path)
        message = rf"another command is working here \(process {live.pid} on .*-c.*wait"
        with pytest.raises(OutputError, match=message), alone_in(tmp_path):
            pass
        live.communicate("")
    assert names(tmp_path) == ["deep", "deep/file", "model", "model/file"]
    with alone_in(tmp_path):
        pass
    assert names(tmp_path) == ["deep", "deep/file", "model", "model/file"]


def test_a_lock_that_a_killed_command_left_is_cleared_and_a_held_one_is_not(tmp_path: Path) -> None:
    (tmp_path / ".emofuse.lock").write_text("{}")
    clear(tmp_path)
    assert names(tmp_path) == []
    with alone_in(tmp_path):
        thread = threading.Thread(target=clear, args=(tmp_path,))
        thread.start()
        thread.join()
        assert names(tmp_path) == [".emofuse.lock"]


@pytest.mark.parametrize("length", [60, 240])
def test_files_of_long_names_are_held_each_by_itself(tmp_path: Path, length: int) -> None:
    with alone_with(tmp_path / ("x" * length + "1")), _from_another_thread(tmp_path / ("x" * length + "2")):
        pass


def test_a_thread_may_ask_again_for_what_it_holds_and_another_may_not(tmp_path: Path) -> None:
    refused = pytest.raises(OutputError, match="another command")
    with alone_in(tmp_path), alone_in(tmp_path), refused, _from_another_thread(tmp_path / "x", folder=tmp_path):
        pass
    with _from_another_thread(tmp_path / "x", folder=tmp_path):
        pass
    assert names(tmp_path) == []


@contextmanager
def _from_another_thread(path: Path, *, folder: Path | None = None) -> Iterator[None]:
    errors: list[Exception] = []

    def ask() -> None:
        try:
            with alone_in(folder) if folder else alone_with(path):
                pass
        except OutputError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    yield


# Every writer of the package


def corpus() -> pd.DataFrame:
    labels = ("angry", "sad") * 4
    rows = [
        {"utterance": f"u{number}", "text": "so good " * 300, "label": label, "speaker": f"s{number // 2}"}
        for number, label in enumerate(labels)
    ]
    return make_manifest(rows, source="test")


def scores() -> Scores:
    rows = {f"c{number}": [0.0] * 300 for number in range(8)} | {"angry": [0.75] * 300, "sad": [0.25] * 300}
    frame = pd.DataFrame({"utterance": [f"u{number}" for number in range(300)], "label": "sad", **rows})
    return make_scores(frame, source=Path("scores"))


WORD = Segment(start=0.1, end=0.4, label="hello" * 2000)
ALIGNMENT = Alignment(utterance="u", tiers={"word": (WORD,)}, source="sphinx")


def checkpoint() -> Checkpoint:
    settings, task = TextModel.Settings(width=64), Classification(("a", "b"))
    subwords = Subwords(["[PAD]", "[UNK]", *map(str, range(2000))], max_tokens=8)
    plan = ModelPlan(name="text", source="text", settings=settings, inputs=Inputs(text=Text()))
    return Checkpoint(
        name="text",
        model=plan.build(Shapes(text=InputShape(0, subwords.size)), task),
        networks={"text": plan},
        task=task,
        speech=SpeechSettings(),
        text=TextSettings(encoder="words"),
        encoders={},
        subwords=subwords,
        protocol="",
    )


def train_a_little(path: Path) -> None:
    model = torch.nn.Linear(64, 64)
    save_state(path, model, torch.optim.AdamW(model.parameters()), {"step": 1})


def extract_a_little(path: Path) -> None:
    about = EncoderSpecification(
        name="a", family="wav2vec2", modality="speech", revision="b", layers=1, selected=(0,), width=64
    )
    FeatureSet(path, FeatureKey(specification=about, granularity="frame")).write(
        {"a": np.zeros((1, 99, 64), np.float32)}
    )


def keep_a_journal(path: Path) -> None:
    with appended(path) as file:
        file.write("written " * 2000)


WRITERS: dict[str, Callable[[Path], object]] = {
    "m.parquet": lambda path: write_manifest(corpus(), path),
    "s.parquet": lambda path: write_scores(scores(), path),
    "s.csv": lambda path: write_scores(scores(), path),
    "a.parquet": lambda path: write_alignments([ALIGNMENT], path),
    "grids-textgrid": lambda path: write_files([ALIGNMENT], path, style="textgrid"),
    "grids-ctm": lambda path: write_files([ALIGNMENT], path, style="ctm"),
    "grids-json": lambda path: write_files([ALIGNMENT], path, style="json"),
    "protocol.json": lambda path: save_protocol(make_protocol(corpus(), ProtocolSettings(folds=2)), path),
    "words.json": lambda path: Subwords(["[PAD]", "[UNK]", "a" * 9000], max_tokens=3).save(path),
    "state.safetensors": train_a_little,
    "store": extract_a_little,
    "model": lambda path: save_checkpoint(checkpoint(), path, card="a card"),
    "journal.jsonl": keep_a_journal,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_is_whole_or_absent_and_heeds_the_umask(name: str, tmp_path: Path, full_disk: Limit) -> None:
    path = tmp_path / "new" / name
    with umask(0o027):
        WRITERS[name](path)
    written = {one: one.read_bytes() for one in path.parent.rglob("*") if one.is_file()}
    assert written
    if os.name == "posix":
        assert {mode(one) for one in written} == {0o640}
        assert {mode(one) for one in path.parent.rglob("*") if one.is_dir()} <= {0o750}
    with (
        full_disk(100),
        pytest.raises(EmofuseError, match=r"this cannot be written \(.*File too large.*check the space"),
    ):
        WRITERS[name](tmp_path / "full" / name)
    left = [one for one in (tmp_path / "full").rglob("*") if one.is_file()]
    # A journal is read line by line, so half a line is none.
    assert not left or name == "journal.jsonl"
    (tmp_path / "file").touch()
    with pytest.raises(EmofuseError, match=r"cannot be written \((Not a directory|File exists|No such)"):
        WRITERS[name](tmp_path / "file" / name)
    if name == "journal.jsonl":
        return
    WRITERS[name](path)
    # Again over what is there.
    assert {one for one in path.parent.rglob("*") if one.is_file()} == written.keys()


WRITING = {
    *("write_text", "write_bytes", "mkdir", "touch", "to_parquet", "to_csv", "to_excel", "savefig", "write_table"),
    *("save_pretrained", "copytree", "copyfile", "copy2", "symlink_to", "hardlink_to", "savez"),
}
BY_CALLERS = {"save", "_save", "save_pretrained", "compress", "write_preprocessor", "_write", "_copy"}
"""Functions that write into a folder that is not there yet under its name."""


def test_nothing_is_written_but_by_one_way() -> None:
    source = Path(emofuse.__file__).parent
    wrong = []
    for path in source.rglob("*.py"):
        if path.name in ("files.py", "locks.py") or path.parent.name == "testing":
            continue
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef) and function.name not in BY_CALLERS:
                wrong += [f"{path.name}: {call}" for call in _writes(function)]
    assert not wrong


def _writes(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            call = ast.unparse(node)
            attribute = isinstance(node.func, ast.Attribute) and node.func.attr in WRITING
            opens = re.search(r"open\(.*'[wax]b?\+?'", call) and not re.search("devnull|fdopen", call)
            if (attribute or opens or call.startswith("save_file(")) and not re.search(
                r"part|memory|None|file\)", call
            ):
                yield call
