"""Text-image retrieval scores of a model on captioned images of the dataset."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataset_builders.captions import clean_caption
from dataset_builders.images import BadImageError, decode_image
from dataset_builders.schema import config_name
from pipelines.evaluation.search.nearest import unit
from pipelines.evaluation.search.retrieval import Pairs, retrieval_metrics

from .cities import ShownCity
from .model import Towers

SAMPLE, FEWEST = 200, 10
POOR_BELOW = 2
"""Search results are collapsed if recall is below this multiple of chance."""
FLOOR = 0.05
"""Quantile of the best similarities of caption sentences that is taken as the floor."""
AMONG = 12
EXAMPLES = 4
MOST_OVERLAP = 0.5  # Jaccard index of the words of two examples
SENTENCES = 200
SHORT, LONG = 15, 90  # characters of an example
SIDE = 512  # pixels; images are resized before they are kept for encoding


@dataclass(frozen=True)
class Recall:
    """Retrieval scores of one view of a city.

    Attributes:
        images: Number of captioned images, at most [`SAMPLE`].
        unseen: Whether the model is known not to have been trained on them.
        text_to_image: Recall@5 of images given their caption.
        image_to_text: Recall@5 of captions given their image.
        chance: Recall@5 of a random ranking.
        floor: Similarity to the nearest region that 95 % of the caption sentences exceed.
        examples: Caption sentences that retrieve their own region.
    """

    images: int
    unseen: bool
    text_to_image: float
    image_to_text: float
    chance: float
    floor: float
    examples: tuple[str, ...]

    @property
    def poor(self) -> bool:
        """Whether recall is below [`POOR_BELOW`] times chance, or half way from chance to 1."""
        return self.text_to_image < min(POOR_BELOW * self.chance, (1 + self.chance) / 2)


def measure_recall(city: ShownCity, view: str, towers: Towers) -> Recall | None:
    """Measure retrieval among the images of one view; None with too few captioned images."""
    sample = list(_sample(city, view, towers))
    if towers.tower is None or view not in city.views or len(sample) < FEWEST:
        return None
    images, captions, regions = map(list, zip(*sample, strict=True))
    found = retrieval_metrics(
        unit(towers.encode_images(images)),
        unit(towers.tower.encode(captions)),
        Pairs(captions, np.arange(len(sample))),
        regions,
        ks=(5,),
    )
    owners = _sentences(captions)
    ranks, best = _ranks(city, view, unit(towers.tower.encode(list(owners))))
    floor = float(np.quantile(best, FLOOR))
    rows = [city.rows[regions[owner]] for owner in owners.values()]
    return Recall(
        images=len(sample),
        unseen=_unseen(city, view, towers) is not None,
        text_to_image=found["text_to_image"]["recall_at_5"],
        image_to_text=found["image_to_text"]["recall_at_5"],
        chance=found["text_to_image"]["chance_recall_at_5"],
        floor=floor,
        examples=_examples(owners, ranks[np.arange(len(rows)), rows], best >= floor),
    )


def _unseen(city: ShownCity, view: str, towers: Towers) -> set[str] | None:
    """Held-out images, or None if they are unknown or too few."""
    found = towers.unseen(config_name(city.name, view), city.pictures[view].image_ids)
    return found if found is not None and len(found) >= FEWEST else None


def _sample(city: ShownCity, view: str, towers: Towers) -> Iterator[tuple[Image.Image, str, str]]:
    """Images, their captions and regions."""
    if view not in city.pictures:
        return
    pictures = city.pictures[view]
    names = sorted(_unseen(city, view, towers) or pictures.image_ids)
    for name in np.random.default_rng(0).permutation(names)[:SAMPLE]:
        row = pictures.stored(str(name))
        caption = clean_caption(row.get("caption"))
        if caption is None or row["region_id"] not in city.rows:
            continue
        try:
            image = decode_image(row["bytes"])
        except BadImageError:
            continue
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        yield image, caption, row["region_id"]


def _sentences(captions: Sequence[str]) -> dict[str, int]:
    """Map short caption sentences to the number of their image; full captions if there are none."""
    found: dict[str, int] = {}
    for number, caption in enumerate(captions):
        for sentence in re.split(r"(?<=\.)\s+", caption):
            if SHORT <= len(sentence) <= LONG and len(found) < SENTENCES:
                found.setdefault(sentence.rstrip("."), number)
    return found or {caption: number for number, caption in enumerate(captions)}


def _ranks(
    city: ShownCity, view: str, texts: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rank of each region for each text, `(M, N)` from 0, and the best similarity, `(M,)`."""
    neighbours = city.views[view].neighbours
    scores = np.full((len(texts), len(city.region_ids)), -np.inf, np.float32)
    scores[:, neighbours.rows] = texts @ neighbours.keys.vectors.T
    return np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1), scores.max(1)


def _examples(
    owners: dict[str, int], ranks: NDArray[np.int64], matches: NDArray[np.bool_]
) -> tuple[str, ...]:
    """Dissimilar sentences that retrieve the region of their image, best first, one per image."""
    sentences = list(owners)
    words = [set(sentence.lower().split()) for sentence in sentences]
    found: dict[int, int] = {}  # from image to sentence
    for n in np.argsort(ranks, kind="stable"):
        overlaps = (len(words[n] & words[m]) / len(words[n] | words[m]) for m in found.values())
        if ranks[n] < AMONG and matches[n] and max(overlaps, default=0) <= MOST_OVERLAP:
            found.setdefault(owners[sentences[n]], n)
    return tuple(sentences[n] for n in found.values())[:EXAMPLES]


__all__ = ["POOR_BELOW", "Recall", "measure_recall"]
