"""Indicator readers and their settings in a recipe: rasters, polygon layers, point tables.

To add a reader, subclass [`IndicatorSettings`] with a unique `reader` literal and a `read` method,
and add the class to the union in `recipe.py`.
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
POINT_COLUMNS = {
    *("coord_system", "lon", "lat", "id_column", "count_column", "date_column", "year")
}
Resolve = Callable[[str], Path]
"""Resolves a path in the recipe."""


@dataclass(frozen=True)
class Reading:
    """Values of an indicator for all regions.

    Attributes:
        indicator: Indicator in the dataset's metadata.
        columns: Values, `<indicator>_source` and further columns, with the index of the regions.
        source: Source and licence, for the card.
        rejects: Rejected rows of the source.
        notes: Caveats, one sentence each.
    """

    indicator: Indicator
    columns: pd.DataFrame
    source: str
    rejects: Sequence[Reject] = ()
    notes: Sequence[str] = ()


class IndicatorSettings(Record):
    """Settings of an indicator and its source.

    Attributes:
        name: Column name: a predefined indicator, or any other name with `unit` and `description`.
        files: Files of the source; glob patterns (`odiac*_21??.tif`) are expanded.
        unit: Unit of an indicator that is not predefined.
        description: Description of an indicator that is not predefined.
        transform: Transform of an indicator that is not predefined, applied before evaluation.
        kind: Kind of an indicator that is not predefined.
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
                f"The indicator {self.name!r} is not predefined ({', '.join(INDICATORS)}): give "
                "its `unit` and its `description`."
            )
        _ = self.indicator
        return self

    @property
    def indicator(self) -> Indicator:
        """Indicator in the dataset's metadata."""
        if self.name in INDICATORS:
            known = INDICATORS[self.name]
            return replace(known, description=self.description or known.description)
        unit, text = str(self.unit), str(self.description)
        return Indicator(self.name, unit, self.kind, text, self.transform)

    @abstractmethod
    def read(self, files: Sequence[Path], regions: gpd.GeoDataFrame, resolve: Resolve) -> Reading:
        """Read the indicator of all regions.

        Args:
            files: Files of the source, with glob patterns expanded.
            regions: Polygons with `region_id`, EPSG:4326.
            resolve: Resolves further paths of the recipe.

        Raises:
            DatasetError: The files contradict the recipe.
            SourceError: A table lacks columns.
        """

    def sample(self, regions: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        """Regions sufficient to check the files; all of them by default."""
        return regions

    def only(self, files: Sequence[Path]) -> Path:
        """The only file of a source.

        Raises:
            DatasetError: The source has several files.
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
        """Assemble a [`Reading`] with a description of the source."""
        named = columns[f"{self.name}_source"].dropna()
        origin = named.iloc[0] if len(named) else "no source covers the city"
        by = f", {self.attribution}" if self.attribution else ""
        source = f"`{self.name}`: {origin} (licence: {licence}{by})"
        return Reading(self.indicator, columns, source, rejects, notes)


@dataclass(frozen=True, kw_only=True)
class DescribedRaster(RasterSource):
    """Description of a custom raster; `name` and `indicator` default to the indicator's name."""

    name: str = ""
    indicator: str = ""


class RasterSettings(IndicatorSettings):
    """Indicator from zonal statistics of a raster.

    Attributes:
        product: Name of a known raster product; recognised from the file name by default.
        raster: Description of a custom raster: `kind`, `cell_unit`, `unit`, `band`, ...
        min_coverage: Minimum share of a region covered by the raster; below it the value is null.
        zero_where_no_data: Whether regions without any valid cell are 0 in a raster whose missing
            cells mean 0 (worldpop_constrained). By default they are null, since cells may also be
            missing because the file was clipped to a boundary.
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
                f"{files[0].name} contains the indicator {source.indicator!r}, but the recipe "
                f"calls it {self.name!r}. Rename it to {source.indicator!r}, or describe the "
                "raster with `raster:`."
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
        """See [`IndicatorSettings.sample`]; a single region."""
        middle = len(regions) // 2
        return regions.iloc[middle : middle + 1]

    def _source(self, files: Sequence[Path]) -> RasterSource:
        if self.raster is not None:
            name = self.raster.name or self.name
            return replace(self.raster, name=name, indicator=self.raster.indicator or self.name)
        return find_raster(files[0]) if self.product is None else RASTERS[self.product]

    def _without_data(self, frame: pd.DataFrame, source: RasterSource) -> list[str]:
        """Note on the regions without any valid cell."""
        blank = frame[f"{self.name}_coverage"] == 0
        if not blank.any():
            return []
        zero = int(frame.loc[blank, self.name].notna().sum())
        note = (
            f"`{self.name}`: {int(blank.sum()):,} of {len(frame):,} regions contain no valid cell "
            f"of {source.name}; {zero:,} of them are 0, the others null."
        )
        if source.nodata_is_zero and not self.zero_where_no_data:
            note += " If the file was not clipped, `zero_where_no_data: true` makes them 0."
        return [note]


class PolygonSettings(IndicatorSettings):
    """Indicator from an attribute of a polygon layer, by areal interpolation.

    An indicator of kind "count" is allocated by area; any other kind is an area-weighted mean.

    Attributes:
        column: Attribute of the layer.
        min_coverage: Minimum share of a region covered by the layer; below it the value is null.
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
    """Indicator that counts points per region.

    Attributes:
        covered: Polygon file of the area covered by the source; outside it the indicator is null
            instead of 0.
        by_category: Whether to add a column for each of the fourteen categories.
        min_inside: Minimum share of the points inside the regions.
    """

    covered: str | None = None
    by_category: bool = False
    min_inside: Share = 0.5

    @abstractmethod
    def read_points(self, file: Path) -> Points:
        """Read the points of a file."""

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
                f"`{self.name}`: {counts.unknown_categories:,} points have an unknown category and "
                "count only towards the total."
            )
        return self.reading(counts.columns, self.licence, points.rejects, notes)


class PointSettings(CountedSettings):
    """Indicator from a table of points.

    Attributes:
        coord_system: Coordinate system, never guessed: "wgs84", "gcj02", "bd09" or "bd09mc".
        lon: Column of longitudes.
        lat: Column of latitudes.
        id_column: Column of IDs; rows with the same ID are counted once.
        count_column: Column with the weight of each point.
        date_column: Column of dates; required with `year`.
        year: Year of the rows to count; all by default.
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
            raise ValueError(f"Counting one `year` of {self.name!r} requires a `date_column`.")
        return self

    def read_points(self, file: Path) -> Points:
        """See [`CountedSettings.read_points`]."""
        return read_points(file, **self.model_dump(include=POINT_COLUMNS))


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
