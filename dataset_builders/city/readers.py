"""Readers of indicators: what a recipe says of each column of numbers, and how it is read.

A reader is a subclass of [`IndicatorSettings`] with a `reader` name of its own, a `read` method,
and a place in the union of `recipe.py`.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

import geopandas as gpd
import pandas as pd
from pydantic import Field, field_validator, model_validator

from ..allocation import LayerKind, allocate
from ..boundaries import read_boundary
from ..errors import DatasetError
from ..indicators import RASTERS, RasterSource, find_raster, raster_indicator
from ..points import Points, count_points, read_points, read_pois_pbf
from ..schema import INDICATORS, Indicator, Kind, Transform
from ..storage import Reject
from ..yaml_records import Record, nearest

Share = Annotated[float, Field(ge=0, le=1)]
POINT_COLUMNS = (
    *("coord_system", "lon", "lat", "id_column", "count_column", "date_column", "year"),
)
Resolve = Callable[[str], Path]
"""From a path of the recipe to the file."""


@dataclass(frozen=True)
class Reading:
    """An indicator of all regions.

    Attributes:
        indicator: As the dataset's metadata has it.
        columns: Indexed like the regions: values, `<indicator>_source`, and what belongs to them.
        source: Source and licence, for the card.
        rejects: Rows of the source that were left out.
        notes: Caveats, one sentence each.
    """

    indicator: Indicator
    columns: pd.DataFrame
    source: str
    rejects: Sequence[Reject] = ()
    notes: Sequence[str] = ()


class IndicatorSettings(Record):
    """A column of numbers, and where it comes from.

    Attributes:
        name: Column name: one of the layout's, or another with `unit` and `description`.
        files: Files of the source; patterns (`odiac*_21??.tif`) are expanded.
        unit: Unit of a column that the layout does not know.
        description: Description of a column that the layout does not know.
        transform: What evaluation predicts of such a column.
        kind: Kind of such a column.
        licence: Licence of the source, for the card.
        attribution: Attribution of the source, for the card.
    """

    name: str
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    unit: str | None = None
    description: str | None = None
    transform: Transform = "ln1p"
    kind: Kind = "count"
    licence: str = "unknown"
    attribution: str = ""

    @model_validator(mode="after")
    def _is_described(self) -> Self:
        if self.name not in INDICATORS and (self.unit is None or self.description is None):
            raise ValueError(
                f"The indicator {self.name!r} is none of {', '.join(INDICATORS)}: give its `unit` "
                "and its `description`."
            )
        _ = self.indicator
        return self

    @property
    def indicator(self) -> Indicator:
        """As the dataset's metadata has it."""
        if self.name in INDICATORS:
            known = INDICATORS[self.name]
            return replace(known, description=self.description or known.description)
        unit, text = str(self.unit), str(self.description)
        return Indicator(self.name, unit, self.kind, text, self.transform)

    @abstractmethod
    def read(self, files: Sequence[Path], regions: gpd.GeoDataFrame, resolve: Resolve) -> Reading:
        """Read the indicator of all regions.

        Args:
            files: Of the source, patterns expanded.
            regions: Polygons with `region_id`, EPSG:4326.
            resolve: For further paths of the recipe.

        Raises:
            DatasetError: The files are not what the recipe says.
            SourceError: A table lacks columns.
        """

    def sample(self, regions: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        """The regions that show whether the files can be read; all of them by default."""
        return regions

    def only(self, files: Sequence[Path]) -> Path:
        """The file of a source that has but one.

        Raises:
            DatasetError: There are several.
        """
        if len(files) != 1:
            raise DatasetError(
                f"The source of {self.name!r} must be one file, got {len(files)}: "
                f"{', '.join(file.name for file in files[:3])}."
            )
        return files[0]

    def reading(
        self,
        columns: pd.DataFrame,
        licence: str,
        rejects: Sequence[Reject] = (),
        notes: Sequence[str] = (),
    ) -> Reading:
        """What was read, with a line on the source."""
        named = columns[f"{self.name}_source"].dropna()
        origin = named.iloc[0] if len(named) else "no source covers the city"
        by = f", {self.attribution}" if self.attribution else ""
        source = f"`{self.name}`: {origin} (licence: {licence}{by})"
        return Reading(self.indicator, columns, source, rejects, notes)


@dataclass(frozen=True, kw_only=True)
class DescribedRaster(RasterSource):
    """A raster that is no known product; named like the indicator unless it says otherwise."""

    name: str = ""
    indicator: str = ""


class RasterSettings(IndicatorSettings):
    """An indicator from a raster, summarised over each region.

    Attributes:
        product: A known raster product by its name; by its file's name if left out.
        raster: Description of an unknown product: `kind`, `cell_unit`, `unit`, `band`, ...
        min_coverage: Regions that the raster covers less have no value.
        zero_where_no_data: For a raster whose gaps mean 0 (worldpop_constrained): regions without a
            single cell that has a value are 0, too. By default they have no value, since a file
            that was clipped to a boundary looks the same beyond it.
    """

    reader: Literal["raster"]
    product: str | None = None
    raster: DescribedRaster | None = None
    min_coverage: Share = 0.5
    zero_where_no_data: bool = False

    @field_validator("product")
    @classmethod
    def _is_known(cls, product: str | None) -> str | None:
        if product is not None and product not in RASTERS:
            raise ValueError(f"There is no raster product {product!r}.{nearest(product, RASTERS)}")
        return product

    def read(self, files: Sequence[Path], regions: gpd.GeoDataFrame, resolve: Resolve) -> Reading:
        """See [`IndicatorSettings.read`]."""
        source = self._source(files)
        if source.indicator != self.name:
            raise DatasetError(
                f"{files[0].name} gives the indicator {source.indicator!r}, and the recipe calls "
                f"it {self.name!r}. Name it {source.indicator!r}, or describe the raster with "
                "`raster:`."
            )
        frame = raster_indicator(
            files,
            regions,
            source,
            min_coverage=self.min_coverage,
            zero_where_no_data=self.zero_where_no_data,
        )
        licence = source.licence if self.licence == "unknown" else self.licence
        return self.reading(frame, licence, notes=self._without_data(frame, source))

    def sample(self, regions: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        """See [`IndicatorSettings.sample`]; one region is enough."""
        middle = len(regions) // 2
        return regions.iloc[middle : middle + 1]

    def _source(self, files: Sequence[Path]) -> RasterSource:
        if self.raster is not None:
            name = self.raster.name or self.name
            return replace(self.raster, name=name, indicator=self.raster.indicator or self.name)
        return find_raster(files[0]) if self.product is None else RASTERS[self.product]

    def _without_data(self, frame: pd.DataFrame, source: RasterSource) -> list[str]:
        """How many regions lie on no cell that has a value, and what became of them."""
        blank = frame[f"{self.name}_coverage"] == 0
        if not blank.any():
            return []
        said = (
            f"`{self.name}`: {int(blank.sum()):,} of {len(frame):,} regions lie on no cell of "
            f"{source.name} that has a value"
        )
        if self.zero_where_no_data:
            zero = int(frame.loc[blank, self.name].notna().sum())
            return [f"{said}; {zero:,} of them are 0, as the recipe says (`zero_where_no_data`)."]
        if not source.nodata_is_zero:
            return [f"{said} and are null."]
        return [
            f"{said} and are null, since the file may have been clipped to a boundary. If it is "
            "complete, `zero_where_no_data: true` makes them 0."
        ]


class PolygonSettings(IndicatorSettings):
    """An indicator from an attribute of a polygon layer that need not nest in the regions.

    An indicator of kind "count" is shared out by area; of any other kind it is averaged by area.

    Attributes:
        column: Attribute of the layer.
        min_coverage: Regions that the layer covers less have no value.
    """

    reader: Literal["polygons"]
    column: str
    min_coverage: Share = 0.5

    def read(self, files: Sequence[Path], regions: gpd.GeoDataFrame, resolve: Resolve) -> Reading:
        """See [`IndicatorSettings.read`]."""
        file = self.only(files)
        kind: LayerKind = "count" if self.indicator.kind == "count" else "intensity"
        found = allocate(file, regions, self.column, kind, min_coverage=self.min_coverage)
        source = f"{self.column} of {file.name}, allocated by area"
        columns = {
            self.name: found["value"],
            f"{self.name}_source": pd.Series(source, found.index).where(
                found["value"].notna(), None
            ),
            f"{self.name}_coverage": found["coverage"],
        }
        return self.reading(pd.DataFrame(columns), self.licence)


class CountedSettings(IndicatorSettings):
    """An indicator that counts points in each region.

    Attributes:
        covered: File of polygons: where the source has points at all; elsewhere the indicator is
            missing, not 0.
        by_category: Add a column for each of the fourteen categories.
        min_inside: Share of the points that must lie in the regions.
    """

    covered: str | None = None
    by_category: bool = False
    min_inside: Share = 0.5

    @abstractmethod
    def read_points(self, file: Path) -> Points:
        """The points of a file."""

    def read(self, files: Sequence[Path], regions: gpd.GeoDataFrame, resolve: Resolve) -> Reading:
        """See [`IndicatorSettings.read`]."""
        points = self.read_points(self.only(files))
        counts = count_points(
            points,
            regions,
            self.name,
            covered=None if self.covered is None else read_boundary(resolve(self.covered)),
            by_category=self.by_category,
            min_inside=self.min_inside,
        )
        notes = [
            f"`{self.name}`: {counts.num_inside:,} points of {points.source} lie in the regions, "
            f"{counts.num_outside:,} outside; {len(points.rejects):,} rows could not be used."
        ]
        if counts.unknown_categories:
            notes.append(
                f"`{self.name}`: {counts.unknown_categories:,} points are of no known category; "
                "they count in the total only."
            )
        return self.reading(counts.columns, self.licence, points.rejects, notes)


class PointSettings(CountedSettings):
    """An indicator from a table of points.

    Attributes:
        coord_system: "wgs84", "gcj02", "bd09" or "bd09mc"; never guessed.
        lon: Column of longitudes.
        lat: Column of latitudes.
        id_column: Column of which each value counts once.
        count_column: Column with the weight of each point.
        date_column: Column of dates, needed with `year`.
        year: Year of the rows that count; all by default.
    """

    reader: Literal["points"]
    coord_system: Literal["wgs84", "gcj02", "bd09", "bd09mc"]
    lon: str = "lon"
    lat: str = "lat"
    id_column: str | None = None
    count_column: str | None = None
    date_column: str | None = None
    year: int | None = None

    @model_validator(mode="after")
    def _dates_the_year(self) -> Self:
        if self.year is not None and self.date_column is None:
            raise ValueError(f"To count one `year` of {self.name!r}, name the `date_column`.")
        return self

    def read_points(self, file: Path) -> Points:
        """See [`CountedSettings.read_points`]."""
        return read_points(file, **self.model_dump(include=set(POINT_COLUMNS)))


class PlaceSettings(CountedSettings):
    """Points of interest from an OpenStreetMap extract."""

    reader: Literal["osm_pois"]
    licence: str = "ODbL-1.0, © OpenStreetMap contributors"

    def read_points(self, file: Path) -> Points:
        """See [`CountedSettings.read_points`]."""
        return read_pois_pbf(file)


__all__ = [
    "CountedSettings",
    "IndicatorSettings",
    "PlaceSettings",
    "PointSettings",
    "PolygonSettings",
    "RasterSettings",
    "Reading",
]
