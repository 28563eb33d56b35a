"""The tables of a report, each computed from rows that a reader has too.

A table that shows what a model scores also shows what no model scores: without the controls it is
refused.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import pandas as pd

from ..analysis.bootstrap import MEAN, Difference
from ..analysis.conformal import Coverage
from ..embed.trainings import Training, training_of
from ..errors import InputError
from ..probe.results import ResultRow
from ..probe.systems import NO_VIEW, WITH_COORDINATES
from .frame import (
    LOWER_IS_BETTER,
    METRIC_TITLES,
    PROBE_NAMES,
    PROTOCOL_TITLES,
    VIEW_NAMES,
    CityResults,
    Key,
    by_run,
    is_frozen_clip,
    is_untrained,
    slug,
    spreads,
)
from .paper import Publication, PublishedTable
from .table_formats import DASH, Cell, Table, number, words

QUANTILES = {"split": "regions", "block": "blocks"}
PAPER_MARK = "printed in the paper"
PAPER_NOTE = (
    "Rows in italics: the paper's own numbers, from its own regions and splits and without a "
    "spread. They are not directly comparable with the rows above."
)


def score_table(
    city: CityResults,
    protocol: str,
    metric: str,
    paper: Publication | None = None,
    beside: bool = False,
    views: Collection[Key] | None = None,
) -> Table:
    """Systems x indicators: mean ± SD over splits, the best in bold, controls first.

    Args:
        city: whose rows.
        protocol: of the rows.
        metric: `r2`, `rmse`, `mae` or `spearman`.
        paper: whose printed numbers stand below, where the city is one of its own and the
            protocol is `random`, which is its own.
        beside: vectors beside coordinates, with the controls, in place of vectors alone.
        views: systems that see images are shown in these views and by these probes alone.

    Raises:
        InputError: there is a row of a model on an indicator but none of the controls.
    """
    rows = [
        row
        for row in city.of(protocol)
        if row.view == NO_VIEW or row.system.startswith(WITH_COORDINATES) == beside
    ]
    require_controls(city, rows)
    scores = by_run(city, rows, metric)
    keys = sorted({key for key, _ in scores}, key=city.order)
    if views is not None:
        keys = [key for key in keys if key[1] == NO_VIEW or key in views]
    indicators = [name for name in city.indicators if any(row.indicator == name for row in rows)]
    best = {name: _best(scores, keys, name, metric) for name in indicators}
    body = []
    for key in keys:
        system, view, probe = key
        names = words(city.system_title(system), VIEW_NAMES[view], PROBE_NAMES[probe])
        cells = (_score(scores.get((key, name)), best[name] == key) for name in indicators)
        body.append((*names, *cells))
    body.append(_about_test(rows, indicators, "n test", "n_test", ".0f"))
    body.append(_about_test(rows, indicators, "label SD (test)", "label_sd_test", ".2f"))
    notes = [*_missing_controls(city, rows), *_seeds_note(city, keys)]
    printed = paper.table_of(city.name) if paper and protocol == "random" else None
    if paper and printed and metric in printed.metrics and not city.synthetic:
        body += _printed_rows(paper, printed, metric, indicators)
        notes.append(PAPER_NOTE)
    return Table(
        name=slug(city.name, protocol, metric, *(["beside"] * beside), *(["best"] * bool(views))),
        title=f"{METRIC_TITLES[metric]}{' of vectors beside coordinates' if beside else ''}, "
        f"{city.title}, {_short(protocol)}{', each system in its best view' if views else ''}",
        header=("system", "view", "probe", *indicators),
        rows=tuple(body),
        notes=tuple(notes),
    )


def _seeds_note(city: CityResults, keys: Iterable[Key]) -> Iterable[str]:
    """Which rows are over several trainings."""
    counts: dict[int, list[str]] = {}
    for system in dict.fromkeys(key[0].removeprefix(WITH_COORDINATES) for key in keys):
        counts.setdefault(len(city.members.get(system, ())), []).append(system)
    for number_of, systems in sorted(counts.items()):
        if number_of > 1:
            yield (
                f"Trained from {number_of} seeds, mean ± SD over splits x training seeds: "
                f"{', '.join(systems)}."
            )


def spread_table(city: CityResults, protocol: str, metric: str = "r2") -> Table | None:
    """What the splits and what the training seeds add to the spread; None without several seeds."""
    scores = by_run(city, city.of(protocol), metric)
    scores = {name: one for name, one in scores.items() if len(one.groupby("training")) > 1}
    if not scores:
        return None
    keys = sorted({key for key, _ in scores}, key=city.order)
    indicators = [name for name in city.indicators if any(i == name for _, i in scores)]
    body = []
    for key in keys:
        system, view, probe = key
        names = words(city.system_title(system), VIEW_NAMES[view], PROBE_NAMES[probe])
        cells: list[Cell] = []
        for name in indicators:
            one = scores.get((key, name))
            parts = (None, None) if one is None else spreads(one)[1:]
            cells += [number(part) for part in parts]
        seeds = number(len(city.members.get(system.removeprefix(WITH_COORDINATES), ())), form="d")
        body.append((*names, seeds, *cells))
    return Table(
        name=slug(city.name, protocol, metric, "spread"),
        title=f"SD of {METRIC_TITLES[metric]} over splits and over training seeds, {city.title}, "
        f"{_short(protocol)}",
        header=("system", "view", "probe", "seeds", *("splits", "training") * len(indicators)),
        rows=tuple(body),
        notes=(
            "Splits: SD over splits of the mean over training seeds. Training: SD over training "
            "seeds of the mean over splits.",
        ),
        groups=(*(("", 1),) * 4, *((name, 2) for name in indicators)),
    )


def require_controls(city: CityResults, rows: Sequence[ResultRow]) -> None:
    """Refuse rows of models that have no control beside them.

    Raises:
        InputError: the mean is missing, or the coordinates where the regions have any.
    """
    needed = ["mean"] if city.summary.get("without_coordinates") else ["mean", "coordinates"]
    systems: dict[str, set[str]] = {}
    for row in rows:
        systems.setdefault(row.indicator, set()).add(row.system)
    seen = {row.indicator for row in rows if row.view != NO_VIEW}
    for indicator in sorted(seen):
        missing = [name for name in needed if name not in systems[indicator]]
        if missing:
            raise InputError(
                f"{city.folder} has rows of models on {indicator!r} but none of the control "
                f"{missing[0]!r}, and a score says nothing without it. Run `python evaluate.py "
                "probe` once more: it adds what is missing."
            )


def _missing_controls(city: CityResults, rows: Sequence[ResultRow]) -> Iterable[str]:
    """The controls that only a model of one's own can give."""
    metadata = [
        own
        for system in {row.system for row in rows}
        if (own := city.summary["systems"].get(system)) is not None
    ]
    missing = []
    if not any(map(is_untrained, metadata)):
        missing.append("an untrained encoder")
    if not any(map(is_frozen_clip, metadata)):
        missing.append("a frozen CLIP")
    if missing:
        yield f"Not in this table: {' and '.join(missing)}."


def _short(protocol: str) -> str:
    return PROTOCOL_TITLES[protocol].split(" (")[0].lower()


def _best(
    scores: dict[tuple[Key, str], pd.Series], keys: Sequence[Key], indicator: str, metric: str
) -> Key | None:
    means = {key: scores[key, indicator].mean() for key in keys if (key, indicator) in scores}
    means = {key: mean for key, mean in means.items() if math.isfinite(mean)}
    if not means:
        return None
    return (min if metric in LOWER_IS_BETTER else max)(means, key=lambda key: means[key])


def _score(scores: pd.Series | None, is_best: bool) -> Cell:
    if scores is None or scores.isna().all():
        return Cell(DASH)
    spread = float(scores.std()) if scores.notna().sum() > 1 else None
    cell = number(float(scores.mean()), spread)
    return Cell(cell.text, cell.value, cell.spread, best=is_best)


def _about_test(
    rows: Sequence[ResultRow], indicators: Sequence[str], title: str, field: str, form: str
) -> tuple[Cell, ...]:
    cells = []
    for name in indicators:
        values = [getattr(row, field) for row in rows if row.indicator == name]
        low, high = format(min(values), form), format(max(values), form)
        cells.append(Cell(low if low == high else f"{low}{DASH}{high}", soft=True))
    return (*words(title, "", "", soft=True), *cells)


def _printed_rows(
    paper: Publication, table: PublishedTable, metric: str, indicators: Sequence[str]
) -> Iterable[tuple[Cell, ...]]:
    for system, row in table.scores.items():
        cells = [row.get(name) for name in indicators]
        view = VIEW_NAMES[paper.views[system]] if system in paper.views else ""
        yield (
            *words(f"{system} ({PAPER_MARK})", view, "", soft=True),
            *(number(cell[metric] if cell else None, soft=True) for cell in cells),
        )


def difference_table(
    city: CityResults, protocol: str, reference: str, differences: Sequence[Difference]
) -> Table | None:
    """Differences of R2 to a reference with their 95 % intervals; None where there are none.

    Bold is a difference whose interval does not hold 0.
    """
    found = [one for one in differences if one.protocol == protocol]
    found = [one for one in found if not one.system.startswith(WITH_COORDINATES)]
    return _differences(
        city, protocol, found, slug(city.name, protocol, "r2-to", reference),
        f"R² less that of {reference}",
    )  # fmt: skip


def gain_table(city: CityResults, protocol: str, differences: Sequence[Difference]) -> Table | None:
    """What vectors add to coordinates: R2 of both, by ridge, less that of coordinates by ridge."""
    found = [one for one in differences if one.protocol == protocol]
    found = [one for one in found if one.system.startswith(WITH_COORDINATES)]
    return _differences(
        city, protocol, found, slug(city.name, protocol, "gain"),
        "R² of coordinates and vector less that of coordinates alone",
    )  # fmt: skip


def _differences(
    city: CityResults, protocol: str, found: Sequence[Difference], name: str, title: str
) -> Table | None:
    if not found:
        return None
    cells = {((one.system, one.view, one.probe), one.indicator): one for one in found}
    keys = sorted({key for key, _ in cells}, key=city.order)
    known = {one.indicator for one in found}
    indicators = [name for name in (*city.indicators, MEAN) if name in known]
    body = []
    for key in keys:
        system, view, probe = key
        names = words(city.system_title(system), VIEW_NAMES[view], PROBE_NAMES[probe])
        body.append((*names, *(_interval(cells.get((key, i))) for i in indicators)))
    blocks = sorted({one.blocks for one in found})
    count = f"{blocks[0]}" if len(blocks) == 1 else f"{blocks[0]} to {blocks[-1]}"
    return Table(
        name=name,
        title=f"{title}, {city.title}, {_short(protocol)}",
        header=("system", "view", "probe", *indicators),
        rows=tuple(body),
        notes=(
            f"Mean over splits, with a 95 % interval by a paired bootstrap over {count} blocks of "
            "regions; bold where the interval does not hold 0. A system of several training seeds "
            "goes by the mean of its seeds' scores under the same draws; the chance of training is "
            "not in the interval.",
        ),
    )


def _interval(one: Difference | None) -> Cell:
    if one is None:
        return Cell(DASH)
    interval = one.intervals["r2"]
    text = f"{interval.estimate:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
    return Cell(text, interval.estimate, best=interval.excludes_zero)


def coverage_table(city: CityResults, protocol: str, measured: Sequence[Coverage]) -> Table | None:
    """How many test regions lie within their prediction intervals; None where nothing is known."""
    own = [
        one
        for one in measured
        # one probe is enough to see by; the file of intervals has them all
        if one.protocol == protocol and one.probe != "mlp"
        if not one.system.startswith(WITH_COORDINATES)
    ]
    if not own:
        return None
    trainings: dict[tuple[Key, str, str], list[Coverage]] = {}
    for one in own:
        key = (city.system_of(one.system), one.view, one.probe)
        trainings.setdefault((key, one.method, one.indicator), []).append(one)
    found = {name: _mean_coverage(of_system) for name, of_system in trainings.items()}
    rows = sorted({key[:2] for key in found}, key=lambda row: (city.order(row[0]), row[1]))
    indicators = [i for i in city.indicators if any(one.indicator == i for one in own)]
    body = []
    for key, method in rows:
        system, view, probe = key
        names = words(city.system_title(system), VIEW_NAMES[view], PROBE_NAMES[probe])
        cells = (_covered(found.get((key, method, i))) for i in indicators)
        body.append((*names, Cell(QUANTILES[method]), *cells))
    return Table(
        name=slug(city.name, protocol, "coverage"),
        title=f"Coverage of {own[0].level:.0%} prediction intervals, {city.title}, "
        f"{_short(protocol)}",
        header=("system", "view", "probe", "quantile over", *indicators),
        rows=tuple(body),
        notes=(
            "Share of test regions within prediction ± half-width, mean over splits, and the "
            "half-width. It is the quantile of the errors on validation regions: each counts "
            "(regions), or each block of them and one block more (blocks). A star: too few blocks "
            "in some split for the level; the largest error stands in.",
        ),
    )


def _mean_coverage(trainings: Sequence[Coverage]) -> Coverage:
    """Of a system's trainings."""

    def mean(field: str) -> float:
        return sum(getattr(one, field) for one in trainings) / len(trainings)

    return replace(
        trainings[0],
        coverage=mean("coverage"),
        half_width=mean("half_width"),
        guaranteed=mean("guaranteed"),
    )


def _covered(one: Coverage | None) -> Cell:
    if one is None:
        return Cell(DASH)
    star = "" if one.guaranteed == 1 else "*"
    return Cell(f"{one.coverage:.2f} (±{one.half_width:.2f}){star}", one.coverage)


def statistics_table(cities: Sequence[CityResults], paper: Publication) -> Table:
    """Regions, images and labelled regions of each city; below, the paper's of the same cities."""
    indicators = list(dict.fromkeys(name for city in cities for name in city.summary["indicators"]))
    body = [_statistics(city, indicators) for city in cities]
    notes = ["Labels are counted among the regions that are compared."]
    real = {city.name for city in cities if not city.synthetic}
    printed = {name: counts for name, counts in paper.statistics.items() if name in real}
    if printed:
        for name, counts in printed.items():
            order = ("regions", None, "street_view", "satellite", *indicators)
            cells = [counts.get(column) if column else None for column in order]
            title = name.replace("_", " ").title()
            body.append(
                (
                    Cell(f"{title} ({PAPER_MARK})", soft=True),
                    *(number(value, form=",.0f", soft=True) for value in cells),
                )
            )
        notes.append("Rows in italics are those of the paper's Table 5.")
    return Table(
        name="statistics",
        title=_marked("Statistics of the datasets", cities),
        header=("city", "regions", "compared", "street views", "satellite images", *indicators),
        rows=tuple(body),
        notes=tuple(notes),
    )


def _statistics(city: CityResults, indicators: Sequence[str]) -> tuple[Cell, ...]:
    from ..probe.predictions import REGIONS_FILE

    regions = city.summary["regions"]
    labels = pd.read_parquet(city.folder / REGIONS_FILE)
    images = [
        max(own.get("images", {}).get(view, 0) for own in city.summary["systems"].values())
        for view in ("street_view", "satellite")
    ]
    counts = [int(labels[name].notna().sum()) if name in labels else None for name in indicators]
    values = [regions["all"], regions["compared"], *images, *counts]
    return (Cell(city.title), *(number(value, form=",.0f") for value in values))


def _marked(title: str, cities: Sequence[CityResults]) -> str:
    simulated = [city.name.replace("_", " ").title() for city in cities if city.synthetic]
    return f"{title} ({', '.join(simulated)}: synthetic)" if simulated else title


def systems_table(city: CityResults) -> Table:
    """Who is compared: what made the vectors, of how many images, and what was left out."""
    body = []
    for name in sorted(city.members, key=lambda name: (city.rank(name), name)):
        own, training = city.metadata(name), city.training(name)
        trainings = (training_of(city.summary["systems"][label]) for label in city.members[name])
        seeds = [str(one.seed) for one in trainings if one]
        weights = own.get("pretrained") or ("drawn" if own.get("random_init") else DASH)
        images = [own.get("images", {}).get(view) for view in ("street_view", "satellite")]
        rejects = ", ".join(f"{reason} {n}" for reason, n in own.get("rejects", {}).items())
        body.append(
            (
                *words(name, str(own.get("encoder", DASH)), str(weights)),
                *words(", ".join(seeds) or DASH),
                *words(", ".join(own.get("uses", ())) or DASH),
                number(own.get("dim"), form=".0f"),
                *(number(value, form=",.0f") for value in images),
                *words(rejects or "0", _differs(training)),
            )
        )
    header = ("system", "encoder", "weights", "training seeds", "has seen")
    return Table(
        name=slug(city.name, "systems"),
        title=f"Systems, {city.title}",
        header=(*header, "numbers a view", "street views", "satellite", "left out", "differs from"),
        rows=tuple(body),
    )


def _differs(training: Training | None) -> str:
    if training is None or not training.variant_of:
        return DASH
    return f"{training.variant_of}, but {training.differs}"


__all__ = [
    "coverage_table",
    "difference_table",
    "gain_table",
    "require_controls",
    "score_table",
    "spread_table",
    "statistics_table",
    "systems_table",
]
