"""Transfer between cities, of the encoder alone or of the encoder and the probe.

Two protocols:

- `city-encoder`: the encoder is trained in the source city, the probe is trained and tested in the
  target city. Measures how well embeddings transfer.
- `city`: encoder and probe are trained in the source cities and tested on all regions of the
  target. Measures prediction in a city without labels.

[`transfer_matrix`] evaluates all sources and targets of a folder of embeddings with the layout
`<embeddings>/<source>/<city>/<label>.parquet`: embeddings of a city's regions by an encoder trained
in the source. Several sources are joined by "+".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dataset_builders.files import digest, locked, write_json
from pipelines.common.csv_files import write_csv

from ..embed.tables import EmbeddingTable, read_embeddings
from ..embed.trainings import groups
from ..errors import InputError
from .city import City, Target, open_city
from .loop import Comparison, ProbeSettings, compute, hash_table, make_cells, skip
from .predictions import RESULTS_FILE
from .results import CITY, CITY_ENCODER, JOINT, TRANSFER_FILE, ResultRow, ResultStore, read_rows
from .splits import CityRegions, CitySplitter, RandomSplitter, geography, splitter_within
from .systems import NO_VIEW, System, common_regions, vectors_of, views_of

SKIPPED_FILE = "transfer_skipped.json"
SCORES = ("r2", "rmse", "mae", "spearman", "label_sd_test", "n_test")
CELL = ["protocol", "within", "source", "target", "group", "system", "view", "probe", "indicator"]


@dataclass(frozen=True)
class CityTables:
    """City with the embeddings of its regions.

    Attributes:
        city: City with regions and indicators.
        tables: Embedding tables, one per encoder; labels identify encoders across cities.
    """

    city: City
    tables: Sequence[EmbeddingTable]


@dataclass(frozen=True)
class Transfer:
    """Results of a transfer.

    Attributes:
        rows: Result rows, new and existing.
        skipped: Records of cells that could not be computed, with the reason.
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
    """Evaluate encoders trained in another city (protocol `city-encoder`).

    Args:
        source_city: City in which the encoders were trained.
        target: Target city, with the embeddings of these encoders.
        output: Results folder; existing rows are not recomputed.
        settings: Evaluation settings; `protocols` is ignored.
        within: Split protocol in the target city, `random` or `block`.

    Raises:
        InputError: No view or region is left, or a setting is unknown.
    """
    settings = settings or ProbeSettings()
    views = views_of(target.tables, settings.views)
    kept, _ = common_regions(target.city, target.tables, views)
    settings = settings.for_regions(len(kept))
    place = geography(target.city.regions, target.city.block_m)
    splitter = splitter_within(within, CityRegions(target.city.regions, place, kept))
    comparison = Comparison(
        city=target.city.name,
        source_city=source_city,
        synthetic=target.city.synthetic,
        table_hash=digest(CITY_ENCODER, within, hash_table(target.city, kept, place, settings)),
        region_ids=target.city.regions["region_id"].to_numpy()[kept],
        targets=[replace(one, y=one.y[kept]) for one in target.city.targets],
        systems=_systems([target], [kept], views, settings),
        splitters={CITY_ENCODER: splitter},
    )
    return _compute(comparison, output, settings)


def transfer_probe(
    sources: Sequence[CityTables],
    target: CityTables,
    output: Path,
    settings: ProbeSettings | None = None,
) -> Transfer:
    """Train probes in the source cities and test them in the target (protocol `city`).

    Embeddings and labels are standardised on the training regions of the sources. The validation
    part of each source's random split is used for validation, a different fifth per split seed, and
    the other regions for training. Labels of the target are used for scoring only. The control is
    the mean of the sources' labels.

    Args:
        sources: Source cities, at least one, with embeddings of the same encoders as the target.
        target: Target city.
        output: Results folder; existing rows are not recomputed.
        settings: Evaluation settings; `protocols` is ignored.

    Raises:
        InputError: The target is among the sources, encoders differ between cities, or an indicator
            has different units or transforms.
    """
    settings = settings or ProbeSettings()
    sources = sorted(sources, key=lambda source: source.city.name)
    cities = [*sources, target]
    views = _shared_views(cities, settings)
    kept = [common_regions(one.city, one.tables, views)[0] for one in cities]
    settings = settings.for_regions(len(kept[-1]))
    regions = [
        RandomSplitter(one.city.regions, geography(one.city.regions, one.city.block_m), rows)
        for one, rows in zip(cities, kept, strict=True)
    ]
    hashes = [
        hash_table(one.city, rows, own.place, settings)
        for one, rows, own in zip(cities, kept, regions, strict=True)
    ]
    ids = [one.city.regions["region_id"].to_numpy()[k] for one, k in zip(cities, kept, strict=True)]
    # region ids may not be unique across sources
    named = [[f"{one.city.name}/{i}" for i in own] for one, own in zip(sources, ids, strict=False)]
    labels = {one.name: _labels(cities, kept, one) for one in target.city.targets}
    comparison = Comparison(
        city=target.city.name,
        source_city=JOINT.join(source.city.name for source in sources),
        synthetic=target.city.synthetic,
        table_hash=digest(CITY, hashes),
        region_ids=np.concatenate([*(np.array(n, dtype=object) for n in named), ids[-1]]),
        targets=[
            replace(one, y=y) for one in target.city.targets if (y := labels[one.name]) is not None
        ],
        systems=_systems(cities, kept, views, settings),
        splitters={CITY: CitySplitter(regions[:-1], len(kept[-1]))},
    )
    found = _compute(comparison, output, settings)
    absent = [
        skip(name, CITY, seed, "a source has no such indicator")
        for name, y in labels.items()
        if y is None
        for seed in range(settings.seeds or 0)
    ]
    return replace(found, skipped=[*found.skipped, *absent])


def _compute(comparison: Comparison, output: Path, settings: ProbeSettings) -> Transfer:
    cells, skipped = make_cells(comparison.targets, comparison.splitters, settings)
    store = ResultStore(output / RESULTS_FILE)
    compute(comparison, cells, store, settings, progress=lambda batches, **_: batches)
    hashes = {system.hash for system in comparison.systems}
    rows = [
        row
        for row in read_rows(store.path)
        if row.table_hash == comparison.table_hash
        and row.embedding_hash in hashes
        and row.source_city == comparison.source_city
    ]
    return Transfer(rows, skipped)


def _shared_views(cities: Sequence[CityTables], settings: ProbeSettings) -> dict[str, list[str]]:
    """Views of each encoder available in all cities."""
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
    """Mean control, and embeddings of each encoder concatenated over cities."""
    systems = [System("mean", NO_VIEW, "", ("mean",), (np.zeros((sum(map(len, kept)), 0)),))]
    for label, own in views.items():
        tables = [next(t for t in one.tables if t.label == label) for one in cities]
        embedding_hash = tables[0].hash if len(tables) == 1 else digest([t.hash for t in tables])
        uses = tuple(sorted({use for table in tables for use in table.uses}))
        inputs = tuple(sorted({column for table in tables for column in table.inputs}))
        for view in own:
            parts = [
                vectors_of(table, view, one.city.regions["region_id"].to_numpy()[rows])
                for table, one, rows in zip(tables, cities, kept, strict=True)
            ]
            widths = {part.shape[1] for part in parts}
            if len(widths) > 1:
                raise InputError(
                    f"The {view} vectors of {label} have different dimensions in different cities, "
                    f"{sorted(widths)}: they come from different encoders."
                )
            X = np.concatenate(parts)
            systems.append(System(label, view, embedding_hash, settings.probes, (X,), uses, inputs))
    return systems


def _labels(
    cities: Sequence[CityTables], kept: Sequence[NDArray[np.int64]], indicator: Target
) -> NDArray[np.float64] | None:
    """Labels concatenated over cities, or None if a city lacks the indicator."""
    parts = []
    for one, rows in zip(cities, kept, strict=True):
        same = next((t for t in one.city.targets if t.name == indicator.name), None)
        if same is None:
            return None
        if (same.unit, same.transform) != (indicator.unit, indicator.transform):
            raise InputError(
                f"{indicator.name} is in {same.unit} ({same.transform}) in {one.city.name}, but in "
                f"{indicator.unit} ({indicator.transform}) in {cities[-1].city.name}: a transfer "
                "needs the same unit and transform."
            )
        parts.append(same.y[rows])
    return np.concatenate(parts)


# ---- transfer matrix ----------------------------------------------------------------------------


def transfer_matrix(
    embeddings: Path,
    dataset_name: str,
    output: Path,
    sources: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    within: str = "random",
    settings: ProbeSettings | None = None,
) -> Path:
    """Evaluate the transfer from every source to every target.

    For targets among the cities of the source, only `city-encoder` is evaluated.

    Args:
        embeddings: Folder of embedding tables.
        dataset_name: Dataset with the indicators of all cities.
        output: Output folder. Rows are written to `<output>/<target>/results.jsonl`, existing ones
            are not recomputed; `<output>/transfer.csv` has the mean and SD over splits of each
            cell, `<output>/transfer_skipped.json` the skipped cells with their reasons.
        sources: Folders of `embeddings`; all by default.
        targets: Target cities; all with embeddings by default.
        within: Split protocol of the target for `city-encoder`.
        settings: Evaluation settings.

    Returns:
        Path of transfer.csv.

    Raises:
        InputError: There are no embeddings, or none of a given source or target.
    """
    settings = settings or ProbeSettings()
    rows, skipped = [], []
    for source, cities in read_sources(embeddings, dataset_name, sources).items():
        metadata = {table.label: table.metadata for one in cities.values() for table in one.tables}
        group_of = groups(metadata, metadata)
        members = source.split(JOINT)
        for target in _targets(source, cities, targets):
            folder = output / target
            with locked(folder):
                parts = [transfer_encoder(source, cities[target], folder, settings, within)]
                if target not in members and set(members) <= set(cities):
                    own = [cities[name] for name in members]
                    parts.append(transfer_probe(own, cities[target], folder, settings))
            for part in parts:
                rows += [_cell(row, source, group_of, within) for row in part.rows]
                skipped += [{"source": source, "target": target, **one} for one in part.skipped]
    if not rows:
        raise InputError(f"Nothing in {embeddings} could be scored; see {output / SKIPPED_FILE}.")
    path = output / TRANSFER_FILE
    write_csv(path, summarise(rows))
    write_json(output / SKIPPED_FILE, skipped)
    return path


def read_sources(
    embeddings: Path, dataset_name: str, wanted: Sequence[str] | None = None
) -> dict[str, dict[str, CityTables]]:
    """Read the embedding tables, by source (cities joined by "+") and city.

    Raises:
        InputError: There are no tables, or none of a given source.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(embeddings.glob("*/*/*.parquet")):
        if not path.name.endswith(".rejects.parquet"):
            source, city = path.parts[-3:-1]
            found.setdefault(source, {}).setdefault(city, []).append(path)
    if not found:
        raise InputError(
            f"No tables in {embeddings}: expected SOURCE/CITY/LABEL.parquet. "
            "`python evaluate.py transfer --help` shows how to make them."
        )
    for name in wanted or ():
        if name not in found:
            raise InputError(f"--sources: no vectors of {name!r}; there are: {', '.join(found)}.")
    names = {city for source in found.values() for city in source}
    cities = {name: open_city(dataset_name, name) for name in sorted(names)}
    return {
        source: {
            city: CityTables(cities[city], [read_embeddings(path) for path in paths])
            for city, paths in by_city.items()
        }
        for source, by_city in found.items()
        if wanted is None or source in wanted
    }


def _targets(
    source: str, cities: Mapping[str, CityTables], wanted: Sequence[str] | None
) -> list[str]:
    for name in wanted or ():
        if name not in cities:
            raise InputError(
                f"--targets: {source} has no vectors of {name!r}, only of {', '.join(cities)}."
            )
    return [name for name in cities if wanted is None or name in wanted]


def _cell(
    row: ResultRow, source: str, group_of: Mapping[str, str], within: str
) -> dict[str, object]:
    return {
        "protocol": row.protocol,
        "within": within if row.protocol == CITY_ENCODER else "",
        "source": source,
        "target": row.city,
        "group": group_of.get(row.system, row.system),
        "synthetic": row.synthetic,
        **{name: getattr(row, name) for name in ("system", "view", "probe", "indicator", *SCORES)},
    }


def summarise(rows: Sequence[dict[str, object]]) -> pd.DataFrame:
    """Mean scores per cell over splits and probe seeds, SD of R2, and number of runs."""
    groups = pd.DataFrame(rows).groupby([*CELL, "synthetic"], sort=True)
    table = groups[list(SCORES)].mean()
    table.insert(1, "r2_sd", groups["r2"].std())
    table.insert(2, "runs", groups.size())
    return table.reset_index()


__all__ = [
    "CityTables",
    "Transfer",
    "read_sources",
    "summarise",
    "transfer_encoder",
    "transfer_matrix",
    "transfer_probe",
]
