"""Extraction stores what encoding each clip alone gives, once, whatever kills it in between."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from emofuse.audio import content_key, load_audio
from emofuse.corpora import read_corpus
from emofuse.encoders import SpeechEncoder, load_speech_encoder, load_text_encoder
from emofuse.features import extract
from emofuse.features.extract import extract_speech, extract_text, features_of
from emofuse.features.pooling import pool_frames
from emofuse.features.store import FeatureSet
from emofuse.manifest import make_manifest, read_manifest, utterances, write_manifest
from emofuse.settings import Granularity, SpeechSettings, TextSettings
from emofuse.testing import tiny_corpus, tiny_speech_encoder, tiny_text_encoder, tone

LOGMEL = SpeechSettings(encoder="logmel", batch_seconds=5.0)
Stamps = dict[str, tuple[int, int, str]]


class Recorder:
    """An encoder that remembers the lengths of the clips of each batch."""

    def __init__(self, encoder: SpeechEncoder, *, fail_after: int | None = None) -> None:
        self.specification = encoder.specification
        self.frames = encoder.frames
        self.batches: list[list[int]] = []
        self._encoder = encoder
        self._left = fail_after

    def encode(self, clips: Sequence[NDArray[np.float32]]) -> list[torch.Tensor]:
        if self._left is not None:
            if not self._left:
                raise MemoryError
            self._left -= 1
        self.batches.append([len(clip) for clip in clips])
        return self._encoder.encode(clips)


class Counter:
    """A progress display that adds up."""

    def __init__(self) -> None:
        self.totals: dict[str, list[float]] = defaultdict(list)
        self.sums: dict[str, float] = defaultdict(float)

    def start(self, description: str, total: float | None) -> None:
        self.totals[description].append(total or 0.0)

    def advance(self, description: str, steps: float = 1) -> None:
        self.sums[description] += steps

    def finish(self, description: str) -> None:
        pass

    def note(self, message: str) -> None:
        pass


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    table = tiny_corpus(tmp_path_factory.mktemp("corpus"), speakers=2, utterances=3)
    return read_corpus("table", table).manifest


@pytest.fixture(scope="module")
def speech_settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SpeechSettings]:
    folder = tiny_speech_encoder(tmp_path_factory.mktemp("encoder") / "tiny")
    return {"logmel": LOGMEL, "wav2vec2": SpeechSettings(encoder=str(folder), batch_seconds=5.0)}


def with_files(manifest: pd.DataFrame, **files: Path) -> pd.DataFrame:
    rows = [{"utterance": name, "audio": str(path), "duration": 0.5} for name, path in files.items()]
    return make_manifest(pd.concat([manifest, pd.DataFrame(rows)], ignore_index=True), source="test")


def contents(store: Path) -> dict[str, str]:
    """Hash of every file of a store but its locks."""
    return {
        str(path.relative_to(store)): sha256(path.read_bytes()).hexdigest()
        for path in store.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def assert_alone(
    manifest: pd.DataFrame, encoder: SpeechEncoder, stored: Callable[[str], Any], *, exactly: bool = False
) -> None:
    """Stored frames are those of each clip encoded by itself, up to the rounding of float16."""
    rows = [row for row in utterances(manifest) if row.audio is not None]
    assert rows
    for row in rows:
        assert row.audio is not None
        (alone,) = encoder.encode([load_audio(row.audio, start=row.start, end=row.end)])
        values = stored(row.utterance)
        if exactly:
            np.testing.assert_array_equal(values, alone.numpy().astype(np.float16))
        else:
            np.testing.assert_allclose(values, alone.numpy(), rtol=2.0**-11, atol=1e-4)


@pytest.mark.parametrize("name", ["logmel", "wav2vec2"])
def test_the_store_holds_what_encoding_each_clip_alone_gives(
    name: str, manifest: pd.DataFrame, speech_settings: dict[str, SpeechSettings], tmp_path: Path
) -> None:
    encoder = load_speech_encoder(speech_settings[name])
    recorder = Recorder(encoder)
    done = extract_speech(manifest, recorder, speech_settings[name], store=tmp_path)
    feature_set = done.feature_sets["frame"]
    assert done.computed == len(manifest) == len(feature_set)
    assert not done.failed
    assert list(done.keys) == manifest["utterance"].tolist()
    assert_alone(manifest, encoder, lambda name: feature_set.read(done.keys[name]), exactly=name == "logmel")

    assert max(len(batch) for batch in recorder.batches) > 1
    volume = sum(max(batch) * len(batch) for batch in recorder.batches)
    assert done.padding == pytest.approx(1 - sum(map(sum, recorder.batches)) / volume)
    assert all(max(batch) * len(batch) <= 5.0 * 16000 for batch in recorder.batches)


def test_equal_clips_are_computed_once(manifest: pd.DataFrame, tmp_path: Path) -> None:
    first = Path(str(manifest["audio"].iloc[0]))
    copy = Path(shutil.copy(first, tmp_path / "copy.wav"))
    recorder = Recorder(load_speech_encoder(LOGMEL))
    done = extract_speech(with_files(manifest, copy=copy, again=first), recorder, LOGMEL, store=tmp_path / "store")
    assert done.computed == len(manifest) == sum(map(len, recorder.batches))
    assert done.keys["copy"] == done.keys["again"] == done.keys[str(manifest["utterance"].iloc[0])]


def test_parts_of_one_file_are_apart(tmp_path: Path) -> None:
    samples = tone(2.0, seed=1)
    soundfile.write(tmp_path / "long.wav", samples, 16000, subtype="FLOAT")
    rows = [
        {"utterance": "head", "audio": str(tmp_path / "long.wav"), "start": 0.0, "end": 0.75, "duration": 0.75},
        {"utterance": "tail", "audio": str(tmp_path / "long.wav"), "start": 0.75, "duration": 1.25},
    ]
    encoder = load_speech_encoder(LOGMEL)
    done = extract_speech(make_manifest(rows, source="test"), encoder, LOGMEL, store=tmp_path / "store")
    for name, part in (("head", samples[:12000]), ("tail", samples[12000:])):
        stored = done.feature_sets["frame"].read(done.keys[name])
        np.testing.assert_array_equal(stored, encoder.encode([part])[0].numpy().astype(np.float16))


def test_a_bad_file_is_reported_and_the_others_go_on(manifest: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("this is no audio")
    (tmp_path / "empty.wav").write_bytes(b"")
    files = {"text": tmp_path / "text.wav", "empty": tmp_path / "empty.wav", "gone": tmp_path / "gone.wav"}
    worse = with_files(manifest, **files)
    for expected in (len(manifest), 0):
        done = extract_speech(worse, load_speech_encoder(LOGMEL), LOGMEL, store=tmp_path / "store")
        assert set(done.failed) == set(files)
        assert {name: Path(str(error.where)) for name, error in done.failed.items()} == files
        assert set(done.keys) == set(manifest["utterance"])
        assert all(key in done.feature_sets["frame"] for key in done.keys.values())
        assert done.computed == expected


class Overflowing(Recorder):
    """An encoder whose features of some clips leave the range of float16."""

    value = 1e5

    def encode(self, clips: Sequence[NDArray[np.float32]]) -> list[torch.Tensor]:
        loud = [len(clip) == 7777 for clip in clips]
        return [one + self.value if over else one for one, over in zip(super().encode(clips), loud, strict=True)]


@pytest.mark.parametrize("value", [1e5, -np.inf, np.nan])
def test_features_that_are_not_finite_cost_their_clip_and_no_other(
    value: float, manifest: pd.DataFrame, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "loud.wav", tone(0.5)[:7777], 16000)
    both = with_files(manifest, loud=tmp_path / "loud.wav")
    encoder = Overflowing(load_speech_encoder(LOGMEL))
    encoder.value = value
    for granularities in (("frame",), ("frame", "utterance")):
        found = extract_speech(both, encoder, LOGMEL, store=tmp_path / "store", granularities=granularities)
        assert {name: error.advice for name, error in found.failed.items()} == {
            "loud": "its features are not finite in float16; choose other layers or another encoder"
        }
        assert set(found.keys) == set(manifest["utterance"])
        for feature_set in found.feature_sets.values():
            assert all(np.isfinite(feature_set.read(key)).all() for key in found.keys.values())


def test_a_text_whose_features_are_not_finite_costs_no_other(tmp_path: Path) -> None:
    class Text:
        specification = replace(load_speech_encoder(LOGMEL).specification, modality="text")

        def encode(self, texts: Sequence[str], *, earlier: Any = ()) -> list[torch.Tensor]:
            return [torch.full((1, 2, 240), 1e9 if "loud" in text else 1.0) for text in texts]

        def beyond(self, texts: Sequence[str]) -> list[int]:
            return [0] * len(texts)

    rows = [{"utterance": text, "text": text} for text in ("so loud", "so quiet")]
    found = extract_text(make_manifest(rows, source="test"), Text(), TextSettings(), store=tmp_path)  # type: ignore[arg-type]
    assert list(found.failed) == ["so loud"]
    assert list(found.keys) == ["so quiet"]


def test_what_is_to_be_said_of_recordings_is_said_in_a_second_run_too(manifest: pd.DataFrame, tmp_path: Path) -> None:
    samples = tone(0.5, seed=9)
    soundfile.write(tmp_path / "opposed.wav", np.stack([samples, -samples], axis=1), 16000)
    soundfile.write(tmp_path / "long.wav", np.tile(samples, 602), 16000)
    more = with_files(manifest, opposed=tmp_path / "opposed.wav", long=tmp_path / "long.wav")
    for _ in range(2):
        done = extract_speech(more, load_speech_encoder(LOGMEL), LOGMEL, store=tmp_path / "store")
        assert list(done.notes) == ["opposed"]
        assert "opposite phase" in done.notes["opposed"][0]
        assert list(done.failed) == ["long"]
        assert "longer than 5 minutes" in done.failed["long"].what
    (tmp_path / "store" / extract.NOTES).write_text("[1")
    assert extract_speech(more, load_speech_encoder(LOGMEL), LOGMEL, store=tmp_path / "store").notes == {}


def test_a_second_run_computes_nothing_and_changes_nothing(manifest: pd.DataFrame, tmp_path: Path) -> None:
    first = extract_speech(manifest, load_speech_encoder(LOGMEL), LOGMEL, store=tmp_path)
    before = contents(tmp_path)
    recorder = Recorder(load_speech_encoder(LOGMEL))
    again = extract_speech(manifest, recorder, LOGMEL, store=tmp_path)
    assert (again.computed, again.padding, recorder.batches) == (0, 0.0, [])
    assert again.keys == first.keys
    assert contents(tmp_path) == before


def test_a_finished_store_can_be_shared(manifest: pd.DataFrame, tmp_path: Path) -> None:
    """Runs that only read need not wait for one another, nor for one that writes."""
    settings = SpeechSettings(encoder="logmel")
    first = extract_speech(manifest, load_speech_encoder(settings), settings, store=tmp_path)
    with first.feature_sets["frame"].writing():
        again = extract_speech(manifest, load_speech_encoder(settings), settings, store=tmp_path)
    assert (again.computed, again.keys) == (0, first.keys)


def test_only_what_is_new_is_computed(manifest: pd.DataFrame, tmp_path: Path) -> None:
    some = manifest[manifest["speaker"] == "s0"]
    extract_speech(some, load_speech_encoder(LOGMEL), LOGMEL, store=tmp_path)
    before = contents(tmp_path)
    recorder, encoder = Recorder(load_speech_encoder(LOGMEL)), load_speech_encoder(LOGMEL)
    done = extract_speech(manifest, recorder, LOGMEL, store=tmp_path)
    assert done.computed == sum(map(len, recorder.batches)) == len(manifest) - len(some) > 0
    assert before.items() <= contents(tmp_path).items()
    assert_alone(manifest, encoder, lambda name: done.feature_sets["frame"].read(done.keys[name]), exactly=True)


@pytest.mark.parametrize("name", ["logmel", "wav2vec2"])
def test_two_granularities_come_from_one_pass(
    name: str, manifest: pd.DataFrame, speech_settings: dict[str, SpeechSettings], tmp_path: Path
) -> None:
    settings = speech_settings[name].model_copy(update={"frames_per_step": 3})
    both: tuple[Granularity, Granularity] = ("utterance", "frame")
    recorder = Recorder(load_speech_encoder(settings))
    done = extract_speech(manifest, recorder, settings, store=tmp_path, granularities=both)
    assert sum(map(len, recorder.batches)) == done.computed == len(manifest)
    encoder = load_speech_encoder(settings)
    for row in utterances(manifest):
        frames = encoder.encode([load_audio(row.audio or "")])[0]
        for granularity in both:
            stored = done.feature_sets[granularity].read(done.keys[row.utterance])
            pooled = pool_frames(frames, granularity=granularity, frames_per_step=3)
            np.testing.assert_allclose(stored, pooled.numpy(), rtol=2.0**-11, atol=1e-4)
        assert done.feature_sets["utterance"].steps(done.keys[row.utterance]) == 1
        assert done.feature_sets["frame"].steps(done.keys[row.utterance]) == -(-frames.shape[1] // 3)


def test_a_granularity_that_is_added_leaves_the_other_as_it_is(manifest: pd.DataFrame, tmp_path: Path) -> None:
    extract_speech(manifest, load_speech_encoder(LOGMEL), LOGMEL, store=tmp_path)
    before = contents(tmp_path)
    done = extract_speech(
        manifest, load_speech_encoder(LOGMEL), LOGMEL, store=tmp_path, granularities=("frame", "utterance")
    )
    assert done.computed == len(manifest) == len(done.feature_sets["utterance"])
    assert before.items() <= contents(tmp_path).items()


def test_batches_keep_to_the_budget_where_the_manifest_gives_no_durations(
    manifest: pd.DataFrame, tmp_path: Path
) -> None:
    silent = manifest.assign(duration=pd.array([None] * len(manifest), dtype="Float64"))
    recorder = Recorder(load_speech_encoder(LOGMEL))
    done = extract_speech(silent, recorder, LOGMEL, store=tmp_path)
    assert done.computed == len(manifest)
    assert all(max(batch) * len(batch) <= 5.0 * 16000 for batch in recorder.batches)


def test_a_run_that_ran_out_of_memory_can_go_on_with_smaller_batches(
    manifest: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "SHARD_SECONDS", 5.0)
    with pytest.raises(MemoryError):
        extract_speech(manifest, Recorder(load_speech_encoder(LOGMEL), fail_after=2), LOGMEL, store=tmp_path)
    smaller = LOGMEL.model_copy(update={"batch_seconds": 1.5})
    recorder = Recorder(load_speech_encoder(LOGMEL))
    done = extract_speech(manifest, recorder, smaller, store=tmp_path)
    assert 0 < done.computed == sum(map(len, recorder.batches)) < len(manifest) == len(done.feature_sets["frame"])
    assert all(max(batch) * len(batch) <= 1.5 * 16000 for batch in recorder.batches)


def test_progress_reaches_the_end_it_announced(manifest: pd.DataFrame, tmp_path: Path) -> None:
    counter = Counter()
    extract_speech(manifest, load_speech_encoder(LOGMEL), LOGMEL, store=tmp_path, progress=counter)
    assert counter.sums["Reading audio files"] == sum(counter.totals["Reading audio files"]) == len(manifest)
    seconds = float(manifest["duration"].sum())
    assert sum(counter.totals["Encoding speech"]) == pytest.approx(seconds)
    assert counter.sums["Encoding speech"] == pytest.approx(seconds)


def test_features_of_a_clip_at_hand_are_those_of_the_store(manifest: pd.DataFrame, tmp_path: Path) -> None:
    encoder = load_speech_encoder(LOGMEL)
    done = extract_speech(manifest, encoder, LOGMEL, store=tmp_path)
    row = next(utterances(manifest))
    stored = done.feature_sets["frame"].read(done.keys[row.utterance]).astype(np.float32)
    np.testing.assert_array_equal(features_of(encoder.encode([load_audio(row.audio or "")])[0]), stored)


def test_text_is_encoded_once_a_wording_and_a_missing_one_as_no_words(tmp_path: Path) -> None:
    settings = TextSettings(encoder=str(tiny_text_encoder(tmp_path / "bert")), batch_size=3, max_tokens=12)
    texts = [
        "so happy",
        None,
        "i are so sad",
        "so happy",
        "",
        "why why why what is it , you bad bad bad bad you !",
        "it",
    ]
    rows = [{"utterance": str(n), "text": text, "audio": "unused.wav"} for n, text in enumerate(texts)]
    manifest = make_manifest(rows, source="test")
    encoder = load_text_encoder(settings)
    done = extract_text(manifest, encoder, settings, store=tmp_path / "store")
    feature_set = done.feature_sets["token"]
    assert done.computed == len(feature_set) == len({text or "" for text in texts}) == 5
    assert not done.failed
    assert list(done.keys) == [row["utterance"] for row in rows]
    for row in rows:
        (alone,) = encoder.encode([row["text"] or ""])
        stored = feature_set.read(done.keys[str(row["utterance"])])
        assert stored.shape == tuple(alone.shape)
        np.testing.assert_allclose(stored, alone.numpy(), rtol=2.0**-11, atol=1e-4)
    assert feature_set.steps(done.keys["1"]) == 2  # Its two special tokens.
    assert feature_set.steps(done.keys["5"]) == 12

    more = make_manifest([*rows, {"utterance": "new", "text": "very good"}], source="test")
    assert extract_text(more, encoder, settings, store=tmp_path / "store").computed == 1
    shorter = settings.model_copy(update={"max_tokens": 6})
    done = extract_text(more, load_text_encoder(shorter), shorter, store=tmp_path / "store")
    assert (done.computed, done.feature_sets["token"].steps(done.keys["5"])) == (6, 6)


# Kills. The driver is a process with everything imported that forks one child a run: a child is a real process, is
# killed for real, and starts in a moment. Its encoder makes features depend on their batch, far more than real ones
# do, so that a resumed run that batches otherwise leaves other bytes.

DRIVER = """
import json, os, signal, sys, time, traceback
from pathlib import Path

import torch
import transformers.models.wav2vec2.modeling_wav2vec2

from emofuse.encoders import load_speech_encoder
from emofuse.features import extract
from emofuse.manifest import read_manifest
from emofuse.settings import SpeechSettings

extract.SHARD_SECONDS = 2.0


class Slow:
    def __init__(self, encoder, sleep, log, mark):
        self.specification, self.frames = encoder.specification, encoder.frames
        self.encoder, self.sleep, self.log, self.mark = encoder, sleep, log, mark

    def encode(self, clips):
        time.sleep(self.sleep)
        with open(self.log, "a") as file:
            file.write("clip\\n" * len(clips))
        together = sum(map(len, clips)) / 16000 if self.mark else 0.0
        return [values + together for values in self.encoder.encode(clips)]


def die_at(moment):
    # Counts the moments before and after whatever touches the disk for good.
    left = moment

    def fatal(function):
        def wrapped(*args, **kwargs):
            nonlocal left
            for step in (lambda: None, lambda: function(*args, **kwargs)):
                result = step()
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return result
        return wrapped

    os.fsync, Path.replace, Path.unlink = fatal(os.fsync), fatal(Path.replace), fatal(Path.unlink)


def run(task):
    torch.set_num_threads(1)
    settings = SpeechSettings(encoder=task["encoder"], batch_seconds=3.0)
    logmel = task["encoder"] == "logmel"
    encoder = Slow(load_speech_encoder(settings), task["sleep"], task["log"], mark=logmel)
    manifest = read_manifest(Path(task["manifest"]))
    if task["moment"]:
        die_at(task["moment"])
    done = extract.extract_speech(
        manifest, encoder, settings, store=Path(task["store"]), granularities=("frame", "utterance")
    )
    result = {"computed": done.computed, "keys": dict(done.keys), "failed": sorted(done.failed)}
    Path(task["result"] + ".new").write_text(json.dumps(result))
    os.rename(task["result"] + ".new", task["result"])


print("ready", flush=True)
while line := sys.stdin.readline():
    child = os.fork()
    if not child:
        try:
            run(json.loads(line))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    # Not reaped before the test has done with it, so that its id cannot belong to another process.
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    print("ended", flush=True)
    sys.stdin.readline()
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Runs:
    """Extraction of one corpus in processes that can be killed."""

    def __init__(self, folder: Path, driver: subprocess.Popen[str], manifest: Path, encoder: str) -> None:
        self.store, self.manifest = folder / "store", manifest
        self.encoder = encoder
        self._folder, self._driver = folder, driver
        self._log, self._result = folder / "log", folder / "result.json"
        folder.mkdir(parents=True)

    def run(self, *, kill: Callable[[], bool] = lambda: False, moment: int = 0, sleep: float = 0.0) -> bool:
        """One run, killed as soon as `kill` says so or at a moment of writing; True if it came to its end."""
        self._log.write_text("")
        self._result.unlink(missing_ok=True)
        task = {
            "encoder": self.encoder,
            "manifest": str(self.manifest),
            "store": str(self.store),
            "log": str(self._log),
            "result": str(self._result),
            "moment": moment,
            "sleep": sleep,
        }
        child = int(self._ask(json.dumps(task)))
        if kill is not NEVER:
            while not self._result.exists() and not kill():
                time.sleep(0.002)
            os.kill(child, signal.SIGKILL)
        assert self._read() == "ended"
        status = int(self._ask("reap"))
        assert status in (0, signal.SIGKILL)
        return self._result.exists()

    def _ask(self, line: str) -> str:
        assert self._driver.stdin is not None
        self._driver.stdin.write(line + "\n")
        self._driver.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._driver.stdout is not None
        return self._driver.stdout.readline().strip()

    @property
    def result(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self._result.read_text())
        return values

    @property
    def encoded(self) -> int:
        """Clips that the encoder was given in the last run."""
        return len(self._log.read_text().splitlines())

    def shards(self) -> Stamps:
        """Inode, time and hash of every finished shard."""
        found = {}
        for path in self.store.glob("speech-*/*.safetensors"):
            status = path.stat()
            found[str(path)] = (status.st_ino, status.st_mtime_ns, sha256(path.read_bytes()).hexdigest())
        return found

    def finished(self) -> set[str]:
        """Keys that all feature sets hold."""
        encoder = load_speech_encoder(SpeechSettings(encoder=self.encoder))
        settings = SpeechSettings(encoder=self.encoder, batch_seconds=3.0)
        feature_sets = [
            FeatureSet(self.store, extract.speech_key(encoder, settings, name)) for name in ("frame", "utterance")
        ]
        return set(feature_sets[0]) & set(feature_sets[1])


NEVER: Callable[[], bool] = lambda: False  # noqa: E731
Start = Callable[..., Runs]

kills_processes = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL and no fork")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    script = tmp_path_factory.mktemp("driver") / "driver.py"
    script.write_text(DRIVER)
    process = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.stdin.close()
    assert process.wait(timeout=30) == 0
    process.stdout.close()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with a file twice and two that cannot be decoded, one of them in the first shard.

    A clip of the first batches that stays missing is what makes a new plan differ from the old one.
    """
    folder = tmp_path_factory.mktemp("killed")
    manifest = read_corpus("table", tiny_corpus(folder, speakers=3, utterances=3)).manifest
    for name in ("bad", "worse"):
        (folder / f"{name}.wav").write_text(f"{name}, no audio")
    files = {name: folder / f"{name}.wav" for name in ("bad", "worse")}
    manifest = with_files(manifest, **files, again=Path(str(manifest["audio"].iloc[0])))
    manifest.loc[manifest["utterance"] == "bad", "duration"] = sorted(manifest["duration"])[-3] - 1e-3
    write_manifest(manifest, folder / "manifest.parquet")
    return folder / "manifest.parquet"


@pytest.fixture
def start(driver: subprocess.Popen[str], corpus: Path, tmp_path: Path) -> Start:
    def start(name: str, encoder: str = "logmel", manifest: Path = corpus) -> Runs:
        return Runs(tmp_path / name, driver, manifest, encoder)

    return start


@pytest.fixture(scope="module")
def whole(driver: subprocess.Popen[str], corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """An undisturbed run."""
    runs = Runs(tmp_path_factory.mktemp("undisturbed") / "whole", driver, corpus, "logmel")
    assert runs.run(kill=NEVER)
    return runs


def resume(runs: Runs, **options: Any) -> bool:
    """One more run; what was finished before must be left as it is."""
    before, held = runs.shards(), runs.finished()
    ended = runs.run(**options)
    assert before.items() <= runs.shards().items()
    assert held <= runs.finished()
    return ended


def assert_as_undisturbed(runs: Runs, whole: Runs) -> None:
    assert contents(runs.store) == contents(whole.store)
    assert runs.result["keys"] == whole.result["keys"]
    assert runs.result["failed"] == whole.result["failed"] == ["bad", "worse"]


@kills_processes
@pytest.mark.parametrize("shards", [0, 1, 9])
def test_a_run_killed_after_some_shards_goes_on_and_leaves_the_same_bytes(
    shards: int, start: Start, whole: Runs
) -> None:
    runs = start("killed")
    wanted = len(set(whole.result["keys"].values()))
    assert whole.result["computed"] == whole.encoded == wanted
    assert len(whole.shards()) > 2 * 9

    assert not runs.run(kill=lambda: len(runs.shards()) >= 2 * shards and runs.store.exists(), sleep=0.05)
    held = runs.finished()
    assert len(held) < wanted
    assert held or not shards
    assert resume(runs, kill=NEVER)
    assert runs.encoded == runs.result["computed"] == wanted - len(held)
    assert_as_undisturbed(runs, whole)


@kills_processes
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_random_kills_until_it_is_done_leave_the_same_bytes(seed: int, start: Start, whole: Runs) -> None:
    runs = start("killed")
    chance = random.Random(seed)  # noqa: S311
    ended, kills = False, 0
    while not ended:
        end = time.monotonic() + chance.uniform(0.0, 0.1 + 0.1 * kills)
        held = runs.finished()
        ended = resume(runs, kill=lambda end=end: time.monotonic() >= end, sleep=0.02)  # type: ignore[misc]
        kills += not ended
    assert kills > 1
    assert runs.encoded == len(set(whole.result["keys"].values()) - held)
    assert_as_undisturbed(runs, whole)


@kills_processes
def test_a_kill_at_each_moment_of_writing_leaves_the_same_bytes(start: Start, whole: Runs) -> None:
    runs = start("killed")
    moment, ended = 0, False
    while not ended:
        moment += 1
        held = runs.finished()
        ended = resume(runs, kill=NEVER, moment=moment)
    assert moment > 10
    assert runs.encoded == runs.result["computed"] == len(set(whole.result["keys"].values()) - held)
    assert_as_undisturbed(runs, whole)


@kills_processes
def test_a_transformer_killed_midway_leaves_the_same_bytes(start: Start, tmp_path: Path) -> None:
    encoder = str(tiny_speech_encoder(tmp_path / "tiny"))
    whole, runs = start("whole", encoder), start("killed", encoder)
    assert whole.run(kill=NEVER)
    assert not runs.run(kill=lambda: len(runs.shards()) >= 9, sleep=0.05)
    held = runs.finished()
    assert held
    assert resume(runs, kill=NEVER)
    assert runs.encoded == len(set(whole.result["keys"].values()) - held)
    assert_as_undisturbed(runs, whole)


@kills_processes
def test_what_was_added_after_the_kill_is_computed_too(start: Start, whole: Runs, corpus: Path, tmp_path: Path) -> None:
    runs = start("killed")
    assert not runs.run(kill=lambda: len(runs.shards()) >= 4, sleep=0.05)

    held = runs.finished()
    files = {f"new{number}": tmp_path / f"new{number}.wav" for number in range(5)}
    for number, path in enumerate(files.values()):
        soundfile.write(path, tone(0.5 + 0.1 * number, seed=number), 16000)
    runs.manifest = tmp_path / "more.parquet"
    write_manifest(with_files(read_manifest(corpus), **files), runs.manifest)
    assert resume(runs, kill=NEVER)
    added = {content_key(path) for path in files.values()}
    wanted = set(whole.result["keys"].values())
    assert runs.finished() == wanted | added
    assert runs.encoded == runs.result["computed"] == len(wanted | added) - len(held)
    # The shards of the first plan are as they would have been.
    assert {item for item in contents(whole.store).items() if "plan" not in item[0]} <= set(
        contents(runs.store).items()
    )
    assert not list(runs.store.glob("plan-*"))
