"""Read publishers' files: text in several encodings, tables with a header, recordings by name."""

from __future__ import annotations

import csv
import fnmatch
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emofuse.corpora.card import CorpusCard, Listing, Row
from emofuse.delimited import decoded, numbers, split_rows
from emofuse.errors import AudioError, EmofuseError, ManifestError
from emofuse.files import stand_in
from emofuse.names import key, tidy

AGAIN = "copy or download it again"
"""The remedy for a damaged file of a publisher."""

# Published tables such as MELD's have Windows' punctuation that was decoded as Latin 1: control characters.
_PUNCTUATION = {code: sign for code in range(0x80, 0xA0) if (sign := bytes([code]).decode("cp1252", "ignore"))}

_SOUNDS = (".wav", ".flac", ".opus", ".ogg", ".mp3", ".m4a", ".mp4", ".avi")  # The better first.


def read_text(path: Path, *encodings: str) -> str:
    """The text of a file, in the first encoding that fits it.

    Control characters that stand for Windows' punctuation are restored.

    Args:
        path: The file.
        encodings: Tried after UTF-16 (where it begins as such) and UTF-8; by default Windows' Latin alphabet.

    Raises:
        ManifestError: The file is missing, empty, a folder or not text.
    """
    try:
        content = path.read_bytes()
        instead = stand_in(path)
    except FileNotFoundError as error:
        raise ManifestError("no such file", where=path, remedy=AGAIN) from error
    except IsADirectoryError as error:
        raise ManifestError("a folder is in its place", where=path, remedy=AGAIN) from error
    except OSError as error:
        raise ManifestError("the file cannot be opened", where=path, remedy="check its permissions") from error
    if instead is not None:
        raise ManifestError(instead[0], where=path, remedy=instead[1])
    if not content.strip():
        raise ManifestError("the file is empty", where=path, remedy=AGAIN)
    try:
        return decoded(content, *encodings)[0].translate(_PUNCTUATION)
    except ValueError as error:
        raise ManifestError("the file is not text", where=path, remedy=AGAIN) from error


def read_lines(path: Path, *encodings: str) -> list[str]:
    """The lines of a file, with any line ends; errors as in `read_text`."""
    return [line.removesuffix("\r") for line in read_text(path, *encodings).split("\n")]


def read_words(path: Path | None, errors: list[EmofuseError]) -> str | None:
    """A transcript from a file of its own, on one line; None if the file is absent, empty or damaged.

    Args:
        path: The file, if there is one.
        errors: An error is appended here.
    """
    if path is None or (path.is_file() and path.stat().st_size == 0):
        return None
    try:
        return " ".join(read_text(path).split())
    except ManifestError as error:
        errors.append(error)
        return None


def row_error(
    path: Path, number: int, what: str, *, remedy: str = "fix that line, or download the file again"
) -> ManifestError:
    """The error for one line of a file, by number (from 1)."""
    return ManifestError(what, where=f"{path}, line {number}", remedy=remedy)


def no_audio(path: Path) -> AudioError:
    """The error for a recording that a corpus should have."""
    return AudioError("no such file", where=path, remedy=AGAIN)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a table.

    Attributes:
        number: Line number, from 1.
        values: Stripped cells by the requested names; absent columns are empty.
    """

    number: int
    values: Mapping[str, str]


def read_table(
    path: Path, columns: Mapping[str, Sequence[str]], *, needed: Iterable[str]
) -> tuple[list[Line], list[EmofuseError]]:
    r"""The lines of a CSV file with a header, and one error for each that is damaged.

    Args:
        path: The file, separated by commas, semicolons, tabs or bars.
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
    try:
        found = split_rows(text)
    except csv.Error as error:
        remedy = "fix its quotes, or download it again"
        raise ManifestError(f"the table breaks off or is damaged ({error})", where=path, remedy=remedy) from error
    names = [key(name) for name in found.header]
    places = {
        ours: next((names.index(key(theirs)) for theirs in known if key(theirs) in names), None)
        for ours, known in columns.items()
    }
    for name in needed:
        if places[name] is None:
            raise ManifestError(f"there is no column {columns[name][0]!r}", where=path, remedy=AGAIN)
    lines: list[Line] = []
    errors: list[EmofuseError] = []
    for line, cells in found.rows:
        if len(cells) != len(names):
            errors.append(row_error(path, line, f"the line has {len(cells)} of {len(names)} cells"))
            continue
        values = {ours: "" if place is None else tidy(cells[place]) for ours, place in places.items()}
        lines.append(Line(number=line, values=values))
    if not lines and not errors:
        raise ManifestError("the table has no rows", where=path, remedy=AGAIN)
    return lines, errors


def number(text: str) -> float | None:
    """A finite number, or None; a comma is a decimal comma, since no corpus has thousands separators.

    Example:
        >>> number("2.5"), number("2,5"), number("NaN"), number("soon")
        (2.5, 2.5, None, None)
    """
    value = numbers([text.replace(",", ".")])[0][0]
    return None if math.isnan(value) else value


def recordings(folder: Path) -> dict[str, list[Path]]:
    """Recordings below a folder by stem, the better file format first.

    Endings may be in any case. Files that macOS adds (`._name.wav`) are no recordings.
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


def files_below(folder: Path, pattern: str) -> list[Path]:
    """Files below a folder whose names match a pattern, in any case, sorted.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "LABELS.CSV").touch()
        >>> [path.name for path in files_below(folder, "labels.csv")]
        ['LABELS.CSV']
    """
    fits = re.compile(fnmatch.translate(pattern), re.IGNORECASE).match
    # A folder of such a name is refused when it is read.
    walk = ((place, name) for place, folders, names in os.walk(folder) for name in (*folders, *names))
    return sorted(Path(place, name) for place, name in walk if fits(name))


def first_of_each(found: Mapping[str, Sequence[Path]], notes: list[str]) -> dict[str, Path]:
    """One recording for each name.

    Args:
        found: As `recordings` lists them.
        notes: A note on duplicates is appended here.

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


def list_by_name(
    card: CorpusCard,
    root: Path,
    name: re.Pattern[str],
    row: Callable[[re.Match[str]], Row],
    *,
    example: str,
    inside: str = "",
) -> Listing:
    """List a corpus whose clips' stems, which are the names of the utterances, say all about them.

    Args:
        card: The corpus.
        root: The user's path.
        name: The form of a stem.
        row: Further columns of an utterance.
        example: Path of a clip, for the error.
        inside: Subfolder of the clips, where there is one.

    Raises:
        ManifestError: There is no such folder, or no clip in it.
    """
    folder = card.folder(root)
    place = folder / inside if (folder / inside).is_dir() else folder
    notes: list[str] = []
    found = {stem: (paths, match) for stem, paths in recordings(place).items() if (match := name.fullmatch(stem))}
    if not found:
        raise card.absent(folder, f"clip such as {example}")
    first = first_of_each({stem: paths for stem, (paths, _) in found.items()}, notes)
    rows = [{"utterance": stem, "audio": str(first[stem]), **row(match)} for stem, (_, match) in sorted(found.items())]
    return Listing(rows=rows, source=place, notes=tuple(notes))


def _below(path: Path, other: Path) -> str:
    """The part of a path that differs from another."""
    return str(path.relative_to(os.path.commonpath([path.parent, other.parent])))
