"""Speed and memory of region means of embedding rasters, compared with exactextract.

OMP_NUM_THREADS=1 python -m benchmarks.raster            # both
OMP_NUM_THREADS=1 python -m benchmarks.raster speed
OMP_NUM_THREADS=1 python -m benchmarks.raster memory     # a file with four times as many cells

The file has the layout of AlphaEarth: 64 int8 bands, blocks of 1024 x 1024, cells of 10 m.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely

from benchmarks.geography import peak_mb, seconds_of

BANDS = 64
CRS = "EPSG:32650"
WEST, NORTH = 440_000.0, 4_430_000.0
TURNS = 3


def write_file(path: Path, cells: int) -> Path:
    """Write a square raster of unit vectors that vary smoothly in space; `cells` per side."""
    import rasterio
    from rasterio.transform import from_origin

    y, x = np.mgrid[:cells, :cells] / 400
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=BANDS,
        height=cells,
        width=cells,
        dtype="int8",
        nodata=-128,
        crs=CRS,
        transform=from_origin(WEST, NORTH, 10, 10),
        tiled=True,
        blockxsize=1024,
        blockysize=1024,
        compress="deflate",
        zlevel=1,
        predictor=2,
    ) as file:
        for band in range(BANDS // 2):
            turn = x * (band % 7) + y * (band % 5) + band
            for place, wave in enumerate((np.sin(turn), np.cos(turn))):
                value = wave / np.sqrt(BANDS / 2)
                stored = np.round(np.sign(value) * np.sqrt(np.abs(value)) * 127.5)
                file.write(stored.astype(np.int8), 2 * band + place + 1)
    return path


def squares(cells: int, side_m: float) -> gpd.GeoDataFrame:
    """Square regions over the raster, not aligned with its cells."""
    steps = np.arange(0, 10 * cells - side_m, side_m) + 3.7
    x, y = (axis.ravel() for axis in np.meshgrid(WEST + steps, NORTH - steps))
    frame = gpd.GeoDataFrame(geometry=shapely.box(x, y - side_m, x + side_m, y), crs=CRS)
    return frame.assign(region_id=[f"r{k}" for k in range(len(frame))])


def speed(cells: int = 2048) -> None:
    """Ratio of the time of region means to that of exactextract's means of the stored values."""
    import exactextract

    from pipelines.evaluation.embed.raster import region_means

    with tempfile.TemporaryDirectory() as folder:
        path = write_file(Path(folder) / "earth.tif", cells)
        for side_m in (1000.0, 300.0):
            regions = squares(cells, side_m)
            degrees = regions.to_crs("EPSG:4326")
            ours, theirs = [], []
            for _ in range(TURNS):  # alternating, so that other load affects both
                ours.append(seconds_of(region_means, [path], degrees)[0])
                options = {"strategy": "raster-sequential", "output": "pandas"}
                found = seconds_of(
                    exactextract.exact_extract, str(path), regions, "mean", **options
                )
                theirs.append(found[0])
            ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
            print(
                f"{BANDS} bands, {cells} x {cells} cells, {len(regions)} squares of {side_m:g} m: "
                f"{min(ours):.1f} s with de-quantisation, exactextract {min(theirs):.1f} s "
                f"without; median ratio of {TURNS} runs {ratio:.2f}"
            )


def means(cells: int, path: str) -> None:
    """Compute region means of a raster and print the peak memory in MB (in a subprocess)."""
    from pipelines.evaluation.embed.raster import region_means

    regions = squares(cells, 1000.0).to_crs("EPSG:4326")
    before = peak_mb()
    region_means([path], regions)
    print(json.dumps({"before": before, "peak": peak_mb()}))


def memory() -> None:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for cells in (2048, 4096):
            path = write_file(Path(folder) / f"{cells}.tif", cells)
            command = [sys.executable, "-m", "benchmarks.raster", "means", str(cells), str(path)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    few, many = found
    print(
        f"peak memory {many['peak']:.0f} MB for 4096 x 4096 cells, {few['peak']:.0f} MB for 2048 x "
        f"2048: {many['peak'] / few['peak']:.2f}x ({few['before']:.0f} MB before)"
    )


def main() -> None:
    name, *rest = sys.argv[1:] or [""]
    if name == "means":
        means(int(rest[0]), rest[1])
        return
    parts = {"speed": speed, "memory": memory}
    for part in [parts[name]] if name else parts.values():
        part()


if __name__ == "__main__":
    main()
