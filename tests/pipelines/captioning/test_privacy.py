import io
import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.captioning.errors import CaptioningError
from pipelines.captioning.privacy import REPLACEMENTS, Blurrer, redact_text, scan_text
from pipelines.captioning.records import Box


def encoded(image, format="JPEG"):
    buffer = io.BytesIO()
    image.save(buffer, format, **({"quality": 95} if format == "JPEG" else {}))
    return buffer.getvalue()


def portrait():
    data = pytest.importorskip("skimage.data", reason="scikit-image is in the extra `captioning`")
    return Image.fromarray(data.astronaut())  # ships with the package


def test_blur_pixelates_a_face_beyond_detection():
    before = encoded(portrait())
    after = Blurrer().blur(before)
    assert after != before
    assert Blurrer().blur(after) == after
    # the rest of the image is unchanged
    one, two = (np.asarray(Image.open(io.BytesIO(data)), float) for data in (before, after))
    assert np.abs(one - two)[300:].mean() < 3


def test_blur_leaves_an_image_without_faces_unchanged():
    pixels = np.random.default_rng(0).integers(90, 110, (200, 300, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels), "PNG")
    assert Blurrer().blur(data) == data


def test_blur_removes_metadata_without_detections():
    exif = Image.Exif()
    exif[0x010E] = "SECRET description"
    exif.get_ifd(0x8825)[1] = "N"
    buffer = io.BytesIO()
    grey = Image.new("RGB", (64, 64), "grey")
    grey.save(buffer, "JPEG", exif=exif, comment=b"SECRET comment", xmp=b"<x>SECRET</x>")
    assert buffer.getvalue().count(b"SECRET") == 3
    after = Blurrer().blur(buffer.getvalue())
    assert (b"SECRET" in after, b"Exif" in after) == (False, False)
    assert Blurrer().blur(after) == after


def find_everywhere(pixels):
    height, width = pixels.shape[:2]
    return [Box(0, 0, height, width), Box(10, 10, 5, 5)]


def test_blur_uses_the_detector_of_a_recipe():
    blurrer = Blurrer(f"{__name__}:find_everywhere")
    after = blurrer.blur(encoded(portrait()))
    assert np.asarray(Image.open(io.BytesIO(after))).std(axis=(0, 1)).max() < 80
    assert __name__ in blurrer.revision != Blurrer().revision


@pytest.mark.parametrize("name", ["nothing", "no.such.module:x", "json:no_such_thing", "math:pi"])
def test_blurrer_rejects_an_invalid_detector(name):
    with pytest.raises(CaptioningError, match=r"`privacy\.detector`"):
        Blurrer(name)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Write to jane.doe+shop@mail.example.co.uk today.", "email"),
        ("The sign says www.example.com/menu and more.", "url"),
        ("It reads https://example.org.", "url"),
        ("Call +44 20 7946 0958 now.", "phone"),
        ("A banner with (020) 7946 0958 on it.", "phone"),
        ("The number 555-123-4567 is painted on the wall.", "phone"),
        ("The awning says (212) 555-0147 in white.", "phone"),
        ("A van with 1-800-555-0199 on its side.", "phone"),
        ("A shop sign with 010-62345678 on it.", "phone"),
        ("A shop sign with 138-0013-8000 on it.", "phone"),
        ("A shop sign with 138 0013 8000 on it.", "phone"),
        ("The plate ABC-1234 can be read.", "plate"),
        ("The sign reads 13812345678 below.", "phone"),
        ("A car with the plate 京A12345 waits.", "plate"),
        ("The plate AB12 CDE can be read.", "plate"),
        ("A taxi B-MW 1234 turns.", "plate"),
        ("A cab 7ABC123 stands there.", "plate"),
        ("A van AB-123-CD is parked.", "plate"),
    ],
)
def test_personal_data_is_found_and_redacted(text, kind):
    assert kind in scan_text(text)
    cleaned = redact_text(text)
    assert REPLACEMENTS[kind] in cleaned
    assert scan_text(cleaned) == ()


@pytest.mark.parametrize(
    "text",
    [
        "The B100 road was built in 1998 and widened in 2012.",
        "About 250 m away stand 12 towers of 30 storeys, numbers 1-24.",
        "The tile covers 1.5 km x 1.5 km at 39.9042, 116.4074.",
        "Route 66 crosses the A4 and the M25 near Gate B12.",
        "It was taken at 10:30 on 2019-07-14, population 1,250,000.",
        "The corner reads MAY 2019, and the tower NYC 2020.",
        "A 4x4 and two SUVs are parked by house 221B.",
    ],
)
def test_other_numbers_are_not_redacted(text):
    assert scan_text(text) == ()
    assert redact_text(text) == text


@given(st.text(max_size=200))
def test_text_without_findings_is_unchanged(text):
    if not scan_text(text):
        assert redact_text(text) == text


def test_hostile_texts_take_linear_time():
    started = time.thread_time()
    for piece in ("a.", "0-", "12 ", "A-", "a@", "AB1", "+1 ("):
        scan_text(piece * 30_000)
    assert time.thread_time() - started < 10


def test_real_captions_contain_no_personal_data(shared_data):
    path = shared_data / "rsicd" / "captions.json"
    captions = [text for row in json.loads(path.read_text()) for text in row["captions"]]
    path = shared_data / "urbanclip_toolkit" / "captions" / "Beijing_captions.json"
    captions += [one["caption"] for several in json.loads(path.read_text()) for one in several]
    assert len(captions) > 25_000
    assert not any(scan_text(text) for text in captions)
