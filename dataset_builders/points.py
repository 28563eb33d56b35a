"""Tables of points (POIs, reviews, crimes), and counts per region and category."""

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from .assignment import assign_points
from .boundaries import read_layer
from .coordinates import SYSTEMS, convert
from .errors import DatasetError, SourceError
from .photos import NO_CSV
from .roads import read_extract
from .storage import Reject

MIN_INSIDE = 0.5
# those of the labels of UrbanVLP (CityMind-Lab/UrbanVLP), as in Chinese POI tables
CATEGORIES = (
    "dining_and_cuisine",
    "leisure_and_entertainment",
    "sports_and_fitness",
    "business_and_residential",
    "healthcare",
    "financial_institutions",
    "tourist_attractions",
    "lifestyle_services",
    "shopping_and_consumption",
    "automobile_related",
    "hotel_accommodation",
    "transport_facilities",
    "science_education_and_culture",
    "companies_and_enterprises",
)

# key, values and category, in order of precedence; "*" is any value
_OSM: tuple[tuple[str, str, str], ...] = (
    ("amenity", "restaurant cafe fast_food bar pub food_court ice_cream biergarten",
     "dining_and_cuisine"),
    ("amenity", "cinema theatre nightclub casino arts_centre community_centre social_centre "
     "gambling stripclub events_venue internet_cafe karaoke_box", "leisure_and_entertainment"),
    ("amenity", "hospital clinic doctors dentist pharmacy veterinary nursing_home",
     "healthcare"),
    ("amenity", "bank atm bureau_de_change money_transfer payment_terminal",
     "financial_institutions"),
    ("amenity", "school university college kindergarten library language_school music_school "
     "driving_school research_institute prep_school", "science_education_and_culture"),
    ("amenity", "fuel charging_station car_wash car_rental vehicle_inspection",
     "automobile_related"),
    ("amenity", "parking bus_station taxi ferry_terminal bicycle_parking bicycle_rental "
     "parking_entrance motorcycle_parking", "transport_facilities"),
    ("amenity", "post_office post_box laundry toilets childcare funeral_hall public_bath "
     "telephone parcel_locker recycling social_facility", "lifestyle_services"),
    ("amenity", "marketplace vending_machine", "shopping_and_consumption"),
    ("shop", "car car_repair car_parts tyres motorcycle", "automobile_related"),
    ("shop", "hairdresser beauty laundry dry_cleaning massage tattoo travel_agency copyshop "
     "funeral_directors", "lifestyle_services"),
    ("shop", "*", "shopping_and_consumption"),
    ("tourism", "hotel motel hostel guest_house apartment chalet camp_site",
     "hotel_accommodation"),
    ("tourism", "museum gallery", "science_education_and_culture"),
    ("tourism", "*", "tourist_attractions"),
    ("leisure", "fitness_centre sports_centre pitch stadium swimming_pool track sports_hall "
     "fitness_station golf_course ice_rink", "sports_and_fitness"),
    ("leisure", "park garden nature_reserve", "tourist_attractions"),
    ("leisure", "*", "leisure_and_entertainment"),
    ("historic", "*", "tourist_attractions"),
    ("healthcare", "*", "healthcare"),
    ("public_transport", "station platform", "transport_facilities"),
    ("railway", "station halt tram_stop subway_entrance", "transport_facilities"),
    ("highway", "bus_stop", "transport_facilities"),
    ("aeroway", "terminal aerodrome", "transport_facilities"),
    ("office", "estate_agent coworking", "business_and_residential"),
    ("office", "educational_institution research", "science_education_and_culture"),
    ("office", "insurance financial financial_advisor", "financial_institutions"),
    ("office", "*", "companies_and_enterprises"),
    ("craft", "*", "companies_and_enterprises"),
)  # fmt: skip
OSM_KEYS = tuple(dict.fromkeys(key for key, _, _ in _OSM))
_TAGS = {(key, value): name for key, values, name in reversed(_OSM) for value in values.split()}


@dataclass(frozen=True)
class Points:
    """Points in WGS-84, arrays of `(n,)`, and the rejected rows of their table."""

    source: str  # for `<indicator>_source`
    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    weight: NDArray[np.float64]
    category: NDArray[Any] | None = None  # of [`CATEGORIES`], None where unknown
    rejects: tuple[Reject, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.lon)


@dataclass(frozen=True)
class PointCounts:
    """Numbers of points in and outside the regions, and without a known category."""

    columns: pd.DataFrame  # counts and `<indicator>_source`, indexed like the regions
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
    """Read points from a CSV, a vector layer or a GeoDataFrame.

    Rows with unusable coordinates (missing, not numeric, 0/0, out of range), a repeated id, or a
    missing or negative count are rejected and listed.

    Args:
        path: A CSV (also .gz or .zip); another file that geopandas reads; or a GeoDataFrame. Lines
            and polygons are represented by a point within.
        coord_system: System of the coordinates: "wgs84", "gcj02" (AMap, Tencent, Dianping),
            "bd09" (Baidu) or "bd09mc". They differ by 500 m and more, so it is never guessed.
        source: Text for `<indicator>_source`; the file name by default.
        lon: Longitude column of a CSV; column names are case-insensitive.
        lat: Latitude column of a CSV.
        id_column: Column of ids; rows that repeat an id are rejected.
        count_column: Column of weights, such as the number of reviews; 1 by default.
        date_column: Column of dates, required with `year`.
        year: Year to select; all by default.

    Raises:
        SourceError: Missing file or column, or no usable row.
        DatasetError: Unknown coordinate system, missing CRS, or most coordinates out of range.
    """
    if coord_system not in SYSTEMS:
        raise DatasetError(f"`coord_system` is one of {SYSTEMS}, got {coord_system!r}.")
    if (year is not None) and date_column is None:
        raise DatasetError("`year` needs the name of the `date_column`.")
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
    """Read points of interest from an OpenStreetMap extract.

    Elements outside the fourteen categories (benches, crossings) are skipped. Polygons are
    represented by a point within.

    Args:
        path: An .osm.pbf file.

    Raises:
        SourceError: Missing file, or no point of interest in it.
        MissingExtraError: pyrosm is not installed.
    """
    wanted = {"custom_filter": dict.fromkeys(OSM_KEYS, True), "osm_keys_to_keep": list(OSM_KEYS)}
    found = read_extract(path, lambda extract: extract.get_data_by_custom_criteria(**wanted))
    if found is None:
        raise SourceError(f"{path} contains no points of interest.")
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
    """Count points per region, weighted.

    Args:
        points: Points to count.
        regions: Regions with `region_id` and geometry in EPSG:4326.
        indicator: Name of the column of counts.
        covered: Area covered by the source, EPSG:4326. Regions not within it are null; all others
            without a point are 0. By default the source covers all regions.
        by_category: Add a weighted count per category ("poi_healthcare").
        min_inside: Minimum share of the points within the regions; 0 for a table that covers more
            than the city.

    Raises:
        DatasetError: Too many points outside the regions (with the likely coordinate system, if
            any), or `by_category` for points without categories.
    """
    if by_category and points.category is None:
        raise DatasetError(
            f"The points of {points.source} have no categories; those of OpenStreetMap do."
        )
    found = assign_points(points.lon, points.lat, regions)
    inside = found >= 0
    if len(points) and inside.mean() < min_inside:
        west, south, east, north = regions.total_bounds
        raise DatasetError(
            f"{inside.mean():.0%} of the {len(points)} points of {points.source} lie in the "
            f"regions, which span ({west:g}, {south:g}) to ({east:g}, {north:g}); the points' "
            f"middle is ({np.median(points.lon):g}, {np.median(points.lat):g}). If the table "
            "covers more than the city, set a smaller `min_inside`."
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
    """Selected columns as text, named by role, and `item`: the id or the line number."""
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
    """Points of geometries, with the columns of [`_read_csv`]."""
    if frame.crs is None:
        raise DatasetError(f"{name} has no CRS. Set it with `frame.set_crs(...)`.")
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


def category_of_tags(tags: Mapping[str, Any]) -> str | None:
    """Category of an OpenStreetMap element by its tags; None if it is not a point of interest."""
    for key in OSM_KEYS:
        value = tags.get(key)
        if not isinstance(value, str) or value == "no":
            continue
        name = _TAGS.get((key, value)) or _TAGS.get((key, "*"))
        if name is not None:
            return name
    return None


def _find_columns(wanted: dict[str, str], have: list[Any], name: str) -> dict[str, str]:
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
    """Convert usable rows to points in WGS-84, and list the rejects."""
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
        raise SourceError(f"{name} contains no usable point{f' ({counts})' if counts else ''}.")
    rejects = [
        (name, items.iloc[k], str(reason[k]), f"({x[k]:g}, {y[k]:g})")
        for k in np.flatnonzero(~good)
    ]
    category = rows["category"].to_numpy(dtype=object)[good] if "category" in rows else None
    return Points(name, lon[good], lat[good], weight[good], category, tuple(rejects))


def _numbers(column: Any) -> NDArray[np.float64]:
    found = pd.to_numeric(column, errors="coerce")
    return np.asarray(found.to_numpy(dtype=np.float64, na_value=np.nan))


__all__ = [
    "CATEGORIES",
    "PointCounts",
    "Points",
    "category_of_tags",
    "count_points",
    "read_points",
    "read_pois_pbf",
]
