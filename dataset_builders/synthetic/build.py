"""Renders synthetic cities into the layout of every other dataset.

Resumable: a build that was killed continues with the same arguments and ends with the same files,
however many processes took part.
"""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely
from PIL import Image
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ..card import write_card
from ..files import WrittenFiles
from ..images import encode_image
from ..schema import INDICATORS, VIEWS, DatasetMetadata
from ..splits import region_splits
from ..storage import DatasetWriter
from .captioners import (
    CAPTIONERS,
    Caption,
    Fact,
    reference_caption,
    satellite_facts,
    street_view_facts,
    truth_record,
    write_caption,
)
from .labels import POI_KINDS, Road, indicators, points_of_interest, roads
from .noise import Floats
from .satellite import COVERS, MARKS, TILE_PX, render_tile
from .street_view import CLASSES, render_street_view
from .styles import STYLES
from .world import CELL_KM, World

SOURCE, LICENCE, PROMPT = "synthetic", "cc0-1.0", "synthetic-1"
REGIONS_PER_SHARD = 64
JPEG_QUALITY = 90
TILE_NUMBER = 99  # in the seeds of captions, where street views count from 0
CaptionSource = Literal["noisy", "reference"]
_Row = dict[str, Any]
_Rows = dict[str, list[_Row]]  # by table
# the facts in words and in parts; of each captioner, what it made up and what it left out; objects
# are JSON; masks of street views and covers of satellite tiles are PNG
TRUTH = pa.schema(
    [
        ("image_id", pa.string()),
        ("facts", pa.list_(pa.string())),
        (
            "statements",
            pa.list_(
                pa.struct([("key", pa.string()), ("value", pa.string()), ("weight", pa.float64())])
            ),
        ),
        (
            "captions",
            pa.list_(
                pa.struct(
                    [
                        ("model", pa.string()),
                        ("hallucinated", pa.list_(pa.string())),
                        ("omitted", pa.list_(pa.string())),
                    ]
                )
            ),
        ),
        ("objects", pa.string()),
        ("mask", pa.binary()),
        ("cover", pa.binary()),
    ],
    metadata={
        b"urbanln": json.dumps(
            {"synthetic": True, "classes": CLASSES, "covers": COVERS, "marks": MARKS}
        ).encode()
    },
)

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
    with_masks: bool
    column: int
    row: int


@dataclass(frozen=True)
class _Image:
    """An image to be captioned."""

    view: str
    image_id: str
    number: int
    facts: list[Fact]
    objects: tuple[_Row, ...] = ()
    mask: bytes | None = None
    cover: bytes | None = None


_Pool = Callable[[list[_Job]], list[_Rows]]


def build_dataset(
    output_dir: str | Path,
    cities: Sequence[str] = ("harborview",),
    grid_size: int = 20,
    street_views: int = 3,
    seed: int = 0,
    caption_source: CaptionSource = "noisy",
    with_masks: bool = False,
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
        with_masks: store in `truth/` the street views' masks (PNG, index into `CLASSES`) and the
            tiles' covers (PNG, index into `COVERS` plus `MARKS`).
        num_workers: processes; one for each core by default.
        progress: show a bar.

    Returns:
        The folder.

    Raises:
        ValueError: an unknown city, a grid below 3, or fewer than no views or one worker.
        DatasetError: the folder holds another dataset.
    """
    root = Path(output_dir)
    parameters = {
        "grid_size": grid_size,
        "street_views": street_views,
        "seed": seed,
        "caption_source": caption_source,
        "with_masks": with_masks,
    }
    workers = (os.cpu_count() or 1) if num_workers is None else num_workers
    for name, number, least in (("street_views", street_views, 0), ("num_workers", workers, 1)):
        if number < least:
            raise ValueError(f"`{name}` must be {least} or more, got {number}.")
    worlds = {city: World(city, grid_size, seed) for city in cities}
    writer = DatasetWriter(root, _metadata(cities, parameters))
    total = len(worlds) * grid_size**2
    shared = (grid_size, seed, street_views, caption_source, with_masks)
    with _renderers(workers) as pool, tqdm(total=total, unit="region", disable=not progress) as bar:
        for world in worlds.values():
            bar.set_description(f"{world.city} (synthetic)")
            writer.write_shard(world.city, "regions", 0, _region_rows(world))
            _write_map(writer.files, world)
            for shard, cells in enumerate(_shards(grid_size)):
                jobs = [_Job(world.city, *shared, *cell) for cell in cells]
                _write_shard(writer, shard, jobs, pool)
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
        extra_columns={
            "regions": {f"poi_{kind}": "float64" for kind in POI_KINDS},
            # nobody's pictures: the licence gate of `publish` lets them pass
            **{view: {"redistributable": "bool"} for view in VIEWS},
        },
        parameters=parameters,
        notes=NOTES,
    )


@contextmanager
def _renderers(workers: int) -> Iterator[_Pool]:
    """Renders lists of jobs, in this process or in several."""
    if workers == 1:
        yield lambda jobs: [_render(job) for job in jobs]
        return
    # spawned, not forked: the caller may have threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _use_one_thread) as pool:
        yield lambda jobs: list(pool.map(_render, jobs, chunksize=4))


def _use_one_thread() -> None:
    threadpool_limits(1)  # there are as many processes as cores already


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
    corners = np.stack([columns, rows], axis=1)[:, None] + [(0, 0), (1, 0), (1, 1), (0, 1)]
    degrees = plane.degrees(*np.moveaxis(corners * CELL_KM, -1, 0))
    polygons = shapely.polygons(np.stack(degrees, axis=-1))
    splits, _ = region_splits(polygons, lon, lat, 1000 * CELL_KM, world.seed)
    geod = pyproj.Geod(ellps="WGS84")
    for index, (column, row) in enumerate(zip(columns.tolist(), rows.tolist(), strict=True)):
        polygon = polygons[index]
        labels = {name: float(field[row, column]) for name, field in values.items()}
        _, kinds = points_of_interest(world, column, row, int(labels["poi"]))
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
            **{f"poi_{kind}": float(kinds.count(kind)) for kind in POI_KINDS},
        }


ROADS = pa.schema([("region_id", pa.string()), ("highway", pa.string()), ("geometry", pa.binary())])
POINTS = pa.schema([("region_id", pa.string()), ("kind", pa.string()), ("geometry", pa.binary())])


def _write_map(files: WrittenFiles, world: World) -> None:
    """Roads and points of interest, GeoParquet, EPSG:4326; one row of regions is a row group."""
    targets = f"map/{world.city}-roads.parquet", f"map/{world.city}-pois.parquet"
    if all((files.root / name).exists() for name in targets):
        return
    plane, counts = _Plane(world), indicators(world)["poi"]
    with ExitStack() as stack:
        of_roads = stack.enter_context(_geo_writer(files, targets[0], ROADS, "LineString"))
        of_points = stack.enter_context(_geo_writer(files, targets[1], POINTS, "Point"))
        for row in range(world.grid_size):
            of_roads.write_table(_road_table(world, plane, row))
            of_points.write_table(_point_table(world, plane, row, counts[row].astype(int)))


@contextmanager
def _geo_writer(
    files: WrittenFiles, name: str, schema: pa.Schema, kind: str
) -> Iterator[pq.ParquetWriter]:
    """A writer of GeoParquet whose file appears when it is whole."""
    column = {
        "encoding": "WKB",
        "geometry_types": [kind],
        "crs": pyproj.CRS.from_epsg(4326).to_json_dict(),
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    notes = {b"geo": json.dumps(geo).encode(), b"urbanln": json.dumps({"synthetic": True}).encode()}
    with (
        files.writing(name) as temporary,
        pq.ParquetWriter(temporary, schema.with_metadata(notes)) as writer,
    ):
        yield writer


def _road_table(world: World, plane: "_Plane", row: int) -> pa.Table:
    names: list[str] = []
    found: list[Road] = []
    for column in range(world.grid_size):
        of_region = roads(world, column, row)
        names += [region_id(world.city, column, row)] * len(of_region)
        found += of_region
    points = np.concatenate([np.empty((0, 2)), *(road.points for road in found)])
    owners = np.repeat(np.arange(len(found)), [len(road.points) for road in found])
    lines = shapely.linestrings(np.column_stack(plane.degrees(*points.T)), indices=owners)
    return _geo_table(ROADS, names, [road.highway for road in found], lines)


def _point_table(world: World, plane: "_Plane", row: int, counts: np.ndarray) -> pa.Table:
    names: list[str] = []
    kinds: list[str] = []
    places: list[Floats] = [np.empty((0, 2))]
    for column, count in enumerate(counts.tolist()):
        of_region, kinds_of_region = points_of_interest(world, column, row, count)
        names += [region_id(world.city, column, row)] * count
        kinds += kinds_of_region
        places.append(of_region)
    points = shapely.points(np.column_stack(plane.degrees(*np.concatenate(places).T)))
    return _geo_table(POINTS, names, kinds, points)


def _geo_table(schema: pa.Schema, names: list[str], kinds: list[str], shapes: Any) -> pa.Table:
    columns = [names, kinds, shapely.to_wkb(shapes).tolist()]
    arrays = [pa.array(c, field.type) for c, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


# ---- images and captions ----------------------------------------------------------------------


def _write_shard(writer: DatasetWriter, shard: int, jobs: list[_Job], pool: _Pool) -> None:
    """Tables of one shard; the truth first, for a finished shard is not looked at again."""
    city = jobs[0].city
    tables = ("street_view", "satellite", "captions")[0 if jobs[0].street_views else 1 :]
    if all(writer.has_shard(city, table, shard) for table in tables):
        return
    rendered = pool(jobs)
    records = [record for result in rendered for record in result["truth"]]
    with writer.files.writing(f"truth/{city}/part-{shard:05d}.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(records, TRUTH), temporary)
    for table in tables:
        rows = (row for result in rendered for row in result[table])
        writer.write_shard(city, table, shard, rows)


@cache
def _world(city: str, grid_size: int, seed: int) -> tuple[World, _Plane]:
    world = World(city, grid_size, seed)
    return world, _Plane(world)


def _render(job: _Job) -> _Rows:
    """Everything of one region: rows of the tables, and the truth."""
    out: _Rows = {name: [] for name in ("street_view", "satellite", "captions", "truth")}
    _render_tile(job, out)
    for view in range(job.street_views):
        _render_view(job, view, out)
    return out


def _render_tile(job: _Job, out: _Rows) -> None:
    world, _ = _world(job.city, job.grid_size, job.seed)
    tile = render_tile(world, job.column, job.row)
    image_id = f"{region_id(job.city, job.column, job.row)}_sat"
    row = {
        **_image_columns(job, image_id, tile.image),
        "ground_resolution_m": 1000 * CELL_KM / TILE_PX,
    }
    cover = encode_image(tile.cover, "PNG") if job.with_masks else None
    image = _Image("satellite", image_id, TILE_NUMBER, satellite_facts(tile), cover=cover)
    out["satellite"].append(row | _captions(job, world, image, out))


def _render_view(job: _Job, view: int, out: _Rows) -> None:
    world, plane = _world(job.city, job.grid_size, job.seed)
    scene = render_street_view(world, job.column, job.row, view)
    lon, lat = plane.degrees(scene.x_km, scene.y_km)
    image_id = f"{region_id(job.city, job.column, job.row)}_sv{view}"
    row = {
        **_image_columns(job, image_id, scene.image),
        "lon": float(lon),
        "lat": float(lat),
        "heading": scene.heading,
    }
    mask = encode_image(scene.mask, "PNG") if job.with_masks else None
    objects = tuple(asdict(item) for item in scene.objects)
    facts = street_view_facts(scene)
    image = _Image("street_view", image_id, view, facts, objects, mask)
    out["street_view"].append(row | _captions(job, world, image, out))


def _image_columns(job: _Job, image_id: str, image: Image.Image) -> _Row:
    encoded = encode_image(image, "JPEG", JPEG_QUALITY)
    return {
        "image": {"bytes": encoded, "path": f"{image_id}.jpg"},
        "image_id": image_id,
        "region_id": region_id(job.city, job.column, job.row),
        "source": SOURCE,
        "licence": LICENCE,
        "redistributable": True,
    }


def _captions(job: _Job, world: World, image: _Image, out: _Rows) -> _Row:
    """Candidates and truths of an image; returns the caption columns of its own row."""
    rng = np.random.default_rng([world.hash_seed, 31, job.column, job.row, image.number])
    reference = reference_caption(image.facts, image.view)
    noisy = [write_caption(captioner, image.facts, image.view, rng) for captioner in CAPTIONERS]
    chosen: Caption = noisy[int(rng.integers(len(noisy)))]
    if job.caption_source == "reference":
        chosen = reference
    for caption in (reference, *noisy):
        out["captions"].append(
            {
                "image_id": image.image_id,
                "model": caption.model,
                "prompt_version": PROMPT,
                "stage": "reference" if caption is reference else "generate",
                "text": caption.text,
                "kept": caption is chosen,
            }
        )
    out["truth"].append(
        {
            "image_id": image.image_id,
            "facts": [f"{fact.value} {fact.key}" for fact in image.facts],
            "statements": [asdict(fact) for fact in image.facts],
            "captions": [truth_record(caption) for caption in noisy],
            "objects": json.dumps(image.objects),
            "mask": image.mask,
            "cover": image.cover,
        }
    )
    return {"caption": chosen.text, "caption_model": chosen.model}


__all__ = ["build_dataset", "region_id"]
