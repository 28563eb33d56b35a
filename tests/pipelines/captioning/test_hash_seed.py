import json
import os
import subprocess
import sys

from tests.conftest import ROOT

from .fake_run import drawn_run


def test_results_are_the_same_under_any_hash_seed(city_with_truth, tmp_path):
    run = drawn_run(tmp_path / "run", 20, hostile={3}, failed={5, 11})
    one, other = (
        json.loads(
            subprocess.run(
                [
                    *(sys.executable, "-m", "tests.pipelines.captioning.hash_seed"),
                    *(str(city_with_truth), str(tmp_path / f"report-{seed}")),
                    *map(str, run.parts),
                ],
                cwd=ROOT,
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for seed in ("1", "2")
    )
    assert one.pop("order") != other.pop("order")  # the sets did have another order
    assert one == other
    assert len(" ".join(one["answers"]).split()) > 150
    assert {"report.md", "gallery.html"} <= set(one["reported"])
