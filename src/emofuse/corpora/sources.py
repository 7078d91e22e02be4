"""Publishers' files as they come: text in whichever encoding, tables with a header, sounds by their names."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emofuse.errors import AudioError, EmofuseError, ManifestError

AGAIN = "copy or download it again"
"""The remedy where a publisher's file is not as it was."""

# Published tables such as those of MELD have Windows' punctuation that was taken for Latin 1: as control characters.
_PUNCTUATION = {code: sign for code in range(0x80, 0xA0) if (sign := bytes([code]).decode("cp1252", "ignore"))}

_SOUNDS = (".wav", ".flac", ".opus", ".ogg", ".mp3", ".m4a", ".mp4", ".avi")  # The better first.


def read_text(path: Path, *encodings: str) -> str:
    """The text of a file, in the first encoding that fits it.

    Control characters that stand for Windows' punctuation become what was written.

    Args:
        path: The file.
        encodings: Tried after UTF-16 (where it begins as such) and UTF-8; by default Windows' Latin alphabet.

    Raises:
        ManifestError: The file is missing, empty, a folder or not text.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ManifestError("no such file", where=path, remedy=AGAIN) from error
    except IsADirectoryError as error:
        raise ManifestError("a folder is in its place", where=path, remedy=AGAIN) from error
    except OSError as error:
        raise ManifestError("the file cannot be opened", where=path, remedy="check its permissions") from error
    if not content.strip():
        raise ManifestError("the file is empty", where=path, remedy=AGAIN)
    marked = ("utf-16",) if content[:2] in (b"\xff\xfe", b"\xfe\xff") or content[1:2] == b"\0" else ()
    for encoding in (*marked, "utf-8-sig", *(encodings or ("cp1252",))):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text.translate(_PUNCTUATION)
    raise ManifestError("the file is not text", where=path, remedy=AGAIN)


def read_lines(path: Path, *encodings: str) -> list[str]:
    """The lines of a file, with either system's ends; the errors are those of `read_text`."""
    return [line.removesuffix("\r") for line in read_text(path, *encodings).split("\n")]


def read_words(path: Path | None, errors: list[EmofuseError]) -> str | None:
    """A transcript that has a file of its own, on one line; None where that is absent, empty or damaged.

    Args:
        path: The file, if there is one.
        errors: Where an error goes.
    """
    if path is None or (path.is_file() and path.stat().st_size == 0):
        return None
    try:
        return " ".join(read_text(path).split())
    except ManifestError as error:
        errors.append(error)
        return None


def row_error(
    path: Path, number: int, what: str, *, remedy: str = "mend that line, or download the file again"
) -> ManifestError:
    """The error for one line of a file, by its number (counted from 1)."""
    return ManifestError(what, where=f"{path}, line {number}", remedy=remedy)


def no_sound(path: Path) -> AudioError:
    """The error for a sound that a corpus should have."""
    return AudioError("no such file", where=path, remedy=AGAIN)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a table.

    Attributes:
        number: Where it is in the file, counted from 1.
        values: Cells by the names that we asked for, without blanks around them; absent columns are empty.
    """

    number: int
    values: Mapping[str, str]


def read_table(
    path: Path, columns: Mapping[str, Sequence[str]], *, needed: Iterable[str]
) -> tuple[list[Line], list[EmofuseError]]:
    r"""The lines of a CSV file with a header, and one error for each that is damaged.

    Args:
        path: The file, separated by commas, semicolons or tabs.
        columns: For each name that we use, the names that it may have in the file, in whichever case.
        needed: Those which must be there.

    Raises:
        ManifestError: The file cannot be read, has no rows, or lacks a column.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "labels.csv"
        >>> _ = path.write_text("FileName,EmoClass\na.wav,H\nb.wav\n")
        >>> lines, errors = read_table(path, {"file": ["filename"], "label": ["emoclass"]}, needed=["file", "label"])
        >>> dict(lines[0].values), errors[0].what
        ({'file': 'a.wav', 'label': 'H'}, 'the line has 1 of 2 cells')
    """
    text = read_text(path)
    header = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    lines: list[Line] = []
    errors: list[EmofuseError] = []
    try:
        names = [name.strip().lower() for name in next(reader)]
        places = {
            ours: next((names.index(theirs.lower()) for theirs in known if theirs.lower() in names), None)
            for ours, known in columns.items()
        }
        for name in needed:
            if places[name] is None:
                raise ManifestError(f"there is no column {columns[name][0]!r}", where=path, remedy=AGAIN)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(names):
                errors.append(row_error(path, reader.line_num, f"the line has {len(cells)} of {len(names)} cells"))
                continue
            values = {ours: "" if place is None else cells[place].strip() for ours, place in places.items()}
            lines.append(Line(number=reader.line_num, values=values))
    except csv.Error as error:
        raise row_error(path, reader.line_num, "the table breaks off or is damaged here") from error
    if not lines and not errors:
        raise ManifestError("the table has no rows", where=path, remedy=AGAIN)
    return lines, errors


def number(text: str) -> float | None:
    """A finite number, or nothing.

    Example:
        >>> number("2.5"), number("NaN"), number("soon")
        (2.5, None, None)
    """
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def recordings(folder: Path) -> dict[str, list[Path]]:
    """Sound files below a folder by their names without ending, the better kind of file first.

    Names are as they are, but the endings may be in whichever case. Files that macOS leaves beside others
    (`._name.wav`) are no sounds.
    """
    found: dict[str, list[Path]] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            stem, ending = os.path.splitext(name)
            if ending.lower() in _SOUNDS and not name.startswith("."):
                found.setdefault(stem, []).append(Path(place, name))
    for paths in found.values():
        paths.sort(key=lambda path: _SOUNDS.index(path.suffix.lower()))
    return found


def first_of_each(found: Mapping[str, Sequence[Path]], notes: list[str]) -> dict[str, Path]:
    """One recording for each name.

    Args:
        found: As `recordings` lists them.
        notes: Where it is said that some are there more than once.

    Example:
        >>> notes: list[str] = []
        >>> first_of_each({"a": [Path("a.wav"), Path("a.mp3")], "b": [Path("b.flac")]}, notes)["a"].name, notes
        ('a.wav', ['1 recording is there more than once, such as a.wav and a.mp3: the first of each is read'])
    """
    several = [paths for paths in found.values() if len(paths) > 1]
    if several:
        first, second = several[0][:2]
        shown = f"{_below(first, second)} and {_below(second, first)}"
        counted = "1 recording is" if len(several) == 1 else f"{len(several)} recordings are"
        notes.append(f"{counted} there more than once, such as {shown}: the first of each is read")
    return {name: paths[0] for name, paths in found.items()}


def _below(path: Path, other: Path) -> str:
    """A path as far as it differs from another."""
    return str(path.relative_to(os.path.commonpath([path.parent, other.parent])))
