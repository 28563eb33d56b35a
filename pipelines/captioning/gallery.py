"""One HTML file to look at: images with boxes, all candidates, what was struck out and why.

Captions, ids and names come from models and from outside: `pipelines.common.pages` escapes them.
"""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from dataset_builders.files import atomic_path
from dataset_builders.images import BadImageError, decode_image, encode_image
from pipelines.common.pages import page_environment

from .records import Box, Candidate, Phrase, SourceImage

SIDE, JPEG_QUALITY = 800, 80  # longest side in pixels
SHOWN_CHARACTERS = 8_000
"""Characters shown of one text: a model gone astray may write without end."""

ReadImages = Callable[[frozenset[str]], Iterable[SourceImage]]
"""Given ids, yields their images; others and missing ones do no harm."""


@dataclass(frozen=True)
class Example:
    """An image in the gallery.

    Attributes:
        image_id: Id of the image.
        why: Why it is shown.
        candidates: Its candidates, best first.
    """

    image_id: str
    why: str
    candidates: list[Candidate]

    @property
    def boxes(self) -> dict[Box, int]:
        """The salient boxes and their numbers, from 1."""
        found = dict.fromkeys(detail.box for one in self.candidates for detail in one.details)
        return {box: number for number, box in enumerate(found, 1)}


@dataclass(frozen=True)
class Thumbnail:
    """A reduced copy as a data address; width and height are the original's, in pixels."""

    address: str
    width: int
    height: int


def write_gallery(
    path: Path,
    examples: Sequence[Example],
    images: ReadImages,
    summary: Mapping[str, Any],
) -> None:
    """Write the page.

    Args:
        path: Path of the HTML file.
        examples: The images to show.
        images: Yields the images of given ids.
        summary: Numbers of the run, see `report.examine`.
    """
    environment = page_environment(__package__)
    environment.filters["readable"] = lambda code: code.replace("_", " ")
    environment.filters["shown"] = _shown
    page = environment.get_template("gallery.html.j2").render(
        **summary,
        style=(files(__package__) / "templates" / "gallery.css").read_text(encoding="utf-8"),
        examples=examples,
        total=summary["images"],
        thumbnails=_thumbnails(examples, images),
        phrases=_phrases,
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _thumbnails(examples: Iterable[Example], images: ReadImages) -> dict[str, Thumbnail]:
    """Thumbnails by the hash of the image: two tables may use one id for two images."""
    waiting = {one.candidates[0].image_sha256: one.image_id for one in examples}
    found: dict[str, Thumbnail] = {}
    for source in images(frozenset(waiting.values())):
        if waiting.pop(source.sha256, None) is None:
            continue
        try:
            image = decode_image(source.data)
        except BadImageError:
            continue
        width, height = image.size
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        encoded = base64.b64encode(encode_image(image, "JPEG", JPEG_QUALITY)).decode("ascii")
        found[source.sha256] = Thumbnail(f"data:image/jpeg;base64,{encoded}", width, height)
        if not waiting:  # the rest of a large dataset need not be read
            break
    return found


def _shown(text: str) -> str:
    left = len(text) - SHOWN_CHARACTERS
    return f"{text[:SHOWN_CHARACTERS]} … {left:,} more characters" if left > 0 else text


def _phrases(one: Candidate) -> list[Phrase]:
    """Those that were asked of the detector, once each, the struck out first."""
    asked = [phrase for phrase in one.phrases if phrase.score is not None]
    unique = {(phrase.text, phrase.source): phrase for phrase in asked}
    return sorted(unique.values(), key=lambda phrase: phrase.kept)
