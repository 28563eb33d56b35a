import gzip

import numpy as np
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from dataset_builders.photos import find_photos
from dataset_builders.points import count_points, read_points
from dataset_builders.regions import square_grid
from pipelines.prediction.labels import read_labels

from .harness import TEXTS, damaged, inputs, knock

ROWS = [
    ["file", "lon", "lat", "heading", "population"],
    ["a.jpg", "116.391", "39.907", "90", "12"],
    ["b.jpg", "116.392", "39.908", "", "1e3"],
    ['"c, d.jpg"', "116.393", "39.909", "0", "-1"],
]
BOX = shapely.box(116.39, 39.90, 116.40, 39.91)
REGIONS = square_grid(BOX, 500)
VALID = "\n".join(map(",".join, ROWS)).encode()
FIELDS = TEXTS | st.sampled_from(
    ("inf", "-inf", "nan", "1e400", "200", "-91", "0x1", "9" * 400, '"', ",", "\n", "'", "1,2,3")
)


@st.composite
def tables(draw):
    """CSV with some fields replaced, added or removed."""
    rows = [list(row) for row in ROWS]
    for _ in range(draw(st.integers(0, 4))):
        row = draw(st.sampled_from(rows))
        where = draw(st.integers(0, len(row)))
        row[where : where + draw(st.integers(0, 2))] = draw(st.lists(FIELDS, max_size=2))
    return "\n".join(map(",".join, rows)).encode(errors="surrogatepass")


CONTENTS = tables() | damaged(VALID) | damaged("\ufeff".encode() + VALID) | st.binary(max_size=50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


@inputs(30)
@given(CONTENTS)
@example(b"")
@example(b"file,lon,lat,lon\na.jpg,1,2,3")
@example(b"file,lon,laT,lat\na.jpg,1,2,3")
@example(b"file,lon,lat\n" + b'"' * 200_000)
@example(b"file,lon,lat\na.jpg,1," + b"9" * 300_000)
def test_listings_of_images(folder, content):
    (folder / "images.csv").write_bytes(content)
    photos = knock("CSV of images", lambda: find_photos(folder))
    if photos is not None:
        assert photos.frame["file"].is_unique
        assert (photos.frame["lon"].abs() <= 180).all()
        assert (photos.frame["lat"].abs() <= 90).all()


@inputs(30)
@given(CONTENTS, st.sampled_from(("points.csv", "points.tsv", "points.csv.gz", "points.csv.zip")))
@example(gzip.compress(VALID)[:40], "points.csv.gz")
@example(VALID, "points.csv.zip")
def test_points(folder, content, name):
    path = folder / name
    path.write_bytes(
        gzip.compress(content) if name.endswith("gz") and len(content) % 2 else content
    )
    points = knock(
        "CSV of points",
        lambda: read_points(
            path, coord_system="wgs84", id_column="file", count_column="population"
        ),
    )
    if points is not None:
        assert np.isfinite(points.weight).all()
        assert (points.weight >= 0).all()
        knock("CSV of points", lambda: count_points(points, REGIONS, "poi"))


@inputs(30)
@given(CONTENTS)
def test_labels(folder, content):
    path = folder / "labels.csv"
    path.write_bytes(content)
    regions = REGIONS.copy()
    regions.loc[:1, "region_id"] = ["a.jpg", "b.jpg"]
    names, own = ["population"], regions[["region_id"]]
    for column in ("file", "no such column"):  # by id, by location
        knock("CSV of labels", lambda c=column: read_labels(path, names, regions, own, c))
