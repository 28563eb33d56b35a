"""The report of a city's splits: its numbers, and a page that shows them by itself."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np

from ..errors import SplitError
from ..schema import VIEWS
from ..split_checks import duplicate_groups, nearest_train_distance
from ..splits import local_xy, region_neighbourhood
from ..storage import list_tables, read_indicators, read_metadata, read_table
from .splitting import correlation_ranges

SPLITS = ("split_random", "split_block")
PARTS = ("train", "validation", "test")
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}
th,td{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:right}
th:first-child,td:first-child{text-align:left}
img{max-width:100%;height:auto}
.maps{display:grid;grid-template-columns:repeat(auto-fit,minmax(24rem,1fr));gap:1rem}
.bad{color:#b00020;font-weight:600}
"""


def train_distances(regions: gpd.GeoDataFrame) -> dict[str, Any]:
    """Metres from each test region to the nearest of training, by split; splits there are."""
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

    From border to border in metres; splits without either part, or without places, are left out.
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
        "counts": {column: _counts(regions, column) for column in SPLITS},
        "labelled": {
            one.name: {
                column: _counts(regions[regions[one.name].notna()], column) for column in SPLITS
            }
            for one in indicators
        },
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


def split_page(title: str, numbers: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    """The report as a page.

    Args:
        title: on top; says "synthetic" where the data are.
        numbers: of [`split_numbers`].
        pictures: PNG files by what they show; they become part of the page.
    """
    block_m = numbers["block_m"]
    blocks = "no blocks" if block_m is None else f"blocks of {block_m:,.0f} m"
    columns = [*PARTS, "in no part"]
    counts = _table(
        ["regions", *columns],
        [[column, *found.values()] for column, found in numbers["counts"].items()],
    )
    labelled = _table(
        ["regions with a label", *columns],
        [
            [f"{name}, {column}", *found.values()]
            for name, by_split in numbers["labelled"].items()
            for column, found in by_split.items()
        ],
    )
    near = _table(
        ["km to the nearest training region", "test regions", "5 %", "median", "95 %"],
        [
            [
                column,
                one["n_test"],
                *(f"{one[key] / 1000:,.2f}" for key in ("p05", "median", "p95")),
            ]
            for column, one in numbers["nearest_train_distance_m"].items()
        ],
    )
    gaps = _table(
        ["gap between test and training", "smallest, m", "pairs that touch"],
        [
            [column, f"{one['smallest_m']:,.0f}", one["touching_pairs"]]
            for column, one in numbers["train_gap"].items()
        ],
    )
    reach = _table(
        ["label", "correlation range, km"],
        [[name, f"{reach / 1000:,.2f}"] for name, reach in numbers["correlation_range_m"].items()],
    )
    maps = "".join(
        f'<figure><img alt="{html.escape(name)}" src="{_data_uri(path)}">'
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
        for name, path in pictures.items()
        if path.exists()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>"
        f"<p>Random: 6:2:2, which measures interpolation. Block: whole {blocks} are held out, with "
        "a strip between the parts that is in none.</p>"
        f"<h2>Counts</h2>{counts}{labelled}"
        f"<h2>Pictures that are twice</h2>{_said_of_duplicates(numbers['duplicates'])}"
        f"<h2>How far test is from training</h2>{near}{_said_of_gaps(numbers['train_gap'])}{gaps}"
        "<p>A test region nearer to training than its label reaches is partly known "
        f"beforehand.</p>{reach}"
        f'<h2>Maps</h2><div class="maps">{maps}</div></html>\n'
    )


def _parts(regions: gpd.GeoDataFrame, column: str) -> Any:
    return regions[column].astype(object).where(regions[column].notna(), None).to_numpy()


def _counts(regions: gpd.GeoDataFrame, column: str) -> dict[str, int]:
    parts = _parts(regions, column)
    found = {part: int(np.count_nonzero(parts == part)) for part in PARTS}
    return found | {"none": len(parts) - sum(found.values())}


def _duplicates(dataset: Path, city: str, regions: gpd.GeoDataFrame) -> dict[str, Any]:
    """Groups of regions that share a picture, and how many of them lie in two parts of a split."""
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


def _said_of_duplicates(found: Mapping[str, Any]) -> str:
    if not found["groups"]:
        return "<p>No two regions share a picture byte for byte.</p>"
    said = (
        f"{found['groups']:,} groups of regions share a picture byte for byte "
        f"({found['regions']:,} regions)."
    )
    wrong = {column: count for column, count in found["straddling"].items() if count}
    if not wrong:
        return f"<p>{said} None of them lies in two parts of a split.</p>"
    listed = ", ".join(f"{count:,} of {column}" for column, count in wrong.items())
    return f'<p>{said} <span class="bad">In two parts of a split: {html.escape(listed)}.</span></p>'


def _said_of_gaps(found: Mapping[str, Any]) -> str:
    said = "From centre to centre above, from border to border below."
    pairs = found.get("split_block", {}).get("touching_pairs", 0)
    if pairs:
        said += (
            f' <span class="bad">{pairs:,} pairs of a test and a training region of split_block '
            "touch: its scores are flattered by neighbours.</span>"
        )
    return f"<p>{said}</p>"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{cells}</tr>{body}</table>"


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else html.escape(str(value))


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


__all__ = ["SPLITS", "split_numbers", "split_page", "train_distances", "train_gaps"]
