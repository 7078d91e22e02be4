"""Kill commands at random moments, run them again, and see that every byte is as if they had never been killed.

    python benchmarks/kills.py --kills 200 --seed 0

Half of the kills come at a random time, half at a random event in which the command touches its files, which is where
something could be lost. Prints one line a command: kills, and what was lost. Needs `fork`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emofuse.testing import tiny_corpus, tiny_speech_encoder, tiny_text_encoder

TIMES = {"seconds"}
"""Values in JSON that say how long something took."""
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link")
OUT = "out"
_LONGEST = 300.0

_TABLE = "--corpus table --root corpus/corpus.csv"
_PLAIN = "--speech-encoder logmel --text-encoder words"
_TINY = "--speech-encoder encoders/speech --text-encoder encoders/text"
_FOLDS = "--seeds 0 --set protocol.kind=speakers --set protocol.folds=2 --set model.width=8"
_QUICK = f"""{_FOLDS} --set train.epochs=2 --jobs 1 --set 'models=["speech","text","late"]'"""

COMMANDS = {
    "prepare": f"prepare {_TABLE} --out {OUT}/manifest.parquet",
    "align": f"align manifest.parquet --out {OUT}/a.parquet --jobs 1 --write textgrid --folder {OUT}/grids",
    "extract": f"extract fusion --manifest manifest.parquet --store {OUT} {_TINY}",
    "transcribe": f"transcribe manifest.parquet --asr sphinx --jobs 1 --out {OUT}/t.parquet",
    "train": f"train fusion --manifest manifest.parquet --store {OUT}/store --out {OUT}/run {_PLAIN} {_QUICK}",
    "run": f"run fusion {_TABLE} --out {OUT} {_TINY} {_QUICK}",
    "finetune": f"finetune fusion {_TABLE} --out {OUT} {_TINY} {_FOLDS} --set finetune.epochs=2 --device cpu",
}


@dataclass(frozen=True)
class Run:
    """What a command did when it was left alone.

    Attributes:
        files: Digest of each file that it wrote.
        seconds: How long it took.
        events: How often it touched its files.
    """

    files: Mapping[str, str]
    seconds: float
    events: int


def digests(folder: Path) -> dict[str, str]:
    """Digest of every file in a folder, times left out, and of every empty folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            found[name] = "folder"
        elif path.suffix == ".json":
            found[name] = json.dumps(_timeless(json.loads(path.read_text(encoding="utf-8"))))
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(one) for name, one in value.items() if name not in TIMES}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def start(command: str, place: Path, *, die_at: int | None = None, count: Path | None = None) -> int:
    """Start a command in a process of its own that has all imported already; gives its number.

    Args:
        command: Without `emofuse`.
        place: Where it works.
        die_at: At which of its events it kills itself; None for never.
        count: Where to write how many events there were.
    """
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        os.setsid()
        os.chdir(place)
        for stream, file in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(place / file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.argv = ["emofuse", *shlex.split(command)]
        events = 0

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal events
            if event in EVENTS and isinstance(arguments[0], (str, bytes, os.PathLike)):
                path = os.fsdecode(arguments[0])
                if path.startswith((OUT + "/", str(place / OUT))):
                    events += 1
                    if events == die_at:
                        os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        from emofuse.cli.app import main

        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        if count is not None:
            count.write_text(str(events))
    finally:
        os._exit(status)


def finish(process: int) -> int:
    """Wait for a command; its status, or less than zero where it had to be killed."""
    end = time.monotonic() + _LONGEST
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return -1


def alone(command: str, place: Path) -> Run:
    """Run a command to its end.

    Raises:
        RuntimeError: It fails.
    """
    begun = time.monotonic()
    status = finish(start(command, place, count=place / "events"))
    if status not in (0, 1):
        raise RuntimeError(f"{command}: status {status}\n{(place / 'stderr').read_text()}")
    return Run(digests(place / OUT), time.monotonic() - begun, int((place / "events").read_text()))


def kill_and_repeat(command: str, place: Path, before: Run, chance: random.Random) -> str:
    """Kill a command once or twice, run it again, and compare; what differs, in words, or nothing."""
    how = []
    for _ in range(chance.choice((1, 1, 2))):
        if chance.random() < 0.5:
            event = chance.randint(1, before.events)
            how.append(f"event {event} of {before.events}")
            finish(start(command, place, die_at=event))
        else:
            delay = chance.uniform(0, before.seconds)
            how.append(f"after {delay:.3f} of {before.seconds:.3f} s")
            process = start(command, place)
            time.sleep(delay)
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
    try:
        after = alone(command, place)
    except RuntimeError as error:
        return f"killed at {', '.join(how)}: {str(error).strip().splitlines()[-1]}"
    changed = sorted(
        name for name in before.files.keys() | after.files.keys() if before.files.get(name) != after.files.get(name)
    )
    return f"killed at {', '.join(how)}: {', '.join(changed[:5])} of {len(changed)}" if changed else ""


def prepared(folder: Path) -> Path:
    """A place with a corpus, its manifest and encoders, for commands to work in."""
    place = folder / "place"
    place.mkdir(parents=True)
    tiny_corpus(place / "corpus", speakers=4, utterances=1)
    tiny_speech_encoder(place / "encoders" / "speech")
    tiny_text_encoder(place / "encoders" / "text")
    alone(COMMANDS["prepare"], place)
    (place / OUT / "manifest.parquet").rename(place / "manifest.parquet")
    shutil.rmtree(place / OUT)
    return place


def kill(names: Sequence[str], kills: int, *, seed: int) -> dict[str, tuple[int, list[str]]]:
    """Kill each command as often; how often, and what was lost.

    Raises:
        RuntimeError: A command fails, or differs from itself without being killed.
    """
    import sklearn.metrics  # noqa: F401  (imported once, not by each process that is forked)
    import transformers  # noqa: F401

    import emofuse.cli.app
    import emofuse.finetune.run  # noqa: F401

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        place = prepared(Path(folder))
        for name in names:
            chance = random.Random(f"{seed} {name}")  # noqa: S311
            runs = []
            for _ in range(2):
                shutil.rmtree(place / OUT, ignore_errors=True)
                runs.append(alone(COMMANDS[name], place))
            if runs[0].files != runs[1].files:
                raise RuntimeError(f"{name} differs from itself without being killed")
            lost = []
            for _ in range(kills):
                shutil.rmtree(place / OUT, ignore_errors=True)
                if failure := kill_and_repeat(COMMANDS[name], place, runs[1], chance):
                    lost.append(failure)
            found[name] = (kills, lost)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of all commands together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default=",".join(COMMANDS))
    options = parser.parse_args()
    names = options.commands.split(",")
    failures = 0
    for number, name in enumerate(names):
        part = options.kills // len(names) + (number < options.kills % len(names))
        begun = time.monotonic()
        count, lost = kill([name], part, seed=options.seed)[name]
        failures += len(lost)
        print(f"{name}: {count} kills, {len(lost)} losses, {time.monotonic() - begun:.0f} s", flush=True)
        for one in lost:
            print(f"  {one}", flush=True)
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
