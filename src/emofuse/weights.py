"""Read untrusted safetensors files: headers are checked before memory is allocated."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emofuse.files import plain_name, stand_in

if TYPE_CHECKING:
    from torch import nn

_LONGEST_HEADER = 32 << 20
_SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_SIZES |= dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1)


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file: its type, shape and first byte."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def numbers(self) -> int:
        """Number of its elements."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file by name, without reading their data.

    Raises:
        ValueError: The file is something else, is cut short, or its header contradicts itself or the file's size.
        OSError: It cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights"
        >>> _ = path.write_bytes(bytes(7))
        >>> read_header(path)
        Traceback (most recent call last):
        ValueError: it is cut short
    """
    if known := stand_in(path):
        raise ValueError(f"{known[0]}; {known[1]}")
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = file.read(8)
        if len(begin) < 8:
            raise ValueError("it is cut short")
        (length,) = struct.unpack("<Q", begin)
        if length > min(size - 8, _LONGEST_HEADER):
            raise ValueError("its header is cut short, or too long")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        entries = [(name, *_entry(**entry)) for name, entry in header.items()]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("its header is damaged") from error
    found, end = {}, 0
    for name, dtype, shape, first, last in sorted(entries, key=lambda entry: entry[3:]):
        if first != end or last - first != _SIZES.get(dtype, 0) * math.prod(shape):
            raise ValueError(f"its header contradicts itself at {name}")
        found[name] = Tensor(dtype, shape, 8 + length + first)
        end = last
    if 8 + length + end != size:
        raise ValueError("it is cut short, or longer than its header says")
    return found


def _entry(*, dtype: str, shape: list[int], data_offsets: list[int]) -> tuple[str, tuple[int, ...], int, int]:
    first, last = data_offsets
    if not all(type(one) is int and one >= 0 for one in [*shape, first, last]) or type(dtype) is not str:
        raise ValueError("these are no sizes")
    return dtype, tuple(shape), first, last


def load_into(model: nn.Module, path: Path) -> None:
    """Load a file's weights into a model on the device `meta`.

    Raises:
        ValueError: The file is damaged, its tensors are not those of the model, or a number is not finite.
        OSError: It cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    held, wanted = read_header(path), model.state_dict()
    for name in sorted(wanted.keys() ^ held.keys()):
        raise ValueError(f"{path.name} {'lacks' if name in wanted else 'holds besides'} {name}")
    for name, value in wanted.items():
        if held[name].shape != tuple(value.shape):
            raise ValueError(
                f"{name} is {_shape(held[name].shape)} in {path.name} and {_shape(value.shape)} by the settings"
            )
    try:
        with plain_name(path) as place:
            loaded = load_file(place)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is damaged") from error
    # Copied, since mapped memory changes with the file.
    tensors = {name: loaded[name].to(value.dtype, copy=True) for name, value in wanted.items()}
    model.load_state_dict(tensors, assign=True)
    check_finite(model.state_dict().items(), path.name)


def check_finite(tensors: Iterable[tuple[str, Any]], source: str) -> None:
    """Check that weights are finite: an infinite one may give a finite but wrong output.

    Raises:
        ValueError: One is not.
    """
    for name, value in tensors:
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name} in {source} is not finite, so it is damaged")


def _shape(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes)) or "one number"
