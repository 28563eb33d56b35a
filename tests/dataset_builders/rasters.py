"""GeoTIFFs for tests."""

import numpy as np


def write_raster(path, values, transform, crs="EPSG:4326", nodata=-99999.0, **profile):
    """Write `(height, width)` or `(bands, height, width)` values to a file; returns its path."""
    import rasterio

    bands = values if values.ndim == 3 else values[None]
    count, height, width = bands.shape
    size = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    place = {"crs": crs, "transform": transform, "nodata": nodata}
    with rasterio.open(path, "w", driver="GTiff", **size, **place, **profile) as dataset:
        dataset.write(np.asarray(bands))
    return path
