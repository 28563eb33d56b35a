"""HTML report: summary of location vs. published models, and tables of all scores."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dataset_builders.files import atomic_path
from pipelines.common.pages import page_environment

from .splits import SEEDS
from .tasks import SEES, TASKS

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
VERDICTS = ("location_ahead", "location_first", "model_first", "model_ahead")  # see `report.py`
CELL = ["protocol", "task", "city"]
# strip plots: range of R2, width and margin in pixels
LEFT, RIGHT, WIDTH, MARGIN = -0.2, 1.0, 300, 12


def write_page(
    path: Path,
    *,
    summary: pd.DataFrame,
    theirs: pd.DataFrame,
    beaten: pd.DataFrame,
    verdicts: pd.DataFrame,
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
        glance=_glance(summary, theirs, verdicts),
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


def _glance(
    summary: pd.DataFrame, theirs: pd.DataFrame, verdicts: pd.DataFrame
) -> dict[str, Any] | None:
    """Summary of the first protocol with published scores, one line per task.

    None if the 20 nearest neighbours cannot be compared with a published score.
    """
    protocols = [one for one in PROTOCOL_TITLES if one in set(verdicts["protocol"])]
    if not protocols:
        return None
    own = verdicts[verdicts["protocol"] == protocols[0]]
    cities = sorted(set(own["city"]) - {MEAN})
    whole = MEAN if MEAN in set(own["city"]) else cities[0]
    lines = []
    for task in TASKS:
        by_city = {one["city"]: one for one in own[own["task"] == task].to_dict("records")}
        first = by_city.get(whole)
        if first is None:
            continue
        strip = _strip(first, *(_cell(table, first) for table in (summary, theirs)))
        places = [by_city.get(city) for city in cities] if whole == MEAN else []
        buffered = _cell(summary, {**first, "protocol": "block"}).to_dict("records")
        same = next((one for one in buffered if one["system"] == REFERENCE), None)
        lines.append({**first, "strip": strip, "places": places, "buffered": same})
    groups = {
        kind: [title_of(str(line["task"])) for line in lines if line["verdict"] == kind]
        for kind in VERDICTS
    }
    ticks = [(_x(value), _number(value, 1)) for value in np.linspace(LEFT, RIGHT, 7)]
    title = PROTOCOL_TITLES[protocols[0]]
    return {
        "title": title,
        "whole": whole,
        "cities": cities if whole == MEAN else [],
        "lines": lines,
        "groups": groups,
        "buffered": any(line["buffered"] for line in lines),
        "ticks": ticks,
        "width": WIDTH,
    }


def _cell(table: pd.DataFrame, place: dict[Any, Any]) -> pd.DataFrame:
    return table[np.logical_and.reduce([table[name] == place[name] for name in CELL])]


def _strip(best: dict[Any, Any], ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, Any]:
    """Positions in a strip plot: published models, our systems, interval of the control."""
    others = ours[~ours["system"].isin([REFERENCE, "mean"])]
    return {
        "models": [
            (
                _x(one["r2"]),
                f"{one['model']} (published) {_number(one['r2'])} ± {_number(one['r2_sd'])}",
                one["sees"] == SEES["PE"],
            )
            for one in theirs.to_dict("records")
        ],
        "low": _x(best["low"]),
        "cut": best["low"] < LEFT,
        "high": _x(best["high"]),
        "ours": _x(best["r2"]),
        "others": [
            (_x(one["r2"]), f"{one['system']} {_number(one['r2'])}")
            for one in others.to_dict("records")
        ],
    }


def _x(r2: float) -> float:
    share = (min(max(r2, LEFT), RIGHT) - LEFT) / (RIGHT - LEFT)
    return round(MARGIN + share * (WIDTH - 2 * MARGIN), 1)


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
