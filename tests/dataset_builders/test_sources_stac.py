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

from dataset_builders.city.build import build
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

rasterio = pytest.importorskip("rasterio")
EAST, NORTH = 448_000.0, 4_417_000.0
ASSETS = ("red", "green", "blue")


@pytest.fixture
def catalogue():
    with StacCatalogue() as server:
        yield server


def utm(epsg=32650):
    return pyproj.Transformer.from_crs("EPSG:32650", f"EPSG:{epsg}", always_xy=True)


def scene(epsg=32650, pixel=10.0, side_m=4000.0, hole=None, scale=10, dtype="uint16", nodata=0):
    """Values `(n, n, 3)` of the waves around the square with nodata 0, and a raster profile."""
    x, y = utm(epsg).transform(EAST + 500, NORTH + 500)
    count = int(side_m / pixel)
    west, north = x - side_m / 2, y + side_m / 2
    ticks = (np.arange(count) + 0.5) * pixel
    xs, ys = np.meshgrid(west + ticks, north - ticks)
    values = (waves(*utm(epsg).transform(xs, ys, direction="INVERSE")) * scale).round()
    if hole is not None:
        values[hole(*utm(epsg).transform(xs, ys, direction="INVERSE"))] = 0
    profile = {
        "driver": "COG",
        "width": count,
        "height": count,
        "dtype": dtype,
        "crs": f"EPSG:{epsg}",
        "transform": rasterio.transform.from_origin(west, north, pixel, pixel),
        "nodata": nodata,
        "blocksize": 128,
    }
    return values.astype(dtype), profile


def tiff(values, profile):
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile, count=len(values)) as file:
            file.write(values)
        return memory.read()


def bands(**options):
    """Three single-band files."""
    values, profile = scene(**options)
    return {name: tiff(values[None, ..., i], profile) for i, name in enumerate(ASSETS)}


def footprint(side_m=4000.0, east=EAST + 500, north=NORTH + 500):
    return square(side_m, east - side_m / 2, north - side_m / 2)


def source(catalogue, **changes):
    values = {
        "name": "waves",
        "url": catalogue.url,
        "collection": "waves",
        "datetime": "2024-05-01/2024-09-30",
        "stretch": (0.0, 2550.0),
        "licence": "cc-by-4.0",
    }
    return StacSource(**(values | changes))


def regions(*shapes):
    names = [f"r{number}" for number in range(len(shapes))]
    return gpd.GeoDataFrame({"region_id": names}, geometry=list(shapes), crs="EPSG:4326")


def fetch(folder, found, wanted, **options):
    """Fetch; return the metadata and the encoded image of each region."""

    async def job(fetcher, store):
        async for _ in found.fetch(wanted, fetcher, store):
            pass
        known = list(found.pictures(wanted, store))
        return known, [None if one.reason else found.read(one, store) for one in known]

    return with_fetcher(folder, job, **options)


@pytest.mark.parametrize("epsg", [32650, 32649], ids=["same zone", "turned by the next zone"])
@pytest.mark.parametrize("pixel", [10.0, 1.0], ids=["10 m", "1 m"])
def test_a_picture_lies_where_its_region_is(catalogue, tmp_path, epsg, pixel):
    side_m = 4000.0 if pixel == 10 else 1600.0
    catalogue.add("A", footprint(1500.0), bands(epsg=epsg, pixel=pixel, side_m=side_m), 3.0)
    (known,), (picture,) = fetch(tmp_path, source(catalogue), regions(square()))
    assert known.reason == ""
    assert Image.open(io.BytesIO(picture)).size == (256, 256)
    assert displacement_px(picture, 1000.0) < 0.5


def test_the_measure_itself_sees_a_pixel(catalogue, tmp_path):
    catalogue.add("A", footprint(), bands(), 3.0)
    aside = square(1000.0, EAST + 4, NORTH)
    _, (picture,) = fetch(tmp_path, source(catalogue), regions(aside))
    assert displacement_px(picture, 1000.0) > 0.7


def test_one_asset_of_three_bands_is_enough(catalogue, tmp_path):
    values, profile = scene(scale=1, dtype="uint8", nodata=None)
    content = tiff(values.transpose(2, 0, 1), profile)
    catalogue.add("N", footprint(), {"image": content})  # without eo:cloud_cover
    found = source(catalogue, assets=("image",), stretch=(0.0, 255.0))
    (known,), (picture,) = fetch(tmp_path, found, regions(square()))
    assert known.captured_at == "2024-06-01T10:30:00Z"
    assert displacement_px(picture, 1000.0) < 0.5


def test_values_are_stretched_as_the_recipe_says(catalogue, tmp_path):
    values, profile = scene()
    levels = (500, 1500, 4000)
    flat = {
        name: tiff(np.full_like(values[None, ..., 0], level), profile)
        for name, level in zip(ASSETS, levels, strict=True)
    }
    catalogue.add("A", footprint(), flat, 3.0)
    found = source(catalogue, stretch=(1000.0, 2000.0))
    _, (picture,) = fetch(tmp_path, found, regions(square()))
    seen = np.asarray(Image.open(io.BytesIO(picture)), dtype=float).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(seen, (0, 127.5, 255), atol=3)
    assert "1000 to 2000 stretched to 0 to 255" in found.makeup


def test_the_least_cloudy_item_of_all_pages_is_taken(catalogue, tmp_path):
    for name, cloud in (("A", 9.0), ("B", 15.0), ("C", 50.0), ("D", 2.0), ("E", 7.0)):
        catalogue.add(name, footprint(), bands() if name == "D" else {}, cloud)
        catalogue.items[-1]["assets"] = catalogue.items[0]["assets"] | catalogue.items[-1]["assets"]
    (known,), _ = fetch(tmp_path, source(catalogue), regions(square()))
    assert json.loads(known.detail)["items"] == ["D"]
    assert len(catalogue.searches) == 3
    first = catalogue.searches[0]
    assert first["collections"] == "waves"
    assert first["datetime"] == "2024-05-01T00:00:00Z/2024-09-30T23:59:59Z"
    west, south, east, north = (float(one) for one in first["bbox"].split(","))
    assert shapely.box(west, south, east, north).buffer(1e-5).covers(square())


def test_what_was_made_is_not_asked_for_again(catalogue, tmp_path):
    catalogue.add("A", footprint(), bands(), 3.0)
    found, wanted = source(catalogue), [square(300.0, EAST + 300 * i, NORTH) for i in range(3)]
    fetch(tmp_path, found, regions(*wanted[:2]))
    before = dict(catalogue.asked)
    fetch(tmp_path, found, regions(*wanted[:2]))
    assert catalogue.asked == before
    (*_, last), _ = fetch(tmp_path, found, regions(*wanted))
    assert last.reason == ""
    assert catalogue.asked["/search"] == 2


def test_a_signature_in_an_address_is_used_and_not_kept(catalogue, tmp_path):
    catalogue.signed = True
    catalogue.add("A", footprint(), bands(), 3.0)
    for asset in catalogue.items[0]["assets"].values():
        asset["href"] += f"?{SIGNATURE}"
    (known,), _ = fetch(tmp_path, source(catalogue), regions(square()))
    assert known.reason == ""
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"S1GN" not in path.read_bytes(), path


def test_without_a_signature_the_run_stops(catalogue, tmp_path):
    catalogue.signed = True
    catalogue.add("A", footprint(), bands(), 3.0)
    many = [square(200.0, EAST + 200 * i, NORTH) for i in range(5)]
    with pytest.raises(StoppedError, match="permissions") as caught:
        fetch(tmp_path, source(catalogue), regions(*many))
    assert "S1GN" not in str(caught.value)


def test_an_item_without_a_band_is_passed_over(catalogue, tmp_path):
    catalogue.add("A", footprint(), {"red": b"", "green": b""}, 0.0)
    catalogue.add("B", footprint(), bands(), 8.0)
    (known,), _ = fetch(tmp_path, source(catalogue), regions(square()))
    assert json.loads(known.detail)["items"] == ["B"]
    found = source(catalogue, assets=("B04", "B03", "B02"))
    with pytest.raises(SourceError, match="assets B04, B03, B02; they have blue, green, red"):
        fetch(tmp_path, found, regions(square()))


def test_addresses_of_no_web_server_are_refused_before_anything_is_asked_for(catalogue, tmp_path):
    catalogue.add("A", footprint(), bands(), 0.0)
    catalogue.items[0]["assets"]["red"]["href"] = "s3://bucket/A-red.tif?sig=S1GN"
    with pytest.raises(SourceError, match=r"such as s3://bucket/A-red\.tif, which cannot be read"):
        fetch(tmp_path, source(catalogue), regions(square()))
    assert set(catalogue.asked) == {"/search"}
    catalogue.add("B", footprint(), bands(), 9.0)  # cloudier but readable
    (known,), _ = fetch(tmp_path, source(catalogue), regions(square()))
    assert json.loads(known.detail)["items"] == ["B"]


def test_gaps_are_filled_by_the_next_item_or_the_picture_is_missing(catalogue, tmp_path):
    def west_half(east, north):
        return east < EAST + 500

    catalogue.add("A", footprint(), bands(hole=west_half), 1.0)
    (known,), _ = fetch(tmp_path / "one", source(catalogue), regions(square()))
    assert (known.reason, known.detail[:4]) == ("missing", "50% ")
    found = source(catalogue, min_valid=0.4)
    (known,), (picture,) = fetch(tmp_path / "half", found, regions(square()))
    assert known.reason == ""
    seen = np.asarray(Image.open(io.BytesIO(picture)))
    assert seen[:, :120].max() < 16 < seen[:, 136:].mean()
    catalogue.add("B", footprint(), bands(), 9.0, "2024-07-01T10:30:00Z")
    (known,), (picture,) = fetch(tmp_path / "two", source(catalogue), regions(square()))
    assert json.loads(known.detail)["items"] == ["A", "B"]
    assert known.captured_at == "2024-06-01T10:30:00Z"
    assert displacement_px(picture, 1000.0) < 0.5


def test_a_region_beside_all_items_is_missing(catalogue, tmp_path):
    catalogue.add("A", footprint(), bands(), 1.0)
    wanted = regions(square(), square(1000.0, EAST + 50_000, NORTH))
    (inside, outside), _ = fetch(tmp_path, source(catalogue), wanted)
    assert (inside.reason, outside.reason) == ("", "missing")
    assert outside.detail == "no item covers the region"


@pytest.mark.parametrize(
    ("content", "detail"),
    [(b"no picture" * 9, "asset red: not a readable GeoTIFF"), (None, "asset red: HTTP 404")],
    ids=["no picture", "no file"],
)
def test_a_file_that_cannot_be_read_is_told(catalogue, tmp_path, content, detail):
    catalogue.add("A", footprint(), bands(), 1.0)
    catalogue.files["A-red.tif"] = content
    (known,), _ = fetch(tmp_path, source(catalogue), regions(square()))
    assert known.reason == "missing"
    assert detail in known.detail


def test_a_busy_server_is_waited_for(catalogue, tmp_path, monkeypatch):
    monkeypatch.setitem(geotiff.GDAL_OPTIONS, "GDAL_HTTP_RETRY_DELAY", "0.1")
    catalogue.add("A", footprint(), bands(), 3.0)
    catalogue.answers["/search"] = [(429, {"Retry-After": "0.1"}, b"")]
    catalogue.busy = 2
    (known,), (picture,) = fetch(tmp_path, source(catalogue), regions(square()))
    assert known.reason == ""
    assert displacement_px(picture, 1000.0) < 0.5


def test_what_fails_for_the_moment_is_asked_for_again(catalogue, tmp_path, monkeypatch):
    monkeypatch.setitem(geotiff.GDAL_OPTIONS, "GDAL_HTTP_MAX_RETRY", "0")
    catalogue.add("A", footprint(), bands(), 1.0)
    catalogue.busy = 1
    (known,), _ = fetch(tmp_path, source(catalogue), regions(square()))
    assert known.reason == "failed"
    assert known.detail == "no item covers the region; A: asset red: HTTP 503"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, {}, b'{"features": [], "links": []}'), "no item of 'waves'"),
        ((200, {"Content-Type": "text/html"}, b"<html/>"), "URL of a STAC API"),
        ((404, {}, b""), "URL of a STAC API"),
        ((200, {}, b'{"features": [{"id": 1, "bbox": "here"}]}'), "URL of a STAC API"),
    ],
)
def test_a_catalogue_that_has_nothing_is_told(catalogue, tmp_path, answer, message):
    catalogue.answers["/search"] = [answer]
    with pytest.raises(SourceError, match=message):
        fetch(tmp_path, source(catalogue), regions(square()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assets": ("red", "green")}, "three assets"),
        ({"stretch": (5.0, 5.0)}, "`stretch` of .* must increase"),
        ({"datetime": "2024-05-01"}, "first and a last day"),
        ({"datetime": "2024-05-01/.."}, "first and a last day"),
        ({"datetime": "2024-05-02/2024-05-01"}, "ends before"),
        ({"min_valid": 0.0}, "min_valid"),
        ({"url": "s3://somewhere"}, "https://"),
    ],
)
def test_settings_that_cannot_work_are_refused(catalogue, changes, message):
    with pytest.raises(SourceError, match=message):
        source(catalogue, **changes)


def test_a_city_is_built_with_pictures_of_a_catalogue(catalogue, tmp_path):
    catalogue.add("A", footprint(2600.0), bands(side_m=2600.0), 1.0)
    west, south, east, north = square(2000.0, EAST, NORTH).bounds
    recipe = tmp_path / "waves.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "city": "waves",
                "boundary": {"bbox": [west, south, east, north]},
                "regions": {"side_m": 500, "plane": "epsg32650"},
                "satellite": {
                    "provider": "stac",
                    "name": "sentinel2",
                    "url": catalogue.url,
                    "collection": "waves",
                    "datetime": "2024-05-01/2024-09-30",
                    "stretch": [0, 2550],
                    "licence": "cc-by-4.0",
                    "attribution": "contains modified Copernicus Sentinel data 2024",
                    "redistributable": True,
                },
                "network": {"limits": {"127.0.0.1": {"per_second": 1000, "at_once": 8}}},
            }
        )
    )
    found = plan(read_recipe(recipe), tmp_path / "run", draw=False)
    (only,) = found.sources.to_dict("records")
    assert only["items"] == only["left"] == found.regions
    assert only["requests"] == 6 * found.regions
    report = build(read_recipe(recipe), tmp_path / "run", draw=False)
    rows = read_table(report.dataset, "waves", "satellite")
    # the item covers only part of the city
    rejects = read_rejects(report.dataset)
    assert 4 <= len(rows) == found.regions - len(rejects)
    assert set(rejects["reason"]) == {"missing"}
    assert set(rows["captured_at"]) == {"2024-06-01T10:30:00Z"}
    assert set(rows["source"]) == {"sentinel2"}
    assert "the least cloudy items of waves" in read_metadata(report.dataset, "waves").source
    card = (report.dataset / "README.md").read_text()
    assert "contains modified Copernicus Sentinel data 2024" in card
    asked = dict(catalogue.asked)
    again = build(read_recipe(recipe), tmp_path / "run", draw=False)
    assert again.rows == report.rows
    assert catalogue.asked == asked


def test_a_file_that_breaks_off_in_the_middle_has_no_data(catalogue, tmp_path):
    catalogue.add("A", footprint(), bands(pixel=2.0), 1.0)
    catalogue.broken = "red.tif"
    (known,), _ = fetch(tmp_path, source(catalogue), regions(square()))
    assert known.reason == "missing"
    assert "asset red" in known.detail
