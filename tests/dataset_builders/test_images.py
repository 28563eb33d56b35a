import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataset_builders.images import (
    BadImageError,
    decode_image,
    encode_image,
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


def animation(format: str) -> bytes:
    frames = [picture(seed) for seed in range(3)]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_decode_to_the_same_pixels(format):
    options = {"lossless": True} if format == "WEBP" else {}
    decoded = decode_image(encoded(picture(), format, **options))
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(pixels(decoded), pixels(picture()))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"this is no picture at all, though its name ends in .jpg", "unreadable"),
        (encoded(picture(), "JPEG")[:20], "unreadable"),
        (animation("GIF"), "animated"),
        (animation("WEBP"), "animated"),
        (animation("PNG"), "animated"),
        (encoded(Image.new("RGB", (1, 10_000))), "aspect_ratio"),
        (encoded(Image.new("RGB", (4, 4))), "too_small"),
        (encoded(Image.new("F", (16, 16)), "TIFF"), "unreadable"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_refused_with_its_reason(data, expected):
    assert reason(data) == expected


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "BMP"])
def test_a_truncated_image_is_refused_though_verify_lets_a_jpeg_pass(format):
    data = encoded(picture(size=(200, 200)), format)[:-3000]
    if format == "JPEG":
        Image.open(io.BytesIO(data)).verify()
    assert reason(data) == "truncated"


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    for side in (10_000, 60_000):
        data = bytearray(encoded(picture()))
        # width, height and checksum of the header chunk
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        assert reason(bytes(data)) == "too_large"
    with pytest.raises(BadImageError, match="24 x 16 pixels, more than 100"):
        decode_image(encoded(picture()), max_pixels=100)


@pytest.mark.parametrize("name", ["street.eps", "street.jpg"])
def test_no_codec_that_starts_another_program_is_used(tmp_path, monkeypatch, name):
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    path = tmp_path / name
    picture().save(path, "EPS")
    for source in (path, path.read_bytes()):
        assert reason(source) == "unreadable"
    with pytest.raises(OSError, match="no image"):
        exif_position(path)
    assert not (tmp_path / "started").exists()


def test_a_row_opens_files_of_its_dataset_only(tmp_path):
    own, secret = tmp_path / "dataset", tmp_path / "secret.png"
    own.mkdir()
    for path in (own / "a.png", secret):
        path.write_bytes(encoded(picture()))
    (own / "link.png").symlink_to(secret)
    data = encoded(picture(1))
    assert stored_bytes(None, own) is None
    assert stored_bytes({"bytes": None, "path": None}, own) is None
    assert stored_bytes({"bytes": data, "path": str(secret)}) == data
    assert stored_bytes({"bytes": None, "path": "a.png"}, own) == (own / "a.png").read_bytes()
    assert stored_bytes({"bytes": None, "path": str(own / "a.png")}, own)
    outside = (
        str(secret),
        "../secret.png",
        "link.png",
        "http://127.0.0.1/a.png",
        "a\0b",
        "none.png",
    )
    for name in outside:
        with pytest.raises(BadImageError) as refused:
            stored_bytes({"bytes": None, "path": name}, own)
        assert refused.value.reason == "outside_dataset"
    with pytest.raises(BadImageError, match="not a file of the dataset"):
        stored_bytes({"bytes": None, "path": str(own / "a.png")})


def test_a_missing_file_says_so(tmp_path):
    assert reason(tmp_path / "no.jpg") == "missing"


def test_cmyk_is_converted():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    decoded = pixels(decode_image(encoded(red, "JPEG", quality=95)))
    assert np.abs(decoded - [255, 0, 0]).max() <= 3


def test_16_bit_grey_is_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)
    data = encoded(Image.fromarray(np.tile(ramp, (16, 1))), "PNG")
    assert Image.open(io.BytesIO(data)).mode == "I;16"
    decoded = pixels(decode_image(data))
    np.testing.assert_array_equal(decoded[0, :, 0], np.arange(256))
    assert (decoded == decoded[..., :1]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    clear = Image.new(mode, (16, 16), 0)
    assert (pixels(decode_image(encoded(clear))) == 255).all()


def test_a_palette_keeps_its_colours_and_its_transparent_entry_becomes_white():
    image = Image.new("P", (16, 16), 1)
    image.putpalette([9, 9, 9, 200, 30, 40])
    image.paste(0, (0, 0, 8, 16))
    decoded = pixels(decode_image(encoded(image, "PNG", transparency=0)))
    np.testing.assert_array_equal(decoded[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(decoded[0, 15], [200, 30, 40])


def test_a_colour_key_of_rgb_becomes_white():
    image = Image.new("RGB", (16, 16), (1, 2, 3))
    assert (pixels(decode_image(encoded(image, "PNG", transparency=(1, 2, 3)))) == 255).all()


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode_image(encoded(picture(), "PNG", exif=exif))
    turned = picture().transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(pixels(decoded), pixels(turned))


def test_a_broken_exif_block_does_not_cost_the_image():
    decoded = decode_image(encoded(picture(), "PNG", exif=b"Exif\0\0II*\0garbage"))
    np.testing.assert_array_equal(pixels(decoded), pixels(picture()))


def test_the_first_page_of_a_tiff_and_the_picture_of_an_mpo_are_taken():
    for format in ("TIFF", "MPO"):
        red, blue = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
        decoded = decode_image(encoded(red, format, save_all=True, append_images=[blue]))
        assert np.abs(pixels(decoded) - [255, 0, 0]).max() < 5


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a"]),
)
def test_any_bytes_decode_or_are_refused(tail, head):
    assert outcome(head + tail) in OUTCOMES


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_corrupted_image_decodes_or_is_refused(position, change):
    for format in ("JPEG", "PNG", "WEBP", "GIF"):
        data = bytearray(encoded(picture(), format))
        data[position % len(data)] ^= change
        assert outcome(bytes(data)) in OUTCOMES


def test_plain_images_are_stored_untouched():
    for image, format in ((picture(), "JPEG"), (picture(), "PNG"), (picture().convert("L"), "PNG")):
        data = encoded(image, format)
        assert storable_bytes(data) == data


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.new("CMYK", (16, 16), (0, 99, 200, 3)), "JPEG"),
        encoded(Image.new("RGBA", (16, 16), (1, 2, 3, 99)), "PNG"),
        encoded(picture().quantize(8), "GIF"),
        encoded(picture(), "BMP"),
    ],
)
def test_others_are_stored_as_what_they_decode_to(data):
    stored = storable_bytes(data)
    image = Image.open(io.BytesIO(stored))
    assert (image.format, image.mode) == ("PNG", "RGB")
    np.testing.assert_array_equal(pixels(image), pixels(decode_image(data)))


def test_encode_image():
    assert Image.open(io.BytesIO(encode_image(picture()))).format == "JPEG"
    assert len(encode_image(picture(), quality=20)) < len(encode_image(picture(), quality=95))
    np.testing.assert_array_equal(
        pixels(decode_image(encode_image(picture(), "PNG"))), pixels(picture())
    )
