"""Photos, their positions, and unusable files and rows."""

from fractions import Fraction

import pandas as pd
import pytest
from PIL import ExifTags, Image, TiffImagePlugin

from dataset_builders.errors import SourceError
from dataset_builders.photos import exif_position, find_photos

GPS = ExifTags.GPS


def rational(value: float) -> TiffImagePlugin.IFDRational:
    whole = Fraction(value).limit_denominator(100_000)
    return TiffImagePlugin.IFDRational(whole.numerator, whole.denominator)


def photo(path, lat=None, lon=None, **tags):
    image, exif = Image.new("RGB", (40, 30), "teal"), Image.Exif()
    if lat is not None:
        gps = {GPS.GPSLatitude: lat, GPS.GPSLongitude: lon}
        gps |= {GPS[name]: value for name, value in tags.items()}
        exif[ExifTags.IFD.GPSInfo] = gps
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif)
    return path


def dms(degrees: float):
    minutes = (degrees % 1) * 60
    return tuple(map(rational, (int(degrees), int(minutes), (minutes % 1) * 60)))


def test_reads_position_and_heading_from_exif(tmp_path):
    path = photo(
        tmp_path / "a.jpg", dms(40.75), dms(73.98), GPSLatitudeRef="N", GPSLongitudeRef="W",
        GPSImgDirection=rational(370.0),
    )  # fmt: skip
    found = exif_position(path)
    assert found["lat"] == pytest.approx(40.75, abs=1e-4)
    assert found["lon"] == pytest.approx(-73.98, abs=1e-4)
    assert found["heading"] == pytest.approx(10)
    unknown = TiffImagePlugin.IFDRational(0, 0)
    found = exif_position(photo(path, (rational(40.5),), dms(7.0), GPSImgDirection=unknown))
    assert found["lat"] == pytest.approx(40.5)  # without minutes and seconds
    assert found["heading"] is None


def test_rejects_photos_without_a_usable_position(tmp_path):
    photo(tmp_path / "good.jpg", dms(1.5), dms(2.5))
    photo(tmp_path / "none.jpg")
    photo(tmp_path / "zero.jpg", dms(0.0), dms(0.0))
    photo(tmp_path / "far.jpg", dms(95.0), dms(2.0))
    photo(tmp_path / "over.jpg", (TiffImagePlugin.IFDRational(1, 0),) * 3, dms(2.0))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "notes.txt").write_text("no image")
    found = find_photos(tmp_path)
    assert found.frame["file"].tolist() == ["good.jpg"]
    reasons = {reject.file: reject.reason for reject in found.rejects}
    assert reasons.pop("broken.jpg") == "unreadable"
    names = ("none.jpg", "zero.jpg", "far.jpg", "over.jpg")
    assert reasons == dict.fromkeys(names, "no_position")


def test_rejects_unusable_rows_of_a_csv(tmp_path):
    for name in ("a", "b", "c", "d", "e", "f", "unlisted"):
        photo(tmp_path / f"{name}.jpg")
    (tmp_path / "list.csv").write_text(
        "file,lon,lat\na.jpg,7.1,50.1\nb.jpg,inf,50\nc.jpg,7,200\nd.jpg,east,50\na.jpg,8,51\n"
        "../e.jpg,7,50\ngone.jpg,7,50\ne.jpg,7,50,one,too,many\n,7,50\nf.jpg,,50\n"
    )
    found = find_photos(tmp_path)
    assert found.frame.to_dict("records") == [{"file": "a.jpg", "lon": 7.1, "lat": 50.1}]
    assert {f"{reject.file} {reject.reason}" for reject in found.rejects} == {
        "b.jpg no_position", "c.jpg no_position", "d.jpg no_position", "f.jpg no_position",
        "a.jpg listed_twice", "../e.jpg outside_folder", "gone.jpg missing", "e.jpg bad_row",
        "row 8 no_file", "unlisted.jpg not_listed",
    }  # fmt: skip


def test_accepts_other_column_names_and_frames(tmp_path):
    photo(tmp_path / "a.jpg")
    (tmp_path / "list.csv").write_text("Image,Longitude,LATITUDE,rent\na.jpg,7,50,9\n")
    assert len(find_photos(tmp_path).frame) == 1
    frame = pd.DataFrame({"path": [str(tmp_path / "a.jpg")], "lng": [7.0], "lat": [50.0]})
    found = find_photos(frame)
    assert found.read(found.frame["file"][0])[:2] == b"\xff\xd8"


def test_rejects_unusable_folders_and_csvs(tmp_path):
    with pytest.raises(SourceError, match="no folder of images"):
        find_photos(tmp_path / "none")
    with pytest.raises(SourceError, match="holds no images"):
        find_photos(tmp_path)
    photo(tmp_path / "a.jpg")
    for content, message in (
        (b"", "cannot be read as UTF-8 CSV"),
        (b"name,x,y\na.jpg,1,2\n", "has no column file, lon, lat; it has name, x, y"),
        (b"file,lon,lat\nnone.jpg,1,2\n", "no image with a position: 1 missing, 1 not_listed"),
    ):
        (tmp_path / "list.csv").write_bytes(content)
        with pytest.raises(SourceError, match=message):
            find_photos(tmp_path)
    (tmp_path / "b.csv").touch()
    with pytest.raises(SourceError, match=r"several CSVs .b.csv, list.csv.: name one with --csv"):
        find_photos(tmp_path)
