import hashlib
import io

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from PIL import Image

from dataset_builders.coordinates import convert, tile_corner
from dataset_builders.download import Fetched, Store
from dataset_builders.errors import SourceError
from dataset_builders.sources.tiles import TileSource

WAVE_M = 200.0  # divides the sides of all squares
TO_UTM = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32650", always_xy=True)
TO_DEGREES = pyproj.Transformer.from_crs("EPSG:32650", "EPSG:4326", always_xy=True)
XYZ = TileSource("waves", "http://localhost/{z}/{x}/{y}.png", 15)
TMS = TileSource("waves", "http://localhost/{z}/{x}/{y}.png", 15, scheme="tms")
BAIDU = TileSource("waves", "http://localhost/?x={x}&y={y}&z={z}", 16, scheme="baidu")


def waves(east, north):
    """Test pattern that encodes the location: waves in the east and north direction."""
    red = 127 + 100 * np.sin(2 * np.pi * east / WAVE_M)
    green = 127 + 100 * np.sin(2 * np.pi * north / WAVE_M)
    return np.stack([red, green, np.full_like(red, 40.0)], axis=-1)


def draw_tile(source, x, y):
    centres = (np.arange(256) + 0.5) / 256
    across, down = np.meshgrid(centres, centres)
    up = 1 - down
    row = y + 1 - up if source.scheme == "xyz" else y + up
    # the south-west corner of a fractional tile is the location of a pixel
    lon, lat = tile_corner(
        x + across, row - 1 if source.scheme == "xyz" else row, source.zoom, source.scheme
    )
    if source.scheme == "baidu":
        lon, lat = convert(lon, lat, "bd09", "wgs84")
    pixels = waves(*TO_UTM.transform(lon, lat))
    buffer = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def put(store, source, tile):
    content = draw_tile(source, *tile)
    digest = hashlib.sha256(content).hexdigest()
    store.put(Fetched(source.key_of(*tile), "ok", 200, digest, len(content)), content)


def square(side_m=1000.0, east=448_000.0, north=4_417_000.0):
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * side_m + (east, north)
    return shapely.Polygon(np.column_stack(TO_DEGREES.transform(*corners.T)))


def displacement_px(picture, side_m, east=448_000.0, north=4_417_000.0):
    """Larger of the eastward and northward displacement of the waves in pixels."""
    seen = np.asarray(Image.open(io.BytesIO(picture)), dtype=float)
    centres = (np.arange(256) + 0.5) / 256 * side_m
    xs, ys = np.meshgrid(east + centres, north + side_m - centres)
    errors = []
    for channel, place in ((0, xs), (1, ys)):
        phase = 2 * np.pi * place / WAVE_M
        sine, cosine = (
            (seen[..., channel] - 127) * np.sin(phase),
            (seen[..., channel] - 127) * np.cos(phase),
        )
        shift_m = np.arctan2(cosine.mean(), sine.mean()) * WAVE_M / (2 * np.pi)
        errors.append(abs(shift_m) / (side_m / 256))
    return max(errors)


@pytest.mark.parametrize("source", [XYZ, TMS, BAIDU], ids=lambda source: source.scheme)
def test_image_lies_where_its_region_is(tmp_path, source):
    store = Store(tmp_path)
    for side_m in (600.0, 1000.0):
        region = square(side_m)
        first, *others = source.covering(region)
        for tile in others:
            put(store, source, tile)
        if store.get(source.key_of(*first)) is None:
            assert source.mosaic(region, store) is None  # a tile is missing
            put(store, source, first)
        picture = source.mosaic(region, store)
        assert Image.open(io.BytesIO(picture)).size == (256, 256)
        assert displacement_px(picture, side_m) < 0.5


def test_measured_displacement_resolves_a_pixel(tmp_path):
    store = Store(tmp_path)
    region = square(1000.0, east=448_004.0)  # displaced by one pixel of 4 m
    for tile in XYZ.covering(region):
        put(store, XYZ, tile)
    assert displacement_px(XYZ.mosaic(region, store), 1000.0) > 0.7


def test_neighbouring_regions_share_tiles():
    regions = [square(1000.0, 448_000.0 + 1000 * i, 4_417_000.0) for i in range(6)]
    together = XYZ.tiles(gpd.GeoDataFrame(geometry=regions, crs="EPSG:4326"))
    assert len(together) < sum(len(XYZ.covering(region)) for region in regions)
    assert len(set(together)) == len(together)
    with pytest.raises(SourceError, match="four corners"):
        XYZ.covering(shapely.Point(116, 40).buffer(0.01))


def test_fills_in_wmts_names_and_keys(monkeypatch):
    url = "http://localhost/{TileMatrix}/{TileRow}/{TileCol}"
    source = TileSource("w", url, 7, key_env="TILE_KEY", key_param="tk")
    monkeypatch.delenv("TILE_KEY", raising=False)
    with pytest.raises(SourceError, match="environment variable TILE_KEY"):
        source.item(3, 4)
    monkeypatch.setenv("TILE_KEY", "S3CRET")
    item = source.item(3, 4)
    assert item.url == "http://localhost/7/4/3"
    assert item.params == {"tk": "S3CRET"}
    assert "S3CRET" not in repr(item) + repr(source)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "http://localhost/{z}/{x}"}, "must contain"),
        ({"url": "http://localhost/{z}/{x}/{y}/{secret}"}, "must contain"),
        ({"url": "http://localhost/{z}/{x}/{y}", "scheme": "bing"}, "scheme"),
    ],
)
def test_rejects_invalid_settings(fields, message):
    with pytest.raises(SourceError, match=message):
        TileSource("x", zoom=3, **fields)
