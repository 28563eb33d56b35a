"""One HTML file to browse: images, boxes, all candidates, what was struck out and why.

Captions, ids and names come from models and from outside: `pipelines.common.pages` escapes them.
"""

import base64
import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from PIL import Image

from dataset_builders.files import atomic_path
from dataset_builders.images import BadImageError, decode_image, encode_image
from pipelines.common.pages import page_environment

from .records import Box, Candidate, Phrase, SourceImage
from .summary import Findings, GalleryChoice, images_of

SIDE, JPEG_QUALITY = 800, 80  # longest side in pixels
SHOWN_CHARACTERS = 8_000
"""Characters shown of one text: a model gone astray may write without end."""
COMPARED_WORDS = 1_500
SHOWN_CONTEXT = 6
"""Words before and after a change."""
WHY_NAMES = {
    "failed": "without a caption",
    "most_dropped_phrases": "most dropped phrases",
    "lowest_consensus": "lowest consensus",
    "sample": "random sample",
}

ReadImages = Callable[[frozenset[str]], Iterable[SourceImage]]
"""Given ids, yields their images; others and missing ones do no harm."""
_Picture = tuple[str, int, int]  # data address; width and height of the original


@dataclass(frozen=True)
class _Entry:
    """An image in the gallery; its best candidate first."""

    choice: GalleryChoice
    candidates: list[Candidate]
    picture: _Picture | None
    reasons: str

    @property
    def numbers(self) -> dict[Box, int]:
        boxes = dict.fromkeys(detail.box for one in self.candidates for detail in one.details)
        return {box: number for number, box in enumerate(boxes, 1)}


def write_gallery(
    path: Path, parts: Sequence[Path], found: Findings, images: ReadImages | None, title: str
) -> None:
    """Write the page.

    Args:
        path: Path of the HTML file.
        parts: Tables of candidates that were examined.
        found: What `examine` made of them.
        images: Yields the images of given ids; without it none are shown.
        title: Title of the page.
    """
    candidates = _read_candidates(parts, found.gallery)
    pictures = _read_pictures(images, candidates)
    entries = [
        _Entry(choice, group, pictures.get(choice), found.failures.get(choice.image_id, ""))
        for choice, group in candidates.items()
    ]
    shown = [one for entry in entries for one in entry.candidates]
    environment = page_environment(__package__)
    environment.filters["readable"] = lambda code: code.replace("_", " ")
    environment.globals |= {
        "box_label": box_label,
        "changes": changes,
        "phrases": _phrases,
        "all_reasons": _all_reasons,
        "zip": zip,
    }
    page = environment.get_template("gallery.html.j2").render(
        title=title,
        style=_resource("gallery.css"),
        script=_resource("gallery.js"),
        summary=found.summary,
        entries=entries,
        models=sorted({one.model for one in shown}),
        reasons=sorted({reason for one in shown for reason in _all_reasons(one)}),
        whys=Counter(choice.why for choice in found.gallery),
        why_names=WHY_NAMES,
        limit=SHOWN_CHARACTERS,
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _read_candidates(
    parts: Sequence[Path], choices: Sequence[GalleryChoice]
) -> dict[GalleryChoice, list[Candidate]]:
    """Candidates of the chosen images: the chosen caption first, then by score, then dropped."""
    wanted = {(choice.part, choice.image_id): choice for choice in choices}
    found: dict[GalleryChoice, list[Candidate]] = {choice: [] for choice in choices}
    for part in sorted({choice.part for choice in choices if choice.part >= 0}):
        for image_id, candidates in images_of(parts[part]):
            if choice := wanted.get((part, image_id)):
                found[choice] = sorted(candidates, key=_order)
    return found


def _order(one: Candidate) -> tuple[bool, bool, float, str, int]:
    return (not one.chosen, bool(one.drop_reason), -(one.scores.score or 0), one.model, one.index)


def _read_pictures(
    images: ReadImages | None, candidates: dict[GalleryChoice, list[Candidate]]
) -> dict[GalleryChoice, _Picture]:
    pictures: dict[GalleryChoice, _Picture] = {}
    waiting = set(candidates)
    ids = frozenset(choice.image_id for choice in candidates)
    for source in images(ids) if images and ids else ():
        for choice in [one for one in waiting if one.image_id == source.image_id]:
            # two tables may use one id for two images: their content tells
            known = {one.image_sha256 for one in candidates[choice]}
            if known and source.sha256 not in known:
                continue
            waiting.remove(choice)
            if picture := _picture(source.data):
                pictures[choice] = picture
        if not waiting:  # the rest of a large dataset need not be read
            break
    return pictures


def _picture(data: bytes) -> _Picture | None:
    """A reduced copy as a data address, with the size of the original; None if unreadable."""
    try:
        image = decode_image(data)
    except BadImageError:
        return None
    width, height = image.size
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    encoded = base64.b64encode(encode_image(image, "JPEG", JPEG_QUALITY)).decode("ascii")
    return f"data:image/jpeg;base64,{encoded}", width, height


def box_label(number: int, box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    """Where the number of a box is drawn: x, y, width, height in pixels of the image.

    In the upper left corner of the box, moved where it would leave an image of this size.
    """
    size = max(width, height) / 24
    wide = size * (0.4 + 0.65 * len(str(number)))
    x, y = min(box.left, width - wide), min(box.top, height - size)
    return max(0, x), max(0, y), wide, size


def changes(one: Candidate) -> Iterator[tuple[str, str]]:
    """What refinement changed: "del", "ins" or "same", and the words.

    The middle of long unchanged stretches is left out; nothing where there is no text, or where
    one is too long to compare.
    """
    before, after = one.generated.split(), one.text.split()
    if not after or max(len(before), len(after)) > COMPARED_WORDS:
        return
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for kind, start, stop, other_start, other_stop in matcher.get_opcodes():
        old, new = before[start:stop], after[other_start:other_stop]
        if kind == "equal":
            if len(old) > 2 * SHOWN_CONTEXT + 4:
                old = [*old[:SHOWN_CONTEXT], "…", *old[-SHOWN_CONTEXT:]]
            yield "same", " ".join(old)
            continue
        if old:
            yield "del", " ".join(old)
        if new:
            yield "ins", " ".join(new)


def _phrases(one: Candidate) -> list[Phrase]:
    """The struck out first; each way that a phrase fared is shown once."""
    unique = {
        (phrase.text, phrase.source, phrase.score, phrase.kept, phrase.reason): phrase
        for phrase in one.phrases
    }
    return sorted(unique.values(), key=lambda phrase: phrase.kept)


def _all_reasons(one: Candidate) -> set[str]:
    """Why it was dropped, its flags, and why phrases were struck out."""
    reasons = {phrase.reason for phrase in one.phrases if not phrase.kept}
    return (reasons | {one.drop_reason, *one.flags}) - {""}


def _resource(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


__all__ = ["ReadImages", "box_label", "changes", "write_gallery"]
