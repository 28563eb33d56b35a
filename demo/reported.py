"""Scores of `evaluate.py probe` for a system and for the location-only control."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.evaluation.probe.predictions import RESULTS_FILE
from pipelines.evaluation.probe.results import ResultRow, read_rows

COORDINATES = "coordinates"


@dataclass(frozen=True)
class Reported:
    """R² over splits.

    Attributes:
        mean: Mean over the splits.
        sd: Standard deviation over the splits; 0 for a single split.
        splits: Number of splits.
    """

    mean: float
    sd: float
    splits: int


class Report:
    """Result rows of a city; empty without a results folder.

    Args:
        results: Output folder of `evaluate.py probe`, or None.
        city: Name of the city.
    """

    def __init__(self, results: str | None, city: str):
        path = None if results is None else Path(results) / city / RESULTS_FILE
        self.rows = [] if path is None else list(read_rows(path))

    def sentence(self, system: str, view: str, indicator: str, protocol: str) -> str:
        """Score of the ridge probe beside the best location-only control; empty if unknown."""
        mine = [row for row in self.rows if (row.indicator, row.protocol) == (indicator, protocol)]
        own = _r2(
            row for row in mine if (row.system, row.view, row.probe) == (system, view, "ridge")
        )
        if own is None:
            return ""
        probes = sorted({row.probe for row in mine if row.system == COORDINATES})
        controls = [
            found
            for probe in probes
            if (found := _r2(r for r in mine if (r.system, r.probe) == (COORDINATES, probe)))
        ]
        text = f"Probe score over {own.splits} splits: R² {own.mean:.2f} ± {own.sd:.2f}"
        if controls:
            best = max(controls, key=lambda one: one.mean)
            text += f" (coordinates only, without images: {best.mean:.2f})"
        return f"{text}."


def _r2(rows: Iterable[ResultRow]) -> Reported | None:
    values = np.array([row.r2 for row in rows])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    return Reported(float(values.mean()), float(values.std(ddof=len(values) > 1)), len(values))


__all__ = ["Report", "Reported"]
