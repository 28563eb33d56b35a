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


def encoded(image, format="JPEG"):
    buffer = io.BytesIO()
    image.save(buffer, format, **({"quality": 95} if format == "JPEG" else {}))
    return buffer.getvalue()


def test_blur_pixelates_a_face_beyond_detection():
    data = pytest.importorskip("skimage.data", reason="scikit-image is in the extra `captioning`")
    before = encoded(Image.fromarray(data.astronaut()).crop((100, 0, 400, 300)))
    after = Blurrer().blur(before)
    assert after != before
    assert Blurrer().blur(after) == after
    # the rest of the image is unchanged
    one, two = (np.asarray(Image.open(io.BytesIO(data)), float) for data in (before, after))
    assert np.abs(one - two)[230:].mean() < 3


def test_blur_without_detections_only_removes_metadata():
    pixels = np.random.default_rng(0).integers(90, 110, (200, 300, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels), "PNG")
    assert Blurrer().blur(data) == data
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


@pytest.mark.parametrize("name", ["nothing", "no.such.module:x", "math:pi"])
def test_rejects_an_invalid_detector(name):
    with pytest.raises(CaptioningError, match=r"`privacy\.detector`"):
        Blurrer(name)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Write to jane.doe+shop@mail.example.co.uk today.", "Write to {email} today."),
        ("It says a@b.com@c.org or d@e.fr,f@g.de.", "It says {email} or {email},{email}."),
        ("The sign says www.example.com/menu and more.", "The sign says {url} and more."),
        ("Call +44 20 7946 0958 now.", "Call {phone} now."),
        ("A banner with (020) 7946 0958 on it.", "A banner with {phone} on it."),
        ("The awning says (212) 555-0147 in white.", "The awning says {phone} in white."),
        ("A shop sign with 138 0013 8000 on it.", "A shop sign with {phone} on it."),
        ("The sign reads 13812345678 below.", "The sign reads {phone} below."),
        ("A car with the plate 京A12345 waits.", "A car with the plate {plate} waits."),
        ("The plate AB12 CDE can be read.", "The plate {plate} can be read."),
        ("A taxi B-MW 1234 turns.", "A taxi {plate} turns."),
        ("A cab 7ABC123 stands there.", "A cab {plate} stands there."),
    ],
)
def test_finds_and_redacts_personal_data(text, cleaned):
    kinds = {kind for kind in REPLACEMENTS if f"{{{kind}}}" in cleaned}
    assert set(scan_text(text)) == kinds
    assert redact_text(text) == cleaned.format(**REPLACEMENTS)
    assert scan_text(redact_text(text)) == ()


@pytest.mark.parametrize(
    "text",
    [
        "The B100 road was built in 1998 and widened in 2012.",
        "About 250 m away stand 12 towers of 30 storeys, numbers 1-24.",
        "The tile covers 1.5 km x 1.5 km at 39.9042, 116.4074.",
        "Route 66 crosses the A4 and the M25 near Gate B12.",
        "It was taken at 10:30 on 2019-07-14, population 1,250,000.",
        "The corner reads MAY 2019; a 4x4 is parked by house 221B.",
    ],
)
def test_does_not_redact_other_numbers(text):
    assert redact_text(text) == text


PERSONAL = ("a@b.co", "www.a.bc", "+44 20 7946 0958", "AB12 CDE", "ABC-1234", *"., @x")


@given(st.lists(st.sampled_from(PERSONAL), max_size=6).map("".join) | st.text(max_size=100))
def test_redacted_text_contains_no_personal_data(text):
    assert scan_text(redact_text(text)) == ()


def test_hostile_texts_take_linear_time():
    started = time.thread_time()
    for piece in ("a.", "0-", "12 ", "A-", "a@", "AB1", "+1 ("):
        scan_text(piece * 20_000)
    assert time.thread_time() - started < 5


def test_real_captions_contain_no_personal_data(shared_data):
    path = shared_data / "rsicd" / "captions.json"
    captions = [text for row in json.loads(path.read_text()) for text in row["captions"]]
    path = shared_data / "urbanclip_toolkit" / "captions" / "Beijing_captions.json"
    captions += [one["caption"] for several in json.loads(path.read_text()) for one in several]
    assert len(captions) > 25_000
    assert scan_text("\n".join(captions[::10])) == ()
