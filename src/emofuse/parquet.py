"""Read untrusted Parquet files, with a single kind of error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_MOST, _RATIO = 1 << 30, 200
"""Most bytes in memory of any file, and per byte of a large one: a few bytes can repeat a value often."""
_ROWS = 256


def read_parquet(path: Path) -> Any:
    """The table of a Parquet file by pyarrow, with all values checked.

    Raises:
        ValueError: The file cannot be opened, is no Parquet, or is damaged anywhere.

    Example:
        >>> import tempfile
        >>> import pandas as pd
        >>> path = Path(tempfile.mkdtemp()) / "a.parquet"
        >>> pd.DataFrame({"text": ["so good"]}).to_parquet(path)
        >>> read_parquet(path).to_pylist()
        [{'text': 'so good'}]
    """
    import pyarrow as pa
    import pyarrow.parquet

    try:
        # Opened here, since pyarrow treats some names as addresses.
        with path.open("rb") as file:
            table = _read(pyarrow.parquet.ParquetFile(file), max(_MOST, _RATIO * path.stat().st_size))
        # pyarrow checks nothing: text may be no UTF-8, and lists may exceed their values.
        table.validate(full=True)
    except (OSError, ValueError, LookupError, TypeError, NotImplementedError, MemoryError, pa.ArrowException) as error:
        raise ValueError(str(error).strip().partition("\n")[0]) from error
    return table


def _read(file: Any, most: int) -> Any:
    """All of a file, in batches that are small until the size of values is known."""
    import pyarrow as pa

    batches, size = [], 0
    for batch in file.iter_batches(batch_size=_ROWS):
        batches.append(batch)
        size += batch.nbytes
        if size > most:
            raise ValueError(f"its values would fill more than {most / 2**20:.0f} MiB")
    return pa.Table.from_batches(batches, schema=file.schema_arrow)


def read_frame(path: Path) -> pd.DataFrame:
    """The same for pandas.

    Raises:
        ValueError: As for `read_parquet`, or a value is none that pandas can hold.
    """
    import pyarrow as pa

    table = read_parquet(path)
    try:
        frame: pd.DataFrame = table.to_pandas()
    except (ValueError, LookupError, TypeError, AttributeError, NotImplementedError, pa.ArrowException) as error:
        raise ValueError(str(error).strip().partition("\n")[0]) from error
    return frame
