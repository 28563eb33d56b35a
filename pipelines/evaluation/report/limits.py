"""Regions, systems and splits behind the scores of a city, and their limitations."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dataset_builders.errors import DatasetError, SplitError
from dataset_builders.split_checks import nearest_train_distance
from dataset_builders.storage import read_metadata, read_regions

from ..embed.trainings import training_of
from ..probe.predictions import REGIONS_FILE
from ..probe.splits import PROTOCOLS, CityRegions, geography, splitter_within
from .frame import CELL, CityResults, slug
from .rendering import DASH, Table, numbers, words

PERCENTILES = (5, 50, 95)


def statistics_table(cities: Sequence[CityResults]) -> Table:
    """Numbers of regions, images and labels per city."""
    labels = [pd.read_parquet(city.folder / REGIONS_FILE) for city in cities]
    simulated = [city.name.replace("_", " ").title() for city in cities if city.synthetic]
    mark = f" ({', '.join(simulated)}: synthetic)" if simulated else ""

    def images(view: str) -> list[int]:
        systems = [city.summary["systems"].values() for city in cities]
        return [max(one.get("images", {}).get(view, 0) for one in own) for own in systems]

    columns: dict[str, list[int | None]] = {
        "regions": [city.summary["regions"]["all"] for city in cities],
        "compared": [city.summary["regions"]["compared"] for city in cities],
        "street views": [*images("street_view")],
        "satellite images": [*images("satellite")],
    }
    for indicator in dict.fromkeys(name for city in cities for name in city.summary["indicators"]):
        columns[indicator] = [int(x[indicator].count()) if indicator in x else None for x in labels]
    return Table(
        "statistics",
        f"Dataset statistics{mark}",
        [
            words("city", (city.title for city in cities)),
            *(numbers(name, values, form=",.0f") for name, values in columns.items()),
        ],
        notes=["Label counts are of the compared regions."],
    )


def systems_table(city: CityResults) -> Table:
    """Systems under comparison: encoder, inputs, number of images, rejected images."""
    names = sorted(city.members, key=lambda name: (city.rank(name), name))
    own, trainings = [city.metadata(name) for name in names], list(map(city.training, names))
    weights = [o.get("pretrained") or ("random" if o.get("random_init") else DASH) for o in own]
    seeds = [
        [training_of(city.summary["systems"][label]) for label in city.members[name]]
        for name in names
    ]
    columns = [
        words("system", names),
        words("encoder", (one.get("encoder", DASH) for one in own)),
        words("weights", weights),
        words("training seeds", (", ".join(str(t.seed) for t in ts if t) or DASH for ts in seeds)),
        words("inputs", (", ".join(one.get("uses", ())) or DASH for one in own)),
        numbers("dimension", (one.get("dim") for one in own), form=".0f"),
        *(
            numbers(title, (one.get("images", {}).get(view) for one in own), form=",.0f")
            for view, title in (("street_view", "street views"), ("satellite", "satellite"))
        ),
        words(
            "rejected",
            (", ".join(f"{w} {n}" for w, n in o.get("rejects", {}).items()) or "0" for o in own),
        ),
        words(
            "variant of",
            (f"{t.variant_of}: {t.differs}" if t and t.variant_of else DASH for t in trainings),
        ),
    ]
    return Table(slug(city.name, "systems"), f"Systems, {city.title}", columns)


def limits(city: CityResults) -> list[str]:
    """Caveats: simulated data, excluded regions and labels, cells not scored, outdated rows."""
    summary = city.summary
    lines = []
    if city.synthetic:
        lines.append("Images, captions and indicators of this city are simulated (synthetic).")
    regions = summary["regions"]
    lines.append(f"{regions['compared']} of {regions['all']} regions are compared.")
    lines += [f"Regions: {n}, {reason}." for reason, n in regions["dropped"].items()]
    if summary["without_coordinates"]:
        lines.append(
            f"No coordinate control: {summary['without_coordinates']} regions have no coordinates."
        )
    for name, n in summary["invalid_labels"].items():
        lines.append(f"Labels of {name}: {n} negative or infinite values are treated as missing.")
    left_out = summary.get("stored_neighbours", {})  # absent in summaries of earlier versions
    if left_out:
        counts = " and ".join(f"{n} {part}" for part, n in left_out.items())
        lines.append(
            f"Block split stored in the dataset: {counts} regions are left out because they touch "
            "or adjoin a region of another part. Rebuild the dataset to correct its split."
        )
    skipped = Counter((s["indicator"], s["protocol"], s["reason"]) for s in summary["skipped"])
    for (indicator, protocol, reason), n in skipped.items():
        lines.append(f"{indicator}, {protocol}: {n} split(s) not scored: {reason}")
    for indicator, columns in summary.get("left_out_inputs", {}).items():
        lines.append(
            f"{indicator}: the POI control excludes {', '.join(columns)}, which would leak the "
            "label."
        )
    if city.outdated:
        lines.append(
            f"{city.outdated} rows of results.jsonl were computed on other regions, labels, "
            "settings or embeddings and are excluded."
        )
    lines += _of_systems(city)
    return [line if line.endswith(".") else line + "." for line in lines]


def _of_systems(city: CityResults) -> Iterable[str]:
    for name in sorted(city.members):
        own = city.metadata(name)  # images and captions are the same for all trainings
        without = {view: n for view, n in own.get("regions_without", {}).items() if n}
        for view, n in without.items():
            yield f"{name}: {n} regions have no {view.replace('_', ' ')}."
        for difference in own.get("provenance", {}).get("differs", ()):
            yield f"{name}: {difference}"
        if columns := own.get("poi_left_out"):
            yield f"{name}: trained without {', '.join(columns)}, which would leak an indicator."


def distance_table(city: CityResults) -> Table | None:
    """Distances from test to training regions per protocol, over all splits.

    Splits are redrawn from the dataset; None if it is not found or lacks coordinates.
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
    found = {
        protocol: row
        for protocol in PROTOCOLS
        if protocol in city.protocols
        and (row := _distances(city, CityRegions(regions, place), protocol)) is not None
    }
    if not found:
        return None
    shown = ("5 %", "median", "95 %", "with a training neighbour, %", "smallest gap")
    return Table(
        slug(city.name, "distance"),
        f"Distance in metres from test regions to the nearest training region, {city.title}",
        [
            words("protocol", found),
            *(numbers(n, (r[i] for r in found.values()), form=",.0f") for i, n in enumerate(shown)),
        ],
        notes=[
            "Over all splits, between region centres; a region is about "
            f"{place.cell_m:.0f} m wide. A neighbour touches the region or has its centre within "
            f"{place.buffer_m:.0f} m. Smallest gap: between region borders."
        ],
    )


def _distances(city: CityResults, regions: CityRegions, protocol: str) -> list[float] | None:
    """Percentiles, share with a training neighbour, smallest gap; None without any split."""
    place = regions.place
    distances, near, gaps = [], [], []
    splitter = splitter_within(protocol, regions)
    for seed in sorted(city.of(protocol)["split_seed"].unique()):
        try:
            split = splitter.split(int(seed))
            parts = split.parts(len(place.xy))
            x, y = place.xy.T
            distances.append(nearest_train_distance(x, y, parts))
        except SplitError:
            continue
        near.append(place.neighbourhood.near(split.test, split.train))
        gaps.append(place.neighbourhood.gaps_m(split.test, split.train).min())
    if not distances:
        return None
    percentiles = np.percentile(np.concatenate(distances), PERCENTILES).tolist()
    return [*percentiles, 100 * float(np.concatenate(near).mean()), float(min(gaps))]


def seeds_note(city: CityResults, rows: pd.DataFrame, protocol: str) -> str:
    """Sentences on the number of splits and the construction of blocks."""
    seeds = sorted(rows["split_seed"].unique())
    draws = (rows["probe_seed"] // 1000).nunique()
    text = f"{len(seeds)} splits (seeds {seeds[0]} to {seeds[-1]}"
    text += ", 0 is the one stored in the dataset" if 0 in seeds else ""
    text += f"), {draws} initialisation{'s' * (draws > 1)} of the MLP each."
    if protocol == "block" and city.summary["block_m"]:
        text += (
            f" Blocks are {city.summary['block_m']:.0f} m wide; regions that touch a held-out "
            f"region, or whose centre is within {city.summary['buffer_m']:.0f} m of its centre, "
            "are excluded from training."
        )
    if rows.groupby([*CELL, "label"])["split_seed"].nunique().nunique() > 1:
        text += " **Not all rows have all splits: rerun `probe` to complete them.**"
    return text


__all__ = ["distance_table", "limits", "seeds_note", "statistics_table", "systems_table"]
