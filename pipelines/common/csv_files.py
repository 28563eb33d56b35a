"""CSV files that a spreadsheet reads as data: no text in them is taken for a formula."""

from pathlib import Path
from typing import Any

import pandas as pd

from dataset_builders.files import atomic_path

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\n")


def defused(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula, with an apostrophe in front."""
    if not isinstance(value, str):
        return value
    # a carriage return is not quoted, and what follows it would start a line
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def write_csv(path: Path, table: pd.DataFrame, **options: Any) -> None:
    """Write a table without its index, defused, as a whole or not at all.

    Args:
        path: The file; its folder is made if need be.
        table: Texts and numbers.
        options: Of `DataFrame.to_csv`.
    """
    safe = table.map(defused).rename(columns=defused)
    with atomic_path(path) as temporary:
        safe.to_csv(temporary, index=False, errors="backslashreplace", **options)


__all__ = ["defused", "write_csv"]
