"""The hook through which work reports progress; the library never prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Interface of a progress display; the command line shows bars.

    Each stage has its own `description`: `start` opens it with a number of steps (None: unknown), `advance` moves it
    on, `finish` closes it. `note` reports one line.
    """

    def start(self, description: str, total: float | None) -> None:
        """Open a stage of `total` steps."""

    def advance(self, description: str, steps: float = 1) -> None:
        """Move a stage on."""

    def finish(self, description: str) -> None:
        """Close a stage."""

    def note(self, message: str) -> None:
        """Report one line."""


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
    """Iterate over `items`, reporting each to `progress`.

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
