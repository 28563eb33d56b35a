"""From city to city in a report: source by target, for the encoder alone and with its probe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..analysis.bootstrap import MEAN
from ..probe.results import CITY, CITY_ENCODER, JOINT, TRANSFER_FILE
from ..probe.systems import NO_VIEW
from .documents import Block, Folded, Heading, Picture, Text
from .frame import CONTROL_TITLES, PROBE_NAMES, VIEW_NAMES, VIEW_ORDER, city_title
from .frame import slug as make_slug
from .heat_maps import Matrix, draw_matrices
from .table_formats import Cell, Table, number, words

QUESTIONS = {
    CITY_ENCODER: "Encoder of the source, probe of the target (`city-encoder`)",
    CITY: "Encoder and probe of the source (`city`)",
}


@dataclass(frozen=True)
class TransferResults:
    """transfer.csv of a folder, one line a cell.

    Attributes:
        table: its lines, those of the trainings of a system averaged.
        trainings: of each system.
    """

    table: pd.DataFrame
    trainings: int

    @property
    def synthetic(self) -> bool:
        """Whether any of the cities is simulated."""
        return bool(self.table["synthetic"].any())

    @property
    def sources(self) -> list[str]:
        """Single cities first."""
        return sorted(self.table["source"].unique(), key=lambda name: (name.count(JOINT), name))

    @property
    def targets(self) -> list[str]:
        """In the order of the sources."""
        return sorted(self.table["target"].unique())

    @property
    def indicators(self) -> list[str]:
        """As they come."""
        return list(dict.fromkeys(self.table["indicator"]))

    def of(self, protocol: str, system: str, view: str, probe: str) -> pd.DataFrame:
        """The lines of one matrix."""
        wanted = {"protocol": protocol, "system": system, "view": view, "probe": probe}
        keep = np.logical_and.reduce([self.table[name] == value for name, value in wanted.items()])
        return self.table[keep]

    def matrix(self, part: pd.DataFrame, indicator: str) -> pd.DataFrame:
        """R2, source by target; `mean`: over indicators."""
        if indicator != MEAN:
            part = part[part["indicator"] == indicator]
        wide = part.pivot_table(index="source", columns="target", values="r2", aggfunc="mean")
        return wide.reindex(index=self.sources, columns=self.targets)

    def keys(self, protocol: str) -> list[tuple[str, str, str]]:
        """Systems that saw images, with view and probe; the MLP first."""
        rows = self.table[(self.table["protocol"] == protocol) & (self.table["view"] != NO_VIEW)]
        found = set(zip(rows["system"], rows["view"], rows["probe"], strict=True))
        return sorted(found, key=lambda key: (key[2] != "mlp", key[0], VIEW_ORDER.index(key[1])))


def read_transfer(folder: Path) -> TransferResults | None:
    """What `evaluate.py transfer` wrote; None where it wrote nothing."""
    path = folder / TRANSFER_FILE
    if not path.is_file():
        return None
    lines = pd.read_csv(path, keep_default_na=False, na_values=[""])
    if "group" in lines:
        lines["label"] = lines["system"]
        lines["system"] = lines["group"].fillna(lines["system"])
    else:
        lines["label"] = lines["system"]
    names = ["protocol", "source", "target", "system", "view", "probe", "indicator", "synthetic"]
    trainings = int(lines.groupby("system")["label"].nunique().max())
    table = lines.groupby(names, sort=False, as_index=False)[["r2", "r2_sd"]].mean()
    return TransferResults(table, trainings)


def transfer_blocks(results: TransferResults, output: Path, folder: str) -> list[Block]:
    """Tables and heat maps.

    Args:
        results: of [`read_transfer`].
        output: where the page lies.
        folder: of the pictures, below it.
    """
    mark = " (synthetic)" if results.synthetic else ""
    seeds = f" Mean over {results.trainings} training seeds." if results.trainings > 1 else ""
    blocks: list[Block] = [
        Heading(2, f"From city to city{mark}"),
        Text(
            "Two questions that are often taken for one. Does an encoder that learnt in one city "
            "give good vectors of another, where a probe is trained on them? And what is known of "
            "a city of which no label is known at all? In the first, a source that is its own "
            f"target is what the encoder is worth at home.{seeds}"
        ),
    ]
    for protocol, question in QUESTIONS.items():
        keys = results.keys(protocol)
        if not keys:
            continue
        blocks += [Heading(3, question + mark), _table(results, protocol, mark)]
        blocks += _figures(results, protocol, keys, output, folder, mark)
    return blocks


def _table(results: TransferResults, protocol: str, mark: str) -> Table:
    body = []
    controls = results.table[
        (results.table["protocol"] == protocol) & (results.table["view"] == NO_VIEW)
    ]
    keys = [*sorted(set(zip(controls["system"], controls["view"], controls["probe"], strict=True)))]
    for system, view, probe in [*keys, *results.keys(protocol)]:
        part = results.of(protocol, system, view, probe)
        wide = results.matrix(part, MEAN)
        names = words(CONTROL_TITLES.get(system, system), VIEW_NAMES[view], PROBE_NAMES[probe])
        for source, values in wide.iterrows():
            if values.notna().any():
                cells = (number(float(value)) for value in values)
                body.append((*names, Cell(_city(str(source))), *cells))
    return Table(
        name=f"transfer-{protocol}",
        title=f"{QUESTIONS[protocol].replace('`', '')}, mean R² over indicators{mark}",
        header=("system", "view", "probe", "learnt in", *(_city(name) for name in results.targets)),
        rows=tuple(body),
        notes=(
            "Columns: the city that is scored. Negative: worse than the mean of the scored "
            "city's own labels, which nobody knows beforehand.",
        ),
    )


def _figures(
    results: TransferResults,
    protocol: str,
    keys: Sequence[tuple[str, str, str]],
    output: Path,
    folder: str,
    mark: str,
) -> list[Block]:
    probe = keys[0][2]
    shown = [key for key in keys if key[2] == probe]
    blocks: list[Block] = []
    for system in dict.fromkeys(key[0] for key in shown):
        mine = [key for key in shown if key[0] == system]
        means = {
            VIEW_NAMES[view]: _drawn(results, results.of(protocol, system, view, probe), MEAN)
            for _, view, _ in mine
        }
        title = (
            f"{QUESTIONS[protocol].split(' (')[0]}{mark}: {system}, {PROBE_NAMES[probe]}, "
            "mean R² over indicators"
        )
        blocks.append(_picture(output, folder, (protocol, system), title, means))
        single = tuple(
            _picture(
                output,
                folder,
                (protocol, system, view),
                f"{title.rpartition(',')[0]}, {VIEW_NAMES[view]}, R² of each indicator",
                {
                    name: _drawn(results, results.of(protocol, system, view, probe), name)
                    for name in results.indicators
                },
            )
            for _, view, _ in mine
        )
        blocks.append(Folded("Indicator by indicator", single))
    return blocks


def _picture(
    output: Path, folder: str, names: Sequence[str], title: str, panels: Mapping[str, Matrix]
) -> Picture:
    path = f"{folder}/{make_slug('transfer', *names)}.png"
    draw_matrices(output / path, title, panels, "scored in", "learnt in")
    return Picture(
        path, title, f"{title}. White: as good as the mean of the scored labels. Hatched: no such "
        "transfer.",
    )  # fmt: skip


def _drawn(results: TransferResults, part: pd.DataFrame, indicator: str) -> Matrix:
    wide = results.matrix(part, indicator)
    wide = wide[wide.notna().any(axis=1)]
    return Matrix(
        tuple(_city(str(name)) for name in wide.index),
        tuple(_city(str(name)) for name in wide.columns),
        wide.to_numpy(float),
    )


def _city(name: str) -> str:
    return " + ".join(city_title(part, synthetic=False) for part in name.split(JOINT))


__all__ = ["TransferResults", "read_transfer", "transfer_blocks"]
