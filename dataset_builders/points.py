"""Tables of points (places, reviews, crimes) and how many of them lie in each region."""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from .assignment import assign_points
from .coordinates import SYSTEMS, convert
from .errors import DatasetError, MissingExtraError, SourceError
from .poi import CATEGORIES, OSM_KEYS, category_of_label, category_of_tags
from .storage import Reject

ROWS_AT_ONCE = 500_000
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
        source: where they are from, for `<indicator>_source`.
        lon: `(n,)` degrees.
        lat: `(n,)` degrees.
        weight: `(n,)` what each counts for.
        category: `(n,)` of [`CATEGORIES`][dataset_builders.poi.CATEGORIES], None where unknown;
            None if the points have none.
        rejects: rows left out: table, item, reason, detail.
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
        columns: indexed like the regions: the counts, and `<indicator>_source`.
        num_inside: points in a region.
        num_outside: points in none.
        unknown_categories: points that no category was known of.
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
        path: a CSV (also .gz or .zip); another file that geopandas reads; or a GeoDataFrame. Of
            lines and areas a point within is taken.
        coord_system: that the coordinates are in: "wgs84", "gcj02" (AMap, Tencent, Dianping),
            "bd09" (Baidu) or "bd09mc". Shifts of 500 m and more hang on it, so it is never
            guessed.
        source: what `<indicator>_source` shall say; the file's name by default.
        lon: column of a CSV; upper and lower case are the same.
        lat: column of a CSV.
        id_column: of which each value counts once.
        count_column: what a point counts for, such as a place's number of reviews; 1 by default.
        category_column: labels, see [`category_of_label`][dataset_builders.poi.category_of_label].
            OpenStreetMap's tags need none.
        date_column: needed with `year`.
        year: of which rows are taken; all by default.

    Raises:
        SourceError: no such file or column, or no row is usable.
        DatasetError: an unknown coordinate system, no CRS, or most rows beyond the globe.
    """
    if coord_system not in SYSTEMS:
        raise DatasetError(f"`coord_system` is one of {SYSTEMS}, got {coord_system!r}.")
    if (year is not None) and date_column is None:
        raise DatasetError("To take one `year` the `date_column` must be named.")
    columns = {
        "lon": lon,
        "lat": lat,
        "id": id_column,
        "count": count_column,
        "category": category_column,
        "date": date_column if year is not None else None,
    }
    wanted = {role: name for role, name in columns.items() if name is not None}
    if isinstance(path, gpd.GeoDataFrame):
        name, chunks = source or "a GeoDataFrame", _geometry_chunks(path, wanted, "the table")
    else:
        file = Path(path)
        if not file.is_file():
            raise SourceError(f"There is no table of points at {file}.")
        name = source or file.name
        if set(file.suffixes) & {".csv", ".tsv", ".txt"}:
            chunks = _csv_chunks(file, wanted)
        else:
            chunks = _geometry_chunks(_read_geometries(file), wanted, file.name)
    return _collect(name, chunks, coord_system, year)


def read_complaints(path: str | Path, year: int | None = None) -> Points:
    """Crimes of New York from the NYPD's complaint CSV, each complaint once.

    Complaints without coordinates (or 0) are left out and listed.

    Args:
        path: "NYPD_Complaint_Data_Historic.csv" or "..._Current__Year_To_Date_.csv", as
            downloaded, or with the API's lower-case columns.
        year: of the report (`RPT_DT`); all by default.

    Raises:
        SourceError: the columns are others.
    """
    when = "all years" if year is None else str(year)
    source = f"NYPD complaints, {when} ({Path(path).name})"
    return read_points(path, coord_system="wgs84", source=source, year=year, **COMPLAINTS)


def read_pois_pbf(path: str | Path) -> Points:
    """Points of interest of an OpenStreetMap extract, by their tags.

    Elements of none of the fourteen categories (benches, crossings) are no points of interest. Of
    an area a point within is taken.

    Args:
        path: an .osm.pbf file.

    Raises:
        SourceError: no such file, or no point of interest in it.
        MissingExtraError: pyrosm is not installed.
    """
    if not Path(path).is_file():
        raise SourceError(f"No OpenStreetMap extract at {path}: give the path of an .osm.pbf file.")
    try:
        from pyrosm import OSM
    except ImportError as error:
        raise MissingExtraError("pyrosm", "geo") from error
    found = OSM(str(path)).get_data_by_custom_criteria(
        custom_filter=dict.fromkeys(OSM_KEYS, True), osm_keys_to_keep=list(OSM_KEYS)
    )
    if found is None or len(found) == 0:
        raise SourceError(f"{path} holds no point of interest.")
    tags = found[[key for key in OSM_KEYS if key in found]].to_dict("records")
    category = pd.Series([category_of_tags(row) for row in tags], index=found.index, dtype=object)
    item = found["osm_type"].astype(str) + "/" + found["id"].astype(str)
    frame = found[["geometry"]].assign(category=category, item=item)[category.notna()]
    return read_points(
        frame.sort_values("item"),
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
        points: to count.
        regions: with `region_id` and geometry in EPSG:4326.
        indicator: name of the column.
        covered: where the source has points at all, EPSG:4326. Regions that do not lie within
            are null; all others without a point are 0. By default the source covers all regions.
        by_category: also a column for each category ("poi_healthcare"), of weights too.
        min_inside: share of the points that must lie in the regions; 0 for a table that covers
            more than the city.

    Raises:
        DatasetError: most points lie outside (with the likely coordinate system, if there is
            one), or categories are asked of points that have none.
    """
    if by_category and points.category is None:
        raise DatasetError(
            f"The points of {points.source} have no categories; name their column when reading."
        )
    found = assign_points(points.lon, points.lat, regions)
    inside = found >= 0
    share = float(inside.mean()) if len(points) else 0.0
    if share < min_inside:
        west, south, east, north = regions.total_bounds
        raise DatasetError(
            f"{share:.0%} of the {len(points)} points of {points.source} lie in the regions, which "
            f"span ({west:g}, {south:g}) to ({east:g}, {north:g}); the points' middle is "
            f"({np.median(points.lon):g}, {np.median(points.lat):g}). If the table covers more "
            "than the city, say so with a smaller `min_inside`."
            if len(points)
            else f"{points.source} holds no point."
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


# a chunk: item names, x, y, and columns by role
Chunk = tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64], dict[str, Any]]


def _csv_chunks(path: Path, wanted: dict[str, str]) -> Iterator[Chunk]:
    separator = "\t" if ".tsv" in path.suffixes else ","
    header = list(pd.read_csv(path, sep=separator, nrows=0, encoding="utf-8-sig").columns)
    names = _find_columns(wanted, header, path.name)
    text = {names[role]: str for role in ("id", "category", "date", "lon", "lat") if role in names}
    reader = pd.read_csv(
        path,
        sep=separator,
        usecols=sorted(set(names.values())),
        dtype=text,
        chunksize=ROWS_AT_ONCE,
        encoding="utf-8-sig",
    )
    for frame in reader:
        x, y = (
            pd.to_numeric(frame[names[role]], errors="coerce").to_numpy(np.float64, na_value=np.nan)
            for role in ("lon", "lat")
        )
        roles = {role: frame[name] for role, name in names.items() if role not in ("lon", "lat")}
        items = roles.get("id", pd.Series(frame.index + 2)).astype(str)  # the line of the file
        yield items.to_numpy(dtype=object), x, y, roles


def _read_geometries(path: Path) -> gpd.GeoDataFrame:
    try:
        is_parquet = path.suffix.lower() in (".parquet", ".geoparquet")
        return gpd.read_parquet(path) if is_parquet else gpd.read_file(path)
    except Exception as error:
        raise SourceError(f"{path} is no CSV and no file that geopandas reads: {error}") from error


def _geometry_chunks(frame: gpd.GeoDataFrame, wanted: dict[str, str], name: str) -> Iterator[Chunk]:
    if frame.crs is None:
        raise DatasetError(f"{name} has no CRS. Set it, as in `frame.set_crs(...)`.")
    wanted = {role: column for role, column in wanted.items() if role not in ("lon", "lat")}
    names = _find_columns(wanted, list(frame.columns), name)
    shapes = frame.geometry.to_crs("EPSG:4326").to_numpy()
    there = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    xy = np.full((len(frame), 2), np.nan)
    xy[there] = shapely.get_coordinates(shapely.point_on_surface(shapes[there]))
    roles: dict[str, Any] = {role: frame[column] for role, column in names.items()}
    tags = [key for key in OSM_KEYS if key in frame]
    if "category" not in roles and tags:
        rows = frame[tags].to_dict("records")
        roles["category"] = pd.Series([category_of_tags(row) for row in rows], dtype=object)
    items = roles["id"] if "id" in roles else pd.Series(frame.index)
    yield items.astype(str).to_numpy(dtype=object), xy[:, 0], xy[:, 1], roles


def _find_columns(wanted: dict[str, str], have: list[Any], name: str) -> dict[str, str]:
    """Columns by role, whatever their case."""
    lower = {str(column).strip().lower(): column for column in have}
    found = {}
    for role, column in wanted.items():
        if column in have:
            found[role] = column
        elif column.lower() in lower:
            found[role] = lower[column.lower()]
        else:
            near = difflib.get_close_matches(column.lower(), list(lower), n=1, cutoff=0.3)
            hint = f" Did you mean {lower[near[0]]!r}?" if near else ""
            raise SourceError(
                f"{name} has no column {column!r} (for {role}); it has "
                f"{', '.join(map(str, have))}.{hint}"
            )
    return found


def _collect(name: str, chunks: Iterable[Chunk], coord_system: str, year: int | None) -> Points:
    kept: list[tuple[NDArray[Any], ...]] = []
    rejects: list[Reject] = []
    seen: set[str] = set()
    beyond = abroad = placed = 0
    for items, x, y, roles in chunks:
        chosen = np.ones(len(items), dtype=bool)
        if year is not None:
            # "12/31/2019", "2019-12-31T00:00:00", "20191231"
            years = roles["date"].astype(str).str.extract(r"(\d{4})", expand=False)
            chosen = (years == str(year)).to_numpy(dtype=bool, na_value=False)
        reason = np.full(len(items), "", dtype=object)

        def mark(which: Any, text: str, reason: NDArray[Any] = reason) -> None:
            reason[(reason == "") & np.asarray(which, dtype=bool)] = text

        mark(~(np.isfinite(x) & np.isfinite(y)), "no_place")
        mark((x == 0) & (y == 0), "zero_place")
        placed += int(np.count_nonzero(chosen & (reason == "")))
        if coord_system != "bd09mc":
            mark((np.abs(x) > 180) | (np.abs(y) > 90), "beyond_the_globe")
        beyond += int(np.count_nonzero(chosen & (reason == "beyond_the_globe")))
        lon, lat = np.full(len(x), np.nan), np.full(len(x), np.nan)
        rest = reason == ""
        lon[rest], lat[rest] = convert(x[rest], y[rest], coord_system, "wgs84", outside="nan")
        mark(~(np.isfinite(lon) & np.isfinite(lat)), "outside_china")
        abroad += int(np.count_nonzero(chosen & (reason == "outside_china")))
        weight = np.ones(len(items))
        if "count" in roles:
            weight = np.asarray(pd.to_numeric(roles["count"], errors="coerce"), dtype=np.float64)
            mark(~np.isfinite(weight), "no_count")
            mark(weight < 0, "negative_count")
        if "id" in roles:
            mark(_repeated(items, chosen & (reason == ""), seen), "duplicate")
        category = np.full(len(items), None, dtype=object)
        if "category" in roles:
            category = _categories(roles["category"])
        for k in np.flatnonzero(chosen & (reason != "")):
            rejects.append((name, str(items[k]), str(reason[k]), f"({x[k]:g}, {y[k]:g})"))
        good = chosen & (reason == "")
        kept.append((lon[good], lat[good], weight[good], category[good]))
        has_category = "category" in roles
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
    if not kept or not sum(len(part[0]) for part in kept):
        counts = ", ".join(f"{n} {why}" for why, n in Counter(r[2] for r in rejects).items())
        raise SourceError(f"{name} holds no usable point{f' ({counts})' if counts else ''}.")
    lon, lat, weight, category = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    found = Points(name, lon, lat, weight, None, tuple(rejects))
    return replace(found, category=category) if has_category else found


def _repeated(items: NDArray[Any], usable: NDArray[np.bool_], seen: set[str]) -> NDArray[np.bool_]:
    """Usable items that were there before; notes the others."""
    repeated = np.zeros(len(items), dtype=bool)
    for k in np.flatnonzero(usable):
        item = items[k]
        repeated[k] = item in seen
        seen.add(item)
    return repeated


def _categories(labels: Any) -> NDArray[Any]:
    known: dict[Any, str | None] = {label: category_of_label(label) for label in set(labels)}
    return np.array([known[label] for label in labels], dtype=object)


__all__ = [
    "COMPLAINTS",
    "PointCounts",
    "Points",
    "count_points",
    "read_complaints",
    "read_points",
    "read_pois_pbf",
]
