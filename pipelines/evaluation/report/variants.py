"""Ablation claims: differences between variants and their references, with verdicts.

Intervals are over blocks of regions and training seeds, see `analysis.claims`. Retrieval scores are
read from `models/LABEL`, next to the results folder, as written by `evaluate.py benchmark`.
"""

import json
from collections.abc import Hashable, Sequence
from dataclasses import asdict
from os.path import commonprefix
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..analysis.bootstrap import MEAN
from ..analysis.claims import VariantDifference
from ..embed.trainings import Training, training_of
from ..probe.splits import PROTOCOLS
from .figures import BLUE, FIGURES_FOLDER, GREY, RED, draw_curves, draw_intervals
from .frame import CELL, KEY, PROBE_NAMES, VIEW_NAMES, VIEW_ORDER, CityResults, run_scores, slug
from .rendering import DASH, Block, Figure, Section, Table, intervals, numbers, words
from .tables import with_mean

MODELS_FOLDER = "models"
SUMMARY_FILE, METRICS_FILE = "training_summary.json", "metrics.jsonl"
RECALLS = {
    "image to text": "image_to_text_recall_at_5",
    "text to image": "text_to_image_recall_at_5",
}
ENDS = ["estimate", "low", "high"]


def variants_frame(city: CityResults, found: Sequence[VariantDifference]) -> pd.DataFrame:
    """Tidy DataFrame of the variants, in the order of the systems in probe.json and of the views.

    Returns:
        The fields of `VariantDifference`, its interval as estimate, low and high, `variant` and
        `against`, the names without their common prefix, and `training`, the first of the variant.
    """
    rows = [{**asdict(one), **asdict(one.difference)} for one in found]
    frame = pd.DataFrame(rows, columns=[*VariantDifference.__annotations__, *ENDS])
    shared = commonprefix([*frame["system"], *frame["reference"]])  # noqa: RUF071 - names, no paths
    short = {name: name.removeprefix(shared) or name for name in city.members}
    trainings = map(training_of, city.summary["systems"].values())
    order = list(dict.fromkeys(one.group for one in trainings if one))
    return (
        frame.assign(
            variant=frame["system"].map(short),
            against=frame["reference"].map(short),
            training=frame["system"].map(city.training),
            rank=frame["system"].map(order.index),
            place=frame["view"].map(VIEW_ORDER.index),
        )
        .sort_values(["rank", "place"], ignore_index=True)
        .drop(columns="rank")
    )


def verdict(low: float, high: float, training: Training) -> str:
    """Verdict on a claim, or direction of the difference without a claim, from its interval."""
    if not low > 0 and not high < 0:
        return "not significant"
    direction = "higher" if low > 0 else "lower"
    if not training.claim:
        return direction
    return "holds" if direction == training.expected else "does not hold"


def variants_section(city: CityResults, protocol: str, found: pd.DataFrame) -> Section:
    """Section with tables and figures of the variants under one protocol."""
    where = f"{city.title}, {PROTOCOLS[protocol]}"
    probes = sorted(found["probe"].unique(), key=lambda name: (name != "mlp", name))
    means = {p: found[(found["probe"] == p) & (found["indicator"] == MEAN)] for p in probes}
    first, *others = (claims_table(city, protocol, found, probe) for probe in probes)
    shown = means[probes[0]]
    blocks: list[Block] = [first, _claims_figure(city, protocol, where, shown)]
    blocks += _curves(city, protocol, where, shown)
    if others:
        blocks.append(Section(f"{where}: claims, other probe", others, folded=True))
    every = _differences_table(city, protocol, where, found, pd.concat(means.values()))
    blocks.append(Section(f"{where}: all variants, per indicator", [every], folded=True))
    if found["seeds"].map(len).max() < 2:
        blocks.append("With one training seed, the variance between trainings is unknown.")
    return Section(f"{where}: claims", blocks)


def claims_table(city: CityResults, protocol: str, found: pd.DataFrame, probe: str) -> Table:
    """Table of claims with differences and verdicts, per variant and view."""
    rows = city.of(protocol)
    scores = run_scores(rows[rows["indicator"].isin(found["indicator"])], "r2")
    scores = scores.groupby(CELL).mean().groupby(KEY).mean()
    own = found[(found["probe"] == probe) & (found["indicator"] == MEAN)]
    r2 = {
        side: [scores[name, "", view, probe] for name, view in own[[side, "view"]].to_numpy()]
        for side in ("reference", "system")
    }
    models = city.output.parent / MODELS_FOLDER
    recalls = {name: _recalls(models, city.members[name]) for name in own["system"].unique()}
    said = [verdict(*one) for one in own[["low", "high", "training"]].itertuples(index=False)]
    return Table(
        slug(city.name, protocol, "claims", probe),
        f"Claims: mean R² over indicators, {PROBE_NAMES[probe]} probe, {city.title}, "
        f"{PROTOCOLS[protocol]}",
        [
            words("claim", (one.claim or DASH for one in own["training"])),
            words("variant", own["variant"]),
            words("reference", own["against"]),
            words("view", own["view"].map(VIEW_NAMES)),
            numbers("R² of reference", r2["reference"]),
            numbers("R²", r2["system"]),
            intervals("difference, 95 % interval", *(own[end] for end in ENDS)),
            words("per training seed", (", ".join(f"{v:+.3f}" for v in s) for s in own["seeds"])),
            words("verdict", said),
            *(
                numbers(title, (recalls[name][title] for name in own["system"]), group="recall@5")
                for title in RECALLS
            ),
        ],
        notes=[
            "Difference: variant minus reference, paired by training seed. Interval: 2.5th to "
            "97.5th percentile of a bootstrap over blocks of regions and training seeds, with the "
            "deviations of S seeds multiplied by √(S / (S - 1)); a claim holds or does not hold "
            "where the difference is significant (the interval excludes 0). With few seeds, "
            "intervals are too narrow where trainings vary more than blocks: if the sign differs "
            "between seeds, another seed could reverse the verdict. No correction for multiple "
            "comparisons: about one in twenty null differences is significant by chance.",
            "Recall@5: retrieval between held-out images and the kind of caption the variant was "
            "trained on, mean over training seeds.",
        ],
    )


def _recalls(models: Path, labels: Sequence[str]) -> dict[str, float]:
    """Recall@5 at the published step, averaged over trainings; NaN if missing for any of them."""
    found = []
    for label in labels:
        summary, metrics = (models / label / name for name in (SUMMARY_FILE, METRICS_FILE))
        row: dict[str, float] = {}
        if summary.is_file() and metrics.is_file():
            step = json.loads(summary.read_text(encoding="utf-8")).get("best_step")
            for line in map(json.loads, metrics.read_text(encoding="utf-8").splitlines()):
                row = line if line["step"] == step and "mean_recall" in line else row
        found.append([row.get(name, np.nan) for name in RECALLS.values()])
    return dict(zip(RECALLS, np.mean(found, axis=0).tolist(), strict=True))


def _differences_table(
    city: CityResults, protocol: str, where: str, found: pd.DataFrame, means: pd.DataFrame
) -> Table:
    """Table of differences per indicator, for all variants, views and probes."""
    keys = ["system", "view", "probe"]
    columns = []
    for name in with_mean(city, found["indicator"].unique()):
        own = means[keys].merge(found[found["indicator"] == name], on=keys, how="left")
        columns.append(intervals(name, *(own[end] for end in ENDS)))
    return Table(
        slug(city.name, protocol, "variants"),
        f"R² of each variant minus that of its reference, {where}",
        [
            words("variant", means["variant"]),
            words("reference", means["against"]),
            words("differs in", (one.differs or DASH for one in means["training"])),
            words("view", means["view"].map(VIEW_NAMES)),
            words("probe", means["probe"].map(PROBE_NAMES)),
            *columns,
        ],
        notes=["95 % confidence intervals over blocks and training seeds; bold: significant."],
    )


def _claims_figure(city: CityResults, protocol: str, where: str, rows: pd.DataFrame) -> Figure:
    shown = rows.assign(
        name=rows["variant"] + " - " + rows["against"],
        colour=np.select([rows["low"] > 0, rows["high"] < 0], [BLUE, RED], GREY),
    )
    panels = {VIEW_NAMES[own["view"].iloc[0]]: own for _, own in shown.groupby("place")}
    path = f"{FIGURES_FOLDER}/{slug(city.name, protocol, 'claims')}.png"
    probe = PROBE_NAMES[rows["probe"].iloc[0]]
    title = f"{where}: R² of variants minus their references, {probe}"
    draw_intervals(city.output / path, title, panels, "difference of R², mean over indicators")
    return Figure(
        path,
        title,
        f"{title}, with 95 % confidence intervals over blocks of regions and training seeds. "
        "Hollow dots: single training seeds. Grey: not significant.",
    )


def _curves(city: CityResults, protocol: str, where: str, rows: pd.DataFrame) -> list[Figure]:
    """Figures of hyper-parameter curves formed by variants; references are at 0."""
    points = []
    for row in rows.to_dict("records"):
        reference = city.training(row["reference"])
        for curve, x in row["training"].curve.items():
            points.append({**row, "name": curve, "x": x})
            if reference and curve in reference.curve:
                there: dict[Hashable, Any] = {"name": curve, "x": reference.curve[curve]}
                points.append({**row, **there, **dict.fromkeys(ENDS, 0.0)})
    figures = []
    for name, own in pd.DataFrame(points).groupby("name", sort=False) if points else ():
        shown = own.assign(curve=own["view"].map(VIEW_NAMES)).sort_values(["place", "x"])
        shown = shown.drop_duplicates(["curve", "x"])
        path = f"{FIGURES_FOLDER}/{slug(city.name, protocol, 'curve', str(name))}.png"
        probe = PROBE_NAMES[rows["probe"].iloc[0]]
        title = f"{where}: difference of R² by {name}, {probe}"
        panels = {"mean over indicators": shown}
        draw_curves(city.output / path, title, panels, str(name), "difference of R²")
        about = f"{title}. Bands: 95 % confidence intervals. Variants: "
        figures.append(Figure(path, title, f"{about}{', '.join(sorted(set(shown['variant'])))}."))
    return figures


__all__ = ["claims_table", "variants_frame", "variants_section", "verdict"]
