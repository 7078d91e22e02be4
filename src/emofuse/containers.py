"""Where a sound file should end by its own headers: decoders play a file that was cut short without a word."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import BinaryIO


def promised_end(file: BinaryIO, size: int) -> int:
    r"""Byte at which a file of `size` bytes should end by its own headers; 0 where they do not say.

    Read are RIFF and AIFF, MP4, Matroska and WebM, Ogg, and MP3 with a Xing header.

    Example:
        >>> import io
        >>> header = b"RIFF\x24\x10\0\0WAVEdata\0\x10\0\0"
        >>> promised_end(io.BytesIO(header + bytes(100)), len(header) + 100) - len(header)
        4096
    """
    head = file.read(12)
    readers: tuple[tuple[bool, Callable[[BinaryIO, int], int]], ...] = (
        (head[:4] in (b"RIFF", b"RF64", b"RIFX", b"FORM"), _riff_end),
        (head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"), _mp4_end),
        (head[:4] == b"\x1aE\xdf\xa3", _matroska_end),
        (head[:4] == b"OggS", _ogg_end),
        (head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"), _mp3_end),
    )
    for fits, reader in readers:
        if fits:
            file.seek(0)
            return reader(file, size)
    return 0


def _riff_end(file: BinaryIO, size: int) -> int:
    order = ">" if file.read(12)[:4] in (b"RIFX", b"FORM") else "<"
    large = 0
    while len(header := file.read(8)) == 8:
        name, length = header[:4], struct.unpack(order + "I", header[4:])[0]
        if name == b"ds64":
            sizes = file.read(length)
            large = struct.unpack_from("<Q", sizes, 8)[0] if len(sizes) >= 16 else 0
            continue
        if name in (b"data", b"SSND"):
            if large and length == 0xFFFFFFFF:
                return file.tell() + int(large)
            # Writers to a pipe cannot know the length: they state 0 or the largest number (sox and arecord: half that).
            streamed = length in (0, 0xFFFFFFFF) or 0x7FFF0000 <= length <= 0x80000000
            return 0 if streamed else file.tell() + int(length)
        file.seek(length + length % 2, os.SEEK_CUR)
    return 0


def _mp4_end(file: BinaryIO, size: int) -> int:
    position = 0
    while position < size:
        file.seek(position)
        header = file.read(16)
        if len(header) < 8 or not header[4:8].isalnum():
            break
        length = struct.unpack(">I", header[:4])[0]
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
        if length < 8:
            break
        position += int(length)
    return position


def _matroska_end(file: BinaryIO, size: int) -> int:
    for name in (b"\x1aE\xdf\xa3", b"\x18S\x80g"):
        if file.read(4) != name:
            return 0
        first = (file.read(1) or b"\0")[0]
        width = 9 - first.bit_length()
        digits = bytes([first & ((1 << (8 - width)) - 1)]) + file.read(width - 1) if first else b""
        length = int.from_bytes(digits, "big")
        if not first or length == (1 << 7 * width) - 1:
            return 0
        if name == b"\x18S\x80g":
            return file.tell() + length
        file.seek(length, os.SEEK_CUR)
    return 0


def _ogg_end(file: BinaryIO, size: int) -> int:
    begin = max(0, size - (27 + 255 + 255 * 255))
    file.seek(begin)
    tail = file.read()
    page = tail.rfind(b"OggS\0")
    if page < 0:
        return 0
    header = tail[page : page + 27]
    segments = header[26] if len(header) == 27 else 0
    return begin + page + 27 + segments + sum(tail[page + 27 : page + 27 + segments])


def _mp3_end(file: BinaryIO, size: int) -> int:
    head = file.read(10)
    tag = 0
    if head[:3] == b"ID3" and len(head) == 10:
        tag = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    file.seek(tag)
    frame = file.read(64)
    if len(frame) < 64:
        return 0
    for offset in (36, 21, 13):
        if frame[offset : offset + 4] in (b"Xing", b"Info"):
            flags = frame[offset + 7]
            place = offset + 8 + 4 * (flags & 1)
            return tag + int(struct.unpack(">I", frame[place : place + 4])[0]) if flags & 2 else 0
    return 0
