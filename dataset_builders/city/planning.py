"""What a city will cost, before anything is fetched."""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd

from ..download import Limit, Store
from ..errors import DatasetError, SourceError
from ..files import write_state
from ..plots import plot_points, plot_regions
from ..roads import network_length_m
from ..sources.local_folder import LocalFolder
from ..sources.satellite import SatelliteSource
from ..sources.street_view import StreetViewSource
from .fetching import batches
from .layout import Layout, lay_out
from .readers import Reading
from .recipe import CityRecipe
from .workspace import Workspace

PLAN_FILE = "plan.json"
COSTS = ("requests", "gigabytes", "hours", "price")
COLUMNS = ("name", "view", "items", "left", *COSTS, "redistributable")


@dataclass(frozen=True)
class Plan:
    """What a build will do.

    Attributes:
        city: Its name.
        regions: Number of regions.
        area_km2: Area of all regions.
        road_km: Length of the road network; 0 without roads.
        points: Number of points along it.
        sources: One row per source of images, in the order they are asked: `name`, `view`, `items`
            (tiles or places), `left` (those not in the ledger yet), and for these at most
            `requests`, `gigabytes`, `hours` (at the rate limit) and `price`; `redistributable`.
        indicators: Names of the files of each indicator.
        currency: Of the prices.
    """

    city: str
    regions: int
    area_km2: float
    road_km: float
    points: int
    sources: pd.DataFrame
    indicators: dict[str, list[str]]
    currency: str

    def total(self, column: str) -> float:
        """Of all sources: "requests", "gigabytes", "hours" or "price"."""
        return float(self.sources[column].sum())

    def __str__(self) -> str:
        along = f"; {self.points:,} points along {self.road_km:,.1f} km of road"
        lines = [
            f"{self.city}: {self.regions:,} regions, {self.area_km2:,.1f} km2"
            + along * bool(self.points)
        ]
        one: Any
        for one in self.sources.itertuples():
            lines.append(
                f"  {one.view:<12} {one.name:<12} {one.left:>9,} of {one.items:,} to request: "
                f"{self._cost(one.requests, one.gigabytes, one.hours, one.price)}"
                + ("" if one.redistributable else "; may not be published, ids only")
            )
        for name, files in self.indicators.items():
            more = f" and {len(files) - 1} more" * (len(files) > 1)
            lines.append(f"  indicator    {name:<12} {files[0]}{more}")
        totals = [self.total(column) for column in COSTS]
        lines.append(f"  total at most: {self._cost(*totals)} at the rate limits")
        return "\n".join(lines)

    def _cost(self, requests: float, gigabytes: float, hours: float, price: float) -> str:
        money = f"{price:,.2f} {self.currency}"
        return f"{requests:,.0f} requests, {gigabytes:.3g} GB, {money}, {duration(hours)}"


def plan(
    recipe: CityRecipe, output_dir: str | Path, *, limit: int | None = None, draw: bool = True
) -> Plan:
    """Say what a build will do, and refuse what it would refuse.

    Only roads and the outline of a place are requested, where the recipe names no files for them.

    Args:
        recipe: Of the city.
        output_dir: See [`Workspace`]; what has been fetched already is not counted.
        limit: Only this many regions, those in the middle, for a try.
        draw: Also write `plan/plan.json` and the maps of regions and points.

    Raises:
        DatasetError: An impossible boundary, a file that is missing or not what the recipe says,
            or a folder of something else.
        SourceError: There are no roads.
    """
    space = Workspace(output_dir)
    space.claim()
    layout = lay_out(recipe, space.cache, limit)
    read_targets(recipe, layout.regions, check_only=True)
    return estimate(recipe, layout, space, draw=draw)


def read_targets(
    recipe: CityRecipe, regions: gpd.GeoDataFrame, *, check_only: bool = False
) -> list[Reading]:
    """Read every indicator of a recipe.

    Args:
        recipe: Of the city.
        regions: Polygons with `region_id`, EPSG:4326.
        check_only: Read no more regions than it takes to know that the files can be read.

    Raises:
        DatasetError: A missing file, an unknown raster, a table without its columns, or points that
            lie elsewhere. The message lists what is wrong with any indicator.
    """
    found, wrong = [], []
    for one in recipe.indicators:
        some = one.sample(regions) if check_only else regions
        try:
            found.append(one.read(recipe.files(one), some, recipe.path))
        except (DatasetError, SourceError) as error:
            wrong.append(str(error))
    if wrong:
        raise DatasetError("\n  ".join(wrong))
    return found


def estimate(recipe: CityRecipe, layout: Layout, space: Workspace, *, draw: bool = True) -> Plan:
    """The plan of a city that is laid out; see [`plan`]."""
    rows = []
    if (source := recipe.satellite_source()) is not None:
        with closing(space.open_store()) as store:
            rows.append(_satellite(recipe, source, layout, store))
    rows += _street_views(recipe, layout, space)
    found = Plan(
        recipe.city,
        len(layout.regions),
        float(layout.regions["area_m2"].sum()) / 1e6,
        0.0 if layout.roads is None else network_length_m(layout.roads) / 1000,
        len(layout.places),
        pd.DataFrame(rows, columns=list(COLUMNS)),
        {one.name: [f.name for f in recipe.files(one)] for one in recipe.indicators},
        recipe.costs.currency,
    )
    if draw:
        sources = found.sources.to_dict("records")
        write_state(space.plan / PLAN_FILE, vars(found) | {"sources": sources})
        _draw(recipe, layout, space.plan)
    return found


def check_costs(recipe: CityRecipe, found: Plan, max_cost: float | None, agreed: bool) -> str:
    """What to ask before a build starts; "" if nothing.

    Args:
        recipe: With the thresholds.
        found: The plan.
        max_cost: The most that may be spent, in the recipe's currency.
        agreed: The user has agreed already.

    Raises:
        DatasetError: It would cost more than `max_cost`.
    """
    requests, gigabytes, _, price = (found.total(column) for column in COSTS)
    if max_cost is not None and price > max_cost:
        raise DatasetError(
            f"The plan costs up to {price:,.2f} {found.currency}, more than the "
            f"{max_cost:,.2f} of --max_cost. Use fewer regions (--limit), wider spacing of the "
            "points, or fewer headings."
        )
    costs = recipe.costs
    reasons = [
        f"{price:,.2f} {found.currency}" * (price > costs.ask_above_price),
        f"{requests:,.0f} requests" * (requests > costs.ask_above_requests),
        f"{gigabytes:.3g} GB" * (gigabytes > costs.ask_above_gb),
    ]
    asked = ", ".join(reason for reason in reasons if reason)
    return "" if agreed or not asked else f"This will take {asked}. Continue?"


def duration(hours: float) -> str:
    """Hours as a person says them."""
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:,.1f} h"


def _satellite(
    recipe: CityRecipe, source: SatelliteSource, layout: Layout, store: Store
) -> tuple[Any, ...]:
    keys = source.keys(layout.regions)
    left = len(store.unsettled(keys))
    requests = math.ceil(left * source.requests_per_item)
    size_kb = source.kilobytes_per_request or recipe.costs.satellite_kb
    costs = _costs(recipe, source, requests, requests, size_kb)
    return source.name, "satellite", len(keys), left, *costs, source.redistributable


def _street_views(
    recipe: CityRecipe, layout: Layout, space: Workspace
) -> Iterator[tuple[Any, ...]]:
    for source, some in batches(recipe, layout.places, space.cache):
        if isinstance(source, LocalFolder):
            source.paths()  # a missing folder is reported now
            continue
        left = sum(len(one.places) for one in some if not one.file.exists())
        requests = math.ceil(left * source.requests_per_place)
        # metadata is no image: what a place brings is what is paid for and stored
        images = left * _images_per_place(source)
        costs = _costs(recipe, source, requests, images, recipe.costs.street_view_kb)
        items = len(layout.places)
        yield source.name, "street_view", items, left, *costs, source.redistributable


def _costs(
    recipe: CityRecipe,
    source: SatelliteSource | StreetViewSource,
    requests: int,
    images: int,
    size_kb: float,
) -> tuple[float, ...]:
    """See [`COSTS`]."""
    limits = {**source.limits, **recipe.network.limits}
    rate = min((limits[host].per_second for host in source.limits), default=Limit().per_second)
    price = images * source.price_per_1000 / 1000
    return requests, images * size_kb / 1e6, requests / rate / 3600, price


def _images_per_place(source: Any) -> int:
    """How many images a source gives per place, at most."""
    return len(source.headings) if hasattr(source, "headings") else getattr(source, "per_place", 1)


def _draw(recipe: CityRecipe, layout: Layout, folder: Path) -> None:
    title = f"{recipe.city}: {len(layout.regions):,} regions"
    plot_regions(layout.regions, folder / "regions.png", title)
    if layout.roads is not None and layout.points is not None and len(layout.points):
        title = f"{recipe.city}: {len(layout.points):,} points"
        plot_points(layout.roads, layout.points, folder / "points.png", title)


__all__ = ["PLAN_FILE", "Plan", "check_costs", "duration", "estimate", "plan", "read_targets"]
