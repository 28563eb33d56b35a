"""The report of a city's splits: its numbers, and a self-contained page that shows them."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..errors import SplitError
from ..schema import VIEWS
from ..split_checks import duplicate_groups, nearest_train_distance
from ..splits import local_xy, region_neighbourhood
from ..storage import list_tables, read_indicators, read_metadata, read_table
from .splitting import correlation_ranges

SPLITS = ("split_random", "split_block")
PARTS = ("train", "validation", "test")


def train_distances(regions: gpd.GeoDataFrame) -> dict[str, Any]:
    """Metres from each test region to the nearest training region, by split that exists."""
    x, y = local_xy(regions["lon"].to_numpy(), regions["lat"].to_numpy())
    found = {}
    for column in SPLITS:
        try:
            found[column] = nearest_train_distance(x, y, _parts(regions, column))
        except SplitError:  # a split that could not be made
            continue
    return found


def train_gaps(regions: gpd.GeoDataFrame) -> dict[str, dict[str, Any]]:
    """Smallest gap between a test and a training region, and how many touch, by split.

    Gaps are measured from border to border, in metres. Splits without either part, or without
    places, are left out.
    """
    near = region_neighbourhood(regions.geometry, regions["lon"], regions["lat"])
    found = {}
    for column in SPLITS:
        parts = _parts(regions, column)
        train, test = (
            rows[near.placed[rows]]
            for rows in (np.flatnonzero(parts == "train"), np.flatnonzero(parts == "test"))
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
    """The numbers of the report, as JSON has them."""
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
    """The report as an HTML page that loads nothing.

    Args:
        title: Title; says "synthetic" where the data are.
        numbers: From [`split_numbers`].
        figures: PNG files by what they show; they are embedded in the page.
    """
    environment = Environment(
        loader=PackageLoader("dataset_builders.city", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("split_report.html.j2").render(
        title=title,
        maps={name: _data_uri(path) for name, path in figures.items() if path.exists()},
        **numbers,
    )


def _parts(regions: gpd.GeoDataFrame, column: str) -> Any:
    return regions[column].astype(object).where(regions[column].notna(), None).to_numpy()


def _counts(regions: gpd.GeoDataFrame) -> dict[str, dict[str, int]]:
    """Regions in each part of each split."""
    counts = {}
    for column in SPLITS:
        parts = _parts(regions, column)
        found = {part: int(np.count_nonzero(parts == part)) for part in PARTS}
        counts[column] = found | {"none": len(parts) - sum(found.values())}
    return counts


def _duplicates(dataset: Path, city: str, regions: gpd.GeoDataFrame) -> dict[str, Any]:
    """Groups of regions that share an image, and how many of them lie in two parts of a split."""
    keys: dict[str, list[str]] = {name: [] for name in regions["region_id"]}
    for view in VIEWS:
        if (city, view) in list_tables(dataset):
            rows = read_table(dataset, city, view, ["region_id", "sha256"])
            for region_id, sha256 in zip(rows["region_id"], rows["sha256"], strict=True):
                keys[region_id].append(sha256)
    groups = duplicate_groups(keys)
    straddling = {}
    for column in SPLITS:
        part_of = dict(zip(regions["region_id"], _parts(regions, column), strict=True))
        parts = [{part_of[name] for name in group} - {None} for group in groups]
        straddling[column] = sum(len(one) > 1 for one in parts)
    return {
        "groups": len(groups),
        "regions": sum(len(group) for group in groups),
        "straddling": straddling,
    }


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


__all__ = ["SPLITS", "split_numbers", "split_page", "train_distances", "train_gaps"]
