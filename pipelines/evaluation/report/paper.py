"""The paper's own tables, as data, to be read beside ours.

The numbers are those of `paper_tables.json`, which notes where a digit is in doubt. They come from
other test regions than any result made here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InputError

PAPER_FILE = Path(__file__).with_name("paper_tables.json")


@dataclass(frozen=True)
class PublishedTable:
    """One printed table of scores.

    Attributes:
        number: in print.
        city: whose regions.
        metrics: in the order of print, of `r2`, `rmse`, `mae`.
        scores: system -> indicator -> metric -> value; None where a dash is printed.
    """

    number: int
    city: str
    metrics: tuple[str, ...]
    scores: Mapping[str, Mapping[str, Mapping[str, float] | None]]

    @property
    def indicators(self) -> list[str]:
        """In the order of print."""
        return list(next(iter(self.scores.values())))


@dataclass(frozen=True)
class Publication:
    """The tables of one paper.

    Attributes:
        source: who printed them.
        ours: systems that the paper proposes; all others are what it compares them with.
        views: view of each system that has one alone.
        decimals: printed, of scores.
        tables: of scores.
        mu_sweep: view -> city -> scores at `mu_values`; empty where there is none.
        mu_values: the weights of distillation that were tried.
        statistics: city -> column -> count; None where a dash is printed.
    """

    source: str
    ours: tuple[str, ...]
    views: Mapping[str, str]
    decimals: int
    tables: tuple[PublishedTable, ...]
    mu_sweep: Mapping[str, Mapping[str, tuple[float, ...]]]
    mu_values: tuple[float, ...]
    statistics: Mapping[str, Mapping[str, int | None]]

    def table_of(self, city: str) -> PublishedTable | None:
        """The fullest table of a city."""
        found = [table for table in self.tables if table.city == city]
        return max(found, key=lambda table: len(table.metrics), default=None)


@lru_cache
def paper_tables() -> Publication:
    """The tables of the UrbanLN paper."""
    return read_publication(PAPER_FILE)


def read_publication(path: Path) -> Publication:
    """Tables of scores from a JSON file in the layout of `paper_tables.json`.

    Args:
        path: needs `score_tables` and `decimals`; all else may be missing.

    Raises:
        InputError: it is no such file.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        tables = tuple(_table(table) for table in values["score_tables"])
        sweep = values.get("mu_sweep", {})
        return Publication(
            source=values.get("source", path.name),
            ours=tuple(values.get("ours", ())),
            views=values.get("views", {}),
            decimals=int(values["decimals"]),
            tables=tables,
            mu_sweep={
                view: {city: tuple(scores) for city, scores in sweep[view].items()}
                for view in ("street_view", "satellite")
                if view in sweep
            },
            mu_values=tuple(sweep.get("mu", ())),
            statistics=values.get("statistics", {}).get("cities", {}),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} holds no tables that can be checked ({type(error).__name__}: {error}). Its "
            f"layout is that of {PAPER_FILE.name}: score_tables, each with number, city, metrics "
            "and scores; and decimals, the digits in print."
        ) from error


def _table(values: Mapping[str, Any]) -> PublishedTable:
    metrics = tuple(values["metrics"])
    return PublishedTable(
        number=int(values["number"]),
        city=values["city"],
        metrics=metrics,
        scores=_named(values["scores"], metrics),
    )


def _named(
    rows: Mapping[str, Mapping[str, Any]], metrics: tuple[str, ...]
) -> dict[str, dict[str, dict[str, float] | None]]:
    return {
        system: {
            name: None if cell is None else dict(zip(metrics, map(float, cell), strict=True))
            for name, cell in row.items()
        }
        for system, row in rows.items()
    }


__all__ = ["Publication", "PublishedTable", "paper_tables", "read_publication"]
