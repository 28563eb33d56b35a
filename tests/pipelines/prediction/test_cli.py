import json
import os

import geopandas as gpd
import pandas as pd
import pytest

from pipelines.prediction.cli import main, parser
from tests.processes import run_python

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


def test_a_killed_run_resumes_and_ends_in_the_same_files(town, tmp_path):
    died = run_python("-c", DIES, *flags(town, tmp_path / "killed"))
    assert died.returncode == -9, died.stderr
    assert not (tmp_path / "killed" / "predictions.parquet").exists()
    again = run_python("evaluate.py", "predict", *flags(town, tmp_path / "killed"))
    assert again.returncode == 0, again.stderr
    assert "Going on from 1 parts" in again.stderr or "Resum" in again.stderr
    whole = run_python("evaluate.py", "predict", *flags(town, tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    tables = [
        pd.DataFrame(gpd.read_parquet(tmp_path / name / "predictions.parquet"))
        for name in ("killed", "whole")
    ]
    pd.testing.assert_frame_equal(*tables)
    verdicts = [(tmp_path / name / "verdict.json").read_text() for name in ("killed", "whole")]
    assert verdicts[0] == verdicts[1]
    names = {path.name for path in (tmp_path / "killed").iterdir()}
    assert names == {
        *("embeddings", "predictions.gpkg", "predictions.html", "predictions.parquet"),
        *("rejects.parquet", "verdict.json"),
    }
    assert "better than location alone in new districts" in again.stderr
    page = (tmp_path / "whole" / "predictions.html").read_text()
    assert "http://" not in page.replace("http://mrcc", "")
    assert "https://" not in page
    assert "<script" not in page
    assert json.loads(verdicts[0])["encoder"] == "colour_texture"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--unit", "m", "EUR"], "got 1 indicators and 2 units"),
        (
            ["--side_m", "-5", "--batch_size", "0"],
            "--side_m must be above 0, got -5.0; --batch_size",
        ),
        (
            ["--indicator", "height", "height", "--unit", "m", "km"],
            "--indicator names height twice",
        ),
        (["--image", "x"], "unrecognized arguments: --image x"),
        (["--protocol", "blocks"], "invalid choice: 'blocks'"),
    ],
)
def test_user_errors_are_one_line_with_exit_code_2(town, tmp_path, capsys, more, message):
    assert main(flags(town, tmp_path, *more)) == 2
    told = capsys.readouterr().err
    assert told.startswith("evaluate.py predict: ")
    assert message in told
    assert len(told.splitlines()) == 1


def test_the_unit_is_asked_for(town, tmp_path, capsys):
    arguments = flags(town, tmp_path)
    at = arguments.index("--unit")
    assert main(arguments[:at] + arguments[at + 2 :]) == 2
    assert "unit of height is missing (--unit)" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_an_environment_error(town, tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert main(flags(town, tmp_path / "out")) == 1
    assert "rerun the command to resume" in capsys.readouterr().err


def test_help_teaches_by_examples():
    text = parser().format_help()
    for word in ("--region_id tract", "opens coloured in QGIS", "Rerun the command", "district"):
        assert word in text
