"""Report of a city's splits: statistics, and a self-contained HTML page."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..errors import SplitError
from ..schema import VIEWS
from ..split_checks import duplicate_groups, nearest_train_distance
from ..splits import NAMES as PARTS
from ..splits import local_xy, region_neighbourhood
from ..storage import list_tables, read_indicators, read_metadata, read_table
from .splitting import correlation_ranges

SPLITS = ("split_random", "split_block")


def train_distances(regions: gpd.GeoDataFrame) -> dict[str, Any]:
    """Distance in metres from each test region to the nearest training region, per split.

    Splits that could not be made are left out.
    """
    x, y = local_xy(regions["lon"].to_numpy(), regions["lat"].to_numpy())
    found = {}
    for column in SPLITS:
        try:
            found[column] = nearest_train_distance(x, y, regions[column].to_numpy(dtype=object))
        except SplitError:
            continue
    return found


def train_gaps(regions: gpd.GeoDataFrame) -> dict[str, dict[str, Any]]:
    """Smallest gap between test and training regions, and number of touching pairs, per split.

    Gaps are border-to-border distances in metres. Splits without a test or a training region with
    a location are left out.
    """
    near = region_neighbourhood(regions.geometry, regions["lon"], regions["lat"])
    found = {}
    for column in SPLITS:
        train, test = (
            np.flatnonzero((regions[column] == part).to_numpy(dtype=bool) & near.placed)
            for part in ("train", "test")
        )
        if len(train) and len(test):
            found[column] = {
                "smallest_m": float(near.gaps_m(test, train).min()),
                "touching_pairs": near.count_touching(test, train),
            }
    return found


def split_numbers(
    dataset: Path, city: str, regions: gpd.GeoDataFrame, distances: Mapping[str, Any]
) -> dict[str, Any]:
    """Statistics of the report, serialisable as JSON."""
    x, y = local_xy(regions["lon"].to_numpy(), regions["lat"].to_numpy())
    indicators = list(read_indicators(dataset, city).values())
    return {
        "block_m": read_metadata(dataset, city).parameters.get("block_m"),
        "correlation_range_m": correlation_ranges(x, y, regions, indicators),
        "counts": _counts(regions),
        "labelled": {one.name: _counts(regions[regions[one.name].notna()]) for one in indicators},
        "duplicates": _duplicates(dataset, city, regions),
        "nearest_train_distance_m": {
            name: {
                "n_test": len(values),
                "median": float(np.median(values)),
                "p05": float(np.percentile(values, 5)),
                "p95": float(np.percentile(values, 95)),
            }
            for name, values in distances.items()
        },
        "train_gap": train_gaps(regions),
    }


def split_page(title: str, numbers: Mapping[str, Any], figures: Mapping[str, Path]) -> str:
    """Render the report as an HTML page without external resources.

    Args:
        title: Page title; contains "synthetic" for synthetic data.
        numbers: Result of [`split_numbers`].
        figures: PNG files to embed, by caption.
    """
    labelled = {
        f"{name}, {column}": parts
        for name, splits in numbers["labelled"].items()
        for column, parts in splits.items()
    }
    ranges = numbers["correlation_range_m"].items()
    tables = {
        "regions": numbers["counts"],
        "labelled": labelled,
        "distances": numbers["nearest_train_distance_m"],
        "gaps": numbers["train_gap"],
        "ranges": {name: {"correlation range, m": metres} for name, metres in ranges},
    }
    environment = Environment(
        loader=PackageLoader("dataset_builders.city", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("split_report.html.j2").render(
        title=title,
        block_m=numbers["block_m"],
        duplicates=numbers["duplicates"],
        touching_pairs=numbers["train_gap"].get("split_block", {}).get("touching_pairs"),
        tables={name: _html_table(rows) for name, rows in tables.items()},
        maps={name: _data_uri(path) for name, path in figures.items() if path.exists()},
    )


def _html_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    frame = pd.DataFrame.from_dict(dict(rows), orient="index")
    frame.columns = [str(name).replace("_", " ") for name in frame.columns]
    return frame.to_html(border=0, float_format="{:,.0f}".format) if len(frame) else ""


def _counts(regions: gpd.GeoDataFrame) -> dict[str, dict[str, int]]:
    counts = {}
    for column in SPLITS:
        found = {part: int((regions[column] == part).sum()) for part in PARTS}
        counts[column] = found | {"none": len(regions) - sum(found.values())}
    return counts


def _duplicates(dataset: Path, city: str, regions: gpd.GeoDataFrame) -> dict[str, Any]:
    """Number of groups of regions that share an image, and of those that straddle two parts."""
    keys: dict[str, list[str]] = {name: [] for name in regions["region_id"]}
    for view in VIEWS:
        if (city, view) in list_tables(dataset):
            rows = read_table(dataset, city, view, ["region_id", "sha256"])
            for region_id, sha256 in zip(rows["region_id"], rows["sha256"], strict=True):
                keys[region_id].append(sha256)
    groups, part_of = duplicate_groups(keys), regions.set_index("region_id")
    straddling = {
        column: sum(part_of.loc[group, column].nunique() > 1 for group in groups)
        for column in SPLITS
    }
    return {"groups": len(groups), "regions": sum(map(len, groups)), "straddling": straddling}


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


__all__ = ["SPLITS", "split_numbers", "split_page", "train_distances", "train_gaps"]
