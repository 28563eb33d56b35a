"""A method with one thing changed at a time, against the method: ablations, and the sweep of mu.

A difference comes with two uncertainties, told apart: the interval says what the draw of blocks of
regions explains, and the differences of the single training seeds say what the chance of training
does. Directions are reported as they are found.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path

import pandas as pd

from ..analysis.bootstrap import MEAN, Difference, Interval, Reference
from ..probe.splits import PROTOCOLS
from .bar_plots import Bar, Curve, draw_bars, draw_curves
from .documents import Block, Folded, Heading, Picture, Text
from .frame import PROBE_NAMES, VIEW_NAMES, VIEW_ORDER, CityResults, by_run, slug
from .paper import Publication
from .table_formats import DASH, Cell, Table, number, words
from .tables import PAPER_MARK

MU = "distillation_weight"
SWEPT_IN_PAPER = "population"  # the indicator of its table 4
SWEEP_NOTE = (
    "Rows in italics: the paper's table 4, from its own regions and splits. The numbers are not "
    "directly comparable; which µ is best is."
)
Cells = Mapping[tuple[str, str, str, str], Difference]  # system, view, probe, indicator


@dataclass(frozen=True)
class Study:
    """The variants of one method under one protocol.

    Attributes:
        city: whose results.
        protocol: of the splits.
        method: what they are variants of.
        differences: variant, view, probe and indicator (or `mean`) -> difference to the method.
        scores: system, view, probe and indicator -> R2 by training and split.
    """

    city: CityResults
    protocol: str
    method: str
    differences: Cells
    scores: Mapping[tuple[str, str, str, str], pd.Series]

    @property
    def variants(self) -> list[str]:
        """All that have results here, by the order of the table."""
        found = {name for name, *_ in self.differences}
        return sorted(found, key=lambda name: (self.city.rank(name), name))

    def mu(self, system: str) -> float | None:
        """Of the method, or of a variant that changes nothing but mu; else None."""
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
        """Mu -> system; the method's own among them. Empty where nothing is swept."""
        found = {mu: name for name in self.variants if (mu := self.mu(name)) is not None}
        own = self.mu(self.method)
        if not found or own is None:
            return {}
        return dict(sorted({**found, own: self.method}.items()))

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Views and probes that there are, in order."""
        found = {(view, probe) for _, view, probe, _ in self.differences}
        return sorted(found, key=lambda cell: (cell[1] != "mlp", VIEW_ORDER.index(cell[0])))

    @property
    def indicators(self) -> list[str]:
        """Those with a difference, `mean` last."""
        known = {indicator for *_, indicator in self.differences}
        return [name for name in (*self.city.indicators, MEAN) if name in known]

    def short(self, system: str) -> str:
        """A variant's name without what all names begin with."""
        shared = commonprefix([*self.variants, self.method])  # noqa: RUF071 - names, no paths
        return system.removeprefix(shared) or system

    def r2(self, system: str, view: str, probe: str, indicator: str) -> pd.Series:
        """By training and split; `mean`: over the indicators that are scored."""
        if indicator != MEAN:
            return self.scores[system, view, probe, indicator]
        own = [self.scores[system, view, probe, name] for name in self.indicators if name != MEAN]
        return pd.concat(own, axis=1).mean(axis=1)

    def by_seed(self, variant: str, view: str, probe: str, indicator: str) -> dict[int, float]:
        """Training seed -> R2 of the variant less that of the method, of seeds that both have."""
        mine, full = (
            {self._seed(label): mean for label, mean in scores.groupby("training").mean().items()}
            for scores in (
                self.r2(system, view, probe, indicator) for system in (variant, self.method)
            )
        )
        return {seed: float(mine[seed] - full[seed]) for seed in sorted(mine) if seed in full}

    def _seed(self, label: object) -> int:
        return int(self.city.summary["systems"][label]["training"]["seed"])


def method_references(city: CityResults) -> list[Reference]:
    """The methods that variants are compared with."""
    known = {city.system_of(row.system) for row in city.rows}
    return [Reference(name) for name in city.methods if name in known]


def studies(
    city: CityResults, protocol: str, compared: Mapping[Reference, Sequence[Difference]]
) -> list[Study]:
    """The variants of each method, where there are any.

    Args:
        city: whose results.
        protocol: of the splits.
        compared: differences to each of [`method_references`], and to others.
    """
    found = []
    scores = by_run(city, city.of(protocol), "r2")
    for reference in method_references(city):
        cells = {
            (one.system, one.view, one.probe, one.indicator): one
            for one in compared[reference]
            if one.protocol == protocol
            and (training := city.training(one.system))
            and training.variant_of == reference.system
        }
        if cells:
            flat = {(*key, indicator): one for (key, indicator), one in scores.items()}
            found.append(Study(city, protocol, reference.system, cells, flat))
    return found


# ---- ablations ----------------------------------------------------------------------------------


def ablation_table(study: Study, probe: str) -> Table:
    """What each variant's R2, averaged over indicators, is above or below that of the method."""
    body = []
    views = [view for view, own in study.cells if own == probe]
    for variant in study.ablated:
        training = study.city.training(variant)
        for view in views:
            one = study.differences.get((variant, view, probe, _overall(study)))
            if one is not None:
                names = words(study.short(variant), training.differs if training else DASH)
                body.append((*names, *_ablation_cells(study, one)))
    return Table(
        name=slug(study.city.name, study.protocol, "ablation", probe),
        title=f"{study.method} less one thing at a time, mean R² over indicators by "
        f"{PROBE_NAMES[probe]}, {study.city.title}, {PROTOCOLS[study.protocol]}",
        header=(
            "variant", "differs in", "view", "R² of the method", "R²", "difference, 95 % interval",
            "change, %", "by training seed", "direction",
        ),
        rows=tuple(body),
        notes=(
            "Interval: paired bootstrap over blocks of regions, all training seeds scored under "
            "the same draws. By training seed: the difference of each seed's own pair of "
            "trainings; where their signs differ, another seed could turn the direction. Direction "
            "is told where the interval does not hold 0.",
        ),
    )  # fmt: skip


def _overall(study: Study) -> str:
    """Where there is one indicator alone, it is its own mean."""
    return MEAN if MEAN in study.indicators else study.indicators[0]


def _ablation_cells(study: Study, one: Difference) -> tuple[Cell, ...]:
    where = one.view, one.probe, one.indicator
    full, mine = (float(study.r2(system, *where).mean()) for system in (study.method, one.system))
    interval = one.intervals["r2"]
    change = 100 * interval.estimate / full if full > 0 else math.nan
    seeds = study.by_seed(one.system, *where)
    return (
        Cell(VIEW_NAMES[one.view]),
        number(full),
        number(mine),
        interval_cell(interval),
        number(change, form="+.1f"),
        Cell(", ".join(f"{value:+.3f}" for value in seeds.values()) or DASH),
        Cell(direction(interval)),
    )


def interval_cell(interval: Interval) -> Cell:
    """An estimate with its interval; bold where that does not hold 0."""
    text = f"{interval.estimate:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
    return Cell(text, interval.estimate, best=interval.excludes_zero)


def direction(interval: Interval) -> str:
    """Of a variant against the method, as found."""
    if not interval.excludes_zero:
        return "not told apart"
    return "higher" if interval.estimate > 0 else "lower"


def variant_differences(study: Study) -> Table:
    """Every variant, view and probe: the difference on each indicator."""
    body = []
    for variant in study.variants:
        for view, probe in study.cells:
            found = [
                study.differences.get((variant, view, probe, name)) for name in study.indicators
            ]
            names = words(study.short(variant), VIEW_NAMES[view], PROBE_NAMES[probe])
            cells = (Cell(DASH) if one is None else interval_cell(one.intervals["r2"])
                     for one in found)  # fmt: skip
            body.append((*names, *cells))
    return Table(
        name=slug(study.city.name, study.protocol, "variants"),
        title=f"R² of each variant less that of {study.method}, {study.city.title}, "
        f"{PROTOCOLS[study.protocol]}",
        header=("variant", "view", "probe", *study.indicators),
        rows=tuple(body),
        notes=("95 % intervals by a paired bootstrap over blocks; bold where 0 is not in it.",),
    )


# ---- the sweep of mu ----------------------------------------------------------------------------


def sweep_table(study: Study, paper: Publication) -> Table | None:
    """R2 by mu, population and the mean over indicators; the paper's table 4 below."""
    swept = study.swept
    if not swept:
        return None
    printed = _printed_sweep(study, paper)
    grid = sorted({*swept, *(paper.mu_values if printed else ())})
    body = []
    for view, probe in study.cells:
        for indicator in [n for n in (SWEPT_IN_PAPER, _overall(study)) if n in study.indicators]:
            cells = []
            for mu in grid:
                system = swept.get(mu)
                known = system is not None and (system, view, probe) in _known(study)
                scores = study.r2(system, view, probe, indicator) if system and known else None
                cells.append(
                    Cell(DASH)
                    if scores is None
                    else number(float(scores.mean()), float(scores.std()))
                )
            names = words(_named(indicator), VIEW_NAMES[view], PROBE_NAMES[probe])
            body.append((*names, *_mark_best(cells)))
    for view, own in printed.items():
        values = dict(zip(paper.mu_values, own, strict=True))
        names = words(f"population ({PAPER_MARK})", VIEW_NAMES[view], "", soft=True)
        body.append((*names, *(number(values.get(mu), soft=True) for mu in grid)))
    return Table(
        name=slug(study.city.name, study.protocol, "mu"),
        title=f"R² by the weight of self-distillation µ, {study.city.title}, "
        f"{PROTOCOLS[study.protocol]}",
        header=("indicator", "view", "probe", *(f"µ = {mu:g}" for mu in grid)),
        rows=tuple(body),
        notes=(
            "Mean ± SD over splits and training seeds; the best of a row is bold. "
            "Differences with intervals stand in the figure, and among all variants' below.",
            *([SWEEP_NOTE] if printed else []),
        ),
    )


def _printed_sweep(study: Study, paper: Publication) -> dict[str, tuple[float, ...]]:
    """View -> the paper's own sweep, where the city is one of its own."""
    city = study.city
    found = {view: own.get(city.name) for view, own in paper.mu_sweep.items()}
    return {view: own for view, own in found.items() if own and not city.synthetic}


def _known(study: Study) -> set[tuple[str, str, str]]:
    return {(system, view, probe) for system, view, probe, _ in study.scores}


def _named(indicator: str) -> str:
    return "mean of all indicators" if indicator == MEAN else indicator


def _mark_best(cells: Sequence[Cell]) -> list[Cell]:
    best = max((cell.value for cell in cells if cell.value is not None), default=None)
    return [
        Cell(cell.text, cell.value, cell.spread, best=cell.value is not None and cell.value == best)
        for cell in cells
    ]


# ---- the section --------------------------------------------------------------------------------


def variant_blocks(study: Study, output: Path, folder: str, paper: Publication) -> list[Block]:
    """Tables and figures of the variants of a method.

    Args:
        study: the variants.
        output: where the page lies.
        folder: of the pictures, below it.
        paper: whose sweep stands beside ours.
    """
    where = f"{study.city.title}, {PROTOCOLS[study.protocol]}"
    blocks: list[Block] = [Heading(4, f"{where}: variants of {study.method}")]
    probes = list(dict.fromkeys(probe for _, probe in study.cells))
    if study.ablated:
        first, *others = [ablation_table(study, probe) for probe in probes]
        blocks.append(first)
        blocks += [_bars(study, view, probes[0], output, folder)
                   for view, probe in study.cells if probe == probes[0]]  # fmt: skip
        blocks += [Folded("The same by the other probe", tuple(others))] if others else []
    sweep = sweep_table(study, paper)
    if sweep:
        blocks.append(sweep)
        blocks.append(_curves(study, probes[0], output, folder, paper))
    blocks.append(Folded("All variants, indicator by indicator", (variant_differences(study),)))
    if len(study.by_seed(study.variants[0], *study.cells[0], study.indicators[-1])) < 2:
        blocks.append(
            Text("One training seed alone: how much of a difference is the chance of training is "
                 "not known.")
        )  # fmt: skip
    return blocks


def _bars(study: Study, view: str, probe: str, output: Path, folder: str) -> Picture:
    panels: dict[str, list[Bar]] = {}
    order = [name for name in study.indicators if name == MEAN]
    order += [name for name in study.indicators if name != MEAN]
    for indicator in order:
        for variant in study.ablated:
            one = study.differences.get((variant, view, probe, indicator))
            if one is not None:
                seeds = study.by_seed(variant, view, probe, indicator).values()
                bar = Bar(study.short(variant), one.intervals["r2"], tuple(seeds))
                panels.setdefault(_named(indicator), []).append(bar)
    path = f"{folder}/{slug(study.city.name, study.protocol, 'ablation', view)}.png"
    title = (
        f"{study.city.title}, {PROTOCOLS[study.protocol]}: R² less that of {study.method}, "
        f"{VIEW_NAMES[view]}, {PROBE_NAMES[probe]}"
    )
    draw_bars(output / path, title, panels, "R² of the variant less R² of the method")
    return Picture(
        path,
        title,
        f"{title}. Bars with 95 % intervals over blocks of regions; dots are the single training "
        "seeds. Left of 0: the variant is worse than the method. Pale: the interval holds 0.",
    )


def _curves(study: Study, probe: str, output: Path, folder: str, paper: Publication) -> Picture:
    zero = Interval(0.0, 0.0, 0.0)
    own = study.mu(study.method)
    panels: dict[str, list[Curve]] = {}
    for indicator in [n for n in (SWEPT_IN_PAPER, _overall(study)) if n in study.indicators]:
        for view in [view for view, known in study.cells if known == probe]:
            found = {
                system: one
                for (system, *cell), one in study.differences.items()
                if cell == [view, probe, indicator]
            }
            points = {
                mu: zero if system == study.method else found[system].intervals["r2"]
                for mu, system in study.swept.items()
                if system == study.method or system in found
            }
            curve = Curve(VIEW_NAMES[view], tuple(points), tuple(points.values()))
            panels.setdefault(_named(indicator), []).append(curve)
    printed = _printed_sweep(study, paper)
    if own in paper.mu_values and SWEPT_IN_PAPER in panels:
        at = paper.mu_values.index(own)
        for view, scores in printed.items():
            differences = (score - scores[at] for score in scores)
            panels[SWEPT_IN_PAPER].append(
                Curve(f"{VIEW_NAMES[view]}, {PAPER_MARK}", paper.mu_values,
                      tuple(Interval(v, v, v) for v in differences), printed=True)
            )  # fmt: skip
    path = f"{folder}/{slug(study.city.name, study.protocol, 'mu')}.png"
    title = (
        f"{study.city.title}, {PROTOCOLS[study.protocol]}: R² by µ less that at µ = {own:g}, "
        f"{PROBE_NAMES[probe]}"
    )
    draw_curves(output / path, title, panels, "weight of self-distillation µ", "difference of R²")
    return Picture(
        path,
        title,
        f"{title}. Bands: 95 % intervals over blocks of regions, of the difference."
        + (f" Dotted: {PAPER_MARK} for this city." if printed else ""),
    )


__all__ = [
    "Study",
    "ablation_table",
    "direction",
    "interval_cell",
    "method_references",
    "studies",
    "sweep_table",
    "variant_blocks",
    "variant_differences",
]
