"""Scores with intervals, beside the published rows, as CSV files and one page."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dataset_builders.files import atomic_path
from pipelines.common.csv_files import write_csv
from pipelines.common.pages import page_environment
from pipelines.evaluation.analysis.bootstrap import interval

from .run import Scored
from .scores import Drawn, Row, draw, frame
from .tasks import TASKS

REFERENCE = "coordinates (knn)"
MEAN = "mean of cities"
TITLES = {
    "cityrep_block": "Blocks: the benchmark's protocol",
    "block": "Blocks with a buffer: this project's protocol",
    "cityrep_random": "Random cells: the benchmark's diagnostic",
}
CELL = ["protocol", "task", "city"]
SCORES = ["r2", "low", "high", "gain", "gain_low", "gain_high"]
COUNTS = ["n_train", "n_test", "missing", "rmse", "r2_sd"]


def write_report(scored: Scored, published: pd.DataFrame, output: Path, buffer_m: float) -> Path:
    """Write `scores.csv`, `summary.csv`, `beaten.csv`, `skipped.csv` and `page.html`.

    Returns:
        The page.
    """
    summary = summarise(scored.rows)
    theirs = published_means(summary, published)
    beaten = beaten_models(summary, theirs)
    skipped = pd.DataFrame([vars(one) for one in scored.skipped], columns=["task_id", "reason"])
    write_csv(output / "scores.csv", frame(scored.rows).round({"r2": 6, "rmse": 6, "mae": 6}))
    write_csv(output / "summary.csv", _beside(summary, theirs, beaten).round(4))
    write_csv(output / "beaten.csv", beaten.round(4))
    write_csv(output / "skipped.csv", skipped)
    template = page_environment(__package__).get_template("cityrep.html.j2")
    text = template.render(
        sections=list(_sections(summary, theirs)),
        beaten=_by_control(beaten),
        absent=summary[summary["missing"] > 0].to_dict("records"),
        skipped=skipped.to_dict("records"),
        cities=[city for city in summary["city"].unique() if city != MEAN],
        buffer_m=buffer_m,
    )
    path = output / "page.html"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def summarise(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per protocol, task, city and system: R2 with its interval.

    `r2`, `r2_sd` and `rmse` are over seeds; `low` and `high` bound R2 in 95 % of the draws of
    blocks; `gain` is R2 less that of the 20 nearest neighbours under the same draws. The lines of
    `mean of cities` average the draws of the cities, which are independent.
    """
    cells: dict[tuple[str, str], dict[str, dict[str, list[Row]]]] = {}
    for row in rows:
        system = row.system if row.system == row.probe else f"{row.system} ({row.probe})"
        systems = cells.setdefault((row.protocol, row.task), {}).setdefault(row.city, {})
        systems.setdefault(system, []).append(row)
    lines: list[dict[str, Any]] = []
    for protocol, task in sorted(cells, key=lambda cell: (list(TITLES).index(cell[0]), cell[1])):
        drawn = {city: draw(systems) for city, systems in cells[protocol, task].items()}
        for city, own in [*drawn.items(), (MEAN, _mean_of(drawn))]:
            for system, one in own.items():
                place = {"protocol": protocol, "task": task, "city": city, "system": system}
                lines.append(place | _scores(one, own.get(REFERENCE)))
    columns = dict.fromkeys([*CELL, "system", *SCORES, *COUNTS])
    columns |= dict.fromkeys(name for line in lines for name in line)
    return pd.DataFrame(lines, columns=list(columns))


def _scores(one: Drawn, reference: Drawn | None) -> dict[str, Any]:
    found = interval(one.values)
    scores: dict[str, Any] = {"r2": found.estimate, "low": found.low, "high": found.high}
    if reference is not None and reference is not one:
        gain = interval(one.values - reference.values)
        scores |= {"gain": gain.estimate, "gain_low": gain.low, "gain_high": gain.high}
    if one.rows:
        counts = {name: [getattr(row, name) for row in one.rows] for name in ("n_train", "n_test")}
        scores |= {name: round(float(np.mean(own))) for name, own in counts.items()}
        scores |= {"missing": one.rows[0].missing, "r2_sd": np.std([row.r2 for row in one.rows])}
        scores["rmse"] = np.mean([row.rmse for row in one.rows])
        scores |= {f"r2_{row.seed}": row.r2 for row in one.rows}
    return scores


def _mean_of(cities: dict[str, dict[str, Drawn]]) -> dict[str, Drawn]:
    """The systems that all cities have, averaged over the cities; none for a single city."""
    first, *others = cities.values()
    shared = [name for name in first if others and all(name in one for one in others)]
    values = {name: [drawn[name].values for drawn in cities.values()] for name in shared}
    return {name: Drawn(np.mean(own, axis=0), []) for name, own in values.items()}


def published_means(summary: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """The published rows of the cells that are scored, and their means over the same cities.

    `r2_sd` is over seeds; of a mean, it is over cities.
    """
    own = published.merge(summary[CELL].drop_duplicates(), on=CELL)
    groups = own.groupby(["protocol", "task", "model"], as_index=False)
    means = groups.agg(r2=("r2", "mean"), r2_sd=("r2", lambda values: values.std(ddof=0)))
    return pd.concat([own, means.assign(city=MEAN)], ignore_index=True)


def beaten_models(summary: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Where a control that sees coordinates alone scores above a published model.

    `clearly`: the published mean lies below the interval of the control. The published scores are
    means and spreads over seeds, so the two cannot be paired.
    """
    ours = summary[summary["system"].str.startswith("coordinates ")]
    names = {"r2": "model_r2", "r2_sd": "model_r2_sd"}
    pairs = ours.merge(theirs[[*CELL, "model", "r2", "r2_sd"]].rename(columns=names), on=CELL)
    pairs = pairs[pairs["r2"] > pairs["model_r2"]]
    pairs["clearly"] = pairs["low"] > pairs["model_r2"]
    columns = [*CELL, "system", "r2", "low", "high", "model", *names.values(), "clearly"]
    return pairs[columns]


def _beside(summary: pd.DataFrame, theirs: pd.DataFrame, beaten: pd.DataFrame) -> pd.DataFrame:
    """The summary with the best published model of a cell, and how many a control beats."""
    best = theirs.sort_values("r2").groupby(CELL, as_index=False).last()
    names = {"model": "published_best", "r2": "published_r2", "r2_sd": "published_r2_sd"}
    line = [*CELL, "system"]
    counts = beaten.groupby(line, as_index=False).agg(
        beaten=("model", "size"), clearly_beaten=("clearly", "sum")
    )
    wide = summary.merge(best[[*CELL, *names]].rename(columns=names), on=CELL, how="left")
    return wide.merge(counts, on=line, how="left")


def _sections(summary: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """For each protocol, a table per task: systems by cities, the best mean first."""
    bounds = zip(summary["low"], summary["high"], strict=True)
    ours = summary.assign(ours=True, spread=[f"{low:.2f} to {high:.2f}" for low, high in bounds])
    spreads = [f"± {spread:.3f}" for spread in theirs["r2_sd"]]
    other = theirs.rename(columns={"model": "system"}).assign(ours=False, spread=spreads)
    lines = pd.concat([ours, other], ignore_index=True)
    for protocol, title in TITLES.items():
        tables = []
        for task in TASKS:
            part = lines[(lines["protocol"] == protocol) & (lines["task"] == task)]
            if not len(part):
                continue
            cities = sorted(part["city"].unique(), key=lambda city: (city != MEAN, city))
            systems = []
            for (system, own), cells in part.groupby(["system", "ours"]):
                by_city = {cell["city"]: cell for cell in cells.to_dict("records")}
                systems.append((system, own, [by_city.get(city) for city in cities]))
            systems.sort(key=lambda one: -one[2][0]["r2"] if one[2][0] else np.inf)
            tables.append({"task": task, "cities": cities, "systems": systems})
        if tables:
            yield {"title": title, "tables": tables}


def _by_control(beaten: pd.DataFrame) -> list[list[dict[Any, Any]]]:
    """For each control, the models below it: of the means over cities where there are any."""
    shown = beaten[beaten["city"] == MEAN]
    groups = (shown if len(shown) else beaten).groupby([*CELL, "system"], sort=False)
    return [own.sort_values("model_r2", ascending=False).to_dict("records") for _, own in groups]


__all__ = ["MEAN", "REFERENCE", "beaten_models", "published_means", "summarise", "write_report"]
