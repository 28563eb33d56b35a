"""Scores of `evaluate.py probe` for a system and for the location-only control."""

from pathlib import Path

import pandas as pd

from pipelines.evaluation.probe.predictions import RESULTS_FILE
from pipelines.evaluation.probe.results import read_rows

COORDINATES = "coordinates"


class Report:
    """Result rows of a city; empty without a results folder.

    Args:
        results: Output folder of `evaluate.py probe`, or None.
        city: Name of the city.
    """

    def __init__(self, results: str | None, city: str):
        self.rows = [] if results is None else list(read_rows(Path(results) / city / RESULTS_FILE))

    def sentence(self, system: str, view: str, indicator: str, protocol: str) -> str:
        """Score of the ridge probe beside the best location-only control; empty if unknown."""
        own, controls = [], []
        for row in self.rows:
            if (row.indicator, row.protocol) == (indicator, protocol):
                if (row.system, row.view, row.probe) == (system, view, "ridge"):
                    own.append(row.r2)
                elif row.system == COORDINATES:
                    controls.append((row.probe, row.r2))
        r2 = pd.Series(own, dtype=float).dropna()
        if r2.empty:
            return ""
        sd = r2.std() if len(r2) > 1 else 0.0
        text = f"Probe score over {len(r2)} splits: R² {r2.mean():.2f} ± {sd:.2f}"
        best = pd.DataFrame(controls, columns=["probe", "r2"]).groupby("probe")["r2"].mean().max()
        if pd.notna(best):
            text += f" (coordinates only, without images: {best:.2f})"
        return f"{text}."


__all__ = ["Report"]
