"""Card of a region: images, estimates and similar regions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipelines.prediction.estimate import UNLIKE
from pipelines.prediction.labels import Indicator

from .amounts import Amounts, amounts_of, rounded
from .cities import VIEW_TITLES, Cities, ShownCity
from .neighbours import Neighbour
from .page import render
from .pictures import THUMBNAIL_SIDE, Picture

STREET_VIEWS_SHOWN = 4
SIMILAR = 6
SQUARE_KM = 1e6


@dataclass(frozen=True)
class Line:
    """Row of the table of estimates.

    Attributes:
        name: Name of the indicator.
        unit: Unit of its values.
        measured: Measured value as text; "–" if unknown.
        estimated: Estimate as text.
        interval: Interval as text; empty with too few labels for one.
        at: Positions of estimate, interval ends and measured value within the range of the city's
            values, in percent; None if unknown.
        unlike: Whether the images are outside the training distribution.
    """

    name: str
    unit: str
    measured: str
    estimated: str
    interval: str
    at: dict[str, float | None]
    unlike: bool


def region_card(cities: Cities, city: ShownCity, view: str, region_id: str) -> str:
    """Render the card of a region as HTML.

    Args:
        cities: Cities that are searched for similar regions.
        city: City of the region.
        view: View whose embeddings are used for estimates and similarity.
        region_id: Id of the region.

    Raises:
        InputError: There is no such region or view.
    """
    row = city.row(region_id)
    shown = city.view(view)
    found = shown.predictions
    lines = [] if found is None else estimate_lines(city, found.table.iloc[row], row)
    pictures, hidden = _pictures(city, region_id)
    return render(
        "card",
        city=city,
        region_id=region_id,
        facts=_facts(city, row),
        pictures=pictures,
        hidden=hidden,
        lines=[line for line in lines if not line.unlike],
        unlike=[line for line in lines if line.unlike],
        with_measured=True,
        coverage=coverage(city, view),
        protocol="" if found is None else found.verdicts[0].protocol,
        view=VIEW_TITLES[view],
        similar=_similar(cities, city, view, row),
        alone=len(cities) == 1,
    )


def estimate_lines(city: ShownCity, values: "pd.Series[Any]", row: int | None = None) -> list[Line]:
    """One line per indicator that has an estimate.

    Args:
        city: City of the indicators.
        values: `<indicator>_predicted`, `_low`, `_high` and `_status` of a region.
        row: Row number of the region; None for uploaded images, which have no measured values.
    """
    lines = []
    for indicator in city.indicators:
        name = indicator.name
        value = float(values.get(f"{name}_predicted", np.nan))
        if not np.isfinite(value):
            continue
        low, high = float(values[f"{name}_low"]), float(values[f"{name}_high"])
        measured = np.nan if row is None else float(indicator.raw[row])
        amounts: Amounts = amounts_of(indicator)
        at = _positions(indicator, {"value": value, "low": low, "high": high, "dot": measured})
        lines.append(
            Line(
                name,
                indicator.unit,
                amounts.measured(measured),
                amounts.estimated(value),
                amounts.between(low, high),
                at,
                values[f"{name}_status"] == UNLIKE,
            )
        )
    return lines


def coverage(city: ShownCity, view: str) -> float | None:
    """Coverage of the intervals on held-out regions, averaged over the indicators."""
    found = city.view(view).predictions
    known = [one.coverage for one in found.verdicts if one.coverage is not None] if found else []
    return float(np.mean(known)) if known else None


def _positions(indicator: Indicator, raw: dict[str, float]) -> dict[str, float | None]:
    labels = indicator.y[np.isfinite(indicator.y)]
    least, most = float(labels.min()), float(labels.max())
    y = Indicator("", "", indicator.transform, np.array(list(raw.values()))).y
    at = np.clip(2 + 96 * (y - least) / max(most - least, 1e-9), 1, 99)
    return {
        name: round(float(one), 1) if np.isfinite(one) else None
        for name, one in zip(raw, at, strict=True)
    }


def _facts(city: ShownCity, row: int) -> list[str]:
    region = city.inputs.regions.iloc[row]
    facts = []
    if np.isfinite(region["lon"]) and np.isfinite(region["lat"]):
        facts.append(f"{region['lat']:.4f}, {region['lon']:.4f}")
    if np.isfinite(area := float(region.get("area_m2", np.nan))):
        facts.append(f"{rounded(area / SQUARE_KM, 2)} km²")
    return facts


def _pictures(city: ShownCity, region_id: str) -> tuple[list[Picture], dict[str, int]]:
    found, hidden = [], {}
    for view, pictures in city.pictures.items():
        limit = STREET_VIEWS_SHOWN if view == "street_view" else 1
        found += pictures.of_region(region_id, limit)
        if (more := pictures.count(region_id) - limit) > 0:
            hidden[view] = more
    return found, hidden


# ---- similar regions ----------------------------------------------------------------------------


def _similar(cities: Cities, city: ShownCity, view: str, row: int) -> dict[str, list[Any]]:
    vector = city.view(view).similar[row]
    if not np.isfinite(vector).all():
        return {"here": [], "elsewhere": []}
    here = city.view(view).neighbours.search(vector, SIMILAR, without=row)
    elsewhere = similar_elsewhere(cities, city, view, vector)
    return {
        "here": [region_button(city, one) for one in here],
        "elsewhere": [region_button(*one) for one in elsewhere],
    }


def similar_elsewhere(
    cities: Cities, city: ShownCity, view: str, vector: np.ndarray
) -> list[tuple[ShownCity, Neighbour]]:
    """Nearest regions in other cities with this view, nearest first."""
    found = [
        (other, one)
        for other in cities.values()
        if other is not city and view in other.views
        for one in other.views[view].neighbours.search(vector, SIMILAR)
    ]
    return sorted(found, key=lambda pair: -pair[1].cosine)[:SIMILAR]


def region_button(city: ShownCity, one: Neighbour, rank: int | None = None) -> dict[str, Any]:
    """Values for a button that opens the card of a region."""
    region_id = city.region_ids[one.row]
    shown = thumbnail(city, region_id)
    return {
        "city": city.name,
        "region_id": region_id,
        "jpeg": shown.jpeg if shown else None,
        "cosine": one.cosine,
        "rank": rank,
    }


def thumbnail(city: ShownCity, region_id: str) -> Picture | None:
    """Thumbnail of a region, from a satellite image if there is one."""
    views: Sequence[str] = ("satellite", "street_view")
    for pictures in (city.pictures[view] for view in views if view in city.pictures):
        if found := pictures.of_region(region_id, 1, THUMBNAIL_SIDE):
            return found[0]
    return None


__all__ = [
    "Line",
    "coverage",
    "estimate_lines",
    "region_button",
    "region_card",
    "similar_elsewhere",
    "thumbnail",
]
