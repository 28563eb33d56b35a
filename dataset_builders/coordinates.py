"""Coordinate systems of Chinese maps (GCJ-02, BD-09, BD-09 Mercator), and web map tiles.

Chinese maps use GCJ-02, which is offset from WGS-84 by some hundred metres; Baidu adds a second
offset (BD-09) and a Mercator-like projection (BD-09 Mercator). GCJ-02 and BD-09 follow the formulas
published by eviltransform and coordtransform, the projection the polynomials of Baidu's JavaScript
API. Inverses are computed by iteration and exact to 1e-9 degrees over a round trip. Baidu's
polynomials are discontinuous at 15, 30, 45 and 60 degrees: gaps of up to a centimetre (10 cm at 60
degrees) have no exact inverse.

No published package offers all of these vectorised and with exact inverses. The caller names both
systems; none is guessed.
"""

import math
from typing import Any, Literal

import numpy as np
import shapely

from .errors import DatasetError

SYSTEMS = ("wgs84", "gcj02", "bd09", "bd09mc")
SCHEMES = ("xyz", "tms", "baidu")
MAX_ZOOM = 30

# Krasovsky 1940, as in the published formula
AXIS_M = 6378245.0
ECCENTRICITY2 = 0.00669342162296594323
BD_ANGLE = math.pi * 3000.0 / 180.0
# extent of GCJ-02: west, east, south, north
CHINA = (72.004, 137.8347, 0.8293, 55.8271)
TOLERANCE_DEGREES = 1e-13
MAX_ITERATIONS = 60
MAX_CORRECTION_M = 100.0

# Baidu's bands of |y| in metres and of |lat|, from the pole to the equator
BAND_Y = np.array([12890594.86, 8362377.87, 5591021.0, 3481989.83, 1678043.12, 0.0])
BAND_LAT = np.array([75.0, 60.0, 45.0, 30.0, 15.0, 0.0])
MC_TO_LL = np.array(
    [
        [1.410526172116255e-8, 0.00000898305509648872, -1.9939833816331, 200.9824383106796,
         -187.2403703815547, 91.6087516669843, -23.38765649603339, 2.57121317296198,
         -0.03801003308653, 17337981.2],
        [-7.435856389565537e-9, 0.000008983055097726239, -0.78625201886289, 96.32687599759846,
         -1.85204757529826, -59.36935905485877, 47.40033549296737, -16.50741931063887,
         2.28786674699375, 10260144.86],
        [-3.030883460898826e-8, 0.00000898305509983578, 0.30071316287616, 59.74293618442277,
         7.357984074871, -25.38371002664745, 13.45380521110908, -3.29883767235584,
         0.32710905363475, 6856817.37],
        [-1.981981304930552e-8, 0.000008983055099779535, 0.03278182852591, 40.31678527705744,
         0.65659298677277, -4.44255534477492, 0.85341911805263, 0.12923347998204,
         -0.04625736007561, 4482777.06],
        [3.09191371068437e-9, 0.000008983055096812155, 0.00006995724062, 23.10934304144901,
         -0.00023663490511, -0.6321817810242, -0.00663494467273, 0.03430082397953,
         -0.00466043876332, 2555164.4],
        [2.890871144776878e-9, 0.000008983055095805407, -0.00000003068298, 7.47137025468032,
         -0.00000353937994, -0.02145144861037, -0.00001234426596, 0.00010322952773,
         -0.00000323890364, 826088.5],
    ]
)  # fmt: skip
LL_TO_MC = np.array(
    [
        [-0.0015702102444, 111320.7020616939, 1704480524535203, -10338987376042340,
         26112667856603880, -35149669176653700, 26595700718403920, -10725012454188240,
         1800819912950474, 82.5],
        [0.0008277824516172526, 111320.7020463578, 647795574.6671607, -4082003173.641316,
         10774905663.51142, -15171875531.51559, 12053065338.62167, -5124939663.577472,
         913311935.9512032, 67.5],
        [0.00337398766765, 111320.7020202162, 4481351.045890365, -23393751.19931662,
         79682215.47186455, -115964993.2797253, 97236711.15602145, -43661946.33752821,
         8477230.501135234, 52.5],
        [0.00220636496208, 111320.7020209128, 51751.86112841131, 3796837.749470245,
         992013.7397791013, -1221952.21711287, 1340652.697009075, -620943.6990984312,
         144416.9293806241, 37.5],
        [-0.0003441963504368392, 111320.7020576856, 278.2353980772752, 2485758.690035394,
         6070.750963243378, 54821.18345352118, 9540.606633304236, -2710.55326746645,
         1405.483844121726, 22.5],
        [-0.0003218135878613132, 111320.7020701615, 0.00369383431289, 823725.6402795718,
         0.46104986909093, 2351.343141331292, 1.58060784298199, 8.77738589078284,
         0.37238884252424, 7.45],
    ]
)  # fmt: skip

Pair = tuple[np.ndarray, np.ndarray]


def convert(
    lon: Any, lat: Any, source: str, target: str, outside: Literal["error", "nan"] = "error"
) -> tuple[Any, Any]:
    """Convert coordinates between two systems.

    Conversions between WGS-84 and the others are defined only within the customary rectangle around
    China. It includes neighbouring land, where maps have no offset: use "wgs84" there.

    Args:
        lon: Degrees east, or x in metres for "bd09mc". A number or an array; NaN stays NaN.
        lat: Degrees north, or y in metres for "bd09mc".
        source: "wgs84", "gcj02", "bd09" or "bd09mc".
        target: As `source`.
        outside: Result for points outside that rectangle: an error, or NaN.

    Returns:
        The pair in the target system: floats for numbers, arrays for arrays.

    Raises:
        DatasetError: A point lies outside the rectangle.
        ValueError: Unknown system, or a latitude beyond 90 degrees.
    """
    for name in (source, target):
        if name not in SYSTEMS:
            raise ValueError(f"A coordinate system is one of {SYSTEMS}, got {name!r}.")
    x, y = np.broadcast_arrays(np.asarray(lon, np.float64), np.asarray(lat, np.float64))
    shape, given = x.shape, (x.flatten(), y.flatten())
    x, y = given
    if source != "bd09mc" and np.any(np.abs(y) > 90):
        worst = y[np.abs(y) > 90][0]
        raise ValueError(f"A latitude lies in [-90, 90], got {worst}; are lon and lat swapped?")
    start, end = SYSTEMS.index(source), SYSTEMS.index(target)
    for step in range(start, end):
        x, y = _UP[step](x, y)
    for step in range(start, end, -1):
        x, y = _DOWN[step - 1](x, y)
    if outside == "error":
        _check_defined(*given, x, y, source, target)
    return (float(x[0]), float(y[0])) if shape == () else (x.reshape(shape), y.reshape(shape))


def tile_corner(x: Any, y: Any, z: Any, scheme: str) -> tuple[Any, Any]:
    """South-west corner of map tiles, as (lon, lat) in the scheme's own system.

    Args:
        x: Column, a number or an array.
        y: Row: southward from the north in "xyz", northward from the south in "tms", northward
            from the equator in "baidu" (negative south of it).
        z: Zoom level.
        scheme: "xyz" or "tms" (Web Mercator, corner in WGS-84), or "baidu" (corner in BD-09).

    Raises:
        ValueError: Unknown scheme or invalid zoom level.
    """
    x, y, z = _tile_arrays(x, y, z, scheme)
    if scheme == "baidu":
        side = _baidu_side_m(z)
        return convert(x * side, y * side, "bd09mc", "bd09")
    south = y + 1 if scheme == "xyz" else np.exp2(z) - y
    lon = x / np.exp2(z) * 360.0 - 180.0
    lat = np.degrees(np.arctan(np.sinh(math.pi * (1 - 2 * south / np.exp2(z)))))
    return (float(lon), float(lat)) if lon.ndim == 0 else (lon, lat)


def tile_index(lon: Any, lat: Any, z: Any, scheme: str) -> tuple[Any, Any]:
    """Column and row of the tile that contains a point; the inverse of [`tile_corner`].

    Args:
        lon: Longitude in the scheme's own system, a number or an array.
        lat: Latitude likewise.
        z: Zoom level.
        scheme: "xyz", "tms" or "baidu".

    Returns:
        Integers, or integer arrays. A point on an edge belongs to the tile east and north of it
        ("xyz": south of it).
    """
    x, y = tile_position(lon, lat, z, scheme)
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    return (int(column), int(row)) if column.ndim == 0 else (column, row)


def tile_position(lon: Any, lat: Any, z: Any, scheme: str) -> tuple[np.ndarray, np.ndarray]:
    """Fractional column and row of a point; arguments as in [`tile_index`]."""
    lon, lat, z = _tile_arrays(lon, lat, z, scheme)
    if scheme == "baidu":
        x_m, y_m = convert(lon, lat, "bd09", "bd09mc")
        return np.asarray(x_m / _baidu_side_m(z)), np.asarray(y_m / _baidu_side_m(z))
    x = (lon + 180.0) / 360.0 * np.exp2(z)
    # 1 at the north edge of the map
    north = np.arcsinh(np.tan(np.radians(lat))) / math.pi
    return x, (1 - north if scheme == "xyz" else 1 + north) / 2 * np.exp2(z)


def tile_polygons(x: Any, y: Any, z: Any, scheme: str) -> np.ndarray:
    """Outlines of tiles in WGS-84, `(n,)` shapely polygons; adjacent tiles share their corners.

    Args:
        x: `(n,)` columns.
        y: `(n,)` rows.
        z: Zoom level.
        scheme: "xyz", "tms" or "baidu".
    """
    x, y = np.atleast_1d(x, y)
    east, north = x + 1, y - 1 if scheme == "xyz" else y + 1
    corners = [
        tile_corner(column, row, z, scheme)
        for column, row in ((x, y), (east, y), (east, north), (x, north))
    ]
    if scheme == "baidu":
        corners = [convert(*corner, "bd09", "wgs84") for corner in corners]
    rings = np.stack([np.column_stack(corner) for corner in corners], axis=1)
    return shapely.polygons(rings)


def _tile_arrays(x: Any, y: Any, z: Any, scheme: str) -> list[np.ndarray]:
    if scheme not in SCHEMES:
        raise ValueError(f"A tile scheme is one of {SCHEMES}, got {scheme!r}.")
    arrays = [np.asarray(value, np.float64) for value in (x, y, z)]
    if np.any((arrays[2] < 0) | (arrays[2] > MAX_ZOOM) | (arrays[2] % 1 != 0)):
        raise ValueError(f"A zoom is a whole number in [0, {MAX_ZOOM}], got {z}.")
    return list(np.broadcast_arrays(*arrays))


def _baidu_side_m(z: np.ndarray) -> np.ndarray:
    return 256.0 * np.exp2(18 - z)


def _inverse(forward: Any, x: np.ndarray, y: np.ndarray, guess: Pair) -> Pair:
    """Solve `forward(u, v) = (x, y)` by fixed-point iteration."""
    u, v = guess
    for _ in range(MAX_ITERATIONS):
        found_x, found_y = forward(u, v)
        miss_x, miss_y = x - found_x, y - found_y
        u, v = u + miss_x, v + miss_y
        # NaN stays NaN, and compares as converged
        if not np.any(np.maximum(np.abs(miss_x), np.abs(miss_y)) > TOLERANCE_DEGREES):
            break
    return u, v


def _gcj_offset(lon: np.ndarray, lat: np.ndarray) -> Pair:
    x, y = lon - 105.0, lat - 35.0
    root = np.sqrt(np.abs(x))
    waves = 20.0 * np.sin(6.0 * x * math.pi) + 20.0 * np.sin(2.0 * x * math.pi)
    d_lat = -100.0 + 2.0 * x + 3.0 * y + 0.2 * y * y + 0.1 * x * y + 0.2 * root
    d_lat += waves * 2.0 / 3.0
    d_lat += (20.0 * np.sin(y * math.pi) + 40.0 * np.sin(y / 3.0 * math.pi)) * 2.0 / 3.0
    d_lat += (160.0 * np.sin(y / 12.0 * math.pi) + 320.0 * np.sin(y * math.pi / 30.0)) * 2.0 / 3.0
    d_lon = 300.0 + x + 2.0 * y + 0.1 * x * x + 0.1 * x * y + 0.1 * root
    d_lon += waves * 2.0 / 3.0
    d_lon += (20.0 * np.sin(x * math.pi) + 40.0 * np.sin(x / 3.0 * math.pi)) * 2.0 / 3.0
    d_lon += (150.0 * np.sin(x / 12.0 * math.pi) + 300.0 * np.sin(x / 30.0 * math.pi)) * 2.0 / 3.0
    angle = np.radians(lat)
    magic = 1.0 - ECCENTRICITY2 * np.sin(angle) ** 2
    d_lat *= 180.0 / (AXIS_M * (1 - ECCENTRICITY2) / (magic * np.sqrt(magic)) * math.pi)
    d_lon *= 180.0 / (AXIS_M / np.sqrt(magic) * np.cos(angle) * math.pi)
    return d_lon, d_lat


def _in_china(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    west, east, south, north = CHINA
    return (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)


def _shifted(lon: np.ndarray, lat: np.ndarray) -> Pair:
    d_lon, d_lat = _gcj_offset(lon, lat)
    return lon + d_lon, lat + d_lat


def _check_defined(
    lon: np.ndarray, lat: np.ndarray, x: np.ndarray, y: np.ndarray, source: str, target: str
) -> None:
    lost = np.isfinite(lon) & np.isfinite(lat) & ~(np.isfinite(x) & np.isfinite(y))
    if lost.any():
        west, east, south, north = CHINA
        raise DatasetError(
            f"No conversion from {source} to {target} at ({lon[lost][0]:g}, {lat[lost][0]:g}): "
            f"it is defined in China only, from ({west:g}, {south:g}) to ({east:g}, {north:g}). "
            "Use wgs84 elsewhere."
        )


def _wgs84_to_gcj02(lon: np.ndarray, lat: np.ndarray) -> Pair:
    inside = _in_china(lon, lat)
    return _shifted(np.where(inside, lon, np.nan), np.where(inside, lat, np.nan))


def _gcj02_to_wgs84(lon: np.ndarray, lat: np.ndarray) -> Pair:
    # the offset can cross the edge of the rectangle
    near = _in_china(lon, lat)
    near |= _in_china(lon - 0.02, lat - 0.02) | _in_china(lon + 0.02, lat + 0.02)
    found_lon, found_lat = np.full_like(lon, np.nan), np.full_like(lat, np.nan)
    if near.any():
        solved = _inverse(_shifted, lon[near], lat[near], (lon[near], lat[near]))
        # the inverse of a point on the edge may lie outside by rounding
        inside = _in_china(np.round(solved[0], 10), np.round(solved[1], 10))
        found_lon[near] = np.where(inside, solved[0], np.nan)
        found_lat[near] = np.where(inside, solved[1], np.nan)
    return found_lon, found_lat


def _gcj02_to_bd09(lon: np.ndarray, lat: np.ndarray) -> Pair:
    radius = np.hypot(lon, lat) + 0.00002 * np.sin(lat * BD_ANGLE)
    theta = np.arctan2(lat, lon) + 0.000003 * np.cos(lon * BD_ANGLE)
    return radius * np.cos(theta) + 0.0065, radius * np.sin(theta) + 0.006


def _bd09_to_gcj02(lon: np.ndarray, lat: np.ndarray) -> Pair:
    return _inverse(_gcj02_to_bd09, lon, lat, (lon - 0.0065, lat - 0.006))


def _bands(values: np.ndarray, floors: np.ndarray) -> np.ndarray:
    """Row of the latitude band of each value in the tables; NaN takes the last."""
    return np.searchsorted(-floors, -np.nan_to_num(np.abs(values)), side="left").clip(0, 5)


def _polynomial(x: np.ndarray, y: np.ndarray, c: np.ndarray) -> Pair:
    """Baidu's polynomials with coefficients c `(n, 10)`, odd in both coordinates."""
    ratio = np.abs(y) / c[:, 9]
    powers = ratio[:, None] ** np.arange(7)
    return (
        np.copysign(c[:, 0] + c[:, 1] * np.abs(x), x),
        np.copysign((c[:, 2:9] * powers).sum(axis=1), y),
    )


def _bd09mc_to_bd09(x: np.ndarray, y: np.ndarray) -> Pair:
    return _polynomial(x, y, MC_TO_LL[_bands(y, BAND_Y)])


def _bd09_to_bd09mc(lon: np.ndarray, lat: np.ndarray) -> Pair:
    guess_x, guess_y = x, y = _polynomial(lon, lat, LL_TO_MC[_bands(lat, BAND_LAT)])
    # this polynomial errs by decimetres: invert the backward one by Newton's method
    for _ in range(MAX_ITERATIONS):
        c = MC_TO_LL[_bands(y, BAND_Y)]
        found_lon, found_lat = _polynomial(x, y, c)
        ratio = np.abs(y) / c[:, 9]
        slope = (c[:, 3:9] * np.arange(1, 7) * ratio[:, None] ** np.arange(6)).sum(axis=1) / c[:, 9]
        step_x, step_y = (lon - found_lon) / c[:, 1], (lat - found_lat) / slope
        x, y = x + step_x, y + step_y
        if not np.any(np.maximum(np.abs(step_x), np.abs(step_y)) > 1e-8):
            break
    # the backward one jumps by a kilometre near 75 degrees: keep the forward result there
    lost = np.hypot(x - guess_x, y - guess_y) > MAX_CORRECTION_M
    return np.where(lost, guess_x, x), np.where(lost, guess_y, y)


_UP = (_wgs84_to_gcj02, _gcj02_to_bd09, _bd09_to_bd09mc)
_DOWN = (_gcj02_to_wgs84, _bd09_to_gcj02, _bd09mc_to_bd09)

__all__ = [
    "SCHEMES",
    "SYSTEMS",
    "convert",
    "tile_corner",
    "tile_index",
    "tile_polygons",
    "tile_position",
]
