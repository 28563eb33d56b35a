"""From city to city: an encoder learnt elsewhere, or an encoder and a probe learnt elsewhere.

Two questions that are often taken for one:

- `city-encoder`: the encoder saw the source city, the probe is trained and tested within the
  target city: are the vectors any good there?
- `city`: the probe, too, saw the source cities alone; it is tested on all regions of the target:
  what is known of a city of which no label is known?

[`transfer_matrix`] asks both of every source and target of a folder of vectors:
`<embeddings>/<source>/<city>/<label>.parquet` are the vectors of a city's regions by an encoder
that learnt in the source; several sources are joined by "+".
"""

from collections.abc import Callable, Sequence
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
from .loop import Comparison, ProbeSettings, compute, make_cells, skip
from .predictions import RESULTS_FILE
from .results import CITY, CITY_ENCODER, JOINT, TRANSFER_FILE, ResultRow, ResultStore, read_rows
from .run import hash_table
from .splits import CityRegions, CitySplitter, RandomSplitter, geography, splitter_within
from .systems import NO_VIEW, System, common_regions, vectors_of, views_of

SKIPPED_FILE = "transfer_skipped.json"
SCORES = ("r2", "rmse", "mae", "spearman", "label_sd_test", "n_test")
CELL = ["protocol", "within", "source", "target", "group", "system", "view", "probe", "indicator"]
TITLES = {
    CITY_ENCODER: "Encoder trained in the source, probe in the target",
    CITY: "Encoder and probe trained in the source",
}


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
    # regions of two sources may have one name
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
    """Labels of all cities' regions, or None where a city has no such indicator."""
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


# ---- the matrix of a folder ---------------------------------------------------------------------


@dataclass(frozen=True)
class SourceTables:
    """The vectors of cities by encoders that learnt in one source (cities joined by "+")."""

    name: str
    cities: dict[str, CityTables]

    @property
    def members(self) -> list[str]:
        """The cities it is made of."""
        return self.name.split(JOINT)

    @property
    def groups(self) -> dict[str, str]:
        """Label of a table -> the system that it is a training of."""
        tables = [table for city in self.cities.values() for table in city.tables]
        metadata = {table.label: table.metadata for table in tables}
        return groups(metadata, metadata)


def transfer_matrix(
    embeddings: Path,
    dataset_name: str,
    output: Path,
    sources: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    within: str = "random",
    settings: ProbeSettings | None = None,
    echo: Callable[[str], None] = print,
) -> Path:
    """Carry every source to every target, and write what it gives.

    A target that is the source, or one of its cities, is scored with a probe of its own only: what
    the encoder is worth at home.

    Args:
        embeddings: folder of the vectors.
        dataset_name: with the indicators of all cities.
        output: rows go to `<output>/<target>/results.jsonl`; those that are there are not computed
            again. `<output>/transfer.csv` holds the mean and the spread over splits of each cell,
            `<output>/transfer_skipped.json` what could not be scored, and why.
        sources: folders of `embeddings`; all by default.
        targets: cities; all that have vectors by default.
        within: split of the target's regions, where the probe is trained there.
        settings: probes, seeds, views and grids.
        echo: takes the matrices of R2.

    Returns:
        The path of transfer.csv.

    Raises:
        InputError: there are no vectors, or none of a source or a target that was asked for.
    """
    settings = settings or ProbeSettings()
    rows, skipped = [], []
    for source in read_sources(embeddings, dataset_name, sources):
        for name in _targets(source, targets):
            with locked(output / name):
                parts = list(_carry(source, name, output / name, within, settings))
            for part in parts:
                rows += [_cell(row, source, within) for row in part.rows]
                skipped += [{"source": source.name, "target": name, **one} for one in part.skipped]
    if not rows:
        raise InputError(f"Nothing in {embeddings} could be scored; see {output / SKIPPED_FILE}.")
    table = summarise(rows)
    path = output / TRANSFER_FILE
    write_csv(path, table)
    write_json(output / SKIPPED_FILE, skipped)
    for text in matrices(table):
        echo(text)
    return path


def read_sources(
    embeddings: Path, dataset_name: str, wanted: Sequence[str] | None = None
) -> list[SourceTables]:
    """The tables of each source, by name.

    Raises:
        InputError: there are none, or none of a source that is wanted.
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
    return [
        SourceTables(
            source,
            {
                city: CityTables(cities[city], [read_embeddings(path) for path in paths])
                for city, paths in by_city.items()
            },
        )
        for source, by_city in found.items()
        if wanted is None or source in wanted
    ]


def _targets(source: SourceTables, wanted: Sequence[str] | None) -> list[str]:
    for name in wanted or ():
        if name not in source.cities:
            raise InputError(
                f"--targets: {source.name} has no vectors of {name!r}, only of "
                f"{', '.join(source.cities)}."
            )
    return [name for name in source.cities if wanted is None or name in wanted]


def _carry(
    source: SourceTables, target: str, output: Path, within: str, settings: ProbeSettings
) -> list[Transfer]:
    known = source.cities
    parts = [transfer_encoder(source.name, known[target], output, settings, within)]
    members = [known[name] for name in source.members if name in known]
    if target not in source.members and len(members) == len(source.members):
        parts.append(transfer_probe(members, known[target], output, settings))
    return parts


# ---- the table ----------------------------------------------------------------------------------


def _cell(row: ResultRow, source: SourceTables, within: str) -> dict[str, object]:
    return {
        "protocol": row.protocol,
        "within": within if row.protocol == CITY_ENCODER else "",
        "source": source.name,
        "target": row.city,
        "group": source.groups.get(row.system, row.system),
        "synthetic": row.synthetic,
        **{name: getattr(row, name) for name in ("system", "view", "probe", "indicator", *SCORES)},
    }


def summarise(rows: Sequence[dict[str, object]]) -> pd.DataFrame:
    """One line a cell: means over splits and probe seeds, the SD of R2, and how many there are."""
    groups = pd.DataFrame(rows).groupby([*CELL, "synthetic"], sort=True)
    table = groups[list(SCORES)].mean()
    table.insert(1, "r2_sd", groups["r2"].std())
    table.insert(2, "runs", groups.size())
    return table.reset_index()


def matrices(table: pd.DataFrame) -> list[str]:
    """Source by target in Markdown, R2 averaged over indicators, for each protocol and system."""
    texts = []
    mark = " (synthetic)" if table["synthetic"].any() else ""
    seen = table[table["view"] != NO_VIEW]
    for (protocol, system, view, probe), part in seen.groupby(
        ["protocol", "system", "view", "probe"], sort=True
    ):
        wide = part.pivot_table(index="source", columns="target", values="r2", aggfunc="mean")
        title = f"{TITLES[str(protocol)]}{mark}: {system}, {view}, {probe}"
        lines = [
            f"\n{title}, mean R² over indicators\n",
            f"| trained in | {' | '.join(wide.columns)} |",
            "|---|" + "---:|" * len(wide.columns),
        ]
        for source, values in wide.iterrows():
            cells = ["–" if pd.isna(value) else f"{value:.3f}" for value in values]
            lines.append(f"| {source} | {' | '.join(cells)} |")
        texts.append("\n".join(lines))
    return texts


__all__ = [
    "CityTables",
    "SourceTables",
    "Transfer",
    "matrices",
    "read_sources",
    "summarise",
    "transfer_encoder",
    "transfer_matrix",
    "transfer_probe",
]
