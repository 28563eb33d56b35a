"""Build a city's dataset: download missing images, then write tables, card and report.

Repeat the call to resume an interrupted build: nothing is downloaded twice, and the dataset is
identical to that of an uninterrupted build.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
from tqdm import tqdm

from ..card import CARD_FILE, write_card
from ..download import Store
from ..files import WrittenFiles, digest
from ..ledger import DamagedStoreError
from ..schema import DatasetMetadata, config_name
from ..split_checks import duplicate_groups
from ..storage import FILES_KIND, REJECTS_FILE, count_rows, list_tables, read_rejects
from ..writer import DatasetWriter
from .fetching import fetch_all, forget_batches
from .images import CityImage, folder_rejects, satellite_images, street_view_images
from .layout import Layout, city_regions, lay_out
from .planning import Plan, estimate, read_targets
from .readers import Reading
from .recipe import CityRecipe
from .report import write_report
from .splitting import split_regions
from .workspace import Workspace

IMAGE_COLUMNS = {
    "attribution": "string",
    "redistributable": "bool",
    "fetched_at": "string",
    "sha256": "string",
}
RECIPE_FILE = "recipe.yaml"
REGIONS_AT_ONCE = 2000


@dataclass(frozen=True)
class BuildReport:
    """Result of a build.

    Attributes:
        dataset: Dataset folder.
        rows: Number of rows per config name.
        rejects: Number of rejected items per reason.
        notes: Caveats.
    """

    dataset: Path
    rows: Mapping[str, int]
    rejects: Mapping[str, int]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"Dataset in {self.dataset}"]
        lines += [f"  {name}: {count:,} rows" for name, count in self.rows.items()]
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in self.rejects.items())
        lines.append(f"  left out: {left_out or 'nothing'}" + " (rejects.parquet)" * bool(left_out))
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def build(
    recipe: CityRecipe,
    output_dir: str | Path,
    *,
    limit: int | None = None,
    recipe_text: str | None = None,
    draw: bool = True,
    confirm: Callable[[Plan], None] | None = None,
) -> BuildReport:
    """Build a city's dataset in `<output_dir>/dataset`.

    Args:
        recipe: Recipe of the city.
        output_dir: Folder of the build; see [`Workspace`].
        limit: Number of regions of a trial build, taken from the centre; all by default.
        recipe_text: Source text of the recipe, stored with the dataset.
        draw: Whether to write the maps of `report/`.
        confirm: Called with the plan before any download; raises an error to cancel the build.

    Raises:
        StoppedError: A provider's quota is exhausted or a key was rejected. Downloads are kept.
        DatasetError: A file is missing or contradicts the recipe, or the folder is not a build's.
        SourceError: An API key is not in the environment, or no roads were found.
    """
    space = Workspace(output_dir)
    space.claim()
    layout = lay_out(recipe, space.cache, limit)
    # before anything costs money, so that invalid files are found first
    readings = _readings(recipe, layout, limit)
    if confirm is not None:
        confirm(estimate(recipe, layout, space))

    def fetch_and_write() -> tuple[str, ...]:
        fetch_all(recipe, layout.regions, layout.places, space.cache)
        with closing(Store(space.cache)) as store:
            return _write(recipe, space, layout, readings, store, limit)

    try:
        notes = fetch_and_write()
    except DamagedStoreError as error:
        tqdm.write(str(error))  # the damaged file has been moved away and is downloaded again
        forget_batches(space.cache)
        notes = fetch_and_write()
    if recipe_text is not None:
        with WrittenFiles(space.dataset, FILES_KIND).writing(RECIPE_FILE) as temporary:
            temporary.write_text(recipe_text, encoding="utf-8")
    write_card(space.dataset)
    if draw:
        write_report(space, recipe, layout)
    tables = list_tables(space.dataset)
    rows = {config_name(*one): count_rows(space.dataset, *one) for one in tables}
    return BuildReport(space.dataset, rows, Counter(read_rejects(space.dataset)["reason"]), notes)


def retry_failed(recipe: CityRecipe, output_dir: str | Path) -> int:
    """Make the next build retry failed downloads and invalid, blank and placeholder images.

    Items that a provider reported as missing are not requested again.

    Returns:
        The number of items to retry.
    """
    space = Workspace(output_dir)
    sources = [one for one in (recipe.satellite, *recipe.street_view) if one is not None]
    with closing(Store(space.cache)) as store:
        count = sum(store.forget_failures(f"{one.name}/") for one in sources)
    if count:
        forget_batches(space.cache)
    return count


def _readings(recipe: CityRecipe, layout: Layout, limit: int | None) -> list[Reading]:
    """Indicators of the regions, read for all regions of the city even in a trial build."""
    if limit is None:
        return read_targets(recipe, layout.regions)
    whole = city_regions(recipe, layout.boundary)
    taken = whole["region_id"].isin(layout.regions["region_id"])
    return [
        replace(one, columns=one.columns[taken].reset_index(drop=True))
        for one in read_targets(recipe, whole)
    ]


def _write(
    recipe: CityRecipe,
    space: Workspace,
    layout: Layout,
    readings: Sequence[Reading],
    store: Store,
    limit: int | None,
) -> tuple[str, ...]:
    """Write the tables and the rejects; return the caveats."""
    city, regions, places = recipe.city, layout.regions, layout.places
    metadata = _metadata(recipe, readings, limit)
    writer = DatasetWriter(space.dataset, metadata)
    # hashes of the image identifiers of each region
    names: dict[str, list[int]] = {region_id: [] for region_id in regions["region_id"]}
    for view, shards in (
        ("satellite", satellite_images(recipe, regions, store)),
        ("street_view", street_view_images(recipe, regions, places, store, space.cache)),
    ):
        for region_id, content in _write_images((city, view), shards, writer):
            names[region_id] += map(hash, content)
    targets = pd.concat([pd.DataFrame(index=regions.index), *(r.columns for r in readings)], axis=1)
    indicators = metadata.indicators
    groups = duplicate_groups(names)
    splits = split_regions(regions, targets, indicators, recipe.splits, groups)
    # evaluation makes further block splits of this size
    parameters = {**metadata.parameters, "block_m": splits.block_m}
    notes = (*metadata.notes, *splits.notes)
    complete = replace(metadata, parameters=parameters, notes=notes)
    columns = pd.concat([targets, pd.DataFrame(splits.columns, regions.index)], axis=1)
    _write_regions(city, regions, columns, DatasetWriter(space.dataset, complete))
    # discard the rejects of earlier builds
    writer.files.delete([REJECTS_FILE, CARD_FILE])
    rows = [reject for one in readings for reject in one.rejects]
    for reject in [*rows, *folder_rejects(recipe, places, space.cache)]:
        writer.reject(*reject)
    writer.finish()
    return (*(note for one in readings for note in one.notes), *splits.notes)


def _write_images(
    table: tuple[str, str], shards: Iterable[list[CityImage]], writer: DatasetWriter
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Write a table of images; yield the region and the content identifiers of each image."""
    count, name = 0, config_name(*table)

    def rows(images: list[CityImage]) -> Iterator[dict[str, Any]]:
        for one in images:
            row = one.reason or one.row()
            if isinstance(row, str):
                writer.reject(name, one.image_id, row, one.detail)
            else:
                yield row

    for images in tqdm(shards, desc=f"{name} table", unit="shard"):
        made_of = [[one.image_id, one.region_id, one.identity, one.reason] for one in images]
        writer.write_shard(*table, count, rows(images), made_of)
        count += 1
        for one in images:
            if one.region_id is not None and not one.reason:
                yield one.region_id, one.names
    writer.remove_shards_from(*table, count)


def _write_regions(
    city: str, regions: gpd.GeoDataFrame, columns: pd.DataFrame, writer: DatasetWriter
) -> None:
    """Write the table of regions; `columns` (indicators and splits) has the same index."""
    frame = pd.concat([pd.DataFrame(regions), columns], axis=1).assign(city=city)
    made_of = [
        digest([{**row, "geometry": row["geometry"].wkb_hex} for row in rows])
        for rows in _in_chunks(frame)
    ]
    rows = itertools.chain.from_iterable(_in_chunks(frame))
    writer.write_shard(city, "regions", 0, rows, made_of)


def _in_chunks(frame: pd.DataFrame) -> Iterator[list[dict[str, Any]]]:
    """Chunks of rows as dictionaries, which take far more memory than the table."""
    for start in range(0, len(frame), REGIONS_AT_ONCE):
        chunk = frame.iloc[start : start + REGIONS_AT_ONCE].astype(object)
        rows: Any = chunk.where(chunk.notna(), None).to_dict("records")
        yield rows


def _metadata(
    recipe: CityRecipe, readings: Sequence[Reading], limit: int | None
) -> DatasetMetadata:
    own = {name for r in readings for name in (r.indicator.name, f"{r.indicator.name}_source")}
    names = [str(name) for one in readings for name in one.columns if name not in own]
    extra: dict[str, dict[str, str]] = {
        "satellite": dict(IMAGE_COLUMNS),
        "street_view": {**IMAGE_COLUMNS, "point_id": "string"},
        "regions": {"cover": "float64", **dict.fromkeys(names, "float64")},
    }
    notes = [*recipe.notes, *(note for one in readings for note in one.notes)]
    parameters: dict[str, Any] = {"recipe": recipe.fingerprint(), "seed": recipe.splits.seed}
    if limit is not None:
        parameters["limit"] = limit
        notes.insert(0, f"Trial build with {limit} regions in the centre of the city.")
    return DatasetMetadata(
        title=recipe.title or f"UrbanLN {recipe.city}",
        description=recipe.description
        or f"Street views, satellite images and indicators of the regions of {recipe.city}.",
        source="; ".join([*_image_sources(recipe), *(one.source for one in readings)])
        or "not given in the recipe",
        licence=recipe.licence,
        synthetic=recipe.synthetic,
        indicators=tuple(one.indicator for one in readings),
        extra_columns=extra,
        parameters=parameters,
        notes=tuple(notes),
        citation=recipe.citation,
    )


def _image_sources(recipe: CityRecipe) -> list[str]:
    said = [f"street views: {one.name} ({one.licence})" for one in recipe.street_view]
    if (source := recipe.satellite) is not None:
        made = f"; {source.makeup}" if source.makeup else ""
        said.insert(0, f"satellite: {source.name} ({source.licence}{made})")
    if recipe.roads is not None:
        said.append("roads: OpenStreetMap (ODbL-1.0, © OpenStreetMap contributors)")
    return said


__all__ = ["RECIPE_FILE", "BuildReport", "build", "retry_failed"]
