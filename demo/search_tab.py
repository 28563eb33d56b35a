"""Text search over regions by cosine similarity of text and image embeddings."""

from functools import lru_cache
from threading import Lock

import matplotlib
import numpy as np

from dataset_builders.captions import plain_text
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.search.nearest import unit

from .choropleth import outline
from .cities import VIEW_TITLES, Cities, Neighbours, ShownCity, find
from .model import Towers
from .page import notice, render, title
from .recall import AMONG, POOR_BELOW, Recall, measure_recall
from .region_card import region_button

LONGEST_QUERY = 2_000  # characters
EXAMPLES = (
    "a dense district of tall towers",
    "houses with gardens",
    "factory sheds",
    "open fields",
)
SINGLE = ("satellite", "street_view")  # text embeddings have the dimension of a single view


class Search:
    """Text search with its measured recall.

    Args:
        cities: Cities to search.
        towers: Image and text encoders of the model behind the embeddings.
    """

    def __init__(self, cities: Cities, towers: Towers):
        assert towers.tower is not None
        self.cities, self.tower = cities, towers.tower
        self._measuring = Lock()
        self._recall = lru_cache(lambda name, view: measure_recall(cities[name], view, towers))

    def recall(self, name: str, view: str) -> Recall | None:
        """Recall of a view, measured on first use; None with too few captioned images."""
        with self._measuring:
            return self._recall(name, view)

    def note(self, name: str, view: str) -> str:
        """Measured recall as HTML."""
        recall = self.recall(name, view)
        return render("recall", recall=recall, city=name, view=view, poor_below=POOR_BELOW)

    def examples(self, name: str, view: str) -> list[str]:
        """Example queries: caption sentences that retrieve their region, or general ones."""
        recall = self.recall(name, view)
        return list(recall.examples if recall and recall.examples else EXAMPLES)

    def page(self, query: str, name: str, view: str) -> str:
        """Ranked regions with images and a map, as HTML.

        Args:
            query: Text of the query.
            name: Name of the city.
            view: `satellite` or `street_view`.
        """
        try:
            return self._found(query, find(self.cities, name, "city"), view)
        except InputError as error:
            return notice(str(error))

    def _found(self, query: str, city: ShownCity, view: str) -> str:
        words = plain_text((query or "")[:LONGEST_QUERY])
        if words is None:
            raise InputError("Enter a query, such as “a river with trees on both banks”.")
        if view not in views_for_search(city):
            raise InputError(
                f"{title(city.name)} has no embeddings of {VIEW_TITLES.get(view, view)}; choose "
                f"{' or '.join(VIEW_TITLES[one] for one in views_for_search(city))}."
            )
        vector = unit(self.tower.encode([words]))[0]
        neighbours = city.views[view].neighbours
        hits = neighbours.search(vector, AMONG)
        return render(
            "search",
            query=words,
            city=city,
            view=VIEW_TITLES[view],
            hits=[region_button(city, hit, rank) for rank, hit in enumerate(hits, start=1)],
            svg=_highlight(city, neighbours, vector, [hit.row for hit in hits]),
            doubt=_doubt(self.recall(city.name, view), hits[0].cosine),
            truncated=self.tower.max_length if self.tower.count_truncated([words]) else None,
        )


def views_for_search(city: ShownCity) -> list[str]:
    """Views of a city that can be searched by text."""
    return [view for view in SINGLE if view in city.views]


def _doubt(recall: Recall | None, best: float) -> str:
    """Reason for collapsing the results; empty if they are shown."""
    if recall is None:
        return ""
    if best < recall.floor:
        return (
            "No good match: the nearest region is less similar to the query than for 95 % of the "
            "sentences in this city's captions."
        )
    return "Search quality of this model is low (see above)." if recall.poor else ""


def _highlight(city: ShownCity, neighbours: Neighbours, vector: np.ndarray, rows: list[int]) -> str:
    """Map with regions coloured by the rank of their similarity and the results outlined."""
    scores = neighbours.keys.vectors @ vector
    share = np.zeros(len(city.region_ids))
    share[neighbours.rows] = np.argsort(np.argsort(scores)) / max(len(scores) - 1, 1)
    colours = matplotlib.colormaps["magma"](0.1 + 0.85 * share**3)
    return outline(city, [matplotlib.colors.to_hex(one) for one in colours], rows)


__all__ = ["EXAMPLES", "Search", "views_for_search"]
