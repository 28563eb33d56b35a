"""HTML gallery of captioned images with their boxes, candidates and dropped phrases.

Captions, ids and names are untrusted; `pipelines.common.pages` escapes them.
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
"""Maximum number of characters shown per text."""

ReadImages = Callable[[frozenset[str]], Iterable[SourceImage]]
"""Function from ids to images; may omit some or yield others."""


@dataclass(frozen=True)
class Example:
    """An image in the gallery, the reason for showing it, and its candidates, best first."""

    image_id: str
    why: str
    candidates: list[Candidate]

    @property
    def boxes(self) -> dict[Box, int]:
        """Salient boxes and their numbers, from 1."""
        found = dict.fromkeys(detail.box for one in self.candidates for detail in one.details)
        return {box: number for number, box in enumerate(found, 1)}


def write_gallery(
    path: Path, examples: Sequence[Example], images: ReadImages, summary: Mapping[str, Any]
) -> None:
    """Write the HTML page; `summary` is that of `report.examine`."""
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


def _thumbnails(examples: Iterable[Example], images: ReadImages) -> dict[str, dict[str, Any]]:
    """Reduced copies as data URLs, with the size of the original.

    By image hash, since two tables may use the same id for different images.
    """
    waiting = {one.candidates[0].image_sha256: one.image_id for one in examples}
    found: dict[str, dict[str, Any]] = {}
    for source in images(frozenset(waiting.values())):
        if waiting.pop(source.sha256, None) is None:
            continue
        try:
            image = decode_image(source.data)
        except BadImageError:
            continue
        size = {"width": image.width, "height": image.height}
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        encoded = base64.b64encode(encode_image(image, "JPEG", JPEG_QUALITY)).decode("ascii")
        found[source.sha256] = size | {"address": f"data:image/jpeg;base64,{encoded}"}
        if not waiting:  # do not read the rest of a large dataset
            break
    return found


def _shown(text: str) -> str:
    left = len(text) - SHOWN_CHARACTERS
    return f"{text[:SHOWN_CHARACTERS]} … {left:,} more characters" if left > 0 else text


def _phrases(one: Candidate) -> list[Phrase]:
    """Distinct phrases with a detector score, dropped ones first."""
    asked = [phrase for phrase in one.phrases if phrase.score is not None]
    unique = {(phrase.text, phrase.source): phrase for phrase in asked}
    return sorted(unique.values(), key=lambda phrase: phrase.kept)
