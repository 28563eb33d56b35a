import asyncio
import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from dataset_builders.coordinates import convert
from dataset_builders.download import Store
from dataset_builders.errors import SourceError
from dataset_builders.photos import PhotoReject
from dataset_builders.sources.local_folder import LocalFolder
from dataset_builders.sources.street_view import StreetViewSource, View


def save(path, exif=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **({} if exif is None else {"exif": exif}))


def scan(tmp_path, **fields):
    store = Store(tmp_path / "store")
    found = list(LocalFolder(str(tmp_path / "in"), **fields).scan(store))
    views = [one for one in found if isinstance(one, View)]
    return views, [one for one in found if isinstance(one, PhotoReject)], store


def test_reads_exif_positions(tmp_path):
    exif, tags = Image.Exif(), ExifTags.GPS
    exif[ExifTags.IFD.GPSInfo] = {
        **{tags.GPSLatitudeRef: "S", tags.GPSLatitude: (33, 51, 30.0), tags.GPSImgDirection: 400},
        **{tags.GPSLongitudeRef: "E", tags.GPSLongitude: (151, 12, 36.0)},
    }
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.DateTimeOriginal: "2024:05:01 12:00:00"}
    save(tmp_path / "in" / "sydney.jpg", exif)
    save(tmp_path / "in" / "nowhere.jpg")
    (tmp_path / "in" / "torn.jpg").write_bytes((tmp_path / "in" / "sydney.jpg").read_bytes()[:300])
    (view,), (nowhere, torn), store = scan(tmp_path, coordinates="exif")
    assert (view.lon, view.lat) == pytest.approx((151.21, -33.858333), abs=1e-5)
    assert (view.heading, view.captured_at) == (40.0, "2024-05-01T12:00:00")
    assert Image.open(io.BytesIO(store.read(view.key))).size == (32, 24)
    assert (nowhere.file, nowhere.reason) == ("nowhere.jpg", "no_coordinates")
    assert torn.file == "torn.jpg"


def test_converts_coordinates_of_file_names(tmp_path):
    save(tmp_path / "in" / "0905_116.404,39.915_201907_90.jpg")
    save(tmp_path / "in" / "other.jpg")
    (view,), (reject,), store = scan(tmp_path, coordinates="file_name", coord_system="bd09")
    assert (view.lon, view.lat) == pytest.approx(convert(116.404, 39.915, "bd09", "wgs84"))
    assert (view.heading, view.captured_at) == (90.0, "2019-07")
    assert reject.file == "other.jpg"
    source = LocalFolder(str(tmp_path / "in"), "file_name", coord_system="bd09")
    assert isinstance(source, StreetViewSource)

    async def main():
        return [view async for view in source.views([], None, store)]

    assert asyncio.run(main()) == [view]


def test_reads_csv_and_lists_unusable_rows(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "sub/e.png", "unlisted.png"):
        save(tmp_path / "in" / name)
    listing = tmp_path / "in" / "images.csv"
    listing.write_text(
        "file,lon,lat,heading,captured_at\na.jpg,7.1,50.1,nan,2020-01\nb.jpg,inf,50,0,\n"
        "c.jpg,7,200,0,\nd.jpg,east,50,0,\na.jpg,8,51,0,\na.jpg,8,51,0,,0\n../e.jpg,8,51,0,\n"
        ",8,51,0,\nsub/e.png,2.36,48.86,10,\n"
    )
    views, rejects, _ = scan(tmp_path, coordinates="csv")
    assert [(v.image_id, v.lon, v.heading, v.captured_at) for v in views] == [
        ("local/a.jpg", 7.1, None, "2020-01"),
        ("local/sub/e.png", 2.36, 10.0, None),
    ]
    assert [(one.file, one.reason) for one in rejects] == [
        ("a.jpg", "bad_row"), ("a.jpg", "listed_twice"), ("../e.jpg", "outside_folder"),
        ("row 7", "no_file"), *((f"{name}.jpg", "no_coordinates") for name in "bcd"),
        ("unlisted.png", "no_coordinates"),
    ]  # fmt: skip
    listing.write_text("file,x,y\n")
    with pytest.raises(SourceError, match=r"no column lon, lat; it has file, x, y"):
        scan(tmp_path, coordinates="csv")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"coordinates": "csv", "coord_system": "WGS84"}, "coord_system"),
        ({"coordinates": "exif", "coord_system": "gcj02"}, "always wgs84"),
        ({"coordinates": "file_name", "pattern": "(.*)"}, "groups `lon` and `lat`"),
    ],
)
def test_rejects_invalid_settings(tmp_path, fields, message):
    with pytest.raises(SourceError, match=message):
        LocalFolder(str(tmp_path), **fields)
