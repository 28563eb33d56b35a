"""Import a folder of images with an optional CSV; other importers build on this one.

The CSV has a column `file` (relative to the source) and optionally `region_id`, `lon` and `lat`
(EPSG:4326), `caption`, `heading` (degrees), `captured_at` (ISO 8601) and `licence`. Every other
numeric column is an indicator, averaged over the rows of a region. Without a CSV, positions are
read from the images' EXIF data.

Regions come from a polygon file (`--regions`), whose numeric columns are also indicators; else
from `region_id`; else from `lon` and `lat`, as cells of a square grid. Without any of these, every
image is a region.

Values are stored as given. Units are set with `--units`, never inferred from column names.
"""

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd

from ..assignment import assign_points
from ..boundaries import read_layer
from ..errors import DatasetError, SourceError
from ..photos import exif_positions, faulty_rows, file_faults, find_csv, read_listing
from ..regions import grid_cells, polygon_regions
from ..schema import INDICATORS, VIEWS, DatasetMetadata, Indicator, config_name, features
from ..storage import Reject
from .base import ImageItem, Imported, ImportPlan, require, square_around

SUMMARY = "folder of images with a CSV (file, region_id or lon and lat, caption, indicators)"
CELL_M = 1000.0
DESCRIBING = ("file", "region_id", "lon", "lat", "caption", "heading", "captured_at", "licence")
POLYGON_COLUMNS = ("region_id", "lon", "lat", "area_m2", "geometry")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this importer."""
    parser.add_argument("--city", required=True, help="name in the configs: a-z, 0-9, _")
    parser.add_argument("--view", required=True, choices=VIEWS, help="view of the images")
    parser.add_argument("--csv", help="name of the CSV in the source (default: the only one)")
    parser.add_argument("--regions", help="polygon file; images belong to the containing polygon")
    parser.add_argument("--region_id", help="column of the polygons' unique IDs")
    side = f"side of a region in metres (default {CELL_M:g} for a grid)"
    parser.add_argument("--cell_m", type=float, help=side)
    several: dict[str, Any] = {"nargs": "*", "default": []}
    units = "units of indicators; values are never converted"
    parser.add_argument("--units", type=_unit, metavar="COLUMN=UNIT", help=units, **several)
    logged = "indicators to predict as ln(y + 1); the values must not be logarithms"
    parser.add_argument("--ln1p", metavar="COLUMN", help=logged, **several)
    parser.add_argument("--licence", default="not stated", help="licence of the images")


def _unit(text: str) -> tuple[str, str]:
    name, separator, unit = text.partition("=")
    if not (name and separator and unit):
        raise argparse.ArgumentTypeError(f"must be COLUMN=UNIT, got {text!r}")
    return name, unit


def read(
    source: Path,
    *,
    city: str,
    view: str,
    csv: str | None = None,
    regions: str | Path | None = None,
    region_id: str | None = None,
    cell_m: float | None = None,
    units: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ln1p: Iterable[str] = (),
    licence: str = "not stated",
) -> Imported:
    """Read a folder of images and its CSV.

    Args:
        source: Folder of images.
        city: City name in the configs.
        view: "street_view" or "satellite".
        csv: Name of the CSV file in the source; by default the only CSV, if any.
        regions: Polygon file of the regions; polygons without an image are kept.
        region_id: Column of the polygons' IDs; their other numeric columns are indicators.
        cell_m: Side of a region in metres: of the grid cells, or of the squares drawn around the
            regions of the CSV.
        units: Unit of each indicator. A predefined indicator with its predefined unit also gets
            its kind and transform.
        ln1p: Indicators to predict as ln(y + 1).
        licence: Licence of the images.

    Raises:
        SourceError: There is no image, no column `file`, an ambiguous choice of CSV, an unusable
            polygon file, or a unit or transform of a column that does not exist.
    """
    units, ln1p = dict(units), set(ln1p)
    require(source, layout="a folder of images with a CSV")
    frame, rejects, notes = _listing(source, csv)
    numbers, left_out = _numbers(frame, "CSV")
    notes += left_out
    polygons, of_polygons = None, list[str]()
    if regions is not None:
        polygons, left_out = _read_polygons(Path(regions), region_id)
        of_polygons = list(polygons.columns.drop(list(POLYGON_COLUMNS)))
        notes += left_out
    if twice := sorted(set(numbers) & set(of_polygons)):
        raise SourceError(f"Both the CSV and the polygons have {', '.join(twice)}: rename one.")
    for flag, names in (("units", units), ("ln1p", ln1p)):
        if unknown := sorted(set(names) - {*numbers, *of_polygons}):
            raise SourceError(f"--{flag} {', '.join(unknown)}: there is no such numeric column.")
    indicators = [_indicator(name, units, ln1p, "CSV") for name in numbers]
    indicators += [_indicator(name, units, ln1p, "polygons") for name in of_polygons]
    notes += [
        f"The column {one.name!r} is stored without a unit. If its values are in "
        f"{INDICATORS[one.name].unit} and not logarithms, add --units "
        f"'{one.name}={INDICATORS[one.name].unit}'."
        for one in indicators
        if one.name in INDICATORS and one.name not in units
    ]
    frame = frame.drop(columns=[name for name in frame if name not in DESCRIBING]).assign(**numbers)
    plan = plan_from_frame(
        frame,
        source,
        city=city,
        view=view,
        indicators=indicators,
        cell_m=cell_m,
        polygons=polygons,
        rejects=[(config_name(city, view), one.file, one.reason, one.detail) for one in rejects],
        notes=notes,
    )
    metadata = DatasetMetadata(
        title=f"{city}: {view.replace('_', ' ')} images",
        description=f"Images of {city} imported from a folder.",
        source="a folder of images" + (f" and {csv}" if csv else ""),
        licence=licence,
        indicators=tuple(indicators),
        parameters={"importer": "image_folder", "city": city, "view": view, "cell_m": cell_m},
    )
    return [plan], metadata


def plan_from_frame(
    frame: pd.DataFrame,
    root: Path,
    *,
    city: str,
    view: str,
    indicators: Iterable[Indicator],
    cell_m: float | None = None,
    polygons: gpd.GeoDataFrame | None = None,
    region_columns: Mapping[str, Any] | None = None,
    rejects: Iterable[Reject] = (),
    **plan: Any,
) -> ImportPlan:
    """Plan the import of a listing with one row per image.

    Args:
        frame: Column `file`, columns that describe the images, and one column per indicator.
        root: Folder that `file` is relative to.
        city: City name in the configs.
        view: View of all images.
        indicators: Columns to average over the rows of a region.
        cell_m: Side of a region in metres; see [`read`].
        polygons: Regions: `region_id`, `lon`, `lat`, `area_m2`, geometry (EPSG:4326) and
            indicators.
        region_columns: Further columns of the regions, including "geometry":
            `{name: {region_id: value}}`.
        rejects: Rejects found earlier.
        plan: Further fields of the [`ImportPlan`].
    """
    table = config_name(city, view)
    frame, found = _checked(frame.reset_index(drop=True), table)
    names = [one.name for one in indicators if one.name in frame]
    if polygons is None:
        frame = _with_regions(frame, cell_m)
        regions = _regions_of(frame, names, cell_m)
    else:
        frame, outside = _in_polygons(frame, polygons, table)
        found += outside
        means = frame.groupby("region_id", sort=True)[names].mean().reset_index()
        regions = pd.DataFrame(polygons).merge(means, on="region_id", how="left")
        cell_m = cell_m or float(np.sqrt(polygons["area_m2"].median()))
    for name, values in (region_columns or {}).items():
        regions[name] = regions["region_id"].map(values)
    own = set(features(view)) - {"image", "image_id", "region_id"}
    kept = [name for name in frame if name in own]
    columns: Any = (
        frame[kept].astype(object).where(frame[kept].notna(), None).reset_index(drop=True)
    )
    records = columns.to_dict("index").values()  # one per row, even without columns
    ids = zip(frame["image_id"], frame["region_id"], frame["file"], records, strict=True)
    items = [ImageItem(image, region, root / file, fields) for image, region, file, fields in ids]
    items.sort(key=lambda item: (item.region_id, item.image_id))
    return ImportPlan(
        city=city,
        regions=regions,
        images={view: items},
        rejects=[*rejects, *found],
        cell_m=cell_m or CELL_M,
        **plan,
    )


def _listing(source: Path, csv: str | None) -> tuple[pd.DataFrame, list[Any], list[str]]:
    """Rows of the CSV, or of the images with their EXIF positions; rejects; notes."""
    path = find_csv(source, csv)
    if path is not None:
        return *read_listing(path, ["file"]), []
    placed, others = exif_positions(source)
    if not placed and not others:
        raise SourceError(f"{source} contains no image and no CSV.")
    rows = [*placed, *({"file": one.file} for one in others)]
    frame = pd.DataFrame(rows, columns=["file", "lon", "lat"]).sort_values("file")
    note = f"No CSV: {len(placed):,} of {len(rows):,} images have a position in their EXIF data"
    note += "." if placed else ", so every image is a region."
    return frame, [], [note]


def _checked(frame: pd.DataFrame, table: str) -> tuple[pd.DataFrame, list[Reject]]:
    """Reject unusable rows, and add missing columns."""
    files = [value.strip() if isinstance(value, str) else "" for value in frame["file"]]
    frame = frame.assign(file=pd.Series(files, index=frame.index, dtype=object))
    reason = file_faults(frame["file"])
    for name, bound in (("lon", 180), ("lat", 90), ("heading", np.inf)):
        given = frame.get(name, pd.Series(np.nan, frame.index))
        values = pd.to_numeric(given, errors="coerce").astype(np.float64)
        if name != "heading":
            bad = (given.notna() & values.isna()) | (values.abs() > bound)
            reason[bad & reason.isna()] = "bad_coordinates"
        frame[name] = values.where(np.isfinite(values))
    rejects = [(table, one.file, one.reason, "") for one in faulty_rows(frame["file"], reason)]
    frame = frame.loc[reason.isna()].copy()
    if "image_id" not in frame:
        stems = frame["file"].str.replace(r"\.[^./]*$", "", regex=True)
        # keep the suffix of files that differ only in it
        frame["image_id"] = stems.where(~stems.duplicated(keep=False), frame["file"])
    if "caption" in frame:
        frame["caption"] = [t if isinstance(t, str) else None for t in frame["caption"]]
    return frame, rejects


def _with_regions(frame: pd.DataFrame, cell_m: float | None) -> pd.DataFrame:
    """Add `region_id` to every row, and `geometry` for cells of a grid."""
    if "region_id" in frame and frame["region_id"].notna().any():
        given = frame["region_id"].where(frame["region_id"].notna(), frame["image_id"])
        return frame.assign(region_id=given.astype(str))
    placed = frame["lon"].notna() & frame["lat"].notna()
    if not placed.any():
        return frame.assign(region_id=frame["image_id"])
    ids, cells = grid_cells(frame["lon"].to_numpy(), frame["lat"].to_numpy(), cell_m or CELL_M)
    frame = frame.assign(region_id=np.where(placed, ids, frame["image_id"]))
    return frame.assign(geometry=pd.Series(list(cells), index=frame.index, dtype=object))


def _regions_of(frame: pd.DataFrame, names: list[str], cell_m: float | None) -> pd.DataFrame:
    """One row per region, with the means of its rows and its geometry."""
    regions = frame.groupby("region_id", sort=True)[[*names, "lon", "lat"]].mean().reset_index()
    cells = frame.drop_duplicates("region_id").set_index("region_id").get("geometry")
    if cells is not None:
        regions["geometry"] = regions["region_id"].map(cells).to_numpy(dtype=object)
        # the centre is that of the cell, not the mean position of its images
        return regions.drop(columns=["lon", "lat"])
    if cell_m is not None:
        regions["geometry"] = square_around(regions["lon"], regions["lat"], cell_m)
    return regions


def _read_polygons(path: Path, region_id: str | None) -> tuple[gpd.GeoDataFrame, list[str]]:
    """Polygons with their numeric columns, and notes on skipped columns."""
    frame = read_layer(path, "file of polygons (--regions)")
    if region_id is None:
        raise SourceError(
            f"--region_id is missing: the column of polygon IDs in {path.name}, one of "
            f"{', '.join(map(str, frame.columns))}."
        )
    try:
        polygons = polygon_regions(frame, region_id)
    except DatasetError as error:
        raise SourceError(f"--regions {path}: {error}") from error
    own = pd.DataFrame(frame.drop(columns=[frame.geometry.name, region_id]))
    own = own.set_axis(frame[region_id].astype(str)).loc[polygons["region_id"]]
    numbers, notes = _numbers(own.reset_index(drop=True), "Polygons")
    return polygons.assign(**numbers), notes


def _in_polygons(
    frame: pd.DataFrame, polygons: gpd.GeoDataFrame, table: str
) -> tuple[pd.DataFrame, list[Reject]]:
    """Rows inside a polygon, with its `region_id`, and rejects of the other rows."""
    try:
        rows = assign_points(frame["lon"].to_numpy(), frame["lat"].to_numpy(), polygons)
    except DatasetError as error:
        raise SourceError(f"The images do not lie in the polygons: {error}") from error
    if not (rows >= 0).any():
        raise SourceError("No image lies in a polygon. Check lon, lat and the polygons' CRS.")
    rejects = [(table, file, "outside_regions", "") for file in frame.loc[rows < 0, "file"]]
    ids = polygons["region_id"].to_numpy(object)[rows[rows >= 0]]
    return frame.loc[rows >= 0].assign(region_id=ids), rejects


def _numbers(frame: pd.DataFrame, where: str) -> tuple[dict[str, pd.Series], list[str]]:
    """Numeric columns by indicator name, and notes on skipped columns."""
    numbers: dict[str, pd.Series] = {}
    notes = []
    for column in frame.columns:
        if column in DESCRIBING:
            continue
        name = re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")
        name = name if name[:1].isalpha() else f"column_{name}"
        values = pd.to_numeric(frame[column], errors="coerce").astype(np.float64)
        text = frame.loc[values.isna() & frame[column].notna(), column]
        endless = int(np.isinf(values).sum())
        if len(text):
            notes.append(
                f"{where}: the column {column!r} is left out: {len(text)} of its values are not "
                f"numeric, such as {text.iloc[0]!r}."
            )
        elif name in numbers:
            notes.append(f"The column {column!r} is left out: the name {name!r} is a duplicate.")
        else:
            numbers[name] = values.where(np.isfinite(values))
            if endless:
                notes.append(f"The column {column!r} has {endless} infinite values, now missing.")
    return numbers, notes


def _indicator(name: str, units: Mapping[str, str], ln1p: set[str], where: str) -> Indicator:
    if name in INDICATORS and units.get(name) == INDICATORS[name].unit:
        return INDICATORS[name]
    text = f"The column {name} of the {where}"
    text += ", averaged over the region's rows." if where == "CSV" else "."
    unit = units.get(name, f"as in the {where}")
    return Indicator(name, unit, "intensity", text, "ln1p" if name in ln1p else "identity")
