"""Moran's I and the summary of a map's reliability."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from pipelines.evaluation.analysis.reach import Reach, draw_reach, morans_i


def test_morans_i_equals_its_formula_on_a_dense_matrix():
    rng = np.random.default_rng(0)
    xy, z = rng.uniform(0, 1e4, (60, 2)), rng.normal(size=60)
    weights = np.zeros((60, 60))
    distance = cdist(xy, xy) + np.diag(np.full(60, np.inf))
    for row, nearest in enumerate(np.argsort(distance, axis=1)[:, :5]):
        weights[row, nearest] = 1 / 5
    centred = z - z.mean()
    expected = 60 / weights.sum() * (centred @ weights @ centred) / (centred @ centred)
    found = morans_i(xy, z, neighbours=5)
    assert found.value == pytest.approx(expected, abs=1e-12)


def test_morans_i_separates_clustered_and_scattered_errors():
    rng = np.random.default_rng(1)
    xy = rng.uniform(0, 1e4, (400, 2))
    scattered = rng.normal(size=400)
    clustered = np.sin(xy[:, 0] / 2000) + 0.3 * scattered
    assert morans_i(xy, clustered).value > 0.5
    assert morans_i(xy, clustered).p == pytest.approx(0.001)
    assert abs(morans_i(xy, scattered).value) < 0.1
    assert morans_i(xy, scattered).p > 0.01


def test_morans_i_drops_missing_and_needs_enough_residuals():
    xy = np.random.default_rng(2).uniform(0, 1e4, (60, 2))
    residual = np.where(np.arange(60) < 30, np.arange(60.0), np.nan)
    assert morans_i(xy, residual).value == morans_i(xy[:30], residual[:30]).value
    assert morans_i(xy[:29], residual[:29]) is None
    assert morans_i(xy, np.zeros(60)) is None
    assert morans_i(np.zeros((40, 2)), residual[:40][::-1]) is not None  # coincident positions


def test_lines_summarise_the_findings():
    rng = np.random.default_rng(4)
    xy = rng.uniform(0, 1e4, (200, 2))
    moran = morans_i(xy, xy[:, 0])
    reach = Reach("population", moran, 50, 5, (0.4, *[0.7] * 8, 0.98))
    assert [line.split()[0] for line in reach.lines] == ["Errors", "5", "Images"]
    assert "Errors are spatially clustered" in reach.lines[0]
    assert "5 of 50 regions without a label (10%)" in reach.lines[1]
    assert "40% of the labelled regions in the lowest tenth of population" in reach.lines[2]
    assert draw_reach(reach).startswith(b"\x89PNG")
    silent = Reach("population", None, 0, 0, (float("nan"),) * 10)
    assert silent.lines == []
    assert silent.as_dict()["covered"] == [None] * 10
