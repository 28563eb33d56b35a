"""Card of a region: images, estimates and similar regions."""

from typing import Any

import numpy as np
import pandas as pd

from pipelines.prediction.estimate import UNLIKE
from pipelines.prediction.labels import Indicator
from pipelines.prediction.predict import Predictions

from .amounts import amounts_of, rounded
from .cities import VIEW_TITLES, Cities, Neighbour, ShownCity, find
from .page import render
from .pictures import THUMBNAIL_SIDE, Picture

STREET_VIEWS_SHOWN = 4
SIMILAR = 6
SQUARE_KM = 1e6


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
    row = find(city.rows, region_id, "region")
    found = find(city.views, view, "view").predictions
    lines = [] if found is None else estimate_lines(city, found.table.iloc[row], row)
    pictures, hidden = _pictures(city, region_id)
    return render(
        "card",
        city=city,
        region_id=region_id,
        facts=_facts(city, row),
        pictures=pictures,
        hidden=hidden,
        lines=[line for line in lines if not line["unlike"]],
        unlike=[line for line in lines if line["unlike"]],
        with_measured=True,
        coverage=_coverage(found),
        protocol="" if found is None else found.verdicts[0].protocol,
        view=VIEW_TITLES[view],
        similar=_similar(cities, city, view, row),
        alone=len(cities) == 1,
    )


def estimate_lines(
    city: ShownCity, values: "pd.Series[Any]", row: int | None = None
) -> list[dict[str, Any]]:
    """Rows of the table of estimates, one per indicator that has an estimate.

    Args:
        city: City of the indicators.
        values: `<indicator>_predicted`, `_low`, `_high` and `_status` of a region.
        row: Row number of the region; None for uploaded images, which have no measured values.

    Returns:
        For each row `name`, `unit`, the texts `measured`, `estimated` and `interval` (empty with
        too few labels), `at`, the positions within the range of the city's values in percent (None
        if unknown), and `unlike`, whether the images are outside the training distribution.
    """
    lines = []
    for name, indicator in city.indicators.items():
        value = float(values.get(f"{name}_predicted", np.nan))
        if not np.isfinite(value):
            continue
        low, high = float(values[f"{name}_low"]), float(values[f"{name}_high"])
        measured = np.nan if row is None else float(indicator.raw[row])
        amounts = amounts_of(indicator)
        raw = {"value": value, "low": low, "high": high, "dot": measured}
        lines.append(
            {
                "name": name,
                "unit": indicator.unit,
                "measured": amounts.measured(measured),
                "estimated": amounts.estimated(value),
                "interval": amounts.between(low, high),
                "at": _positions(indicator, raw),
                "unlike": values[f"{name}_status"] == UNLIKE,
            }
        )
    return lines


def _coverage(found: Predictions | None) -> float | None:
    """Coverage of the intervals on held-out regions, averaged over the indicators."""
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
    shown = city.views[view]
    vector = shown.similar[row]
    if not np.isfinite(vector).all():
        return {"here": [], "elsewhere": []}
    elsewhere = [
        (other, one)
        for other in cities.values()
        if other is not city and view in other.views
        for one in other.views[view].neighbours.search(vector, SIMILAR)
    ]
    nearest = sorted(elsewhere, key=lambda pair: -pair[1].cosine)[:SIMILAR]
    return {
        "here": [region_button(city, one) for one in shown.neighbours.search(vector, SIMILAR, row)],
        "elsewhere": [region_button(*pair) for pair in nearest],
    }


def region_button(city: ShownCity, one: Neighbour, rank: int | None = None) -> dict[str, Any]:
    """Values for a button with a thumbnail that opens the card of a region."""
    region_id = city.region_ids[one.row]
    shown = (own.of_region(region_id, 1, THUMBNAIL_SIDE) for own in city.pictures.values())
    return {
        "city": city.name,
        "region_id": region_id,
        "jpeg": next((pictures[0].jpeg for pictures in shown if pictures), None),
        "cosine": one.cosine,
        "rank": rank,
    }


__all__ = ["estimate_lines", "region_button", "region_card"]
