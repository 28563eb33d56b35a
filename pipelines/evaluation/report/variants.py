"""Ablation claims: differences between variants and their references, with verdicts.

Intervals are over blocks of regions and training seeds, see `analysis.claims`. Retrieval scores are
read from `models/LABEL`, next to the results folder, as written by `evaluate.py benchmark`.
"""

import json
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Study:
    """Variants under one protocol.

    Attributes:
        city: Results of the city.
        protocol: Protocol of the splits.
        rows: One row per variant, view, probe and indicator, with the fields of
            `VariantDifference` and its interval as estimate, low and high.
    """

    city: CityResults
    protocol: str
    rows: pd.DataFrame

    @property
    def where(self) -> str:
        """Display name of city and protocol."""
        return f"{self.city.title}, {PROTOCOLS[self.protocol]}"

    @property
    def probes(self) -> list[str]:
        """Probes, the MLP first."""
        return sorted(self.rows["probe"].unique(), key=lambda name: (name != "mlp", name))

    def training(self, system: str) -> Training:
        """First training of a variant."""
        found = self.city.training(system)
        assert found is not None
        return found

    def short(self, system: str) -> str:
        """Name of a system without the prefix common to all names."""
        names = [*self.rows["system"], *self.rows["reference"]]
        shared = commonprefix(names)  # noqa: RUF071 - names, no paths
        return system.removeprefix(shared) or system

    def of(self, probe: str, indicator: str = MEAN) -> pd.DataFrame:
        """Rows of a probe and an indicator, in the order of the systems in probe.json."""
        own = self.rows[(self.rows["probe"] == probe) & (self.rows["indicator"] == indicator)]
        trainings = map(training_of, self.city.summary["systems"].values())
        order = list(dict.fromkeys(one.group for one in trainings if one))
        views = own["view"].map(VIEW_ORDER.index)
        rank = own["system"].map(order.index)
        return own.assign(rank=rank, place=views).sort_values(["rank", "place"], ignore_index=True)

    def scores(self) -> pd.Series:
        """Mean R2 over indicators, by `KEY`."""
        rows = self.city.of(self.protocol)
        rows = rows[rows["indicator"].isin(self.rows["indicator"])]
        return run_scores(rows, "r2").groupby(CELL).mean().groupby(KEY).mean()


def studies(city: CityResults, found: Sequence[VariantDifference]) -> dict[str, Study]:
    """Group variant differences by protocol."""
    rows = [{**asdict(one), **asdict(one.difference)} for one in found]
    frame = pd.DataFrame(rows, columns=[*VariantDifference.__annotations__, *ENDS])
    return {str(name): Study(city, str(name), own) for name, own in frame.groupby("protocol")}


def verdict(low: float, high: float, training: Training) -> str:
    """Verdict on a claim, or direction of the difference without a claim, from its interval."""
    if not low > 0 and not high < 0:
        return "not significant"
    direction = "higher" if low > 0 else "lower"
    if not training.claim:
        return direction
    return "holds" if direction == training.expected else "does not hold"


def read_recalls(models: Path, labels: Sequence[str]) -> dict[str, float]:
    """Recall@5 at the published step, averaged over trainings; NaN if missing for any of them."""
    found = []
    for label in labels:
        summary, metrics = (models / label / name for name in (SUMMARY_FILE, METRICS_FILE))
        row: dict[str, float] = {}
        if summary.is_file() and metrics.is_file():
            step = json.loads(summary.read_text(encoding="utf-8")).get("best_step")
            lines = map(json.loads, metrics.read_text(encoding="utf-8").splitlines())
            rows = [one for one in lines if one["step"] == step and "mean_recall" in one]
            row = rows[-1] if rows else row
        found.append([row.get(name, np.nan) for name in RECALLS.values()])
    return dict(zip(RECALLS, np.mean(found, axis=0).tolist(), strict=True))


def claims_table(study: Study, probe: str) -> Table:
    """Table of claims with differences and verdicts, per variant and view.

    Args:
        study: Variants under one protocol.
        probe: Probe of the scores.
    """
    models = study.city.output.parent / MODELS_FOLDER
    rows, scores = study.of(probe), study.scores()
    trainings = [study.training(name) for name in rows["system"]]
    r2 = {
        side: [scores[name, "", view, probe] for name, view in rows[[side, "view"]].to_numpy()]
        for side in ("reference", "system")
    }
    recalls = {
        name: read_recalls(models, study.city.members[name]) for name in rows["system"].unique()
    }
    said = [verdict(*one) for one in zip(rows["low"], rows["high"], trainings, strict=True)]
    return Table(
        slug(study.city.name, study.protocol, "claims", probe),
        f"Claims: mean R² over indicators, {PROBE_NAMES[probe]} probe, {study.where}",
        [
            words("claim", (one.claim or DASH for one in trainings)),
            words("variant", map(study.short, rows["system"])),
            words("reference", map(study.short, rows["reference"])),
            words("view", map(VIEW_NAMES.get, rows["view"])),
            numbers("R² of reference", r2["reference"]),
            numbers("R²", r2["system"]),
            intervals("difference, 95 % interval", *(rows[end] for end in ENDS)),
            words("per training seed", (", ".join(f"{v:+.3f}" for v in s) for s in rows["seeds"])),
            words("verdict", said),
            *(
                numbers(name, (recalls[own][name] for own in rows["system"]), group="recall@5")
                for name in RECALLS
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


def differences_table(study: Study) -> Table:
    """Table of differences per indicator, for all variants, views and probes."""
    indicators = with_mean(study.city, study.rows["indicator"].unique())
    first = pd.concat([study.of(probe) for probe in study.probes], ignore_index=True)
    keys = first[["system", "view", "probe"]]
    columns = []
    for name in indicators:
        own = study.rows[study.rows["indicator"] == name]
        own = keys.merge(own, how="left")
        columns.append(intervals(name, *(own[end] for end in ENDS)))
    differs = (study.training(name).differs or DASH for name in keys["system"])
    return Table(
        slug(study.city.name, study.protocol, "variants"),
        f"R² of each variant minus that of its reference, {study.where}",
        [
            words("variant", map(study.short, keys["system"])),
            words("reference", map(study.short, first["reference"])),
            words("differs in", differs),
            words("view", map(VIEW_NAMES.get, keys["view"])),
            words("probe", map(PROBE_NAMES.get, keys["probe"])),
            *columns,
        ],
        notes=["95 % confidence intervals over blocks and training seeds; bold: significant."],
    )


def variants_section(study: Study) -> Section:
    """Section with tables and figures of the variants."""
    probe, *others = study.probes
    blocks: list[Block] = [claims_table(study, probe), _claims_figure(study, probe)]
    blocks += _curves(study, probe)
    if others:
        tables = [claims_table(study, other) for other in others]
        blocks.append(Section(f"{study.where}: claims, other probe", tables, folded=True))
    title = f"{study.where}: all variants, per indicator"
    blocks.append(Section(title, [differences_table(study)], folded=True))
    if study.rows["seeds"].map(len).max() < 2:
        blocks.append("With one training seed, the variance between trainings is unknown.")
    return Section(f"{study.where}: claims", blocks)


def _claims_figure(study: Study, probe: str) -> Figure:
    rows = study.of(probe)
    shown = rows.assign(
        name=rows["system"].map(study.short) + " - " + rows["reference"].map(study.short),
        colour=np.select([rows["low"] > 0, rows["high"] < 0], [BLUE, RED], GREY),
    )
    panels = {VIEW_NAMES[own["view"].iloc[0]]: own for _, own in shown.groupby("place")}
    path = f"{FIGURES_FOLDER}/{slug(study.city.name, study.protocol, 'claims')}.png"
    title = f"{study.where}: R² of variants minus their references, {PROBE_NAMES[probe]}"
    draw_intervals(
        study.city.output / path, title, panels, "difference of R², mean over indicators"
    )
    return Figure(
        path,
        title,
        f"{title}, with 95 % confidence intervals over blocks of regions and training seeds. "
        "Hollow dots: single training seeds. Grey: not significant.",
    )


def _curves(study: Study, probe: str) -> list[Figure]:
    """Figures of hyper-parameter curves formed by variants; references are at 0."""
    rows = study.of(probe)
    points = []
    for row in rows.to_dict("records"):
        for curve, x in study.training(row["system"]).curve.items():
            points.append({**row, "name": curve, "x": x})
            known = study.training(row["reference"]).curve
            if curve in known:
                place: dict[Hashable, Any] = {"name": curve, "x": known[curve]}
                points.append({**row, **place, **dict.fromkeys(ENDS, 0.0)})
    figures = []
    for name, own in pd.DataFrame(points).groupby("name", sort=False) if points else ():
        shown = own.assign(curve=own["view"].map(VIEW_NAMES)).sort_values(["place", "x"])
        shown = shown.drop_duplicates(["curve", "x"])
        path = f"{FIGURES_FOLDER}/{slug(study.city.name, study.protocol, 'curve', str(name))}.png"
        title = f"{study.where}: difference of R² by {name}, {PROBE_NAMES[probe]}"
        panels = {"mean over indicators": shown}
        draw_curves(study.city.output / path, title, panels, str(name), "difference of R²")
        names = sorted({study.short(system) for system in shown["system"]})
        about = f"{title}. Bands: 95 % confidence intervals. Variants: {', '.join(names)}."
        figures.append(Figure(path, title, about))
    return figures


__all__ = [
    "Study",
    "claims_table",
    "differences_table",
    "read_recalls",
    "studies",
    "variants_section",
    "verdict",
]
