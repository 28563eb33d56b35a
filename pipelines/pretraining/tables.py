"""Image and caption tables of a dataset, as memory-mapped Arrow."""

from pathlib import Path

import datasets
import pyarrow.parquet as pq

from dataset_builders.errors import DatasetError
from dataset_builders.hub_errors import explain
from dataset_builders.schema import VIEWS, config_name, key_columns, parse_config_name
from dataset_builders.storage import list_tables
from dataset_builders.unique import KEYS_AT_ONCE, RepeatedIdError, key_frame, require_unique

from ..common.errors import InputError
from .arguments import DataArguments

REQUIRED_COLUMNS = ("image", "image_id", "region_id", "caption")


def find_tables(args: DataArguments) -> list[str]:
    """Config names of the requested image tables, by city, then view.

    Raises:
        InputError: If there is no such dataset, city or view.
    """
    configs = _config_names(args.dataset_name)
    have: dict[str, set[str]] = {}
    for name in configs:
        for view in VIEWS:
            if name.endswith(f"-{view}"):
                have.setdefault(parse_config_name(name)[0], set()).add(view)
    if not have:
        raise InputError(
            f"--dataset_name {args.dataset_name!r} has no table <city>-street_view or "
            f"<city>-satellite, only: {', '.join(configs) or 'none'}. "
            "See `python -m dataset_builders.importers --help` to import images."
        )
    cities = args.cities or sorted(have)
    for city in cities:
        if city not in have:
            raise InputError(f"--cities: no images of {city!r}; available: {sorted(have)}.")
    views = args.views or [view for view in VIEWS if any(view in have[city] for city in cities)]
    for view in views:
        if view not in VIEWS:
            raise InputError(f"--views must be among {list(VIEWS)}, got {view!r}.")
    tables = [config_name(city, view) for city in cities for view in views if view in have[city]]
    if not tables:
        raise InputError(f"None of the cities {cities} has the views {views}; available: {have}.")
    return tables


def _config_names(dataset_name: str) -> list[str]:
    try:
        if Path(dataset_name).is_dir():
            return [config_name(*pair) for pair in list_tables(dataset_name)]
        return datasets.get_dataset_config_names(dataset_name)
    except (DatasetError, FileNotFoundError, ConnectionError, ValueError) as error:
        said = explain(error, dataset_name) or error
        raise InputError(f"--dataset_name {dataset_name!r} cannot be read: {said}") from error


def load_images(dataset_name: str, table: str) -> datasets.Dataset | None:
    """Load an image table without decoding images; None if it has no rows.

    Raises:
        InputError: If the table lacks a column, repeats an id or cannot be read.
    """
    loaded = _load_rows(dataset_name, table)
    if loaded is None:
        return None
    missing = [name for name in REQUIRED_COLUMNS if name not in loaded.column_names]
    if missing:
        raise InputError(
            f"The table {table!r} of {dataset_name!r} lacks the column(s) {', '.join(missing)}; "
            f"it has {', '.join(loaded.column_names)}."
        )
    loaded = loaded.select_columns(list(REQUIRED_COLUMNS))
    return loaded.cast_column("image", datasets.Image(decode=False))


def load_captions(dataset_name: str, table: str) -> datasets.Dataset | None:
    """Load a table of caption candidates; None if there is none."""
    return _load_rows(dataset_name, table) if table in _config_names(dataset_name) else None


def _load_rows(dataset_name: str, table: str) -> datasets.Dataset | None:
    """Load a table as memory-mapped Arrow; None if it has no rows.

    Loads local folders by their files: loaded by name, `datasets` would take the last part of the
    path as cache key, and return data of changed files or of another folder.
    """
    folder = Path(dataset_name)
    if folder.is_dir():
        files = [str(path) for path in sorted((folder / "data" / table).glob("part-*.parquet"))]
        if sum(pq.read_metadata(path).num_rows for path in files) == 0:
            return None
    else:
        builder = datasets.load_dataset_builder(dataset_name, table)
        files = list((builder.config.data_files or {})["train"])
    try:
        loaded = datasets.load_dataset("parquet", data_files=files, split="train")
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
        message = f"The table {table!r} of {dataset_name!r} cannot be read: {error}"
        raise InputError(message) from error
    _check_ids(loaded, table, f"{dataset_name}, table {table!r}")
    return loaded


def _check_ids(loaded: datasets.Dataset, table: str, where: str) -> None:
    columns = key_columns(parse_config_name(table)[1], loaded.column_names)
    if not columns:
        return
    parts = loaded.select_columns(columns).with_format("arrow").iter(KEYS_AT_ONCE)
    try:
        require_unique((key_frame(part, columns) for part in parts), where)
    except RepeatedIdError as error:
        raise InputError(str(error)) from error


__all__ = ["find_tables", "load_captions", "load_images"]
