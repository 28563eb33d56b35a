"""CSV files that a spreadsheet reads as data: no text in them is taken for a formula."""

from pathlib import Path
from typing import Any

import pandas as pd

from dataset_builders.files import atomic_path

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def defused(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula, with an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


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
