"""The regions of a city: squares, map tiles, hexagons, or polygons that someone else drew."""

from collections.abc import Callable
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from .areas import geodesic_areas, ring_areas, ring_coordinates
from .boundaries import Boundary, read_boundary
from .coordinates import CHINA, convert, tile_corner, tile_polygons, tile_position
from .coverage import cell_cover, make_edges
from .errors import DatasetError, MissingExtraError
from .globe import refuse, to_degrees, wrap
from .planes import Plane, choose_plane

MIN_COVER = 0.5
"""Share of a region that must lie within the boundary, by default."""
MAX_REGIONS = 20_000_000
OUTLINE_STEPS = 512
CELLS_AT_ONCE = 100_000
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
    """Equal squares that do not overlap.

    Squares lie on a metric plane and are snapped to multiples of their side, so another boundary
    of the same city gives the same squares under the same names. Their area on the ellipsoid is
    the nominal one to 0.1 %. Corners are shared: two neighbours have bit-equal coordinates.

    Args:
        boundary: a polygon in EPSG:4326, a GeoSeries or GeoDataFrame in any CRS, or a file.
        side_m: of a square, metres.
        min_cover: share of a square within the boundary from which it is kept; 0 keeps all that
            the boundary touches.
        plane: "epsg32650", "laea40n120e", as it stands at the head of other regions' ids; chosen
            by [`choose_plane`][dataset_builders.planes.choose_plane] by default. Give it where a
            city's boundary may change between a zone and its edge.
        city: for the column `city`; no such column by default.

    Returns:
        `region_id` ("epsg32650_1000_447_4417": plane, side, column, row), `lon`, `lat` of the
        centre, `area_m2` (geodesic), `cover` (share within the boundary) and geometry (EPSG:4326,
        corners from the south-west anticlockwise; two parts across the antimeridian). Rows go
        from south to north, and from west to east within one.

    Raises:
        DatasetError: an impossible boundary, side or plane, or no square is kept.
    """
    if not (np.isfinite(side_m) and side_m > 0):
        raise DatasetError(f"A square needs a side above 0 m, got {side_m}.")
    shape = read_boundary(boundary)
    chosen = choose_plane(shape, side_m) if plane is None else Plane(plane)

    def position(lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
        x, y = chosen.to_plane(lon, lat)
        return x / side_m, y / side_m

    column, row, cover = _covered_cells(shape, position, min_cover, f"{side_m:g} m")
    geometry, area = _square_polygons(column, row, side_m, chosen)
    lon, lat = chosen.to_degrees((column + 0.5) * float(side_m), (row + 0.5) * float(side_m))
    head = f"{chosen.name}_{side_text(side_m)}"
    names = [f"{head}_{i}_{j}" for i, j in zip(column.tolist(), row.tolist(), strict=True)]
    return _frame(names, city, {}, lon, lat, area, cover, geometry)


def tile_regions(
    boundary: Boundary,
    z: int,
    scheme: str = "xyz",
    *,
    min_cover: float = MIN_COVER,
    city: str | None = None,
) -> gpd.GeoDataFrame:
    """Tiles of a web map as regions.

    Tiles are no equal squares: the same zoom is 938 m in Beijing and 1130 m in Shenzhen.

    Args:
        boundary: as in [`square_grid`].
        z: zoom.
        scheme: "xyz", "tms" or "baidu".
        min_cover: as in [`square_grid`].
        city: as in [`square_grid`].

    Returns:
        As [`square_grid`], with `tile_z`, `tile_x` and `tile_y`; ids are "xyz_15_26978_12416".

    Raises:
        DatasetError: an impossible boundary, or no tile is kept; Baidu's tiles outside China.
        ValueError: an unknown scheme or a zoom that is none.
    """
    shape = read_boundary(boundary)
    if scheme == "baidu":
        west, south, east, north = shape.bounds
        if west < CHINA[0] or east > CHINA[1] or south < CHINA[2] or north > CHINA[3]:
            raise DatasetError(
                f"Baidu's tiles are in BD-09, which is defined in China only; the boundary spans "
                f"({west:g}, {south:g}) to ({east:g}, {north:g}). Take the scheme xyz."
            )

    def position(lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
        if scheme == "baidu":
            lon, lat = convert(lon, lat, "wgs84", "bd09")
        return tile_position(lon, lat, z, scheme)

    column, row, cover = _covered_cells(shape, position, min_cover, f"zoom {z}")
    if scheme != "baidu":
        column %= 2**z
    geometry = tile_polygons(column, row, z, scheme)
    # the rows of "xyz" run southward
    middle = tile_corner(column + 0.5, row + (-0.5 if scheme == "xyz" else 0.5), z, scheme)
    lon, lat = convert(*middle, "bd09", "wgs84") if scheme == "baidu" else middle
    names = [f"{scheme}_{z}_{i}_{j}" for i, j in zip(column.tolist(), row.tolist(), strict=True)]
    tiles = {"tile_z": np.full(len(row), z), "tile_x": column, "tile_y": row}
    return _frame(names, city, tiles, lon, lat, geodesic_areas(geometry), cover, geometry)


def h3_regions(
    boundary: Boundary,
    resolution: int,
    *,
    min_cover: float = MIN_COVER,
    city: str | None = None,
) -> gpd.GeoDataFrame:
    """H3 hexagons as regions; neither squares nor of equal area.

    Args:
        boundary: as in [`square_grid`].
        resolution: of H3; 8 is about 0.5 km2 in Beijing, 7 about 3.6.
        min_cover: as in [`square_grid`].
        city: as in [`square_grid`].

    Returns:
        As [`square_grid`], by `region_id`, which is "h3_" and the cell's index.

    Raises:
        DatasetError: an impossible boundary or resolution, or no hexagon is kept.
        MissingExtraError: h3 is not installed.
    """
    try:
        import h3
    except ImportError as error:
        raise MissingExtraError("h3", "geo") from error
    if resolution not in range(16):
        raise DatasetError(f"A resolution of H3 is one of 0 to 15, got {resolution}.")
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
    centres = np.array([h3.cell_to_latlng(names[k]) for k in kept])
    geometry = wrap(hexagons[kept])
    ids = [f"h3_{names[k]}" for k in kept]
    lat, lon = centres.T
    return _frame(ids, city, {}, lon, lat, geodesic_areas(geometry), cover[kept], geometry)


def polygon_regions(
    frame: gpd.GeoDataFrame, id_column: str, *, city: str | None = None
) -> gpd.GeoDataFrame:
    """Anyone's polygons as regions: districts, census tracts, neighbourhoods.

    Args:
        frame: polygons with a CRS, across the antimeridian or not: see
            [`to_degrees`][dataset_builders.globe.to_degrees].
        id_column: what becomes `region_id`.
        city: as in [`square_grid`].

    Returns:
        `region_id`, `lon`, `lat` (of a point within), `area_m2` and geometry (EPSG:4326; two
        parts across the antimeridian), by `region_id`.

    Raises:
        DatasetError: no CRS, ids that are missing or not unique, polygons that are empty, not
            valid, not clear about their way round the globe, or overlap by more than a thousandth
            of the smaller; each with the first ids.
    """
    if frame.crs is None:
        raise DatasetError("The polygons have no CRS. Set it, as in `frame.set_crs(...)`.")
    if id_column not in frame:
        raise DatasetError(f"There is no column {id_column!r}; there are {list(frame.columns)}.")
    if len(frame) == 0:
        raise DatasetError("There is no polygon.")
    ids = frame[id_column]
    if ids.isna().any():
        raise DatasetError(f"{int(ids.isna().sum())} polygon(s) have no {id_column!r}.")
    names = ids.astype(str).to_numpy(dtype=object)
    order = np.argsort(names, kind="stable")
    names, shapes = names[order], frame.geometry.to_numpy()[order]
    twice = np.flatnonzero(names[1:] == names[:-1])
    refuse(names, twice, "have an id that another has too")
    refuse(
        names, np.flatnonzero(shapely.is_missing(shapes) | shapely.is_empty(shapes)), "are empty"
    )
    refuse(names, np.flatnonzero(~np.isin(shapely.get_type_id(shapes), (3, 6))), "are no polygons")
    refuse(names, np.flatnonzero(~shapely.is_valid(shapes)), "are not valid (try `make_valid`)")
    moved = to_degrees(shapes, frame.crs, names)
    _refuse_overlaps(names, moved)
    inside = shapely.get_coordinates(shapely.point_on_surface(moved))
    area = geodesic_areas(moved)
    return _frame(list(names), city, {}, inside[:, 0], inside[:, 1], area, None, moved)


def side_text(side_m: float) -> str:
    """A side as it stands in ids: "1000", "333.3"."""
    return str(int(side_m)) if float(side_m).is_integer() else repr(float(side_m))


def _covered_cells(
    shape: shapely.Geometry,
    position: Callable[[Floats, Floats], tuple[Floats, Floats]],
    min_cover: float,
    size: str,
) -> tuple[Ints, Ints, Floats]:
    """Columns, rows and covers of the cells that are kept, row by row.

    Args:
        shape: the boundary, EPSG:4326.
        position: column and row of a place, fractions included.
        min_cover: share from which a cell is kept.
        size: of a cell, for messages.
    """
    _check_cover(min_cover)
    west, south, east, north = shape.bounds
    # straight edges in degrees are bent on the plane
    outline = shapely.segmentize(shape, max(east - west, north - south) / OUTLINE_STEPS)
    vertices, of_ring, owner, sign = ring_coordinates(np.array([outline], dtype=object))
    cells = np.column_stack(position(vertices[:, 0], vertices[:, 1]))
    if not np.isfinite(cells).all():
        raise DatasetError("The boundary reaches beyond the plane of the grid.")
    origin = np.floor(cells.min(axis=0))
    width, height = (np.ceil(cells.max(axis=0)) - origin).clip(1).astype(np.int64)
    edges = make_edges(cells - origin, of_ring, owner, sign)
    expected = edges.areas(1)[0]
    if expected > MAX_REGIONS:
        raise DatasetError(
            f"The boundary holds about {expected:.3g} regions of {size}; {MAX_REGIONS:,} is the "
            "limit. Take larger ones."
        )
    cover = cell_cover(edges, int(width), int(height))
    length = cover.run_stop - cover.run_start
    run = np.repeat(np.arange(len(length)), length)
    within = np.arange(len(run)) - np.repeat(np.cumsum(length) - length, length)
    column = np.concatenate([cover.column, cover.run_start[run] + within])
    row = np.concatenate([cover.row, cover.run_row[run]])
    share = np.concatenate([cover.share, cover.run_share[run]])
    kept = np.flatnonzero(share >= max(min_cover - TOUCHING, TOUCHING))
    if len(kept) == 0:
        raise DatasetError(_nothing_kept(size, min_cover))
    kept = kept[np.lexsort((column[kept], row[kept]))]
    whole = origin.astype(np.int64)
    return column[kept] + whole[0], row[kept] + whole[1], share[kept]


def _square_polygons(
    column: Ints, row: Ints, side_m: float, plane: Plane
) -> tuple[NDArray[Any], Floats]:
    """Polygons and areas of squares; every corner is computed once."""
    low = row.min()
    rows = int(row.max() - low) + 2
    corners = [(column + i) * rows + (row - low + j) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]
    keys, corner = np.unique(np.stack(corners, axis=1), return_inverse=True)
    corner = corner.reshape(-1, 4)
    lon, lat = plane.to_degrees(keys // rows * side_m, (keys % rows + low) * side_m)
    geometry = np.empty(len(column), dtype=object)
    area = np.empty(len(column))
    for start in range(0, len(column), CELLS_AT_ONCE):
        part = slice(start, start + CELLS_AT_ONCE)
        closed = corner[part][:, [0, 1, 2, 3, 0]]
        rings = np.stack([lon[closed], lat[closed]], axis=-1)
        count = len(rings)
        area[part] = ring_areas(rings.reshape(-1, 2), np.repeat(np.arange(count), 5), count)
        geometry[part] = shapely.polygons(rings)
        across = np.flatnonzero(np.ptp(rings[:, :, 0], axis=1) > 180)
        geometry[start + across] = wrap(shapely.polygons(_near(rings[across], 180.0)))
    return geometry, area


def _near(rings: Floats, lon: float) -> Floats:
    """Rings with their longitudes turned to within 180 degrees of one."""
    turned = rings.copy()
    turned[..., 0] -= 360.0 * np.round((turned[..., 0] - lon) / 360.0)
    return turned


def _frame(
    names: list[str],
    city: str | None,
    extra: dict[str, Any],
    lon: Floats,
    lat: Floats,
    area: Floats,
    cover: Floats | None,
    geometry: NDArray[Any],
) -> gpd.GeoDataFrame:
    columns: dict[str, Any] = {"region_id": names}
    if city is not None:
        columns["city"] = city
    columns |= extra | {"lon": lon, "lat": lat, "area_m2": area}
    if cover is not None:
        columns["cover"] = cover
    return gpd.GeoDataFrame(columns, geometry=geometry, crs="EPSG:4326")


def _check_cover(min_cover: float) -> None:
    if not 0 <= min_cover <= 1:
        raise DatasetError(f"`min_cover` lies in [0, 1], got {min_cover}.")


def _nothing_kept(size: str, min_cover: float) -> str:
    return (
        f"No region of {size} lies within the boundary by {min_cover:g} of it. Take smaller "
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
            f"{len(over)} pair(s) of polygons overlap ({listed}), so a point or a cell would count "
            "twice. Cut one of each."
        )


__all__ = [
    "MIN_COVER",
    "h3_regions",
    "polygon_regions",
    "side_text",
    "square_grid",
    "tile_regions",
]
