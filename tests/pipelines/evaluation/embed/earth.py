"""Small rasters in the layouts of AlphaEarth and TESSERA, over the regions of the toy city."""

import numpy as np
import pyproj
import rasterio
import shapely
from rasterio.transform import from_origin

CELL_M = 100.0
WEST, NORTH = 571_500.0, 5_548_100.0  # of the toy's regions in EPSG:32632
COLUMNS, ROWS = 62, 94


def vectors(bands=64, rows=ROWS, columns=COLUMNS, seed=0):
    """Unit vectors `(bands, rows, columns)` that vary smoothly in space, with noise."""
    y, x = np.mgrid[:rows, :columns] / max(rows, columns)
    rng = np.random.default_rng(seed)
    waves = rng.uniform(-4, 4, (bands, 3))
    values = np.sin(waves[:, 0, None, None] * x + waves[:, 1, None, None] * y + seed)
    values += 0.3 * rng.normal(size=values.shape)
    return values / np.linalg.norm(values, axis=0)


def quantised(values):
    """Quantise as AlphaEarth: the inverse of `sign(q) (q / 127.5) ** 2`."""
    return np.round(np.sign(values) * np.sqrt(np.abs(values)) * 127.5).astype(np.int8)


def write(
    path, stored, *, column=0, row=0, nodata=None, names=None, zone=32, place=None, **profile
):
    """Write `(bands, rows, columns)` with its corner at a cell of the toy city's grid."""
    bands, rows, columns = stored.shape
    west, north = place or (WEST, NORTH)
    origin = from_origin(west + column * CELL_M, north - row * CELL_M, CELL_M, CELL_M)
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    profile = {"crs": f"EPSG:326{zone}", "transform": origin} | blocks | profile
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=bands,
        height=rows,
        width=columns,
        dtype=stored.dtype,
        nodata=nodata,
        **profile,
    ) as file:
        file.write(stored)
        for band, name in enumerate(names or [], 1):
            file.set_band_description(band, name)
    return path


def write_alphaearth(path, stored, **where):
    """Write int8 bands named A00 to A63, with nodata -128."""
    return write(
        path, stored, nodata=-128, names=[f"A{k:02d}" for k in range(len(stored))], **where
    )


def tessera(values):
    """Quantise as TESSERA: int8 values and one float32 scale per cell."""
    scales = (np.abs(values).max(0, keepdims=True) / 127).astype(np.float32)
    return np.round(values / scales).astype(np.int8), scales


def expected(values, regions, *, zone=32, place=(WEST, NORTH)):
    """Zonal means by intersecting every cell with every region.

    Args:
        values: `(bands, rows, columns)`, NaN in cells to skip.
        regions: Frame in EPSG:4326.

    Returns:
        Means `(n, bands)`, covered areas `(n,)` and region areas `(n,)` in square metres.
    """
    shapes = shapely.segmentize(regions.geometry.to_numpy(), 1e-4)
    project = pyproj.Transformer.from_crs(4326, f"EPSG:326{zone}", always_xy=True).transform
    shapes = shapely.transform(shapes, lambda xy: np.column_stack(project(*xy.T)))
    _, rows, columns = values.shape
    row, column = np.divmod(np.arange(rows * columns), columns)
    west, north = place[0] + column * CELL_M, place[1] - row * CELL_M
    cells = shapely.box(west, north - CELL_M, west + CELL_M, north)
    pair = shapely.STRtree(cells).query(shapes)
    share = np.zeros((len(shapes), len(cells)))
    share[*pair] = shapely.area(shapely.intersection(shapes[pair[0]], cells[pair[1]]))
    flat = values.reshape(len(values), -1)
    share = share * np.isfinite(flat).all(0)
    total = share @ np.nan_to_num(flat).T
    known = share.sum(1)
    with np.errstate(invalid="ignore"):
        return total / known[:, None], known, shapely.area(shapes)
