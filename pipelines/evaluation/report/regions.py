"""Sections on regions: clusters of their embeddings; spatial errors and image coverage.

The latter are shown for each indicator and the image system of its verdict in new districts.
Residuals are averaged over the splits in which a region is in the test set; the other statistics
are measured by `probe` in the first split, see [`pipelines.evaluation.probe.reach`].
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dataset_builders.files import atomic_path
from dataset_builders.log_ticks import compact
from dataset_builders.splits import local_xy

from ..analysis.clusters import (
    MAX_AXES,
    STARTS,
    VARIANCE_KEPT,
    Clusters,
    agreements,
    cluster_trainings,
    find_tables,
)
from ..analysis.reach import Reach, draw_reach, morans_i
from ..analysis.verdicts import Errors, best_of_indicator
from ..errors import InputError
from ..probe.predictions import REGIONS_FILE
from ..probe.reach import MOST_REGIONS
from .figures import FIGURES_FOLDER, draw_clusters
from .frame import VIEW_NAMES, CityResults, Key, best_key, key_of, predictions_of, slug, what
from .rendering import DASH, Column, Figure, Section, Table, numbers, words

CLUSTER_NAMES = "ABC"
EMBEDDINGS_FOLDER = "embeddings"  # sibling of the results folder
SHOWN = "population"  # indicator in the figure of clusters, if available
FEW = 2  # maximum number of figures shown unfolded
COVERED = "image coverage"


def reach_sections(city: CityResults, errors: Errors) -> list[Section]:
    """Section with a table and figures; empty if `probe` did not measure these statistics.

    Args:
        city: Results of the city.
        errors: Validation errors of the block protocol, used to choose the system.
    """
    regions = pd.read_parquet(city.folder / REGIONS_FILE, columns=["region_id", "lon", "lat"])
    xy = np.stack(local_xy(regions["lon"].to_numpy(float), regions["lat"].to_numpy(float)), axis=1)
    found: dict[str, tuple[Key, Reach]] = {}
    for indicator in city.indicators:
        name = best_of_indicator(errors, indicator)
        if reach := name and _reach(city, key_of(name), indicator, regions["region_id"], xy):
            found[indicator] = key_of(name), reach
    if not found:
        return []
    title = f"{city.title}: spatial errors, training distribution and image coverage"
    drawn = [_reach_figure(city, one) for _, one in found.values()]
    shown = [Section(f"{title}, figures", drawn, folded=True)] if len(drawn) > FEW else drawn
    return [Section(title, [_reach_table(city, found), *shown])]


def _reach(
    city: CityResults, key: Key, indicator: str, ids: pd.Series, xy: NDArray[np.float64]
) -> Reach | None:
    system, _, view, _ = key
    measured = city.metadata(system).get("reach", {}).get(view, {}).get(indicator)
    if measured is None:  # result of an earlier version
        return None
    predictions = predictions_of(city, "block", key, indicator=indicator)
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


def _reach_table(city: CityResults, found: dict[str, tuple[Key, Reach]]) -> Table:
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


def _reach_figure(city: CityResults, reach: Reach) -> Figure:
    path = f"{FIGURES_FOLDER}/{slug(city.name, 'reach', reach.indicator)}.png"
    with atomic_path(city.output / path) as temporary:
        temporary.write_bytes(draw_reach(reach))
    caption = f"{reach.indicator}. {' '.join(reach.lines)}"
    return Figure(path, f"{city.title}, {reach.indicator}: image coverage and residuals", caption)


def cluster_sections(city: CityResults) -> list[Section]:
    """Figure and table of a city's clusters; empty without image systems."""
    key = best_key(city, city.frame)
    if key is None:
        return []
    system, _, view, _ = key
    title = f"{city.title}: clusters of {system}, {VIEW_NAMES[view]}"
    folder = city.output.parent / EMBEDDINGS_FOLDER / city.name
    tables = find_tables(folder, city.members[system], city.summary["systems"])
    if not tables:
        missing = f"Not drawn: the evaluated embeddings are not in `{folder.name}`."
        return [Section(title, [missing])]
    regions = pd.read_parquet(city.folder / REGIONS_FILE)
    try:
        kept, found = cluster_trainings(tables, view, regions["region_id"].tolist())
    except InputError as error:
        return [Section(title, [f"Not drawn: {error}"])]
    regions = regions[regions["region_id"].isin(kept)]
    indicator = SHOWN if SHOWN in city.indicators else city.indicators[0]
    about = city.summary["indicators"][indicator]
    named = indicator, about["unit"], about["transform"]
    path = f"{FIGURES_FOLDER}/{slug(city.name, 'clusters')}.png"
    regions_path = city.folder / REGIONS_FILE
    draw_clusters(city.output / path, title, found[0], regions, named, regions_path)
    figure = Figure(
        path,
        title,
        f"Left: first two principal components of the embeddings. Middle: density of {indicator} "
        "per cluster. Right: map. Clusters are lettered by size; no labels are used.",
    )
    return [Section(title, [figure, _cluster_table(city, title, found, regions)])]


def _cluster_table(
    city: CityResults, title: str, found: Sequence[Clusters], regions: pd.DataFrame
) -> Table:
    """Table of cluster sizes and median indicators, for a system's first training."""
    first = found[0]
    medians = regions.groupby(first.labels)[city.indicators].median()
    for name in city.indicators:
        if city.summary["indicators"][name]["transform"] == "ln1p":
            medians[name] = np.expm1(medians[name])
    counts = np.bincount(first.labels, minlength=len(medians))
    notes = [
        "Medians in raw units.",
        f"K-means on {first.num_axes} principal components ({VARIANCE_KEPT:.0%} of the variance, "
        f"at most {MAX_AXES}); the two in the figure explain {first.shares[0]:.0%} and "
        f"{first.shares[1]:.0%}. Silhouette {first.silhouette:.2f}. Adjusted Rand index between "
        f"{STARTS} initialisations: mean {first.stability:.2f}, minimum "
        f"{first.least_stability:.2f}.",
    ]
    if len(found) > 1:
        pairs = agreements([one.labels for one in found])
        notes.append(
            f"Adjusted Rand index between {len(found)} training seeds: mean {np.mean(pairs):.2f}, "
            f"minimum {np.min(pairs):.2f}."
        )
    columns = [
        words("cluster", CLUSTER_NAMES[: len(counts)]),
        numbers("regions", counts, form=".0f"),
        numbers("%", 100 * counts / len(first.labels), form=".0f"),
    ]
    for name in city.indicators:
        values = [float(v) if np.isfinite(v) else None for v in medians[name]]
        columns.append(Column(name, [DASH if v is None else compact(v) for v in values], values))
    return Table(slug(city.name, "clusters"), title, columns, notes=notes)


__all__ = ["cluster_sections", "reach_sections"]
