"""TensorBoard logs, as a listener of the trainer."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from emofuse.errors import SettingsError
from emofuse.training.trainer import History, Listener
from emofuse.types import Log


def check_log(log: Log | None) -> None:
    """Check that the requested logs can be written.

    Raises:
        SettingsError: There is no such log, or the logger is not installed.
    """
    if log is None:
        return
    if log != "tensorboard":
        raise SettingsError(f"there is no log {log!r}", where="--log", remedy="write --log tensorboard")
    if find_spec("tensorboard") is None:
        raise SettingsError(
            "TensorBoard is not installed", where="--log tensorboard", remedy="run pip install 'emofuse[tensorboard]'"
        )


def listeners(log: Log | None, folder: Path, *, resumes: bool = False) -> list[Listener]:
    """Listeners that write each epoch's losses and metrics as event files to a folder.

    Args:
        log: The kind of log; None for no logs.
        folder: Folder of its files.
        resumes: Whether the training resumes; a new one replaces the files of an earlier one.

    Raises:
        SettingsError: The logger is not installed.

    Example:
        >>> listeners(None, Path("run"))
        []
    """
    check_log(log)
    if log is None:
        return []
    from torch.utils.tensorboard import SummaryWriter

    if not resumes:
        for earlier in folder.glob("events.out.tfevents.*"):
            earlier.unlink()
    writer = SummaryWriter(str(folder))

    def listen(history: History) -> None:
        record = history[-1]
        for name in record.keys() - {"epoch"}:
            writer.add_scalar(name, record[name], int(record["epoch"]))
        writer.flush()

    return [listen]
