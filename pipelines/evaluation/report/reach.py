"""How far results reach: where errors cluster, which regions are unlike training, whom images miss.

For each indicator of the image system that the report's verdict speaks of, in new districts. Errors
are those of its held-out predictions, mean over the splits in which a region is tested; the two
other numbers were measured by `probe` in the first split, see [`pipelines.evaluation.probe.reach`].
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dataset_builders.files import atomic_path
from dataset_builders.splits import local_xy

from ..analysis.reach import Reach, draw_reach, morans_i
from ..analysis.verdicts import Errors, best_of_indicator
from ..probe.predictions import REGIONS_FILE
from ..probe.reach import MOST_REGIONS
from .frame import CityResults, Key, key_of, predictions_of, slug, what
from .rendering import Figure, Section, Table, numbers, words

PROTOCOL = "block"
FEW = 2  # indicators whose figures are not folded


def reach_sections(city: CityResults, errors: Errors, output: Path, figures: str) -> list[Section]:
    """Table and figures of a city; nothing where `probe` has not measured it.

    Args:
        city: Its results.
        errors: Validation errors in new districts, by which the system is chosen.
        output: Folder of the report.
        figures: Folder of figures in it.
    """
    regions = pd.read_parquet(city.folder / REGIONS_FILE, columns=["region_id", "lon", "lat"])
    xy = np.stack(local_xy(regions["lon"].to_numpy(float), regions["lat"].to_numpy(float)), axis=1)
    found: dict[str, tuple[Key, Reach]] = {}
    for indicator in city.indicators:
        name = best_of_indicator(errors, indicator)
        reach = name and _reach(city, key_of(name), indicator, regions["region_id"], xy)
        if name and reach:
            found[indicator] = key_of(name), reach
    if not found:
        return []
    title = f"{city.title}: how far the results reach"
    drawn = [_figure(city, one, output, figures) for _, one in found.values()]
    many = len(drawn) > FEW
    shown = [Section(f"{title}, figures", drawn, folded=True)] if many else drawn
    return [Section(title, [_table(city, found), *shown])]


def _reach(
    city: CityResults, key: Key, indicator: str, ids: pd.Series, xy: NDArray[np.float64]
) -> Reach | None:
    system, _, view, _ = key
    measured = city.metadata(system).get("reach", {}).get(view, {}).get(indicator)
    if measured is None:  # of a run before it was
        return None
    predictions = predictions_of(city, PROTOCOL, key, indicator=indicator)
    error = predictions["prediction"] - predictions["truth"]
    residual = error.groupby(predictions["region_id"]).mean().reindex(ids).to_numpy(float)
    return Reach(
        indicator,
        morans_i(xy, np.where(np.isfinite(xy).all(1), residual, np.nan)),
        measured["outside"],
        measured["unlike"],
        tuple(np.nan if share is None else share for share in measured["covered"]),
        asked="regions of held-out districts",
    )


def _table(city: CityResults, found: dict[str, tuple[Key, Reach]]) -> Table:
    keys, reaches = zip(*found.values(), strict=True)
    unlike = [one.unlike / one.predicted if one.predicted else None for one in reaches]
    return Table(
        slug(city.name, "reach"),
        f"Errors of neighbours, regions unlike training, coverage, {city.title}, new districts",
        [
            words("indicator", found),
            words("system", (what(city, key) for key in keys)),
            numbers("Moran's I", (one.moran and one.moran.value for one in reaches), "+.2f"),
            numbers("p", (one.moran and one.moran.p for one in reaches)),
            numbers("regions unlike training", unlike, ".0%"),
            numbers("with an image: lowest tenth", (one.covered[0] for one in reaches), ".0%"),
            numbers("highest tenth", (one.covered[-1] for one in reaches), ".0%"),
        ],
        notes=[
            "Of the image system with the lowest validation error. Moran's I of the residuals of "
            "its test predictions, on the scale that is scored, of each region and its nearest "
            "neighbours: about 0 where errors are scattered, towards 1 where whole quarters are "
            "over- or underestimated; p by permutation. Unlike training: share of the regions held "
            "out in the first split whose vectors are further from all training regions than those "
            "of one district usually are from those of the others; of more than "
            f"{MOST_REGIONS:,} of either, so many are drawn. With an image: share of all regions "
            "of the dataset with the lowest and the highest labels that have what the system "
            "needs; in the figures a dash marks a tenth that equal labels leave empty.",
        ],
    )


def _figure(city: CityResults, reach: Reach, output: Path, figures: str) -> Figure:
    path = f"{figures}/{slug(city.name, 'reach', reach.indicator)}.png"
    with atomic_path(output / path) as temporary:
        temporary.write_bytes(draw_reach(reach))
    caption = f"{reach.indicator}. {' '.join(reach.lines)}"
    return Figure(path, f"{city.title}, {reach.indicator}: reach", caption)


__all__ = ["reach_sections"]
