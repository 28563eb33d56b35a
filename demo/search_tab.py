"""Words to regions: the text tower's vector against those of the pictures."""

import matplotlib
import numpy as np

from dataset_builders.captions import plain_text
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.nearest import unit
from pipelines.evaluation.text_tower import TextTower

from .choropleth import outline
from .cities import VIEW_TITLES, Cities, ShownCity
from .markup import SYNTHETIC, notice, text, titled
from .neighbours import Neighbours
from .region_card import region_button

SHOWN = 12
LONGEST_QUERY = 2_000  # characters
EXAMPLES = (
    "a dense district of tall buildings",
    "a river with trees on both banks",
    "factories and warehouses beside a railway",
    "quiet houses with gardens",
)
SINGLE = ("satellite", "street_view")  # a text has the length of one view's vectors


def search_regions(cities: Cities, tower: TextTower, query: str, name: str, view: str) -> str:
    """Ranked regions with their pictures, and where they lie, as HTML.

    Args:
        cities: that can be searched.
        tower: of the model that made the vectors.
        query: words.
        name: of the city.
        view: `satellite` or `street_view`.
    """
    try:
        return _found(_city(cities, name), tower, query, view)
    except InputError as error:
        return notice(str(error))


def views_for_search(city: ShownCity) -> list[str]:
    """The views that words are compared with."""
    return [view for view in SINGLE if view in city.views]


def _city(cities: Cities, name: str) -> ShownCity:
    if name not in cities:
        raise InputError(f"There is no city {name!r} here; there is {', '.join(cities)}.")
    return cities[name]


def _found(city: ShownCity, tower: TextTower, query: str, view: str) -> str:
    words = plain_text((query or "")[:LONGEST_QUERY])
    if words is None:
        raise InputError("Write what to look for, such as “a river with trees on both banks”.")
    if view not in SINGLE or view not in city.views:
        raise InputError(
            f"{titled(city.name)} has no vectors of {VIEW_TITLES.get(view, view)}; it has "
            f"{', '.join(VIEW_TITLES[one] for one in views_for_search(city))}."
        )
    vector = unit(tower.encode([words]))[0]
    neighbours = city.views[view].neighbours
    hits = neighbours.search(vector, SHOWN)
    cut = tower.count_truncated([words])
    note = f" Only the first {tower.max_length} tokens were read." if cut else ""
    mark = f" {SYNTHETIC}" if city.synthetic else ""
    buttons = "".join(region_button(city, hit, rank) for rank, hit in enumerate(hits, start=1))
    return (
        f'<div class="results"><div class="found"><h4>“{text(words)}” in {titled(city.name)}{mark}'
        f'</h4><div class="grid">{buttons}</div></div>'
        f'<figure class="where">{_highlight(city, neighbours, vector, [hit.row for hit in hits])}'
        "<figcaption>The brighter, the nearer to the words; outlined: the "
        f"{len(hits)} nearest.</figcaption></figure></div>"
        f'<p class="soft small">Cosines of the words with the mean of a region’s '
        f"{VIEW_TITLES[view]} pictures: their order counts, not their size. There is always a "
        f"nearest region: that it is here does not say that it fits.{note}</p>"
    )


def _highlight(city: ShownCity, neighbours: Neighbours, vector: np.ndarray, rows: list[int]) -> str:
    """The outline, every region as bright as the rank of its cosine."""
    scores = neighbours.keys.vectors @ vector
    share = np.zeros(len(city.region_ids))
    share[neighbours.rows] = np.argsort(np.argsort(scores)) / max(len(scores) - 1, 1)
    palette = matplotlib.colormaps["magma"]
    svg = outline(city).replace(
        ' tabindex="0" role="application" aria-roledescription="map"', ' role="img"'
    )
    parts = svg.split("<path data-i=")
    found = set(rows)
    painted = [parts[0]]
    for part in parts[1:]:
        row = int(part[1 : part.index('"', 1)])
        colour = matplotlib.colors.to_hex(palette(0.1 + 0.85 * share[row] ** 3))
        mark = ' class="hit"' if row in found else ""
        painted.append(f'<path{mark} fill="{colour}" data-i={part}')
    return "".join(painted)


__all__ = ["EXAMPLES", "search_regions", "views_for_search"]
