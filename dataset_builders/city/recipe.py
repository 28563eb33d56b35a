"""Recipe of a city's dataset: a YAML file, fully validated before any download."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ..download import USER_AGENT, Limit
from ..errors import DatasetError
from ..files import digest
from ..roads import STREETS
from ..schema import CITY_PATTERN
from ..sources.baidu import BaiduPanorama
from ..sources.google import GoogleStreetView
from ..sources.kartaview import KartaView
from ..sources.local_folder import LocalFolder
from ..sources.mapillary import Mapillary
from ..sources.satellite import SatelliteSource
from ..sources.stac import StacSource
from ..sources.street_view import StreetViewSource
from ..sources.tiles import TileSource
from ..trust import check_addresses
from ..yaml_records import Record, make_record, read_yaml
from .readers import PlaceSettings, PointSettings, PolygonSettings, RasterSettings

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

SatelliteProvider = Annotated[TileSource | StacSource, Field(discriminator="provider")]
StreetViewProvider = Annotated[
    GoogleStreetView | BaiduPanorama | Mapillary | KartaView | LocalFolder,
    Field(discriminator="provider"),
]
IndicatorSettings = Annotated[
    RasterSettings | PolygonSettings | PointSettings | PlaceSettings, Field(discriminator="reader")
]


class BoundarySettings(Record):
    """Boundary of the city: exactly one of `file`, `place` and `bbox`.

    Attributes:
        file: Polygon file in any format that geopandas reads.
        place: Name to geocode with Nominatim (OpenStreetMap), such as "Beijing, China".
        bbox: West, south, east and north in degrees, EPSG:4326.
        nominatim_url: URL of a Nominatim server other than the public one.
    """

    file: str | None = None
    place: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    nominatim_url: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in ("file", "place", "bbox") if getattr(self, name) is not None]
        if len(given) != 1:
            said = ", ".join(given) or "none"
            raise ValueError(f"`boundary` takes exactly one of file, place and bbox; got {said}.")
        return self


class RegionSettings(Record):
    """Regions of the city.

    Attributes:
        scheme: "squares", map "tiles", "h3" hexagons, or user-supplied "polygons".
        side_m: Side of a square in metres.
        plane: Fixed projection of the squares ("epsg32650"), which makes them independent of the
            boundary.
        zoom: Zoom level of the tiles.
        tile_scheme: Tile numbering scheme: "xyz", "tms" or "baidu".
        resolution: H3 resolution.
        file: Polygon file.
        id_column: Column of the polygon file that becomes `region_id`.
        min_cover: Minimum share of a region within the boundary.
    """

    scheme: Literal["squares", "tiles", "h3", "polygons"] = "squares"
    side_m: Positive = 1000.0
    plane: str | None = None
    zoom: Annotated[int, Field(ge=0, le=24)] | None = None
    tile_scheme: Literal["xyz", "tms", "baidu"] = "xyz"
    resolution: Annotated[int, Field(ge=0, le=15)] | None = None
    file: str | None = None
    id_column: str | None = None
    min_cover: Share = 0.5

    @model_validator(mode="after")
    def _check(self) -> Self:
        needs = {"tiles": ("zoom",), "h3": ("resolution",), "polygons": ("file", "id_column")}
        missing = [name for name in needs.get(self.scheme, ()) if getattr(self, name) is None]
        if missing:
            raise ValueError(f"Regions of scheme {self.scheme!r} need {', '.join(missing)}.")
        return self


class RoadSettings(Record):
    """Roads along which street views are sampled.

    Attributes:
        pbf: OpenStreetMap extract (.osm.pbf); by default roads are downloaded from Overpass.
        overpass_url: URL of an Overpass server other than the public one.
        classes: Values of the tag `highway`.
        spacing_m: Distance between sampling points along a road, in metres.
        thin_m: Minimum distance between sampling points in metres; closer ones are dropped.
    """

    pbf: str | None = None
    overpass_url: str | None = None
    classes: tuple[str, ...] = STREETS
    spacing_m: Positive = 500.0
    thin_m: NotNegative = 50.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.thin_m >= self.spacing_m:
            raise ValueError(
                f"`thin_m` must be below `spacing_m`, got {self.thin_m:g} and {self.spacing_m:g}."
            )
        return self


class SplitSettings(Record):
    """Training, validation and test splits.

    Attributes:
        seed: Split seed.
        block_m: Side of a block in metres. By default at least the longest correlation range of
            the labels, but small enough for three blocks per row.
        buffer_cells: Width of the buffer between parts, in regions: 1 drops the regions that touch
            another part, each further unit those within another side of a typical region (square
            root of the median area); 0 drops none.
    """

    seed: int = 0
    block_m: Positive | None = None
    buffer_cells: NotNegative = 1.0


class NetworkSettings(Record):
    """Rate limits, retries and user agent of requests.

    Attributes:
        contact: E-mail address or URL for the user agent.
        max_attempts: Maximum number of attempts per item and run.
        limits: Limits per host: `{api.map.baidu.com: {per_second: 10, at_once: 8}}`.
        placeholders_above: An image returned for more items than this is a placeholder.
    """

    contact: str = ""
    max_attempts: Annotated[int, Field(ge=1)] = 5
    limits: Mapping[str, Limit] = {}
    placeholders_above: Annotated[int, Field(ge=0)] = 20

    @property
    def user_agent(self) -> str:
        """Value of the `User-Agent` header."""
        return f"{USER_AGENT} {self.contact}".strip()

    @field_validator("contact")
    @classmethod
    def _is_ascii(cls, contact: str) -> str:
        if not contact.isascii():
            raise ValueError(f"`contact` must be ASCII, got {contact!r}.")
        return contact


class CostSettings(Record):
    """Estimated image sizes, and thresholds above which a build asks for confirmation.

    Attributes:
        currency: Currency of all prices in the recipe.
        ask_above_price: Threshold of the price.
        ask_above_requests: Threshold of the number of requests to all sources.
        ask_above_gb: Threshold of the download size in gigabytes.
        satellite_kb: Size of a map tile in kilobytes.
        street_view_kb: Size of a street view in kilobytes.
    """

    currency: str = "USD"
    ask_above_price: NotNegative = 0.0
    ask_above_requests: Annotated[int, Field(ge=0)] = 20_000
    ask_above_gb: NotNegative = 5.0
    satellite_kb: NotNegative = 16.0
    street_view_kb: NotNegative = 120.0


class CityRecipe(Record):
    """Recipe of a city's dataset.

    Attributes:
        city: City name in the dataset's configs: a-z, 0-9 and _.
        boundary: Boundary of the city.
        regions: Regions of the city.
        title: Title of the dataset card.
        description: Description on the dataset card.
        roads: Roads along which street views are sampled; required by online sources.
        satellite: Satellite source: a `provider` ("tiles" or "stac") and its fields.
        street_view: Street-view sources, in order of use: a `provider` and its fields each.
        indicators: Prediction targets: a `reader` and its fields each.
        splits: Splits of the regions.
        network: Rate limits, retries and user agent.
        costs: Estimates and confirmation thresholds.
        synthetic: Whether any part of the data is simulated.
        licence: Licence of the published dataset.
        citation: BibTeX entry or plain reference.
        notes: Caveats, one sentence each.
        data_dir: Base folder of relative paths; the folder of the recipe by default.
    """

    city: str
    boundary: BoundarySettings
    regions: RegionSettings = RegionSettings()
    title: str = ""
    description: str = ""
    roads: RoadSettings | None = None
    satellite: SatelliteProvider | None = None
    street_view: tuple[StreetViewProvider, ...] = ()
    indicators: tuple[IndicatorSettings, ...] = ()
    splits: SplitSettings = SplitSettings()
    network: NetworkSettings = NetworkSettings()
    costs: CostSettings = CostSettings()
    synthetic: bool = False
    licence: str = "other"
    citation: str = ""
    notes: tuple[str, ...] = ()
    data_dir: str = "."

    @field_validator("city")
    @classmethod
    def _is_a_name(cls, city: str) -> str:
        if not CITY_PATTERN.fullmatch(city):
            raise ValueError(f"`city` may contain only a-z, 0-9 and _, got {city!r}.")
        return city

    @field_validator("indicators")
    @classmethod
    def _have_names_of_their_own(cls, indicators: Sequence[Any]) -> Sequence[Any]:
        names = [one.name for one in indicators]
        if len(set(names)) < len(names):
            raise ValueError(f"Indicator names must be unique, got {', '.join(sorted(names))}.")
        return indicators

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.satellite is not None and self.regions.scheme == "h3":
            raise ValueError(
                "Satellite images require square regions, but H3 cells are hexagons, not squares: "
                "use another `scheme` of regions, or omit `satellite`."
            )
        if self.roads is None and any(not isinstance(v, LocalFolder) for v in self.street_view):
            raise ValueError("Street views are sampled along roads: the recipe needs `roads`.")
        return self

    def path(self, name: str) -> Path:
        """Resolve a path relative to `data_dir`."""
        return Path(self.data_dir) / Path(name).expanduser()

    def files(self, indicator: Any) -> list[Path]:
        """Sorted files of an indicator, with glob patterns expanded.

        Raises:
            DatasetError: A file is missing, or no file matches a pattern.
        """
        found: set[Path] = set()
        for name in indicator.files:
            path = self.path(name)
            is_pattern = any(sign in path.name for sign in "*?[")
            matches = list(path.parent.glob(path.name)) if is_pattern else [path]
            if not (matches := [match for match in matches if match.is_file()]):
                raise DatasetError(
                    f"There is no file {path} for the indicator {indicator.name!r}. Paths are "
                    "relative to the recipe's `data_dir` (--data_dir)."
                )
            found.update(matches)
        return sorted(found)

    def satellite_source(self) -> SatelliteSource | None:
        """Source of the satellite images, if any."""
        source: Any = self.satellite
        return source

    def street_view_sources(self) -> list[StreetViewSource]:
        """Street-view sources in order of use, with the paths of local folders resolved."""
        found: list[Any] = [
            replace(one, folder=str(self.path(one.folder))) if isinstance(one, LocalFolder) else one
            for one in self.street_view
        ]
        return found

    def online_sources(self) -> list[SatelliteSource | StreetViewSource]:
        """All sources except local folders."""
        sources: list[Any] = [self.satellite, *self.street_view]
        return [one for one in sources if one is not None and not isinstance(one, LocalFolder)]

    def fingerprint(self) -> str:
        """Hash of the fields that determine the dataset, given the same files and responses."""
        return digest(self.model_dump(exclude={"network", "costs", "data_dir"}))


def read_recipe(path: str | Path, data_dir: str | Path | None = None) -> CityRecipe:
    """Read a city's recipe.

    Args:
        path: YAML file.
        data_dir: Base folder of relative paths, instead of the recipe's.

    Raises:
        DatasetError: The file is missing, not YAML or invalid. All errors are listed: unknown
            fields (with a suggestion), missing fields, invalid values, keys in URLs.
    """
    values = read_yaml(path)
    if data_dir is None:
        data_dir = Path(path).parent / str(values.get("data_dir", "."))
    check_addresses(values)
    return make_record(CityRecipe, {**values, "data_dir": str(data_dir)})


__all__ = [
    "BoundarySettings",
    "CityRecipe",
    "CostSettings",
    "NetworkSettings",
    "RegionSettings",
    "RoadSettings",
    "SplitSettings",
    "read_recipe",
]
