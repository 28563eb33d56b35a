"""How well a model's search works, measured on captioned images of the dataset itself."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataset_builders.captions import clean_caption
from dataset_builders.images import BadImageError, decode_image
from dataset_builders.schema import config_name
from pipelines.evaluation.gallery import Pairs
from pipelines.evaluation.nearest import unit
from pipelines.evaluation.retrieval import retrieval_metrics
from pipelines.evaluation.text_tower import TextTower

from .cities import ShownCity
from .model import Towers

SAMPLE, FEWEST = 200, 10
POOR_BELOW = 2
"""Times chance under which the results of a search are folded away."""
FLOOR = 0.05
"""Share of captions that are less similar to their nearest region than the floor."""
AMONG = 12
EXAMPLES = 4
SENTENCES = 100
SHORT, LONG = 15, 90  # characters of a sentence that serves as an example
SIDE = 512  # pixels; images are reduced before they are kept for encoding


@dataclass(frozen=True)
class Recall:
    """What a search was measured to find.

    Attributes:
        images: with a caption each, at most [`SAMPLE`].
        unseen: the model is known not to have been trained on them.
        text_to_image: share of captions whose image is among the 5 most similar.
        image_to_text: share of images whose caption is.
        chance: what a random order would score.
        floor: similarity that a text about this city has to its nearest region, nearly always.
        examples: sentences of the captions that find their own region.
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
        """Whether search is hardly better than chance; few images cannot reach a multiple of it."""
        return self.text_to_image < min(POOR_BELOW * self.chance, (1 + self.chance) / 2)


@dataclass(frozen=True)
class Captioned:
    """An image with its caption."""

    image: Image.Image
    caption: str
    region_id: str


def measure_recall(city: ShownCity, view: str, towers: Towers) -> Recall | None:
    """Measure search by words among images of one view; None with too few captioned images."""
    sample = list(_sample(city, view, towers))
    if towers.tower is None or view not in city.views or len(sample) < FEWEST:
        return None
    captions = [one.caption for one in sample]
    text_vectors = unit(towers.tower.encode(captions))
    found = retrieval_metrics(
        unit(towers.encode_images([one.image for one in sample])),
        text_vectors,
        Pairs(captions, np.arange(len(sample))),
        [one.region_id for one in sample],
        ks=(5,),
    )
    best = city.views[view].neighbours.best(text_vectors)
    floor = float(np.quantile(best, FLOOR))
    return Recall(
        images=len(sample),
        unseen=_unseen(city, view, towers) is not None,
        text_to_image=found["text_to_image"]["recall_at_5"],
        image_to_text=found["image_to_text"]["recall_at_5"],
        chance=found["text_to_image"]["chance_recall_at_5"],
        floor=floor,
        examples=tuple(_examples(city, view, towers.tower, sample, floor)),
    )


def _unseen(city: ShownCity, view: str, towers: Towers) -> set[str] | None:
    """Images that the model was not trained on, if they are known and enough to measure on."""
    found = towers.unseen(config_name(city.name, view), city.pictures[view].image_ids)
    return found if found is not None and len(found) >= FEWEST else None


def _sample(city: ShownCity, view: str, towers: Towers) -> Iterator[Captioned]:
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
        yield Captioned(image, caption, row["region_id"])


def _examples(
    city: ShownCity, view: str, tower: TextTower, sample: Sequence[Captioned], floor: float
) -> list[str]:
    """Sentences that find the region of their image, the best first, one per caption."""
    owners = {
        sentence.rstrip("."): number
        for number, one in reversed(list(enumerate(sample)))
        for sentence in re.split(r"(?<=\.)\s+", one.caption)
        if SHORT <= len(sentence) <= LONG
    }
    sentences = list(owners)[-SENTENCES:]
    if not sentences:
        return []
    ranks = _ranks(city, view, unit(tower.encode(sentences)), floor)
    found: dict[int, str] = {}
    rows = [city.rows[sample[owners[one]].region_id] for one in sentences]
    order = sorted(range(len(sentences)), key=lambda n: ranks[n, rows[n]])
    for n in order:
        if ranks[n, rows[n]] < AMONG:
            found.setdefault(owners[sentences[n]], sentences[n])
    return list(found.values())[:EXAMPLES]


def _ranks(
    city: ShownCity, view: str, texts: NDArray[np.float32], floor: float
) -> NDArray[np.int64]:
    """`(M, N)` rank of each region for each text, 0 the best; the last where nothing matches."""
    neighbours = city.views[view].neighbours
    scores = np.full((len(texts), len(city.region_ids)), -np.inf)
    scores[:, neighbours.rows] = texts @ neighbours.keys.vectors.T
    ranks = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1)
    return np.where((scores.max(1) < floor)[:, None], len(city.region_ids), ranks)


__all__ = ["POOR_BELOW", "Recall", "measure_recall"]
