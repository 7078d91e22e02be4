"""Corpora: one file each, all with the same manifest."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emofuse.corpora import (
    aesdd,
    cbp,
    cmu_mosei,
    crema_d,
    emodb,
    emovo,
    esd,
    goemotions,
    iemocap,
    meld,
    msp_improv,
    msp_podcast,
    nemo,
    paired,
    ravdess,
    table,
)
from emofuse.corpora.card import CorpusCard, Listing
from emofuse.errors import AudioError, EmofuseError, ManifestError, SettingsError
from emofuse.inputs import nearest, short
from emofuse.outside import OWN, is_outside, load_object
from emofuse.progress import Progress, Silent, track

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CORPORA", "Corpus", "CorpusCard", "read_corpus"]

_MODULES = (
    iemocap,
    msp_improv,
    msp_podcast,
    meld,
    cmu_mosei,
    cbp,
    crema_d,
    esd,
    ravdess,
    emodb,
    nemo,
    aesdd,
    emovo,
    goemotions,
    paired,
    table,
)

# Each reader takes the folder and the options of its card, by name.
_READERS: Mapping[str, Callable[..., Listing]] = {module.CARD.name: module.read for module in _MODULES}

CORPORA: dict[str, CorpusCard] = {module.CARD.name: module.CARD for module in _MODULES}
"""Card of each corpus, by name; the user's own are added when they are read."""

_THREADS = 8  # Reading headers is bound by the disk.


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus that was read.

    Attributes:
        manifest: One row an utterance, with the columns of `emofuse.manifest.COLUMNS`.
        skipped: One error for each recording, other file or row that is missing or damaged.
        notes: Remarks for the reader.
    """

    manifest: pd.DataFrame
    skipped: tuple[EmofuseError, ...] = ()
    notes: tuple[str, ...] = ()

    def unread(self, root: Path) -> dict[str, str]:
        """Why each was left out, by path, since a file without a row has no name.

        Args:
            root: The folder that was read; files elsewhere are listed by name.
        """
        # File names alone are not unique: MELD's recur in train, dev and test.
        return {_inside(Path(error.where or ""), root): error.advice for error in self.skipped}


def _inside(place: Path, root: Path) -> str:
    return str(place.relative_to(root)) if root in place.parents else place.name


def read_corpus(
    name: str,
    root: Path | str,
    *,
    partial: bool = False,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    progress: Progress = Silent(),
) -> Corpus:
    r"""Read a corpus into a manifest, its durations from the headers of the recordings.

    Args:
        name: A name in `CORPORA`, the path of a reader of the user's own (`package.module:read` or
            `path/to/file.py:read`), or several with `+`, such as `ravdess+emodb`. A reader takes the folder, and
            by name the options that the card has, and returns a table or a list with the columns of a manifest; the
            card is `CARD` of its module, where there is one.
        root: The corpus's folder or the folder that holds it (of several: the folder that holds them all under their
            names); for `table` the file.
        partial: Accept missing and damaged files and another number of utterances than was published, with a note.
        columns: For `table`: the table's name for a manifest column, where it differs.
        options: What is read, as the card's `options` offer it, such as `{"labels": "six"}` of IEMOCAP.
        progress: Reports each header that is read.

    Raises:
        ManifestError: No such corpus or folder, a table that does not fit, missing or damaged files or another
            number of utterances than expected (all in one message), or no recording that can be read.
        SettingsError: The corpus has no such option.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = path.write_text("text,emotion\nOh no!,sad\n")
        >>> read_corpus("table", path, columns={"label": "emotion"}).manifest.loc[0, "label"]
        'sad'
    """
    import pandas as pd

    from emofuse.manifest import make_manifest, one_spelling

    if "+" in name:
        return _read_several(
            name.split("+"), Path(root), partial=partial, columns=columns, options=options or {}, progress=progress
        )
    card, reader = _card_and_reader(name)
    name, root = card.name, Path(root)
    chosen = card.chosen(options or {})
    if name == table.CARD.name:
        listing = table.read(root, columns)
    elif columns:
        raise ManifestError(
            f"the columns of {name} cannot be mapped", remedy="leave out the mapping, or read your own table"
        )
    else:
        listing = _listing(reader(root, **chosen), root)
    differences = (listing.card or card).differences(listing.rows)
    incomplete = listing.incomplete(differences)
    if incomplete and not (partial and listing.rows):
        otherwise = ", or accept what is there with --partial" if listing.rows else ""
        raise ManifestError(incomplete, where=listing.source, remedy=f"complete the corpus{otherwise}")
    notes = listing.notes
    if options:
        notes = (*notes, f"read with {', '.join(f'{option}={value}' for option, value in chosen.items())}")
    if differences:
        notes = (*notes, differences)
    rows = [{"corpus": name, **row} for row in listing.rows if _is_utf8(row)]
    odd = tuple(
        AudioError(
            "the name is not UTF-8, and a table holds no other", where=str(row.get("audio")), remedy="rename the file"
        )
        for row in listing.rows
        if not _is_utf8(row)
    )
    if odd and not rows:
        raise ManifestError("no recording has a name in UTF-8", where=root, remedy="rename the files or their folder")
    frame = pd.DataFrame(rows)
    frame, spelt = one_spelling(frame, known=(listing.card or card).labels)
    manifest, unreadable = _with_durations(make_manifest(frame, source=listing.source), listing.source, progress)
    return Corpus(manifest=manifest, skipped=(*listing.skipped, *odd, *unreadable), notes=(*notes, *spelt))


def _card_and_reader(name: str) -> tuple[CorpusCard, Callable[..., Any]]:
    if not is_outside(name):
        if name not in CORPORA or name not in _READERS:
            raise ManifestError(
                f"no corpus is called {short(name)!r}", remedy=f"{nearest(name, _READERS)}, or name a reader as {OWN}"
            )
        return CORPORA[name], _READERS[name]
    reader = load_object(name, kind="corpus", known=_READERS)
    if not callable(reader):
        raise SettingsError("this is no function", where=name, remedy="name one that takes the corpus's folder")
    card = getattr(sys.modules.get(reader.__module__), "CARD", None)
    if not isinstance(card, CorpusCard):
        own = Path(name.rpartition(":")[0]).name.removesuffix(".py").rpartition(".")[2]
        card = CorpusCard(name=own, title=own, languages=(), modalities=("speech", "text"), labels=(),
                          licence="not stated", where="see its reader", citation="none")  # fmt: skip
    if card.name in _READERS:
        raise SettingsError(f"{card.name} is a corpus of emofuse's own", where=name, remedy="give yours another name")
    CORPORA[card.name] = card
    return card, reader


def _listing(found: Any, root: Path) -> Listing:
    """A reader's result: built-in readers return a listing, the user's a table or a list of rows."""
    import pandas as pd

    if isinstance(found, pd.DataFrame):
        found = found.astype("object").where(found.notna(), None).to_dict("records")
    return found if isinstance(found, Listing) else Listing(rows=[dict(row) for row in found], source=root)


def _is_utf8(row: Mapping[str, object]) -> bool:
    """Whether a row can be stored; a file's name may hold any bytes."""
    try:
        " ".join(map(str, row.values())).encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_several(
    names: list[str],
    root: Path,
    *,
    partial: bool,
    columns: Mapping[str, str] | None,
    options: Mapping[str, str],
    progress: Progress,
) -> Corpus:
    """Concatenate corpora; utterances and speakers get the corpus's name as a prefix, since numbers recur."""
    import pandas as pd

    from emofuse.manifest import make_manifest, one_spelling

    if len(set(names)) < len(names):
        raise ManifestError(f"{'+'.join(names)} names a corpus twice", remedy="name each once")
    cards = {name: _card_and_reader(name)[0] for name in names}
    theirs = {name: card.options for name, card in cards.items()}
    for option in options:
        if not any(option in known for known in theirs.values()):
            offered = sorted({one for known in theirs.values() for one in known})
            remedy = nearest(option, offered) if offered else "leave it out"
            raise SettingsError(f"none of {', '.join(names)} has an option {option!r}", remedy=remedy)
    found = []
    for name in names:
        folder = cards[name].own_folder(root)
        if name != table.CARD.name and not folder.is_dir():
            raise ManifestError(
                f"there is no folder {folder.name} here",
                where=root,
                remedy="name the folder that holds all of them by name",
            )
        mine = {option: value for option, value in options.items() if option in theirs[name]}
        place = folder if is_outside(name) else root
        found.append(read_corpus(name, place, partial=partial, columns=columns, options=mine, progress=progress))
    frames = []
    for name, corpus in zip((card.name for card in cards.values()), found, strict=True):
        named = {column: f"{name}/" + corpus.manifest[column] for column in ("utterance", "speaker", "dialogue")}
        frames.append(corpus.manifest.assign(**named))
    known = dict.fromkeys(label for card in cards.values() for label in card.labels)
    manifest, spelt = one_spelling(pd.concat(frames, ignore_index=True), known=known)
    return Corpus(
        manifest=make_manifest(manifest, source=root),
        skipped=tuple(error for corpus in found for error in corpus.skipped),
        notes=(
            *(f"{card.name}: {note}" for card, one in zip(cards.values(), found, strict=True) for note in one.notes),
            *spelt,
        ),
    )


def _with_durations(
    manifest: pd.DataFrame, source: Path, progress: Progress
) -> tuple[pd.DataFrame, tuple[AudioError, ...]]:
    from emofuse.audio import audio_duration
    from emofuse.manifest import utterances

    def measure(path: Path, start: float, end: float | None) -> float | AudioError:
        try:
            return audio_duration(path, start=start, end=end)
        except AudioError as error:
            return error

    recorded = manifest["audio"].notna()
    recordings = [utterance for utterance in utterances(manifest[recorded]) if utterance.audio is not None]
    spans = zip(*((one.audio, one.start, one.end) for one in recordings), strict=True)
    if not recordings:
        return manifest, ()
    with ThreadPoolExecutor(_THREADS) as pool:
        results = list(track(pool.map(measure, *spans), "Reading headers", total=len(recordings), progress=progress))
    skipped = tuple(result for result in results if isinstance(result, AudioError))
    if len(skipped) == len(manifest):
        raise ManifestError(
            f"none of the {len(skipped)} recordings can be used (the first: {skipped[0].what})",
            where=source,
            remedy="check the paths and files",
        )
    manifest.loc[recorded, "duration"] = [None if isinstance(result, AudioError) else result for result in results]
    usable = ~(recorded & manifest["duration"].isna())
    return manifest[usable].reset_index(drop=True), skipped
