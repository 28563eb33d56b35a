"""Input columns of points of interest (POI), and label leakage from them.

A dataset may predict a POI count that is also an input column `poi_<category>`. A column leaks an
indicator if both are the same or one is part of the other, by name: `<indicator>_<category>`. So
`poi_food_cafe` leaks `poi_food`, and every `poi_<category>` leaks `poi`. No system is scored on an
indicator that one of its inputs leaks:

- Controls are fitted per indicator, without the columns that leak it.
- A trained system sees no column that leaks any indicator. Exception: an indicator that is the
  total of all columns removes none; systems that use POI counts are not scored on it.
"""

from collections.abc import Iterable, Sequence

import pandas as pd

POI = "poi"
PREFIX = f"{POI}_"


def poi_columns(regions: pd.DataFrame) -> list[str]:
    """Names of the numeric columns `poi_<category>`, sorted."""
    numbers = map(str, regions.select_dtypes("number").columns)
    return sorted(name for name in numbers if name.startswith(PREFIX))


def gives_away(column: str, indicator: str) -> bool:
    """Whether a column equals the indicator, is part of it, or is a total that contains it."""
    return column == indicator or _is_part(column, indicator) or _is_part(indicator, column)


def without(columns: Iterable[str], indicator: str) -> tuple[str, ...]:
    """Columns that do not leak the indicator."""
    return tuple(column for column in columns if not gives_away(column, indicator))


def training_columns(columns: Sequence[str], indicators: Iterable[str]) -> tuple[str, ...]:
    """Columns for a system that is trained once for all indicators.

    Args:
        columns: POI columns of the dataset.
        indicators: Names of all indicators of the dataset.
    """
    kept = tuple(columns)
    for indicator in indicators:
        if not all(_is_part(column, indicator) for column in columns):
            kept = without(kept, indicator)
    return kept


def _is_part(name: str, total: str) -> bool:
    return name.startswith(f"{total}_")


__all__ = ["POI", "PREFIX", "gives_away", "poi_columns", "training_columns", "without"]
