"""Speed and memory of regions, zonal statistics and point counts, as ratios within one run.

python -m benchmarks.geography             # all
python -m benchmarks.geography zonal       # zonal statistics vs. exactextract
python -m benchmarks.geography embeddings  # region means of an embedding raster vs. exactextract
python -m benchmarks.geography points      # 1 million points vs. geopandas.sjoin
python -m benchmarks.geography squares     # 1 million squares: seconds and peak memory
python -m benchmarks.geography plan        # plan of a million regions with map tiles
python -m benchmarks.geography memory      # zonal statistics of 10,000 vs. 100,000 regions
python -m benchmarks.geography build       # build of 10,000 vs. 100,000 regions
"""

import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import shapely
from rasterio.transform import from_origin

from benchmarks.measure import alternate, in_subprocess, peak_mb, timed
from dataset_builders.assignment import assign_points
from dataset_builders.indicators import zonal
from dataset_builders.regions import square_grid

MODULE = "benchmarks.geography"
TURNS = 5
BOUNDARY = shapely.box(116.0, 39.55, 117.0, 40.4)
BBOX = [116.0, 39.5, 117.18, 40.4]  # a million squares of 100 m
NODATA = -99999.0
BANDS = 64


def population(path: Path, pixels: int = 1200) -> Path:
    """Synthetic population raster of 3 arc seconds (100 m) around Beijing, a tenth without data."""
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(0, 2, (pixels, pixels)))
    values[rng.random(values.shape) < 0.1] = NODATA
    place = from_origin(116.0, 40.4, 1 / pixels, 1 / pixels)
    shape = {"count": 1, "height": pixels, "width": pixels, "dtype": "float64", "nodata": NODATA}
    stored: dict[str, Any] = {"driver": "GTiff", "tiled": True, "compress": "deflate"}
    with rasterio.open(path, "w", crs="EPSG:4326", transform=place, **shape, **stored) as file:
        file.write(values, 1)
    return path


def earth_embeddings(path: Path, cells: int = 2048) -> Path:
    """Raster in AlphaEarth's layout: 64 int8 bands that vary smoothly, cells of 10 m."""
    y, x = np.mgrid[:cells, :cells] / 400
    place = from_origin(440_000, 4_430_000, 10, 10)
    shape = {"count": BANDS, "height": cells, "width": cells, "dtype": "int8", "nodata": -128}
    stored: dict[str, Any] = {"driver": "GTiff", "compress": "deflate", "zlevel": 1}
    blocks = {"tiled": True, "blockxsize": 1024, "blockysize": 1024, "predictor": 2}
    options = {**shape, **stored, **blocks}
    with rasterio.open(path, "w", crs="EPSG:32650", transform=place, **options) as file:
        for band in range(BANDS):
            value = np.sin(x * (band % 7) + y * (band % 5) + band) / np.sqrt(BANDS / 2)
            stored_value = np.round(np.sign(value) * np.sqrt(np.abs(value)) * 127.5)
            file.write(stored_value.astype(np.int8), band + 1)
    return path


def direct(path: Path, regions: gpd.GeoDataFrame, operations: Any) -> pd.DataFrame:
    """Statistics by exactextract with its documented call."""
    import exactextract

    return exactextract.exact_extract(
        str(path), regions, operations, strategy="raster-sequential", output="pandas"
    )


def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
    seconds = alternate(TURNS, ours=ours, theirs=theirs)
    mine, other = (seconds[key][:, 0] for key in ("ours", "theirs"))
    print(
        f"{name}: {mine.min():.3f} s, reference {other.min():.3f} s; median ratio of {TURNS} runs "
        f"{np.median(mine / other):.3f} ({np.median(other / mine):.0f}x)"
    )


def zonal_speed() -> None:
    """Ratio of the time of `zonal` to that of exactextract."""
    with tempfile.TemporaryDirectory() as folder:
        path = population(Path(folder) / "people.tif")
        for side in (3000, 1000, 300):
            regions = square_grid(BOUNDARY, side)[["geometry"]]
            found, expected = zonal(path, regions, "count"), direct(path, regions, ["sum"])
            known = found["value"].notna().to_numpy()
            off = np.abs(found["value"][known] / expected["sum"].to_numpy()[known] - 1).max()
            compare(
                f"zonal count, {len(regions)} squares of {side} m (largest relative difference "
                f"{off:.0e})",
                partial(zonal, path, regions, "count"),
                partial(direct, path, regions, ["sum", "count"]),
            )


def embedding_speed(cells: int = 2048) -> None:
    """Ratio of the time of dequantised region means to that of means of the stored values."""
    from pipelines.evaluation.embed.raster import region_means

    with tempfile.TemporaryDirectory() as folder:
        path = earth_embeddings(Path(folder) / "earth.tif", cells)
        for side in (1000.0, 300.0):
            steps = np.arange(0, 10 * cells - side, side) + 3.7  # not aligned with the cells
            x, y = (one.ravel() for one in np.meshgrid(440_000 + steps, 4_430_000 - steps))
            squares = shapely.box(x, y - side, x + side, y)
            regions = gpd.GeoDataFrame(geometry=squares, crs="EPSG:32650")
            degrees = regions.assign(region_id=regions.index.astype(str)).to_crs("EPSG:4326")
            compare(
                f"means of {BANDS} bands, {len(regions)} squares of {side:g} m",
                partial(region_means, [path], degrees),
                partial(direct, path, regions, "mean"),
            )


def point_speed(count: int = 1_000_000) -> None:
    """Speed-up over a spatial join, without the creation of its points."""
    rng = np.random.default_rng(0)
    west, south, east, north = BOUNDARY.bounds
    lon, lat = rng.uniform(west, east, count), rng.uniform(south, north, count)
    points = gpd.GeoDataFrame(geometry=gpd.points_from_xy(lon, lat), crs="EPSG:4326")
    for side in (1000, 500):
        regions = square_grid(BOUNDARY, side)
        shapes = regions[["geometry"]]
        joined = gpd.sjoin(points, shapes)
        expected = np.full(count, -1)
        expected[joined.index] = joined["index_right"]
        other = np.count_nonzero(assign_points(lon, lat, regions) != expected)
        compare(
            f"{count:,} points to {len(regions)} squares of {side} m ({other} differ)",
            partial(assign_points, lon, lat, regions),
            partial(gpd.sjoin, points, shapes),
        )


def make_squares() -> dict[str, Any]:
    """Create a million squares."""
    (seconds, _), regions = timed(square_grid, shapely.box(*BBOX), 100)
    return {"count": len(regions), "seconds": seconds, "peak_mb": peak_mb()}


def plan_city(folder: str) -> dict[str, Any]:
    """Plan a city of a million squares with map tiles."""
    from dataset_builders.city.planning import plan
    from dataset_builders.city.recipe import read_recipe

    url = "https://tiles.example.org/{z}/{x}/{y}.jpg"
    recipe = {
        "city": "city",
        "boundary": {"bbox": BBOX},
        "regions": {"side_m": 100},
        "satellite": {"provider": "tiles", "name": "tiles", "url": url, "zoom": 17},
    }
    path = Path(folder) / "city.json"
    path.write_text(json.dumps(recipe))
    (seconds, _), found = timed(plan, read_recipe(path), Path(folder) / "city")
    return {"count": found.regions, "seconds": seconds, "peak_mb": peak_mb()}


def side_of(count: str) -> float:
    """Side in metres of about `count` squares within the boundary."""
    side: float = (BOUNDARY.area * 9.5e9 / int(count)) ** 0.5
    return side


def sum_regions(count: str, folder: str) -> dict[str, Any]:
    """Compute zonal statistics of squares."""
    regions = square_grid(BOUNDARY, side_of(count))[["geometry"]].iloc[: int(count)]
    found = zonal(Path(folder) / "people.tif", regions, "count")
    return {"count": len(found), "peak_mb": peak_mb()}


def build_city(count: str, folder: str) -> dict[str, Any]:
    """Build a city of squares with two indicators."""
    from dataset_builders.city.build import build
    from dataset_builders.city.recipe import read_recipe

    people = {"kind": "count", "cell_unit": "people", "unit": "people"}
    raster = {**people, "licence": "cc0-1.0", "period": "2020"}
    recipe = {
        "city": f"city_{count}",
        "boundary": {"bbox": list(BOUNDARY.bounds)},
        "regions": {"side_m": side_of(count), "plane": "epsg32650"},
        "indicators": [
            {"name": name, "reader": "raster", "files": "people.tif", "raster": raster}
            for name in ("population", "poi")
        ],
        "synthetic": True,
    }
    path = Path(folder) / f"{count}.json"
    path.write_text(json.dumps(recipe))
    report = build(read_recipe(path), Path(folder) / count, draw=False)
    (rows,) = report.rows.values()
    return {"count": rows, "peak_mb": peak_mb()}


CHILDREN = {part.__name__: part for part in (make_squares, plan_city, sum_regions, build_city)}


def time_and_memory(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        done = in_subprocess(MODULE, name, *([folder] if name == "plan_city" else []))
    print(f"{name}, {done['count']:,}: {done['seconds']:.1f} s, {done['peak_mb']:.0f} MB at most")


def memory_growth(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        population(Path(folder) / "people.tif")
        few, many = (in_subprocess(MODULE, name, count, folder) for count in (10_000, 100_000))
    print(
        f"{name}: peak memory {few['peak_mb']:.0f} MB for {few['count']:,} regions, "
        f"{many['peak_mb']:.0f} MB for {many['count']:,}: {many['peak_mb'] / few['peak_mb']:.2f}x"
    )


def main() -> None:
    name, *rest = sys.argv[1:] or [""]
    if name in CHILDREN:
        print(json.dumps(CHILDREN[name](*rest)))
        return
    parts: dict[str, Callable[[], None]] = {
        "zonal": zonal_speed,
        "embeddings": embedding_speed,
        "points": point_speed,
        "squares": lambda: time_and_memory("make_squares"),
        "plan": lambda: time_and_memory("plan_city"),
        "memory": lambda: memory_growth("sum_regions"),
        "build": lambda: memory_growth("build_city"),
    }
    for part in [parts[name]] if name else parts.values():
        part()


if __name__ == "__main__":
    main()
