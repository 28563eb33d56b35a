"""What must be known before a number is believed: what was left out, how near training came."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dataset_builders.errors import DatasetError, SplitError
from dataset_builders.split_checks import nearest_train_distance
from dataset_builders.storage import read_metadata, read_regions

from ..probe.results import ResultRow
from ..probe.splits import PROTOCOLS, CityRegions, geography, splitter_within
from .frame import TRAINED, CityResults
from .table_formats import Cell, Table, number

PERCENTILES = (5, 50, 95)
TRUNCATION_KEYS = ("truncation_rate", "num_truncated_captions")


def limits(city: CityResults) -> list[str]:
    """Sentences: what is simulated, what was dropped and why, what is not known."""
    summary = city.summary
    lines = []
    if city.synthetic:
        lines.append("Images, captions and indicators of this city are simulated (synthetic).")
    regions = summary["regions"]
    lines.append(f"{regions['compared']} of {regions['all']} regions are compared.")
    lines += [f"Regions: {n}, {reason}." for reason, n in regions["dropped"].items()]
    if summary["without_coordinates"]:
        lines.append(
            f"The control by coordinates: {summary['without_coordinates']} regions have none."
        )
    for name, n in summary["invalid_labels"].items():
        lines.append(f"Labels of {name}: {n} are negative or infinite and count as missing.")
    left_out = summary.get("stored_neighbours", {})  # not in the summaries of earlier runs
    if left_out:
        counts = " and ".join(f"{n} {part}" for part, n in left_out.items())
        lines.append(
            f"The block split stored in the dataset: {counts} regions are left out because they "
            "touch a region of another part or lie next to it. Rebuild the dataset to correct its "
            "split."
        )
    skipped = Counter((s["indicator"], s["protocol"], s["reason"]) for s in summary["skipped"])
    for (indicator, protocol, reason), n in skipped.items():
        lines.append(f"{indicator}, {protocol}: {n} split(s) not scored: {reason}")
    for indicator, columns in summary.get("left_out_inputs", {}).items():
        lines.append(
            f"{indicator}: the control by points of interest is not given {', '.join(columns)}, "
            "which would give it away."
        )
    if city.outdated:
        lines.append(
            f"{city.outdated} rows of results.jsonl were computed on other regions, labels, "
            "settings or vectors, and do not compare."
        )
    lines += _of_systems(city)
    return [line if line.endswith(".") else line + "." for line in lines]


def _of_systems(city: CityResults) -> Iterable[str]:
    unknown = []
    for name in sorted(city.members):
        own = city.metadata(name)  # of all trainings: images and captions are the same
        without = {view: n for view, n in own.get("regions_without", {}).items() if n}
        for view, n in without.items():
            yield f"{name}: {n} regions have no {view.replace('_', ' ')}."
        for difference in own.get("provenance", {}).get("differs", ()):
            yield f"{name}: {difference}"
        if columns := own.get("poi_left_out"):
            yield (
                f"{name}: learnt without {', '.join(columns)}, which would give an indicator away."
            )
        rate = own.get("truncation_rate")
        if rate is not None:
            yield f"{name}: {rate:.1%} of the captions it learnt from were cut at its text limit."
        elif city.rank(name) >= TRAINED and "captions" in own.get("uses", ("captions",)):
            unknown.append(name)
    if unknown:
        yield (
            "How many captions were cut at the text limit is not recorded in the tables of "
            f"{', '.join(unknown)}; `training_summary.json` of a checkpoint says it"
        )


def distance_table(city: CityResults) -> Table | None:
    """How far test regions are from training, for each protocol and over its splits.

    The splits are drawn again from the dataset: None where its folder is not at hand or its regions
    have no place.
    """
    name = city.summary["dataset_name"]
    if not Path(name).is_dir():
        return None
    try:
        regions = read_regions(name, city.name)
        block_m = read_metadata(name, city.name).parameters.get("block_m")
    except DatasetError:
        return None
    place = geography(regions, block_m)
    if not np.isfinite(place.xy).all():
        return None
    x, y = place.xy.T
    body = []
    for protocol in (p for p in PROTOCOLS if p in city.protocols):
        distances, near, gaps = [], [], []
        splitter = splitter_within(protocol, CityRegions(regions, place))
        for seed in sorted({row.split_seed for row in city.of(protocol)}):
            try:
                split = splitter.split(seed)
                distances.append(nearest_train_distance(x, y, split.parts(len(x))))
            except SplitError:
                continue
            near.append(place.neighbourhood.near(split.test, split.train))
            gaps.append(place.neighbourhood.gaps_m(split.test, split.train).min())
        if distances:
            metres = np.concatenate(distances)
            cells = [number(float(np.percentile(metres, p)), form=",.0f") for p in PERCENTILES]
            share = number(100 * float(np.concatenate(near).mean()), form=".0f")
            gap = number(float(min(gaps)), form=",.0f")
            body.append((Cell(protocol), *cells, share, gap))
    if not body:
        return None
    return Table(
        name=f"{city.name.replace('_', '-')}-distance",
        title=f"Metres from a test region to the nearest of training, {city.title}",
        header=(
            "protocol",
            "5 %",
            "median",
            "95 %",
            "with a neighbour in training, %",
            "smallest gap",
        ),
        rows=tuple(body),
        notes=(
            f"Over all splits and regions, from centre to centre; a region's side is about "
            f"{place.cell_m:.0f} m. A neighbour touches the region or has its centre within "
            f"{place.buffer_m:.0f} m; the smallest gap is from border to border.",
        ),
    )


def seeds_note(city: CityResults, rows: list[ResultRow], protocol: str) -> str:
    """How often splits were drawn, and how blocks were made."""
    seeds = {row.split_seed for row in rows}
    draws = len({row.probe_seed // 1000 for row in rows})
    text = f"{len(seeds)} splits (seeds {min(seeds)} to {max(seeds)}"
    text += ", 0 is the one stored in the dataset" if 0 in seeds else ""
    text += f"), {draws} draw(s) of MLP weights each."
    if protocol == "block" and city.summary["block_m"]:
        text += (
            f" Drawn blocks have sides of {city.summary['block_m']:.0f} m; regions that touch a "
            "held-out one, or whose centre is within "
            f"{city.summary['buffer_m']:.0f} m of one's, are left out of training."
        )
    counts = Counter((row.system, row.view, row.probe, row.indicator) for row in rows)
    splits = {key: set[int]() for key in counts}
    for row in rows:
        splits[row.system, row.view, row.probe, row.indicator].add(row.split_seed)
    if len({len(own) for own in splits.values()}) > 1:
        text += " **Not all rows have all splits: run `probe` again to complete them.**"
    return text


__all__ = ["distance_table", "limits", "seeds_note"]
