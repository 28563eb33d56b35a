"""A method with one thing changed at a time, against the method: ablations, and the sweep of µ.

A difference comes with two uncertainties, kept apart: its interval covers the draw of blocks of
regions, and the differences of the single training seeds show the randomness of training.
"""

from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..analysis.bootstrap import MEAN
from ..embed.trainings import training_of
from ..probe.splits import PROTOCOLS
from .figures import BLUE, GREY, RED, draw_curves, draw_intervals
from .frame import (
    CELL,
    PROBE_NAMES,
    VIEW_NAMES,
    VIEW_ORDER,
    CityResults,
    run_scores,
    slug,
)
from .rendering import DASH, Block, Figure, Section, Table, intervals, numbers, words
from .tables import with_mean

MU = "distillation_weight"
POPULATION = "population"  # swept beside the mean, where the city has it
WHERE = ["view", "probe", "indicator"]


@dataclass(frozen=True)
class Study:
    """The variants of one method under one protocol.

    Attributes:
        city: Whose results.
        protocol: Of the splits.
        method: The system they are variants of.
        differences: R2 of each variant less that of the method, see [`tables.differences_frame`].
        scores: R2 by `CELL`, training and split, the mean over indicators among the indicators.
    """

    city: CityResults
    protocol: str
    method: str
    differences: pd.DataFrame
    scores: pd.Series

    @property
    def where(self) -> str:
        """City and protocol in words."""
        return f"{self.city.title}, {PROTOCOLS[self.protocol]}"

    @property
    def variants(self) -> list[str]:
        """All that have results here, by the order of the table."""
        return sorted(self.differences["system"].unique(), key=lambda n: (self.city.rank(n), n))

    def mu(self, system: str) -> float | None:
        """µ of the method, or of a variant that changes nothing else; otherwise None."""
        own, method = self.city.training(system), self.city.training(self.method)
        if own is None or method is None or own.changes(method) - {MU}:
            return None
        value = own.settings.get(MU)
        return None if value is None else float(value)

    @property
    def ablated(self) -> list[str]:
        """The variants that take something away: all but steps of the sweep, of which 0 is one."""
        return [name for name in self.variants if self.mu(name) in (None, 0.0)]

    @property
    def swept(self) -> dict[float, str]:
        """µ -> system, the method among them. Empty where nothing is swept."""
        found = {mu: name for name in self.variants if (mu := self.mu(name)) is not None}
        own = self.mu(self.method)
        if not found or own is None:
            return {}
        return dict(sorted({**found, own: self.method}.items()))

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Views and probes that there are, in order."""
        found = set(zip(self.differences["view"], self.differences["probe"], strict=True))
        return sorted(found, key=lambda cell: (cell[1] != "mlp", VIEW_ORDER.index(cell[0])))

    @property
    def indicators(self) -> list[str]:
        """Those with a difference, the mean over them last."""
        return with_mean(self.city, self.differences["indicator"].unique())

    @property
    def overall(self) -> str:
        """The mean over indicators; where there is one indicator, that."""
        return self.indicators[-1]

    @property
    def swept_indicators(self) -> list[str]:
        """Those that the sweep is shown on."""
        return [name for name in (POPULATION, self.overall) if name in self.indicators]

    def short(self, system: str) -> str:
        """A variant's name without what all names begin with."""
        shared = commonprefix([*self.variants, self.method])  # noqa: RUF071 - names, no paths
        return system.removeprefix(shared) or system

    def r2(self, system: str, view: str, probe: str, indicator: str) -> pd.Series:
        """By training and split; empty where the system is not scored."""
        index = self.scores.index
        return self.scores[
            (index.get_level_values("system") == system)
            & (index.get_level_values("view") == view)
            & (index.get_level_values("probe") == probe)
            & (index.get_level_values("indicator") == indicator)
        ]

    def by_seed(self, variant: str, view: str, probe: str, indicator: str) -> list[float]:
        """R2 of the variant less that of the method, for each training seed of both."""
        systems = self.city.summary["systems"]
        seeds = {label: one.seed for label in systems if (one := training_of(systems[label]))}
        means = [
            self.r2(system, view, probe, indicator).groupby("label").mean().rename(index=seeds)
            for system in (variant, self.method)
        ]
        return (means[0] - means[1]).dropna().sort_index().tolist()

    def of(self, view: str, probe: str, indicator: str) -> pd.DataFrame:
        """The differences of one view, probe and indicator by system."""
        wanted = (self.differences[WHERE] == [view, probe, indicator]).all(axis=1)
        return self.differences[wanted].set_index("system")


def studies(city: CityResults, protocol: str, differences: pd.DataFrame) -> list[Study]:
    """The variants of each method, where there are any.

    Args:
        city: Whose results.
        protocol: Of the splits.
        differences: To each method and to others.
    """
    rows = city.of(protocol)
    scores = run_scores(rows[rows["beside"] == ""], "r2")
    found = []
    for method in city.methods:
        variants = [
            name for name in city.members
            if (one := city.training(name)) and one.variant_of == method
        ]  # fmt: skip
        own = differences[
            (differences["reference"] == method)
            & (differences["protocol"] == protocol)
            & (differences["beside"] == "")
            & differences["system"].isin(variants)
        ]
        if len(own):
            indicators = scores.index.get_level_values("indicator")
            kept = scores[indicators.isin(own["indicator"])].reset_index()
            by = [name for name in [*CELL, "label", "split_seed"] if name != "indicator"]
            mean = kept.groupby(by, as_index=False)["r2"].mean().assign(indicator=MEAN)
            index = [*CELL, "label", "split_seed"]
            both = pd.concat([kept, mean]).set_index(index)["r2"]
            found.append(Study(city, protocol, method, own, both))
    return found


# ---- tables -------------------------------------------------------------------------------------


def ablation_table(study: Study, probe: str) -> Table:
    """R2 of each variant, mean over indicators, above or below that of the method."""
    rows = []
    for variant in study.ablated:
        for view in (view for view, own in study.cells if own == probe):
            where = view, probe, study.overall
            found = study.of(*where)
            if variant in found.index:
                one = found.loc[variant]
                full, mine = (study.r2(s, *where).mean() for s in (study.method, variant))
                seeds = study.by_seed(variant, *where)
                rows.append(
                    {
                        "variant": variant,
                        "view": VIEW_NAMES[view],
                        "full": full,
                        "mine": mine,
                        "change": 100 * one["estimate"] / full if full > 0 else np.nan,
                        "seeds": ", ".join(f"{value:+.3f}" for value in seeds) or DASH,
                        **one[["estimate", "low", "high"]],
                    }
                )
    frame = pd.DataFrame(rows)
    trainings = [study.city.training(variant) for variant in frame["variant"]]
    ends = [frame[name] for name in ("estimate", "low", "high")]
    return Table(
        slug(study.city.name, study.protocol, "ablation", probe),
        f"{study.method} less one thing at a time, mean R² over indicators by "
        f"{PROBE_NAMES[probe]}, {study.where}",
        [
            words("variant", map(study.short, frame["variant"])),
            words("differs in", (one.differs if one else DASH for one in trainings)),
            words("view", frame["view"]),
            numbers("R² of the method", frame["full"]),
            numbers("R²", frame["mine"]),
            intervals("difference, 95 % interval", *ends),
            numbers("change, %", frame["change"], form="+.1f"),
            words("by training seed", frame["seeds"]),
            words("direction", map(direction, *ends[1:])),
        ],
        notes=[
            "Interval: paired bootstrap over blocks of regions, all training seeds scored under "
            "the same draws. By training seed: the difference of each seed's own pair of "
            "trainings; where their signs differ, another seed could turn the direction. Direction "
            "is given where the interval excludes 0."
        ],
    )


def direction(low: float, high: float) -> str:
    """Of a variant against the method, by the interval of the difference."""
    return "higher" if low > 0 else "lower" if high < 0 else "not significant"


def variant_differences(study: Study) -> Table:
    """Every variant, view and probe: the difference on each indicator."""
    wide = study.differences.set_index([*CELL])[["estimate", "low", "high"]].unstack("indicator")
    order = {cell: number for number, cell in enumerate(study.cells)}
    keys = [
        (v, "", *cell) for v in study.variants for cell in order if (v, "", *cell) in wide.index
    ]
    wide = wide.loc[keys]
    return Table(
        slug(study.city.name, study.protocol, "variants"),
        f"R² of each variant less that of {study.method}, {study.where}",
        [
            words("variant", (study.short(key[0]) for key in keys)),
            words("view", (VIEW_NAMES[key[2]] for key in keys)),
            words("probe", (PROBE_NAMES[key[3]] for key in keys)),
            *(
                intervals(name, *(wide[end, name] for end in ("estimate", "low", "high")))
                for name in study.indicators
            ),
        ],
        notes=["95 % intervals by a paired bootstrap over blocks; bold where they exclude 0."],
    )


def sweep_table(study: Study) -> Table | None:
    """R2 by µ: population and the mean over indicators; None where nothing is swept."""
    swept = study.swept
    if not swept:
        return None
    rows = [(i, *cell) for cell in study.cells for i in study.swept_indicators]
    found = [
        [study.r2(system, view, probe, indicator) for indicator, view, probe in rows]
        for system in swept.values()
    ]
    means = np.array([[one.mean() for one in column] for column in found])
    filled = np.where(np.isnan(means), -np.inf, means)
    return Table(
        slug(study.city.name, study.protocol, "mu"),
        f"R² by the weight of self-distillation µ, {study.where}",
        [
            words("indicator", (_named(row[0]) for row in rows)),
            words("view", (VIEW_NAMES[row[1]] for row in rows)),
            words("probe", (PROBE_NAMES[row[2]] for row in rows)),
            *(
                numbers(
                    f"µ = {mu:g}",
                    means[number],
                    spread=[one.std() for one in column],
                    bold=(filled[number] == filled.max(0)).tolist(),
                )
                for number, (mu, column) in enumerate(zip(swept, found, strict=True))
            ),
        ],
        notes=[
            "Mean ± SD over splits and training seeds; the best of a row is bold. Differences with "
            "intervals are in the figure, and among those of all variants below."
        ],
    )


def _named(indicator: str) -> str:
    return "mean of all indicators" if indicator == MEAN else indicator


# ---- the section --------------------------------------------------------------------------------


def variants_section(study: Study, output: Path, folder: str) -> Section:
    """Tables and figures of the variants of a method.

    Args:
        study: The variants.
        output: Folder of the report.
        folder: Of the figures, below it.
    """
    blocks: list[Block] = []
    probes = list(dict.fromkeys(probe for _, probe in study.cells))
    if study.ablated:
        first, *others = [ablation_table(study, probe) for probe in probes]
        blocks.append(first)
        views = [view for view, probe in study.cells if probe == probes[0]]
        blocks += [_ablation_figure(study, view, probes[0], output, folder) for view in views]
        if others:
            blocks.append(Section(f"{study.where}: ablation by the other probe", others, True))
    sweep = sweep_table(study)
    if sweep:
        blocks += [sweep, _sweep_figure(study, probes[0], output, folder)]
    title = f"{study.where}: all variants, indicator by indicator"
    blocks.append(Section(title, [variant_differences(study)], folded=True))
    if len(study.by_seed(study.variants[0], *study.cells[0], study.overall)) < 2:
        blocks.append("With one training seed, the randomness of training is not known.")
    return Section(f"{study.where}: variants of {study.method}", blocks)


def _ablation_figure(study: Study, view: str, probe: str, output: Path, folder: str) -> Figure:
    panels = {}
    seeds: Any
    for indicator in sorted(study.indicators, key=lambda name: name != MEAN):
        found = study.of(view, probe, indicator)
        own = found.loc[[name for name in study.ablated if name in found.index]]
        if len(own):
            seeds = [study.by_seed(name, view, probe, indicator) for name in own.index]
            panels[_named(indicator)] = own.assign(
                name=[study.short(name) for name in own.index],
                colour=[_colour(*ends) for ends in zip(own["low"], own["high"], strict=True)],
                seeds=seeds,
            )
    path = f"{folder}/{slug(study.city.name, study.protocol, 'ablation', view)}.png"
    title = (
        f"{study.where}: R² less that of {study.method}, {VIEW_NAMES[view]}, {PROBE_NAMES[probe]}"
    )
    draw_intervals(output / path, title, panels, "R² of the variant less R² of the method")
    return Figure(
        path,
        title,
        f"{title}, with 95 % intervals over blocks of regions; hollow dots are the single training "
        "seeds. Left of 0: the variant is worse than the method. Grey: the interval includes 0.",
    )


def _colour(low: float, high: float) -> str:
    return BLUE if low > 0 else RED if high < 0 else GREY


def _sweep_figure(study: Study, probe: str, output: Path, folder: str) -> Figure:
    ends = ["estimate", "low", "high"]
    systems = pd.Series(study.swept, name="system").rename_axis("x").reset_index()
    panels = {}
    for indicator in study.swept_indicators:
        curves = []
        for view in (view for view, own in study.cells if own == probe):
            found = study.of(view, probe, indicator)[ends]
            found.loc[study.method] = 0.0
            curves.append(systems.join(found, on="system").assign(curve=VIEW_NAMES[view]))
        panels[_named(indicator)] = pd.concat(curves).dropna()
    path = f"{folder}/{slug(study.city.name, study.protocol, 'mu')}.png"
    own = study.mu(study.method)
    title = f"{study.where}: R² by µ less that at µ = {own:g}, {PROBE_NAMES[probe]}"
    draw_curves(output / path, title, panels, "weight of self-distillation µ", "difference of R²")
    caption = f"{title}. Bands: 95 % intervals of the difference, over blocks of regions."
    return Figure(path, title, caption)


__all__ = [
    "Study",
    "ablation_table",
    "direction",
    "studies",
    "sweep_table",
    "variant_differences",
    "variants_section",
]
