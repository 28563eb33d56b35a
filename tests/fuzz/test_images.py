import io
import struct
import zlib
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from dataset_builders.images import (
    MAX_PIXELS,
    READABLE,
    BadImageError,
    decode_image,
    storable_bytes,
)
from dataset_builders.photos import exif_position
from modeling_urbanln.pipeline_urbanln import read_image

from .harness import ODD, damaged, inputs, knock, peak_mb

GPS = ExifTags.GPS
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "LA", "P", "I;16", "1"),
    "TIFF": ("RGB", "RGBA", "CMYK", "I;16", "F", "LAB"),
    "GIF": ("P",),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "P"),
    "PPM": ("RGB", "L"),
    "AVIF": ("RGB",),
    "JPEG2000": ("RGB", "LA"),
}
SEEDS = [(name, mode) for name in READABLE for mode in MODES[name]]


def exif_block(gps: dict, taken: object = "2024:05:01 12:00:00", orientation: object = 6) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = taken
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
    return exif.tobytes()


PLACE = {
    GPS.GPSLatitudeRef: "S",
    GPS.GPSLatitude: (IFDRational(33), IFDRational(52), IFDRational(3, 2)),
    GPS.GPSLongitudeRef: "E",
    GPS.GPSLongitude: (IFDRational(151), IFDRational(12), IFDRational(3, 2)),
    GPS.GPSImgDirection: IFDRational(90),
}


@cache
def seed(name: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    image = Image.radial_gradient("L").resize((16, 12))
    if mode in ("I;16", "F"):
        image = image.convert(mode)
    elif mode == "LAB":
        image = Image.merge("LAB", [image] * 3)
    else:
        image = image.convert("RGB").convert(mode)
    exif = {"exif": exif_block(PLACE)} if name in ("JPEG", "PNG", "WEBP") else {}
    image.save(buffer, name, **exif)
    return buffer.getvalue()


def png_of(width: int, height: int, bits: int, colour: int, pixels: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(("name", "mode"), SEEDS)
@inputs(2)
@given(data=st.data())
def test_images(name, mode, data):
    content = data.draw(damaged(seed(name, mode)))
    image = knock("images", lambda: decode_image(content), BadImageError)
    knock("images of the pipeline", lambda: read_image(content), ValueError)
    if image is not None:
        assert image.mode == "RGB"
        assert min(image.size) >= 8
        stored = storable_bytes(content)
        assert decode_image(stored).size == image.size


@inputs(10)
@given(
    st.integers(0, 2**31),
    st.integers(0, 2**31),
    st.sampled_from((1, 2, 4, 8, 16, 3)),
    st.integers(0, 7),
    st.binary(max_size=64),
)
@example(40_000, 40_000, 8, 2, bytes(64))
def test_sizes_that_a_header_claims(width, height, bits, colour, pixels):
    content, before = png_of(width, height, bits, colour, pixels), peak_mb()
    image = knock("images", lambda: decode_image(content), BadImageError)
    assert image is None or image.width * image.height <= MAX_PIXELS
    if width * height > MAX_PIXELS:
        assert peak_mb() - before < 50


ODD_VALUES = (
    st.builds(IFDRational, st.integers(0, 2**32 - 1), st.sampled_from((0, 1, 2**32 - 1)))
    | st.text(st.characters(max_codepoint=255), max_size=8)
    | st.binary(max_size=8)
    | st.integers(-(2**31), 2**32 - 1)
)


@inputs(30)
@given(
    st.dictionaries(st.sampled_from(list(PLACE)), ODD_VALUES | st.tuples(*[ODD_VALUES] * 3)),
    ODD_VALUES,
    ODD_VALUES,
    st.booleans(),
    st.data(),
)
def test_exif(tmp_path_factory, gps, taken, orientation, is_damaged, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.jpg"
    try:
        block = exif_block({**PLACE, **gps}, taken, orientation)
    except Exception:  # not a valid EXIF value
        block = exif_block(PLACE)
        is_damaged = True
    if is_damaged:
        block = data.draw(damaged(block))
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=block[:60_000])
    path.write_bytes(buffer.getvalue())
    place = knock("EXIF", lambda: exif_position(path), ValueError, OSError)
    if place is not None:
        assert abs(place["lon"]) <= 180
        assert abs(place["lat"]) <= 90
        assert place["heading"] is None or 0 <= place["heading"] < 360.001
        assert place["captured_at"] is None or isinstance(place["captured_at"], str)
    knock("EXIF", lambda: decode_image(path), BadImageError)


@inputs(10)
@given(ODD, ODD)
def test_images_in_rows(tmp_path_factory, content, path):
    from dataset_builders.images import stored_bytes

    row = {"bytes": None, "path": path} if isinstance(path, str) else {"bytes": content}
    folder = tmp_path_factory.getbasetemp()
    if isinstance(row["bytes"], bytes | None):
        knock("images in rows", lambda: stored_bytes(row, folder), BadImageError)
