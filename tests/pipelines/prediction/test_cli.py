import pytest

from pipelines.prediction.cli import main


def flags(town, output, *more):
    return [
        *("--images", str(town.photos), "--regions", str(town.tracts), "--region_id", "tract"),
        *("--labels", str(town.tracts), "--indicator", "height", "--unit", "m"),
        *("--encoder", "colour_texture", "--output_dir", str(output), *more),
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--unit", "m", "EUR"], "got 1 indicators and 2 units"),
        (["--side_m", "-5", "--batch_size", "0"], "--batch_size must be at least 1, got 0"),
        (["--indicator", "height", "height", "--unit", "m", "km"], "names height twice"),
        (["--unit"], "--unit"),
        (["--min_coverage", "nan"], "--min_coverage must be in [0, 1], got nan"),
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
