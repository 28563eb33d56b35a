"""Plan of a build (requests, download size, duration and price), and its status."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd

from ..download import Limit, Store
from ..errors import DatasetError, SourceError
from ..files import read_json, write_state
from ..plots import plot_points, plot_regions
from ..roads import network_length_m
from ..schema import config_name
from ..sources.local_folder import LocalFolder
from ..sources.satellite import SatelliteSource
from ..sources.street_view import StreetViewSource
from ..storage import DATA_FOLDER, count_rows, list_tables
from .fetching import batches
from .layout import Layout, lay_out
from .readers import Reading
from .recipe import CityRecipe
from .workspace import Workspace

PLAN_FILE = "plan.json"
REASONS_SHOWN = 5
COSTS = ("requests", "gigabytes", "hours", "price")
COLUMNS = ("name", "view", "items", "left", *COSTS, "redistributable")


@dataclass(frozen=True)
class Plan:
    """Plan of a build.

    Attributes:
        city: Name of the city.
        regions: Number of regions.
        area_km2: Total area of the regions.
        road_km: Length of the road network; 0 without roads.
        points: Number of sampling points along the roads.
        sources: One row per image source, in order of use, with columns `name`, `view`, `items`
            (number of tiles or locations), `left` (items not in the ledger), upper bounds for
            these of `requests`, `gigabytes`, `hours` (at the rate limit) and `price`, and
            `redistributable`.
        indicators: File names of each indicator.
        currency: Currency of the prices.
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
        """Sum of "requests", "gigabytes", "hours" or "price" over all sources."""
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
                + ("" if one.redistributable else "; not redistributable, only IDs are published")
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
    """Plan a build and check its inputs.

    No images are downloaded, only the boundary and the roads, unless the recipe gives files.

    Args:
        recipe: Recipe of the city.
        output_dir: Folder of the build; see [`Workspace`]. Items in its ledger cost nothing.
        limit: Number of regions of a trial build, taken from the centre; all by default.
        draw: Whether to write `plan/plan.json` and the maps of regions and points.

    Raises:
        DatasetError: The boundary is invalid, a file is missing or contradicts the recipe, or the
            folder is not a build's.
        SourceError: No roads were found.
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
        recipe: Recipe of the city.
        regions: Polygons with `region_id`, EPSG:4326.
        check_only: Read only as many regions as needed to check the files.

    Raises:
        DatasetError: A file is missing, a raster unknown, a table lacks columns, or points lie
            outside the city. The message lists the errors of all indicators.
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
    """Plan of a build with a given layout; see [`plan`]."""
    rows = []
    if (source := recipe.satellite_source()) is not None:
        with closing(Store(space.cache)) as store:
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
    """Confirmation question before a build above the cost thresholds; "" if none is needed.

    Args:
        recipe: Recipe with the thresholds.
        found: Plan of the build.
        max_cost: Maximum price, in the recipe's currency.
        agreed: Whether the user has already agreed.

    Raises:
        DatasetError: The price may exceed `max_cost`.
    """
    requests, gigabytes, _, price = (found.total(column) for column in COSTS)
    if max_cost is not None and price > max_cost:
        raise DatasetError(
            f"The build may cost {price:,.2f} {found.currency}, more than --max_cost "
            f"{max_cost:,.2f}. Use fewer regions (--limit), a wider spacing of the points, or "
            "fewer headings."
        )
    costs = recipe.costs
    reasons = [
        f"{price:,.2f} {found.currency}" * (price > costs.ask_above_price),
        f"{requests:,.0f} requests" * (requests > costs.ask_above_requests),
        f"{gigabytes:.3g} GB" * (gigabytes > costs.ask_above_gb),
    ]
    asked = ", ".join(reason for reason in reasons if reason)
    return "" if agreed or not asked else f"This will take {asked}. Continue?"


def describe(recipe: CityRecipe, output_dir: str | Path) -> str:
    """Status of a build as text.

    Raises:
        DatasetError: The folder holds no build.
    """
    space = Workspace(output_dir)
    if not space.cache.is_dir():
        raise DatasetError(
            f"There is no build in {space.root}. Run `python -m dataset_builders build` first."
        )
    planned = read_json(space.plan / PLAN_FILE) or {"sources": []}
    items = {one["name"]: one["items"] for one in planned["sources"]}
    lines = [f"{recipe.city} in {space.root}"]
    names = [one.name for one in (recipe.satellite, *recipe.street_view) if one is not None]
    with closing(Store(space.cache)) as store:
        for name in names:
            lines += _status(store, name, items.get(name))
        failed = sum(store.counts(f"{name}/").get("failed", 0) for name in names)
    if (space.dataset / DATA_FOLDER).is_dir() and any((space.dataset / DATA_FOLDER).iterdir()):
        lines += [
            f"  {config_name(*table)}: {count_rows(space.dataset, *table):,} rows"
            for table in list_tables(space.dataset)
        ]
    return "\n".join(lines + ["Rerun the build to retry failed items."] * bool(failed))


def duration(hours: float) -> str:
    """Format a duration in seconds, minutes or hours."""
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
            source.paths()  # raises if the folder is missing
            continue
        left = sum(len(one.places) for one in some if not one.is_complete())
        requests = math.ceil(left * source.requests_per_place)
        # images are paid for and stored, metadata requests are free
        per_place = len(getattr(source, "headings", ())) or getattr(source, "per_place", 1)
        images = left * per_place
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
    limits = {**source.limits, **recipe.network.limits}
    rate = min((limits[host].per_second for host in source.limits), default=Limit().per_second)
    price = images * source.price_per_1000 / 1000
    return requests, images * size_kb / 1e6, requests / rate / 3600, price


def _status(store: Store, name: str, planned: int | None) -> Iterator[str]:
    """Number of items per status, and the most frequent reasons of failures."""
    states = ", ".join(f"{count:,} {state}" for state, count in store.counts(f"{name}/").items())
    of = "" if planned is None else f" (planned: {planned:,} tiles or places)"
    yield f"  {name}: {states or 'nothing requested yet'}{of}"
    reasons = Counter(f"{one.status}: {one.detail}" for one in store.failures(f"{name}/"))
    for reason, count in reasons.most_common(REASONS_SHOWN):
        yield f"    {count:,} {reason}"
    if len(reasons) > REASONS_SHOWN:
        yield f"    and {len(reasons) - REASONS_SHOWN} further reasons"


def _draw(recipe: CityRecipe, layout: Layout, folder: Path) -> None:
    title = f"{recipe.city}: {len(layout.regions):,} regions"
    plot_regions(layout.regions, folder / "regions.png", title)
    if layout.roads is not None and layout.points is not None and len(layout.points):
        title = f"{recipe.city}: {len(layout.points):,} points"
        plot_points(layout.roads, layout.points, folder / "points.png", title)


__all__ = [
    "PLAN_FILE",
    "Plan",
    "check_costs",
    "describe",
    "duration",
    "estimate",
    "plan",
    "read_targets",
]
