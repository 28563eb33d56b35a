"""Whether the numbers of a results table can all be true at once.

R2 is 1 - RMSE^2 / SD^2, so RMSE / sqrt(1 - R2) is the standard deviation of the test labels: one
number for all systems that were scored on one test set. A row that gives another was scored on
other regions, on another scale, or holds a wrong digit. Printed digits are rounded: a value stands
for the interval of all numbers that round to it, and a row is only said not to fit if no number of
its interval does.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from .paper import Publication, PublishedTable
from .results import ResultRow

EXACT = 1e-6  # relative; of numbers that were not rounded for print
LOWER_IS_BETTER = ("rmse", "mae")


@dataclass(frozen=True)
class Span:
    """The numbers that a printed one may stand for."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """Of the two ends."""
        return (self.low + self.high) / 2

    def meets(self, other: "Span") -> bool:
        """Whether the two have a number in common."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Claim:
    """R2 and RMSE of one system on one task.

    Attributes:
        system: whose row it is.
        r2: as printed.
        rmse: as printed, on the scale that R2 is of.
        tolerance: half a unit of the last printed digit; 0 for numbers as computed.
    """

    system: str
    r2: float
    rmse: float
    tolerance: float = 0.0

    @property
    def label_sd(self) -> float:
        """The standard deviation of the test labels that the two numbers imply."""
        return self.rmse / math.sqrt(1 - self.r2)

    @property
    def span(self) -> Span:
        """Of the implied standard deviations that the rounding leaves open."""
        t = self.tolerance
        low = max(self.rmse - t, 0.0) / math.sqrt(1 - self.r2 + t)
        high = (self.rmse + t) / math.sqrt(max(1 - self.r2 - t, 1e-12))
        return Span(low * (1 - EXACT), high * (1 + EXACT))


@dataclass(frozen=True)
class SpreadFinding:
    """What one task's rows imply of its test labels.

    Attributes:
        task: city and indicator, and what else tells test sets apart.
        claims: the rows.
        label_sd: the standard deviation that most rows have in common.
        misfits: the systems whose rows cannot have it.
        outside: whether the mean of the systems named as one group lies outside the range that all
            others span: they seem to have a test set of their own.
        outside_beyond_rounding: the same of each of them, whatever the digits not printed are.
    """

    task: str
    claims: tuple[Claim, ...]
    label_sd: float
    misfits: tuple[str, ...]
    outside: bool = False
    outside_beyond_rounding: bool = False

    @property
    def consistent(self) -> bool:
        """Whether one test set can have given all rows."""
        return not self.misfits


@dataclass(frozen=True)
class ImprovementFinding:
    """A printed improvement that its own table does not give.

    Attributes:
        table: number of the table.
        city: of the table.
        system: whose improvement.
        indicator: of the cell.
        metric: of the cell.
        printed: percent.
        recomputed: percent, over `best`.
        best: the best score of the systems it is compared with.
    """

    table: int
    city: str
    system: str
    indicator: str
    metric: str
    printed: float
    recomputed: float
    best: float


@dataclass(frozen=True)
class RepeatFinding:
    """One score that is printed twice with two values."""

    city: str
    system: str
    indicator: str
    metric: str
    tables: tuple[int, int]
    values: tuple[float, float]


@dataclass(frozen=True)
class AverageFinding:
    """A mean improvement in the text that the table does not give."""

    table: int
    city: str
    system: str
    metric: str
    printed: float
    recomputed: float


@dataclass(frozen=True)
class PublicationCheck:
    """All that was checked of a publication.

    Attributes:
        source: of the tables.
        spreads: one a task, consistent or not.
        improvements: those that do not recompute.
        improvements_checked: how many there are.
        repeats: scores printed with two values.
        averages: means in the text that do not recompute.
    """

    source: str
    spreads: tuple[SpreadFinding, ...]
    improvements: tuple[ImprovementFinding, ...]
    improvements_checked: int
    repeats: tuple[RepeatFinding, ...]
    averages: tuple[AverageFinding, ...]


def check_task(task: str, claims: Sequence[Claim], group: Iterable[str] = ()) -> SpreadFinding:
    """Whether the rows of a task can share a test set.

    Args:
        task: named in the finding.
        claims: one a system, two at least for anything to be found.
        group: systems to be told from all others.

    Returns:
        The finding; its `label_sd` is a number that as many rows as possible allow, the middle of
        the narrowest interval they share.
    """
    spans = [claim.span for claim in claims]
    # the number that most spans hold begins where one of them begins
    best = max(spans, key=lambda start: (_holding(spans, start.low), start.low))
    shared = [span for span in spans if span.low <= best.low <= span.high]
    common = Span(best.low, min(span.high for span in shared))
    misfits = [c.system for c, span in zip(claims, spans, strict=True) if not span.meets(common)]
    outside, surely = _outside(claims, set(group))
    return SpreadFinding(task, tuple(claims), common.middle, tuple(misfits), outside, surely)


def _outside(claims: Sequence[Claim], group: set[str]) -> tuple[bool, bool]:
    own = [claim for claim in claims if claim.system in group]
    rest = [claim for claim in claims if claim.system not in group]
    if not own or not rest:
        return False, False
    mean = sum(claim.label_sd for claim in own) / len(own)
    others = [claim.label_sd for claim in rest]
    surely = min(c.span.low for c in own) > max(c.span.high for c in rest) or max(
        c.span.high for c in own
    ) < min(c.span.low for c in rest)
    return not min(others) <= mean <= max(others), surely


def _holding(spans: Sequence[Span], value: float) -> int:
    return sum(span.low <= value <= span.high for span in spans)


def check_rows(rows: Iterable[ResultRow]) -> list[SpreadFinding]:
    """The same for rows of results.jsonl: those of one table, city, indicator, protocol and split.

    Rows without a score are left out.
    """
    tasks: dict[tuple[str, ...], list[Claim]] = {}
    for row in rows:
        where = row.city if not row.source_city else f"{row.source_city} to {row.city}"
        task = (row.table_hash, where, row.indicator, row.protocol, f"split {row.split_seed}")
        name = f"{row.system}, {row.view}, {row.probe}, probe seed {row.probe_seed}"
        claims = tasks.setdefault(task, [])
        if math.isfinite(row.r2) and math.isfinite(row.rmse) and row.r2 < 1:
            # what the row itself says of its test labels must fit as well
            claims.append(Claim(name, row.r2, row.rmse))
            claims.append(Claim(f"{name} (its label_sd_test)", 0.0, row.label_sd_test))
    return [check_task(", ".join(task[1:]), claims) for task, claims in tasks.items() if claims]


def check_publication(publication: Publication) -> PublicationCheck:
    """All checks of printed tables: label SD, improvements, repeated scores, means in the text."""
    tolerance = 0.5 * 10.0**-publication.decimals
    spreads: list[SpreadFinding] = []
    for table in publication.tables:
        if {"r2", "rmse"} <= set(table.metrics):
            spreads += _spreads(table, publication.ours, tolerance)
    improvements, checked = _improvements(publication, tolerance)
    return PublicationCheck(
        publication.source,
        tuple(spreads),
        tuple(improvements),
        checked,
        tuple(_repeats(publication)),
        tuple(_averages(publication)),
    )


def _spreads(
    table: PublishedTable, group: Sequence[str], tolerance: float
) -> Iterable[SpreadFinding]:
    for indicator in table.indicators:
        claims = [
            Claim(system, cell["r2"], cell["rmse"], tolerance)
            for system, row in table.scores.items()
            if (cell := row.get(indicator)) is not None
        ]
        yield check_task(f"{table.city}, {indicator}", claims, group)


def _improvements(
    publication: Publication, tolerance: float
) -> tuple[list[ImprovementFinding], int]:
    half = 0.5 * 10.0**-publication.improvement_decimals
    found, checked = [], 0
    for table in publication.tables:
        for system, indicator, metric, printed in _cells(table.improvements):
            own = table.scores[system][indicator]
            others = _others(table, indicator, metric, publication.ours)
            if own is None or not others:
                continue
            checked += 1
            best = min(others) if metric in LOWER_IS_BETTER else max(others)
            span = _improvement_span(own[metric], best, metric, tolerance)
            if not span.meets(Span(printed - half - 1e-9, printed + half + 1e-9)):
                found.append(
                    ImprovementFinding(
                        table.number, table.city, system, indicator, metric, printed,
                        improvement(own[metric], best, metric), best,
                    )
                )  # fmt: skip
    return found, checked


def _others(table: PublishedTable, indicator: str, metric: str, ours: Sequence[str]) -> list[float]:
    cells = [row.get(indicator) for name, row in table.scores.items() if name not in ours]
    return [cell[metric] for cell in cells if cell is not None]


def improvement(value: float, best: float, metric: str) -> float:
    """Percent by which a score is better than `best`."""
    gain = best - value if metric in LOWER_IS_BETTER else value - best
    return 100 * gain / abs(best)


def _improvement_span(value: float, best: float, metric: str, tolerance: float) -> Span:
    ends = [
        improvement(value + a, best + b, metric)
        for a in (-tolerance, tolerance)
        for b in (-tolerance, tolerance)
    ]
    return Span(min(ends), max(ends))


def _repeats(publication: Publication) -> Iterable[RepeatFinding]:
    printed: dict[tuple[str, str, str, str], list[tuple[int, float]]] = {}
    for table in publication.tables:
        for system, indicator, metric, value in _cells(table.scores):
            key = (table.city, system, indicator, metric)
            printed.setdefault(key, []).append((table.number, value))
    for key, value in _chosen_mu(publication):
        printed.setdefault(key, []).append((4, value))
    for (city, system, indicator, metric), values in printed.items():
        for (first, a), (second, b) in combinations(values, 2):
            if a != b:
                yield RepeatFinding(city, system, indicator, metric, (first, second), (a, b))


def _chosen_mu(
    publication: Publication, mu: float = 0.5
) -> Iterable[tuple[tuple[str, str, str, str], float]]:
    """The sweep's scores at the weight that all other tables were made with."""
    if mu not in publication.mu_values:
        return
    for system, view in publication.views.items():
        for city, values in publication.mu_sweep.get(view, {}).items():
            value = values[publication.mu_values.index(mu)]
            yield (city, system, "population", "r2"), value


def _averages(publication: Publication) -> Iterable[AverageFinding]:
    for claim in publication.averages:
        table = next(t for t in publication.tables if t.number == claim["table"])
        row = table.improvements[claim["system"]]
        values = [cell[claim["metric"]] for cell in row.values() if cell is not None]
        mean = sum(values) / len(values)
        # each of them is rounded by as much as their mean can be off
        half = 0.5 * 10.0**-publication.improvement_decimals
        if abs(mean - claim["percent"]) > half + 0.005:
            yield AverageFinding(
                table.number, table.city, claim["system"], claim["metric"], claim["percent"], mean
            )


def _cells(
    rows: Mapping[str, Mapping[str, Mapping[str, float] | None]],
) -> Iterable[tuple[str, str, str, float]]:
    for system, row in rows.items():
        for indicator, cell in row.items():
            for metric, value in (cell or {}).items():
                yield system, indicator, metric, value


__all__ = [
    "AverageFinding",
    "Claim",
    "ImprovementFinding",
    "PublicationCheck",
    "RepeatFinding",
    "SpreadFinding",
    "check_publication",
    "check_rows",
    "check_task",
    "improvement",
]
