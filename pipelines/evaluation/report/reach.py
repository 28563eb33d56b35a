"""Sections on spatial autocorrelation of errors, distribution shift and image coverage.

For each indicator and the image system of its verdict in new districts. Residuals are averaged over
the splits in which a region is in the test set; the other statistics are measured by `probe` in the
first split, see [`pipelines.evaluation.probe.reach`].
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
FEW = 2  # maximum number of figures shown unfolded
COVERED = "image coverage"


def reach_sections(city: CityResults, errors: Errors, output: Path, figures: str) -> list[Section]:
    """Section with a table and figures; empty if `probe` did not measure these statistics.

    Args:
        city: Results of the city.
        errors: Validation errors of the block protocol, used to choose the system.
        output: Report folder.
        figures: Folder of the figures, relative to `output`.
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
    title = f"{city.title}: spatial errors, training distribution and image coverage"
    drawn = [_figure(city, one, output, figures) for _, one in found.values()]
    many = len(drawn) > FEW
    shown = [Section(f"{title}, figures", drawn, folded=True)] if many else drawn
    return [Section(title, [_table(city, found), *shown])]


def _reach(
    city: CityResults, key: Key, indicator: str, ids: pd.Series, xy: NDArray[np.float64]
) -> Reach | None:
    system, _, view, _ = key
    measured = city.metadata(system).get("reach", {}).get(view, {}).get(indicator)
    if measured is None:  # result of an earlier version
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
        "Spatial autocorrelation of errors, regions outside the training distribution and image "
        f"coverage, {city.title}, new districts",
        [
            words("indicator", found),
            words("system", (what(city, key) for key in keys)),
            numbers("Moran's I", (one.moran and one.moran.value for one in reaches), "+.2f"),
            numbers("p", (one.moran and one.moran.p for one in reaches)),
            numbers("outside training distribution", unlike, ".0%"),
            numbers("lowest decile", (one.covered[0] for one in reaches), ".0%", group=COVERED),
            numbers("highest decile", (one.covered[-1] for one in reaches), ".0%", group=COVERED),
        ],
        notes=[
            "For the image system with the lowest validation error. Moran's I of the test "
            "residuals: about 0 without spatial clustering, towards 1 where entire neighbourhoods "
            "are over- or underestimated; p by permutation. Outside training distribution: share "
            "of the test regions of the first split whose embedding is further from every training "
            "region than is usual between districts, from a sample of at most "
            f"{MOST_REGIONS:,} training and test regions. Image coverage: share of all labelled "
            "regions in the lowest and highest decile of the label that have the images the system "
            "needs; in the figures, a dash marks a decile left empty by equal labels.",
        ],
    )


def _figure(city: CityResults, reach: Reach, output: Path, figures: str) -> Figure:
    path = f"{figures}/{slug(city.name, 'reach', reach.indicator)}.png"
    with atomic_path(output / path) as temporary:
        temporary.write_bytes(draw_reach(reach))
    caption = f"{reach.indicator}. {' '.join(reach.lines)}"
    return Figure(path, f"{city.title}, {reach.indicator}: image coverage and residuals", caption)


__all__ = ["reach_sections"]
