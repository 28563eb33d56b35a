"""The source x target matrix: from folders of vectors to rows and one table.

`<embeddings>/<source>/<city>/<label>.parquet` are the vectors of a city's regions by an encoder
that learnt in the source; several sources are joined by "+". Each source is carried to each target
in the two ways of [`city_transfer`]: the encoder alone, and the encoder with its probe.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dataset_builders.files import write_json
from pipelines.common.csv_files import write_csv

from ..embed.sources import open_city
from ..embed.tables import read_embeddings
from ..embed.trainings import groups
from ..errors import InputError
from .city_transfer import (
    CityTables,
    Transfer,
    transfer_encoder,
    transfer_probe,
)
from .results import CITY, CITY_ENCODER, JOINT, TRANSFER_FILE, ResultRow
from .run import ProbeSettings
from .systems import NO_VIEW

SKIPPED_FILE = "transfer_skipped.json"
SCORES = ("r2", "rmse", "mae", "spearman", "label_sd_test", "n_test")
CELL = ["protocol", "within", "source", "target", "group", "system", "view", "probe", "indicator"]
TITLES = {
    CITY_ENCODER: "Encoder of the source, probe of the target",
    CITY: "Encoder and probe of the source",
}


@dataclass(frozen=True)
class SourceTables:
    """The vectors of cities' regions by encoders that learnt in one source.

    Attributes:
        name: of the source; its cities joined by "+".
        cities: name -> regions, indicators and vectors.
    """

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
            for part in _carry(source, name, output / name, within, settings):
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
            f"No tables in {embeddings}: they must lie there as SOURCE/CITY/LABEL.parquet. "
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
            f"| learnt in | {' | '.join(wide.columns)} |",
            "|---|" + "---:|" * len(wide.columns),
        ]
        for source, values in wide.iterrows():
            cells = ["–" if pd.isna(value) else f"{value:.3f}" for value in values]
            lines.append(f"| {source} | {' | '.join(cells)} |")
        texts.append("\n".join(lines))
    return texts


__all__ = ["SourceTables", "matrices", "read_sources", "summarise", "transfer_matrix"]
