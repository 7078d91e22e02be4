"""Files that are there whole or not at all, whatever interrupts their writing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a place to write to, and put it under the file's name when all is written.

    Args:
        path: The file; its folder is made if need be, and an older file there stays until the new one is whole.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "figures.txt"
        >>> with written_whole(path) as part:
        ...     _ = part.write_text("81.4")
        >>> path.read_text(), part.exists()
        ('81.4', False)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    yield part
    part.replace(path)
