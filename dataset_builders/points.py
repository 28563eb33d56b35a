"""Tables of points (places, reviews, crimes) and how many of them lie in each region."""

import difflib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from .assignment import assign_points
from .coordinates import SYSTEMS, convert
from .errors import DatasetError, SourceError
from .poi import CATEGORIES, OSM_KEYS, category_of_label, category_of_tags
from .roads import open_extract
from .storage import Reject

MIN_INSIDE = 0.5
COMPLAINTS = {
    "lon": "Longitude",
    "lat": "Latitude",
    "id_column": "CMPLNT_NUM",
    "date_column": "RPT_DT",
}
"""Columns of the NYPD complaint data (Historic and Current, data.cityofnewyork.us)."""


@dataclass(frozen=True)
class Points:
    """Points in WGS-84, and what was left out of their table.

    Attributes:
        source: Where they are from, for `<indicator>_source`.
        lon: `(n,)` degrees.
        lat: `(n,)` degrees.
        weight: `(n,)` weight of each in a count.
        category: `(n,)` of [`CATEGORIES`][dataset_builders.poi.CATEGORIES], None where unknown;
            None if the points have none.
        rejects: Rows left out: table, item, reason, detail.
    """

    source: str
    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    weight: NDArray[np.float64]
    category: NDArray[Any] | None = None
    rejects: tuple[Reject, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.lon)


@dataclass(frozen=True)
class PointCounts:
    """Counts of points by region.

    Attributes:
        columns: Indexed like the regions: the counts, and `<indicator>_source`.
        num_inside: Points in a region.
        num_outside: Points in none.
        unknown_categories: Points without a known category.
    """

    columns: pd.DataFrame
    num_inside: int
    num_outside: int
    unknown_categories: int = 0


def read_points(
    path: str | Path | gpd.GeoDataFrame,
    *,
    coord_system: str,
    source: str | None = None,
    lon: str = "lon",
    lat: str = "lat",
    id_column: str | None = None,
    count_column: str | None = None,
    category_column: str | None = None,
    date_column: str | None = None,
    year: int | None = None,
) -> Points:
    """Read points from a CSV, a file of geometries or a GeoDataFrame.

    Rows without a usable place (missing, not a number, 0/0, beyond the globe), with an id that
    was there before, or with a count that is missing or negative are left out and listed.

    Args:
        path: A CSV (also .gz or .zip); another file that geopandas reads; or a GeoDataFrame. Of
            lines and areas a point within is taken.
        coord_system: System of the coordinates: "wgs84", "gcj02" (AMap, Tencent, Dianping),
            "bd09" (Baidu) or "bd09mc". They differ by 500 m and more, so it is never guessed.
        source: Text for `<indicator>_source`; the file's name by default.
        lon: Column of a CSV; column names are case-insensitive.
        lat: Column of a CSV.
        id_column: Column of which each value counts once.
        count_column: Weight of a point, such as a place's number of reviews; 1 by default.
        category_column: Labels, see [`category_of_label`][dataset_builders.poi.category_of_label].
            OpenStreetMap's tags need none.
        date_column: Needed with `year`.
        year: Year of the rows to take; all by default.

    Raises:
        SourceError: No such file or column, or no row is usable.
        DatasetError: An unknown coordinate system, no CRS, or most rows beyond the globe.
    """
    if coord_system not in SYSTEMS:
        raise DatasetError(f"`coord_system` is one of {SYSTEMS}, got {coord_system!r}.")
    if (year is not None) and date_column is None:
        raise DatasetError("To take one `year` the `date_column` must be named.")
    columns = {
        "x": lon,
        "y": lat,
        "id": id_column,
        "count": count_column,
        "category": category_column,
        "date": date_column if year is not None else None,
    }
    wanted = {role: name for role, name in columns.items() if name is not None}
    if isinstance(path, gpd.GeoDataFrame):
        return _usable(
            source or "a GeoDataFrame", _places(path, wanted, "the table"), coord_system, year
        )
    file = Path(path)
    if not file.is_file():
        raise SourceError(f"There is no table of points at {file}.")
    if set(file.suffixes) & {".csv", ".tsv", ".txt"}:
        rows = _read_csv(file, wanted)
    else:
        rows = _places(_read_geometries(file), wanted, file.name)
    return _usable(source or file.name, rows, coord_system, year)


def read_complaints(path: str | Path, year: int | None = None) -> Points:
    """Crimes of New York: [`read_points`] with the columns of the NYPD's complaint CSV.

    Args:
        path: "NYPD_Complaint_Data_Historic.csv" or "..._Current__Year_To_Date_.csv", as
            downloaded, or with the API's lower-case columns.
        year: Year of the report (`RPT_DT`); all by default.
    """
    when = "all years" if year is None else str(year)
    source = f"NYPD complaints, {when} ({Path(path).name})"
    return read_points(path, coord_system="wgs84", source=source, year=year, **COMPLAINTS)


def read_pois_pbf(path: str | Path) -> Points:
    """Points of interest of an OpenStreetMap extract, by their tags.

    Elements of none of the fourteen categories (benches, crossings) are no points of interest. Of
    an area a point within is taken.

    Args:
        path: An .osm.pbf file.

    Raises:
        SourceError: No such file, or no point of interest in it.
        MissingExtraError: pyrosm is not installed.
    """
    found = open_extract(path).get_data_by_custom_criteria(
        custom_filter=dict.fromkeys(OSM_KEYS, True), osm_keys_to_keep=list(OSM_KEYS)
    )
    if found is None or len(found) == 0:
        raise SourceError(f"{path} holds no point of interest.")
    item = found["osm_type"].astype(str) + "/" + found["id"].astype(str)
    frame = found[["geometry"]].assign(category=_tag_categories(found), item=item)
    return read_points(
        frame[frame["category"].notna()].sort_values("item"),
        coord_system="wgs84",
        source=f"OpenStreetMap ({Path(path).name})",
        id_column="item",
        category_column="category",
    )


def count_points(
    points: Points,
    regions: gpd.GeoDataFrame,
    indicator: str,
    *,
    covered: shapely.Geometry | None = None,
    by_category: bool = False,
    min_inside: float = MIN_INSIDE,
) -> PointCounts:
    """Points by region, weighted; raw counts, no logarithm.

    Args:
        points: Points to count.
        regions: Regions with `region_id` and geometry in EPSG:4326.
        indicator: Name of the column.
        covered: Area that the source covers, EPSG:4326. Regions that do not lie within are null;
            all others without a point are 0. By default the source covers all regions.
        by_category: Add a column for each category ("poi_healthcare"), weighted too.
        min_inside: Share of the points that must lie in the regions; 0 for a table that covers
            more than the city.

    Raises:
        DatasetError: Most points lie outside (with the likely coordinate system, if there is
            one), or categories are asked of points that have none.
    """
    if by_category and points.category is None:
        raise DatasetError(
            f"The points of {points.source} have no categories; name their column when reading."
        )
    if len(points) == 0 and min_inside > 0:
        raise DatasetError(f"{points.source} holds no point.")
    found = assign_points(points.lon, points.lat, regions)
    inside = found >= 0
    if len(points) and inside.mean() < min_inside:
        west, south, east, north = regions.total_bounds
        raise DatasetError(
            f"{inside.mean():.0%} of the {len(points)} points of {points.source} lie in the "
            f"regions, which span ({west:g}, {south:g}) to ({east:g}, {north:g}); the points' "
            f"middle is ({np.median(points.lon):g}, {np.median(points.lat):g}). If the table "
            "covers more than the city, say so with a smaller `min_inside`."
        )
    known = np.ones(len(regions), dtype=bool)
    if covered is not None:
        shapely.prepare(covered)
        known = shapely.covers(covered, regions.geometry.to_numpy())

    def sums(which: NDArray[np.bool_]) -> NDArray[np.float64]:
        total = np.bincount(found[which], points.weight[which], minlength=len(regions))
        return np.where(known, total, np.nan)

    columns: dict[str, Any] = {indicator: sums(inside)}
    columns[f"{indicator}_source"] = [points.source if one else None for one in known]
    unknown = 0
    if by_category and points.category is not None:
        for name in CATEGORIES:
            columns[f"{indicator}_{name}"] = sums(inside & (points.category == name))
        unknown = int(np.count_nonzero(inside & pd.isna(points.category)))
    frame = pd.DataFrame(columns, index=regions.index)
    num_inside = int(np.count_nonzero(inside))
    return PointCounts(frame, num_inside, len(points) - num_inside, unknown)


def _read_csv(path: Path, wanted: dict[str, str]) -> pd.DataFrame:
    """The wanted columns as text, named by their roles, and `item`: the id or the file's line."""
    options: dict[str, Any] = {"sep": "\t" if ".tsv" in path.suffixes else ","}
    options["encoding"] = "utf-8-sig"
    try:
        header = list(pd.read_csv(path, nrows=0, **options).columns)
        names = _find_columns(wanted, header, path.name)
        used = sorted(set(names.values()))
        frame = pd.read_csv(path, usecols=used, dtype=str, **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read as a CSV in UTF-8: {error}") from error
    rows = pd.DataFrame({role: frame[name] for role, name in names.items()})
    return rows.assign(item=rows["id"] if "id" in rows else frame.index + 2)


def _read_geometries(path: Path) -> gpd.GeoDataFrame:
    try:
        is_parquet = path.suffix.lower() in (".parquet", ".geoparquet")
        return gpd.read_parquet(path) if is_parquet else gpd.read_file(path)
    except Exception as error:  # GDAL's drivers have their own exceptions
        raise SourceError(f"{path} is no CSV and no file that geopandas reads: {error}") from error


def _places(frame: gpd.GeoDataFrame, wanted: dict[str, str], name: str) -> pd.DataFrame:
    """Points of geometries, and the wanted columns, as from [`_read_csv`]."""
    if frame.crs is None:
        raise DatasetError(f"{name} has no CRS. Set it, as in `frame.set_crs(...)`.")
    wanted = {role: column for role, column in wanted.items() if role not in ("x", "y")}
    names = _find_columns(wanted, list(frame.columns), name)
    shapes = frame.geometry.to_crs("EPSG:4326").to_numpy()
    there = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    xy = np.full((len(frame), 2), np.nan)
    xy[there] = shapely.get_coordinates(shapely.point_on_surface(shapes[there]))
    rows = pd.DataFrame({role: frame[column] for role, column in names.items()}, frame.index)
    if "category" not in rows and any(key in frame for key in OSM_KEYS):
        rows["category"] = _tag_categories(frame)
    item = rows.get("id", frame.index)
    return rows.assign(x=xy[:, 0], y=xy[:, 1], item=item)


def _tag_categories(frame: pd.DataFrame) -> NDArray[Any]:
    tags: list[Any] = frame[[key for key in OSM_KEYS if key in frame]].to_dict("records")
    return np.array([category_of_tags(row) for row in tags], dtype=object)


def _find_columns(wanted: dict[str, str], have: list[Any], name: str) -> dict[str, str]:
    """Columns by role, whatever their case."""
    lower = {str(column).strip().lower(): column for column in have}
    found = {}
    for role, column in wanted.items():
        if column not in have and column.lower() not in lower:
            near = difflib.get_close_matches(column.lower(), list(lower), n=1, cutoff=0.3)
            hint = f" Did you mean {lower[near[0]]!r}?" if near else ""
            purpose = {"x": "lon", "y": "lat"}.get(role, role)
            raise SourceError(
                f"{name} has no column {column!r} (for {purpose}); it has "
                f"{', '.join(map(str, have))}.{hint}"
            )
        found[role] = column if column in have else lower[column.lower()]
    return found


def _usable(name: str, rows: pd.DataFrame, coord_system: str, year: int | None) -> Points:
    """The rows that can be counted, as points in WGS-84; the others are listed."""
    if year is not None:
        # "12/31/2019", "2019-12-31T00:00:00", "20191231"
        years = rows["date"].astype(str).str.extract(r"(\d{4})", expand=False)
        rows = rows[(years == str(year)).to_numpy(dtype=bool, na_value=False)]
    x, y = (_numbers(rows[column]) for column in ("x", "y"))
    reason = np.full(len(rows), "", dtype=object)

    def mark(which: Any, text: str) -> int:
        """Give rows that are still usable a reason why not; returns how many."""
        marked = (reason == "") & np.asarray(which, dtype=bool)
        reason[marked] = text
        return int(np.count_nonzero(marked))

    mark(~(np.isfinite(x) & np.isfinite(y)), "no_place")
    mark((x == 0) & (y == 0), "zero_place")
    placed = np.count_nonzero(reason == "")
    is_degrees = coord_system != "bd09mc"
    beyond = mark(is_degrees & ((np.abs(x) > 180) | (np.abs(y) > 90)), "beyond_the_globe")
    lon, lat = np.full(len(x), np.nan), np.full(len(x), np.nan)
    rest = reason == ""
    lon[rest], lat[rest] = convert(x[rest], y[rest], coord_system, "wgs84", outside="nan")
    abroad = mark(~(np.isfinite(lon) & np.isfinite(lat)), "outside_china")
    if placed and beyond > placed / 2:
        raise DatasetError(
            f"{beyond} of {placed} points of {name} lie beyond the globe as degrees of "
            f"{coord_system}. Are the columns of lon and lat swapped, or are they metres?"
        )
    if placed and abroad > placed / 2:
        raise DatasetError(
            f"{abroad} of {placed} points of {name} lie outside China, where {coord_system} is not "
            "defined. Are they in wgs84?"
        )
    weight = _numbers(rows["count"]) if "count" in rows else np.ones(len(rows))
    mark(~np.isfinite(weight), "no_count")
    mark(weight < 0, "negative_count")
    items = rows["item"].astype(str)
    if "id" in rows:
        mark(items.where(reason == "").duplicated(), "duplicate")
    rejects = [
        (name, items.iloc[k], str(reason[k]), f"({x[k]:g}, {y[k]:g})")
        for k in np.flatnonzero(reason != "")
    ]
    good = reason == ""
    if not good.any():
        counts = ", ".join(f"{n} {why}" for why, n in Counter(reason).items())
        raise SourceError(f"{name} holds no usable point{f' ({counts})' if counts else ''}.")
    category = None
    if "category" in rows:
        known = {label: category_of_label(label) for label in rows["category"].unique()}
        category = np.array([known[label] for label in rows["category"][good]], dtype=object)
    return Points(name, lon[good], lat[good], weight[good], category, tuple(rejects))


def _numbers(column: Any) -> NDArray[np.float64]:
    """Numbers of a column, NaN where there are none."""
    found = pd.to_numeric(column, errors="coerce")
    return np.asarray(found.to_numpy(dtype=np.float64, na_value=np.nan))


__all__ = [
    "COMPLAINTS",
    "PointCounts",
    "Points",
    "count_points",
    "read_complaints",
    "read_points",
    "read_pois_pbf",
]
