import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataset_builders.images import (
    BadImageError,
    decode_image,
    storable_bytes,
    stored_bytes,
)
from dataset_builders.photos import exif_position

from .helpers import encoded, picture


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def reason(data) -> str:
    with pytest.raises(BadImageError) as info:
        decode_image(data)
    return info.value.reason


OUTCOMES = {
    "RGB", "empty", "unreadable", "truncated", "animated", "aspect_ratio", "too_small", "too_large",
}  # fmt: skip


def outcome(data: bytes) -> str:
    try:
        return decode_image(data).mode
    except BadImageError as error:
        return error.reason


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"this is no picture at all, though its name ends in .jpg", "unreadable"),
        (encoded(picture(), "GIF", save_all=True, append_images=[picture(1)]), "animated"),
        (encoded(picture(), "PNG", save_all=True, append_images=[picture(1)]), "animated"),
        (encoded(Image.new("RGB", (1, 10_000))), "aspect_ratio"),
        (encoded(Image.new("RGB", (4, 4))), "too_small"),
        (encoded(Image.new("F", (16, 16)), "TIFF"), "unreadable"),
        (Path("no.jpg"), "missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rejects_unusable_images_with_a_reason(data, expected):
    assert reason(data) == expected


def test_rejects_truncated_images():
    for format in ("JPEG", "PNG", "TIFF", "BMP"):
        assert reason(encoded(picture(size=(200, 200)), format)[:-3000]) == "truncated"


def test_rejects_decompression_bombs_before_decoding():
    for side in (10_000, 60_000):
        data = bytearray(encoded(picture()))
        # width, height and checksum of the header chunk
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        assert reason(bytes(data)) == "too_large"
    with pytest.raises(BadImageError, match="24 x 16 pixels, more than 100"):
        decode_image(encoded(picture()), max_pixels=100)


def test_no_codec_starts_another_program(tmp_path, monkeypatch):
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    path = tmp_path / "street.jpg"
    picture().save(path, "EPS")
    for source in (path, path.read_bytes()):
        assert reason(source) == "unreadable"
    with pytest.raises(OSError, match="no image"):
        exif_position(path)
    assert not (tmp_path / "started").exists()


def test_rows_open_only_files_of_their_dataset(tmp_path):
    own, secret, data = tmp_path / "dataset", tmp_path / "secret.png", encoded(picture())
    own.mkdir()
    for path in (own / "a.png", secret):
        path.write_bytes(data)
    (own / "link.png").symlink_to(secret)
    assert stored_bytes(None, own) is stored_bytes({"bytes": None, "path": None}, own) is None
    assert stored_bytes({"bytes": b"x", "path": str(secret)}) == b"x"
    assert stored_bytes({"bytes": None, "path": "a.png"}, own) == data
    outside = (
        str(secret),
        "../secret.png",
        "link.png",
        "http://127.0.0.1/a.png",
        "a\0b",
        "none.png",
    )
    for name in outside:
        with pytest.raises(BadImageError, match="not a file of the dataset"):
            stored_bytes({"bytes": None, "path": name}, own)
    with pytest.raises(BadImageError, match="not a file of the dataset"):
        stored_bytes({"bytes": None, "path": str(own / "a.png")})


def test_16_bit_grey_is_scaled():
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)
    decoded = pixels(decode_image(encoded(Image.fromarray(np.tile(ramp, (16, 1))))))
    np.testing.assert_array_equal(decoded[0], np.arange(256)[:, None].repeat(3, axis=1))


def test_converts_colour_modes_and_lays_transparency_on_white():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    decoded = pixels(decode_image(encoded(red, "JPEG", quality=95)))
    assert np.abs(decoded - [255, 0, 0]).max() <= 3
    key = Image.new("RGB", (16, 16), (1, 2, 3))
    for data in (
        encoded(Image.new("RGBA", (16, 16), 0)),
        encoded(Image.new("LA", (16, 16), 0)),
        encoded(key, "PNG", transparency=(1, 2, 3)),
    ):
        assert (pixels(decode_image(data)) == 255).all()
    image = Image.new("P", (16, 16), 1)
    image.putpalette([9, 9, 9, 200, 30, 40])
    image.paste(0, (0, 0, 8, 16))
    decoded = pixels(decode_image(encoded(image, "PNG", transparency=0)))
    np.testing.assert_array_equal(decoded[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(decoded[0, 15], [200, 30, 40])


def test_applies_exif_orientation_and_ignores_broken_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode_image(encoded(picture(), "PNG", exif=exif))
    turned = picture().transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(pixels(decoded), pixels(turned))
    decoded = decode_image(encoded(picture(), "PNG", exif=b"Exif\0\0II*\0garbage"))
    np.testing.assert_array_equal(pixels(decoded), pixels(picture()))


def test_takes_the_first_page_of_tiff_and_mpo():
    for format in ("TIFF", "MPO"):
        red, blue = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
        decoded = decode_image(encoded(red, format, save_all=True, append_images=[blue]))
        assert np.abs(pixels(decoded) - [255, 0, 0]).max() < 5


@given(st.integers(0, 10_000), st.integers(1, 255), st.binary(max_size=200))
def test_corrupted_images_decode_or_are_rejected(position, change, other):
    assert outcome(other) in OUTCOMES
    for format in ("JPEG", "PNG", "WEBP", "GIF"):
        data = bytearray(encoded(picture(), format))
        data[position % len(data)] ^= change
        assert outcome(bytes(data)) in OUTCOMES
        assert outcome(bytes(data[:12]) + other) in OUTCOMES


def test_stores_plain_images_unchanged_and_others_as_png():
    for image, format in ((picture(), "JPEG"), (picture(), "PNG"), (picture().convert("L"), "PNG")):
        data = encoded(image, format)
        assert storable_bytes(data) == data
    for data in (
        encoded(Image.new("CMYK", (16, 16), (0, 99, 200, 3)), "JPEG"),
        encoded(Image.new("RGBA", (16, 16), (1, 2, 3, 99)), "PNG"),
        encoded(picture(), "BMP"),
    ):
        image = Image.open(io.BytesIO(storable_bytes(data)))
        assert (image.format, image.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(pixels(image), pixels(decode_image(data)))
