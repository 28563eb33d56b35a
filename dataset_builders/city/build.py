"""Build a city's dataset: fetch what is missing, then write the tables, the card and the pictures.

Killed at any moment, the same call goes on; what was fetched is never asked for again, and the
dataset ends as if it had never been stopped.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from tqdm import tqdm

from ..card import CARD_FILE, write_card
from ..download import Store
from ..files import digest
from ..ledger import DamagedStoreError
from ..schema import DatasetMetadata, config_name
from ..sources.local_folder import LocalFolder
from ..sources.satellite import Picture, SatelliteSource
from ..split_checks import duplicate_groups
from ..storage import (
    REJECTS_FILE,
    DatasetWriter,
    Reject,
    count_rows,
    list_tables,
    read_rejects,
)
from .fetching import fetch_all, forget_batches
from .layout import Layout, city_regions, lay_out
from .recipe import CityRecipe
from .report import write_report
from .satellite import picture_row
from .shards import ShardLedger, sha256_of
from .splitting import Splits, split_regions
from .street_view import SeenView, batches, folder_rejects, view_row
from .targets import Targets, read_targets
from .workspace import Workspace

REGIONS_PER_SHARD = 500
REGIONS_AT_ONCE = 2000
IMAGE_COLUMNS = {
    "attribution": "string",
    "redistributable": "bool",
    "fetched_at": "string",
    "sha256": "string",
}
RECIPE_FILE = "recipe.yaml"


@dataclass(frozen=True)
class BuildReport:
    """What a build wrote.

    Attributes:
        dataset: its folder.
        rows: by config name.
        rejects: what was left out, by reason.
        notes: what a user must know.
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
) -> BuildReport:
    """Build a city's dataset in `<output_dir>/dataset`.

    Args:
        recipe: of the city.
        output_dir: see [`Workspace`].
        limit: only so many regions, the middle ones, for a try.
        recipe_text: the recipe as it was written, to be kept beside the dataset.
        draw: also write the pictures of `report/`.

    Raises:
        StoppedError: a provider's quota is used up or a key refused; what is there is kept.
        DatasetError: a file that is missing or not what the recipe says, or a folder of something
            else.
        SourceError: a key is not in the environment, or there is no road.
    """
    space = Workspace(Path(output_dir))
    space.claim()
    layout = lay_out(recipe, space.cache, limit)
    # before anything costs: a wrong file is found now; points of the city lie in all its regions
    whole = layout.regions if limit is None else city_regions(recipe, layout.boundary)
    targets = read_targets(recipe, whole)
    taken = whole["region_id"].isin(layout.regions["region_id"])
    targets = replace(targets, columns=targets.columns[taken].reset_index(drop=True))
    try:
        report = _fetch_and_write(recipe, space, layout, targets, limit, recipe_text)
    except DamagedStoreError as error:
        tqdm.write(str(error))  # set aside by now, so that it is downloaded again
        report = _fetch_and_write(recipe, space, layout, targets, limit, recipe_text)
    if draw:
        write_report(space, recipe, layout)
    return report


def _fetch_and_write(
    recipe: CityRecipe,
    space: Workspace,
    layout: Layout,
    targets: Targets,
    limit: int | None,
    recipe_text: str | None,
) -> BuildReport:
    fetch_all(recipe, layout.regions, layout.places, space.cache)
    store = space.open_store()
    try:
        return _write(recipe, space, layout, targets, store, limit, recipe_text)
    finally:
        store.close()


def _write(
    recipe: CityRecipe,
    space: Workspace,
    layout: Layout,
    targets: Targets,
    store: Store,
    limit: int | None,
    recipe_text: str | None,
) -> BuildReport:
    # folders of images are listed before the tables, so that rejects are told once
    general = [*targets.rejects, *folder_rejects(recipe, store)]
    metadata = _metadata(recipe, targets, limit)
    writer = DatasetWriter(space.dataset, metadata)
    ledger = ShardLedger(space.cache / "shards.json", space.dataset)
    keys = _write_satellite(recipe, layout.regions, store, writer, ledger)
    for region_id, names in _write_street_views(recipe, layout, store, space, writer, ledger):
        keys[region_id] += names
    splits = split_regions(
        layout.regions,
        targets.columns,
        targets.indicators,
        recipe.splits,
        duplicate_groups(keys),
    )
    _write_regions(recipe, layout.regions, targets, splits, metadata, space, ledger)
    _finish(writer, general)
    if recipe_text is not None:
        with writer.files.writing(RECIPE_FILE) as temporary:
            temporary.write_text(recipe_text, encoding="utf-8")
    write_card(space.dataset)
    return _report(recipe, space, writer, (*targets.notes, *splits.notes))


def _metadata(recipe: CityRecipe, targets: Targets, limit: int | None) -> DatasetMetadata:
    extra: dict[str, dict[str, str]] = {
        "satellite": dict(IMAGE_COLUMNS),
        "street_view": {**IMAGE_COLUMNS, "point_id": "string"},
        "regions": {"cover": "float64", **targets.extra_columns},
    }
    notes = [*recipe.notes, *targets.notes]
    parameters: dict[str, Any] = {"recipe": recipe.fingerprint(), "seed": recipe.splits.seed}
    if limit is not None:
        parameters["limit"] = limit
        notes.insert(0, f"Only {limit} regions in the middle of the city, for a try.")
    return DatasetMetadata(
        title=recipe.title or f"UrbanLN {recipe.city}",
        description=recipe.description
        or f"Street views, satellite pictures and indicators of the regions of {recipe.city}.",
        source="; ".join([*_image_sources(recipe), *targets.sources]) or "the recipe names none",
        licence=recipe.licence,
        synthetic=recipe.synthetic,
        indicators=targets.indicators,
        extra_columns=extra,
        parameters=parameters,
        notes=tuple(notes),
        citation=recipe.citation,
    )


def _image_sources(recipe: CityRecipe) -> list[str]:
    satellite = recipe.open_satellite()
    sources = [] if satellite is None else [_said_of(satellite)]
    views = [f"street views: {one.name} ({one.licence})" for one in recipe.open_street_views()]
    roads = ["roads: OpenStreetMap (ODbL-1.0, © OpenStreetMap contributors)"]
    return [*sources, *views, *(roads if recipe.roads is not None else [])]


def _said_of(source: SatelliteSource) -> str:
    made = f"; {source.makeup}" if source.makeup else ""
    return f"satellite: {source.name} ({source.licence}{made})"


def _write_satellite(
    recipe: CityRecipe,
    regions: gpd.GeoDataFrame,
    store: Store,
    writer: DatasetWriter,
    ledger: ShardLedger,
) -> dict[str, list[str]]:
    """Write the satellite table; returns what names the pictures of each region."""
    keys: dict[str, list[str]] = {name: [] for name in regions["region_id"]}
    source, table = recipe.open_satellite(), (recipe.city, "satellite")
    count = 0
    if source is not None:
        found = source.pictures(regions, store)
        bar = tqdm(total=len(regions), desc="satellite table", unit="region")
        while chunk := list(itertools.islice(found, REGIONS_PER_SHARD)):
            for one in chunk:
                keys[one.region.region_id] += [one.identity] * bool(one.identity)
            made_of = digest([[one.image_id, one.identity, one.reason] for one in chunk])

            def rows(chunk: list[Picture] = chunk) -> Iterator[dict[str, Any]]:
                for one in chunk:
                    row = one.reason or picture_row(source, one, store)
                    if isinstance(row, str):
                        writer.reject(config_name(*table), one.image_id, row, one.detail)
                    else:
                        yield row | {"sha256": sha256_of(row["image"]["bytes"])}

            ledger.write(writer, table, count, made_of, rows)
            count += 1
            bar.update(len(chunk))
        bar.close()
    ledger.drop_beyond(table, count)
    return keys


def _write_street_views(
    recipe: CityRecipe,
    layout: Layout,
    store: Store,
    space: Workspace,
    writer: DatasetWriter,
    ledger: ShardLedger,
) -> Iterator[tuple[str, list[str]]]:
    """Write the table of street views; yields what names the pictures of a region."""
    table, count = (recipe.city, "street_view"), 0
    bar = tqdm(desc="street-view table", unit="view")
    for batch in batches(recipe, layout.regions, layout.places, store, space.cache):
        made_of = digest([[s.view.image_id, s.sha256, s.region_id, s.reason] for s in batch])

        def rows(batch: list[SeenView] = batch) -> Iterator[dict[str, Any]]:
            for seen in batch:
                if seen.reason:
                    writer.reject(config_name(*table), seen.view.image_id, seen.reason)
                else:
                    yield view_row(seen, store) | {"sha256": seen.sha256}

        ledger.write(writer, table, count, made_of, rows)
        count += 1
        bar.update(len(batch))
        for seen in batch:
            if seen.region_id is not None and not seen.reason:
                yield seen.region_id, [seen.sha256, f"panorama {_panorama(seen)}"]
    bar.close()
    ledger.drop_beyond(table, count)


def _panorama(seen: SeenView) -> str:
    """What two views of one panorama share: their id up to the heading."""
    if isinstance(seen.source, LocalFolder):
        return seen.view.image_id
    return "/".join(seen.view.image_id.split("/")[:2])


def _write_regions(
    recipe: CityRecipe,
    regions: gpd.GeoDataFrame,
    targets: Targets,
    splits: Splits,
    metadata: DatasetMetadata,
    space: Workspace,
    ledger: ShardLedger,
) -> None:
    frame = pd.concat([pd.DataFrame(regions), targets.columns], axis=1).assign(city=recipe.city)
    frame = frame.assign(**splits.columns)
    if "cover" not in frame:
        frame["cover"] = np.nan
    # evaluation draws further blocks like these
    parameters = {**metadata.parameters, "block_m": splits.block_m}
    notes = (*metadata.notes, *splits.notes)
    writer = DatasetWriter(space.dataset, replace(metadata, parameters=parameters, notes=notes))
    made_of = digest([digest(_plain(chunk)) for chunk in _in_chunks(frame)])
    rows = itertools.chain.from_iterable(_in_chunks(frame))
    ledger.write(writer, (recipe.city, "regions"), 0, made_of, lambda: rows)


def _in_chunks(frame: pd.DataFrame) -> Iterator[list[dict[str, Any]]]:
    """The rows of a table, which as dictionaries would take far more memory than the table."""
    for start in range(0, len(frame), REGIONS_AT_ONCE):
        chunk = frame.iloc[start : start + REGIONS_AT_ONCE].astype(object)
        rows: Any = chunk.where(chunk.notna(), None).to_dict("records")
        yield rows


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"geometry": row["geometry"].wkb_hex} for row in rows]


def _finish(writer: DatasetWriter, general: Sequence[Reject]) -> None:
    # rejects follow what was found by this build, not by those before
    writer.files.delete([REJECTS_FILE, CARD_FILE])
    for reject in general:
        writer.reject(*reject)
    writer.finish()


def _report(
    recipe: CityRecipe, space: Workspace, writer: DatasetWriter, notes: Sequence[str]
) -> BuildReport:
    rows = {
        config_name(*table): count_rows(space.dataset, *table)
        for table in list_tables(space.dataset)
    }
    reasons = Counter(read_rejects(space.dataset)["reason"])
    return BuildReport(space.dataset, rows, reasons, tuple(notes))


def retry_failed(recipe: CityRecipe, output_dir: str | Path) -> int:
    """Let everything that failed be fetched again by the next build.

    That is what came and is no picture (blank, a placeholder, not an image) or did not come; what
    the provider says it does not have is not asked for again.

    Returns:
        How many items that are.
    """
    space = Workspace(Path(output_dir))
    store = space.open_store()
    try:
        names = [one.name for one in recipe.open_street_views()]
        if (source := recipe.open_satellite()) is not None:
            names.append(source.name)
        count = sum(store.forget_failures(f"{name}/") for name in names)
    finally:
        store.close()
    if count:
        forget_batches(space.cache)
    return count


__all__ = ["RECIPE_FILE", "BuildReport", "build", "retry_failed"]
