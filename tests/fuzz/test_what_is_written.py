import csv
import re
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st

from dataset_builders import plots
from pipelines.common.csv_files import write_csv
from pipelines.evaluation.report import figures
from pipelines.prediction.estimate import UNLIKE
from pipelines.prediction.maps import indicator_maps

from ..dataset_builders.helpers import encoded, picture
from .harness import inputs, knock

ROOT = Path(__file__).resolve().parents[2]
FORMULA = re.compile(r"[=+\-@\t\r\n]")
FORMULAS = ("=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "x\r=1")
MATHS = ("$x_{", r"\frac", "$/m^2, 100% of $", "_x")
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
TEXTS |= st.sampled_from((*FORMULAS, *MATHS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("written")


@inputs(30)
@given(
    st.lists(st.lists(TEXTS | st.none() | st.floats(), min_size=2, max_size=2), max_size=4), TEXTS
)
@example([["=1+1", -1.0]], "=1")
@example([["\r=1+1", -1.0], ["x\r=1+1", None]], "=1")
def test_csv_cells_are_no_formulas(folder, rows, name):
    path = folder / "table.csv"
    table = pd.DataFrame(rows, columns=[name, "other"])
    knock("CSV that is written", lambda: write_csv(path, table))
    with path.open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    numbers = {str(one) for row in rows for one in row if isinstance(one, float)}
    assert not [cell for cell in cells if FORMULA.match(cell) and cell not in numbers]


def test_csv_files_are_written_by_one_function():
    """Only `write_csv` escapes formulas."""
    writers = [
        path.relative_to(ROOT).as_posix()
        for room in ("dataset_builders", "pipelines", "demo")
        for path in (ROOT / room).rglob("*.py")
        if re.search(
            r"\.to_csv\((?!index=False\)\.encode)|csv\.writer|DictWriter", path.read_text()
        )
    ]
    assert writers == ["pipelines/common/csv_files.py"]


SQUARES = [shapely.box(x, 39.9, x + 0.01, 39.91) for x in (116.30, 116.31)]
MAP = gpd.GeoDataFrame({"region_id": ["a", "b"]}, geometry=SQUARES, crs="EPSG:4326")
LINES = gpd.GeoDataFrame(geometry=[shapely.LineString([(116.3, 39.9), (116.31, 39.91)])], crs=4326)


def figures_of_datasets(path, name, value):
    frame = MAP.assign(**{name: [1.0, value], "split": ["train", name]})
    yield lambda: plots.plot_regions(frame, path, name)
    if name not in ("geometry", "region_id"):
        yield lambda: plots.plot_indicator(frame, name, path, name)
    yield lambda: plots.plot_coverage(frame, {"a": 2}, path, name)
    yield lambda: plots.plot_splits(frame, "split", path, name)
    points = gpd.GeoDataFrame({"highway": [name]}, geometry=[SQUARES[0].centroid], crs=4326)
    yield lambda: plots.plot_points(LINES, points, path, name)
    yield lambda: plots.plot_distances({name: np.array([1.0, 2.0])}, path, name)
    yield lambda: plots.contact_sheet([(name, encoded(picture()))], path, title=name)


def figures_of_reports(path, name, value):
    indicators = {"population": {"unit": name, "transform": "ln1p"}}
    predictions = pd.DataFrame({"indicator": "population", "truth": [0.0, 1.0]})
    predictions["prediction"] = [0.5, abs(value) % 9]
    scores = {"population": pd.Series([0.1, 0.2])}
    yield lambda: figures.draw_scatter(path, name, predictions, scores, indicators)
    row = {"name": name, "estimate": 0.1, "low": 0.0, "high": 0.2, "colour": "red", "seeds": [0.1]}
    yield lambda: figures.draw_intervals(path, name, {name: pd.DataFrame([row])}, name)
    curve = pd.DataFrame({"curve": name, "x": [1, 2], "estimate": 0.1, "low": 0.0, "high": 0.2})
    yield lambda: figures.draw_curves(path, name, {name: curve}, name, name)
    matrix = pd.DataFrame([[0.1]], [name], [name])
    yield lambda: figures.draw_matrices(path, name, {name: matrix})
    parts = {f"x_{part}": [1.0, 2.0] for part in ("predicted", "low", "high")}
    yield lambda: indicator_maps(MAP.assign(x=[1.0, 2.0], x_status=UNLIKE, **parts), "x", name)


@pytest.mark.parametrize("drawn", [figures_of_datasets, figures_of_reports])
@inputs(0, long=20)
@given(TEXTS, st.floats(allow_nan=False, allow_infinity=False))
@example("$/m^2, 100% of $", 1.0)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_titles_and_units_are_no_mathtext(folder, drawn, name, value):
    for draw in drawn(folder / "figure.png", name, value):
        knock("titles and units of figures", draw)
