import io
from itertools import pairwise

import geopandas as gpd
import numpy as np
import pytest
import shapely
from matplotlib.figure import Figure
from PIL import Image

from dataset_builders.errors import DatasetError
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

# HTML, and text that matplotlib could parse as mathematics
HOSTILE = "<script>alert(1)</script>{{ 7 * 191 }}${alert(2)}`\\u003cimg src=x onerror=alert(3)>"


@pytest.fixture
def regions():
    squares = [shapely.box(116 + i * 0.01, 40, 116.01 + i * 0.01, 40.01) for i in range(4)]
    return gpd.GeoDataFrame(
        {
            "region_id": [f"r{i}" for i in range(3)] + [HOSTILE],
            "population": [0.0, 10.0, np.nan, 1000.0],
            "split_block": ["train", "test", None, "validation"],
        },
        geometry=squares,
        crs="EPSG:4326",
    )


def colours_of(path):
    picture = Image.open(path).convert("RGB")
    # ignore antialiased edges of letters
    least = picture.width * picture.height / 1000
    found = picture.getcolors(1 << 24)
    return {"#{:02x}{:02x}{:02x}".format(*colour) for count, colour in found if count > least}


def draw(name, regions, path):
    points = gpd.GeoDataFrame(
        {"highway": ["primary", HOSTILE]},
        geometry=[shapely.Point(116.01, 40.005), shapely.Point(116.02, 40.005)],
        crs="EPSG:4326",
    )
    lines = gpd.GeoDataFrame(
        geometry=[shapely.LineString([(116, 40), (116.04, 40.01)])], crs="EPSG:4326"
    )
    calls = {
        "regions": lambda: plot_regions(regions, path, HOSTILE),
        "indicator": lambda: plot_indicator(regions, "population", path, HOSTILE),
        "splits": lambda: plot_splits(regions, "split_block", path, HOSTILE),
        "coverage": lambda: plot_coverage(regions, {"r1": 3}, path, HOSTILE),
        "points": lambda: plot_points(lines, points, path, HOSTILE),
    }
    return calls[name]()


NAMES = ["regions", "indicator", "splits", "coverage", "points"]


@pytest.mark.parametrize("name", NAMES)
def test_a_map_is_a_picture_with_something_in_it(regions, tmp_path, name):
    path = draw(name, regions, tmp_path / "map.png")
    assert len(Image.open(path).convert("RGB").getcolors(1 << 24)) > 100


def test_an_axis_of_logarithms_is_labelled_in_raw_units():
    for low, high in ((0, 8.2), (3.4, 9.6), (0.4, 3.2), (0, 0.02), (12, 13), (-1.5, 7.9), (5, 16)):
        places, labels = raw_ticks(low, high)
        assert 3 <= len(places) <= 6
        assert all(low - 1e-6 <= place <= high + 1e-6 for place in places)
        units = {"k": 1e3, "M": 1e6, "G": 1e9}
        raw = [float(one.rstrip("kMG")) * units.get(one[-1], 1) for one in labels]
        assert np.log1p(raw) == pytest.approx(places, rel=1e-3)
        assert min(np.diff(places)) > (high - low) / 12, "labels need room"


def test_a_colour_bar_is_in_raw_units(regions, tmp_path, monkeypatch):
    bars = []
    draw_bar = Figure.colorbar
    monkeypatch.setattr(
        Figure, "colorbar", lambda *a, **k: bars.append(draw_bar(*a, **k)) or bars[-1]
    )
    plot_indicator(regions, "population", tmp_path / "map.png")
    (bar,) = bars
    assert [one.get_text() for one in bar.ax.get_yticklabels()] == ["0", "10", "100", "1000"]
    assert bar.ax.get_ylabel() == "population"


def test_splits_have_their_colours_and_the_buffer_too(regions, tmp_path):
    plot_splits(regions, "split_block", tmp_path / "splits.png")
    assert set(SPLIT_COLOURS.values()) <= colours_of(tmp_path / "splits.png")


def test_missing_values_are_grey_and_others_are_not(regions, tmp_path):
    plot_indicator(regions, "population", tmp_path / "a.png")
    assert "#d9d9d9" in colours_of(tmp_path / "a.png")
    full = regions.fillna({"population": 5.0})
    plot_indicator(full, "population", tmp_path / "b.png")
    assert "#d9d9d9" not in colours_of(tmp_path / "b.png")


def test_an_indicator_without_any_value_is_drawn(regions, tmp_path):
    plot_indicator(regions.assign(population=np.nan), "population", tmp_path / "a.png")
    assert "#d9d9d9" in colours_of(tmp_path / "a.png")


def test_a_contact_sheet_shows_every_image(tmp_path):
    images = []
    for level in (40, 90, 140, 190, 240):
        buffer = io.BytesIO()
        Image.new("RGB", (400, 200), (level, 0, 0)).save(buffer, "PNG")
        images.append((f"a name that is far too long for its picture {level}", buffer.getvalue()))
    colours = colours_of(contact_sheet(images, tmp_path / "sheet.png", columns=3, title="x"))
    assert {f"#{level:02x}0000" for level in (40, 90, 140, 190, 240)} <= colours
    with pytest.raises(DatasetError, match="at least one image"):
        contact_sheet([], tmp_path / "none.png")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r, p: plot_indicator(r, "gdp", p / "a.png"), "no indicator 'gdp'"),
        (lambda r, p: plot_splits(r, "split", p / "a.png"), "no split 'split'"),
        (lambda r, p: plot_regions(r, p / "a.jpg"), "as .png, got 'a.jpg'"),
        (lambda r, p: plot_regions(r.iloc[:0], p / "a.png"), "nothing to draw"),
        (lambda r, p: plot_regions(r.set_crs(None, allow_override=True), p / "a.png"), "a CRS"),
    ],
)
def test_bad_input_is_refused(regions, tmp_path, call, message):
    with pytest.raises(DatasetError, match=message):
        call(regions, tmp_path)


@pytest.mark.parametrize("extent", [(16, 16), (3, 16), (16, 3)])
def test_no_label_of_a_map_is_cut_or_written_over_another(tmp_path, monkeypatch, extent):
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    columns, rows = (axis.ravel() for axis in np.meshgrid(*map(np.arange, extent)))
    lon, lat = -38.1 + 0.012 * columns, 40.93 + 0.009 * rows
    regions = gpd.GeoDataFrame(
        {"split_block": np.where(columns % 2, "train", "test")},
        geometry=shapely.box(lon, lat, lon + 0.012, lat + 0.009),
        crs="EPSG:4326",
    )
    path = plot_splits(regions, "split_block", tmp_path / "map.png", "A city (synthetic)")
    pixels = np.asarray(Image.open(path).convert("L"))
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert edge.min() > 250  # nothing reaches the edge
    axis = drawn[0].axes[0].xaxis
    boxes = [label.get_window_extent() for label in axis.get_majorticklabels() if label.get_text()]
    assert boxes
    assert all(one.x1 < two.x0 for one, two in pairwise(boxes))
