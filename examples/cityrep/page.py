"""HTML report: tables of all scores, and the published models below coordinates."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dataset_builders.files import atomic_path
from pipelines.common.pages import page_environment

from .splits import SEEDS
from .tasks import TASKS

REFERENCE = "coordinates (knn)"
MEAN = "mean of cities"
PROTOCOL_TITLES = {
    "cityrep_block": "Block split (benchmark)",
    "block": "Block split with a buffer (this project)",
    "cityrep_random": "Random split (benchmark, diagnostic)",
}
TASK_TITLES = {
    "population": "Population",
    "gdp": "GDP",
    "nightlight": "Night lights",
    "pm25": "PM2.5",
    "lst_day_mean": "Land surface temperature",
    "road_density": "Road density",
}
CELL = ["protocol", "task", "city"]


def write_page(
    path: Path,
    *,
    summary: pd.DataFrame,
    theirs: pd.DataFrame,
    beaten: pd.DataFrame,
    skipped: pd.DataFrame,
    buffer_m: float,
) -> Path:
    """Render the tables of `report.py` as an HTML page and return its path."""
    seeds = [
        name[3:] for name in map(str, summary) if name.startswith("r2_") and name[3:].isdigit()
    ]
    environment = page_environment(__package__)
    environment.filters |= {"number": _number, "title_of": title_of}
    text = environment.get_template("cityrep.html.j2").render(
        sections=list(_sections(summary, theirs)),
        beaten=_by_control(beaten),
        absent=summary[summary["missing"] > 0].to_dict("records"),
        skipped=skipped.to_dict("records"),
        cities=[city for city in summary["city"].unique() if city != MEAN],
        protocols=set(summary["protocol"]),
        protocol_titles=PROTOCOL_TITLES,
        reference=REFERENCE,
        sees=theirs.drop_duplicates("model").set_index("model")["sees"].to_dict(),
        mean=MEAN,
        buffer_m=buffer_m,
        seeds=seeds if set(seeds) != set(map(str, SEEDS)) else [],
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def title_of(name: str) -> str:
    """Display name of a task or city."""
    return TASK_TITLES.get(name) or (name if name == MEAN else name.replace("_", " ").title())


def _number(value: float, digits: int = 2) -> str:
    text = f"{value:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text.lstrip("-")


def _sections(summary: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Tables of systems by cities for each protocol and task, sorted by mean score."""
    bounds = zip(summary["low"], summary["high"], strict=True)
    spreads = [f"{_number(low)} to {_number(high)}" for low, high in bounds]
    ours = summary.assign(ours=True, spread=spreads)
    other = theirs.rename(columns={"model": "system"}).assign(
        ours=False, spread=[f"± {_number(spread)}" for spread in theirs["r2_sd"]]
    )
    lines = pd.concat([ours, other], ignore_index=True)
    for protocol, title in PROTOCOL_TITLES.items():
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
            yield {"protocol": protocol, "title": title, "tables": tables}


def _by_control(beaten: pd.DataFrame) -> dict[str, list[list[dict[Any, Any]]]]:
    """Models below each control, by protocol; means over cities if there are several."""
    means = beaten[beaten["city"] == MEAN]
    shown = means if len(means) else beaten
    shown = shown.sort_values("task", key=lambda names: names.map(TASKS.index), kind="stable")
    groups: dict[str, list[list[dict[Any, Any]]]] = {
        one: [] for one in PROTOCOL_TITLES if one in set(shown["protocol"])
    }
    for _, own in shown.groupby([*CELL, "system"], sort=False):
        models = own.sort_values("model_r2", ascending=False).to_dict("records")
        groups[models[0]["protocol"]].append(models)
    return groups


__all__ = ["CELL", "MEAN", "PROTOCOL_TITLES", "REFERENCE", "title_of", "write_page"]
