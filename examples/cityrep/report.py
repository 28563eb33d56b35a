"""Scores with intervals and comparison with the published scores, as CSV files and HTML page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.common.csv_files import write_csv
from pipelines.evaluation.analysis.bootstrap import interval

from .page import CELL, MEAN, PROTOCOL_TITLES, REFERENCE, write_page
from .run import Scored
from .scores import Drawn, Row, draw, frame
from .tasks import SEES

SCORES = ["r2", "low", "high", "gain", "gain_low", "gain_high"]
WHOLE = ["n_train", "n_test", "missing"]
COUNTS = [*WHOLE, "rmse", "r2_sd"]


def write_report(scored: Scored, published: pd.DataFrame, output: Path, buffer_m: float) -> Path:
    """Write `scores.csv`, `summary.csv`, `beaten.csv`, `skipped.csv` and `page.html`.

    Returns:
        Path of the page.
    """
    summary = summarise(scored.rows)
    theirs = published_means(summary, published)
    beaten = beaten_models(summary, theirs)
    skipped = pd.DataFrame([vars(one) for one in scored.skipped], columns=["task_id", "reason"])
    write_csv(output / "scores.csv", frame(scored.rows).round({"r2": 6, "rmse": 6, "mae": 6}))
    write_csv(output / "summary.csv", _beside(summary, theirs, beaten).round(4))
    write_csv(output / "beaten.csv", beaten.round(4))
    write_csv(output / "skipped.csv", skipped)
    tables = {"summary": summary, "theirs": theirs, "beaten": beaten, "skipped": skipped}
    return write_page(
        output / "page.html", **tables, verdicts=verdicts(summary, theirs), buffer_m=buffer_m
    )


def summarise(rows: Sequence[Row]) -> pd.DataFrame:
    """R2 with its interval per protocol, task, city and system.

    `r2` and `rmse` are means over seeds, `r2_sd` the SD; `low` and `high` are the 95 % interval of
    a bootstrap over blocks; `gain` is the paired difference to the 20 nearest neighbours. Rows of
    `mean of cities` average the independent replicates of the cities.
    """
    cells: dict[tuple[str, str], dict[str, dict[str, list[Row]]]] = {}
    for row in rows:
        system = row.system if row.system == row.probe else f"{row.system} ({row.probe})"
        systems = cells.setdefault((row.protocol, row.task), {}).setdefault(row.city, {})
        systems.setdefault(system, []).append(row)
    lines: list[dict[str, Any]] = []
    for protocol, task in sorted(
        cells, key=lambda cell: (list(PROTOCOL_TITLES).index(cell[0]), cell[1])
    ):
        drawn = {city: draw(systems) for city, systems in cells[protocol, task].items()}
        for city, own in [*drawn.items(), (MEAN, _mean_of(drawn))]:
            for system, one in own.items():
                place = {"protocol": protocol, "task": task, "city": city, "system": system}
                lines.append(place | _scores(one, own.get(REFERENCE)))
    columns = dict.fromkeys([*CELL, "system", *SCORES, *COUNTS])
    columns |= dict.fromkeys(name for line in lines for name in line)
    return pd.DataFrame(lines, columns=list(columns)).astype(dict.fromkeys(WHOLE, "Int64"))


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
    """Average the systems that all cities have; empty for a single city."""
    first, *others = cities.values()
    shared = [name for name in first if others and all(name in one for one in others)]
    values = {name: [drawn[name].values for drawn in cities.values()] for name in shared}
    return {name: Drawn(np.mean(own, axis=0), []) for name, own in values.items()}


def published_means(summary: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Published scores for the tasks and cities of the summary, and their means over these cities.

    `r2_sd` is the SD over seeds, or over cities for a mean; `sees` lists the inputs of a model.
    Models that lack one of the cities have no mean.
    """
    cells = summary.loc[summary["city"] != MEAN, CELL].drop_duplicates()
    own = published.merge(cells, on=CELL)
    groups = own.groupby(["protocol", "task", "model"], as_index=False)
    means = groups.agg(
        r2=("r2", "mean"), r2_sd=("r2", lambda values: values.std(ddof=0)), cities=("city", "size")
    )
    cities = cells.groupby(["protocol", "task"], as_index=False).agg(all_cities=("city", "size"))
    means = means.merge(cities, on=["protocol", "task"])
    means = means[(means["cities"] == means["all_cities"]) & (means["all_cities"] > 1)]
    both = pd.concat(
        [own, means[["protocol", "task", "model", "r2", "r2_sd"]].assign(city=MEAN)],
        ignore_index=True,
    )
    return both.assign(sees=both["model"].map(SEES).fillna("not known"))


def verdicts(summary: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Compare the 20 nearest neighbours with the best published model that uses images or maps.

    `verdict` is `location_ahead` if the model's mean is below the interval of the neighbours,
    `location_first` if it is only below their score, `model_first` if it is above the score, and
    `model_ahead` if it is above the interval. `rank` is the rank of the neighbours among `of`
    systems: these models and the neighbours. The control was fixed before scores were seen.
    """
    ours = summary.loc[summary["system"] == REFERENCE, [*CELL, "r2", "low", "high"]]
    models = theirs[theirs["sees"] != SEES["PE"]]
    best = models.sort_values("r2").groupby(CELL, as_index=False).last()
    names = {"r2": "model_r2", "r2_sd": "model_r2_sd"}
    found = ours.merge(best[[*CELL, "model", "sees", *names]].rename(columns=names), on=CELL)
    scores = {cell: own["r2"] for cell, own in models.groupby(CELL)}
    cells = list(found[CELL].itertuples(index=False, name=None))
    above = [int((scores[cell] > r2).sum()) for cell, r2 in zip(cells, found["r2"], strict=True)]
    theirs_r2 = found["model_r2"]
    kinds = {
        "location_ahead": theirs_r2 < found["low"],
        "location_first": theirs_r2 < found["r2"],
        "model_ahead": theirs_r2 > found["high"],
    }
    return found.assign(
        verdict=np.select(list(kinds.values()), list(kinds), "model_first"),
        rank=[1 + number for number in above],
        of=[1 + len(scores[cell]) for cell in cells],
    )


def beaten_models(summary: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Published models that score below a control that uses only coordinates.

    `clearly` marks published means below the interval of the control. Published scores are means
    and SDs over seeds, so a paired comparison is impossible.
    """
    ours = summary[summary["system"].str.startswith("coordinates ")]
    names = {"r2": "model_r2", "r2_sd": "model_r2_sd"}
    pairs = ours.merge(theirs[[*CELL, "model", "r2", "r2_sd"]].rename(columns=names), on=CELL)
    pairs = pairs[pairs["r2"] > pairs["model_r2"]]
    pairs["clearly"] = pairs["low"] > pairs["model_r2"]
    columns = [*CELL, "system", "r2", "low", "high", "model", *names.values(), "clearly"]
    return pairs[columns]


def _beside(summary: pd.DataFrame, theirs: pd.DataFrame, beaten: pd.DataFrame) -> pd.DataFrame:
    """Add the best published model and the number of models below each control to the summary."""
    best = theirs.sort_values("r2").groupby(CELL, as_index=False).last()
    names = {"model": "published_best", "r2": "published_r2", "r2_sd": "published_r2_sd"}
    line = [*CELL, "system"]
    counts = beaten.groupby(line, as_index=False).agg(
        beaten=("model", "size"), clearly_beaten=("clearly", "sum")
    )
    wide = summary.merge(best[[*CELL, *names]].rename(columns=names), on=CELL, how="left")
    return wide.merge(counts, on=line, how="left")


__all__ = ["beaten_models", "published_means", "summarise", "verdicts", "write_report"]
