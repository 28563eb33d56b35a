"""Region indicators from raster products, with their units.

A raster file does not say whether its cells hold people or people per km2, carbon or carbon
dioxide, a month or a year. A product is therefore recognised by its file name or described by the
caller; anything else raises an error. Values are stored raw; ln(y + 1) is taken at evaluation.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj

from .errors import DatasetError
from .rasters import find_band, has_gaps, open_raster
from .schema import Indicator, Kind
from .zonal import ZonalKind, zonal

CO2_PER_CARBON = 44 / 12


@dataclass(frozen=True)
class RasterSource:
    """Description of a raster product."""

    name: str
    indicator: str  # column of the indicator
    kind: ZonalKind  # "count" (amount per cell), "density" (per km2), "intensity" (measurement)
    cell_unit: str  # unit of the cell values, in words
    unit: str  # unit of the indicator, after `factor`
    factor: float = 1.0  # conversion factor from the cells' unit to the indicator's
    # complete file names; the group `year` (or `yy`, two digits) is the period, `month` the month
    pattern: str = ".*"
    example: str = ""  # example of a file name
    files: int = 1  # files per value: 1, or 12 months that are summed
    period: str = ""  # if the file name does not contain it
    # "tag" requires a nodata tag; "gapless" means that all cells of a file without a tag hold
    # values; a number marks missing cells in files without a tag
    nodata: float | Literal["tag", "gapless"] = "tag"
    nodata_is_zero: bool = False  # whether missing cells mean 0, in files that were not clipped
    band: int | str | None = None  # number (from 1) or description; optional for single-band files
    crs: str | None = None  # of the published product; files in another one were resampled
    licence: str = "unknown"

    def describe(self, title: str) -> Indicator:
        """Indicator of this product, for the metadata of a dataset.

        Args:
            title: Description in one sentence.
        """
        text = f"{title} From {self.name}: {self.cell_unit}."
        # for a density, the total of the region is stored
        kind: Kind = "intensity" if self.kind == "intensity" else "count"
        return Indicator(self.indicator, self.unit, kind, text)


def _published(name: str, indicator: str, kind: ZonalKind, **fields: Any) -> RasterSource:
    return RasterSource(name, indicator, kind, crs="EPSG:4326", licence="CC-BY-4.0", **fields)


_PRODUCTS = (
    _published(
        "worldpop", "population", "count",
        cell_unit="people in the cell, 100 m", unit="people",
        pattern=r"[a-z]{3}_ppp_(?P<year>\d{4})(_unadj)?\.tif",
        example="chn_ppp_2020_UNadj.tif",
        # https://www.worldpop.org, unconstrained, no value on water
    ),
    _published(
        "worldpop_1km", "population", "count",
        cell_unit="people in the cell, 1 km", unit="people",
        pattern=r"[a-z]{3}_ppp_(?P<year>\d{4})_1km_aggregated(_unadj)?\.tif",
        example="chn_ppp_2020_1km_Aggregated_UNadj.tif",
    ),
    _published(
        "worldpop_constrained", "population", "count", nodata_is_zero=True,
        cell_unit="people in the cell, 100 m; unsettled cells have no value and count 0",
        unit="people",
        pattern=r"[a-z]{3}_(ppp_(?P<year>\d{4})(_unadj)?_constrained"
        r"|pop_(?P<year2>\d{4})_cn_100m_r\d{4}[a-z]_v\d+)\.tif",
        example="chn_ppp_2020_UNadj_constrained.tif",
        # https://www.worldpop.org/methods/top_down_constrained_vs_unconstrained
    ),
    RasterSource(
        "cngdp", "gdp", "density",
        cell_unit="10,000 CNY per km2, 1 km", unit="million CNY", factor=0.01,
        pattern=r"cngdp(?P<year>\d{4})\.tif",
        example="cngdp2010.tif",
        # Xu, China GDP spatial distribution, 1 km grid, RESDC
    ),
    _published(
        # masked background is a radiance of 0
        "vnl", "night_light", "intensity", nodata="gapless",
        cell_unit="mean radiance of a year, nW/cm2/sr, 15 arc seconds", unit="nW/cm2/sr",
        pattern=r"vnl_(v\d+_)?npp_(?P<year>\d{4})_.*\.average(_masked)?(\.dat)?\.tif",
        example="VNL_v21_npp_2020_global_vcmslcfg_c202205302300.average_masked.dat.tif",
        # Elvidge et al. 2021, Annual time series of global VIIRS nighttime lights
    ),
    _published(
        # all cells hold a value
        "odiac", "carbon", "count", nodata="gapless", files=12, factor=CO2_PER_CARBON,
        cell_unit="tonnes of carbon in the cell in a month, 30 arc seconds",
        unit="tonnes CO2 a year",
        pattern=r"odiac\d{4}[a-z]?_1km_excl_intl_(?P<yy>\d{2})(?P<month>\d{2})\.tif",
        example="odiac2022_1km_excl_intl_2101.tif",
        # Oda, Maksyutov and Andres 2018, doi:10.5194/essd-10-87-2018
    ),
)  # fmt: skip
RASTERS: dict[str, RasterSource] = {source.name: source for source in _PRODUCTS}


def find_raster(path: str | Path) -> RasterSource:
    """Look up a known raster product by file name.

    Raises:
        DatasetError: Unknown product; the message names the closest ones.
    """
    name = Path(path).name
    for source in RASTERS.values():
        if re.fullmatch(source.pattern, name, re.IGNORECASE):
            return source
    examples = {source.example.lower(): source for source in RASTERS.values()}
    near = difflib.get_close_matches(name.lower(), list(examples), n=2, cutoff=0.0)
    hints = " or ".join(f"{examples[one].name} ({examples[one].example})" for one in near)
    raise DatasetError(
        f"{name} is not a known raster product, so the meaning of its cells is unknown. Nearest "
        f"are {hints}; all are {', '.join(RASTERS)}. Describe another product by its `kind`, "
        "`cell_unit` and `unit`: in a recipe under `raster`, in Python as a RasterSource."
    )


def raster_indicator(
    paths: str | Path | Sequence[str | Path],
    regions: gpd.GeoDataFrame,
    source: RasterSource | str | None = None,
    *,
    min_coverage: float = 0.0,
    zero_where_no_data: bool = False,
) -> pd.DataFrame:
    """Compute an indicator from the files of a raster product.

    Args:
        paths: A file, or the twelve files of one year for a monthly product.
        regions: Polygons with a CRS.
        source: The product, or the name of a known one; by default recognised by file name.
        min_coverage: See [`zonal`].
        zero_where_no_data: For products with `nodata_is_zero`: regions without a single valid cell
            are 0, too. By default they have no value, since a file clipped to a boundary looks the
            same beyond it.

    Returns:
        Indexed like `regions`: `<indicator>` (NaN where missing), `<indicator>_source` and
        `<indicator>_coverage` (see [`zonal`]; 0 where no cell is valid, even if the value is 0).

    Raises:
        DatasetError: Unknown product, missing or foreign files, another CRS, `zero_where_no_data`
            for a product without `nodata_is_zero`, or errors of [`zonal`].
        MissingExtraError: rasterio or exactextract is not installed.
    """
    files = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    if not files:
        raise DatasetError("There is no raster file.")
    if isinstance(source, str):
        if source not in RASTERS:
            near = difflib.get_close_matches(source, list(RASTERS), n=1, cutoff=0.0)
            raise DatasetError(f"Unknown raster product {source!r}; did you mean {near[0]!r}?")
        source = RASTERS[source]
    source = find_raster(files[0]) if source is None else source
    if zero_where_no_data and not source.nodata_is_zero:
        raise DatasetError(
            f"Missing cells of {source.name} are unknown rather than 0, so regions without data "
            "have no value: remove `zero_where_no_data`, or set `nodata_is_zero` for a raster "
            "whose missing cells are 0."
        )
    period = _check_files(source, files)
    value, coverage = np.zeros(len(regions)), np.ones(len(regions))
    for file in sorted(files):
        found = zonal(
            file,
            regions,
            source.kind,
            band=source.band,
            nodata=_check_file(source, file),
            nodata_is_zero=source.nodata_is_zero,
            min_coverage=min_coverage,
            with_data=True,
        )
        without_data = found["data"] == 0
        found.loc[without_data, "coverage"] = 0.0
        if not zero_where_no_data:
            found.loc[without_data, "value"] = np.nan
        value += found["value"].to_numpy()
        coverage = np.minimum(coverage, found["coverage"].to_numpy())
    columns = {
        source.indicator: value * source.factor,
        f"{source.indicator}_source": f"{source.name} {period}".strip(),
        f"{source.indicator}_coverage": coverage,
    }
    frame = pd.DataFrame(columns, index=regions.index)
    frame.loc[np.isnan(value), f"{source.indicator}_source"] = None
    return frame


def _check_files(source: RasterSource, files: Sequence[Path]) -> str:
    """Check that files make up one value; returns their period."""
    matches = [re.fullmatch(source.pattern, file.name, re.IGNORECASE) for file in files]
    strangers = [file.name for file, match in zip(files, matches, strict=True) if match is None]
    if strangers:
        raise DatasetError(
            f"{', '.join(strangers)} is not a file of {source.name}, whose files are named like "
            f"{source.example}."
        )
    groups = [match.groupdict() for match in matches if match is not None]
    found = (one.get("year") or one.get("year2") or one.get("yy") or "" for one in groups)
    years = sorted({year if len(year) != 2 else f"{20 - (year >= '70')}{year}" for year in found})
    months = {group["month"] for group in groups if group.get("month")}
    if len(files) == source.files and (not months or (len(months) == 12 and len(years) == 1)):
        return source.period or " ".join(years)
    if not months:
        raise DatasetError(
            f"A value of {source.name} needs {source.files} file(s), got {len(files)}."
        )
    missing = sorted({f"{month:02d}" for month in range(1, 13)} - months)
    raise DatasetError(
        f"A value of {source.name} is the sum of the twelve months of one year; got {len(files)} "
        f"file(s) of {', '.join(years)}, without the month(s) {', '.join(missing) or 'none'}."
    )


def _check_file(source: RasterSource, file: Path) -> float | Literal["none"] | None:
    """Check that a file is unmodified; returns `nodata` for [`zonal`]."""
    with open_raster(file) as dataset:
        crs = dataset.crs and pyproj.CRS.from_user_input(dataset.crs.to_wkt())
        tagged = has_gaps(dataset, find_band(dataset, source.band))
    if source.crs and crs and not crs.equals(source.crs, ignore_axis_order=True):
        raise DatasetError(
            f"{file.name} is in {crs.name}, but {source.name} is published in {source.crs}: it "
            "has been resampled, which changes its totals. Use the original."
        )
    if source.nodata == "tag" or tagged:
        return None
    return "none" if source.nodata == "gapless" else source.nodata


__all__ = ["RASTERS", "RasterSource", "find_raster", "raster_indicator", "zonal"]
