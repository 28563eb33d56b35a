from itertools import pairwise

import geopandas as gpd
import numpy as np
import pytest
import shapely
from matplotlib.figure import Figure
from PIL import Image

from dataset_builders.log_ticks import raw_ticks
from dataset_builders.plots import (
    SPLIT_COLOURS,
    contact_sheet,
    plot_coverage,
    plot_indicator,
    plot_points,
    plot_regions,
    plot_splits,
)

from .helpers import encoded

# HTML, and text that matplotlib could parse as mathematics
HOSTILE = "<script>alert(1)</script>{{ 7 * 191 }}${alert(2)}`\\u003cimg src=x onerror=alert(3)>"


@pytest.fixture
def regions():
    squares = [shapely.box(116 + i * 0.01, 40, 116.01 + i * 0.01, 40.01) for i in range(4)]
    columns = {
        "region_id": ["r0", "r1", "r2", HOSTILE],
        "population": [0.0, 10.0, np.nan, 1000.0],
        "split_block": ["train", "test", None, "validation"],
    }
    return gpd.GeoDataFrame(columns, geometry=squares, crs="EPSG:4326")


def colours_of(path):
    picture = Image.open(path).convert("RGB")
    # ignore antialiased edges of letters
    least = picture.width * picture.height / 1000
    found = picture.getcolors(1 << 24)
    return {"#{:02x}{:02x}{:02x}".format(*colour) for count, colour in found if count > least}


def test_draws_hostile_names(regions, tmp_path):
    places = [shapely.Point(116.01, 40.005), shapely.Point(116.02, 40.005)]
    points = gpd.GeoDataFrame({"highway": ["primary", HOSTILE]}, geometry=places, crs="EPSG:4326")
    road = shapely.LineString([(116, 40), (116.04, 40.01)])
    lines = gpd.GeoDataFrame(geometry=[road], crs="EPSG:4326")
    path = tmp_path / "map.png"
    for draw in (
        lambda: plot_regions(regions, path, HOSTILE),
        lambda: plot_coverage(regions, {"r1": 3}, path, HOSTILE),
        lambda: plot_points(lines, points, path, HOSTILE),
    ):
        assert len(Image.open(draw()).convert("RGB").getcolors(1 << 24)) > 100


def test_log_axes_are_labelled_in_raw_units():
    for low, high in ((0, 8.2), (0, 0.02), (12, 13), (-1.5, 7.9), (5, 16)):
        places, labels = raw_ticks(low, high)
        assert 3 <= len(places) <= 6
        assert all(low - 1e-6 <= place <= high + 1e-6 for place in places)
        units = {"k": 1e3, "M": 1e6, "G": 1e9}
        raw = [float(one.rstrip("kMG")) * units.get(one[-1], 1) for one in labels]
        assert np.log1p(raw) == pytest.approx(places, rel=1e-3)
        assert min(np.diff(places)) > (high - low) / 12, "labels need room"


def test_colours_of_splits_and_missing_values(regions, tmp_path):
    path = plot_splits(regions, "split_block", tmp_path / "splits.png")
    assert set(SPLIT_COLOURS.values()) <= colours_of(path)
    for values, is_grey in (([0, 9, np.nan, 99], True), ([5.0] * 4, False), ([np.nan] * 4, True)):
        plot_indicator(regions.assign(population=values), "population", tmp_path / "a.png")
        assert ("#d9d9d9" in colours_of(tmp_path / "a.png")) == is_grey


def test_contact_sheet_shows_every_image(tmp_path):
    levels = (40, 90, 140, 190, 240, 65, 115)
    images = [
        (
            f"a name that is far too long {level}",
            encoded(Image.new("RGB", (400, 200), (level, 0, 0))),
        )
        for level in levels
    ]
    colours = colours_of(contact_sheet(images, tmp_path / "sheet.png", title="x"))
    assert {f"#{level:02x}0000" for level in levels} <= colours


@pytest.mark.parametrize("extent", [(16, 16), (3, 16)])
def test_labels_are_neither_cut_nor_overlapping(tmp_path, monkeypatch, extent):
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    columns, rows = (axis.ravel() for axis in np.meshgrid(*map(np.arange, extent)))
    lon, lat = -38.1 + 0.012 * columns, 40.93 + 0.009 * rows
    boxes = shapely.box(lon, lat, lon + 0.012, lat + 0.009)
    parts = {"split_block": np.where(columns % 2, "train", "test")}
    regions = gpd.GeoDataFrame(parts, geometry=boxes, crs="EPSG:4326")
    path = plot_splits(regions, "split_block", tmp_path / "map.png", "A city (synthetic)")
    pixels = np.asarray(Image.open(path).convert("L"))
    assert min(pixels[[0, -1]].min(), pixels[:, [0, -1]].min()) > 250  # nothing reaches the edge
    labels = [one for one in drawn[0].axes[0].xaxis.get_majorticklabels() if one.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    assert boxes
    assert all(one.x1 < two.x0 for one, two in pairwise(boxes))
