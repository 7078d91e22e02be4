"""Position and size of the samples of WAV, RF64, Wave64, AIFF, CAF and AU files, by their headers."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

_STREAMED = (0, 0xFFFFFFFF, (1 << 64) - 1)


@dataclass(frozen=True)
class Chunks:
    """Format of a container's chunks.

    Attributes:
        first: Byte of the first chunk.
        header: Name and length of a chunk, for `struct`.
        inclusive: Whether the length includes the header.
        align: Alignment in bytes.
        samples: Name of the chunk of samples.
    """

    first: int
    header: str
    inclusive: bool = False
    align: int = 2
    samples: bytes = b"data"

    def read(self, file: BinaryIO) -> tuple[bytes, int] | None:
        """Name and content length of the chunk at the file's position; None if there is none."""
        size = struct.calcsize(self.header)
        content = file.read(size)
        if len(content) < size:
            return None
        name, length = struct.unpack(self.header, content)
        # Names in Wave64 have 16 bytes; the first four are those of WAV.
        return name[:4], length - size * self.inclusive

    def after(self, begin: int, length: int) -> int:
        """Beginning of the next chunk."""
        return begin + length + -length % self.align


_KINDS = {
    b"RIFF": Chunks(12, "<4sI"),
    b"RF64": Chunks(12, "<4sI"),
    b"RIFX": Chunks(12, ">4sI"),
    b"FORM": Chunks(12, ">4sI", samples=b"SSND"),
    b"riff": Chunks(40, "<16sQ", inclusive=True, align=8),
    b"caff": Chunks(8, ">4sQ", align=1),
}


@dataclass(frozen=True)
class Samples:
    """Samples of a file by its header.

    Attributes:
        chunks: Format of the container's chunks; None if it has none.
        begin: First byte of the samples.
        length: Their bytes; None if the writer did not know.
        code: WAV's number of the codec.
        second: Bytes a second; 0 if unknown.
    """

    chunks: Chunks | None
    begin: int
    length: int | None
    code: int = 1
    second: int = 0

    @property
    def end(self) -> int:
        """Byte after the last sample; 0 if the header does not state it."""
        return 0 if self.length is None else self.begin + self.length


def find_samples(file: BinaryIO) -> Samples | None:
    r"""Samples of the file whose header is at the position, or None where the header is of another kind or cut.

    Example:
        >>> import io
        >>> find_samples(io.BytesIO(b"RIFF\x24\x10\0\0WAVEdata\0\x10\0\0")).end
        4116
    """
    start = file.tell()
    head = file.read(24)
    if head[:4] == b".snd" and len(head) == 24:
        offset, length = struct.unpack(">II", head[4:12])
        return Samples(chunks=None, begin=start + offset, length=None if length in _STREAMED else length)
    chunks = _KINDS.get(head[:4])
    if chunks is None or (head[:4] == b"FORM" and head[8:12] not in (b"AIFF", b"AIFC")):
        return None
    file.seek(start + chunks.first)
    code, second, large = 1, 0, 0
    while (found := chunks.read(file)) is not None:
        name, length = found
        begin = file.tell()
        if name == b"ds64":
            sizes = file.read(16)
            large = struct.unpack_from("<Q", sizes, 8)[0] if len(sizes) == 16 else 0
        elif name == b"fmt ":
            code, _, _, second = struct.unpack(chunks.header[0] + "HHII", file.read(12).ljust(12, b"\0"))
        elif name == chunks.samples:
            if length == 0xFFFFFFFF and large:
                length = large
            return Samples(chunks, begin, None if _is_open(length) else length, code, second)
        if not 0 <= length < 1 << 48:
            return None
        file.seek(chunks.after(begin, length))
    return None


def _is_open(length: int) -> bool:
    # Writers to a pipe cannot know the length: they state 0 or the largest number (sox and arecord: half that).
    return length in _STREAMED or length < 0 or 0x7FFF0000 <= length <= 0x80000000
