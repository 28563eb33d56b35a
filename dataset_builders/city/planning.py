"""What a city will cost, before anything does."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..download import Limit, Store
from ..errors import DatasetError
from ..files import write_json
from ..plots import plot_points, plot_regions
from ..sources.street_view import Place, StreetViewSource
from .fetching import batch_files
from .layout import Layout, lay_out
from .recipe import CityRecipe
from .targets import indicator_files
from .workspace import Workspace

PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class SourcePlan:
    """What a source of pictures will be asked for.

    Attributes:
        name: of the source.
        view: "satellite" or "street_view".
        items: tiles or places, all of them.
        left: of them, those that are not in the ledger yet.
        requests: for those, at most.
        gigabytes: of the answers, as the recipe estimates them.
        hours: at the rate limit.
        price: in the recipe's currency, at most.
        redistributable: the pictures may be published.
        licence: of the pictures.
    """

    name: str
    view: str
    items: int
    left: int
    requests: int
    gigabytes: float
    hours: float
    price: float
    redistributable: bool
    licence: str


@dataclass(frozen=True)
class Plan:
    """What a build will do.

    Attributes:
        city: its name.
        regions: number.
        area_km2: of all.
        road_km: length of the network; 0 without roads.
        points: along it.
        sources: of pictures.
        indicators: by name, the files they are made of.
        currency: of the prices.
    """

    city: str
    regions: int
    area_km2: float
    road_km: float
    points: int
    sources: tuple[SourcePlan, ...]
    indicators: dict[str, list[str]]
    currency: str

    @property
    def requests(self) -> int:
        """Of all sources."""
        return sum(one.requests for one in self.sources)

    @property
    def gigabytes(self) -> float:
        """Of all sources."""
        return sum(one.gigabytes for one in self.sources)

    @property
    def hours(self) -> float:
        """Sources are asked one after another."""
        return sum(one.hours for one in self.sources)

    @property
    def price(self) -> float:
        """Of all sources."""
        return sum(one.price for one in self.sources)

    def __str__(self) -> str:
        lines = [
            f"{self.city}: {self.regions:,} regions, {self.area_km2:,.1f} km2"
            + (f"; {self.points:,} points along {self.road_km:,.1f} km of road" * bool(self.points))
        ]
        lines += [
            f"  {one.view:<12} {one.name:<12} {one.left:>9,} of {one.items:,} to ask for: "
            f"{one.requests:,} requests, {one.gigabytes:.3g} GB, {duration(one.hours)}, "
            f"{one.price:,.2f} {self.currency}"
            + ("" if one.redistributable else "; may not be published, ids only")
            for one in self.sources
        ]
        for name, files in self.indicators.items():
            more = f" and {len(files) - 1} more" * (len(files) > 1)
            lines.append(f"  indicator    {name:<12} {files[0]}{more}")
        lines.append(
            f"  together     {self.requests:,} requests, {self.gigabytes:.3g} GB, "
            f"{duration(self.hours)} at the rate limits, {self.price:,.2f} {self.currency} at most"
        )
        return "\n".join(lines)


def plan(
    recipe: CityRecipe, output_dir: str | Path, *, limit: int | None = None, draw: bool = True
) -> Plan:
    """Say what a build will do; nothing is asked for but roads and a place's name.

    Args:
        recipe: of the city.
        output_dir: see [`Workspace`]; what is fetched already is not counted.
        limit: only so many regions, the middle ones, for a try.
        draw: also write `plan/plan.json` and the maps of regions and points.

    Raises:
        DatasetError: an impossible boundary, a file that is missing, or a folder of something else.
        SourceError: there is no road there.
    """
    space = Workspace(Path(output_dir))
    space.claim()
    layout = lay_out(recipe, space.cache, limit)
    files = {
        one.name: [file.name for file in indicator_files(recipe, one)] for one in recipe.indicators
    }
    store = space.open_store()
    try:
        sources = [*_satellite(recipe, layout, store), *_street_views(recipe, layout, space)]
    finally:
        store.close()
    found = Plan(
        recipe.city,
        len(layout.regions),
        float(layout.regions["area_m2"].sum()) / 1e6,
        0.0 if layout.roads is None else _length_km(layout),
        len(layout.places),
        tuple(sources),
        files,
        recipe.costs.currency,
    )
    if draw:
        write_json(space.plan / PLAN_FILE, asdict(found))
        _draw(recipe, layout, space.plan)
    return found


def check_costs(recipe: CityRecipe, found: Plan, max_cost: float | None, agreed: bool) -> str:
    """What must be asked before a build starts; "" if nothing.

    Args:
        recipe: with the thresholds.
        found: the plan.
        max_cost: the most that may be spent, in the recipe's currency.
        agreed: the user said yes already.

    Raises:
        DatasetError: it would cost more than `max_cost`.
    """
    if max_cost is not None and found.price > max_cost:
        raise DatasetError(
            f"The plan costs up to {found.price:,.2f} {found.currency}, more than the "
            f"{max_cost:,.2f} of --max_cost. Take fewer regions (--limit), wider spacing of the "
            "points, or fewer headings."
        )
    costs = recipe.costs
    reasons = [
        f"{found.price:,.2f} {found.currency}" * (found.price > costs.ask_above_price),
        f"{found.requests:,} requests" * (found.requests > costs.ask_above_requests),
        f"{found.gigabytes:.3g} GB" * (found.gigabytes > costs.ask_above_gb),
    ]
    asked = ", ".join(reason for reason in reasons if reason)
    return "" if agreed or not asked else f"This will take {asked}. Go on?"


def duration(hours: float) -> str:
    """Hours as a person says them."""
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:,.1f} h"


def _satellite(recipe: CityRecipe, layout: Layout, store: Store) -> list[SourcePlan]:
    source = recipe.open_satellite()
    if source is None:
        return []
    keys = source.keys(layout.regions)
    bar = tqdm(keys, desc="ledger", unit="item", leave=False)
    left = sum(store.settled(key) is None for key in bar)
    limits = dict(source.limits) | dict(recipe.network.limits)
    rate = min(limits[host].per_second for host in source.limits)
    requests = math.ceil(left * source.requests_per_item)
    size = requests * (source.kilobytes_per_request or recipe.costs.satellite_kb) / 1e6
    price = requests * source.price_per_1000 / 1000
    return [
        SourcePlan(
            source.name,
            "satellite",
            len(keys),
            left,
            requests,
            size,
            requests / rate / 3600,
            price,
            source.redistributable,
            source.licence,
        )
    ]


def _street_views(recipe: CityRecipe, layout: Layout, space: Workspace) -> list[SourcePlan]:
    found = []
    for number, settings in enumerate(recipe.street_view):
        if settings["provider"] == "folder":
            continue
        source = recipe.open_street_view(number)
        batches = batch_files(recipe, number, layout.places, space.cache)
        left = sum(len(batch) for file, batch in batches if not file.exists())
        found.append(_views(recipe, source, layout.places, left))
    return found


def _views(
    recipe: CityRecipe, source: StreetViewSource, places: Sequence[Place], left: int
) -> SourcePlan:
    requests = math.ceil(left * source.requests_per_place)
    # metadata is no picture: what a place brings is what is paid for and stored
    pictures = left * pictures_per_place(source)
    limits: dict[str, Limit] = dict(source.limits) | dict(recipe.network.limits)
    rate = min((limits[host].per_second for host in source.limits), default=Limit().per_second)
    return SourcePlan(
        source.name,
        "street_view",
        len(places),
        left,
        requests,
        pictures * recipe.costs.street_view_kb / 1e6,
        requests / rate / 3600,
        pictures * source.price_per_1000 / 1000,
        source.redistributable,
        source.licence,
    )


def pictures_per_place(source: Any) -> int:
    """How many pictures a source gives for a place, at most."""
    return len(source.headings) if hasattr(source, "headings") else getattr(source, "per_place", 1)


def _length_km(layout: Layout) -> float:
    from ..roads import network_length_m

    assert layout.roads is not None
    return network_length_m(layout.roads) / 1000


def _draw(recipe: CityRecipe, layout: Layout, folder: Path) -> None:
    title = f"{recipe.city}: {len(layout.regions):,} regions"
    plot_regions(layout.regions, folder / "regions.png", title)
    if layout.roads is not None and layout.points is not None and len(layout.points):
        title = f"{recipe.city}: {len(layout.points):,} points"
        plot_points(layout.roads, layout.points, folder / "points.png", title)


__all__ = ["PLAN_FILE", "Plan", "SourcePlan", "check_costs", "duration", "plan"]
