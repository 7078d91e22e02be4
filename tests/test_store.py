"""The feature store gives back what was put in, and says so where it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from emofuse.errors import StoreError
from emofuse.features.store import FeatureKey, FeatureSet
from emofuse.progress import Silent
from emofuse.types import EncoderSpecification

Features = dict[str, NDArray[np.float32]]

SPECIFICATION = EncoderSpecification(
    name="somewhere/tiny",
    family="wav2vec2",
    modality="speech",
    revision="abc",
    layers=3,
    selected=(0, 1, 2),
    width=4,
    sampling_rate=16000,
    stride=320,
    receptive_field=400,
)
KEY = FeatureKey(specification=SPECIFICATION, granularity="frame")

shapes = st.tuples(st.integers(1, 4), st.integers(0, 9), st.integers(1, 6))


@st.composite
def features(draw: st.DrawFn, least: int = 1) -> Features:
    names = draw(st.lists(st.text("0123456789abcdef", min_size=1, max_size=8), min_size=least, max_size=6, unique=True))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** draw(st.integers(-9, 4))
    return {name: (generator.uniform(-1, 1, draw(shapes)) * scale).astype(np.float32) for name in names}


def some_features(*names: str, seed: int = 0) -> Features:
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal((3, 2 + len(name), 4)).astype(np.float32) for name in names}


def shard_of(feature_set: FeatureSet) -> Path:
    (path,) = feature_set.folder.glob("*.safetensors")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@settings(deadline=None, derandomize=True, max_examples=40)
@given(first=features(), second=features())
def test_what_is_written_is_read_back_bit_for_bit_in_half_precision(
    first: Features, second: Features, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("store")
    writer = FeatureSet(root, KEY)
    writer.write(first)
    writer.write(second)
    expected = {**second, **first}
    for feature_set in (writer, FeatureSet(root, KEY)):
        assert set(feature_set) == set(expected)
        assert len(feature_set) == len(expected)
        for name, values in expected.items():
            half = feature_set.read(name)
            assert half.dtype == np.float16
            assert half.shape == values.shape
            assert half.tobytes() == values.astype(np.float16).tobytes()
            assert feature_set.steps(name) == values.shape[1]
            assert name in feature_set


def test_reading_maps_the_file_and_never_changes_it(tmp_path: Path) -> None:
    feature_set = FeatureSet(tmp_path, KEY)
    feature_set.write(some_features("a", "b"))
    before = contents(tmp_path)
    values = feature_set.read("b")
    base: Any = values
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert base.filename == shard_of(feature_set)
    if values.flags.writeable:  # As torch asks for; what is written must stay in this process.
        values[:] = 7
        base.flush()
    assert contents(tmp_path) == before
    np.testing.assert_array_equal(FeatureSet(tmp_path, KEY).read("b"), some_features("a", "b")["b"].astype(np.float16))


def test_shards_are_safetensors_that_any_reader_opens(tmp_path: Path) -> None:
    feature_set, values = FeatureSet(tmp_path, KEY), some_features("a", "bb", "ccc")
    feature_set.write(values)
    tensors = load_file(shard_of(feature_set))
    assert set(tensors) == set(values)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, values[name].astype(np.float16))


def test_the_same_content_gives_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    values = some_features("c", "a", "b")
    FeatureSet(tmp_path / "one", KEY).write(values)
    FeatureSet(tmp_path / "two", KEY).write(dict(reversed(values.items())))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_shards_of_other_names_never_share_a_file(tmp_path: Path) -> None:
    feature_set = FeatureSet(tmp_path, KEY)
    first, second = some_features("ab", "c"), some_features("a", "bc", seed=1)
    feature_set.write(first)
    feature_set.write(second)
    again = FeatureSet(tmp_path, KEY)
    for name, values in {**first, **second}.items():
        np.testing.assert_array_equal(again.read(name), values.astype(np.float16))


def test_what_the_feature_set_holds_is_not_written_again(tmp_path: Path) -> None:
    feature_set, values = FeatureSet(tmp_path, KEY), some_features("a", "b")
    feature_set.write(values)
    before = contents(tmp_path)
    feature_set.write({name: 2 * value for name, value in values.items()})
    feature_set.write({})
    assert contents(tmp_path) == before
    feature_set.write(some_features("a", "c", seed=1))
    assert set(FeatureSet(tmp_path, KEY)) == {"a", "b", "c"}
    np.testing.assert_array_equal(FeatureSet(tmp_path, KEY).read("a"), values["a"].astype(np.float16))


def test_a_feature_set_includes_what_another_process_has_written(tmp_path: Path) -> None:
    reader = FeatureSet(tmp_path, KEY)
    FeatureSet(tmp_path, KEY).write(some_features("a"))
    assert "a" not in reader
    reader.refresh()
    assert "a" in reader


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.01, 0.3, 0.99])
def test_a_truncated_shard_is_named_with_a_remedy(tmp_path: Path, fraction: float) -> None:
    feature_set = FeatureSet(tmp_path, KEY)
    feature_set.write(some_features(*"abcdefgh"))
    path = shard_of(feature_set)
    os.truncate(path, int(fraction * path.stat().st_size))
    with pytest.raises(StoreError, match="damaged") as caught:
        FeatureSet(tmp_path, KEY)
    assert caught.value.where == str(path)
    assert "delete it and run the same command again" in str(caught.value)
    path.unlink()
    assert len(FeatureSet(tmp_path, KEY)) == 0


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[1]",
        b'"text"',
        b"3",
        b"{}",
        b'{"a": 1}',
        b'{"a": {"dtype": "F16", "shape": [1, 1, 2]}}',
        b'{"a": {"dtype": "F16", "shape": [1, 1, 2], "data_offsets": []}}',
        b'{"a": {"dtype": "F32", "shape": [1, 1, 1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F16", "shape": [1, 1, 1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F16", "shape": [1, 2, 2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F16", "shape": [1, 1, "x"], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F16", "shape": [-1, -2, 1], "data_offsets": [0, 4]}}',
        b'{"a": ' + b"[" * 100000,
        b"\xff\xfe",
    ],
)
def test_a_header_that_makes_no_sense_is_a_damaged_shard(tmp_path: Path, header: bytes) -> None:
    FeatureSet(tmp_path, KEY).write(some_features("a"))
    bad = tmp_path / KEY.folder / "bad.safetensors"
    bad.write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    with pytest.raises(StoreError, match="damaged") as caught:
        FeatureSet(tmp_path, KEY)
    assert caught.value.where == str(bad)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_changed_byte_of_the_header_never_moves_the_numbers_of_a_name(
    place: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("store")
    values = some_features("a", "bb", "ccc")
    FeatureSet(root, KEY).write(values)
    path = shard_of(FeatureSet(root, KEY))
    data = bytearray(path.read_bytes())
    data[place % (8 + int.from_bytes(data[:8], "little"))] = value
    path.write_bytes(data)
    try:
        feature_set = FeatureSet(root, KEY)
    except StoreError:
        return
    for name in set(feature_set) & set(values):
        # Another shape of as many numbers is all that may pass unseen.
        np.testing.assert_array_equal(feature_set.read(name).ravel(), values[name].astype(np.float16).ravel())


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_number_that_was_damaged_is_refused_with_its_name(tmp_path: Path, value: float) -> None:
    FeatureSet(tmp_path, KEY).write(some_features("a", "b"))
    path = shard_of(FeatureSet(tmp_path, KEY))
    path.write_bytes(path.read_bytes()[:-2] + np.float16(value).tobytes())
    feature_set = FeatureSet(tmp_path, KEY)
    feature_set.read("a")
    with pytest.raises(StoreError, match=r"damaged \(features of content b are not finite\); delete it") as caught:
        feature_set.read("b")
    assert caught.value.where == str(path)


def test_missing_features_say_which_and_what_to_do(tmp_path: Path) -> None:
    feature_set = FeatureSet(tmp_path, KEY)
    for ask in (feature_set.read, feature_set.steps):
        with pytest.raises(StoreError, match=r"content 0123456789ab are missing; run `emofuse extract` first\.$"):
            ask("0123456789abcdef")


@pytest.mark.parametrize("value", [65520.0, -1e30, np.inf, np.nan])
def test_what_half_precision_cannot_hold_is_refused_and_leaves_nothing(tmp_path: Path, value: float) -> None:
    feature_set, values = FeatureSet(tmp_path, KEY), some_features("a", "b")
    values["b"][1, 2, 3] = value
    with pytest.raises(StoreError, match=r"^somewhere/tiny: features of content b are not finite in float16; choose"):
        feature_set.write(values)
    assert not list(tmp_path.rglob("*.safetensors*"))
    values["b"][1, 2, 3] = 65504.0  # The largest number of float16.
    feature_set.write(values)
    assert feature_set.read("b")[1, 2, 3] == np.float16(65504.0)


def test_writing_clears_what_a_killed_process_left(tmp_path: Path) -> None:
    feature_set = FeatureSet(tmp_path, KEY)
    feature_set.write(some_features("a"))
    before = contents(feature_set.folder)
    die = f"""
import os, signal
from pathlib import Path
from emofuse.files import written_atomically
with written_atomically(Path({str(feature_set.folder / "0123456789abcdef.safetensors")!r})) as part:
    part.write_bytes(b"half a sha")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", die], check=False)
    assert len(list(feature_set.folder.glob("*.part/*"))) + len(list(feature_set.folder.glob(".*.part/*"))) > 0
    assert set(FeatureSet(tmp_path, KEY)) == {"a"}
    with FeatureSet(tmp_path, KEY).writing():
        assert {name for name in contents(feature_set.folder) if "lock" not in name} == set(before)
    assert contents(feature_set.folder) == before


HOLDER = """
import sys
from pathlib import Path
from emofuse.locks import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


class Notes(Silent):
    def __init__(self, then: Callable[[], object]) -> None:
        self.lines: list[str] = []
        self._then = then

    def note(self, message: str) -> None:
        self.lines.append(message)
        self._then()


def test_a_second_writer_waits_until_the_first_has_finished_and_says_whose_it_is(tmp_path: Path) -> None:
    feature_set = FeatureSet(tmp_path, KEY)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(feature_set.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        notes = Notes(lambda: holder.communicate(""))
        with feature_set.writing(progress=notes):
            feature_set.write(some_features("a"))
    assert len(notes.lines) == 1
    assert f"process {holder.pid} on" in notes.lines[0]
    assert str(feature_set.folder) in notes.lines[0]
    assert "a" in FeatureSet(tmp_path, KEY)


def test_the_lock_is_given_back_when_writing_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with FeatureSet(tmp_path, KEY).writing():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with FeatureSet(tmp_path, KEY).writing():
        pass


def test_a_store_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.write_text("I am a file")
    with pytest.raises(StoreError, match="cannot be written"), FeatureSet(root, KEY).writing():
        pass


def test_a_full_disk_is_a_clear_error_and_leaves_no_shard(tmp_path: Path, full_disk: Callable[[int], Any]) -> None:
    twin = FeatureSet(tmp_path / "twin", KEY)
    twin.write(some_features("a"))
    feature_set = FeatureSet(tmp_path / "full", KEY)
    with (
        feature_set.writing(),
        full_disk(shard_of(twin).stat().st_size // 2),
        pytest.raises(StoreError, match=r"cannot be written.*check the space"),
    ):
        feature_set.write(some_features("a"))
    assert len(FeatureSet(tmp_path / "full", KEY)) == 0
    with feature_set.writing():
        feature_set.write(some_features("a"))
    assert shard_of(feature_set).read_bytes() == shard_of(twin).read_bytes()


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, granularity="utterance"),
        replace(KEY, frames_per_step=2),
        replace(KEY, precision="bfloat16"),
        replace(KEY, limit=64),
        replace(KEY, specification=replace(SPECIFICATION, revision="abd")),
        replace(KEY, specification=replace(SPECIFICATION, family="hubert")),
        replace(KEY, specification=replace(SPECIFICATION, modality="text")),
        replace(KEY, specification=replace(SPECIFICATION, selected=(0, 2))),
        replace(KEY, specification=replace(SPECIFICATION, selected=(2, 1, 0))),
        replace(KEY, specification=replace(SPECIFICATION, stride=160)),
    ],
)
def test_whatever_shapes_the_numbers_gives_another_folder(other: FeatureKey) -> None:
    assert other.folder != KEY.folder


@pytest.mark.parametrize("name", ["elsewhere", "/home/somebody/tiny", ""])
def test_the_name_of_an_encoder_and_its_card_do_not(name: str) -> None:
    renamed = replace(SPECIFICATION, name=name, licence="MIT", exposure=("IEMOCAP",))
    assert replace(KEY, specification=renamed).folder == KEY.folder


def test_the_same_key_has_the_same_folder_in_another_process() -> None:
    code = f"from emofuse.features.store import *; from emofuse.types import *; print(({KEY!r}).folder)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == KEY.folder


def test_the_folder_says_what_is_in_it(tmp_path: Path) -> None:
    feature_set = FeatureSet(
        tmp_path, replace(KEY, specification=replace(SPECIFICATION, name="/home/somebody/models/tiny"))
    )
    feature_set.write(some_features("a"))
    about = json.loads((feature_set.folder / "about.json").read_text())
    assert about["granularity"] == "frame"
    assert about["specification"]["revision"] == "abc"
    assert about["specification"]["name"] == "tiny"
    assert "somebody" not in (feature_set.folder / "about.json").read_text()
