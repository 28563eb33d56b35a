"""Resumable import of image collections into a dataset.

An importer reads its layout into import plans (names and values, no pixels) and the metadata of
the dataset; [`import_dataset`] decodes, rejects, stores, splits and reports.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from ..card import write_card
from ..errors import SourceError
from ..files import locked
from ..globe import WGS84, geodesic_areas
from ..images import BadImageError, storable_bytes
from ..photos import read_csv_rows
from ..schema import VIEWS, DatasetMetadata, config_name
from ..splits import region_splits
from ..storage import Reject, count_rows, iter_images, read_rejects
from ..writer import DatasetWriter

IMAGES_PER_SHARD = 1000
SplitColumns = tuple[dict[str, np.ndarray], list[str]]


@dataclass(frozen=True)
class ImageItem:
    """Image to import: IDs, file, and further columns of its table."""

    image_id: str
    region_id: str
    path: Path
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImportPlan:
    """Import plan of a city.

    Attributes:
        city: City name in the configs.
        regions: One row per region: `region_id`, and any of geometry (shapely, EPSG:4326), lon,
            lat, area_m2, tile_z/x/y, indicators and extra columns. Missing centres and areas are
            computed from the geometry.
        images: Images by view.
        captions: Rows of the table of caption candidates.
        rejects: Unusable items of the layout: table, item, reason, detail.
        cell_m: Side of a region in metres, for the block size and for the buffer between regions
            without an extent.
        block_m: Side of a block in metres; by default chosen from the extent.
        splits: Function of the regions, sorted by `region_id`, and the split seed that returns the
            split columns and problems; by default spatial splits.
        sources: Source of each indicator, by name.
        load: Reads the bytes to store from a file.
        notes: Notes for the report, one sentence each.
    """

    city: str
    regions: pd.DataFrame
    images: Mapping[str, Sequence[ImageItem]]
    captions: Sequence[Mapping[str, Any]] = ()
    rejects: Sequence[Reject] = ()
    cell_m: float = 1000.0
    block_m: float | None = None
    splits: Callable[[pd.DataFrame, int], SplitColumns] | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    load: Callable[[Path], bytes] = storable_bytes
    notes: Sequence[str] = ()


Imported = tuple[Sequence[ImportPlan], DatasetMetadata]


@dataclass(frozen=True)
class ImportReport:
    """Result of an import, with a readable `str()`.

    Attributes:
        output_dir: Dataset folder.
        written: Number of rows per config name.
        rejects: Number of rejected items per reason; `rejects.parquet` lists them.
        regions_without_image: Number of regions without an image per city; they are kept.
        duplicate_images: Per config name, the number of images identical to an earlier one, and
            the number of those in another region.
        problems: Notes, and splits that could not be made, one sentence each.
    """

    output_dir: Path
    written: dict[str, int]
    rejects: dict[str, int]
    regions_without_image: dict[str, int]
    duplicate_images: dict[str, tuple[int, int]]
    problems: list[str]

    def __str__(self) -> str:
        lines = [f"Dataset in {self.output_dir}"]
        lines += [f"{name}: {rows:,} rows" for name, rows in self.written.items()]
        for city, count in self.regions_without_image.items():
            lines += [f"{city}: {count:,} regions have no image"] * bool(count)
        for name, (count, across) in self.duplicate_images.items():
            text = f"{name}: {count:,} duplicate images, {across:,} in another region"
            lines += [text] * bool(count)
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.rejects.items())
        lines.append(f"left out: {f'{reasons} (rejects.parquet)' if reasons else 'nothing'}")
        return "\n  ".join([*lines, *(f"note: {text}" for text in self.problems)])


def import_dataset(
    read: Callable[..., Imported],
    source: str | Path,
    output_dir: str | Path,
    *,
    seed: int = 0,
    images_per_shard: int = IMAGES_PER_SHARD,
    **flags: Any,
) -> ImportReport:
    """Import a folder into a dataset, or resume an interrupted import.

    Args:
        read: Function `read` of an importer. It returns one plan per city and the metadata of the
            dataset, whose `parameters` contain everything that determines the content.
        source: Folder to import.
        output_dir: Dataset folder.
        seed: Split seed.
        images_per_shard: Number of images per shard.
        flags: Keyword arguments of `read`.

    Raises:
        SourceError: The source has another layout, or contains nothing to import.
        DatasetError: `output_dir` holds other files or another dataset.
        RepeatedIdError: A table contains a duplicate ID.
        InUseError: Another process writes to the folder.
    """
    with locked(Path(output_dir)):
        plans, metadata = read(Path(source), **flags)
        if not any(len(plan.regions) for plan in plans):
            raise SourceError("Nothing to import: no region and no image was found.")
        planned = sum(len(items) for plan in plans for items in plan.images.values())
        own = {"seed": seed, "images_per_shard": images_per_shard, "images": planned}
        metadata = replace(metadata, parameters={**metadata.parameters, **own})
        writer = DatasetWriter(output_dir, metadata)
        problems = [note for plan in plans for note in plan.notes]
        with tqdm(total=planned, desc="Importing images", unit="image") as progress:
            for plan in plans:
                _write_images(writer, plan, images_per_shard, progress)
                problems += _write_regions(writer, plan, seed)
        writer.finish()
        write_card(output_dir)
    return _report(Path(output_dir), plans, problems)


def city_of(folder_name: str) -> str:
    """City name in the configs from a folder name: "New-York" becomes "new_york"."""
    return re.sub(r"[^a-z0-9]+", "_", folder_name.lower()).strip("_")


def require(source: Path, *names: str, layout: str) -> None:
    """Check that a source contains the files and folders of its layout.

    Raises:
        SourceError: Some are missing.
    """
    if not source.is_dir():
        raise SourceError(f"--source {source} is not a folder. Give the folder to import.")
    missing = [name for name in names if not (source / name).exists()]
    if missing:
        raise SourceError(
            f"{source} lacks {', '.join(missing)}. Expected: {layout}. The folder contains "
            f"{', '.join(sorted(path.name for path in source.iterdir())[:10]) or 'nothing'}."
        )


def read_columns(
    path: Path, text: Sequence[str], numbers: Sequence[str], table: str
) -> tuple[pd.DataFrame, list[Reject]]:
    """Read a CSV file, with some columns as numbers; rows with too many fields become rejects.

    Args:
        path: CSV file.
        text: Names of required text columns.
        numbers: Names of required numeric columns; text becomes NaN.
        table: Config name of the rejects.

    Raises:
        SourceError: The file cannot be read or lacks a column.
    """
    frame, bad = read_csv_rows(path)
    if missing := [name for name in (*text, *numbers) if name not in frame]:
        raise SourceError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(frame.columns)}."
        )
    values = {name: pd.to_numeric(frame[name], errors="coerce") for name in numbers}
    rejects = [(table, one.file, one.reason, f"{path.name}: {one.detail}") for one in bad]
    return frame.assign(**values), rejects


def square_around(lon: ArrayLike, lat: ArrayLike, side_m: float) -> np.ndarray:
    """Squares centred on points: `(n,)` polygons in EPSG:4326, None where a coordinate is NaN.

    Args:
        lon: Longitudes in degrees, `(n,)`, EPSG:4326.
        lat: Latitudes in degrees, `(n,)`, EPSG:4326.
        side_m: Side of a square in metres.
    """
    x, y = np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)
    squares = np.full(len(x), None, dtype=object)
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if len(known) == 0:
        return squares
    x, y, half = x[known], y[known], np.full(len(known), side_m / 2)
    edges = [WGS84.fwd(x, y, np.full(len(known), angle), half) for angle in (90, 0)]
    d_lon, d_lat = edges[0][0] - x, edges[1][1] - y
    squares[known] = shapely.box(x - d_lon, y - d_lat, x + d_lon, y + d_lat)
    return squares


def _write_images(
    writer: DatasetWriter, plan: ImportPlan, images_per_shard: int, progress: tqdm
) -> None:
    for reject in plan.rejects:
        writer.reject(*reject)
    for view in VIEWS:
        items = plan.images.get(view, ())
        for index, start in enumerate(range(0, len(items), images_per_shard)):
            chunk = items[start : start + images_per_shard]
            done = progress.n + len(chunk)
            rows = _image_rows(writer, plan, view, chunk, progress)
            writer.write_shard(plan.city, view, index, rows)
            progress.update(done - progress.n)  # images of an existing shard
    if plan.captions:
        writer.write_shard(plan.city, "captions", 0, plan.captions)


def _image_rows(
    writer: DatasetWriter, plan: ImportPlan, view: str, items: Sequence[ImageItem], progress: tqdm
) -> Iterator[dict[str, Any]]:
    for item in items:
        try:
            image = {"bytes": plan.load(item.path), "path": item.path.name}
        except BadImageError as error:
            writer.reject(config_name(plan.city, view), item.image_id, error.reason, str(error))
        else:
            ids = {"image_id": item.image_id, "region_id": item.region_id}
            yield {"image": image, **ids, **item.columns}
        progress.update()


def _write_regions(writer: DatasetWriter, plan: ImportPlan, seed: int) -> list[str]:
    """Write the sorted regions with centre, area, sources and splits; return split problems."""
    regions = plan.regions.sort_values("region_id", ignore_index=True).assign(city=plan.city)
    if "geometry" not in regions:
        regions["geometry"] = None
    geometry = regions["geometry"].to_numpy(dtype=object)
    centres = shapely.centroid(geometry)
    for name, values in (
        ("lon", shapely.get_x(centres)),
        ("lat", shapely.get_y(centres)),
        ("area_m2", geodesic_areas(geometry)),
    ):
        given = regions.get(name, pd.Series(np.nan, regions.index))
        regions[name] = given.astype(np.float64).fillna(pd.Series(values))
    for name, text in plan.sources.items():
        regions[f"{name}_source"] = [text if known else None for known in regions[name].notna()]
    if plan.splits is not None:
        columns, problems = plan.splits(regions, seed)
    else:
        lon, lat = regions["lon"].to_numpy(), regions["lat"].to_numpy()
        columns, problems = region_splits(geometry, lon, lat, plan.cell_m, seed, plan.block_m)
    regions = regions.assign(**columns)
    rows: Any = regions.astype(object).where(regions.notna(), None).to_dict("records")
    writer.write_shard(plan.city, "regions", 0, rows)
    return [f"{plan.city}: {problem}" for problem in problems]


def _report(output_dir: Path, plans: Sequence[ImportPlan], problems: list[str]) -> ImportReport:
    written, without, duplicates = {}, {}, {}
    for plan in plans:
        seen: set[str] = set()
        views = [view for view in VIEWS if plan.images.get(view)]
        for view in views:
            first: dict[bytes, str] = {}
            repeated = across = 0
            for row in iter_images(output_dir, plan.city, view, ("region_id",)):
                digest, region = hashlib.sha256(row["image"]).digest(), row["region_id"]
                repeated += digest in first
                across += first.setdefault(digest, region) != region
                seen.add(region)
            duplicates[config_name(plan.city, view)] = repeated, across
        for table in ("regions", *views, *["captions"] * bool(plan.captions)):
            written[config_name(plan.city, table)] = count_rows(output_dir, plan.city, table)
        without[plan.city] = int((~plan.regions["region_id"].isin(seen)).sum())
    reasons = dict(Counter(read_rejects(output_dir)["reason"]))
    return ImportReport(output_dir, written, reasons, without, duplicates, problems)


__all__ = [
    "IMAGES_PER_SHARD",
    "ImageItem",
    "ImportPlan",
    "ImportReport",
    "Imported",
    "city_of",
    "import_dataset",
    "read_columns",
    "require",
    "square_around",
]
