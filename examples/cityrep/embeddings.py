"""Embeddings from files: one multi-band raster per city, or a region table of this project."""

from collections.abc import Iterator
from glob import escape, glob
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from dataset_builders.files import digest
from dataset_builders.splits import spacing_m
from pipelines.common.errors import InputError
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.probe.city import open_city

from .systems import NoVectorsError, Vector
from .tasks import Ints, Task

NUMBERS_AT_ONCE = 2**25  # 128 MiB of float32


class RasterVectors:
    """Embeddings from one raster per city with one band per dimension.

    Rasters are aligned as in the release: unchanged if the grid is that of the labels, otherwise
    averaged over each cell, weighted by area and without nodata.

    Args:
        name: Name in the tables.
        pattern: Path with `{city}`, or the path of one raster for all cities.

    Raises:
        InputError: A file is missing or unreadable, or the numbers of bands differ.
    """

    def __init__(self, name: str, pattern: str):
        self.name, self.pattern = name, str(Path(pattern).expanduser())
        paths = sorted(map(Path, glob("*".join(map(escape, self.pattern.split("{city}"))))))
        if not paths:
            raise InputError(f"--raster {name}: no file at {pattern}.")
        bands = {path.name: self._bands(path) for path in paths}
        if len(set(bands.values())) > 1:
            counts = ", ".join(f"{path} has {count}" for path, count in bands.items())
            raise InputError(f"--raster {name}: the numbers of bands differ: {counts}.")
        stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        self.fingerprint = digest(stamps)

    def chunks(self, task: Task) -> Iterator[tuple[Ints, Vector]]:
        """See [`systems.Vectors`]; yields a few grid rows at a time."""
        path, grid = Path(self.pattern.replace("{city}", task.city)), task.grid
        if not path.is_file():
            raise NoVectorsError(f"{self.name} has no raster for {task.city}: no file at {path}.")
        shape = {"transform": grid.transform, "width": grid.width, "height": grid.height}
        mean = {"resampling": Resampling.average, "nodata": np.nan, "dtype": "float32"}
        try:
            with (
                rasterio.open(path) as file,
                WarpedVRT(file, crs=grid.crs, **shape, **mean) as warped,
            ):
                height = max(1, NUMBERS_AT_ONCE // (grid.width * file.count))
                for top in range(0, grid.height, height):
                    rows = np.flatnonzero((task.row >= top) & (task.row < top + height))
                    if len(rows):
                        window = Window(0, top, grid.width, min(height, grid.height - top))
                        part = warped.read(window=window)
                        yield rows, part[:, task.row[rows] - top, task.col[rows]].T
        except RasterioError as error:
            raise InputError(self._unreadable(path, error)) from error

    def _bands(self, path: Path) -> int:
        try:
            with rasterio.open(path) as file:
                if file.crs is None:
                    raise InputError(f"--raster {self.name}: {path} has no CRS.")
                return int(file.count)
        except RasterioError as error:
            raise InputError(self._unreadable(path, error)) from error

    def _unreadable(self, path: Path, error: Exception) -> str:
        return f"--raster {self.name}: {path} cannot be read: {error}."


class TableVectors:
    """Embeddings from a table of `python evaluate.py embed`, by the region that contains a cell.

    Cells outside all regions take the nearest one within the typical distance between the centres
    of neighbouring regions.

    Args:
        name: Name in the tables.
        path: Path of the table; its metadata name the dataset and the city.
        dataset: Dataset folder, overriding that of the metadata.

    Raises:
        InputError: The table or the dataset cannot be read, or has no vector.
    """

    def __init__(self, name: str, path: Path, dataset: str | None = None):
        if not path.is_file():
            raise InputError(f"--table {name}: no file at {path}.")
        self.name, table = name, read_embeddings(path)
        if not table.views:
            raise InputError(f"--table {name}: {path} has no embeddings.")
        self.city, self.fingerprint = str(table.metadata.get("city")), table.hash
        dataset = dataset or table.metadata.get("dataset")
        if not dataset:
            raise InputError(f"--table {name}: {path} does not name its dataset. Set --dataset.")
        city = open_city(str(dataset), self.city)
        rows = {region: row for row, region in enumerate(table.region_ids)}
        regions = city.regions[city.regions["region_id"].isin(rows)]
        if regions.empty:
            raise InputError(
                f"--table {name}: none of its regions is in {dataset}. Set --dataset to the "
                "dataset of the table."
            )
        self.vectors = table.matrix(table.views[0])[[rows[one] for one in regions["region_id"]]]
        self.regions = regions[["geometry"]].reset_index(drop=True)

    def chunks(self, task: Task) -> Iterator[tuple[Ints, Vector]]:
        """See [`systems.Vectors`]."""
        if task.city != self.city:
            raise NoVectorsError(f"{self.name} is a table of {self.city}, not of {task.city}.")
        plane = self.regions.estimate_utm_crs()
        regions = self.regions.to_crs(plane)
        middles = regions.centroid
        reach = spacing_m(np.column_stack([middles.x, middles.y])) if len(regions) > 1 else None
        height = max(1, NUMBERS_AT_ONCE // self.vectors.shape[1])
        for start in range(0, len(task), height):
            lonlat = task.lonlat[start : start + height]
            points = gpd.GeoDataFrame(geometry=gpd.points_from_xy(*lonlat.T, crs="EPSG:4326"))
            near = gpd.sjoin_nearest(points.to_crs(plane), regions, max_distance=reach)
            near = near[~near.index.duplicated()]["index_right"]  # the first if equally near
            found = np.full((len(lonlat), self.vectors.shape[1]), np.nan, np.float32)
            found[near.index] = self.vectors[near]
            yield np.arange(start, start + len(lonlat)), found


__all__ = ["RasterVectors", "TableVectors"]
