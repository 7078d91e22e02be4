"""Access to the Hugging Face Hub, with a short timeout."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from emofuse.errors import EncoderError

_PATIENCE = 2.0  # Seconds.
_REVISION = re.compile(r"\w(?:[\w.-]|/(?!\.)){0,199}")
_LEGACY = re.compile("(bert|roberta|distil|xlm|albert|camembert|electra|gpt|openai|t5|ctrl|transfo)", re.IGNORECASE)
"""Beginnings of ids without an owner: only the oldest models have such ids."""
_COMMIT = re.compile("[0-9a-f]{40}")
_REMEDY = "give a local folder that holds the model, or a built-in encoder: builtin:speech, builtin:text"
_TOO_MANY = 429
_reached: set[str] = set()


def fetch(name: str, file: str, *, revision: str | None, download: bool = True, optional: bool = False) -> Path | None:
    """A file of a Hub repository, from the cache where possible; None if the repository lacks it.

    Args:
        name: Id of the repository.
        file: Path in the repository.
        revision: Branch, tag or commit; None for the newest.
        download: Whether to download from the Hub what is not cached.
        optional: Whether to treat a file as absent where that is unknown.

    Raises:
        EncoderError: There is no such repository, or it is not in the cache and the Hub cannot or may not be contacted.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    check_id(name, revision=revision)
    known = try_to_load_from_cache(name, file, revision=revision)
    if known is not None and (not download or (revision is not None and _COMMIT.fullmatch(revision))):
        # A commit never changes.
        return Path(known) if isinstance(known, str) else None
    if not download:
        if optional:
            return None
        pinned = "" if revision is None else f" --revision {revision}"
        raise EncoderError(
            "the model needs this one of the Hub, which is not in the local cache",
            where=name,
            remedy=f"fetch it with `hf download {name}{pinned}`, if you trust where the model comes from",
        )
    if constants.is_offline_mode() or not _is_reachable(f"{constants.ENDPOINT}/{name}/resolve/main/config.json"):
        if isinstance(known, str):
            return Path(known)
        if optional or known is not None:
            return None
        raise _unreachable(name)
    try:
        return Path(hf_hub_download(name, file, revision=revision, etag_timeout=_PATIENCE))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise EncoderError(
            "the Hugging Face Hub has no such model or revision, or does not show it to you",
            where=name,
            remedy="check id and revision, log in with `hf auth login` if it is not public, or " + _REMEDY,
        ) from error
    except EntryNotFoundError as error:
        # The local error says only that the file is not cached, not that the repository lacks it.
        if isinstance(error, LocalEntryNotFoundError) and not optional:
            raise _unreachable(name) from error
        return None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise _unreachable(name) from error


def check_id(name: str, *, revision: str | None = None) -> None:
    """Check that a name can be the id of a model on the Hub, before the Hub is contacted.

    Raises:
        EncoderError: It cannot.

    Example:
        >>> check_id("two words")
        Traceback (most recent call last):
        emofuse.errors.EncoderError: two words: this is neither a folder nor the id of a model on the Hub; check the \
spelling and the revision, or give a local folder that holds the model, or a built-in encoder: builtin:speech, \
builtin:text.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
        if "/" not in name and not _LEGACY.match(name):
            raise HFValidationError(name)
        if Path(name).is_file() or (revision is not None and not _REVISION.fullmatch(revision)):
            raise HFValidationError(revision)
    except HFValidationError as error:
        raise EncoderError(
            "this is neither a folder nor the id of a model on the Hub",
            where=name,
            remedy=f"check the spelling and the revision, or {_REMEDY}",
        ) from error


def fetch_all(name: str, files: Sequence[str], *, revision: str, download: bool = True) -> None:
    """Fetch those of several files that a repository has into its snapshot.

    Raises:
        EncoderError: As `fetch`.
    """
    for file in files:
        fetch(name, file, revision=revision, download=download, optional=True)


@contextmanager
def offline() -> Iterator[None]:
    """Stop the Hub's libraries from contacting it, which they do even for a model in a local folder."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def check_reachable(name: str) -> None:
    """Check that the Hub can be reached in time.

    Raises:
        EncoderError: The Hub does not answer.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode() or not _is_reachable(constants.ENDPOINT):
        raise _unreachable(name)


def _is_reachable(place: str) -> bool:
    """Whether the Hub answers at once; its own library would try for half a minute."""
    if place not in _reached:
        # In a thread, since a host name's lookup has no timeout.
        thread = threading.Thread(target=_ask, args=(place,), daemon=True)
        thread.start()
        thread.join(_PATIENCE)
    return place in _reached


def _ask(place: str) -> None:
    import ssl
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(place, method="HEAD"), timeout=_PATIENCE):  # noqa: S310
            _reached.add(place)
    except HTTPError as error:
        if error.code < 500 and error.code != _TOO_MANY:
            _reached.add(place)
    except URLError as error:
        # Certificates are configured elsewhere for the Hub's own library.
        if isinstance(error.reason, ssl.SSLError):
            _reached.add(place)
    except (OSError, ValueError):
        return


def _unreachable(name: str) -> EncoderError:
    return EncoderError(
        "the Hugging Face Hub cannot be reached, and the model is not in its local cache",
        where=name,
        remedy=f"check the id and the connection, or {_REMEDY}",
    )
