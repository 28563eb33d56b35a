import json
import subprocess
import sys

import geopandas as gpd
import pandas as pd
import pytest

from pipelines.prediction.cli import main

DIES = """
import os, signal, sys
import pipelines.evaluation.embed.images as embed
write = embed._write_part
def write_and_die(*arguments):
    write(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
embed._write_part = write_and_die
from pipelines.prediction.cli import main
main(sys.argv[1:])
"""


def flags(town, output, *more):
    return [
        *("--images", str(town.photos), "--regions", str(town.tracts), "--region_id", "tract"),
        *("--labels", str(town.tracts), "--indicator", "height", "--unit", "m"),
        *("--encoder", "colour_texture", "--output_dir", str(output), *more),
    ]


def test_resumes_after_sigkill(town, tmp_path, capsys):
    command = [sys.executable, "-c", DIES, *flags(town, tmp_path / "killed")]
    died = subprocess.run(command, capture_output=True, text=True)
    assert died.returncode == -9, died.stderr
    assert not (tmp_path / "killed" / "predictions.parquet").exists()
    for name in ("killed", "whole"):
        assert main(flags(town, tmp_path / name)) == 0
        said = capsys.readouterr().err
        assert ("Going on from 1 parts" in said or "Resum" in said) == (name == "killed")
        assert "better than location alone in new districts" in said
    tables = [
        pd.DataFrame(gpd.read_parquet(tmp_path / name / "predictions.parquet"))
        for name in ("killed", "whole")
    ]
    pd.testing.assert_frame_equal(*tables)
    verdicts = [(tmp_path / name / "verdict.json").read_text() for name in ("killed", "whole")]
    assert verdicts[0] == verdicts[1]
    assert json.loads(verdicts[0])["encoder"] == "colour_texture"
    names = {path.name for path in (tmp_path / "killed").iterdir()}
    assert names == {
        *("embeddings", "predictions.gpkg", "predictions.html", "predictions.parquet"),
        *("rejects.parquet", "verdict.json"),
    }


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--unit", "m", "EUR"], "got 1 indicators and 2 units"),
        (["--side_m", "-5", "--batch_size", "0"], "--batch_size must be at least 1, got 0"),
        (["--indicator", "height", "height", "--unit", "m", "km"], "names height twice"),
        (["--unit"], "--unit"),
        (["--image", "x"], "--image"),
        (["--protocol", "blocks"], "invalid choice: 'blocks'"),
    ],
)
def test_user_errors_are_one_line_with_exit_code_2(town, tmp_path, capsys, more, message):
    assert main(flags(town, tmp_path, *more)) == 2
    told = capsys.readouterr().err
    assert told.startswith("evaluate.py predict: ")
    assert message in told
    assert len(told.splitlines()) == 1
