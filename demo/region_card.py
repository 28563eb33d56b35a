"""What a click on a region is answered with: pictures, predictions, and regions that look alike."""

from collections.abc import Sequence

import numpy as np

from pipelines.evaluation.cities import Target

from .cities import VIEW_TITLES, Cities, ShownCity, number, raw
from .markup import SYNTHETIC, picture, readable, text, titled
from .neighbours import Neighbour
from .pictures import THUMBNAIL_SIDE, Picture, Pictures
from .probes import HeldOut

STREET_VIEWS_SHOWN = 4
SIMILAR_HERE, SIMILAR_ELSEWHERE = 6, 6
SQUARE_KM = 1e6


def region_card(cities: Cities, city: ShownCity, view: str, region_id: str) -> str:
    """The card of a region as HTML; everything from the data is escaped.

    Args:
        cities: all that are searched for regions that look alike.
        city: of the region.
        view: whose vectors predict and compare.
        region_id: of the region.

    Raises:
        InputError: there is no such region or view.
    """
    row = city.row(region_id)
    return (
        f"{_head(city, row)}{_pictures(city, region_id)}"
        f"<h4>What the pictures say</h4>{_predictions(city, view, row)}"
        f"{_similar(cities, city, view, row)}"
    )


def _head(city: ShownCity, row: int) -> str:
    region = city.city.regions.iloc[row]
    facts = []
    if np.isfinite(region["lon"]) and np.isfinite(region["lat"]):
        facts.append(f"{region['lat']:.4f}, {region['lon']:.4f}")
    if np.isfinite(area := float(region.get("area_m2", np.nan))):
        facts.append(f"{number(area / SQUARE_KM)} km²")
    mark = f" {SYNTHETIC}" if city.synthetic else ""
    return (
        f'<h3 tabindex="-1">{text(region["region_id"])}{mark}</h3>'
        f'<p class="soft">{titled(city.name)}{"".join(f" · {fact}" for fact in facts)}</p>'
    )


def _pictures(city: ShownCity, region_id: str) -> str:
    found, more = [], []
    for view, pictures in city.pictures.items():
        limit = STREET_VIEWS_SHOWN if view == "street_view" else 1
        found += pictures.of_region(region_id, limit)
        if (hidden := pictures.count(region_id) - limit) > 0:
            more.append(f"{hidden} more {readable(view)} pictures are not shown.")
    if not found:
        return '<p class="soft">The dataset has no picture of this region.</p>'
    note = f'<p class="soft">{" ".join(more)}</p>' if more else ""
    return f'<div class="pictures">{"".join(map(_figure, found))}</div>{note}'


def _figure(one: Picture) -> str:
    what = "Satellite" if one.view == "satellite" else "Street view"
    model = f' <span class="soft">({text(one.caption_model)})</span>' if one.caption_model else ""
    words = f"{text(one.caption)}{model}"
    caption = f"<details><summary>{words}</summary></details>" if one.caption else ""
    origin = f" · {text(one.origin)}" if one.origin else ""
    return (
        f"<figure>{picture(one.jpeg, f'{what} {one.image_id}')}"
        f'<figcaption><b>{what}</b><span class="soft">{origin}</span>{caption}</figcaption>'
        "</figure>"
    )


def _predictions(city: ShownCity, view: str, row: int) -> str:
    held_out = city.view(view).probes.held_out
    values, widths = held_out.values[row], held_out.half_widths[row]
    if not np.isfinite(values).any():
        return (
            '<p class="soft">No prediction: this region has no vector of '
            f"{VIEW_TITLES[view]}, or too few regions of the city have a label.</p>"
        )
    truth = [float(target.y[row]) for target in city.targets]
    table = prediction_table(city, values, widths, truth)
    return f"{table}{_table_note(held_out, view)}"


def prediction_table(
    city: ShownCity, values: np.ndarray, widths: np.ndarray, truth: Sequence[float] | None = None
) -> str:
    """Predictions with their intervals, an indicator a row.

    Args:
        city: whose indicators.
        values: `(K,)` on the scored scale.
        widths: `(K,)` half-widths of the intervals.
        truth: `(K,)`; None where nobody knows.
    """
    rows = []
    for k, target in enumerate(city.targets):
        if not np.isfinite(values[k]):
            continue
        low, high = values[k] - widths[k], values[k] + widths[k]
        known = None if truth is None or not np.isfinite(truth[k]) else truth[k]
        cells = [number(raw(values[k], target)), _range(low, high, target)]
        if truth is not None:
            cells.append("–" if known is None else number(raw(known, target)))
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        plot = _interval_plot(target, values[k], low, high, known)
        rows.append(
            f'<tr><th scope="row">{readable(target.name)}<span class="soft">{text(target.unit)}'
            f'</span></th>{numbers}<td class="plot">{plot}</td></tr>'
        )
    if not rows:
        return '<p class="soft">No prediction: too few regions of the city have a label.</p>'
    last = '<th scope="col">truth</th>' if truth is not None else ""
    return (
        '<table class="predictions"><thead><tr><th scope="col">indicator</th>'
        f'<th scope="col">predicted</th><th scope="col">90 % interval</th>{last}'
        '<th scope="col" class="plot">in the city</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _range(low: float, high: float, target: Target) -> str:
    if not np.isfinite(high - low):
        return '<span class="soft">too few labels</span>'
    return f'<span class="soft">{number(raw(low, target))} – {number(raw(high, target))}</span>'


def _interval_plot(
    target: Target, value: float, low: float, high: float, known: float | None
) -> str:
    """The interval on the range that the city's labels have."""
    labels = target.y[np.isfinite(target.y)]
    least, most = float(labels.min()), float(labels.max())
    reach = max(most - least, 1e-9)

    def x(one: float) -> float:
        return float(np.clip(2 + 96 * (one - least) / reach, 1, 99))

    interval = (
        f'<line class="interval" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="8" y2="8"/>'
        if np.isfinite(high - low)
        else ""
    )
    truth = "" if known is None else f'<circle class="truth" cx="{x(known):.1f}" cy="8" r="4"/>'
    return (
        '<svg viewBox="0 0 100 16" preserveAspectRatio="none" aria-hidden="true">'
        f'<line class="range" x1="1" x2="99" y1="8" y2="8"/>'
        f'{interval}<line class="value" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="2" y2="14"/>'
        f"{truth}</svg>"
    )


def _table_note(held_out: HeldOut, view: str) -> str:
    measured = held_out.coverage[np.isfinite(held_out.coverage)]
    covered = f"; they hold {100 * measured.mean():.0f} % of the regions" if len(measured) else ""
    return (
        f'<p class="soft small">Ridge probe on {VIEW_TITLES[view]}, out of sample (protocol '
        f"<b>{held_out.protocol}</b>). Conformal intervals aimed at {100 * held_out.level:.0f} %"
        f"{covered}. Bar: interval; tick: prediction; dot: truth; line: all regions of the city."
        "</p>"
    )


# ---- regions that look alike --------------------------------------------------------------------


def _similar(cities: Cities, city: ShownCity, view: str, row: int) -> str:
    vector = city.view(view).similar[row]
    if not np.isfinite(vector).all():
        return ""
    here = city.view(view).neighbours.search(vector, SIMILAR_HERE, without=row)
    blocks = [
        _row_of_regions(f"Most similar in {titled(city.name)}", [(city, one) for one in here])
    ]
    elsewhere = similar_elsewhere(cities, city, view, vector)
    if elsewhere:
        blocks.append(_row_of_regions("Most similar in other cities", elsewhere))
    elif len(cities) == 1:
        blocks.append(
            '<p class="soft small">Give the embeddings of more cities to see their regions too.</p>'
        )
    return "".join(blocks)


def similar_elsewhere(
    cities: Cities, city: ShownCity, view: str, vector: np.ndarray
) -> list[tuple[ShownCity, Neighbour]]:
    """The nearest regions of all other cities that have the view, nearest first."""
    found = [
        (other, one)
        for other in cities.values()
        if other is not city and view in other.views
        for one in other.views[view].neighbours.search(vector, SIMILAR_ELSEWHERE)
    ]
    return sorted(found, key=lambda pair: -pair[1].cosine)[:SIMILAR_ELSEWHERE]


def _row_of_regions(title: str, found: Sequence[tuple[ShownCity, Neighbour]]) -> str:
    return (
        f'<h4>{title}</h4><div class="strip">{"".join(region_button(*one) for one in found)}</div>'
    )


def region_button(city: ShownCity, one: Neighbour, rank: int | None = None) -> str:
    """A picture of a region that leads to its card."""
    region_id = city.region_ids[one.row]
    shown = thumbnail(city, region_id)
    image = picture(shown.jpeg, "") if shown else '<span class="no-picture">no picture</span>'
    place = "" if rank is None else f'<b class="rank">{rank}</b>'
    return (
        f'<button type="button" class="region" data-city="{text(city.name)}" '
        f'data-region="{text(region_id)}">{image}{place}<span>{text(region_id)}</span>'
        f'<span class="soft">{titled(city.name)} · cosine {one.cosine:.3f}</span></button>'
    )


def thumbnail(city: ShownCity, region_id: str) -> Picture | None:
    """The first picture of a region, from above where there is one."""
    for pictures in _from_above_first(city):
        found = pictures.of_region(region_id, 1, THUMBNAIL_SIDE)
        if found:
            return found[0]
    return None


def _from_above_first(city: ShownCity) -> list[Pictures]:
    return [city.pictures[view] for view in ("satellite", "street_view") if view in city.pictures]


__all__ = ["prediction_table", "region_button", "region_card", "similar_elsewhere", "thumbnail"]
