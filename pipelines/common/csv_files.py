"""CSV files without spreadsheet formulas."""

from pathlib import Path
from typing import Any

import pandas as pd

from dataset_builders.files import atomic_path

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\n")


def defused(value: Any) -> Any:
    """Prefix an apostrophe to text that a spreadsheet would evaluate as a formula."""
    if not isinstance(value, str):
        return value
    # to_csv does not quote carriage returns, so the text after one would start a new line
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def write_csv(path: Path, table: pd.DataFrame, **options: Any) -> None:
    """Write a table without its index atomically, with formulas disabled.

    Args:
        path: Output file; its folder is created if needed.
        table: Table of text and numbers.
        options: Keyword arguments of `DataFrame.to_csv`.
    """
    safe = table.map(defused).rename(columns=defused)
    with atomic_path(path) as temporary:
        safe.to_csv(temporary, index=False, errors="backslashreplace", **options)


__all__ = ["defused", "write_csv"]
