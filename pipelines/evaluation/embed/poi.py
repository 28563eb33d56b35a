"""Counts of points of interest as inputs, and which indicators they give away.

The counts are the columns `poi_<category>` of the table of regions, and a dataset may also predict
such a column, a part of it or the total. A column gives an indicator away where the two are the
same, or where one is named as a part of the other: `<indicator>_<category>`, as the builders name
the parts of an indicator. So `poi_food` and `poi_food_cafe` both give `poi_food` away, and every
`poi_<category>` gives away `poi`. Nothing is ever scored on an indicator that one of its inputs
gives away:

- a control is fitted for each indicator, without the columns that give it away;
- a trained system is trained once for all indicators, without the columns that give away any of
  them. An indicator that is the total of all columns would leave none: for its sake none is left
  out, and the systems that see counts are not scored on it.
"""

from collections.abc import Iterable, Sequence

import pandas as pd

POI = "poi"
PREFIX = f"{POI}_"


def poi_columns(regions: pd.DataFrame) -> list[str]:
    """The columns `poi_<category>` of numbers, sorted; `poi_source` is text."""
    numbers = map(str, regions.select_dtypes("number").columns)
    return sorted(name for name in numbers if name.startswith(PREFIX))


def gives_away(column: str, indicator: str) -> bool:
    """Whether a column is an indicator, a part of it, or a total that it is a part of."""
    return column == indicator or _is_part(column, indicator) or _is_part(indicator, column)


def without(columns: Iterable[str], indicator: str) -> tuple[str, ...]:
    """The columns that do not give an indicator away."""
    return tuple(column for column in columns if not gives_away(column, indicator))


def training_columns(columns: Sequence[str], indicators: Iterable[str]) -> tuple[str, ...]:
    """The columns that a system may see which is trained once for all indicators.

    Args:
        columns: from [`poi_columns`].
        indicators: names of all that the dataset predicts.
    """
    kept = tuple(columns)
    for indicator in indicators:
        if not all(_is_part(column, indicator) for column in columns):
            kept = without(kept, indicator)
    return kept


def _is_part(name: str, total: str) -> bool:
    return name.startswith(f"{total}_")


__all__ = ["POI", "PREFIX", "gives_away", "poi_columns", "training_columns", "without"]
