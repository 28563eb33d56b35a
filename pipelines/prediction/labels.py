"""Labels of regions from columns, tables, points or rasters."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.stats import skew

from dataset_builders.assignment import assign_points
from dataset_builders.errors import DatasetError, MissingExtraError, SourceError
from dataset_builders.indicators import zonal
from dataset_builders.photos import COLUMN_NAMES, read_csv_rows
from dataset_builders.schema import INDICATORS
from pipelines.common.errors import InputError

from .regions import PARQUETS, id_text, read_polygons, refuse_twins

Aggregate = Literal["mean", "sum", "count"]
Transform = Literal["auto", "ln1p", "identity"]
Labels: TypeAlias = str | Path | pd.DataFrame | gpd.GeoDataFrame | None
RASTERS = (".tif", ".tiff", ".vrt")
RASTER_HINT = " To correct the file: `gdal_translate -b 1 -a_nodata -9999 IN.tif OUT.tif`."
LOGARITHM_BELOW = 30.0
"""Upper limit of logarithms of people or money per region; totals exceed it."""
SKEWED = 1.0


@dataclass(frozen=True)
class Indicator:
    """Indicator to predict.

    Attributes:
        name: Column name.
        unit: Unit of the raw values.
        transform: Scale that is modelled and scored, "ln1p" or "identity".
        raw: Labels, `(N,)`, NaN if missing.
        notes: Caveats, one sentence each.
    """

    name: str
    unit: str
    transform: str
    raw: NDArray[np.float64]
    notes: tuple[str, ...] = ()

    @property
    def is_amount(self) -> bool:
        """Whether labels, and therefore predictions, are non-negative."""
        return not (self.raw[np.isfinite(self.raw)] < 0).any()

    @property
    def y(self) -> NDArray[np.float64]:
        """Labels on the modelled scale, `(N,)`."""
        return np.log1p(self.raw) if self.transform == "ln1p" else self.raw

    def to_raw(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert from the modelled scale to raw units; amounts are clipped at 0."""
        with np.errstate(over="ignore"):
            raw = np.expm1(y) if self.transform == "ln1p" else y
        return np.where(raw < 0, 0.0, raw) if self.is_amount else raw


def read_labels(
    labels: Labels,
    names: Sequence[str],
    regions: gpd.GeoDataFrame,
    own: pd.DataFrame,
    region_id: str | None,
    aggregate: Aggregate = "mean",
) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
    """Read the labels of all regions.

    Args:
        labels: CSV or Parquet table by region id, CSV with `lon` and `lat`, vector file of points,
            raster, or a frame. If None, columns of the regions.
        names: Indicators, which are columns of the table. A raster contains one indicator of any
            name.
        regions: Regions with `region_id` and geometry (EPSG:4326).
        own: Columns of the regions' file, in the order of `regions`.
        region_id: Column of region ids, also in a table of labels.
        aggregate: Aggregation of points or raster cells per region: "mean" (cells weighted by
            overlap), "sum" or "count" (number of points).

    Returns:
        Raw labels by indicator, `(N,)`, NaN where a region has none; and notes on rows without
        a region.

    Raises:
        InputError: If labels cannot be read or matched.
    """
    if labels is None:
        return {name: _column(own, name, "The table of regions") for name in names}, []
    if not isinstance(labels, str | Path | pd.DataFrame):
        raise InputError(f"Labels must be a file or a frame, got a {type(labels).__name__}.")
    if isinstance(labels, str | Path) and not Path(labels).exists():
        raise InputError(f"There is no file of labels at {labels}. Check --labels.")
    if isinstance(labels, str | Path) and Path(labels).suffix.lower() in RASTERS:
        return _from_raster(Path(labels), names, regions, aggregate), []
    frame, where = _read_table(labels)
    is_geo = isinstance(frame, gpd.GeoDataFrame)
    has_points = is_geo and frame.geometry.geom_type.isin(["Point", "MultiPoint"]).any()
    by_id = region_id if region_id in frame else "region_id" if "region_id" in frame else None
    if by_id is not None and not has_points:
        return _by_id(frame, names, regions, by_id, where)
    position = None if is_geo and not has_points else _positions(frame)
    if position is None:
        raise InputError(
            f"{where} has neither a column of region ids ({region_id or 'region_id'!r}) nor points "
            f"or columns `lon` and `lat`; it has {', '.join(map(str, frame.columns))}. Pass points "
            "or a raster for grid cells."
        )
    return _from_points(frame, position, names, regions, aggregate, where)


def as_indicators(
    values: Mapping[str, NDArray[np.float64]],
    units: Mapping[str, str],
    transform: Transform = "auto",
) -> list[Indicator]:
    """Assign a unit and a scale to the labels.

    With "auto", skewed amounts (skewness above 1, and less after ln(y + 1)) are modelled as
    ln(y + 1), other labels unchanged. Labels that appear to be logarithms are not transformed, and
    a note is added.
    """
    found = []
    for name, raw in values.items():
        raw = np.where(np.isfinite(raw), raw, np.nan)
        known = raw[np.isfinite(raw)]
        notes = []
        chosen = transform
        logged = _looks_logged(name, known)
        if logged:
            notes.append(
                f"`{name}` appears to be a logarithm ({logged}) and is "
                + ("not transformed." if transform == "auto" else "transformed as requested.")
                + f" Check that its unit is {units[name]}."
            )
        if transform == "auto":
            chosen = "ln1p" if not logged and _is_skewed(known) else "identity"
        if chosen == "ln1p" and (known < 0).any():
            raise InputError(
                f"`{name}` has {int((known < 0).sum())} negative labels, and ln(y + 1) is for "
                "amounts. Use --transform identity."
            )
        found.append(Indicator(name, units[name], chosen, raw, tuple(notes)))
    return found


def _is_skewed(known: NDArray[np.float64]) -> bool:
    if len(known) < 3 or known.min() < 0 or np.ptp(known) == 0:
        return False
    return bool(skew(known) > SKEWED and abs(skew(np.log1p(known))) < skew(known))


def _looks_logged(name: str, known: NDArray[np.float64]) -> str:
    """Reason to assume that a column contains logarithms; empty if there is none."""
    if not len(known):
        return ""
    if any(part in ("ln", "log", "log10", "log1p", "ln1p") for part in name.lower().split("_")):
        return "by its name"
    whole = np.allclose(known, np.round(known))
    amount = name in INDICATORS and INDICATORS[name].kind == "count"
    if amount and not whole and known.max() < LOGARITHM_BELOW:
        return f"its largest value is {known.max():.3g}"
    return ""


def _read_table(labels: Labels) -> tuple[pd.DataFrame, str]:
    if isinstance(labels, pd.DataFrame):
        is_geo = isinstance(labels, gpd.GeoDataFrame)
        return read_polygons(labels) if is_geo else labels, "The table of labels"
    path = Path(str(labels))
    if path.suffix.lower() == ".csv":
        try:
            frame, bad = read_csv_rows(path)
        except SourceError as error:
            raise InputError(str(error)) from error
        if bad:
            raise InputError(
                f"{path}: {len(bad)} rows have more fields than the header; the first is "
                f"{bad[0].detail}."
            )
        return frame, str(path)
    if path.suffix.lower() in PARQUETS:
        try:
            is_geo = b"geo" in (pq.read_schema(path).metadata or {})
            return (gpd.read_parquet if is_geo else pd.read_parquet)(path), str(path)
        except (pa.ArrowException, ValueError) as error:
            raise InputError(f"{path} cannot be read as Parquet: {error}") from error
    return read_polygons(path), str(path)


def _by_id(
    frame: pd.DataFrame,
    names: Sequence[str],
    regions: gpd.GeoDataFrame,
    by_id: str,
    where: str,
) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
    refuse_twins(frame, [by_id], where)
    ids = id_text(frame[by_id])
    nameless = ids.isna().to_numpy()
    frame, ids = frame[~nameless], ids[~nameless].astype(str)
    if ids.duplicated().any():
        twice = ids[ids.duplicated()].unique()
        raise InputError(
            f"{where} has several rows for {len(twice)} ids in {by_id!r} "
            f"({', '.join(twice[:3])}); one row per region is required."
        )
    known = ids.isin(regions["region_id"].astype(str))
    if not known.any():
        raise InputError(
            f"No id of {by_id!r} in {where} matches a region: {', '.join(ids[:3])} versus "
            f"{', '.join(regions['region_id'].astype(str)[:3])}. Common causes are leading zeros "
            "removed or .0 appended by a spreadsheet."
        )
    matched = pd.DataFrame(frame).set_axis(ids, axis=0).reindex(regions["region_id"].astype(str))
    notes = [f"{nameless.sum():,} rows of labels have no {by_id!r}."] if nameless.any() else []
    if not known.all():
        notes.append(
            f"{int((~known).sum()):,} of {len(ids):,} rows of labels match no region, such as "
            f"{', '.join(ids[~known][:3])}."
        )
    return {name: _column(matched, name, where) for name in names}, notes


def _from_points(
    frame: pd.DataFrame,
    position: tuple[NDArray[np.float64], NDArray[np.float64]],
    names: Sequence[str],
    regions: gpd.GeoDataFrame,
    aggregate: Aggregate,
    where: str,
) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
    if not np.isfinite(position).all(0).any():
        raise InputError(f"No row of {where} has coordinates. Check lon and lat.")
    try:
        rows = assign_points(*position, regions)
    except DatasetError as error:
        raise InputError(f"{where}: {error}") from error
    if not (rows >= 0).any():
        raise InputError(f"No point of {where} lies in a region. Check the coordinates.")
    outside = int((rows < 0).sum())
    notes = [f"{outside:,} of {len(rows):,} labelled points lie in no region."] if outside else []
    found = {}
    for name in names:
        if aggregate == "count":
            found[name] = np.bincount(rows[rows >= 0], minlength=len(regions)).astype(float)
            continue
        values = _column(frame, name, where)
        use = (rows >= 0) & np.isfinite(values)
        counts = np.bincount(rows[use], minlength=len(regions))
        sums = np.bincount(rows[use], values[use], minlength=len(regions))
        with np.errstate(invalid="ignore"):
            found[name] = np.where(
                counts > 0, sums / counts if aggregate == "mean" else sums, np.nan
            )
    return found, notes


def _from_raster(
    path: Path, names: Sequence[str], regions: gpd.GeoDataFrame, aggregate: Aggregate
) -> dict[str, NDArray[np.float64]]:
    if not path.is_file():
        raise InputError(f"There is no raster of labels at {path}. Check --labels.")
    if len(names) != 1:
        raise InputError(f"A raster contains one indicator, got {len(names)} names.")
    if aggregate == "count":
        raise InputError("--aggregate count is for points; use mean or sum for a raster.")
    kind: Literal["count", "intensity"] = "count" if aggregate == "sum" else "intensity"
    try:
        return {names[0]: zonal(path, regions, kind)["value"].to_numpy(float)}
    except MissingExtraError as error:
        raise InputError(f"{path}: {error}") from error
    except DatasetError as error:  # its message may name arguments of `zonal`
        is_of_file = any(name in str(error) for name in ("`nodata=`", "`band=`"))
        raise InputError(f"{error}{RASTER_HINT if is_of_file else ''}") from error


def _positions(frame: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """`lon` and `lat` of points in EPSG:4326; None for a table without coordinates."""
    if isinstance(frame, gpd.GeoDataFrame):
        if frame.crs is None:
            raise InputError("The points have no CRS. Set it by `frame.set_crs(...)`.")
        points = frame.geometry.to_crs("EPSG:4326").representative_point()
        return points.x.to_numpy(float), points.y.to_numpy(float)
    lower = {str(name).lower(): name for name in frame.columns}
    found = [
        next((lower[one] for one in COLUMN_NAMES[axis] if one in lower), None)
        for axis in ("lon", "lat")
    ]
    if None in found:
        return None
    lon, lat = (pd.to_numeric(frame[name], errors="coerce").to_numpy(float) for name in found)
    return lon, lat


def _column(frame: pd.DataFrame, name: str, where: str) -> NDArray[np.float64]:
    if name not in frame:
        near = difflib.get_close_matches(name, [str(one) for one in frame.columns], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"{where} has no column {name!r}; it has {', '.join(map(str, frame.columns))}.{hint}"
        )
    refuse_twins(frame, [name], where)
    kind = frame[name].dtype
    if kind.kind in "mMc":
        raise InputError(f"{where}: {name!r} has dtype {kind}, expected numbers.")
    values = pd.to_numeric(frame[name], errors="coerce")
    text = frame.loc[values.isna() & frame[name].notna(), name].astype(str).str.strip()
    if (text != "").any():
        raise InputError(
            f"{where}: {int((text != '').sum())} labels of {name!r} are not numbers; the first is "
            f"{text[text != ''].iloc[0]!r}. Leave missing labels empty."
        )
    return values.to_numpy(dtype=float, na_value=np.nan)


__all__ = ["Aggregate", "Indicator", "Labels", "Transform", "as_indicators", "read_labels"]
