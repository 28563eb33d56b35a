"""Publish a dataset: shards of the Hub's size, licence gate, upload.

Images that may not be redistributed are withheld. Their rows keep ids, coordinates, dates, captions
and the SHA-256 of the image, against which a later download can be verified.
"""

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

from .card import CARD_FILE, FIGURES, MARKER, PLACEHOLDER, RECIPE_FILE, write_card
from .errors import DatasetError
from .files import WrittenFiles, contents, file_sha256, shown_files
from .hub_errors import explained
from .leaks import check_leaks
from .parquet import GEO_KEY, ROW_GROUP_SIZE, geo_metadata, open_shard, open_writer
from .plots import contact_sheet, plot_splits
from .schema import VIEWS, config_name, parse_config_name
from .storage import (
    DATA_FOLDER,
    REJECTS_FILE,
    count_rows,
    list_tables,
    read_metadata,
    read_regions,
    sample_images,
    table_shards,
)
from .storage import (
    FILES_KIND as SOURCE_KIND,
)
from .trust import check_recipe_file, variables_of

TARGET_BYTES = 400_000_000
UNFINISHED = ".unfinished"
FILES_KIND = "published"
HUB_VARIABLE = "HF_TOKEN"
SHEET_SIZE = 24


@dataclass(frozen=True)
class Published:
    """A published dataset.

    Attributes:
        folder: Folder, ready for upload.
        shards: Number of shards by config name.
        rows: Number of rows by config name.
        withheld: Number of images withheld by the licence gate, by source.
        bytes: Total size of the Parquet files.
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
            f"  {count:,} images of {source!r} may not be redistributed: ids only"
            for source, count in self.withheld.items()
        ]
        return "\n".join(lines)


def publish(
    dataset: str | Path, output: str | Path, *, target_bytes: int = TARGET_BYTES
) -> Published:
    """Write a built dataset in publishable form.

    Rerun after a kill: it starts over and writes identical bytes.

    Args:
        dataset: Folder of a finished dataset.
        output: Folder of the published dataset.
        target_bytes: Size of a shard, images included; the last shard of a table is smaller.

    Raises:
        DatasetError: The dataset is not finished, a URL in the recipe contains a key, `output`
            holds another dataset, or a file to be published contains the value of an environment
            variable that the recipe or a known provider uses.
        ForeignFileError: `output` holds a conflicting file that publishing did not write, or that
            was edited since.
    """
    source, target = Path(dataset), Path(output)
    if not (source / REJECTS_FILE).exists():
        raise DatasetError(f"{source} contains no finished dataset: complete its build first.")
    shards = [path.relative_to(source).as_posix() for path in source.rglob("*.parquet")]
    if altered := WrittenFiles(source, SOURCE_KIND).altered(shards):
        raise DatasetError(
            f"{source} has changed since it was built: {', '.join(altered[:5])} damaged or edited. "
            "Build the dataset again."
        )
    _check_recipe(source)
    files = _cleared(target)
    tables = list_tables(source)
    withheld: Counter[str] = Counter()
    for city, table in tables:
        withheld += _repack(source, target, city, table, target_bytes)
    for name in (REJECTS_FILE, RECIPE_FILE):
        if (source / name).exists():
            with files.writing(name) as temporary:
                shutil.copyfile(source / name, temporary)
    _check_images(target)
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
    (target / UNFINISHED).unlink()
    return published


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    tag: str | None = None,
    message: str = "Upload the dataset",
    dry_run: bool = False,
) -> str | None:
    """Push a published dataset in one commit; files already on the Hub are not sent again.

    Shards and figures of an earlier push of these cities are deleted in the same commit, since the
    Hub would load them, too. Earlier commits keep them.

    Args:
        folder: Folder written by [`publish`].
        repo_id: "org/name"; created if missing. The token is that of `hf auth login` or HF_TOKEN.
        private: Visibility of a new repository.
        tag: Tag of the commit.
        message: Commit message.
        dry_run: Check the licences without uploading.

    Returns:
        URL of the repository; None for a dry run.

    Raises:
        DatasetError: The folder did not pass the licence gate, or the Hub rejects the upload; the
            message never contains the token.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    check_gate(folder)
    if dry_run:
        return None
    root, api = Path(folder), HfApi()
    card = (root / CARD_FILE).read_text(encoding="utf-8")
    card = card.replace(PLACEHOLDER, f'name = "{repo_id}"')
    with explained(repo_id, DatasetError):
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        names = [name for name, _ in files_of(root)]
        there = api.list_repo_files(repo_id, repo_type="dataset")
        gone = sorted(name for name in set(there) - set(names) if _is_of(name, root))
        operations: list[Any] = [
            CommitOperationAdd(name, card.encode() if name == CARD_FILE else root / name)
            for name in names
        ]
        operations += [CommitOperationDelete(name) for name in gone]
        api.create_commit(repo_id, operations, repo_type="dataset", commit_message=message)
        if tag is not None:
            api.create_tag(repo_id, tag=tag, repo_type="dataset", exist_ok=True)
    return str(url)


def files_of(folder: str | Path) -> list[tuple[str, int]]:
    """Files that a push uploads: path and size in bytes, sorted; hidden files are left out."""
    return [(name, path.stat().st_size) for name, path in sorted(shown_files(Path(folder)).items())]


def check_gate(folder: str | Path) -> None:
    """Check that a folder passed the licence gate and is unchanged; its card may be edited.

    Raises:
        DatasetError: The folder was not written by [`publish`], or not completely; a file was
            added, changed or removed; an image may not be redistributed; or a file contains a key.
    """
    root = Path(folder)
    if (root / UNFINISHED).exists():
        raise DatasetError(f"Publishing {root} did not finish. Rerun the command.")
    if not (root / MARKER).exists():
        raise DatasetError(
            f"{root} was not written by `publish`, so its licences have not been checked. Publish "
            "the dataset first."
        )
    _check_images(root)
    known, found = json.loads((root / MARKER).read_text()).get("sha256", {}), _hashes(root)
    names = sorted(name for name in known | found if known.get(name) != found.get(name))
    if names:
        raise DatasetError(
            f"{root} has changed since it was published: {', '.join(names[:5])} added, changed or "
            "removed. Publish the dataset again."
        )
    _check_keys(root)


def _is_of(name: str, root: Path) -> bool:
    """Whether a file of the repository is a shard or figure of one of this dataset's cities."""
    parts = name.split("/")
    if len(parts) < 2 or parts[0] not in (DATA_FOLDER, FIGURES):
        return False
    try:
        city, _ = parse_config_name(parts[1].removesuffix(".png"))
    except DatasetError:
        return False
    return city in {one for one, _ in list_tables(root)}


def _hashes(root: Path) -> dict[str, str]:
    """SHA-256 by name of all files except the marker and the card, which may be edited."""
    files = sorted(shown_files(root).items())
    return {name: file_sha256(path) for name, path in files if name not in (MARKER, CARD_FILE)}


def _check_recipe(root: Path) -> dict[str, Any]:
    """Check that the recipe, if any, contains no key; returns its values."""
    path = root / RECIPE_FILE
    return check_recipe_file(path) if path.exists() else {}


def _check_keys(root: Path) -> None:
    variables = variables_of(_check_recipe(root)) | {HUB_VARIABLE}
    check_leaks(root, [name for name, _ in files_of(root)], variables)


def _check_images(root: Path) -> None:
    for city, table in list_tables(root):
        for path in table_shards(root, city, table) if table in VIEWS else ():
            with open_shard(path) as file:
                stated = "redistributable" in file.schema_arrow.names
                columns = ["image.bytes", *["redistributable"] * stated]
                count = sum(
                    _forbidden(pa.Table.from_batches([batch])).true_count
                    for batch in file.iter_batches(ROW_GROUP_SIZE, columns=columns)
                )
            if count:
                raise DatasetError(
                    f"{path.name} of {config_name(city, table)} holds {count} images that are not "
                    "marked as redistributable. Publish the dataset again."
                )


def _forbidden(rows: pa.Table) -> pa.BooleanArray:
    """Whether each row holds an image that may not be redistributed."""
    held = pc.is_valid(rows["image"].combine_chunks())
    if "redistributable" not in rows.column_names:
        return held
    allowed = pc.fill_null(rows["redistributable"].combine_chunks(), False)
    return pc.and_not(held, allowed)


def _cleared(target: Path) -> WrittenFiles:
    """Delete the files of an earlier run, whose licences may have changed."""
    files, unfinished = WrittenFiles(target, FILES_KIND), target / UNFINISHED
    is_ours = (target / MARKER).exists() or unfinished.exists()
    if contents(target) and not is_ours:
        raise DatasetError(f"{target} is not empty and contains no published dataset.")
    files.check(files.names())
    target.mkdir(parents=True, exist_ok=True)
    unfinished.touch()
    files.delete(files.names())
    return files


def _repack(source: Path, target: Path, city: str, table: str, target_bytes: int) -> Counter[str]:
    """Copy a table into shards of the target size; counts withheld images by source."""
    name = config_name(city, table)
    paths = table_shards(source, city, table)
    withheld: Counter[str] = Counter()
    groups = _gated(paths, withheld)
    schema = pq.read_schema(paths[0])
    if table == "regions" and len(paths) > 1:
        # the bounding box of the complete table
        whole = pa.concat_tables(pq.read_table(path, columns=["geometry"]) for path in paths)
        schema = schema.with_metadata({**schema.metadata, GEO_KEY: geo_metadata(whole)})
    total = count_rows(source, city, table)
    with tqdm(total=total, desc=name, unit="row", disable=total == 0) as bar:
        group, number = next(groups, None), 0
        # a table without rows gets one shard
        while group is not None or number == 0:
            part = f"{DATA_FOLDER}/{name}/part-{number:05d}.parquet"
            with WrittenFiles(target, FILES_KIND).writing(part) as temporary:
                group = _write_shard(temporary, schema, group, groups, target_bytes, bar)
            number += 1
    return withheld


def _gated(paths: list[Path], withheld: Counter[str]) -> Iterator[pa.Table]:
    """Row groups without the images that may not be redistributed."""
    for path in paths:
        with open_shard(path) as file:
            for batch in file.iter_batches(batch_size=ROW_GROUP_SIZE):
                group = pa.Table.from_batches([batch])
                yield _gate(group, withheld) if "image" in group.column_names else group


def _gate(group: pa.Table, withheld: Counter[str]) -> pa.Table:
    lost = _forbidden(group)
    sources = group["source"] if "source" in group.column_names else pa.nulls(len(group))
    withheld.update(name or "unknown" for name in sources.filter(lost).to_pylist())
    image = group["image"].combine_chunks()
    kept = pc.if_else(lost, pa.scalar(None, image.type), image)
    return group.set_column(group.column_names.index("image"), group.schema.field("image"), kept)


def _write_shard(
    path: Path,
    schema: pa.Schema,
    group: pa.Table | None,
    groups: Iterator[pa.Table],
    target_bytes: int,
    bar: Any,
) -> pa.Table | None:
    """Write row groups up to the target size; returns the next one."""
    size = 0
    with open_writer(path, schema) as writer:
        while group is not None and size < target_bytes:
            if len(group):
                writer.write_table(group.cast(schema), row_group_size=ROW_GROUP_SIZE)
            size += group.nbytes
            bar.update(len(group))
            group = next(groups, None)
    return group


def _draw(target: Path, tables: list[tuple[str, str]], figures: Path) -> None:
    for city in dict.fromkeys(city for city, _ in tables):
        regions = read_regions(target, city)
        mark = " (synthetic)" if read_metadata(target, city).synthetic else ""
        column = "split_block" if regions["split_block"].notna().any() else "split_random"
        if regions.geometry.notna().any():
            title = f"{city}{mark}: {len(regions):,} regions, {column}"
            placed = regions[regions.geometry.notna()]
            plot_splits(placed, column, figures / f"{city}-regions.png", title)
    for city, table in tables:
        if table not in VIEWS:
            continue
        if images := sample_images(target, city, table, SHEET_SIZE):
            title = f"{city}: {table.replace('_', ' ')}"
            contact_sheet(images, figures / f"{city}-{table}.png", title=title)


__all__ = ["MARKER", "Published", "check_gate", "files_of", "publish", "push"]
