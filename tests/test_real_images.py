"""Run the code block of "On real images" in docs/results.md as written (make real; minutes)."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [pytest.mark.real, pytest.mark.timeout(0)]


@pytest.fixture(scope="module")
def run(shared_data) -> Path:
    """Run the block in a folder that is kept, as all steps can be resumed."""
    section = (ROOT / "docs" / "results.md").read_text().split("## On real images")[1]
    block = re.search(r"```bash\n(.*?)```", section, flags=re.DOTALL)
    assert block is not None
    out = ROOT / "runs" / "real"
    environment = {
        **os.environ,
        "DATA": str(shared_data),
        "OUT": str(out),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block[1]], check=True, cwd=ROOT, env=environment
    )
    return out


@pytest.fixture(scope="module")
def scores(run) -> dict[tuple[str, str, str, str], float]:
    """Mean R2 over split seeds by city, system, indicator and protocol, without MLP probes."""
    values: dict[tuple[str, str, str, str], list[float]] = {}
    for path in (run / "results").glob("*/results.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row["probe"] != "mlp":
                key = (row["city"], row["system"], row["indicator"], row["protocol"])
                values.setdefault(key, []).append(row["r2"])
    return {key: sum(found) / len(found) for key, found in values.items()}


def test_retrieval_is_far_above_chance(run):
    rows = [json.loads(line) for line in (run / "model" / "metrics.jsonl").read_text().splitlines()]
    best = max((row for row in rows if "mean_recall" in row), key=lambda row: row["mean_recall"])
    for direction in ("image_to_text", "text_to_image"):
        assert best[f"{direction}_recall_at_5"] > 3 * best["chance_recall_at_5"]


def test_all_systems_are_scored(scores):
    systems = {system for city, system, *_ in scores if city == "new_york"}
    assert {"mean", "coordinates", "urbanln", "random-init", "colour_texture"} <= systems


@pytest.mark.parametrize("indicator", ["population", "built_surface"])
@pytest.mark.parametrize("protocol", ["random", "block"])
def test_images_beat_coordinates_in_new_york(scores, indicator, protocol):
    best = max(
        scores["new_york", system, indicator, protocol] for system in ("urbanln", "colour_texture")
    )
    assert best > scores["new_york", "coordinates", indicator, protocol]
    assert best > 0.1


def test_travel_time_is_not_predicted_in_held_out_blocks(scores):
    for system in ("urbanln", "colour_texture", "random-init"):
        assert scores["new_york", system, "travel_time", "block"] < 0.2


def test_report_has_both_cities(run):
    report = (run / "results" / "report.md").read_text()
    assert "New York" in report or "new_york" in report
    assert "King County" in report or "king_county" in report
    assert "synthetic" not in report.split("## ")[0].lower()
    assert list((run / "results" / "figures").glob("*.png"))
