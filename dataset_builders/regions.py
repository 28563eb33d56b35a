"""Regions of a city: squares, map tiles, hexagons or given polygons."""

from collections.abc import Callable, Mapping
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from .boundaries import Boundary, read_boundary
from .coordinates import CHINA, convert, tile_corner, tile_polygons, tile_position
from .errors import DatasetError, MissingExtraError
from .globe import check_polygons, geodesic_areas, refuse, to_degrees, wrap
from .planes import Plane, choose_plane, utm_plane

MIN_COVER = 0.5
"""Default of the minimum share of a region within the boundary."""
MAX_REGIONS = 20_000_000
OUTLINE_STEPS = 512
SLIVER = 1e-3
TOUCHING = 1e-9

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


def square_grid(
    boundary: Boundary,
    side_m: float,
    *,
    min_cover: float = MIN_COVER,
    plane: str | None = None,
    city: str | None = None,
) -> gpd.GeoDataFrame:
    """Grid of equal squares that do not overlap.

    Squares are aligned to multiples of their side on a metric projection, so another boundary of
    the same city gives the same squares and ids. Their area on the ellipsoid is the nominal one to
    0.1 %. Adjacent squares share their corners with bit-equal coordinates.

    Args:
        boundary: A polygon in EPSG:4326, a GeoSeries or GeoDataFrame in any CRS, or a file.
        side_m: Side of a square in metres.
        min_cover: Minimum share of a square within the boundary; 0 keeps all squares that the
            boundary touches.
        plane: Projection as in region ids ("epsg32650", "laea40n120e"); by default that of
            `choose_plane`. Set it if the boundary may change across the edge of a UTM zone.
        city: Value of the column `city`; no such column by default.

    Returns:
        `region_id` ("epsg32650_1000_447_4417": projection, side, column, row), `lon`, `lat` of the
        centre, `area_m2` (geodesic), `cover` (share within the boundary) and geometry (EPSG:4326,
        corners from the south-west anticlockwise; two parts across the antimeridian). Rows are
        sorted from south to north, then from west to east.

    Raises:
        DatasetError: Invalid boundary, side or projection, or no square is kept.
    """
    _check_side(side_m)
    shape = read_boundary(boundary)
    chosen = choose_plane(shape, side_m) if plane is None else Plane(plane)

    def position(lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
        x, y = chosen.to_plane(lon, lat)
        return x / side_m, y / side_m

    column, row, cover = _covered_cells(shape, position, min_cover, f"{side_m:g} m")
    geometry = _square_polygons(column, row, side_m, chosen)
    lon, lat = chosen.to_degrees((column + 0.5) * float(side_m), (row + 0.5) * float(side_m))
    names = _square_ids(chosen, side_m, column, row)
    return _frame(names, city, lon, lat, geometry, cover)


def tile_regions(
    boundary: Boundary,
    z: int,
    scheme: str = "xyz",
    *,
    min_cover: float = MIN_COVER,
    city: str | None = None,
) -> gpd.GeoDataFrame:
    """Regions from the tiles of a web map.

    Tile sizes depend on latitude: at one zoom level, 938 m in Beijing and 1130 m in Shenzhen.

    Args:
        boundary: As in [`square_grid`].
        z: Zoom level.
        scheme: "xyz", "tms" or "baidu".
        min_cover: As in [`square_grid`].
        city: As in [`square_grid`].

    Returns:
        As [`square_grid`], with `tile_z`, `tile_x` and `tile_y`; ids are "xyz_15_26978_12416".

    Raises:
        DatasetError: Invalid boundary, no tile is kept, or Baidu tiles outside China.
        ValueError: Unknown scheme or invalid zoom level.
    """
    shape = read_boundary(boundary)
    if scheme == "baidu":
        west, south, east, north = shape.bounds
        if west < CHINA[0] or east > CHINA[1] or south < CHINA[2] or north > CHINA[3]:
            raise DatasetError(
                f"Baidu's tiles are in BD-09, which is defined in China only; the boundary spans "
                f"({west:g}, {south:g}) to ({east:g}, {north:g}). Use the scheme xyz."
            )

    def position(lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
        if scheme == "baidu":
            lon, lat = convert(lon, lat, "wgs84", "bd09")
        return tile_position(lon, lat, z, scheme)

    column, row, cover = _covered_cells(shape, position, min_cover, f"zoom {z}")
    if scheme != "baidu":
        column %= 2**z
    geometry = tile_polygons(column, row, z, scheme)
    # rows of "xyz" run southward
    middle = tile_corner(column + 0.5, row + (-0.5 if scheme == "xyz" else 0.5), z, scheme)
    lon, lat = convert(*middle, "bd09", "wgs84") if scheme == "baidu" else middle
    names = [f"{scheme}_{z}_{i}_{j}" for i, j in zip(column.tolist(), row.tolist(), strict=True)]
    tiles = {"tile_z": np.full(len(row), z), "tile_x": column, "tile_y": row}
    return _frame(names, city, lon, lat, geometry, cover, tiles)


def h3_regions(
    boundary: Boundary,
    resolution: int,
    *,
    min_cover: float = MIN_COVER,
    city: str | None = None,
) -> gpd.GeoDataFrame:
    """Regions from H3 cells: hexagons of slightly different areas.

    Args:
        boundary: As in [`square_grid`].
        resolution: H3 resolution; 8 is about 0.5 km2 in Beijing, 7 about 3.6 km2.
        min_cover: As in [`square_grid`].
        city: As in [`square_grid`].

    Returns:
        As [`square_grid`], sorted by `region_id`, which is "h3_" and the cell index.

    Raises:
        DatasetError: Invalid boundary or resolution, or no hexagon is kept.
        MissingExtraError: h3 is not installed.
    """
    try:
        import h3
    except ImportError as error:
        raise MissingExtraError("h3", "geo") from error
    if resolution not in range(16):
        raise DatasetError(f"An H3 resolution must be one of 0 to 15, got {resolution}.")
    _check_cover(min_cover)
    shape = read_boundary(boundary)
    pieces = shapely.get_parts(wrap(np.array([shape], dtype=object)))
    cells: set[str] = set()
    for piece in pieces:
        outline = h3.geo_to_h3shape(piece.__geo_interface__)
        cells.update(h3.h3shape_to_cells_experimental(outline, resolution, contain="overlap"))
    names = sorted(cells)
    rings = [np.array(h3.cell_to_boundary(name))[:, ::-1] for name in names]
    middle = (shape.bounds[0] + shape.bounds[2]) / 2
    hexagons = np.array([shapely.Polygon(_near(ring, middle)) for ring in rings], dtype=object)
    cover = shapely.area(shapely.intersection(hexagons, shape)) / shapely.area(hexagons)
    kept = np.flatnonzero(cover >= max(min_cover, TOUCHING))
    if len(kept) == 0:
        raise DatasetError(_nothing_kept(f"resolution {resolution}", min_cover))
    lat, lon = np.array([h3.cell_to_latlng(names[k]) for k in kept]).T
    ids = [f"h3_{names[k]}" for k in kept]
    return _frame(ids, city, lon, lat, wrap(hexagons[kept]), cover[kept])


def polygon_regions(
    frame: gpd.GeoDataFrame, id_column: str, *, city: str | None = None
) -> gpd.GeoDataFrame:
    """Regions from given polygons, such as districts, census tracts or neighbourhoods.

    Args:
        frame: Polygons with a CRS; they may cross the antimeridian, see
            [`to_degrees`][dataset_builders.globe.to_degrees].
        id_column: Column that becomes `region_id`.
        city: As in [`square_grid`].

    Returns:
        `region_id`, `lon`, `lat` (of a point within), `area_m2` and geometry (EPSG:4326; two
        parts across the antimeridian), sorted by `region_id`.

    Raises:
        DatasetError: No polygons, missing CRS, missing or duplicate ids, or polygons that are
            empty, invalid, ambiguous in direction around the globe, or overlap by more than a
            thousandth of the smaller; the message names the first ones.
    """
    if frame.crs is None:
        raise DatasetError("The polygons have no CRS. Set it with `frame.set_crs(...)`.")
    if id_column not in frame:
        raise DatasetError(f"There is no column {id_column!r}; there are {list(frame.columns)}.")
    if len(frame) == 0:
        raise DatasetError("There are no polygons.")
    ids = frame[id_column]
    if ids.isna().any():
        raise DatasetError(f"{int(ids.isna().sum())} polygon(s) have no {id_column!r}.")
    names = ids.astype(str).to_numpy(dtype=object)
    order = np.argsort(names, kind="stable")
    names, shapes = names[order], frame.geometry.to_numpy()[order]
    twice = np.flatnonzero(names[1:] == names[:-1])
    refuse(names, twice, "have duplicate ids")
    refuse(
        names, np.flatnonzero(shapely.is_missing(shapes) | shapely.is_empty(shapes)), "are empty"
    )
    check_polygons(shapes, names)
    moved = to_degrees(shapes, frame.crs, names)
    _refuse_overlaps(names, moved)
    lon, lat = shapely.get_coordinates(shapely.point_on_surface(moved)).T
    return _frame(list(names), city, lon, lat, moved)


def grid_cells(lon: Any, lat: Any, side_m: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Grid square of each point, in the UTM zone of the centre of the points' extent.

    Squares are aligned to multiples of their side, so other points of the same zone fall into the
    same squares and ids.

    Args:
        lon: `(n,)` longitudes, EPSG:4326; NaN where unknown.
        lat: `(n,)` latitudes.
        side_m: Side of a square in metres.

    Returns:
        `(n,)` ids as in [`square_grid`], and `(n,)` polygons in EPSG:4326; None for points without
        coordinates.

    Raises:
        DatasetError: The side is not positive.
    """
    _check_side(side_m)
    lon, lat = np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)
    ids, cells = (np.full(len(lon), None, dtype=object) for _ in range(2))
    known = np.flatnonzero(np.isfinite(lon) & np.isfinite(lat))
    if len(known) == 0:
        return ids, cells
    lon, lat = lon[known], lat[known]
    plane = utm_plane((lon.min() + lon.max()) / 2, lat.min() + lat.max())
    x, y = plane.to_plane(lon, lat)
    column, row = np.floor(x / side_m).astype(np.int64), np.floor(y / side_m).astype(np.int64)
    ids[known] = _square_ids(plane, side_m, column, row)
    cells[known] = _square_polygons(column, row, side_m, plane)
    return ids, cells


def _square_ids(plane: Plane, side_m: float, column: Ints, row: Ints) -> list[str]:
    side = str(int(side_m)) if float(side_m).is_integer() else repr(float(side_m))
    head = f"{plane.name}_{side}"
    return [f"{head}_{i}_{j}" for i, j in zip(column.tolist(), row.tolist(), strict=True)]


def _covered_cells(
    shape: shapely.Geometry,
    position: Callable[[Floats, Floats], tuple[Floats, Floats]],
    min_cover: float,
    size: str,
) -> tuple[Ints, Ints, Floats]:
    """Columns, rows and covers of the kept cells; `position` gives fractional columns and rows."""
    _check_cover(min_cover)
    west, south, east, north = shape.bounds
    # straight edges in degrees are curved in the projection
    dense = shapely.segmentize(shape, max(east - west, north - south) / OUTLINE_STEPS)
    outline = shapely.transform(dense, lambda xy: np.column_stack(position(*xy.T)))
    if not np.isfinite(shapely.get_coordinates(outline)).all():
        raise DatasetError("The boundary extends beyond the domain of the grid's projection.")
    if outline.area > MAX_REGIONS:
        raise DatasetError(
            f"The boundary holds about {outline.area:.3g} regions of {size}; {MAX_REGIONS:,} is "
            "the limit. Use larger ones."
        )
    cells, share = _cell_shares(outline if outline.is_valid else shapely.make_valid(outline))
    kept = np.flatnonzero(share >= max(min_cover - TOUCHING, TOUCHING))
    if len(kept) == 0:
        raise DatasetError(_nothing_kept(size, min_cover))
    column, row = cells[kept].T
    order = np.lexsort((column, row))
    return column[order], row[order], share[kept][order]


def _cell_shares(shape: shapely.Geometry) -> tuple[Ints, Floats]:
    """Cells of 1 x 1 that intersect a shape, `(n, 2)`, and the share of each that it covers.

    Squares are quartered until they are fully covered or a single cell, so the cost grows with the
    length of the outline.
    """
    low, high = np.floor(shape.bounds[:2]), np.ceil(shape.bounds[2:])
    size = 2 ** max(int(np.ceil(np.log2((high - low).max()))), 0)
    pieces, corner = np.array([shape], dtype=object), low.astype(np.int64)[None]
    cells, shares = [], []
    while len(pieces):
        area = shapely.area(pieces)
        full = area >= size**2 - TOUCHING
        within = np.stack(np.meshgrid(*[np.arange(size)] * 2), axis=-1) if full.any() else corner
        cells.append((corner[full][:, None] + within.reshape(-1, 2)).reshape(-1, 2))
        shares.append(np.ones(len(cells[-1])))
        pieces, corner, area = pieces[~full], corner[~full], area[~full]
        if size == 1:
            cells.append(corner)
            shares.append(area)
            break
        size //= 2
        quarters = np.array([(0, 0), (size, 0), (0, size), (size, size)])
        corner = (corner[:, None] + quarters).reshape(-1, 2)
        windows = shapely.box(*corner.T, *(corner + size).T)
        pieces = shapely.intersection(np.repeat(pieces, 4), windows)
        there = shapely.area(pieces) > 0
        pieces, corner = pieces[there], corner[there]
    return np.concatenate(cells), np.concatenate(shares)


def _square_polygons(column: Ints, row: Ints, side_m: float, plane: Plane) -> NDArray[Any]:
    """Polygons of squares; a shared corner has the same coordinates in all of them."""
    corners = [
        plane.to_degrees((column + i) * float(side_m), (row + j) * float(side_m))
        for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))
    ]
    rings = np.stack([np.column_stack(corner) for corner in corners], axis=1)
    geometry = shapely.polygons(rings)
    across = np.flatnonzero(np.ptp(rings[:, :, 0], axis=1) > 180)
    geometry[across] = wrap(shapely.polygons(_near(rings[across], 180.0)))
    return geometry


def _near(rings: Floats, lon: float) -> Floats:
    turned = rings.copy()
    turned[..., 0] -= 360.0 * np.round((turned[..., 0] - lon) / 360.0)
    return turned


def _frame(
    names: list[str],
    city: str | None,
    lon: Floats,
    lat: Floats,
    geometry: NDArray[Any],
    cover: Floats | None = None,
    tiles: Mapping[str, Any] | None = None,
) -> gpd.GeoDataFrame:
    columns: dict[str, Any] = {"region_id": names, "city": city, **(tiles or {})}
    columns |= {"lon": lon, "lat": lat, "area_m2": geodesic_areas(geometry), "cover": cover}
    given = {name: values for name, values in columns.items() if values is not None}
    return gpd.GeoDataFrame(given, geometry=geometry, crs="EPSG:4326")


def _check_side(side_m: float) -> None:
    if not (np.isfinite(side_m) and side_m > 0):
        raise DatasetError(f"A square needs a side above 0 m, got {side_m}.")


def _check_cover(min_cover: float) -> None:
    if not 0 <= min_cover <= 1:
        raise DatasetError(f"`min_cover` lies in [0, 1], got {min_cover}.")


def _nothing_kept(size: str, min_cover: float) -> str:
    return (
        f"No region of {size} has a share of {min_cover:g} within the boundary. Use smaller "
        "regions, or a smaller `min_cover`."
    )


def _refuse_overlaps(names: NDArray[Any], shapes: NDArray[Any]) -> None:
    one, two = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    pair = one < two
    one, two = one[pair], two[pair]
    shared = shapely.area(shapely.intersection(shapes[one], shapes[two]))
    smaller = np.minimum(shapely.area(shapes[one]), shapely.area(shapes[two]))
    over = np.flatnonzero(shared > SLIVER * smaller)
    if len(over):
        listed = ", ".join(f"{names[one[k]]!r} and {names[two[k]]!r}" for k in over[:5])
        raise DatasetError(
            f"{len(over)} pair(s) of polygons overlap ({listed}), so points and cells would count "
            "twice. Remove the overlaps."
        )


__all__ = [
    "MIN_COVER",
    "grid_cells",
    "h3_regions",
    "polygon_regions",
    "square_grid",
    "tile_regions",
]
