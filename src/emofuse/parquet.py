"""Parquet files from anywhere: whatever is wrong with one raises a single kind of error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def read_parquet(path: Path) -> Any:
    """The table of a Parquet file, as pyarrow has it, after a look at every value.

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
        # Opened here, since pyarrow takes some names for addresses.
        with path.open("rb") as file:
            table = pyarrow.parquet.read_table(file)
        # It checks nothing by itself: text may be no UTF-8, and lists may reach beyond their values.
        table.validate(full=True)
    except (OSError, ValueError, LookupError, TypeError, NotImplementedError, MemoryError, pa.ArrowException) as error:
        raise ValueError(str(error).strip().partition("\n")[0]) from error
    return table


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
