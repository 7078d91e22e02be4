"""Survey of containers: decoders silently accept truncated files, lost parts and trailing data."""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from emofuse.audio.checks import SHORTEST, cut_short, damaged
from emofuse.audio.headers import Samples, find_samples
from emofuse.errors import AudioError
from emofuse.files import stand_in

# First bytes of formats that libsndfile decodes here. Not MP3: libsndfile takes its length from the first frames and
# drops the rest.
_SOUNDFILE_HEADS = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"fLaC", b"OggS", b"caff", b".snd", b"NIST")
_RIFF_HEADS = (b"RIFF", b"RF64", b"RIFX", b"FORM")
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"moof", b"free")
_EBML = b"\x1aE\xdf\xa3"

# PCM, ADPCM, float, A-law, mu-law, IMA ADPCM, GSM, and the tag that refers to a longer one. Of other codecs in WAV,
# such as MP3, libsndfile counts more frames than it returns.
_SOUNDFILE_TAGS = frozenset({1, 2, 3, 6, 7, 0x11, 0x31, 0xFFFE})
_FIXED_TAGS = frozenset({1, 3, 6, 7, 0xFFFE})

_FLAC_HEAD = b"fLaC\0\0\0\x22"
_OTHERS = (b"RIFF", b"FORM", b"OggS", b"fLaC", b"ID3", b"TAG", b"APETAGEX", b"PK", b"{", b"<")


@dataclass(frozen=True)
class Survey:
    """How a file should be decoded.

    Attributes:
        soundfile: Whether libsndfile decodes it; else FFmpeg.
        to_the_end: Whether to ignore the length in a WAV's header.
        notes: Parts that are not read, and wrong headers.
    """

    soundfile: bool
    to_the_end: bool = False
    notes: tuple[str, ...] = ()


def survey(path: Path) -> Survey:
    """Survey a file's container.

    Raises:
        AudioError: The file is cut short, visibly damaged, or only refers to another file.
    """
    other = stand_in(path)
    if other is not None:
        what, remedy = other
        raise AudioError(what, where=path, remedy=remedy)
    size = path.stat().st_size
    with path.open("rb") as file:
        end = promised_end(file, size)
        if end > size:
            raise cut_short(path)
        file.seek(tag := _tag_size(file))
        head = file.read(12)
        file.seek(tag)
        found = find_samples(file)
        if found is not None:
            return _survey_chunks(file, found, size)
        file.seek(tag)
        if head[:4] == b"OggS":
            return _survey_ogg(path, file, size)
        if head[:4] == b"fLaC":
            return _survey_flac(file)
        if head[4:8] in _MP4_BOXES or head[:4] == _EBML:
            return _survey_boxes(file, end, size)
    return Survey(soundfile=head[:4] in _SOUNDFILE_HEADS)


def _tag_size(file: BinaryIO) -> int:
    """Bytes of an ID3 tag before a recording."""
    file.seek(0)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def _survey_chunks(file: BinaryIO, found: Samples, size: int) -> Survey:
    """Survey of a file whose header counts samples."""
    # libsndfile also reads what follows the samples of Wave64.
    wide = found.chunks is not None and found.chunks.inclusive
    fits = found.code in _SOUNDFILE_TAGS and not wide
    if found.length is None:
        return Survey(soundfile=fits)
    rest = _after_chunks(file, found, size)
    if size - rest <= 1 or _is_padding(file, rest, size):
        return Survey(soundfile=fits)
    file.seek(rest)
    head = file.read(64)
    odd = head.startswith(_OTHERS) or head.decode("latin-1").isprintable()
    adjoining = rest <= found.end + 1 and found.second > 0 and not wide
    if adjoining and found.code in _FIXED_TAGS and not odd and size - rest >= SHORTEST * found.second:
        said, held = found.length / found.second, (size - found.begin) / found.second
        note = f"its header says {said:.2f} s, and the file holds {held:.2f} s, which were all read"
        return Survey(soundfile=False, to_the_end=True, notes=(note,))
    return Survey(soundfile=fits, notes=(_unread(size - rest),))


def _survey_boxes(file: BinaryIO, end: int, size: int) -> Survey:
    """Survey of MP4 or Matroska: trailing data is noted; concatenated Matroska files are all read."""
    file.seek(end)
    if not end or end >= size:
        return Survey(soundfile=False)
    if file.read(4) == _EBML:
        return Survey(soundfile=False, notes=("the file is several recordings in a row, which were all read",))
    if _is_padding(file, end, size):
        return Survey(soundfile=False)
    return Survey(soundfile=False, notes=(_unread(size - end),))


def _unread(count: int) -> str:
    return f"{count} bytes after the end of the audio were not read"


def _after_chunks(file: BinaryIO, found: Samples, size: int) -> int:
    """End of the chunks that follow the samples."""
    if found.chunks is None:
        return found.end
    # Some writers do not pad an odd length.
    places = []
    for place in {found.end, found.chunks.after(found.begin, found.end - found.begin)}:
        file.seek(place)
        while (chunk := found.chunks.read(file)) is not None:
            name, length = chunk
            begin = file.tell()
            named = name not in (*_RIFF_HEADS, b"riff") and name.isascii() and name.decode("ascii").isprintable()
            if not named or not 0 <= length <= size - begin:
                break
            place = found.chunks.after(begin, length)
            file.seek(place)
        places.append(place)
    return max(places)


def _is_padding(file: BinaryIO, begin: int, end: int) -> bool:
    file.seek(begin)
    while begin < end:
        block = file.read(min(1 << 20, end - begin))
        if block.strip(b"\0"):
            return False
        begin += max(1, len(block))
    return True


def _survey_flac(file: BinaryIO) -> Survey:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        count, place = 1, content.find(_FLAC_HEAD)
        while (place := content.find(_FLAC_HEAD, place + 1)) > 0:
            count += 1
    if count == 1:
        return Survey(soundfile=True)
    return Survey(soundfile=False, notes=(f"the file is {count} recordings in a row, which were all read",))


@dataclass(frozen=True)
class _Page:
    begin: int
    end: int
    first: bool
    stream: int
    number: int


def _survey_ogg(path: Path, file: BinaryIO, size: int) -> Survey:
    last: dict[int, int] = {}
    streams = lost = cut = 0
    begun = False
    place = file.tell()
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for page in _pages(content, place):
            lost += page.begin > place
            place = page.end
            if page.first:
                streams += begun
                last.pop(page.stream, None)
            before = last.get(page.stream, page.number - 1)
            if page.number > before + 1:
                # Recordings of broadcasts have the headers, and then begin in the middle.
                cut, lost = (cut + 1, lost) if before < 2 else (cut, lost + 1)
            last[page.stream] = page.number
            begun = not page.first
    if lost:
        places = f"{lost} place{'s' if lost > 1 else ''}"
        raise damaged(path, f"parts of the audio are damaged or missing (in {places}), as its pages show")
    notes = [f"the file is {streams + 1} recordings in a row, which were all read"] * bool(streams)
    notes += ["the audio begins in the middle of a stream"] * bool(cut)
    notes += [_unread(size - place)] * (size > place)
    return Survey(soundfile=not streams and not cut, notes=tuple(notes))


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _pages(content: mmap.mmap, place: int) -> Iterator[_Page]:
    """Complete pages of an Ogg file; other bytes are damaged or something else."""
    while (place := content.find(b"OggS\0", place)) >= 0:
        header = content[place : place + 27]
        if len(header) < 27:
            return
        flags, _, stream, number, check, count = struct.unpack("<BqIIIB", header[5:])
        end = place + 27 + count + sum(content[place + 27 : place + 27 + count])
        page = header[:22] + bytes(4) + header[26:] + content[place + 27 : end]
        # Ogg's checksum is zlib's with reversed bits and without the initial and final inversion.
        found = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        if int(f"{found:032b}"[::-1], 2) == check and end <= len(content):
            yield _Page(place, end, bool(flags & 2), stream, number)
            place = end
        else:
            place += 1


def promised_end(file: BinaryIO, size: int) -> int:
    r"""Byte at which a file of `size` bytes should end by its own headers; 0 where they do not say.

    Read are WAV, AIFF, Wave64, CAF and AU, MP4, Matroska and WebM, Ogg, and MP3 with a Xing header.

    Example:
        >>> import io
        >>> header = b"RIFF\x24\x10\0\0WAVEdata\0\x10\0\0"
        >>> promised_end(io.BytesIO(header + bytes(100)), len(header) + 100) - len(header)
        4096
    """
    head = file.read(12)
    readers: tuple[tuple[bool, Callable[[BinaryIO, int], int]], ...] = (
        (head[:4] in (*_RIFF_HEADS, b"riff", b"caff", b".snd"), _samples_end),
        (head[4:8] in _MP4_BOXES, _mp4_end),
        (head[:4] == _EBML, _matroska_end),
        (head[:4] == b"OggS", _ogg_end),
        (head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"), _mp3_end),
    )
    for fits, reader in readers:
        if fits:
            file.seek(0)
            return reader(file, size)
    return 0


def _samples_end(file: BinaryIO, size: int) -> int:
    found = find_samples(file)
    return 0 if found is None else found.end


def _mp4_end(file: BinaryIO, size: int) -> int:
    position = 0
    while position < size:
        file.seek(position)
        header = file.read(16)
        # Another file begins, which is not read.
        if len(header) < 8 or not header[4:8].isalnum() or (position and header[4:8] == b"ftyp"):
            break
        length = struct.unpack(">I", header[:4])[0]
        if length == 0:  # The last box ends with the file.
            return size
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
        # An unknown box beyond the end of the file is trailing data, not a truncated box.
        if length < 8 or (header[4:8] not in _MP4_BOXES and position + length > size):
            break
        position += int(length)
    return position


def _matroska_end(file: BinaryIO, size: int) -> int:
    for name in (_EBML, b"\x18S\x80g"):
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
    tag = _tag_size(file)
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
