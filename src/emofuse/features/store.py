"""The feature store: memory-mapped shards, written atomically."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emofuse.errors import OutputError, StoreError
from emofuse.files import write_text, written_atomically
from emofuse.locks import alone_in
from emofuse.progress import Progress, Silent
from emofuse.settings import fingerprint
from emofuse.types import TIERS, EncoderSpecification
from emofuse.weights import read_header

VERSION = 1
"""Increased whenever the same audio and encoder give other numbers, so that old features are not mixed in."""

SUFFIX = ".safetensors"
_INFINITE = 65520.0  # float16 rounds this to infinity.


@dataclass(frozen=True, kw_only=True)
class FeatureKey:
    """Identity of a feature set.

    Attributes:
        specification: The encoder's.
        granularity: `frame`, `utterance`, `token`, or a tier of the alignment and its pooling, such as
            `phone-mean`.
        frames_per_step: Frames averaged into one step.
        precision: Arithmetic of the encoder.
        limit: Most tokens per text (0: no limit).
    """

    specification: EncoderSpecification
    granularity: str
    frames_per_step: int = 1
    precision: str = "float32"
    limit: int = 0

    @property
    def aligned(self) -> bool:
        """Whether the features depend on an alignment, not on the content alone."""
        return self.granularity.partition("-")[0] in TIERS

    @property
    def folder(self) -> str:
        """Name of the feature set's folder: its kind, and a hash of all that affects its numbers."""
        encoder = self.specification
        # Without the encoder's name: the same weights in another folder give the same features.
        shape = [VERSION, encoder.family, encoder.revision, list(encoder.selected), encoder.stride]
        digest = fingerprint(shape, self.granularity, self.frames_per_step, self.precision, self.limit)
        return f"{encoder.modality}-{encoder.family}-{self.granularity}-{digest}"


class FeatureSet:
    """Features of many utterances, by the hash of content, or of content and alignment.

    An utterance has one name in all feature sets, `CONTENT` or `CONTENT+ALIGNMENT`; without alignment only
    the first part is used.

    Args:
        root: Folder of the store.
        key: Its identity.
    """

    def __init__(self, root: Path, key: FeatureKey) -> None:
        self.key = key
        self.folder = root / key.folder
        self._places: dict[str, tuple[Path, int, tuple[int, ...]]] = {}
        self._maps: dict[Path, NDArray[np.uint8]] = {}
        self._read: set[Path] = set()
        self._finite: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """Read new shards.

        Raises:
            StoreError: A shard is damaged.
        """
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path not in self._read:
                self._places.update(_read_header(path))
                self._read.add(path)

    def _own(self, name: str) -> str:
        return name if self.key.aligned else name.partition("+")[0]

    def __contains__(self, name: str) -> bool:
        return self._own(name) in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def steps(self, name: str) -> int:
        """Number of steps of one utterance, without reading it."""
        return self._place(name)[2][1]

    def read(self, name: str) -> NDArray[np.float16]:
        """Features of one utterance, `(layers, steps, width)`, memory-mapped, copy on write.

        Raises:
            StoreError: They are missing or not finite.
        """
        path, offset, shape = self._place(name)
        if path not in self._maps:
            self._maps[path] = np.memmap(path, dtype=np.uint8, mode="c")
        end = offset + 2 * int(np.prod(shape))
        values = self._maps[path][offset:end].view(np.float16).reshape(shape)
        # Once per process: training reads them in every epoch.
        if name not in self._finite:
            if not np.isfinite(values).all():
                raise _damaged(path, f"features of content {name[:12]} are not finite")
            self._finite.add(name)
        return values

    def _place(self, name: str) -> tuple[Path, int, tuple[int, ...]]:
        try:
            return self._places[self._own(name)]
        except KeyError:
            raise StoreError(
                f"features of content {name[:12]} are missing", where=self.folder, remedy="run `emofuse extract` first"
            ) from None

    def write(self, features: Mapping[str, NDArray[np.float32]]) -> None:
        """Write one shard, atomically; existing features are left out.

        Raises:
            StoreError: A value does not fit float16, or the disk is full.
        """
        from safetensors.numpy import save_file

        fresh = {self._own(name): features[name] for name in sorted(features) if name not in self}
        if not fresh:
            return
        halves = {}
        for name, values in fresh.items():
            if not fits(values):
                raise self.unfit(f"features of content {name[:12]}")
            halves[name] = np.ascontiguousarray(values, dtype=np.float16)
        with _as_store_error():
            self._describe()
            with written_atomically(self.folder / (fingerprint(list(halves)) + SUFFIX)) as part:
                save_file(halves, part)
        self.refresh()

    def unfit(self, what: str) -> StoreError:
        """The error for features that cannot be stored."""
        return StoreError(
            f"{what} are not finite in float16",
            where=self.key.specification.name,
            remedy="choose other layers or another encoder",
        )

    def _describe(self) -> None:
        about = self.folder / "about.json"
        if not about.exists():
            # A folder's name is valid on one machine only; the revision identifies the encoder.
            values = asdict(self.key)
            values["specification"]["name"] = Path(self.key.specification.name).name
            write_text(about, json.dumps(values, indent=1))

    @contextmanager
    def writing(self, *, progress: Progress = Silent()) -> Iterator[None]:
        """Lock the feature set for writing, and remove leftovers of a killed process.

        Args:
            progress: Receives a note while waiting for another process that writes the feature set.

        Raises:
            StoreError: This process may not write it.
        """
        with _as_store_error(), alone_in(self.folder, waiting=progress):
            self.refresh()
            yield


def fits(values: NDArray[np.float32]) -> bool:
    """Whether features are numbers that float16 can hold.

    Example:
        >>> fits(np.float32([1.0, 65504.0])), fits(np.float32([1e5])), fits(np.float32([np.nan]))
        (True, False, False)
    """
    return bool((np.abs(values) < _INFINITE).all())


@contextmanager
def _as_store_error() -> Iterator[None]:
    try:
        yield
    except OutputError as error:
        raise StoreError(error.what, where=error.where, remedy=error.remedy) from error


def _read_header(path: Path) -> dict[str, tuple[Path, int, tuple[int, ...]]]:
    """First byte and shape of each tensor of a safetensors file."""
    try:
        header = read_header(path)
        if any(one.dtype != "F16" or len(one.shape) != 3 for one in header.values()):
            raise ValueError("it holds no features")
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    return {name: (path, one.start, one.shape) for name, one in header.items()}


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(f"this shard is damaged ({what})", where=path, remedy="delete it and run the same command again")
