"""What a city's dataset is made of: a YAML file, checked whole before anything is fetched."""

import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..download import USER_AGENT, Limit
from ..errors import DatasetError
from ..files import digest
from ..indicators import RASTERS, RasterSource
from ..roads import STREETS
from ..schema import CITY_PATTERN, INDICATORS, Indicator, Kind, Transform
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
from ..yaml_records import make_record, read_yaml, unknown_name

SATELLITE: dict[str, type[Any]] = {"tiles": TileSource, "stac": StacSource}
STREET_VIEW: dict[str, type[Any]] = {
    "google": GoogleStreetView,
    "baidu": BaiduPanorama,
    "mapillary": Mapillary,
    "kartaview": KartaView,
    "folder": LocalFolder,
}


@dataclass(frozen=True)
class BoundarySettings:
    """The outline of the city: one of the three.

    Attributes:
        file: that geopandas reads.
        place: a name that Nominatim (OpenStreetMap) knows, such as "Beijing, China".
        bbox: west, south, east, north in degrees, EPSG:4326.
        nominatim_url: another server than the public one.
    """

    file: str | None = None
    place: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    nominatim_url: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("file", "place", "bbox") if getattr(self, name) is not None]
        if len(given) != 1:
            raise DatasetError(
                f"A boundary is one of file, place and bbox; got {', '.join(given) or 'none'}."
            )


@dataclass(frozen=True)
class RegionSettings:
    """What the city is cut into.

    Attributes:
        scheme: "squares" in metres, map "tiles", "h3" hexagons, or your own "polygons".
        side_m: of a square.
        plane: of the squares ("epsg32650"), so that another boundary gives the same squares.
        zoom: of tiles.
        tile_scheme: of tiles: "xyz", "tms" or "baidu".
        resolution: of H3.
        file: of polygons.
        id_column: of polygons: what becomes `region_id`.
        min_cover: share of a region within the boundary from which it is kept.
    """

    scheme: Literal["squares", "tiles", "h3", "polygons"] = "squares"
    side_m: float = 1000.0
    plane: str | None = None
    zoom: int | None = None
    tile_scheme: Literal["xyz", "tms", "baidu"] = "xyz"
    resolution: int | None = None
    file: str | None = None
    id_column: str | None = None
    min_cover: float = 0.5

    def __post_init__(self) -> None:
        needs = {"tiles": ("zoom",), "h3": ("resolution",), "polygons": ("file", "id_column")}
        missing = [name for name in needs.get(self.scheme, ()) if getattr(self, name) is None]
        if missing:
            raise DatasetError(f"Regions of scheme {self.scheme!r} need {', '.join(missing)}.")


@dataclass(frozen=True)
class RoadSettings:
    """The roads that street views are taken along: an extract, or Overpass.

    Attributes:
        pbf: an OpenStreetMap extract (.osm.pbf); asked of Overpass if there is none.
        overpass_url: another server than the public one.
        classes: values of `highway`.
        spacing_m: metres of road between two points.
        thin_m: of two points nearer than that one is left out.
    """

    pbf: str | None = None
    overpass_url: str | None = None
    classes: tuple[str, ...] = STREETS
    spacing_m: float = 500.0
    thin_m: float = 50.0


@dataclass(frozen=True)
class IndicatorSettings:
    """A column of numbers, and where it comes from.

    Attributes:
        name: of the column: one of the layout's, or another with `unit` and `description`.
        reader: "raster"; "points" of a table; "complaints" of the NYPD; "osm_pois" of an extract.
        files: of the source; patterns (`odiac*_21??.tif`) are taken together.
        product: a raster that is known, by its name; by its file's name if left out.
        raster: a raster that is not known, described.
        min_coverage: regions that a raster covers less have no value.
        zero_where_no_data: of a raster whose cells without a value hold 0 (worldpop_constrained):
            regions without a single cell that has one are 0 too. They have no value by default,
            since a file that was clipped to a boundary looks the same beyond it.
        coord_system: of points: "wgs84", "gcj02", "bd09" or "bd09mc"; never guessed.
        lon: column of points.
        lat: column of points.
        id_column: of points; each value counts once.
        count_column: of points: what each counts for.
        category_column: of points: labels of the fourteen categories.
        date_column: of points.
        year: of points and complaints.
        covered: a file of polygons: where the source has points at all; elsewhere the indicator
            is missing, not 0.
        by_category: also a column for each of the fourteen categories.
        min_inside: share of the points that must lie in the regions.
        unit: of a column that the layout does not know.
        description: of a column that the layout does not know.
        transform: what is predicted of such a column.
        kind: of such a column.
        licence: of the source, for the card.
        attribution: of the source, for the card.
    """

    name: str
    reader: Literal["raster", "points", "complaints", "osm_pois"]
    files: tuple[str, ...]
    product: str | None = None
    raster: Mapping[str, Any] | None = None
    min_coverage: float = 0.5
    zero_where_no_data: bool = False
    coord_system: str | None = None
    lon: str = "lon"
    lat: str = "lat"
    id_column: str | None = None
    count_column: str | None = None
    category_column: str | None = None
    date_column: str | None = None
    year: int | None = None
    covered: str | None = None
    by_category: bool = False
    min_inside: float = 0.5
    unit: str | None = None
    description: str | None = None
    transform: Transform = "ln1p"
    kind: Kind = "count"
    licence: str = "unknown"
    attribution: str = ""

    def __post_init__(self) -> None:
        if self.name not in INDICATORS and (self.unit is None or self.description is None):
            raise DatasetError(
                f"The indicator {self.name!r} is none of {', '.join(INDICATORS)}: give its `unit` "
                "and its `description`."
            )
        if self.reader == "points" and self.coord_system is None:
            raise DatasetError(
                f"The points of {self.name!r} need their `coord_system` (wgs84, gcj02, bd09 or "
                "bd09mc): shifts of 500 m hang on it, so it is never guessed."
            )
        if self.product is not None and self.product not in RASTERS:
            raise DatasetError(unknown_name(f"product {self.product}", self.product, [*RASTERS]))
        _ = self.raster_source  # a wrong description is found before anything starts

    @property
    def raster_source(self) -> RasterSource | str | None:
        """The raster product: described, by name, or None to know it by its file's name."""
        if self.raster is None:
            return self.product
        values = {"name": self.name, "indicator": self.name, **self.raster}
        return make_record(RasterSource, values, f"indicators.{self.name}.raster")

    @property
    def indicator(self) -> Indicator:
        """As the dataset's metadata has it."""
        if self.name in INDICATORS:
            known = INDICATORS[self.name]
            return replace(known, description=self.description or known.description)
        unit, text = str(self.unit), str(self.description)
        return Indicator(self.name, unit, self.kind, text, self.transform)


@dataclass(frozen=True)
class SplitSettings:
    """Which regions train, validate and test.

    Attributes:
        seed: of all splits.
        block_m: side of a block; by default no less than any label's correlation range, as far as
            the city is large enough for three blocks in a row.
        buffer_cells: width of the strip between two parts that is in neither, in regions: 1 leaves
            out the regions that touch another part, and each further one those within one more side
            of a typical region (the square root of the median area). 0 leaves out none.
    """

    seed: int = 0
    block_m: float | None = None
    buffer_cells: float = 1.0


@dataclass(frozen=True)
class NetworkSettings:
    """How politely things are fetched.

    Attributes:
        contact: e-mail address or page, for the user agent.
        max_attempts: for each item and run.
        timeout_s: without a byte.
        limits: by host: `{api.map.baidu.com: {per_second: 10, at_once: 8}}`.
        placeholders_above: so many items with the same bytes are believed; more are "no picture
            here" in the provider's words.
    """

    contact: str = ""
    max_attempts: int = 5
    timeout_s: float = 30.0
    limits: Mapping[str, Limit] = field(default_factory=dict)
    placeholders_above: int = 20

    @property
    def user_agent(self) -> str:
        """Says who asks."""
        return f"{USER_AGENT} {self.contact}".strip()


@dataclass(frozen=True)
class CostSettings:
    """When a build asks before it starts.

    Attributes:
        currency: of all prices in the recipe.
        ask_above_price: in that currency.
        ask_above_requests: of all sources together.
        ask_above_gb: to be downloaded.
        satellite_kb: a tile takes, for the estimate.
        street_view_kb: a picture takes, for the estimate.
    """

    currency: str = "USD"
    ask_above_price: float = 0.0
    ask_above_requests: int = 20_000
    ask_above_gb: float = 5.0
    satellite_kb: float = 16.0
    street_view_kb: float = 120.0


@dataclass(frozen=True)
class CityRecipe:
    """A city's dataset.

    Attributes:
        city: name in the configs, a-z, 0-9 and _.
        boundary: of the city.
        regions: what it is cut into.
        title: of the card.
        description: of the card.
        roads: needed where street views are asked for along them.
        satellite: a mapping with `provider` ("tiles" or "stac") and its fields.
        street_view: mappings with `provider` and its fields, in the order they are asked.
        indicators: the targets.
        splits: of the regions.
        network: politeness.
        costs: when to ask.
        synthetic: something in it is simulated.
        licence: of the dataset as it is published.
        citation: BibTeX or a line.
        notes: what a user must know, one sentence each.
        data_dir: folder that relative paths start from; the recipe's own by default.
    """

    city: str
    boundary: BoundarySettings
    regions: RegionSettings = RegionSettings()
    title: str = ""
    description: str = ""
    roads: RoadSettings | None = None
    satellite: Mapping[str, Any] | None = None
    street_view: tuple[Mapping[str, Any], ...] = ()
    indicators: tuple[IndicatorSettings, ...] = ()
    splits: SplitSettings = SplitSettings()
    network: NetworkSettings = NetworkSettings()
    costs: CostSettings = CostSettings()
    synthetic: bool = False
    licence: str = "other"
    citation: str = ""
    notes: tuple[str, ...] = ()
    data_dir: str = "."

    def __post_init__(self) -> None:
        if not CITY_PATTERN.fullmatch(self.city):
            raise DatasetError(f"A city is named with a-z, 0-9 and _ only, got {self.city!r}.")
        names = [one.name for one in self.indicators]
        if len(set(names)) < len(names):
            raise DatasetError(f"Two indicators have one name: {', '.join(sorted(names))}.")
        _check_provider("satellite", [self.satellite] if self.satellite else [], SATELLITE)
        _check_provider("street_view", self.street_view, STREET_VIEW)
        if self.satellite is not None and self.regions.scheme == "h3":
            raise DatasetError(
                "Satellite pictures are laid on squares, and hexagons are none: take another "
                "scheme of regions, or leave `satellite` out."
            )
        if self.roads is None and any(one["provider"] != "folder" for one in self.street_view):
            raise DatasetError("Street views are taken along roads: the recipe needs `roads`.")
        check_addresses(asdict(self))

    def path(self, name: str) -> Path:
        """A path of the recipe; relative ones start from `data_dir`."""
        return Path(self.data_dir) / Path(name).expanduser()

    def open_satellite(self) -> SatelliteSource | None:
        """The source of the satellite pictures, if there is one."""
        if self.satellite is None:
            return None
        return typing.cast(SatelliteSource, _open("satellite", self.satellite, SATELLITE))

    def open_street_views(self) -> list[StreetViewSource]:
        """The sources of street views, in their order."""
        return [self.open_street_view(number) for number in range(len(self.street_view))]

    def open_street_view(self, number: int) -> StreetViewSource:
        """A source of street views, by its place in the recipe."""
        values = dict(self.street_view[number])
        if values["provider"] == "folder":
            values["folder"] = str(self.path(str(values.get("folder", "."))))
        where = f"street_view[{number}]"
        return typing.cast(StreetViewSource, _open(where, values, STREET_VIEW))

    def open_online(self) -> list[SatelliteSource | StreetViewSource]:
        """All sources but the local folders."""
        views = [n for n, one in enumerate(self.street_view) if one["provider"] != "folder"]
        satellite = [one for one in (self.open_satellite(),) if one is not None]
        return [*satellite, *(self.open_street_view(number) for number in views)]

    def fingerprint(self) -> str:
        """Equal for recipes that give equal datasets from equal files and answers."""
        values = asdict(self)
        for name in ("network", "costs", "data_dir"):
            del values[name]
        return digest(values)


def read_recipe(path: str | Path, data_dir: str | Path | None = None) -> CityRecipe:
    """Read a city's recipe.

    Args:
        path: of the YAML file.
        data_dir: in place of the recipe's.

    Raises:
        DatasetError: no such file, not YAML, an unknown field (the nearest known one is named), or
            an impossible value.
    """
    values = read_yaml(path)
    if data_dir is None:
        data_dir = Path(path).parent / str(values.get("data_dir", "."))
    recipe = make_record(CityRecipe, {**values, "data_dir": str(data_dir)})
    recipe.open_online()  # a folder need not be there to plan on another machine
    return recipe


def _check_provider(where: str, values: typing.Sequence[Any], known: Mapping[str, Any]) -> None:
    for one in values:
        if not isinstance(one, Mapping) or "provider" not in one:
            raise DatasetError(f"`{where}` needs a `provider`: {', '.join(known)}.")
        if one["provider"] not in known:
            raise DatasetError(
                unknown_name(f"{where}.provider: {one['provider']}", one["provider"], [*known])
            )


def _open(where: str, values: Mapping[str, Any], known: Mapping[str, type[Any]]) -> Any:
    options = {name: value for name, value in values.items() if name != "provider"}
    return make_record(known[values["provider"]], options, where)


__all__ = [
    "SATELLITE",
    "STREET_VIEW",
    "BoundarySettings",
    "CityRecipe",
    "CostSettings",
    "IndicatorSettings",
    "NetworkSettings",
    "RegionSettings",
    "RoadSettings",
    "SplitSettings",
    "read_recipe",
]
