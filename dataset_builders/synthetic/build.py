"""Build synthetic cities as a dataset in the common layout.

Rerun with the same arguments to resume an interrupted build. The output does not depend on the
number of processes.
"""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache, partial
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
from ..errors import DatasetError
from ..files import locked
from ..globe import geodesic_areas
from ..images import encode_image
from ..schema import INDICATORS, VIEWS, DatasetMetadata
from ..splits import region_splits
from ..writer import DatasetWriter
from .acquisition import Acquisition
from .captioners import (
    CAPTIONERS,
    Fact,
    reference_caption,
    satellite_facts,
    street_view_facts,
    write_caption,
)
from .labels import POI_KINDS, indicators, poi_kinds
from .satellite import COVERS, MARKS, TILE_PX, render_tile
from .scene import CLASSES
from .street_view import render_street_view
from .styles import city_title
from .world import CELL_KM, World

SOURCE, LICENCE, PROMPT = "synthetic", "cc0-1.0", "synthetic-1"
REGIONS_PER_SHARD = 64
JPEG_QUALITY = 90
TILE_NUMBER = 99  # in the seeds of captions, where street views are numbered from 0
_TEXT, _TEXTS = pa.string(), pa.list_(pa.string())
_STATEMENT = pa.struct({"key": _TEXT, "value": _TEXT, "weight": pa.float64()})
_ERRORS = pa.struct({"model": _TEXT, "hallucinated": _TEXTS, "omitted": _TEXTS})
TRUTH = pa.schema(
    {
        "image_id": _TEXT,
        "facts": _TEXTS,
        "statements": pa.list_(_STATEMENT),
        "captions": pa.list_(_ERRORS),
        "objects": _TEXT,
        "mask": pa.binary(),
        "cover": pa.binary(),
    },
    metadata={
        "urbanln": json.dumps(
            {"synthetic": True, "classes": CLASSES, "covers": COVERS, "marks": MARKS}
        )
    },
)
"""Facts as text and as structs; errors of each captioner; objects as JSON; PNG mask and cover."""
NOTES = (
    "Everything here is synthetic: simulated images, captions and indicators of a city that does "
    "not exist.",
    "Captions contain errors of five simulated captioners at known rates; truth/ lists them.",
    "Labels contain noise that is not visible in the images, so no encoder can reach R2 = 1.",
)
ACQUISITION_NOTES: dict[Acquisition, str] = {
    "realistic": (
        "Acquisition is realistic: date, sun, haze, sensor and roof materials vary from tile to "
        "tile, light, weather and camera between street views, independently of the indicators."
    ),
    "plain": (
        "Acquisition is plain: one sun, one season and one sensor, and lighter roofs in wealthy "
        "areas, so colours are more informative than in real images."
    ),
}

CaptionSource = Literal["noisy", "reference"]
_Cell = tuple[int, int]  # column from the west, row from the south
_Rows = dict[str, list[dict[str, Any]]]  # by table


def build_dataset(
    output_dir: str | Path,
    cities: Sequence[str] = ("harborview",),
    grid_size: int = 20,
    street_views: int = 3,
    seed: int = 0,
    caption_source: CaptionSource = "noisy",
    with_masks: bool = False,
    acquisition: Acquisition = "realistic",
    num_workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Build synthetic cities as a dataset, or resume a build.

    Args:
        output_dir: Dataset folder.
        cities: City names: keys of `STYLES`, or `<style>-<seed>` for a city with its own seed.
        grid_size: Number of regions of 1 km per side, at least 3.
        street_views: Number of street views per region.
        seed: Random seed; builds with the same seed are byte-identical.
        caption_source: "noisy" for captions of simulated captioners with errors, "reference" for
            correct and complete captions.
        with_masks: Whether to store the masks of street views (PNG, index into `CLASSES`) and the
            covers of tiles (PNG, index into `COVERS` plus `MARKS`) in `truth/`.
        acquisition: "realistic" for varying dates, sensors and weather, "plain" for identical
            conditions. Affects only the images.
        num_workers: Number of processes; one per core by default.
        progress: Whether to show a progress bar.

    Returns:
        The dataset folder.

    Raises:
        DatasetError: A city or an acquisition is unknown, a number is too small, or the folder
            holds another dataset.
        InUseError: Another process writes to the folder.
    """
    root = Path(output_dir)
    parameters: dict[str, Any] = {
        "grid_size": grid_size,
        "street_views": street_views,
        "seed": seed,
        "caption_source": caption_source,
        "with_masks": with_masks,
        "acquisition": acquisition,
    }
    if acquisition not in ACQUISITION_NOTES:
        raise DatasetError(
            f"`acquisition` must be one of {list(ACQUISITION_NOTES)}, got {acquisition!r}."
        )
    workers = (os.cpu_count() or 1) if num_workers is None else num_workers
    for name, number, least in (("street_views", street_views, 0), ("num_workers", workers, 1)):
        if number < least:
            raise DatasetError(f"`{name}` must be {least} or more, got {number}.")
    worlds = [World(city, grid_size, seed) for city in cities]
    with locked(root):
        writer = DatasetWriter(root, _metadata(cities, parameters))
        cells = [(column, row) for row in range(grid_size) for column in range(grid_size)]
        tables = ("street_view", "satellite", "captions")[0 if street_views else 1 :]
        total = len(worlds) * len(cells)
        with (
            _mapper(workers) as map_,
            tqdm(total=total, unit="region", disable=not progress) as bar,
        ):
            for world in worlds:
                bar.set_description(f"{world.city} (synthetic)")
                writer.write_shard(world.city, "regions", 0, _region_rows(world))
                render = partial(_render, world.city, **parameters)
                for shard, start in enumerate(range(0, len(cells), REGIONS_PER_SHARD)):
                    of_shard = cells[start : start + REGIONS_PER_SHARD]
                    truth = f"truth/{world.city}/part-{shard:05d}.parquet"
                    writer.files.set_damaged_aside(truth)
                    is_done = (root / truth).exists()
                    if not is_done or not all(
                        writer.has_shard(world.city, t, shard) for t in tables
                    ):
                        rows = list(map_(render, of_shard))
                        records = [record for region in rows for record in region["truth"]]
                        with writer.files.writing(truth) as temporary:
                            pq.write_table(pa.Table.from_pylist(records, TRUTH), temporary)
                        for table in tables:
                            of_table = (row for region in rows for row in region[table])
                            writer.write_shard(world.city, table, shard, of_table)
                    bar.update(len(of_shard))
        writer.finish()
        write_card(root)
    return root


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterator[_Rows]]]:
    if workers == 1:
        yield map
        return
    # spawn, since forking is unsafe if the caller has threads; one thread per process
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, threadpool_limits, (1,)) as pool:
        yield partial(pool.map, chunksize=4)


def _metadata(cities: Sequence[str], parameters: dict[str, Any]) -> DatasetMetadata:
    names = ", ".join(city_title(city) for city in cities)
    return DatasetMetadata(
        title=f"Synthetic cities: {names}",
        description=(
            "Procedurally generated cities: satellite tiles, street views, long captions and seven "
            "indicators derived from one latent map. For running and comparing methods without "
            "network access; results on it are results on synthetic data."
        ),
        source=SOURCE,
        licence=LICENCE,
        synthetic=True,
        indicators=tuple(INDICATORS.values()),
        extra_columns={
            "regions": {f"poi_{kind}": "float64" for kind in POI_KINDS},
            # required by the licence gate of `publish`
            **{view: {"redistributable": "bool"} for view in VIEWS},
        },
        parameters=parameters,
        notes=(*NOTES, ACQUISITION_NOTES[parameters["acquisition"]]),
    )


def region_id(city: str, column: int, row: int) -> str:
    """Region ID such as "harborview_007_012": column from the west, row from the south."""
    return f"{city}_{column:03d}_{row:03d}"


class _Plane:
    """Conversion of the city's coordinates in km to degrees, in the UTM zone of its centre."""

    def __init__(self, world: World):
        style = world.style
        zone = int((style.lon + 180) // 6) + 1
        utm = pyproj.CRS.from_epsg(32600 + zone)
        self.to_degrees = pyproj.Transformer.from_crs(utm, "EPSG:4326", always_xy=True)
        x, y = self.to_degrees.transform(style.lon, style.lat, direction="INVERSE")
        # a whole number of km, so that cells are the same for all grid sizes
        whole = np.round(np.array([x, y]) / 1000) * 1000
        self.origin = whole - 500 * world.extent_km // 1000 * 1000

    def degrees(self, x_km: Any, y_km: Any) -> tuple[Any, Any]:
        """Longitude and latitude (EPSG:4326) of points in km."""
        x, y = (self.origin[i] + 1000 * np.asarray(km) for i, km in enumerate((x_km, y_km)))
        return self.to_degrees.transform(x, y)


def _region_rows(world: World) -> Iterator[dict[str, Any]]:
    n = world.grid_size
    plane, values = _Plane(world), indicators(world)
    rows, columns = (index.ravel() for index in np.divmod(np.arange(n * n), n))
    lon, lat = plane.degrees((columns + 0.5) * CELL_KM, (rows + 0.5) * CELL_KM)
    corners = np.stack([columns, rows], axis=1)[:, None] + [(0, 0), (1, 0), (1, 1), (0, 1)]
    degrees = plane.degrees(*np.moveaxis(corners * CELL_KM, -1, 0))
    polygons = shapely.polygons(np.stack(degrees, axis=-1))
    splits, _ = region_splits(polygons, lon, lat, 1000 * CELL_KM, world.seed)
    areas = geodesic_areas(polygons)
    for index, (column, row) in enumerate(zip(columns.tolist(), rows.tolist(), strict=True)):
        labels = {name: float(field[row, column]) for name, field in values.items()}
        kinds = poi_kinds(world, column, row, int(labels["poi"]))
        yield {
            "region_id": region_id(world.city, column, row),
            "city": world.city,
            "geometry": polygons[index],
            "lon": float(lon[index]),
            "lat": float(lat[index]),
            "area_m2": float(areas[index]),
            **labels,
            **{f"{name}_source": SOURCE for name in labels},
            **{name: column_values[index] for name, column_values in splits.items()},
            **{f"poi_{kind}": float(kinds.count(kind)) for kind in POI_KINDS},
        }


@lru_cache(maxsize=1)
def _world(city: str, grid_size: int, seed: int) -> tuple[World, _Plane]:
    world = World(city, grid_size, seed)
    return world, _Plane(world)


def _render(
    city: str,
    cell: _Cell,
    grid_size: int,
    street_views: int,
    seed: int,
    caption_source: CaptionSource,
    with_masks: bool,
    acquisition: Acquisition,
) -> _Rows:
    world, plane = _world(city, grid_size, seed)
    name = region_id(city, *cell)
    rows: _Rows = {name: [] for name in (*VIEWS, "captions", "truth")}

    def stored(mask: Image.Image) -> bytes | None:
        return encode_image(mask, "PNG") if with_masks else None

    def add(
        view: str,
        number: int,
        image: tuple[str, Image.Image, int],
        facts: list[Fact],
        columns: dict[str, Any],
        truth: dict[str, Any],
    ) -> None:
        """Add an image (id, pixels, JPEG quality) with its captions."""
        image_id, pixels, quality = image
        rng = np.random.default_rng([world.hash_seed, 31, *cell, number])
        reference = reference_caption(facts, view)
        noisy = [write_caption(captioner, facts, view, rng) for captioner in CAPTIONERS]
        drawn = noisy[int(rng.integers(len(noisy)))]
        chosen = reference if caption_source == "reference" else drawn
        encoded = encode_image(pixels, "JPEG", quality)
        rows[view].append(
            {
                "image": {"bytes": encoded, "path": f"{image_id}.jpg"},
                "image_id": image_id,
                "region_id": name,
                "source": SOURCE,
                "licence": LICENCE,
                "redistributable": True,
                **columns,
                "caption": chosen.text,
                "caption_model": chosen.model,
            }
        )
        rows["captions"] += [
            {
                "image_id": image_id,
                "model": caption.model,
                "prompt_version": PROMPT,
                "stage": "reference" if caption is reference else "generate",
                "text": caption.text,
                "kept": caption is chosen,
            }
            for caption in (reference, *noisy)
        ]
        errors = [(one.model, _words(one.hallucinated), _words(one.omitted)) for one in noisy]
        rows["truth"].append(
            {
                "image_id": image_id,
                "facts": _words(facts),
                "statements": [asdict(fact) for fact in facts],
                "captions": [dict(zip(_ERRORS.names, error, strict=True)) for error in errors],
                **truth,
            }
        )

    tile = render_tile(world, *cell, acquisition)
    image = f"{name}_sat", tile.image, JPEG_QUALITY
    columns: dict[str, Any] = {"ground_resolution_m": 1000 * CELL_KM / TILE_PX}
    truth: dict[str, Any] = {"objects": "[]", "cover": stored(tile.cover)}
    add("satellite", TILE_NUMBER, image, satellite_facts(tile), columns, truth)
    for number in range(street_views):
        view = render_street_view(world, *cell, number, acquisition)
        image = f"{name}_sv{number}", view.image, view.shot.quality if view.shot else JPEG_QUALITY
        lon, lat = plane.degrees(view.x_km, view.y_km)
        columns = {"lon": float(lon), "lat": float(lat), "heading": view.heading}
        objects = json.dumps([asdict(item) for item in view.objects])
        truth = {"objects": objects, "mask": stored(view.mask)}
        add("street_view", number, image, street_view_facts(view), columns, truth)
    return rows


def _words(facts: Sequence[Fact]) -> list[str]:
    return [f"{fact.value} {fact.key}" for fact in facts]
