"""STAC source with a loopback catalogue and generated GeoTIFFs."""

import io
import json

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
import yaml
from PIL import Image

from dataset_builders.city.planning import plan
from dataset_builders.city.recipe import read_recipe
from dataset_builders.download import StoppedError
from dataset_builders.errors import SourceError
from dataset_builders.sources import geotiff
from dataset_builders.sources.stac import StacSource
from dataset_builders.storage import read_metadata, read_rejects, read_table

from .loopback import with_fetcher
from .stac_catalogue import SIGNATURE, StacCatalogue
from .test_sources_tiles import displacement_px, square, waves
from .town import quick_build

rasterio = pytest.importorskip("rasterio")
EAST, NORTH = 448_000.0, 4_417_000.0
ASSETS = ("red", "green", "blue")
WINDOW = "2024-05-01/2024-09-30"


@pytest.fixture
def catalogue():
    with StacCatalogue() as server:
        yield server


def scene(epsg=32650, pixel=10.0, side_m=2000.0, hole=None, scale=10):
    """Values `(n, n, 3)` of the waves around the square, and a raster profile."""
    utm = pyproj.Transformer.from_crs("EPSG:32650", f"EPSG:{epsg}", always_xy=True)
    x, y = utm.transform(EAST + 500, NORTH + 500)
    count = int(side_m / pixel)
    west, north = x - side_m / 2, y + side_m / 2
    ticks = (np.arange(count) + 0.5) * pixel
    places = utm.transform(*np.meshgrid(west + ticks, north - ticks), direction="INVERSE")
    values = (waves(*places) * scale).round()
    if hole is not None:
        values[hole(*places)] = 0
    profile = {
        "driver": "COG",
        "width": count,
        "height": count,
        "dtype": "uint16" if scale > 1 else "uint8",
        "crs": f"EPSG:{epsg}",
        "transform": rasterio.transform.from_origin(west, north, pixel, pixel),
        "nodata": 0 if scale > 1 else None,
        "blocksize": 128,
    }
    return values.astype(profile["dtype"]), profile


def tiff(values, profile):
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile, count=len(values)) as file:
            file.write(values)
        return memory.read()


def bands(**options):
    """Three single-band files."""
    values, profile = scene(**options)
    return {name: tiff(values[None, ..., i], profile) for i, name in enumerate(ASSETS)}


@pytest.fixture(scope="module")
def files():
    """Three files that cover the square."""
    return bands()


def footprint(side_m=2000.0):
    return square(side_m, EAST + 500 - side_m / 2, NORTH + 500 - side_m / 2)


def source(catalogue, **changes):
    values = {
        "name": "waves",
        "url": catalogue.url,
        "collection": "waves",
        "datetime": WINDOW,
        "stretch": (0.0, 2550.0),
        "licence": "cc-by-4.0",
    }
    return StacSource(**(values | changes))


def fetch(folder, found, *squares):
    """Metadata and encoded image of each square; by default of the one in the middle."""
    squares = squares or (square(),)
    names = [f"r{number}" for number in range(len(squares))]
    regions = gpd.GeoDataFrame({"region_id": names}, geometry=list(squares), crs="EPSG:4326")

    async def job(fetcher, store):
        async for _ in found.fetch(regions, fetcher, store):
            pass
        known = list(found.pictures(regions, store))
        return known, [None if one.reason else found.read(one, store) for one in known]

    known, pictures = with_fetcher(folder, job)
    return (known, pictures) if len(squares) > 1 else (known[0], pictures[0])


def items(known):
    return json.loads(known.detail)["items"]


@pytest.mark.parametrize(("epsg", "pixel"), [(32650, 2.0), (32649, 10.0), (32649, 2.0)])
def test_image_lies_where_its_region_is(catalogue, tmp_path, epsg, pixel):
    catalogue.add("A", footprint(1500.0), bands(epsg=epsg, pixel=pixel, side_m=1600.0), 3.0)
    known, picture = fetch(tmp_path, source(catalogue))
    assert known.reason == ""
    assert Image.open(io.BytesIO(picture)).size == (256, 256)
    assert displacement_px(picture, 1000.0) < 0.5


def test_one_asset_may_hold_three_bands(catalogue, tmp_path):
    values, profile = scene(scale=1)
    content = tiff(values.transpose(2, 0, 1), profile)
    catalogue.add("N", footprint(), {"image": content})  # without eo:cloud_cover
    found = source(catalogue, assets=("image",), stretch=(0.0, 255.0))
    known, picture = fetch(tmp_path, found)
    assert known.captured_at == "2024-06-01T10:30:00Z"
    assert displacement_px(picture, 1000.0) < 0.5


def test_stretches_values(catalogue, tmp_path):
    values, profile = scene()
    flat = {
        name: tiff(np.full_like(values[None, ..., 0], level), profile)
        for name, level in zip(ASSETS, (500, 1500, 4000), strict=True)
    }
    catalogue.add("A", footprint(), flat, 3.0)
    found = source(catalogue, stretch=(1000.0, 2000.0))
    _, picture = fetch(tmp_path, found)
    seen = np.asarray(Image.open(io.BytesIO(picture)), dtype=float).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(seen, (0, 127.5, 255), atol=3)
    assert "1000 to 2000 stretched to 0 to 255" in found.makeup


def test_takes_least_cloudy_usable_item_of_all_pages(catalogue, tmp_path, files):
    for name, cloud in (("A", 9.0), ("B", 15.0), ("C", 50.0), ("D", 2.0), ("E", 1.0), ("F", 0.0)):
        catalogue.add(name, footprint(), files, cloud)
    # the two clearest lack a band, or have an address that cannot be read
    del catalogue.items[-1]["assets"]["blue"]
    catalogue.items[-2]["assets"]["red"]["href"] = "s3://bucket/E-red.tif?sig=S1GN"
    known, _ = fetch(tmp_path / "all", source(catalogue))
    assert items(known) == ["D"]
    assert len(catalogue.searches) == 3
    first = catalogue.searches[0]
    assert first["collections"] == "waves"
    assert first["datetime"] == "2024-05-01T00:00:00Z/2024-09-30T23:59:59Z"
    west, south, east, north = (float(one) for one in first["bbox"].split(","))
    assert shapely.box(west, south, east, north).buffer(1e-5).covers(square())
    with pytest.raises(SourceError, match="assets B04, B03, B02; they have blue, green, red"):
        fetch(tmp_path, source(catalogue, assets=("B04", "B03", "B02")))
    catalogue.items = catalogue.items[-2:]
    catalogue.asked.clear()
    with pytest.raises(SourceError, match=r"such as s3://bucket/E-red\.tif, which cannot be read"):
        fetch(tmp_path / "none", source(catalogue))
    assert set(catalogue.asked) == {"/search"}


def test_second_run_requests_only_new_regions(catalogue, tmp_path, files):
    catalogue.add("A", footprint(), files, 3.0)
    found, wanted = source(catalogue), [square(300.0, EAST + 300 * i, NORTH) for i in range(3)]
    fetch(tmp_path, found, *wanted[:2])
    before = dict(catalogue.asked)
    fetch(tmp_path, found, *wanted[:2])
    assert catalogue.asked == before
    outside = square(1000.0, EAST + 50_000, NORTH)
    (*_, last, missing), _ = fetch(tmp_path, found, *wanted, outside)
    assert last.reason == ""
    assert (missing.reason, missing.detail) == ("missing", "no item covers the region")
    assert catalogue.asked["/search"] == 2


def test_signature_of_an_address_is_used_but_not_stored(catalogue, tmp_path, files):
    catalogue.signed = True
    catalogue.add("A", footprint(), files, 3.0)
    with pytest.raises(StoppedError, match="permissions"):
        fetch(tmp_path / "unsigned", source(catalogue), *[square()] * 3)
    for asset in catalogue.items[0]["assets"].values():
        asset["href"] += f"?{SIGNATURE}"
    known, _ = fetch(tmp_path / "signed", source(catalogue))
    assert known.reason == ""
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"S1GN" not in path.read_bytes(), path


def test_gaps_are_filled_by_the_next_item(catalogue, tmp_path, files):
    catalogue.add("A", footprint(), bands(hole=lambda east, north: east < EAST + 500), 1.0)
    known, _ = fetch(tmp_path / "one", source(catalogue))
    assert (known.reason, known.detail[:4]) == ("missing", "50% ")
    known, picture = fetch(tmp_path / "half", source(catalogue, min_valid=0.4))
    assert known.reason == ""
    seen = np.asarray(Image.open(io.BytesIO(picture)))
    assert seen[:, :120].max() < 16 < seen[:, 136:].mean()
    catalogue.add("B", footprint(), files, 9.0, "2024-07-01T10:30:00Z")
    known, picture = fetch(tmp_path / "two", source(catalogue))
    assert items(known) == ["A", "B"]
    assert known.captured_at == "2024-06-01T10:30:00Z"
    assert displacement_px(picture, 1000.0) < 0.5


def test_busy_server_is_retried(catalogue, tmp_path, files, monkeypatch):
    monkeypatch.setitem(geotiff.GDAL_OPTIONS, "GDAL_HTTP_RETRY_DELAY", "0.1")
    catalogue.add("A", footprint(), files, 1.0)
    catalogue.answers["/search"] = [(429, {"Retry-After": "0.1"}, b"")]
    catalogue.busy = 2
    known, picture = fetch(tmp_path, source(catalogue))
    assert known.reason == ""
    assert displacement_px(picture, 1000.0) < 0.5


@pytest.mark.parametrize(
    ("fault", "reason", "detail"),
    [
        ({"busy": 1}, "failed", "no item covers the region; A: asset red: HTTP 503"),
        ({"content": None}, "missing", "asset red: HTTP 404"),
        ({"broken": "red.tif"}, "missing", "asset red"),  # breaks off after the first range
    ],
)
def test_unreadable_files_leave_the_image_out(
    catalogue, tmp_path, files, monkeypatch, fault, reason, detail
):
    monkeypatch.setitem(geotiff.GDAL_OPTIONS, "GDAL_HTTP_MAX_RETRY", "0")
    red = bands(pixel=2.0)["red"] if "broken" in fault else files["red"]
    catalogue.add("A", footprint(), {**files, "red": fault.get("content", red)}, 1.0)
    catalogue.busy, catalogue.broken = fault.get("busy", 0), fault.get("broken", "none")
    known, _ = fetch(tmp_path, source(catalogue))
    assert known.reason == reason
    assert detail in known.detail


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, {}, b'{"features": [], "links": []}'), "no item of 'waves'"),
        ((404, {}, b""), "URL of a STAC API"),
    ],
)
def test_reports_unusable_catalogues(catalogue, tmp_path, answer, message):
    catalogue.answers["/search"] = [answer]
    with pytest.raises(SourceError, match=message):
        fetch(tmp_path, source(catalogue))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assets": ("red", "green")}, "one or three assets"),
        ({"stretch": (5.0, 5.0)}, "must increase"),
        ({"datetime": "2024-05-02/2024-05-01"}, "ends before"),
        ({"url": "s3://somewhere"}, "https://"),
    ],
)
def test_rejects_invalid_settings(catalogue, changes, message):
    with pytest.raises(SourceError, match=message):
        source(catalogue, **changes)


def test_builds_city_from_a_catalogue(catalogue, tmp_path):
    catalogue.add("A", footprint(2600.0), bands(side_m=2600.0), 1.0)
    satellite = {
        **{"provider": "stac", "name": "sentinel2", "url": catalogue.url, "datetime": WINDOW},
        **{"collection": "waves", "stretch": [0, 2550], "redistributable": True},
        **{"licence": "cc-by-4.0", "attribution": "modified Copernicus Sentinel data 2024"},
    }
    recipe = {
        "city": "waves",
        "boundary": {"bbox": list(square(2000.0, EAST, NORTH).bounds)},
        "regions": {"side_m": 500, "plane": "epsg32650"},
        "satellite": satellite,
        "network": {"limits": {"127.0.0.1": {"per_second": 1000, "at_once": 8}}},
    }
    path, run = tmp_path / "waves.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(recipe))
    found = plan(read_recipe(path), run, draw=False)
    (only,) = found.sources.to_dict("records")
    assert only["items"] == only["left"] == found.regions
    assert only["requests"] == 6 * found.regions
    report = quick_build(path, run)
    rows, rejects = read_table(report.dataset, "waves", "satellite"), read_rejects(report.dataset)
    # the item covers only part of the city
    assert 4 <= len(rows) == found.regions - len(rejects)
    assert set(rejects["reason"]) == {"missing"}
    assert set(rows["captured_at"]) == {"2024-06-01T10:30:00Z"}
    assert set(rows["source"]) == {"sentinel2"}
    assert "the least cloudy items of waves" in read_metadata(report.dataset, "waves").source
    assert "modified Copernicus Sentinel data 2024" in (report.dataset / "README.md").read_text()
    asked = dict(catalogue.asked)
    assert quick_build(path, run).rows == report.rows
    assert catalogue.asked == asked
