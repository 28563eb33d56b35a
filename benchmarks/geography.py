"""Speed and memory of regions, zonal statistics and point counts, as ratios within one run.

python -m benchmarks.geography             # all
python -m benchmarks.geography zonal       # zonal statistics vs. exactextract
python -m benchmarks.geography points      # 1 million points vs. geopandas.sjoin
python -m benchmarks.geography squares     # 1 million squares: seconds and peak memory
python -m benchmarks.geography memory      # zonal statistics of 10,000 vs. 100,000 regions
python -m benchmarks.geography plan        # plan of a million regions with map tiles
python -m benchmarks.geography build       # build of 10,000 vs. 100,000 regions
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from dataset_builders.assignment import assign_points
from dataset_builders.indicators import zonal
from dataset_builders.regions import square_grid

TURNS = 5
BOUNDARY = shapely.box(116.0, 39.55, 117.0, 40.4)
NODATA = -99999.0


def raster(path: Path, pixels: int = 1200) -> Path:
    """Synthetic population raster of 3 arc seconds (100 m) around Beijing, a tenth without data."""
    import rasterio
    from rasterio.transform import from_origin

    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(0, 2, (pixels, pixels)))
    values[rng.random(values.shape) < 0.1] = NODATA
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=pixels,
        width=pixels,
        dtype="float64",
        crs="EPSG:4326",
        transform=from_origin(116.0, 40.4, 1 / pixels, 1 / pixels),
        nodata=NODATA,
        tiled=True,
        compress="deflate",
    ) as dataset:
        dataset.write(values, 1)
    return path


def seconds_of(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function(*args, **options)
    return time.perf_counter() - start, result


def peak_mb() -> float:
    # not getrusage, whose value in a child starts at that of its parent
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def direct(path: Path, regions: gpd.GeoDataFrame) -> pd.DataFrame:
    """Sums by exactextract with its documented call."""
    import exactextract

    return exactextract.exact_extract(
        str(path), regions, ["sum", "count"], strategy="raster-sequential", output="pandas"
    )


def zonal_speed() -> None:
    """Ratio of the time of `zonal` to that of exactextract."""
    with tempfile.TemporaryDirectory() as folder:
        path = raster(Path(folder) / "people.tif")
        for side in (3000, 1000, 300):
            regions = square_grid(BOUNDARY, side)[["geometry"]]
            ours, theirs = [], []
            for _ in range(TURNS):  # alternating, so that other load affects both
                seconds, found = seconds_of(zonal, path, regions, "count")
                ours.append(seconds)
                seconds, expected = seconds_of(direct, path, regions)
                theirs.append(seconds)
            known = found["value"].notna().to_numpy()
            off = np.abs(found["value"][known] / expected["sum"].to_numpy()[known] - 1).max()
            ratio = np.median(np.array(ours) / np.array(theirs))
            print(
                f"zonal count, {len(regions)} squares of {side} m, 100-m cells: "
                f"{min(ours):.2f} s, exactextract {min(theirs):.2f} s; median ratio of {TURNS} "
                f"runs {ratio:.2f}; largest relative difference {off:.0e}"
            )


def point_speed(count: int = 1_000_000) -> None:
    """Ratio of the time of a spatial join, without creating its points, to that of assignment."""
    rng = np.random.default_rng(0)
    west, south, east, north = BOUNDARY.bounds
    lon, lat = rng.uniform(west, east, count), rng.uniform(south, north, count)
    making, points = seconds_of(
        lambda: gpd.GeoDataFrame(geometry=gpd.points_from_xy(lon, lat), crs="EPSG:4326")
    )
    for side in (1000, 500):
        regions = square_grid(BOUNDARY, side)
        ours, theirs = [], []
        for _ in range(TURNS):
            seconds, found = seconds_of(assign_points, lon, lat, regions)
            ours.append(seconds)
            seconds, joined = seconds_of(gpd.sjoin, points, regions[["geometry"]])
            theirs.append(seconds)
        expected = np.full(count, -1)
        expected[joined.index] = joined["index_right"]
        ratio = np.median(np.array(theirs) / np.array(ours))
        total = (making + min(theirs)) / min(ours)
        print(
            f"{count:,} points to {len(regions)} squares of {side} m: {min(ours):.3f} s, sjoin "
            f"{min(theirs):.2f} s; median ratio of {TURNS} runs {ratio:.0f}x, {total:.0f}x "
            f"including {making:.1f} s to create its points; "
            f"{np.count_nonzero(found != expected)} points assigned differently, "
            f"{len(joined) - np.count_nonzero(expected >= 0)} duplicated by sjoin"
        )


def make_squares() -> None:
    """Create a million squares and print time and peak memory (in a subprocess)."""
    before = peak_mb()
    seconds, regions = seconds_of(square_grid, shapely.box(116.0, 39.5, 117.18, 40.4), 100)
    done = {"count": len(regions), "seconds": seconds, "before": before, "peak_mb": peak_mb()}
    print(json.dumps(done))


def plan_city(folder: str) -> None:
    """Plan a city of a million squares with map tiles and print time and memory (subprocess)."""
    from dataset_builders.city.planning import plan
    from dataset_builders.city.recipe import read_recipe

    url = "https://tiles.example.org/{z}/{x}/{y}.jpg"
    recipe = {
        "city": "city",
        "boundary": {"bbox": [116.0, 39.5, 117.18, 40.4]},
        "regions": {"side_m": 100},
        "satellite": {"provider": "tiles", "name": "tiles", "url": url, "zoom": 17},
    }
    path = Path(folder) / "city.json"
    path.write_text(json.dumps(recipe))
    seconds, found = seconds_of(plan, read_recipe(path), Path(folder) / "city")
    print(json.dumps({"count": found.regions, "seconds": seconds, "peak_mb": peak_mb()}))


def sum_regions(count: str, path: str) -> None:
    """Compute zonal statistics of squares and print peak memory in MB (in a subprocess)."""
    import rasterio  # noqa: F401  (its memory is not counted)

    side = (BOUNDARY.area * 9.5e9 / int(count)) ** 0.5
    regions = square_grid(BOUNDARY, side)[["geometry"]].iloc[: int(count)]
    made = peak_mb()
    # reset the peak to the current memory
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_mb()
    found = zonal(path, regions, "count")
    after = peak_mb()
    done = {"count": len(found), "added_mb": after - before, "peak_mb": max(made, after)}
    print(json.dumps(done))


def build_city(count: str, folder: str) -> None:
    """Build a city of squares with two indicators and print its peak memory (in a subprocess)."""
    from dataset_builders.city.build import build
    from dataset_builders.city.recipe import read_recipe

    side = (BOUNDARY.area * 9.5e9 / int(count)) ** 0.5
    described = {
        "kind": "count",
        "cell_unit": "people",
        "unit": "people",
        "licence": "cc0-1.0",
        "period": "2020",
    }
    recipe = {
        "city": f"city_{count}",
        "boundary": {"bbox": list(BOUNDARY.bounds)},
        "regions": {"side_m": side, "plane": "epsg32650"},
        "indicators": [
            {"name": name, "reader": "raster", "files": "people.tif", "raster": described}
            for name in ("population", "poi")
        ],
        "synthetic": True,
    }
    path = Path(folder) / f"{count}.json"
    path.write_text(json.dumps(recipe))
    before = peak_mb()
    report = build(read_recipe(path), Path(folder) / count, draw=False)
    (rows,) = report.rows.values()
    print(json.dumps({"count": rows, "before": before, "peak_mb": peak_mb()}))


def child(*args: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.geography", *args]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def squares() -> None:
    done = child("make_squares")
    print(
        f"{done['count']:,} squares: {done['seconds']:.1f} s, peak memory {done['peak_mb']:.0f} MB "
        f"({done['before']:.0f} MB before)"
    )


def plan() -> None:
    with tempfile.TemporaryDirectory() as folder:
        done = child("plan_city", folder)
    print(
        f"plan of {done['count']:,} regions with map tiles: {done['seconds']:.1f} s, peak memory "
        f"{done['peak_mb']:.0f} MB"
    )


def memory() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = raster(Path(folder) / "people.tif")
        few, many = (child("sum_regions", str(count), str(path)) for count in (10_000, 100_000))
    print(
        f"zonal statistics: {few['added_mb']:.0f} MB in addition to {few['count']:,} regions, "
        f"{many['added_mb']:.0f} MB to {many['count']:,}; peak memory of the process "
        f"{few['peak_mb']:.0f} and {many['peak_mb']:.0f} MB: "
        f"{many['peak_mb'] / few['peak_mb']:.2f}x"
    )


def build_memory() -> None:
    with tempfile.TemporaryDirectory() as folder:
        raster(Path(folder) / "people.tif")
        few, many = (child("build_city", str(count), folder) for count in (10_000, 100_000))
    print(
        f"build: peak memory {few['peak_mb']:.0f} MB for {few['count']:,} regions and "
        f"{many['peak_mb']:.0f} MB for {many['count']:,}: {many['peak_mb'] / few['peak_mb']:.2f}x; "
        f"{few['before']:.0f} MB before the build"
    )


def main() -> None:
    name, *rest = sys.argv[1:] or [""]
    children = (make_squares, sum_regions, plan_city, build_city)
    parts: dict[str, Callable[[], None]] = {
        "zonal": zonal_speed,
        "points": point_speed,
        "squares": squares,
        "memory": memory,
        "plan": plan,
        "build": build_memory,
    }
    if name:
        {**parts, **{part.__name__: part for part in children}}[name](*rest)
    else:
        for part in parts.values():
            part()


if __name__ == "__main__":
    main()
