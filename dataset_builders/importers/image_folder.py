"""Any folder of images with a CSV: the general importer, which the others build on.

The CSV has a column `file` (relative to the source) and any of: `region_id`, `lon` and `lat`
(EPSG:4326), `caption`, `heading` (degrees), `captured_at` (ISO 8601), `licence`. Every other column
of numbers is an indicator, averaged over the rows of a region. Regions come from a file of polygons
(`--regions`), whose columns of numbers are indicators too; else from `region_id`; else from `lon`
and `lat`, as cells of a square grid; else every image is a region of its own. Without a CSV,
positions come from the images' EXIF data.
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
from ..errors import DatasetError, SourceError
from ..photos import exif_position
from ..regions import grid_cells, polygon_regions
from ..schema import INDICATORS, VIEWS, DatasetMetadata, Indicator, config_name
from .base import (
    IMAGES_PER_SHARD,
    ImageItem,
    ImportPlan,
    ImportReport,
    list_images,
    require,
    square_around,
    write_plans,
)

SUMMARY = "any folder of images with a CSV (file, region_id or lon and lat, caption, numbers)"
CELL_M = 1000.0
DESCRIBING = ("file", "region_id", "lon", "lat", "caption", "heading", "captured_at", "licence")
POLYGON_COLUMNS = ("region_id", "lon", "lat", "area_m2", "geometry")
VIEW_COLUMNS = {
    "street_view": (
        *("lon", "lat", "heading", "captured_at", "source", "licence"),
        *("caption", "caption_model", "caption_score"),
    ),
    "satellite": (
        *("tile_z", "tile_x", "tile_y", "ground_resolution_m", "captured_at", "source", "licence"),
        *("caption", "caption_model", "caption_score"),
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this importer."""
    parser.add_argument("--city", required=True, help="name in the configs: a-z, 0-9, _")
    parser.add_argument("--view", required=True, choices=VIEWS, help="what the images show")
    parser.add_argument("--csv", help="file name in the source; the only CSV there by default")
    parser.add_argument("--regions", help="polygon file: each image belongs to the one it lies in")
    parser.add_argument("--region_id", help="column of the polygons' unique ids")
    parser.add_argument(
        "--cell_m", type=float, help=f"side of a region in metres (default {CELL_M:g} for a grid)"
    )
    parser.add_argument(
        "--ln1p",
        nargs="*",
        default=[],
        metavar="COLUMN",
        help="indicators that evaluation takes as ln(y + 1)",
    )
    parser.add_argument("--licence", default="not stated", help="of the images")


def import_dataset(
    source: str | Path,
    output_dir: str | Path,
    *,
    city: str,
    view: str,
    csv: str | None = None,
    regions: str | Path | None = None,
    region_id: str | None = None,
    cell_m: float | None = None,
    ln1p: Iterable[str] = (),
    licence: str = "not stated",
    seed: int = 0,
    images_per_shard: int = IMAGES_PER_SHARD,
) -> ImportReport:
    """Import a folder of images and its CSV.

    Args:
        source: the folder.
        output_dir: the dataset folder; an unfinished import there goes on.
        city: name in the configs.
        view: "street_view" or "satellite".
        csv: file name in the source; by default the only one, and none is fine too.
        regions: file of polygons that images are placed in; all are kept, also without an image.
        region_id: column of the polygons' ids; their other columns of numbers are indicators.
        cell_m: side of a region in metres: of the grid, or of the squares drawn around regions
            that the CSV names.
        ln1p: indicators to be predicted as ln(y + 1); the seven of the schema are anyway.
        licence: of the images.
        seed: of the splits.
        images_per_shard: rows of a shard.

    Raises:
        SourceError: no image, no column `file`, several CSVs and none named, or unusable polygons.
    """
    source = Path(source)
    require(source, layout="a folder of images with a CSV")
    frame, notes = read_listing(source, csv)
    numbers, more = _indicator_columns(frame)
    polygons = None
    if regions is not None:
        polygons, found = _read_polygons(Path(regions), region_id)
        more = [*more, *found]
    of_polygons = [] if polygons is None else list(polygons.columns.drop(list(POLYGON_COLUMNS)))
    columns = [*numbers, *of_polygons]
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise SourceError(f"Both the CSV and the polygons have {', '.join(twice)}: rename one.")
    indicators = [_indicator(name, set(ln1p), name in numbers) for name in columns]
    unknown = sorted(set(ln1p) - {one.name for one in indicators})
    if unknown:
        raise SourceError(f"--ln1p {', '.join(unknown)}: there is no such column of numbers.")
    frame = frame.drop(columns=[name for name in frame if name not in DESCRIBING]).assign(**numbers)
    unlisted = [
        (config_name(city, view), name, "not_listed", "the CSV has no row for this file")
        for name in _unlisted(source, frame)
    ]
    plan = plan_from_frame(
        frame,
        source,
        city=city,
        view=view,
        indicators=indicators,
        cell_m=cell_m,
        polygons=polygons,
        rejects=unlisted,
        notes=[*notes, *more],
    )
    metadata = DatasetMetadata(
        title=f"{city}: {view.replace('_', ' ')} images",
        description=f"Images of {city} imported from a folder.",
        source="a folder of images" + (f" and {csv}" if csv else ""),
        licence=licence,
        indicators=tuple(indicators),
        parameters={"importer": "image_folder", "city": city, "view": view, "cell_m": cell_m},
    )
    return write_plans([plan], metadata, output_dir, seed, images_per_shard)


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
    rejects: Iterable[tuple[str, str, str, str]] = (),
    **plan: Any,
) -> ImportPlan:
    """Plan the import of a listing: one row an image.

    Args:
        frame: `file` and what describes the images, and a column for each indicator.
        root: what `file` is relative to.
        city: name in the configs.
        view: of all rows.
        indicators: which columns to average over the rows of a region.
        cell_m: see [`import_dataset`].
        polygons: regions that images are placed in: `region_id`, `lon`, `lat`, `area_m2`, geometry
            (EPSG:4326) and indicators.
        region_columns: further columns of regions, `{name: {region_id: value}}`; "geometry" too.
        rejects: found before.
        plan: further fields of the [`ImportPlan`].
    """
    table = config_name(city, view)
    frame = frame.reset_index(drop=True)
    frame, found = _check_rows(frame, root, table)
    if polygons is None:
        frame = _with_regions(frame, cell_m)
        regions = _regions_of(frame, [one.name for one in indicators], cell_m)
    else:
        frame, outside = _in_polygons(frame, polygons, table)
        found += outside
        names = [one.name for one in indicators if one.name in frame]
        means = frame.groupby("region_id", sort=True)[names].mean().reset_index()
        regions = pd.DataFrame(polygons).merge(means, on="region_id", how="left")
        cell_m = cell_m or float(np.sqrt(polygons["area_m2"].median()))
    for name, values in (region_columns or {}).items():
        regions[name] = regions["region_id"].map(values)
    kept = [name for name in VIEW_COLUMNS[view] if name in frame]
    columns = frame[kept].astype(object).where(frame[kept].notna(), None).to_dict("records")
    items = [
        ImageItem(image_id, region_id, root / file, {str(key): v for key, v in fields.items()})
        for image_id, region_id, file, fields in zip(
            frame["image_id"], frame["region_id"], frame["file"], columns, strict=True
        )
    ]
    items.sort(key=lambda item: (item.region_id, item.image_id))
    return ImportPlan(
        city=city,
        regions=regions,
        images={view: items},
        rejects=[*rejects, *found],
        cell_m=cell_m or CELL_M,
        **plan,
    )


def _regions_of(frame: pd.DataFrame, names: list[str], cell_m: float | None) -> pd.DataFrame:
    """A row per region of a listing, with the means of its rows and its outline."""
    regions = frame.groupby("region_id", sort=True)[[*names, "lon", "lat"]].mean().reset_index()
    cells = frame.drop_duplicates("region_id").set_index("region_id").get("geometry")
    if cells is not None:
        regions["geometry"] = regions["region_id"].map(cells).to_numpy(dtype=object)
        # the middle of a cell, not of the pictures in it
        return regions.drop(columns=["lon", "lat"])
    if cell_m is not None:
        regions["geometry"] = square_around(
            regions["lon"].to_numpy(), regions["lat"].to_numpy(), cell_m
        )
    return regions


def _read_polygons(path: Path, region_id: str | None) -> tuple[gpd.GeoDataFrame, list[str]]:
    """Polygons with their columns of numbers, and notes on columns that are none."""
    try:
        frame = gpd.read_parquet(path) if path.suffix == ".parquet" else gpd.read_file(path)
    except Exception as error:  # GDAL's drivers have their own exceptions
        raise SourceError(f"--regions {path} cannot be read as polygons: {error}") from error
    if region_id is None:
        raise SourceError(
            f"--region_id is missing: the column of {path.name} that names its polygons; it has "
            f"{', '.join(map(str, frame.columns))}."
        )
    try:
        polygons = polygon_regions(frame, region_id)
    except DatasetError as error:
        raise SourceError(f"--regions {path}: {error}") from error
    own = pd.DataFrame(frame.drop(columns=frame.geometry.name)).set_index(
        frame[region_id].astype(str)
    )
    own = own.drop(columns=region_id).loc[polygons["region_id"]].reset_index(drop=True)
    numbers, notes = _indicator_columns(own, "Polygons")
    return polygons.assign(**numbers), notes


def _in_polygons(
    frame: pd.DataFrame, polygons: gpd.GeoDataFrame, table: str
) -> tuple[pd.DataFrame, list[tuple[str, str, str, str]]]:
    """The rows that lie in a polygon, with its `region_id`, and the others as rejects."""
    lon, lat = frame["lon"].to_numpy(float), frame["lat"].to_numpy(float)
    try:
        rows = assign_points(lon, lat, polygons)
    except DatasetError as error:
        raise SourceError(f"The images do not lie in the polygons: {error}") from error
    if not (rows >= 0).any():
        raise SourceError("No image lies in a polygon. Check lon and lat, and the polygons' CRS.")
    rejects = [(table, file, "outside_regions", "") for file in frame.loc[rows < 0, "file"]]
    ids = polygons["region_id"].to_numpy(object)[rows[rows >= 0]]
    return frame.loc[rows >= 0].assign(region_id=ids), rejects


def read_listing(source: Path, csv: str | None) -> tuple[pd.DataFrame, list[str]]:
    """The CSV of a folder as text columns, or a listing of its images; and notes.

    Raises:
        SourceError: no such CSV, more than one, none and no image, or no column `file`.
    """
    if csv is None:
        found = sorted(source.glob("*.csv"))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise SourceError(f"{source} holds several CSVs ({names}): name one with --csv.")
        if not found:
            return _exif_listing(source)
        path = found[0]
    else:
        path = source / csv
        if not path.is_file():
            raise SourceError(f"--csv {csv}: {source} holds no such file.")
    try:
        frame = pd.read_csv(path, dtype=str, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read as UTF-8 CSV: {error}") from error
    frame.columns = [name.strip() for name in frame.columns]
    if "file" not in frame:
        raise SourceError(f"{path} has no column 'file'; it has {', '.join(frame.columns)}.")
    return frame, []


def _exif_listing(source: Path) -> tuple[pd.DataFrame, list[str]]:
    """All images of a folder, with the positions that their EXIF data hold."""
    files = [path.relative_to(source).as_posix() for path in list_images(source)]
    if not files:
        raise SourceError(f"{source} holds no image and no CSV.")
    rows = []
    for file in files:
        try:
            position = exif_position(source / file)
        except (OSError, ValueError):
            position = {}
        rows.append({"file": file, "lon": position.get("lon"), "lat": position.get("lat")})
    placed = sum(row["lon"] is not None for row in rows)
    note = f"No CSV: {placed:,} of {len(rows):,} images have a position in their EXIF data"
    return pd.DataFrame(rows), [note + ("." if placed else ": each is a region of its own.")]


def _check_rows(
    frame: pd.DataFrame, root: Path, table: str
) -> tuple[pd.DataFrame, list[tuple[str, str, str, str]]]:
    """Leave out rows that name no file, one outside, or one twice; complete the columns."""
    frame = frame.copy()
    for name in ("lon", "lat", "heading"):
        if name in frame:
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
        elif name != "heading":
            frame[name] = np.nan
    inside = root.resolve()
    reason = pd.Series(None, index=frame.index, dtype=object)
    files = [value.strip() if isinstance(value, str) else "" for value in frame["file"]]
    frame["file"] = files
    reason[frame["file"] == ""] = "no_file"
    outside = [not (root / file).resolve().is_relative_to(inside) for file in files]
    reason[pd.Series(outside, index=frame.index)] = "outside_source"
    reason[frame["file"].duplicated() & reason.isna()] = "listed_twice"
    reason[(frame["lat"].abs() > 90) | (frame["lon"].abs() > 180)] = "bad_coordinates"
    rejects = [
        (table, file or f"row {row}", str(why), "")
        for row, (file, why) in enumerate(zip(files, reason, strict=True))
        if pd.notna(why)
    ]
    frame = frame.loc[reason.isna()].copy()
    if "image_id" not in frame:
        stems = frame["file"].str.replace(r"\.[^./]*$", "", regex=True)
        # two files that differ in their suffix only keep it
        frame["image_id"] = stems.where(~stems.duplicated(keep=False), frame["file"])
    if "caption" in frame:
        frame["caption"] = [t if isinstance(t, str) else None for t in frame["caption"]]
    return frame, rejects


def _with_regions(frame: pd.DataFrame, cell_m: float | None) -> pd.DataFrame:
    """Give every row a `region_id`, and a `geometry` where it is a cell of a grid."""
    if "region_id" in frame and frame["region_id"].notna().any():
        given = frame["region_id"].where(frame["region_id"].notna(), frame["image_id"])
        return frame.assign(region_id=given.astype(str))
    placed = frame["lon"].notna() & frame["lat"].notna()
    if not placed.any():
        return frame.assign(region_id=frame["image_id"])
    ids, cells = grid_cells(frame["lon"].to_numpy(), frame["lat"].to_numpy(), cell_m or CELL_M)
    frame = frame.assign(region_id=np.where(placed, ids, frame["image_id"]))
    return frame.assign(geometry=pd.Series(list(cells), index=frame.index, dtype=object))


def _indicator_columns(
    frame: pd.DataFrame, where: str = "CSV"
) -> tuple[dict[str, pd.Series], list[str]]:
    """Columns of numbers by the name they get, and notes on those that are none."""
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
                f"{where}: the column {column!r} is left out: {len(text)} of its values are no "
                f"numbers, the first is {text.iloc[0]!r}."
            )
        elif name in numbers:
            notes.append(f"The column {column!r} is left out: its name is {name!r} once more.")
        else:
            numbers[name] = values.where(np.isfinite(values))
            if endless:
                notes.append(f"The column {column!r} has {endless} infinite values, now missing.")
    return numbers, notes


def _indicator(name: str, ln1p: set[str], from_csv: bool = True) -> Indicator:
    if name in INDICATORS:
        return INDICATORS[name]
    transform = "ln1p" if name in ln1p else "identity"
    text = f"The column {name} of the polygons."
    if from_csv:
        text = f"The column {name} of the CSV, averaged over the region's rows."
    unit = "as in the CSV" if from_csv else "as in the polygons"
    return Indicator(name, unit, "intensity", text, transform)  # type: ignore[arg-type]


def _unlisted(source: Path, frame: pd.DataFrame) -> list[str]:
    listed = {str(file).strip() for file in frame["file"]}
    files = (path.relative_to(source).as_posix() for path in list_images(source))
    return [file for file in files if file not in listed]
