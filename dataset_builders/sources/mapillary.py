"""Mapillary API v4: coverage tiles list the images, entity requests return their URLs.

https://www.mapillary.com/developer/api-documentation. Spatial search is only practical through
coverage tiles (vector tiles, zoom 14). Image URLs expire, so each image is downloaded right after
its URL was requested.
"""

import datetime
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.spatial import cKDTree

from ..coordinates import tile_index
from ..download import Fetcher, Item, Limit, Store, Verdict
from ..errors import MissingExtraError
from ..splits import local_xy
from ..trust import secret_from
from .street_view import (
    Place,
    View,
    batched,
    check_nearest,
    id_parts,
    images,
    is_since,
    json_answers,
    number,
    read_json,
)

TILES, GRAPH = "https://tiles.mapillary.com", "https://graph.mapillary.com"
ZOOM = 14
FIELDS = "id,captured_at,compass_angle,computed_compass_angle,geometry,computed_geometry"
SIZES = ("thumb_256_url", "thumb_1024_url", "thumb_2048_url", "thumb_original_url")


@dataclass(frozen=True)
class Mapillary:
    """Images nearest to each location.

    Attributes:
        per_place: Maximum number of images per location.
        radius_m: Maximum distance from the location in metres.
        panoramas: True for panoramas only, False for flat images only, None for both.
        since: Date of the oldest images to use, "2020-01-31"; no limit by default.
        size: Field with the URL of the image, one of `SIZES`.
        tiles_url: URL of the coverage tiles.
        graph_url: URL of the Graph API.
        key_env: Environment variable that holds the access token.
    """

    provider: Literal["mapillary"] = "mapillary"
    per_place: int = 1
    radius_m: float = 50.0
    panoramas: bool | None = None
    since: str | None = None
    size: str = "thumb_1024_url"
    tiles_url: str = TILES
    graph_url: str = GRAPH
    key_env: str = "MAPILLARY_ACCESS_TOKEN"
    limits: Mapping[str, Limit] = field(
        default_factory=lambda: {
            "tiles.mapillary.com": Limit(2, 4),
            "graph.mapillary.com": Limit(10, 8),
        }
    )
    name: str = "mapillary"
    licence: str = "cc-by-sa-4.0"
    redistributable: bool = True
    price_per_1000: float = 0.0

    def __post_init__(self) -> None:
        check_nearest(self.per_place, self.radius_m, self.since, self.size, SIZES)

    @property
    def requests_per_place(self) -> float:
        """Requests per location: entity and image; coverage tiles are negligible."""
        return 2.0 * self.per_place

    async def views(
        self, places: Sequence[Place], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[View]:
        """See [`StreetViewSource`]."""
        secret = secret_from(self.key_env, self.name)
        tiles = sorted({tile_index(p.lon, p.lat, ZOOM, "xyz") for p in places})
        # the nearest image may lie in a neighbouring tile
        around = sorted({(x + i, y + j) for x, y in tiles for i in (-1, 0, 1) for j in (-1, 0, 1)})
        items = (
            Item(
                self._tile_key(x, y),
                f"{self.tiles_url}/maps/vtp/mly1_public/2/{ZOOM}/{x}/{y}",
                {"access_token": secret},
                secret=secret,
            )
            for x, y in around
        )
        async for _ in fetcher.fetch_all(items, check_tile):
            pass
        chosen = self._nearest(places, self._coverage(around, store))
        for batch in batched(chosen.items()):
            async for view in self._fetch(dict(batch), fetcher, store, secret):
                yield view

    async def pictures(
        self, rows: Sequence[Mapping[str, Any]], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[tuple[str, str]]:
        """See [`StreetViewSource`]; requests the current URL of each image."""
        secret = secret_from(self.key_env, self.name)
        # only the IDs are needed, so the location is a dummy
        ids = ((one, Place("", 0.0, 0.0)) for _, one in id_parts(rows, 2))
        for batch in batched(ids):
            async for view in self._fetch(dict(batch), fetcher, store, secret):
                yield view.image_id, view.key

    async def _fetch(
        self, batch: Mapping[str, Place], fetcher: Fetcher, store: Store, secret: str
    ) -> AsyncIterator[View]:
        # URLs expire: request those of missing images again
        fresh = [one for one in batch if store.settled(self._picture_key(one)) is None]
        store.forget(self._entity_key(one) for one in fresh)
        questions = (
            Item(
                self._entity_key(one),
                f"{self.graph_url}/{one}",
                {"fields": f"{FIELDS},{self.size}"},
                {"Authorization": f"OAuth {secret}"},
                secret,
            )
            for one in batch
        )
        entities = await json_answers(questions, check_entity, fetcher, store)
        found: dict[str, tuple[View, str]] = {}
        for one, place in batch.items():
            entity = entities.get(self._entity_key(one)) or {}
            if isinstance(address := entity.get(self.size), str):
                found[self._picture_key(one)] = (self._view(one, entity, place), address)
        # the URL holds no API key, so a rejected request need not stop the build
        items = (Item(key, url, refused="failed") for key, (_, url) in found.items())
        async for key in images(items, fetcher):
            yield found[key][0]

    def _tile_key(self, x: int, y: int) -> str:
        return f"{self.name}/tile/{ZOOM}/{x}/{y}"

    def _entity_key(self, one: str) -> str:
        return f"{self.name}/entity/{one}/{self.size}"

    def _picture_key(self, one: str) -> str:
        return f"{self.name}/picture/{one}/{self.size}"

    def _coverage(
        self, tiles: Iterable[tuple[int, int]], store: Store
    ) -> list[tuple[str, float, float]]:
        """Sorted ID, longitude and latitude of the selected images of the tiles."""
        found: dict[str, tuple[str, float, float]] = {}
        for x, y in tiles:
            content = store.read(self._tile_key(x, y))
            for lon, lat, properties in [] if content is None else decode_tile(content, x, y):
                taken = _date(number(properties.get("captured_at")))
                is_chosen = self.panoramas in (None, bool(properties.get("is_pano")))
                if is_chosen and is_since(taken, self.since):
                    one = str(properties["id"])
                    found[one] = (one, lon, lat)
        return sorted(found.values())

    def _nearest(
        self, places: Sequence[Place], pictures: Sequence[tuple[str, float, float]]
    ) -> dict[str, Place]:
        """Nearest images of each location; an image near several belongs to the first."""
        if not pictures or not places:
            return {}
        lon = np.array([p.lon for p in places] + [one[1] for one in pictures])
        lat = np.array([p.lat for p in places] + [one[2] for one in pictures])
        xy = np.column_stack(local_xy(lon, lat))
        tree = cKDTree(xy[len(places) :])
        chosen: dict[str, Place] = {}
        distances, indices = tree.query(
            xy[: len(places)],
            k=np.arange(1, self.per_place + 1),
            distance_upper_bound=self.radius_m,
        )
        for row, rank in np.argwhere(np.isfinite(distances)).tolist():
            chosen.setdefault(pictures[int(np.asarray(indices)[row, rank])][0], places[row])
        return chosen

    def _view(self, one: str, entity: Mapping[str, Any], place: Place) -> View:
        geometry = entity.get("computed_geometry") or entity.get("geometry")
        pair = geometry.get("coordinates") if isinstance(geometry, dict) else None
        lon, lat = map(number, pair if isinstance(pair, list) and len(pair) == 2 else (None, None))
        if lon is None or lat is None:
            lon, lat = place.lon, place.lat
        heading = number(entity.get("computed_compass_angle", entity.get("compass_angle")))
        where = (lon, lat, None if heading is None else heading % 360)
        taken, key = _date(number(entity.get("captured_at"))), self._picture_key(one)
        image_id, by = f"{self.name}/{one}", "Mapillary contributors"
        return View(image_id, place.point_id, key, *where, taken, self.name, self.licence, by)


def decode_tile(content: bytes, x: int, y: int) -> list[tuple[float, float, dict[str, Any]]]:
    """Longitude, latitude (WGS-84) and properties of the images in a coverage tile.

    Args:
        content: Mapbox vector tile.
        x: Column of the tile.
        y: Row of the tile, counted from the north.

    Raises:
        ValueError: The content is not a vector tile.
    """
    try:
        import mapbox_vector_tile
    except ImportError as error:
        raise MissingExtraError("mapbox-vector-tile", "geo") from error
    try:
        layer = mapbox_vector_tile.decode(content).get("image") or {}
        points = [
            (*one["geometry"]["coordinates"], one["properties"])
            for one in layer.get("features", [])
            if str(one["properties"].get("id")).isdigit() and one["geometry"]["type"] == "Point"
        ]
        extent, size = layer.get("extent", 4096), 2.0**ZOOM
        found = []
        for across, up, properties in points:
            column, row = x + across / extent, y + 1 - up / extent
            lat = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * row / size))))
            found.append((column / size * 360 - 180, float(lat), properties))
        return found
    except Exception as error:  # the decoder has no exception class of its own
        raise ValueError("not a vector tile") from error


def check_tile(content: bytes, media_type: str) -> Verdict:
    """Check for a vector tile; errors are JSON or HTML."""
    if content.lstrip()[:1] in (b"{", b"<"):
        return _check_error(content, media_type)
    try:
        decode_tile(content, 0, 0)
    except ValueError as error:
        return Verdict("invalid", str(error))
    return Verdict("ok")


def check_entity(content: bytes, media_type: str) -> Verdict:
    """Check for an entity with an ID."""
    answer = read_json(content)
    if isinstance(answer, dict) and "id" in answer and "error" not in answer:
        return Verdict("ok")
    return _check_error(content, media_type)


def _check_error(content: bytes, media_type: str) -> Verdict:
    """Errors of the Graph API: https://developers.facebook.com/docs/graph-api/guides/error-handling."""
    answer = read_json(content)
    error = answer.get("error", {}) if isinstance(answer, dict) else {}
    code = error.get("code") if isinstance(error, dict) else None
    if code in (4, 17, 32, 613):
        return Verdict("quota", f"error {code}")
    if code in (10, 102, 190, 200):
        return Verdict("denied", f"error {code}")
    return Verdict("invalid", f"error {code}" if code else f"unexpected {media_type}")


def _date(milliseconds: float | None) -> str | None:
    try:
        moment = datetime.datetime.fromtimestamp(float(milliseconds or "nan") / 1000, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


__all__ = ["Mapillary", "check_entity", "check_tile", "decode_tile"]
