"""Evaluation of all systems and controls on all indicators and splits of a city.

All systems of a run share regions, labels and splits. Each is evaluated in the views it has;
regions without an embedding of some system in one of its views are excluded for all, and counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dataset_builders.errors import SplitError
from dataset_builders.files import atomic_path, read_json, write_state

from ..embed.tables import EmbeddingTable
from .city import City
from .loop import Comparison, ProbeSettings, compute, hash_table, leaking_cells, make_cells
from .predictions import (
    BLOCK_COLUMN,
    REGIONS_FILE,
    RESULTS_FILE,
    SUMMARY_FILE,
    read_summary,
    unpredicted,
)
from .reach import measure_reach
from .results import ResultStore, code_revision, read_rows
from .splits import (
    STORED_SEED,
    CityRegions,
    block_ids,
    geography,
    splitter_within,
    stored_neighbours,
)
from .systems import (
    VIEW_CHOICES,
    System,
    check_beside,
    common_regions,
    left_out_inputs,
    make_systems,
    views_of,
)


def probe(
    city: City,
    tables: Sequence[EmbeddingTable],
    output: Path,
    settings: ProbeSettings | None = None,
    progress: Callable[..., Any] = tqdm,
) -> Path:
    """Compute the rows missing from `<output>/results.jsonl`.

    Also writes test and validation predictions in Parquet; `regions.parquet` with geometries and
    labels; and `probe.json` with excluded regions, skipped cells and coverage of the embeddings.

    Args:
        city: City with regions and indicators.
        tables: Embedding tables of the systems.
        output: Results folder of the city.
        settings: Evaluation settings.
        progress: Progress bar that wraps the iteration over batches of cells.

    Returns:
        Path of results.jsonl.

    Raises:
        InputError: No common region or view is left, tables are inconsistent, or an input in
            `settings.beside` does not exist.
    """
    settings = settings or ProbeSettings()
    views = views_of(tables, settings.views, settings.controls)
    check_beside(settings.beside, city, tables, settings.controls, settings.probes)
    needed = {*settings.beside, *settings.controls}
    kept, dropped = common_regions(city, tables, views, needed)
    settings = settings.for_regions(len(kept))
    place = geography(city.regions, city.block_m)
    own = CityRegions(city.regions, place, kept)
    systems = make_systems(
        city, tables, views, kept, place, settings.probes, settings.beside, settings.controls
    )
    comparison = Comparison(
        city=city.name,
        source_city="",
        synthetic=city.synthetic,
        table_hash=hash_table(city, kept, place, settings),
        region_ids=city.regions["region_id"].to_numpy()[kept],
        targets=[replace(target, y=target.y[kept]) for target in city.targets],
        systems=systems,
        splitters={name: splitter_within(name, own) for name in settings.protocols},
    )
    cells, skipped = make_cells(comparison.targets, comparison.splitters, settings)
    skipped += leaking_cells(systems, cells)
    store = ResultStore(output / RESULTS_FILE)  # raises on rows of another format first
    store.drop(unpredicted(output, read_rows(store.path)))
    regions = city.regions.iloc[kept][["region_id", "lon", "lat", "geometry"]].assign(
        **{target.name: target.y for target in comparison.targets},
        **{BLOCK_COLUMN: block_ids(place)[kept]},
    )
    with atomic_path(output / REGIONS_FILE) as temporary:
        regions.to_parquet(temporary, write_page_checksum=True)
    placed = bool(np.isfinite(place.block_m))
    summary = {
        "city": city.name,
        "dataset_name": city.dataset_name,
        "synthetic": city.synthetic,
        "table_hash": comparison.table_hash,
        "code_revision": code_revision(),
        "views": [view for view in VIEW_CHOICES if any(view in own for own in views.values())],
        "indicators": {t.name: {"unit": t.unit, "transform": t.transform} for t in city.targets},
        "regions": {"all": len(city.regions), "compared": len(kept), "dropped": dropped},
        "invalid_labels": {t.name: t.invalid for t in city.targets if t.invalid},
        "skipped": skipped,
        "left_out_inputs": left_out_inputs(city),
        "settings": asdict(settings),
        "systems": _describe(city, tables, systems, own),
        "controls": {one.name: one.hash for one in systems if one.name in settings.controls},
        "beside": {
            one.name: {"view": one.view, "hash": one.beside_hash}
            for one in systems  # the last view of each
            if one.name in settings.beside
        },
        "block_m": place.block_m if placed else None,
        "buffer_m": place.buffer_m if placed else None,
        "stored_neighbours": stored_neighbours(city.regions, place),
        "without_coordinates": int((~np.isfinite(place.xy[kept]).all(1)).sum()),
    }
    write_state(output / SUMMARY_FILE, _with_earlier(output / SUMMARY_FILE, summary))
    compute(comparison, cells, store, settings, progress)
    return store.path


def compared_regions(output: Path) -> str:
    """One-line summary of the regions compared by the latest run and of those excluded."""
    regions = read_summary(output)["regions"]
    line = f"Compared: {regions['compared']:,} of {regions['all']:,} regions"
    dropped = "; ".join(f"{n:,} {reason}" for reason, n in regions["dropped"].items())
    return f"{line}. Left out: {dropped}." if dropped else f"{line}."


def _describe(
    city: City, tables: Sequence[EmbeddingTable], systems: Sequence[System], own: CityRegions
) -> dict[str, dict[str, Any]]:
    """Metadata of each system, with its coverage in the first block split."""
    kept = np.arange(len(own.regions)) if own.kept is None else own.kept
    blocks = block_ids(own.place)[kept]
    try:
        split = splitter_within("block", own).split(STORED_SEED)
    except SplitError:
        split = None
    found = {}
    for table in tables:
        views = {one.view: one for one in systems if one.name == table.label}
        found[table.label] = {
            **table.metadata,
            "embedding_hash": table.hash,
            "views": list(views),
            "uses": table.uses,
            "reach": {
                view: measure_reach(city, table, one, kept, split, blocks)
                for view, one in views.items()
            },
        }
    return found


def _with_earlier(path: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Merge the systems of earlier comparable runs into the summary."""
    earlier = read_json(path) or {}
    if earlier.get("table_hash") != summary["table_hash"]:
        return summary
    merged = {
        name: {**earlier[name], **summary[name]} for name in ("systems", "controls", "beside")
    }
    new = [item for item in summary["skipped"] if item not in earlier["skipped"]]
    return {**summary, **merged, "skipped": [*earlier["skipped"], *new]}


__all__ = ["ProbeSettings", "compared_regions", "probe"]
