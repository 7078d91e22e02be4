"""Exceptions of emofuse: each states what is wrong, where, and the remedy."""

from __future__ import annotations

import re
from pathlib import Path

from emofuse.terminal import harmless

# Quotes of damaged files are cut.
_LONG = re.compile(r"(\S{150})\S{50,}")
_LONG_NAME = 400


class EmofuseError(Exception):
    """An error that the user can fix: where, what and the remedy, in one sentence.

    Quoted control characters are escaped, so that it stays one line. Each kind is also a built-in error:
    `except ValueError` catches unusable input, `except OSError` failed output.

    Args:
        what: What was wrong, without a full stop.
        where: The file, table row or setting at fault.
        remedy: What to do about it, without a full stop.

    Example:
        >>> str(EmofuseError("the file is empty", where="a.wav", remedy="record it again"))
        'a.wav: the file is empty; record it again.'
    """

    def __init__(self, what: str, *, remedy: str, where: str | Path | None = None) -> None:
        self.what = _readable(what)
        self.where = None if where is None else str(where)
        self.remedy = _readable(remedy)
        place = "" if where is None else f"{_place(harmless(str(where)))}: "
        super().__init__(f"{place}{self.what}; {self.remedy}.")

    @property
    def advice(self) -> str:
        """What is wrong and the remedy, without the place."""
        return f"{self.what}; {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes pickle errors, and default pickling loses keyword-only arguments.
        return (_rebuild, (type(self), self.what, self.remedy, self.where))


def _readable(text: str) -> str:
    return _LONG.sub(r"\1...", harmless(text))


def _place(name: str) -> str:
    return name if len(name) <= _LONG_NAME else f"{name[: _LONG_NAME // 2]}...{name[-_LONG_NAME // 2 :]}"


def _rebuild(kind: type[EmofuseError], what: str, remedy: str, where: str | None) -> EmofuseError:
    return kind(what, remedy=remedy, where=where)


class AudioError(EmofuseError, ValueError):
    """A recording that cannot be used."""


class ManifestError(EmofuseError, ValueError):
    """A corpus folder or a manifest that is incomplete or invalid."""


class SettingsError(EmofuseError, ValueError):
    """An invalid setting or option."""


class ProtocolError(EmofuseError, ValueError):
    """A protocol that the corpus does not allow."""


class AlignmentError(EmofuseError, ValueError):
    """An utterance that cannot be aligned, or a file of alignments that cannot be read."""


class EncoderError(EmofuseError, ValueError):
    """An encoder that cannot be found, or is not of a supported family."""


class StoreError(EmofuseError, ValueError):
    """A feature store that is damaged or incomplete."""


class ScoresError(EmofuseError, ValueError):
    """A score table with a missing column or an impossible value."""


class CheckpointError(EmofuseError, ValueError):
    """A model folder that is incomplete or does not fit its own settings."""


class OutputError(EmofuseError, OSError):
    """A file or folder that cannot be written, or that another command is writing."""


class TrainingError(EmofuseError, RuntimeError):
    """A training that diverged: a loss, a weight or an output that is not finite."""
