"""Ground truth of the images of a synthetic city: `truth/` of a dataset folder."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataset_builders.images import open_image
from dataset_builders.synthetic.captioners import COVER_PHRASES, SIDE_PHRASES, Fact
from dataset_builders.synthetic.satellite import COVER_BITS, COVERS, MARKS
from dataset_builders.synthetic.scene import CLASSES, SceneObject

from ..errors import CaptioningError
from ..records import Box, View

SIDES = ("left side", "right side")
COLUMNS = ["image_id", "statements", "objects", "mask", "cover"]
# houses are single objects, but facts name them by the side of the street
HOUSE_THINGS = {
    "detached house": SIDE_PHRASES["villas"],
    "terraced house": SIDE_PHRASES["rows"],
    "apartment block": SIDE_PHRASES["slabs"],
    "tower": SIDE_PHRASES["towers"],
}
# marks of a tile: their words, and the minimum share of a crop for being mentioned
MARK_PHRASES = {
    "trees": (COVER_PHRASES["trees"], 0.15),
    "pools": ("swimming pools", 0.004),
    "tanks": ("round storage tanks", 0.01),
}
MIN_COVER_SHARE, MIN_SKY_SHARE = 0.05, 0.3


@dataclass(frozen=True)
class Sight:
    """A visible object: subject, noun phrase without an article, share of the crop's area."""

    thing: str
    words: str
    share: float


@dataclass(frozen=True)
class ImageTruth:
    """Ground truth of an image.

    Attributes:
        facts: Facts, by decreasing size.
        objects: Objects of a street view, roughly from far to near.
        encoded: PNG of the street view's mask or of the tile's land cover; None if not stored.
    """

    image_id: str
    view: View
    facts: tuple[Fact, ...]
    objects: tuple[SceneObject, ...]
    encoded: bytes | None = field(repr=False)

    @cached_property
    def things(self) -> frozenset[str]:
        """Subjects that a complete caption names."""
        return frozenset(map(thing_of, self.facts))

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """`(H, W)` indices into `CLASSES`, or land cover of a tile.

        Raises:
            CaptioningError: The dataset was built without masks.
        """
        if self.encoded is None:
            raise CaptioningError(
                f"No mask is stored for {self.image_id!r}: simulated captions of crops need a "
                "dataset built with --with_masks."
            )
        return np.asarray(open_image(self.encoded))

    def sights(self, box: Box) -> list[Sight]:
        """Visible objects of a crop, by decreasing size."""
        inside = self.pixels[box.top : box.top + box.height, box.left : box.left + box.width]
        found = self._on_tile(inside) if self.view == "satellite" else self._in_scene(box, inside)
        return sorted(found, key=lambda sight: (-sight.share, sight.thing))

    def _on_tile(self, inside: NDArray[np.uint8]) -> Iterator[Sight]:
        # only what the facts of the tile name
        ground = np.bincount((inside & COVER_BITS).ravel(), minlength=len(COVERS)) / inside.size
        for name, share in zip(COVERS, ground.tolist(), strict=True):
            words = "railway line" if name == "rail" else COVER_PHRASES.get(name, "")
            if words in self.things and share > MIN_COVER_SHARE:
                yield Sight(words, words, share)
        for name, (words, least) in MARK_PHRASES.items():
            share = float(np.mean((inside & MARKS[name]) > 0))
            if words in self.things and share > least:
                yield Sight(words, words, share)

    def _in_scene(self, box: Box, inside: NDArray[np.uint8]) -> Iterator[Sight]:
        largest: dict[str, tuple[float, SceneObject]] = {}
        for item in self.objects:
            shared = _overlap(item.box, box)
            left, top, right, bottom = item.box
            if 2 * shared < (right - left) * (bottom - top):  # less than half is in the crop
                continue
            if item.name not in largest or shared > largest[item.name][0]:
                largest[item.name] = (shared, item)
        for area, item in largest.values():
            words = f"{item.attribute} {item.name}".strip()
            yield Sight(HOUSE_THINGS.get(item.name, item.name), words, area / max(inside.size, 1))
        sky = float(np.mean(inside == CLASSES.index("sky")))
        for fact in self.facts:
            if fact.key == "sky" and sky > MIN_SKY_SHARE:
                yield Sight("sky", f"sky that is {fact.value}", sky)


class Truth:
    """Ground truth of a dataset, by image id.

    Args:
        dataset_name: Folder of a synthetic dataset.

    Raises:
        CaptioningError: The folder contains no ground truth.
    """

    def __init__(self, dataset_name: str | Path):
        paths = sorted(Path(dataset_name).glob("truth/*/part-*.parquet"))
        if not paths:
            raise CaptioningError(
                f"{dataset_name} has no truth/: simulated models need a synthetic city. Build one "
                "with `python -m dataset_builders.synthetic --with_masks`."
            )
        rows = (row for path in paths for row in pq.read_table(path, columns=COLUMNS).to_pylist())
        self._rows: dict[str, Mapping[str, Any]] = {row["image_id"]: row for row in rows}

    def __iter__(self) -> Iterator[str]:
        """Ids of all images, sorted."""
        return iter(sorted(self._rows))

    def __getitem__(self, image_id: str) -> ImageTruth:
        """Ground truth of an image."""
        if image_id not in self._rows:
            raise CaptioningError(
                f"No ground truth for image {image_id!r}: simulated models only describe images "
                "of their synthetic dataset."
            )
        row = self._rows[image_id]
        objects = tuple(
            SceneObject(one["name"], one["attribute"], tuple(one["box"]))
            for one in json.loads(row["objects"])
        )
        facts = tuple(Fact(**one) for one in row["statements"])
        if any(fact.key in SIDES for fact in facts):
            return ImageTruth(image_id, "street_view", facts, objects, row["mask"])
        return ImageTruth(image_id, "satellite", facts, objects, row["cover"])


@lru_cache(maxsize=4)
def open_truth(dataset_name: str) -> Truth:
    """Ground truth of a dataset folder, read once per process."""
    return Truth(dataset_name)


def thing_of(fact: Fact) -> str:
    """Subject of a fact: its key, or for a side of the street the buildings there."""
    return fact.value if fact.key in SIDES else fact.key


def rng_of(*parts: object) -> np.random.Generator:
    """Random generator seeded by a hash of the parts."""
    digest = hashlib.sha256("\x1f".join(map(repr, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _overlap(one: tuple[int, int, int, int], box: Box) -> float:
    """Intersection of a (left, top, right, bottom) rectangle and a box, in pixels."""
    left, top, right, bottom = one
    width = min(right, box.left + box.width) - max(left, box.left)
    height = min(bottom, box.top + box.height) - max(top, box.top)
    return float(max(0, width) * max(0, height))
