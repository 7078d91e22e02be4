"""The one hook through which work reports how far it is; the library itself never prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """What a progress display must offer; the command line shows these calls as bars.

    Each stage has its own `description`: `start` opens it with a number of steps (None: not known),
    `advance` moves it on, `finish` closes it. `note` hands over one line for the reader.
    """

    def start(self, description: str, total: float | None) -> None:
        """Open a stage of `total` steps."""

    def advance(self, description: str, steps: float = 1) -> None:
        """Move a stage on."""

    def finish(self, description: str) -> None:
        """Close a stage."""

    def note(self, message: str) -> None:
        """Hand over one line for the reader."""


class Silent:
    """A progress display that shows nothing: the default of every public function."""

    def start(self, description: str, total: float | None) -> None:
        """Show nothing."""

    def advance(self, description: str, steps: float = 1) -> None:
        """Show nothing."""

    def finish(self, description: str) -> None:
        """Show nothing."""

    def note(self, message: str) -> None:
        """Show nothing."""


def track(items: Iterable[T], description: str, *, total: int | None, progress: Progress) -> Iterator[T]:
    """Pass `items` through, reporting each to `progress`.

    Example:
        >>> list(track("abc", "Letters", total=3, progress=Silent()))
        ['a', 'b', 'c']
    """
    progress.start(description, total)
    try:
        for item in items:
            yield item
            progress.advance(description)
    finally:
        progress.finish(description)
