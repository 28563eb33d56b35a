"""Embed images and average them by region: streaming, resumable, in constant memory.

Threads decode and preprocess images while the encoder processes the previous batch. Sums by region
are written to a part file every `chunk_size` images. The folder of the parts is named by a hash of
encoder and images, so a rerun finds finished parts. Batches never cross parts: the table does not
depend on interruptions or on which process wrote a part.
"""

import json
import os
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from dataset_builders.files import SHARE_REMEDY, digest, locked
from dataset_builders.images import BadImageError, decode_image
from dataset_builders.parquet import is_whole, write_parquet
from dataset_builders.schema import VIEWS
from pipelines.common.encoders import Encoder

from ..errors import InputError
from .tables import (
    METADATA_KEY,
    Reject,
    earlier_metadata,
    read_metadata,
    rename_training,
    write_embeddings,
    write_rejects,
)
from .trainings import Training

Row = dict[str, Any]

MAX_DECODING_THREADS = 8
PART_NAME = re.compile(r"[a-z_]+-\d{6}\.(parquet|lock)|table\.lock|\..*\.tmp|.*\.damaged-.*")


@dataclass
class Part:
    """Regions and vectors, `(dim,)`, of one chunk of images, and images without a vector."""

    region_ids: list[str] = field(default_factory=list)
    vectors: list[NDArray[np.floating]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    seconds: float = 0.0


class Totals(NamedTuple):
    """Sums of vectors `(N, dim)` and numbers of images `(N,)` by region, of all parts of a view."""

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    rejects: list[Reject]
    seconds: float


@dataclass(frozen=True)
class EmbedSettings:
    """Streaming settings. Only `batch_size` and `chunk_size` can change vectors (by rounding).

    Attributes:
        batch_size: Images per encoder batch.
        chunk_size: Images per part file.
        num_workers: Number of decoding threads.
    """

    batch_size: int = 32
    chunk_size: int = 512
    num_workers: int = 2


def decoding_threads(number: int | None) -> int:
    """Number of decoding threads; by default the number of cores, at most 8."""
    return number or min(os.cpu_count() or 1, MAX_DECODING_THREADS)


@dataclass(frozen=True)
class Source:
    """Images of a city.

    Attributes:
        region_ids: Region ids in the dataset's order.
        num_images: Number of images by view; 0 if the dataset has no such table.
        open_view: Opens an iterator over the rows of a view with `image_id`, `region_id` and
            `image` (encoded bytes); the order must be reproducible.
        fingerprint: Hash of the images.
        description: Metadata to store with the table: dataset, city, synthetic.
    """

    region_ids: list[str]
    num_images: dict[str, int]
    open_view: Callable[[str], Iterable[Row]]
    fingerprint: str
    description: dict[str, Any]


def embed(
    encoder: Encoder,
    source: Source,
    output: Path,
    label: str,
    settings: EmbedSettings | None = None,
    log: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    training: Training | None = None,
    share: tuple[int, int] = (0, 1),
    write_parts: Callable[[Path], None] | None = None,
) -> Path:
    """Write `<output>/<label>.parquet` and `<label>.rejects.parquet`.

    Rerun to resume. A finished table is kept unless encoder or images have changed.

    Args:
        encoder: Image encoder.
        source: Images to embed.
        output: Folder of the city's tables.
        label: Name of the system.
        settings: Streaming settings.
        log: Receives progress messages.
        training: Training that the encoder comes from.
        share: `(i, n)`: write every n-th part, starting at the i-th. The share that finishes last
            writes the table.
        write_parts: Writes all parts to the given folder, instead of this process.

    Returns:
        Path of the table, which exists once all shares are finished.

    Raises:
        InputError: No image could be embedded, or the output path holds another file.
        InUseError: Another process is writing one of the parts.
    """
    settings = settings or EmbedSettings()
    if not any(source.num_images.values()):
        raise InputError("This city has neither street views nor satellite images.")
    path = output / f"{label}.parquet"
    plan = {
        "encoder": encoder.fingerprint,
        "images": source.fingerprint,
        "batch_size": settings.batch_size,
        "chunk_size": settings.chunk_size,
    }
    fingerprint = digest(plan)
    parts = output / f".{label}-{fingerprint}.parts"
    if known := earlier_metadata(path):
        if known.get("fingerprint") == fingerprint and is_whole(_rejects_path(path)):
            log(f"{path} already exists, from the same encoder and images.")
            rename_training(path, training)
            _remove_parts(output, label)
            return path
        if known.get("fingerprint") != fingerprint:
            log(f"{path} is from another encoder or other images and will be replaced.")
    if finished := len(list(parts.glob("*.parquet"))):
        log(f"Resuming from {finished} parts of an earlier run.")
    parts.mkdir(parents=True, exist_ok=True)
    if write_parts:
        write_parts(parts)
    else:
        embed_parts(encoder, source, parts, settings, share)
    with FileLock(parts / "table.lock"):  # shares may end at the same time
        same = earlier_metadata(path).get("fingerprint") == fingerprint
        if not (same and is_whole(_rejects_path(path))):
            files = {view: _part_files(source, view, parts, settings) for view in VIEWS}
            if missing := [one for paths in files.values() for one in paths if not is_whole(one)]:
                log(f"This share is finished; {len(missing)} parts of other shares are missing.")
                return path
            totals = {
                view: _total(paths, source, encoder.dim) for view, paths in files.items() if paths
            }
            _write(encoder, source, path, label, fingerprint, totals, training)
            log(_summary(path, source, totals))
    _remove_parts(output, label)
    return path


def embed_parts(
    encoder: Encoder,
    source: Source,
    parts: Path,
    settings: EmbedSettings,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Write the missing parts of a share.

    Args:
        encoder: Image encoder.
        source: Images to embed.
        parts: Folder of the parts.
        settings: Streaming settings.
        share: `(i, n)`: write every n-th part, starting at the i-th.

    Raises:
        InUseError: Another process is writing one of the parts.
    """
    for view in VIEWS:
        files = _part_files(source, view, parts, settings)
        own = range(share[0], len(files), share[1])
        todo = {number: files[number] for number in own if not is_whole(files[number])}
        if todo:
            _embed_view(encoder, source, view, todo, settings)


def _part_files(source: Source, view: str, parts: Path, settings: EmbedSettings) -> list[Path]:
    number = -(-source.num_images[view] // settings.chunk_size)
    return [parts / f"{view}-{index:06d}.parquet" for index in range(number)]


def _remove_parts(output: Path, label: str) -> None:
    """Delete the parts of a label, and their folders unless they hold foreign files."""
    name = re.compile(rf"\.{re.escape(label)}-[0-9a-f]{{16}}\.parts")
    for folder in [one for one in output.glob(".*.parts") if name.fullmatch(one.name)]:
        for path in folder.glob("*"):
            if PART_NAME.fullmatch(path.name):
                path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def _embed_view(
    encoder: Encoder, source: Source, view: str, todo: dict[int, Path], settings: EmbedSettings
) -> None:
    known_regions, size = frozenset(source.region_ids), settings.chunk_size
    rows = (row for place, row in enumerate(source.open_view(view)) if place // size in todo)
    total = sum(min(size, source.num_images[view] - number * size) for number in todo)
    with (
        ThreadPoolExecutor(settings.num_workers, initializer=torch.set_num_threads, initargs=(1,))
        as pool,
        tqdm(total=total, desc=f"embed {view}", unit="image", mininterval=1.0) as bar,
    ):  # fmt: skip
        depth = 2 * settings.batch_size + settings.num_workers
        prepared = _prepare(rows, pool, encoder, known_regions, depth)
        for path in todo.values():
            with locked(path.parent, path.with_suffix(".lock").name, SHARE_REMEDY):
                part = _embed_chunk(encoder, prepared, view, settings, bar)
                _write_part(path, part, encoder.dim)


def _total(files: Iterable[Path], source: Source, dim: int) -> Totals:
    row_of = {region_id: row for row, region_id in enumerate(source.region_ids)}
    sums, counts = np.zeros((len(row_of), dim)), np.zeros(len(row_of), np.int64)
    rejects: list[Reject] = []
    seconds = 0.0
    for path in files:
        table = pq.read_table(path)
        rest = read_metadata(table.schema) or {}
        rows = [row_of[region_id] for region_id in table["region_id"].to_pylist()]
        sums[rows] += table["sum"].combine_chunks().flatten().to_numpy().reshape(-1, dim)
        counts[rows] += table["count"].to_numpy()
        rejects += [Reject(**reject) for reject in rest["rejects"]]
        seconds += rest["seconds"]
    return Totals(sums, counts, rejects, seconds)


def _prepare(
    rows: Iterable[Row],
    pool: ThreadPoolExecutor,
    encoder: Encoder,
    known_regions: frozenset[str],
    depth: int,
) -> Iterator[tuple[Row, Future[torch.Tensor]]]:
    """Rows with their preprocessed tensors, of which at most `depth` are computed ahead."""
    pending: deque[tuple[Row, Future[torch.Tensor]]] = deque()
    for row in rows:
        future = pool.submit(lambda one: encoder.prepare(decode_row(one, known_regions)), row)
        pending.append(({**row, "image": None}, future))
        if len(pending) == depth:
            yield pending.popleft()
    yield from pending


def decode_row(row: Row, known_regions: frozenset[str]) -> Image.Image:
    """Decode the image of a row.

    Raises:
        BadImageError: The image cannot be decoded, or its region is unknown.
    """
    if row["region_id"] not in known_regions:
        raise BadImageError("unknown_region", f"region_id is {row['region_id']!r}")
    if not row["image"]:
        raise BadImageError("empty", "no bytes")
    return decode_image(row["image"])


def _embed_chunk(
    encoder: Encoder,
    prepared: Iterator[tuple[Row, Future[torch.Tensor]]],
    view: str,
    settings: EmbedSettings,
    bar: tqdm,
) -> Part:
    part = Part()
    start = time.perf_counter()

    def usable() -> Iterator[tuple[Row, torch.Tensor]]:
        for row, future in islice(prepared, settings.chunk_size):
            try:
                yield row, future.result()
            except BadImageError as error:
                part.rejects.append(Reject(view, str(row["image_id"]), error.reason, str(error)))
            bar.update()

    images = usable()
    while batch := list(islice(images, settings.batch_size)):
        vectors = encoder.encode(torch.stack([tensor for _, tensor in batch]))
        for (row, _), vector in zip(batch, vectors, strict=True):
            if np.isfinite(vector).all():
                part.region_ids.append(row["region_id"])
                part.vectors.append(vector)
            else:
                detail = "the encoder returned NaN or infinite values"
                part.rejects.append(Reject(view, str(row["image_id"]), "not_finite", detail))
    part.seconds = time.perf_counter() - start
    return part


def _write_part(path: Path, part: Part, dim: int) -> None:
    ids, row = np.unique(np.array(part.region_ids, dtype=object), return_inverse=True)
    sums = np.zeros((len(ids), dim))
    np.add.at(sums, row, np.reshape(part.vectors, (-1, dim)))
    table = pa.table(
        {
            "region_id": pa.array(ids, pa.string()),
            "count": pa.array(np.bincount(row, minlength=len(ids)), pa.int64()),
            "sum": pa.FixedSizeListArray.from_arrays(pa.array(sums.ravel(), pa.float64()), dim),
        }
    )
    rest = {"seconds": part.seconds, "rejects": [vars(reject) for reject in part.rejects]}
    write_parquet(path, table.replace_schema_metadata({METADATA_KEY: json.dumps(rest)}))


def _rejects_path(table: Path) -> Path:
    return table.with_suffix(".rejects.parquet")


def _write(
    encoder: Encoder,
    source: Source,
    path: Path,
    label: str,
    fingerprint: str,
    totals: dict[str, Totals],
    training: Training | None,
) -> None:
    rejects = [reject for total in totals.values() for reject in total.rejects]
    reasons = Counter(f"{reject.table}: {reject.reason}" for reject in rejects)
    if not any(total.counts.any() for total in totals.values()):
        raise InputError(
            f"No image could be embedded; all {len(rejects)} were skipped: {dict(reasons)}. See "
            "rejects.parquet of the dataset."
        )
    regions = len(source.region_ids)
    counts = {
        view: totals[view].counts if view in totals else np.zeros(regions, np.int64)
        for view in VIEWS
    }
    vectors = {view: np.zeros((regions, encoder.dim), np.float32) for view in VIEWS}
    for view, total in totals.items():
        vectors[view][:] = total.sums / np.maximum(total.counts, 1)[:, None]
    write_rejects(_rejects_path(path), rejects)
    metadata = {
        "label": label,
        "encoder": encoder.name,
        "pooling": encoder.pooling,
        "random_init": encoder.random_init,
        "dim": encoder.dim,
        "fingerprint": fingerprint,
        "images": {view: int(counts[view].sum()) for view in VIEWS},
        "regions_without": {view: int((counts[view] == 0).sum()) for view in VIEWS},
        "rejects": dict(reasons),
        "seconds": round(sum(total.seconds for total in totals.values()), 3),
        **source.description,
        **(training.metadata() if training else {}),
    }
    write_embeddings(path, source.region_ids, counts, vectors, metadata)


def _summary(path: Path, source: Source, totals: dict[str, Totals]) -> str:
    lines = [f"Wrote {path}: {len(source.region_ids)} regions."]
    for view, total in totals.items():
        seen = int((total.counts > 0).sum())
        line = f"  {view}: {total.counts.sum()} images of {seen} regions"
        if without := len(source.region_ids) - seen:
            line += f"; {without} regions have none"
        if total.rejects:
            reasons = Counter(reject.reason for reject in total.rejects)
            line += f"; skipped {dict(reasons)}, see {path.stem}.rejects.parquet"
        lines.append(line)
    return "\n".join(lines)


__all__ = [
    "EmbedSettings",
    "Part",
    "Source",
    "decode_row",
    "decoding_threads",
    "embed",
    "embed_parts",
]
