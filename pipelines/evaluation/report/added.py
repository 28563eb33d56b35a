"""Added value of embeddings over location and over other tables."""

from dataclasses import replace

import pandas as pd

from pipelines.common.csv_files import write_csv

from ..analysis.added import added_table
from ..analysis.bootstrap import MEAN
from ..probe.systems import COORDINATES
from .frame import VIEW_NAMES, CityResults, slug
from .rendering import Column, Table, intervals, numbers, words
from .tables import QUESTIONS

ADDED_FILE = "added.csv"
ROW = ["system", "view"]


def added_tables(city: CityResults) -> list[Table]:
    """Tables of the added R2, one per protocol; also writes all numbers to `added.csv`."""
    found = added_table(city.folder)
    write_csv(city.folder / ADDED_FILE, found)
    parts = {one: found[found["protocol"] == one] for one in QUESTIONS}
    return [_table(city, one, part) for one, part in parts.items() if (part["beside"] != "").any()]


def _table(city: CityResults, protocol: str, found: pd.DataFrame) -> Table:
    keys = pd.MultiIndex.from_frame(found[ROW].drop_duplicates())  # sorted by R2 alone
    indicators = [MEAN, *city.ordered(set(found["indicator"]) - {MEAN})]
    columns = [
        words("system", (city.system_title(system) for system, _ in keys)),
        words("view", (VIEW_NAMES[view] for _, view in keys)),
    ]
    for indicator in indicators:
        own = found[found["indicator"] == indicator]
        columns += [replace(one, group=indicator) for one in _columns(own, keys)]
    blocks = found.loc[found["beside"] != "", "blocks"]
    counts = " to ".join(str(count) for count in sorted({blocks.min(), blocks.max()}))
    return Table(
        slug(city.name, protocol, "added"),
        f"Added value of embeddings: R² alone, added to location and added to other tables, "
        f"{city.title}, {QUESTIONS[protocol]}",
        columns,
        notes=[
            "Ridge probe. Added: R² of both inputs together minus R² of the other input alone, on "
            "the same splits, with a 95 % confidence interval from a paired bootstrap over "
            f"{counts} blocks of regions; bold where significant. The "
            "probe penalises all columns equally, so uninformative embeddings can lower R² "
            "slightly. Mean: over the indicators that both are scored on.",
        ],
    )


def _columns(own: pd.DataFrame, keys: pd.MultiIndex) -> list[Column]:
    """Columns of one indicator: R2 alone, and R2 added to each other input."""
    parts = {
        str(beside): part.set_index(ROW).reindex(keys) for beside, part in own.groupby("beside")
    }
    columns = [numbers("alone", parts.pop("")["r2"])]
    for beside in sorted(parts, key=lambda name: (name != COORDINATES, name)):
        name = "added to location" if beside == COORDINATES else f"added to {beside}"
        part = parts[beside]
        columns.append(intervals(name, part["added"], part["low"], part["high"]))
    return columns


__all__ = ["ADDED_FILE", "added_tables"]
