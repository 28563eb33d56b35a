"""Limits and error messages of uploads."""

import asyncio
import struct
import zlib

import pytest
from PIL import Image

from dataset_builders.images import encode_image
from demo.uploads import (
    MAX_STREET_VIEWS,
    MAX_UPLOAD_BYTES,
    UploadLimit,
    read_picture,
    read_uploads,
)
from pipelines.evaluation.errors import InputError


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


BAD = {
    "page.jpg": (b"<!DOCTYPE html><script>alert(1)</script>", "web page"),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', "SVG"),
    "bomb.png": (bomb(), "too many pixels"),
    "cut.jpg": (encode_image(Image.effect_noise((256, 256), 50))[:2_000], "it is truncated"),
    "pickle.jpg": (b"\x80\x04\x95junk", "a pickle"),
}


@pytest.mark.parametrize("name", BAD)
def test_rejects_files_that_are_not_images(tmp_path, monkeypatch, name):
    content, said = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    if name == "bomb.png":
        for decode in ("PIL.Image.Image.convert", "PIL.ImageFile.ImageFile.load"):
            monkeypatch.setattr(decode, lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(InputError, match=said) as caught:
        read_picture(path)
    assert name in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_rejects_large_files_many_files_no_files_and_urls(tmp_path):
    path = tmp_path / ("x" * 200 + ".jpg")
    with path.open("wb") as file:
        file.truncate(30_000_000)  # sparse: all zeros, none on the disk
    with pytest.raises(InputError, match="30 MB, but the maximum is 20 MB") as caught:
        read_picture(path)
    assert len(str(caught.value)) < 200
    names = [f"/nowhere/{n}.jpg" for n in range(500)]
    with pytest.raises(InputError, match=f"At most {MAX_STREET_VIEWS} street views .* got 500"):
        read_uploads(names, None)
    with pytest.raises(InputError, match="Upload street views, a satellite image, or both"):
        read_uploads([], None)
    with pytest.raises(OSError, match="No such file"):
        read_uploads(None, "http://169.254.169.254/latest/meta-data")


def test_large_images_are_reduced_and_upright(tmp_path):
    image = Image.new("RGB", (3000, 1500), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = tmp_path / "turned.jpg"
    image.save(path, exif=exif)
    views = read_uploads([str(path)], str(path))
    assert set(views) == {"street_view", "satellite"}
    assert views["satellite"][0].size == (512, 1024)


def status(path: str, length: bytes | None, method: str = "POST") -> int:
    """Status of an ASGI request with this path and length; 200 if it is passed on."""
    headers = [] if length is None else [(b"content-length", length)]
    scope = {"type": "http", "path": path, "method": method, "headers": headers}
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def receive():
        pytest.fail("the body was read")

    async def send(message):
        sent.append(message)

    asyncio.run(UploadLimit(app)(scope, receive, send))
    return sent[0]["status"]


@pytest.mark.parametrize("path", ["/upload", "/gradio_api/upload", "/gradio_api/upload/"])
def test_rejects_uploads_of_missing_or_excessive_length(path):
    assert status(path, str(MAX_UPLOAD_BYTES).encode()) == 200
    for length in (str(MAX_UPLOAD_BYTES + 1).encode(), None, b"-5", b"many", b"0"):
        assert status(path, length) == 413
    assert status(path, None, "OPTIONS") == 200
    assert status("/gradio_api/component_server", None) == 200
