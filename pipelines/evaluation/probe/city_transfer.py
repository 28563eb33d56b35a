"""From city to city: an encoder learnt elsewhere, or an encoder and a probe learnt elsewhere.

Two questions that are often taken for one:

- `city-encoder`: the encoder saw the source city, the probe is trained and tested within the
  target city: are the vectors any good there?
- `city`: the probe, too, saw the source cities alone; it is tested on all regions of the target:
  what is known of a city of which no label is known?
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset_builders.errors import SplitError
from dataset_builders.files import digest

from ..embed.tables import EmbeddingTable
from ..errors import InputError
from .city import City, Target
from .predictions import RESULTS_FILE
from .results import CITY, CITY_ENCODER, ResultRow, ResultStore, code_revision, read_rows
from .run import (
    PROBE_SEED_STEP,
    Cell,
    ProbeSettings,
    default_seeds,
    hash_table,
    make_cells,
    make_task,
    run_batch,
    skip,
    system_fields,
    why_not,
)
from .splits import Geography, draw_split, geography
from .systems import NO_VIEW, System, common_regions, views_of


@dataclass(frozen=True)
class CityTables:
    """A city, and the vectors of its regions by each encoder.

    Attributes:
        city: regions and indicators.
        tables: one an encoder; the labels name the same encoders in all cities.
    """

    city: City
    tables: Sequence[EmbeddingTable]


@dataclass(frozen=True)
class Transfer:
    """What a transfer gave.

    Attributes:
        rows: those asked for, whether computed now or before.
        skipped: indicators that could not be scored, each with the reason.
    """

    rows: list[ResultRow]
    skipped: list[dict[str, Any]]


def transfer_encoder(
    source_city: str,
    target: CityTables,
    output: Path,
    settings: ProbeSettings | None = None,
    within: str = "random",
) -> Transfer:
    """Probe vectors of encoders that learnt in another city: rows of the protocol `city-encoder`.

    Args:
        source_city: where the encoders learnt.
        target: the city, and its regions' vectors by those encoders.
        output: folder of the results; rows that are there are not computed again.
        settings: probes, seeds, views and grids; its protocols are not looked at.
        within: `random` or `block`, the split of the target's regions.

    Raises:
        InputError: no view or region is left, or a setting is unknown.
    """
    settings = replace(settings or ProbeSettings(), protocols=(within,))
    views = views_of(target.tables, settings.views)
    kept, _ = common_regions(target.city, target.tables, views)
    if settings.seeds is None:
        settings = replace(settings, seeds=default_seeds(len(kept)))
    place = geography(target.city.regions, target.city.block_m)
    cells, skipped = make_cells(target.city, kept, place, settings)
    cells = [replace(cell, protocol=CITY_ENCODER) for cell in cells]
    skipped = [{**item, "protocol": CITY_ENCODER} for item in skipped]
    table_hash = digest(CITY_ENCODER, within, hash_table(target.city, kept, place, settings))
    region_ids = target.city.regions["region_id"].to_numpy()[kept]
    systems = _systems([target], [kept], views, settings)
    rows = _run(output, systems, cells, target.city, source_city, table_hash, region_ids, settings)
    return Transfer(rows, skipped)


def transfer_probe(
    sources: Sequence[CityTables],
    target: CityTables,
    output: Path,
    settings: ProbeSettings | None = None,
) -> Transfer:
    """Train on all regions of the source cities, test on the target: rows of the protocol `city`.

    Vectors and labels are standardised on the sources' training regions. Of the sources' regions,
    those of each city's random validation split stop training and choose hyper-parameters, and the
    rest train; with the split seed another fifth validates. No label of the target is seen. The
    mean of the sources' labels is the control.

    Args:
        sources: one at least; their tables are by the same encoders as the target's.
        target: the city that is scored.
        output: folder of the results; rows that are there are not computed again.
        settings: probes, seeds, views and grids; its protocols are not looked at.

    Raises:
        InputError: the target is among the sources, encoders differ between cities, or an indicator
            has another unit or transform in another city.
    """
    settings = settings or ProbeSettings()
    sources = sorted(sources, key=lambda source: source.city.name)
    cities = [*sources, target]
    views = _shared_views(cities, settings)
    kept = [common_regions(one.city, one.tables, views)[0] for one in cities]
    if settings.seeds is None:
        settings = replace(settings, seeds=default_seeds(len(kept[-1])))
    places = [geography(one.city.regions, one.city.block_m) for one in cities]
    cells, skipped = _transfer_cells(cities, kept, places, settings)
    hashes = [
        hash_table(one.city, rows, place, settings)
        for one, rows, place in zip(cities, kept, places, strict=True)
    ]
    ids = [one.city.regions["region_id"].to_numpy()[k] for one, k in zip(cities, kept, strict=True)]
    # regions of two sources may have one name
    named = [[f"{one.city.name}/{i}" for i in own] for one, own in zip(sources, ids, strict=False)]
    region_ids = np.concatenate([*(np.array(n, dtype=object) for n in named), ids[-1]])
    systems = _systems(cities, kept, views, settings)
    source_city = "+".join(source.city.name for source in sources)
    table_hash = digest(CITY, hashes)
    rows = _run(output, systems, cells, target.city, source_city, table_hash, region_ids, settings)
    return Transfer(rows, skipped)


def _shared_views(cities: Sequence[CityTables], settings: ProbeSettings) -> dict[str, list[str]]:
    """The views that each encoder has in every city."""
    names = [one.city.name for one in cities]
    if len(cities) < 2 or len(set(names)) < len(names):
        raise InputError(f"A transfer needs a target and other cities as sources, got {names}.")
    found = [views_of(one.tables, settings.views) for one in cities]
    labels = [sorted(views) for views in found]
    if any(own != labels[0] for own in labels):
        raise InputError(
            "All cities must be encoded by the same encoders under the same labels, got "
            + "; ".join(f"{n}: {', '.join(own)}" for n, own in zip(names, labels, strict=True))
        )
    shared = {
        label: [view for view in found[0][label] if all(view in views[label] for views in found)]
        for label in labels[0]
    }
    without = [label for label, views in shared.items() if not views]
    if without:
        raise InputError(f"{without[0]} has no view that all of {', '.join(names)} have.")
    return shared


def _systems(
    cities: Sequence[CityTables],
    kept: Sequence[NDArray[np.int64]],
    views: dict[str, list[str]],
    settings: ProbeSettings,
) -> list[System]:
    """The mean, and every encoder's vectors of all cities' regions one below the other."""
    systems = [System("mean", NO_VIEW, "", ("mean",), np.zeros((sum(map(len, kept)), 0)))]
    for label, own in views.items():
        tables = [next(t for t in one.tables if t.label == label) for one in cities]
        embedding_hash = tables[0].hash if len(tables) == 1 else digest([t.hash for t in tables])
        uses = tuple(sorted({use for table in tables for use in table.uses}))
        inputs = tuple(sorted({column for table in tables for column in table.inputs}))
        for view in own:
            parts = [
                _rows_of(table, one.city, rows, view)
                for table, one, rows in zip(tables, cities, kept, strict=True)
            ]
            widths = {part.shape[1] for part in parts}
            if len(widths) > 1:
                raise InputError(
                    f"The {view} vectors of {label} have {sorted(widths)} numbers in different "
                    "cities: they are not of one encoder."
                )
            X = np.concatenate(parts)
            systems.append(System(label, view, embedding_hash, settings.probes, X, uses, inputs))
    return systems


def _rows_of(
    table: EmbeddingTable, city: City, kept: NDArray[np.int64], view: str
) -> NDArray[np.float64]:
    position = {region_id: row for row, region_id in enumerate(table.region_ids)}
    wanted = city.regions["region_id"].to_numpy()[kept]
    return table.matrix(view)[[position[region_id] for region_id in wanted]]


def _transfer_cells(
    cities: Sequence[CityTables],
    kept: Sequence[NDArray[np.int64]],
    places: Sequence[Geography],
    settings: ProbeSettings,
) -> tuple[list[Cell], list[dict[str, Any]]]:
    cells, skipped = [], []
    *sources, target = cities
    for seed in range(settings.seeds or 0):
        try:
            parts = [
                _source_split(one.city, rows, place, seed)
                for one, rows, place in zip(sources, kept, places, strict=False)
            ]
        except SplitError as error:
            skipped += [skip(t.name, CITY, seed, str(error)) for t in target.city.targets]
            continue
        split = np.concatenate([*parts, np.full(len(kept[-1]), "test", dtype=object)])
        fit_rows = np.flatnonzero(split == "train")
        for indicator in target.city.targets:
            y = _labels(cities, kept, indicator)
            task = None if y is None else make_task(y, split, fit_rows)
            reason = "a source has no such indicator" if task is None else why_not(task)
            if task is None or reason:
                skipped.append(skip(indicator.name, CITY, seed, str(reason)))
                continue
            for p in range(settings.probe_seeds):
                probe_seed = PROBE_SEED_STEP * p + seed
                seeded = replace(task, seed=probe_seed)
                cells.append(Cell(indicator, CITY, seed, probe_seed, seeded))
    return cells, skipped


def _source_split(
    city: City, kept: NDArray[np.int64], place: Geography, seed: int
) -> NDArray[np.object_]:
    split = draw_split(city.regions, place, "random", seed)[kept]
    split[split == "test"] = "train"  # nothing is tested here
    return split


def _labels(
    cities: Sequence[CityTables], kept: Sequence[NDArray[np.int64]], indicator: Target
) -> NDArray[np.float64] | None:
    """Labels of all cities' regions, or None where a city has no such indicator."""
    parts = []
    for one, rows in zip(cities, kept, strict=True):
        same = next((t for t in one.city.targets if t.name == indicator.name), None)
        if same is None:
            return None
        if (same.unit, same.transform) != (indicator.unit, indicator.transform):
            raise InputError(
                f"{indicator.name} is in {same.unit} ({same.transform}) in {one.city.name}, but in "
                f"{indicator.unit} ({indicator.transform}) in {cities[-1].city.name}: labels must "
                "be on one scale to be carried over."
            )
        parts.append(same.y[rows])
    return np.concatenate(parts)


def _run(
    output: Path,
    systems: Sequence[System],
    cells: Sequence[Cell],
    city: City,
    source_city: str,
    table_hash: str,
    region_ids: NDArray[np.object_],
    settings: ProbeSettings,
) -> list[ResultRow]:
    store = ResultStore(output / RESULTS_FILE)
    shared = {
        "city": city.name,
        "source_city": source_city,
        "synthetic": city.synthetic,
        "table_hash": table_hash,
        "code_revision": code_revision(),
    }
    for system in systems:
        scored = [cell for cell in cells if system.scores(cell.target.name)]
        for probe_name in system.probes:
            fields = {**shared, **system_fields(system, probe_name, settings)}
            run_batch(store, system.X, probe_name, scored, fields, region_ids, settings)
    hashes = {system.hash for system in systems}
    return [
        row
        for row in read_rows(store.path)
        if row.table_hash == table_hash
        and row.embedding_hash in hashes
        and row.source_city == source_city
    ]


__all__ = ["CITY", "CITY_ENCODER", "CityTables", "Transfer", "transfer_encoder", "transfer_probe"]
