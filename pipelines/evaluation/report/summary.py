"""First part of a city's section: sentences, added value, comparison with location, verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import pandas as pd

from pipelines.common.csv_files import write_csv

from ..analysis.added import added_table
from ..analysis.bootstrap import MEAN, DrawnCell, Interval, Name
from ..analysis.verdicts import (
    FEWEST_DISTRICTS,
    FEWEST_REGIONS,
    Errors,
    Overall,
    Score,
    Verdict,
    is_control,
    mean_difference,
    overall,
    score,
    verdicts,
)
from ..probe.predictions import REGIONS_FILE
from ..probe.systems import COORDINATES
from .figures import BLUE, CUT, FIGURES_FOLDER, GREY, draw_intervals
from .frame import METHOD, PROBE_NAMES, TRAINED, VIEW_NAMES, CityResults, key_of, slug, what
from .rendering import DASH, Block, Column, Figure, Table, intervals, numbers, words
from .tables import name_columns

ADDED_FILE = "added.csv"
QUESTIONS = {"block": "new districts", "random": "between labelled regions"}


def summary_blocks(
    city: CityResults,
    cells: Sequence[DrawnCell],
    errors: Mapping[str, Errors],
    best: Sequence[Name],
) -> list[Block]:
    """Summary sentences, added value, comparison with the controls, and verdicts.

    Args:
        city: Results of the city.
        cells: Bootstrap scores of the controls and of each system in its best view.
        errors: Protocol to validation errors of the image systems.
        best: Image systems in their best view, by increasing validation error.
    """
    names = dict.fromkeys(name for cell in cells for name in cell.systems)
    found = overall(cells, [name for name in names if is_control(name) or name in best])
    labels = pd.read_parquet(city.folder / REGIONS_FILE)
    labelled = {name: int(labels[name].count()) for name in city.indicators}
    answers = sorted(
        verdicts(cells, errors, labelled),
        key=lambda one: (one.protocol != "block", city.indicators.index(one.indicator)),
    )
    blocks: list[Block] = [*_sentences(city, cells, best, found), *added_tables(city)]
    if found:
        blocks += [overall_table(city, found), _overall_figure(city, found)]
    if answers:
        blocks.append(verdict_table(city, answers))
    return blocks


def _sentences(
    city: CityResults, cells: Sequence[DrawnCell], best: Sequence[Name], found: Sequence[Overall]
) -> list[str]:
    """Comparison of the trained system with location and the best control, per protocol."""
    ranks = {name: city.rank(key_of(name)[0]) for name in best}
    candidates = [name for name in best if ranks[name] == METHOD]
    candidates += [name for name in best if ranks[name] == TRAINED]
    if not candidates:
        return ["**No trained system is among the results: all rows are controls.**"]
    texts = []
    for protocol, question in QUESTIONS.items():
        own = {one.name: one for one in found if one.protocol == protocol}
        system = own.get(candidates[0])
        controls = [
            one for name, one in own.items()
            if name not in candidates and city.rank(*key_of(name)[:2]) < TRAINED
        ]  # fmt: skip
        if system is None or not controls:
            continue
        control = max(controls, key=lambda one: one.r2.estimate).name
        mean = score(system.r2)
        text = (
            f"**{question.capitalize()}**: {what(city, key_of(system.name))}, "
            f"{'has no estimable' if mean.r2 is None else 'reaches a'} mean R²"
            f"{'' if mean.r2 is None else f' of {mean.text}'} over {system.indicators} indicators"
        )
        if system.gain:
            text += f", {_compared(system.gain, 'location alone')}"
        if gap := mean_difference(cells, protocol, system.name, control):
            text += f", and {_compared(gap, f'the best control, {what(city, key_of(control))}')}"
        texts.append(text + ".")
    return texts


def _compared(gap: Interval, other: str) -> str:
    said = "not significantly different from"
    if gap.excludes_zero:
        said = "better than" if gap.estimate > 0 else "worse than"
    return f"{said} {other} ({gap.estimate:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}])"


def _overall_figure(city: CityResults, found: Sequence[Overall]) -> Figure:
    ordered = sorted(found, key=lambda one: city.order(key_of(one.name)))
    panels = {
        question: pd.DataFrame(
            {
                "name": what(city, key_of(one.name)).replace(", –", ""),
                **asdict(one.r2),
                "colour": BLUE if city.rank(*key_of(one.name)[:2]) >= TRAINED else GREY,
                "seeds": [],
            }
            for one in ordered
            if one.protocol == protocol
        )
        for protocol, question in QUESTIONS.items()
        if any(one.protocol == protocol for one in ordered)
    }
    path = f"{FIGURES_FOLDER}/{slug(city.name, 'overall')}.png"
    title = f"Systems and controls, {city.title}"
    draw_intervals(city.output / path, title, panels, "R², mean over indicators", cut=CUT)
    caption = (
        f"{title}. Lines: 95 % confidence intervals (bootstrap over districts), cut at {CUT:g}. "
        "Grey: controls."
    )
    return Figure(path, title, caption)


# ---- tables -------------------------------------------------------------------------------------


def added_tables(city: CityResults) -> list[Table]:
    """Tables of the added R2, one per protocol; also writes all numbers to `added.csv`."""
    found = added_table(city.folder)
    write_csv(city.folder / ADDED_FILE, found)
    parts = {one: found[found["protocol"] == one] for one in QUESTIONS}
    return [
        _added_table(city, one, part) for one, part in parts.items() if (part["beside"] != "").any()
    ]


def _added_table(city: CityResults, protocol: str, found: pd.DataFrame) -> Table:
    row = ["system", "view"]
    keys = pd.MultiIndex.from_frame(found[row].drop_duplicates())  # sorted by R2 alone
    columns = [
        words("system", (city.system_title(system) for system, _ in keys)),
        words("view", (VIEW_NAMES[view] for _, view in keys)),
    ]
    others = sorted({*found["beside"]} - {""}, key=lambda name: (name != COORDINATES, name))
    for indicator in [MEAN, *city.ordered(found["indicator"])]:
        own = found[found["indicator"] == indicator].set_index([*row, "beside"])
        alone = own.xs("", level="beside")["r2"].reindex(keys)
        columns.append(numbers("alone", alone, group=indicator))
        for beside in [one for one in others if one in own.index.unique("beside")]:
            part = own.xs(beside, level="beside").reindex(keys)
            name = f"added to {'location' if beside == COORDINATES else beside}"
            added = intervals(name, part["added"], part["low"], part["high"])
            columns.append(replace(added, group=indicator))
    blocks = found.loc[found["beside"] != "", "blocks"]
    counts = " to ".join(str(count) for count in sorted({blocks.min(), blocks.max()}))
    return Table(
        slug(city.name, protocol, "added"),
        f"Added value of embeddings: R² alone, added to location and added to other tables, "
        f"{city.title}, {QUESTIONS[protocol]}",
        columns,
        notes=[
            "Ridge probe. Added: R² of both inputs together minus R² of the other input alone, on "
            "the same splits, with a 95 % confidence interval from a paired bootstrap over "
            f"{counts} blocks of regions; bold where significant. The "
            "probe penalises all columns equally, so uninformative embeddings can lower R² "
            "slightly. Mean: over the indicators that both are scored on.",
        ],
    )


def overall_table(city: CityResults, found: Sequence[Overall]) -> Table:
    """Table of all systems in their best view, with gains over location alone."""
    cells = {(key_of(one.name), one.protocol): one for one in found}
    keys = sorted({key for key, _ in cells}, key=city.order)
    columns = name_columns(city, keys)
    for protocol, question in QUESTIONS.items():
        if any(one.protocol == protocol for one in found):
            own = [cells.get((key, protocol)) for key in keys]
            r2 = _scores("R²", [score(one.r2) if one else None for one in own])
            ends = [
                (one.gain.estimate, one.gain.low, one.gain.high)
                if one and one.gain
                else (np.nan,) * 3
                for one in own
            ]
            gain = intervals("gain over location alone", *zip(*ends, strict=True))
            columns += [replace(one, group=question) for one in (r2, gain)]
    fewer = [one for one in found if one.indicators < max(other.indicators for other in found)]
    notes = [
        "Mean R² over indicators with a 95 % confidence interval from a bootstrap over districts; "
        "bold where the gain is significant (its interval excludes 0). View and probe of each "
        "system are chosen by validation error. Location alone: the best coordinate control on the "
        "test regions, a choice in favour of location."
    ]
    if fewer:
        names = dict.fromkeys(city.system_title(one.name[0]) for one in fewer)
        notes.append(
            f"Scored on fewer indicators than the others: {', '.join(names)}; gains are over the "
            "shared indicators."
        )
    title = f"Systems and controls, {city.title}"
    return Table(slug(city.name, "overall"), title, columns, notes=notes)


def verdict_table(city: CityResults, found: Sequence[Verdict]) -> Table:
    """Table of verdicts on images and location alone, per protocol and indicator."""
    answers = [one.answer for one in found]
    bold = [answer == "yes" for answer in answers]
    return Table(
        slug(city.name, "verdicts"),
        f"Do images predict better than location alone? {city.title}",
        [
            words("predicting", (QUESTIONS[one.protocol] for one in found)),
            words("indicator", (one.indicator for one in found)),
            replace(words("images better?", answers), bold=bold),
            _scores("images, R²", [one.images for one in found]),
            _scores("location alone, R²", [one.location for one in found]),
            words("best image system", (what(city, key_of(one.system)) for one in found)),
            words("location probe", (PROBE_NAMES[one.location_probe] for one in found)),
            numbers("regions", (one.regions for one in found), form=",.0f"),
            numbers("districts", (one.districts for one in found), form=".0f"),
        ],
        notes=[
            "yes, no: the difference is significant (the 95 % confidence interval from a paired "
            "bootstrap over districts excludes 0). too few regions: fewer than "
            f"{FEWEST_REGIONS} labelled regions or {FEWEST_DISTRICTS} districts.",
            "Best image system: lowest validation error of all systems, views and probes, "
            "untrained controls included. Location alone: the best coordinate control on the test "
            "regions, a choice in favour of location. [Brackets]: 95 % confidence interval.",
        ],
    )


def _scores(name: str, scores: Sequence[Score | None]) -> Column:
    texts = [one.text if one else DASH for one in scores]
    return Column(name, texts, [one.r2 if one else None for one in scores])


__all__ = ["ADDED_FILE", "added_tables", "overall_table", "summary_blocks", "verdict_table"]
