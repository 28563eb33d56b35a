"""Limits and error messages of uploads."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_builders.images import encode_image
from demo.uploads import MAX_STREET_VIEWS, read_picture, read_uploads
from pipelines.evaluation.errors import InputError


def noise(side: int = 64) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    return encode_image(Image.fromarray(pixels))


def bomb() -> bytes:
    """PNG of 200 megapixels in a few kB, which would take 600 MB when decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(60_001)))
        + chunk(b"IEND", b"")
    )


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.jpg", noise())
    return buffer.getvalue()


BAD = {
    "note.png": (b"only words, no picture", "is text"),
    "page.jpg": (b"<!DOCTYPE html><script>alert(1)</script>", "web page"),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', "SVG"),
    "archive.jpg": (archive(), "zip archive"),
    "bomb.png": (bomb(), "too many pixels"),
    "cut.jpg": (noise(256)[:2_000], "it is truncated"),
    "narrow.png": (encode_image(Image.new("RGB", (900, 9)), "PNG"), "it is too narrow"),
    "nothing.jpg": (b"", "is empty"),
    "pickle.jpg": (b"\x80\x04\x95junk", "a pickle"),
    "small.png": (encode_image(Image.new("RGB", (4, 4)), "PNG"), "too small"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_refused_with_a_sentence(tmp_path, name):
    content, said = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_picture(path)
    assert name in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb())
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(InputError, match="too many pixels"):
        read_picture(path)


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "large.jpg"
    with path.open("wb") as file:
        file.truncate(30_000_000)  # sparse: all zeros, none on the disk
    with pytest.raises(InputError, match="30 MB, but the maximum is 20 MB"):
        read_picture(path)


def test_five_hundred_street_views_are_refused_before_any_is_opened():
    names = [f"/nowhere/{n}.jpg" for n in range(500)]
    with pytest.raises(InputError, match=f"At most {MAX_STREET_VIEWS} street views .* got 500"):
        read_uploads(names, None)


def test_an_empty_submission_is_told_what_to_do():
    for nothing in (None, []):
        with pytest.raises(InputError, match="Upload street views, a satellite image, or both"):
            read_uploads(nothing, None)


def test_an_address_is_no_file(tmp_path):
    """URLs are not followed, even if they are passed as a path."""
    with pytest.raises(OSError, match="No such file"):
        read_uploads(None, "http://169.254.169.254/latest/meta-data")


def test_large_pictures_are_reduced_and_upright(tmp_path):
    image = Image.new("RGB", (3000, 1500), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = tmp_path / "turned.jpg"
    image.save(path, exif=exif)
    upload = read_uploads([str(path)], str(path))
    assert upload.satellite is not None
    assert upload.satellite.size == (512, 1024)
    assert set(upload.views) == {"street_view", "satellite"}


def test_a_long_name_is_cut(tmp_path: Path):
    path = tmp_path / ("x" * 200 + ".jpg")
    path.write_bytes(b"words")
    with pytest.raises(InputError) as caught:
        read_picture(path)
    assert len(str(caught.value)) < 200
