"""What may leave this machine: a built dataset in shards of the Hub's size, past the licence gate.

Pictures whose source may not be redistributed are left out: their rows keep the ids, places, dates
and captions, and the picture's SHA-256, so that who fetches it again can check it.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from .errors import DatasetError
from .files import WrittenFiles, digest, write_json
from .leaks import check_leaks
from .plots import contact_sheet, plot_splits
from .publish import CARD_FILE, write_card
from .schema import VIEWS, config_name
from .storage import (
    DATA_FOLDER,
    GEO_KEY,
    REJECTS_FILE,
    ROW_GROUP_SIZE,
    count_rows,
    geo_metadata,
    iter_images,
    list_tables,
    read_metadata,
    read_regions,
    table_shards,
)
from .trust import check_recipe_file, variables_of

TARGET_BYTES = 400_000_000
MARKER, FIGURES, PROGRESS = "published.json", "figures", ".publish.json"
FILES_KIND = "published"
RECIPE_FILE, HUB_VARIABLE = "recipe.yaml", "HF_TOKEN"
FOOTER_BYTES = 1 << 16
SHEET_SIZE = 24


@dataclass(frozen=True)
class Published:
    """What was published.

    Attributes:
        folder: ready to be pushed.
        shards: number, by config name.
        rows: by config name.
        withheld: pictures left out by the licence gate, by source.
        bytes: of all Parquet files.
    """

    folder: Path
    shards: dict[str, int]
    rows: dict[str, int]
    withheld: dict[str, int] = field(default_factory=dict)
    bytes: int = 0

    def __str__(self) -> str:
        lines = [f"Published in {self.folder} ({self.bytes / 1e6:,.1f} MB)"]
        lines += [
            f"  {name}: {rows:,} rows in {self.shards[name]} shard(s)"
            for name, rows in self.rows.items()
        ]
        lines += [
            f"  {count:,} pictures of {source!r} may not be redistributed: ids only"
            for source, count in self.withheld.items()
        ]
        return "\n".join(lines)


def publish(
    dataset: str | Path, output: str | Path, *, target_bytes: int = TARGET_BYTES
) -> Published:
    """Write a built dataset as it may be published.

    Killed, the same call goes on with the shard it was at, and ends with the same bytes.

    Args:
        dataset: folder of a finished dataset.
        output: folder of the published one.
        target_bytes: of a shard, pictures counted; the last of a table is smaller.

    Raises:
        DatasetError: the folder holds no finished dataset, `output` holds another one or a file
            in the way that publishing did not write or that was edited since, an address
            in the recipe holds a key, or what would be published holds the value of an environment
            variable that the recipe or a known provider uses.
    """
    source, target = Path(dataset), Path(output)
    if not (source / REJECTS_FILE).exists():
        raise DatasetError(f"{source} holds no finished dataset: build it to its end first.")
    _check_recipe(source)
    progress = _Progress.open(target / PROGRESS, _fingerprint(source, target_bytes))
    files = WrittenFiles(target, FILES_KIND)
    tables = list_tables(source)
    withheld: Counter[str] = Counter()
    for city, table in tables:
        withheld += _repack(source, target, city, table, target_bytes, progress)
    for name in (REJECTS_FILE, RECIPE_FILE):
        if (source / name).exists():
            with files.writing(name) as temporary:
                shutil.copyfile(source / name, temporary)
    _check_pictures(target)
    with files.staging() as staged:
        _draw(target, tables, staged / FIGURES)
    published = Published(
        target,
        {config_name(*one): len(table_shards(target, *one)) for one in tables},
        {config_name(*one): count_rows(target, *one) for one in tables},
        dict(sorted(withheld.items())),
        sum(path.stat().st_size for path in target.rglob("*.parquet")),
    )
    marker = {**asdict(published), "folder": target.name, "sha256": _hashes(target)}
    with files.writing(MARKER) as temporary:
        temporary.write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
    write_card(target, FILES_KIND)
    _check_keys(target)
    (target / PROGRESS).unlink()
    return published


def files_of(folder: str | Path) -> list[tuple[str, int]]:
    """What is sent: path and size in bytes, sorted; hidden files stay."""
    root = Path(folder)
    found = [path for path in root.rglob("*") if path.is_file()]
    names = sorted(path.relative_to(root).as_posix() for path in found)
    shown = [name for name in names if not any(part[0] == "." for part in name.split("/"))]
    return [(name, (root / name).stat().st_size) for name in shown]


def check_gate(folder: str | Path) -> None:
    """Refuse a folder that is not what passed the licence gate; its card may be edited.

    Raises:
        DatasetError: no marker of [`publish`], a publish that did not end, a file that was added,
            changed or taken away, a picture that may not be redistributed, or a key in a file.
    """
    root = Path(folder)
    if (root / PROGRESS).exists():
        raise DatasetError(f"Publishing {root} did not end. Give the same command again.")
    if not (root / MARKER).exists():
        raise DatasetError(
            f"{root} was not made by `publish`, so nobody has looked at its licences. Publish the "
            "dataset first."
        )
    _check_pictures(root)
    known, found = json.loads((root / MARKER).read_text()).get("sha256", {}), _hashes(root)
    names = sorted(name for name in known | found if known.get(name) != found.get(name))
    if names:
        raise DatasetError(
            f"{root} is not as it was published: {', '.join(names[:5])} added, changed or taken "
            "away. Publish the dataset again."
        )
    _check_keys(root)


def _hashes(root: Path) -> dict[str, str]:
    """SHA-256 by name of what publish wrote, but for the card, which people edit."""
    found = {}
    for name, _ in files_of(root):
        if name not in (MARKER, CARD_FILE):
            with (root / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _check_recipe(root: Path) -> dict[str, Any]:
    """Check that the recipe holds no key; returns its values, if there is one."""
    path = root / RECIPE_FILE
    return check_recipe_file(path) if path.exists() else {}


def _check_keys(root: Path) -> None:
    variables = variables_of(_check_recipe(root)) | {HUB_VARIABLE}
    check_leaks(root, [name for name, _ in files_of(root)], variables)


def _check_pictures(root: Path) -> None:
    for city, table in list_tables(root):
        for path in table_shards(root, city, table) if table in VIEWS else ():
            if count := _forbidden(path):
                raise DatasetError(
                    f"{path.name} of {config_name(city, table)} holds {count} pictures and no "
                    "word that they may be redistributed. Publish the dataset again."
                )


@dataclass
class _Progress:
    """Rows of each finished shard, by config name; of this very input."""

    path: Path
    of: str
    shards: dict[str, list[int]]

    @classmethod
    def open(cls, path: Path, of: str) -> "_Progress":
        root = path.parent
        if path.exists():
            known = json.loads(path.read_text())
            if known["of"] == of:
                return cls(path, of, known["shards"])
        elif root.is_dir() and any(root.iterdir()) and not (root / MARKER).exists():
            raise DatasetError(f"{root} is not empty and holds no published dataset.")
        # another input: what is there is of an earlier dataset, whose pictures may be forbidden by
        # now. Of no input until all is gone, so that a kill in between clears again.
        files = WrittenFiles(root, FILES_KIND)
        files.check(files.names())
        cls(path, "", {}).save()
        files.delete(files.names())
        found = cls(path, of, {})
        found.save()
        return found

    def save(self) -> None:
        write_json(self.path, {"of": self.of, "shards": self.shards})


def _fingerprint(source: Path, target_bytes: int) -> str:
    """Of the dataset's files by name, size, time and footer.

    A licence that is withdrawn may change neither size nor footer.
    """
    parts: list[Any] = [target_bytes]
    for path in sorted((source / DATA_FOLDER).rglob("part-*.parquet")):
        known = path.stat()
        with path.open("rb") as file:
            file.seek(max(0, known.st_size - FOOTER_BYTES))
            parts += [f"{path.parent.name}/{path.name}", known.st_size, known.st_mtime_ns]
            parts.append(file.read())
    return digest(*parts)


def _repack(
    source: Path, target: Path, city: str, table: str, target_bytes: int, progress: _Progress
) -> Counter[str]:
    """Copy a table into shards of the wanted size; counts the pictures that are left out."""
    name = config_name(city, table)
    paths = table_shards(source, city, table)
    done = progress.shards.setdefault(name, [])
    withheld: Counter[str] = Counter()
    total = count_rows(source, city, table)
    groups = _gated(paths, withheld)
    with tqdm(total=total, desc=name, unit="row", disable=total == 0) as bar:
        for rows in done:
            _skip(groups, rows, bar)
        schema = pq.read_schema(paths[0])
        if table == "regions" and len(paths) > 1:
            # the extent is of the whole table
            whole = pa.concat_tables(pq.read_table(path, columns=["geometry"]) for path in paths)
            schema = schema.with_metadata({**schema.metadata, GEO_KEY: geo_metadata(whole)})
        first = next(groups, None)
        # a table without rows is a table all the same
        while first is not None or not done:
            part = f"{DATA_FOLDER}/{name}/part-{len(done):05d}.parquet"
            with WrittenFiles(target, FILES_KIND).writing(part) as temporary:
                rows, first = _write_shard(temporary, schema, first, groups, target_bytes, bar)
            done.append(rows)
            progress.save()
    return withheld


def _skip(groups: Iterator[pa.Table], rows: int, bar: Any) -> None:
    while rows > 0:
        group = next(groups)
        rows -= len(group)
        bar.update(len(group))


def _gated(paths: list[Path], withheld: Counter[str]) -> Iterator[pa.Table]:
    """Row groups of at most a hundred rows, without the pictures that must stay."""
    for path in paths:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=ROW_GROUP_SIZE):
                group = pa.Table.from_batches([batch])
                yield _gate(group, withheld) if "image" in group.column_names else group


def _gate(group: pa.Table, withheld: Counter[str]) -> pa.Table:
    if "redistributable" not in group.column_names:
        allowed = pa.array([False] * len(group))
    else:
        allowed = pc.fill_null(group["redistributable"].combine_chunks(), False)
    image = group["image"].combine_chunks()
    lost = pc.and_(pc.invert(allowed), pc.is_valid(image))
    names = group["source"].combine_chunks() if "source" in group.column_names else None
    for number in pc.indices_nonzero(lost).to_pylist():
        name = None if names is None else names[number].as_py()
        withheld[name or "unknown"] += 1
    kept = pc.if_else(allowed, image, pa.scalar(None, image.type))
    return group.set_column(group.column_names.index("image"), group.schema.field("image"), kept)


def _write_shard(
    path: Path,
    schema: pa.Schema,
    first: pa.Table | None,
    groups: Iterator[pa.Table],
    target_bytes: int,
    bar: Any,
) -> tuple[int, pa.Table | None]:
    """Write groups until the shard is large enough; returns its rows and the group after it."""
    compression = {
        leaf: "NONE" if leaf == "image.bytes" else "ZSTD" for leaf in _leaf_names(schema)
    }
    rows, size, group = 0, 0, first
    with pq.ParquetWriter(
        path, schema, compression=compression, write_page_index=True, write_statistics=True
    ) as writer:
        while group is not None:
            if len(group):
                writer.write_table(group.cast(schema), row_group_size=ROW_GROUP_SIZE)
            rows, size = rows + len(group), size + group.nbytes
            bar.update(len(group))
            group = next(groups, None)
            if size >= target_bytes:
                break
    return rows, group


def _leaf_names(schema: pa.Schema) -> list[str]:
    leaves = []
    for one in schema:
        children = one.type.fields if pa.types.is_struct(one.type) else []
        leaves += [f"{one.name}.{child.name}" for child in children] or [one.name]
    return leaves


def _forbidden(path: Path) -> int:
    """Pictures of a shard that are in rows which do not allow it."""
    count = 0
    with pq.ParquetFile(path, pre_buffer=False) as file:
        stated = "redistributable" in file.schema_arrow.names
        for batch in file.iter_batches(
            batch_size=ROW_GROUP_SIZE,
            columns=["image.bytes", *["redistributable"] * stated],
        ):
            held = pc.is_valid(pc.struct_field(batch["image"], "bytes"))
            if stated:
                held = pc.and_not(held, pc.fill_null(batch["redistributable"], False))
            count += held.true_count
    return count


def _draw(target: Path, tables: list[tuple[str, str]], figures: Path) -> None:
    """The pictures of the card: a map of each city, and a sheet of what may be shown."""
    for city in dict.fromkeys(city for city, _ in tables):
        regions = read_regions(target, city)
        said = " (synthetic)" if read_metadata(target, city).synthetic else ""
        column = "split_block" if regions["split_block"].notna().any() else "split_random"
        if regions.geometry.notna().any():
            placed = regions[regions.geometry.notna()]
            title = f"{city}{said}: {len(regions):,} regions, {column}"
            plot_splits(placed, column, figures / f"{city}-regions.png", title)
    for city, table in tables:
        if table in VIEWS:
            _sheet(target, city, table, figures)


def _sheet(target: Path, city: str, view: str, figures: Path) -> None:
    count = count_rows(target, city, view)
    step = max(1, count // SHEET_SIZE)
    images = [
        (row["region_id"], row["image"])
        for number, row in enumerate(iter_images(target, city, view))
        if number % step == 0 and row["image"]
    ][:SHEET_SIZE]
    if images:
        title = f"{city}: {view.replace('_', ' ')}"
        contact_sheet(images, figures / f"{city}-{view}.png", title=title)


__all__ = ["MARKER", "Published", "check_gate", "files_of", "publish"]
