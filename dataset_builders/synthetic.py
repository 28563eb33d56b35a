"""The embedded city: a synthetic dataset, built anywhere, with no licence question.

    python -m dataset_builders.synthetic --output_dir runs/city
    python -m dataset_builders.synthetic --output_dir runs/four --cities all --grid_size 24

A simulated world (see `embedded_city`) is rendered region by region into the layout of every
other dataset: satellite tiles, street views, captions, indicators. A build that was killed goes on
where it was, and ends with the same files, however many processes took part.

Beside the dataset lies `truth/`: what each picture holds, and what each caption gets wrong; and
`map/`: roads and points of interest as a map would have them.
"""

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely
from tqdm import tqdm

from .embedded_city.captioners import (
    CAPTIONERS,
    Caption,
    reference_caption,
    satellite_facts,
    street_view_facts,
    truth_record,
    write_caption,
)
from .embedded_city.labels import indicators, points_of_interest, roads
from .embedded_city.satellite import TILE_PX, render_tile
from .embedded_city.street_view import render_street_view
from .embedded_city.styles import STYLES
from .embedded_city.world import CELL_KM, World
from .images import encode_image
from .publish import write_card
from .schema import INDICATORS, VIEWS, DatasetMetadata
from .splits import region_splits
from .storage import DatasetWriter

SOURCE, LICENCE, PROMPT = "synthetic", "cc0-1.0", "synthetic-1"
REGIONS_PER_SHARD = 64
JPEG_QUALITY = 90
DEGREES_OF_VIEWS = ("street_view", "satellite")
CaptionSource = Literal["noisy", "reference"]

NOTES = (
    "Everything here is synthetic: simulated images, captions and indicators of a city that does "
    "not exist.",
    "The captions carry the errors of five simulated captioners with known rates; truth/ lists "
    "them.",
    "Labels carry noise that no picture shows, so no encoder can reach R2 = 1.",
)


@dataclass(frozen=True)
class _Job:
    """One region to render, in whatever process."""

    city: str
    grid_size: int
    seed: int
    street_views: int
    caption_source: CaptionSource
    column: int
    row: int


def build_dataset(
    output_dir: str | Path,
    cities: Sequence[str] = ("harborview",),
    grid_size: int = 20,
    street_views: int = 3,
    seed: int = 0,
    caption_source: CaptionSource = "noisy",
    num_workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Build synthetic cities as a dataset; go on where an earlier build was stopped.

    Args:
        output_dir: the dataset folder.
        cities: of `STYLES`.
        grid_size: regions of 1 km a side, 3 at least.
        street_views: a region.
        seed: of everything; the same seed is the same bytes.
        caption_source: "noisy", the image's caption is that of one of the captioners, or
            "reference", it is true and complete.
        num_workers: processes; one for each core by default.
        progress: show a bar.

    Returns:
        The folder.

    Raises:
        ValueError: an unknown city, or a grid below 3.
        DatasetError: the folder holds another dataset.
    """
    root = Path(output_dir)
    parameters = {
        "grid_size": grid_size,
        "street_views": street_views,
        "seed": seed,
        "caption_source": caption_source,
    }
    worlds = {city: World(city, grid_size, seed) for city in cities}
    writer = DatasetWriter(root, _metadata(cities, parameters))
    workers = num_workers or os.cpu_count() or 1
    total = len(worlds) * grid_size**2
    with _pool(workers) as pool, tqdm(total=total, unit="region", disable=not progress) as bar:
        for world in worlds.values():
            bar.set_description(f"{world.city} (synthetic)")
            writer.write_shard(world.city, "regions", 0, _region_rows(world))
            _write_map(root, world)
            for shard, cells in enumerate(_shards(grid_size)):
                jobs = [
                    _Job(world.city, grid_size, seed, street_views, caption_source, *cell)
                    for cell in cells
                ]
                _write_shard(writer, root, shard, jobs, pool)
                bar.update(len(cells))
    writer.finish()
    write_card(root)
    return root


def _metadata(cities: Sequence[str], parameters: dict[str, Any]) -> DatasetMetadata:
    names = ", ".join(STYLES[city].title for city in cities if city in STYLES)
    return DatasetMetadata(
        title=f"Synthetic cities: {names}",
        description=(
            "A procedural simulation of cities: satellite tiles, street views, long captions and "
            "seven indicators that follow from one latent map. It serves to run and to judge "
            "methods without a network; results on it are results on synthetic data."
        ),
        source=SOURCE,
        licence=LICENCE,
        synthetic=True,
        indicators=tuple(INDICATORS.values()),
        parameters=parameters,
        notes=NOTES,
    )


def _pool(workers: int) -> ProcessPoolExecutor:
    # spawned, not forked: the caller may have threads
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _shards(grid_size: int) -> Iterator[list[tuple[int, int]]]:
    """(column, row) of the regions of each shard, row by row from the south-west."""
    cells = [(column, row) for row in range(grid_size) for column in range(grid_size)]
    for start in range(0, len(cells), REGIONS_PER_SHARD):
        yield cells[start : start + REGIONS_PER_SHARD]


# ---- regions ----------------------------------------------------------------------------------


def region_id(city: str, column: int, row: int) -> str:
    """Id of a region: "harborview_007_012", column from the west, row from the south."""
    return f"{city}_{column:03d}_{row:03d}"


class _Plane:
    """The city's kilometres to degrees, by the UTM zone of its centre."""

    def __init__(self, world: World):
        style = world.style
        zone = int((style.lon + 180) // 6) + 1
        utm = pyproj.CRS.from_epsg(32600 + zone)
        self.to_degrees = pyproj.Transformer.from_crs(utm, "EPSG:4326", always_xy=True)
        x, y = self.to_degrees.transform(style.lon, style.lat, direction="INVERSE")
        # whole kilometres, whatever the size of the grid: a larger city keeps its cells
        self.origin = (
            np.round(np.array([x, y]) / 1000) * 1000 - 500 * world.extent_km // 1000 * 1000
        )

    def degrees(self, x_km: Any, y_km: Any) -> tuple[Any, Any]:
        """lon, lat (EPSG:4326) of places in km."""
        return self.to_degrees.transform(
            self.origin[0] + 1000 * np.asarray(x_km), self.origin[1] + 1000 * np.asarray(y_km)
        )


def _region_rows(world: World) -> Iterator[dict[str, Any]]:
    n = world.grid_size
    plane, values = _Plane(world), indicators(world)
    rows, columns = (index.ravel() for index in np.divmod(np.arange(n * n), n))
    lon, lat = plane.degrees((columns + 0.5) * CELL_KM, (rows + 0.5) * CELL_KM)
    splits, _ = region_splits(lon, lat, 1000 * CELL_KM, world.seed)
    geod = pyproj.Geod(ellps="WGS84")
    for index, (column, row) in enumerate(zip(columns.tolist(), rows.tolist(), strict=True)):
        corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) + np.array([column, row])
        polygon = shapely.Polygon(np.column_stack(plane.degrees(*(corners * CELL_KM).T)))
        labels = {name: float(field[row, column]) for name, field in values.items()}
        yield {
            "region_id": region_id(world.city, column, row),
            "city": world.city,
            "geometry": polygon,
            "lon": float(lon[index]),
            "lat": float(lat[index]),
            "area_m2": abs(geod.geometry_area_perimeter(polygon)[0]),
            **labels,
            **{f"{name}_source": SOURCE for name in labels},
            **{name: column_values[index] for name, column_values in splits.items()},
        }


def _write_map(root: Path, world: World) -> None:
    """Roads and points of interest, GeoParquet, EPSG:4326; a small area, or it grows too large."""
    folder = root / "map"
    targets = folder / f"{world.city}-roads.parquet", folder / f"{world.city}-pois.parquet"
    if all(path.exists() for path in targets):
        return
    import geopandas as gpd

    plane, counts = _Plane(world), indicators(world)["poi"]
    lines: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    for row in range(world.grid_size):
        for column in range(world.grid_size):
            name = region_id(world.city, column, row)
            for road in roads(world, column, row):
                line = shapely.LineString(np.column_stack(plane.degrees(*road.points.T)))
                lines.append({"region_id": name, "highway": road.highway, "geometry": line})
            for poi in points_of_interest(world, column, row, int(counts[row, column])):
                place = shapely.Point(plane.degrees(poi["x_km"], poi["y_km"]))
                points.append({"region_id": name, "kind": poi["kind"], "geometry": place})
    folder.mkdir(parents=True, exist_ok=True)
    for path, rows_of in zip(targets, (lines, points), strict=True):
        temporary = path.with_name(f".{path.name}.tmp")
        gpd.GeoDataFrame(rows_of, geometry="geometry", crs="EPSG:4326").to_parquet(temporary)
        os.replace(temporary, path)


# ---- images and captions ----------------------------------------------------------------------


def _write_shard(
    writer: DatasetWriter, root: Path, shard: int, jobs: list[_Job], pool: ProcessPoolExecutor
) -> None:
    """Tables of one shard; the truth first, for a finished shard is not looked at again."""
    city = jobs[0].city
    tables = (*VIEWS, "captions")
    if jobs[0].street_views == 0:
        tables = ("satellite", "captions")
    if all(writer.has_shard(city, table, shard) for table in tables):
        return
    rendered = list(pool.map(_render, jobs, chunksize=2))
    _write_truth(root, city, shard, [record for result in rendered for record in result["truth"]])
    for table in tables:
        writer.write_shard(
            city, table, shard, (row for result in rendered for row in result[table])
        )


def _write_truth(root: Path, city: str, shard: int, records: list[dict[str, Any]]) -> None:
    path = root / "truth" / city / f"part-{shard:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(pa.Table.from_pylist(records), temporary)
    os.replace(temporary, path)


@cache
def _world(city: str, grid_size: int, seed: int) -> World:
    return World(city, grid_size, seed)


def _render(job: _Job) -> dict[str, list[dict[str, Any]]]:
    """Everything of one region: rows of the tables, and the truth."""
    world = _world(job.city, job.grid_size, job.seed)
    plane = _Plane(world)
    out: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("street_view", "satellite", "captions", "truth")
    }
    name = region_id(job.city, job.column, job.row)
    common = {"region_id": name, "source": SOURCE, "licence": LICENCE}
    tile = render_tile(world, job.column, job.row)
    tile_facts = satellite_facts(tile)
    image_id = f"{name}_sat"
    out["satellite"].append(
        {
            "image": _jpeg(tile.image, image_id),
            "image_id": image_id,
            "ground_resolution_m": 1000 * CELL_KM / TILE_PX,
            **common,
            **_captions(job, world, image_id, tile_facts, "satellite", 99, [], out),
        }
    )
    for view in range(job.street_views):
        scene = render_street_view(world, job.column, job.row, view)
        lon, lat = plane.degrees(scene.x_km, scene.y_km)
        image_id = f"{name}_sv{view}"
        objects = [asdict(item) for item in scene.objects]
        facts = street_view_facts(scene)
        out["street_view"].append(
            {
                "image": _jpeg(scene.image, image_id),
                "image_id": image_id,
                "lon": float(lon),
                "lat": float(lat),
                "heading": scene.heading,
                **common,
                **_captions(job, world, image_id, facts, "street_view", view, objects, out),
            }
        )
    return out


def _jpeg(image: Any, image_id: str) -> dict[str, Any]:
    return {"bytes": encode_image(image, "JPEG", JPEG_QUALITY), "path": f"{image_id}.jpg"}


def _captions(
    job: _Job,
    world: World,
    image_id: str,
    facts: list[Any],
    view: str,
    number: int,
    objects: list[dict[str, Any]],
    out: dict[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    """Candidates and truths of an image; returns the caption columns of its own row."""
    rng = np.random.default_rng([world.hash_seed, 31, job.column, job.row, number])
    reference = reference_caption(facts, view)
    noisy = [write_caption(captioner, facts, view, rng) for captioner in CAPTIONERS]
    chosen: Caption = noisy[int(rng.integers(len(noisy)))]
    if job.caption_source == "reference":
        chosen = reference
    for caption in (reference, *noisy):
        stage = "reference" if caption is reference else "generate"
        out["captions"].append(
            {
                "image_id": image_id,
                "model": caption.model,
                "prompt_version": PROMPT,
                "stage": stage,
                "text": caption.text,
                "kept": caption is chosen,
            }
        )
    out["truth"].append(
        {
            "image_id": image_id,
            "facts": [f"{fact.value} {fact.key}" for fact in facts],
            "captions": [truth_record(caption) for caption in noisy],
            "objects": json.dumps(objects),
        }
    )
    return {"caption": chosen.text, "caption_model": chosen.model}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m dataset_builders.synthetic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output_dir", required=True, help="dataset folder")
    parser.add_argument(
        "--cities", nargs="+", default=["harborview"], help=f"all, or some of {', '.join(STYLES)}"
    )
    parser.add_argument("--grid_size", type=int, default=20, help="regions of 1 km a side")
    parser.add_argument("--street_views", type=int, default=3, help="street views a region")
    parser.add_argument("--seed", type=int, default=0, help="the same seed is the same city")
    parser.add_argument(
        "--caption_source",
        choices=("noisy", "reference"),
        default="noisy",
        help="the images' captions: of a simulated captioner with its errors, or true ones",
    )
    parser.add_argument("--num_workers", type=int, default=None, help="processes (default: cores)")
    args = parser.parse_args(argv)
    cities = list(STYLES) if args.cities == ["all"] else args.cities
    try:
        root = build_dataset(
            args.output_dir,
            cities,
            args.grid_size,
            args.street_views,
            args.seed,
            args.caption_source,
            args.num_workers,
            progress=True,
        )
    except ValueError as error:
        parser.error(str(error))
    print(f"Built {', '.join(STYLES[city].title for city in cities)} in {root}; see its README.md.")


if __name__ == "__main__":
    main()

__all__ = ["build_dataset", "main", "region_id"]
