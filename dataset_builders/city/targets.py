"""The indicators of a city: every column of its recipe, with where it comes from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd

from ..boundaries import read_boundary
from ..errors import DatasetError
from ..indicators import RASTERS, RasterSource, find_raster, raster_indicator
from ..points import Points, count_points, read_complaints, read_points, read_pois_pbf
from ..schema import Indicator
from ..storage import Reject
from .recipe import CityRecipe, IndicatorSettings


@dataclass(frozen=True)
class Targets:
    """The indicators of all regions.

    Attributes:
        columns: indexed like the regions: values, `<indicator>_source`, and what goes with them.
        indicators: as the metadata has them.
        extra_columns: dtypes of the columns beyond the layout.
        rejects: rows of points that were left out.
        sources: a line for each, for the card.
        notes: what a user must know, one sentence each.
    """

    columns: pd.DataFrame
    indicators: tuple[Indicator, ...]
    extra_columns: dict[str, str] = field(default_factory=dict)
    rejects: tuple[Reject, ...] = ()
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_targets(recipe: CityRecipe, regions: gpd.GeoDataFrame) -> Targets:
    """Read every indicator of a recipe.

    Raises:
        DatasetError: a file that is missing, a raster that is not known, points that lie
            elsewhere; each says which.
        SourceError: a table without the columns it should have.
    """
    frames: list[pd.DataFrame] = []
    extra: dict[str, str] = {}
    rejects: list[Reject] = []
    sources: list[str] = []
    notes: list[str] = []
    for settings in recipe.indicators:
        files = indicator_files(recipe, settings)
        if settings.reader == "raster":
            frame, said = _from_raster(settings, files, regions)
        else:
            points = _read(settings, files)
            rejects += points.rejects
            frame, said = _from_points(recipe, settings, points, regions)
        notes += said
        frames.append(frame)
        known = {settings.name, f"{settings.name}_source"}
        extra |= {str(name): "float64" for name in frame if name not in known}
        sources.append(_source_line(settings, files, frame))
    columns = pd.concat(frames, axis=1) if frames else pd.DataFrame(index=regions.index)
    return Targets(
        columns,
        tuple(one.indicator for one in recipe.indicators),
        extra,
        tuple(rejects),
        tuple(sources),
        tuple(notes),
    )


def indicator_files(recipe: CityRecipe, settings: IndicatorSettings) -> list[Path]:
    """The files of an indicator, patterns spread out, each once, sorted.

    Raises:
        DatasetError: there is none.
    """
    found: set[Path] = set()
    for name in settings.files:
        path = recipe.path(name)
        is_pattern = any(sign in path.name for sign in "*?[")
        matches = list(path.parent.glob(path.name)) if is_pattern else [path]
        matches = [match for match in matches if match.is_file()]
        if not matches:
            raise DatasetError(
                f"There is no file {path} for the indicator {settings.name!r}. Paths of a recipe "
                "start from its `data_dir` (--data_dir)."
            )
        found.update(matches)
    return sorted(found)


def _from_raster(
    settings: IndicatorSettings, files: Sequence[Path], regions: gpd.GeoDataFrame
) -> tuple[pd.DataFrame, list[str]]:
    source = _product(settings, files)
    frame = raster_indicator(
        files,
        regions,
        source,
        min_coverage=settings.min_coverage,
        zero_where_no_data=settings.zero_where_no_data,
    )
    found = str(frame.columns[0])
    if found != settings.name:
        raise DatasetError(
            f"{files[0].name} gives the indicator {found!r}, and the recipe calls it "
            f"{settings.name!r}. Name it {found!r}, or describe the raster with `raster:`."
        )
    return frame, _without_data(frame, settings, source)


def _without_data(
    frame: pd.DataFrame, settings: IndicatorSettings, source: RasterSource
) -> list[str]:
    """How many regions lie on no cell that has a value, and what became of them."""
    name = settings.name
    blank = frame[f"{name}_coverage"] == 0
    if not blank.any():
        return []
    zero = int(frame.loc[blank, name].notna().sum())
    said = (
        f"`{name}`: {int(blank.sum()):,} of {len(frame):,} regions lie on no cell of {source.name} "
        "that has a value"
    )
    if settings.zero_where_no_data:
        return [f"{said}; {zero:,} of them are 0, as the recipe says (`zero_where_no_data`)."]
    if not source.nodata_is_zero:
        return [f"{said} and are null."]
    return [
        f"{said} and are null, since the file may have been clipped to a boundary. If it is "
        "complete, `zero_where_no_data: true` makes them 0."
    ]


def _read(settings: IndicatorSettings, files: Sequence[Path]) -> Points:
    if len(files) != 1:
        raise DatasetError(
            f"The points of {settings.name!r} lie in one file, got {len(files)}: "
            f"{', '.join(file.name for file in files[:3])}."
        )
    if settings.reader == "complaints":
        return read_complaints(files[0], settings.year)
    if settings.reader == "osm_pois":
        return read_pois_pbf(files[0])
    return read_points(
        files[0],
        coord_system=str(settings.coord_system),
        lon=settings.lon,
        lat=settings.lat,
        id_column=settings.id_column,
        count_column=settings.count_column,
        category_column=settings.category_column,
        date_column=settings.date_column,
        year=settings.year,
    )


def _from_points(
    recipe: CityRecipe, settings: IndicatorSettings, points: Points, regions: gpd.GeoDataFrame
) -> tuple[pd.DataFrame, list[str]]:
    covered = None if settings.covered is None else read_boundary(recipe.path(settings.covered))
    counts = count_points(
        points,
        regions,
        settings.name,
        covered=covered,
        by_category=settings.by_category,
        min_inside=settings.min_inside,
    )
    said = [
        f"`{settings.name}`: {counts.num_inside:,} points of {points.source} lie in the regions, "
        f"{counts.num_outside:,} outside; {len(points.rejects):,} rows could not be used."
    ]
    if counts.unknown_categories:
        said.append(
            f"`{settings.name}`: {counts.unknown_categories:,} points are of no known category; "
            "they count in the total only."
        )
    return counts.columns, said


def _source_line(settings: IndicatorSettings, files: Sequence[Path], frame: pd.DataFrame) -> str:
    named: Any = frame[f"{settings.name}_source"].dropna()
    origin = named.iloc[0] if len(named) else "no source covers the city"
    by = f", {settings.attribution}" if settings.attribution else ""
    return f"`{settings.name}`: {origin} (licence: {_licence(settings, files)}{by})"


def _licence(settings: IndicatorSettings, files: Sequence[Path]) -> str:
    if settings.licence != "unknown" or settings.reader in ("points", "complaints"):
        return settings.licence
    if settings.reader == "osm_pois":
        return "ODbL-1.0, © OpenStreetMap contributors"
    return _product(settings, files).licence


def _product(settings: IndicatorSettings, files: Sequence[Path]) -> RasterSource:
    source = settings.raster_source or find_raster(files[0])
    return RASTERS[source] if isinstance(source, str) else source


__all__ = ["Targets", "indicator_files", "read_targets"]
