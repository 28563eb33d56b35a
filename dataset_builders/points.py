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
from .layers import read_layer
from .photos import NO_CSV
from .poi import CATEGORIES, OSM_KEYS, category_of_tags
from .roads import read_extract
from .storage import Reject

MIN_INSIDE = 0.5


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
    date = date_column if year is not None else None
    roles = {"id": id_column, "count": count_column, "date": date}
    wanted = {role: column for role, column in roles.items() if column is not None}
    if isinstance(path, gpd.GeoDataFrame):
        name, rows = "a GeoDataFrame", _places(path, wanted, "the table")
    elif set(Path(path).suffixes) & {".csv", ".tsv", ".txt"}:
        name, rows = Path(path).name, _read_csv(Path(path), {"x": lon, "y": lat, **wanted})
    else:
        name = Path(path).name
        rows = _places(read_layer(path, "table of points"), wanted, name)
    if year is not None:
        # "12/31/2019", "2019-12-31T00:00:00", "20191231"
        years = rows["date"].astype(str).str.extract(r"(\d{4})", expand=False)
        rows = rows[(years == str(year)).to_numpy(dtype=bool, na_value=False)]
    return _usable(source or name, rows, coord_system)


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
    wanted = {"custom_filter": dict.fromkeys(OSM_KEYS, True), "osm_keys_to_keep": list(OSM_KEYS)}
    found = read_extract(path, lambda extract: extract.get_data_by_custom_criteria(**wanted))
    if found is None or len(found) == 0:
        raise SourceError(f"{path} holds no point of interest.")
    item = found["osm_type"].astype(str) + "/" + found["id"].astype(str)
    frame = found[pd.notna(_tag_categories(found))].assign(item=item).sort_values("item")
    source = f"OpenStreetMap ({Path(path).name})"
    return read_points(frame, coord_system="wgs84", source=source, id_column="item")


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
            f"The points of {points.source} have no categories, as those of OpenStreetMap have."
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
    if not path.is_file():
        raise SourceError(f"There is no table of points at {path}.")
    options: dict[str, Any] = {"sep": "\t" if ".tsv" in path.suffixes else ","}
    options["encoding"] = "utf-8-sig"
    try:
        header = list(pd.read_csv(path, nrows=0, **options).columns)
        names = _find_columns(wanted, header, path.name)
        used = sorted(set(names.values()))
        frame = pd.read_csv(path, usecols=used, dtype=str, **options)
    except NO_CSV as error:
        raise SourceError(f"{path} cannot be read as a CSV in UTF-8: {error}") from error
    rows = pd.DataFrame({role: frame[name] for role, name in names.items()})
    return rows.assign(item=rows["id"] if "id" in rows else frame.index + 2)


def _places(frame: gpd.GeoDataFrame, wanted: dict[str, str], name: str) -> pd.DataFrame:
    """Points of geometries, and the wanted columns, as from [`_read_csv`]."""
    if frame.crs is None:
        raise DatasetError(f"{name} has no CRS. Set it, as in `frame.set_crs(...)`.")
    names = _find_columns(wanted, list(frame.columns), name)
    shapes = frame.geometry.to_crs("EPSG:4326").to_numpy()
    there = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    xy = np.full((len(frame), 2), np.nan)
    xy[there] = shapely.get_coordinates(shapely.point_on_surface(shapes[there]))
    rows = pd.DataFrame({role: frame[column] for role, column in names.items()}, frame.index)
    if any(key in frame for key in OSM_KEYS):
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


def _usable(name: str, rows: pd.DataFrame, coord_system: str) -> Points:
    """The rows that can be counted, as points in WGS-84; the others are listed."""
    x, y = (_numbers(rows[column]) for column in ("x", "y"))
    weight = _numbers(rows["count"]) if "count" in rows else np.ones(len(rows))
    has_place, is_zero = np.isfinite(x) & np.isfinite(y), (x == 0) & (y == 0)
    beyond = (np.abs(x) > 180) | (np.abs(y) > 90) if coord_system != "bd09mc" else ~has_place
    lon, lat = np.full(len(x), np.nan), np.full(len(x), np.nan)
    good = has_place & ~is_zero & ~beyond
    lon[good], lat[good] = convert(x[good], y[good], coord_system, "wgs84", outside="nan")
    abroad = good & ~(np.isfinite(lon) & np.isfinite(lat))
    placed = np.count_nonzero(has_place & ~is_zero)
    for which, what in (
        (
            has_place & beyond,
            f"beyond the globe as degrees of {coord_system}. Are the columns of lon and lat "
            "swapped, or are they metres?",
        ),
        (abroad, f"outside China, where {coord_system} is not defined. Are they in wgs84?"),
    ):
        if placed and (count := np.count_nonzero(which)) > placed / 2:
            raise DatasetError(f"{count} of {placed} points of {name} lie {what}")
    faults = {
        "no_place": ~has_place,
        "zero_place": is_zero,
        "beyond_the_globe": beyond,
        "outside_china": abroad,
        "no_count": ~np.isfinite(weight),
        "negative_count": weight < 0,
    }
    reason = np.select(list(faults.values()), list(faults), "").astype(object)
    items = rows["item"].astype(str)
    if "id" in rows:
        reason[(reason == "") & items.where(reason == "").duplicated()] = "duplicate"
    good = reason == ""
    if not good.any():
        counts = ", ".join(f"{n} {why}" for why, n in Counter(reason).items())
        raise SourceError(f"{name} holds no usable point{f' ({counts})' if counts else ''}.")
    rejects = [
        (name, items.iloc[k], str(reason[k]), f"({x[k]:g}, {y[k]:g})")
        for k in np.flatnonzero(~good)
    ]
    category = rows["category"].to_numpy(dtype=object)[good] if "category" in rows else None
    return Points(name, lon[good], lat[good], weight[good], category, tuple(rejects))


def _numbers(column: Any) -> NDArray[np.float64]:
    """Numbers of a column, NaN where there are none."""
    found = pd.to_numeric(column, errors="coerce")
    return np.asarray(found.to_numpy(dtype=np.float64, na_value=np.nan))


__all__ = [
    "PointCounts",
    "Points",
    "count_points",
    "read_points",
    "read_pois_pbf",
]
