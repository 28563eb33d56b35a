"""Prediction of indicators for regions from their images."""

import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dataset_builders.files import locked
from pipelines.common.encoders import Encoder
from pipelines.common.errors import InputError
from pipelines.evaluation.analysis.reach import Reach, morans_i
from pipelines.evaluation.embed.images import EmbedSettings
from pipelines.evaluation.embed.raster import ENCODER as RASTER
from pipelines.evaluation.embed.raster import RasterSettings
from pipelines.evaluation.probe.reach import covered_by_decile

from .cross_fit import FEWEST_FOLDS
from .estimate import NO_IMAGE, UNLABELLED, UNLIKE, Estimate, estimate, estimate_new, status
from .inputs import Inputs, from_dataset, from_files, is_dataset
from .labels import Aggregate, Indicator, Labels, Transform
from .outputs import write_outputs
from .place import Place, Protocol, make_place
from .vectors import Log, Vectors, average_rasters, embed_regions, open_encoder
from .verdict import Verdict, judge, raw_interval

CHUNK_SIZE = 128
"""Number of images after which progress is saved."""
FEWEST_LABELLED = 16
RESERVED = ("region_id", "n_images", "geometry", "fid", "geom")
"""Columns of the result and of GeoPackage."""


@dataclass(frozen=True)
class Predictions:
    """Result of a prediction.

    Attributes:
        table: One row per region; see [`predict_regions`].
        verdicts: One per indicator.
        notes: Omissions and assumptions, one sentence each.
        encoder: Name of the encoder.
        synthetic: Whether the data is simulated.
        X: Embeddings of the regions with an image, `(M, D)`.
        estimates: Estimates of these regions, one per indicator.
    """

    table: gpd.GeoDataFrame
    verdicts: list[Verdict]
    notes: list[str]
    encoder: str
    synthetic: bool
    X: NDArray[np.floating]
    estimates: list[Estimate]


def predict_regions(
    images: str | Path | pd.DataFrame | None = None,
    regions: str | Path | gpd.GeoDataFrame | None = None,
    region_id: str | None = None,
    indicators: Mapping[str, str] | Sequence[str] | None = None,
    encoder: str | Encoder | None = None,
    *,
    rasters: Sequence[str | Path] = (),
    raster_settings: RasterSettings | None = None,
    labels: Labels = None,
    side_m: float | None = None,
    h3_resolution: int | None = None,
    csv: str | None = None,
    city: str | None = None,
    aggregate: Aggregate = "mean",
    transform: Transform = "auto",
    protocol: Protocol = "block",
    block_m: float | None = None,
    output_dir: str | Path | None = None,
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int = 2,
    device: str | None = None,
    trust_remote_code: bool = False,
    log: Log = lambda text: print(text, file=sys.stderr),
) -> gpd.GeoDataFrame:
    """Predict indicators of regions from their images.

    Labelled regions are predicted by models not trained on their district, other regions by a
    model trained on all labelled regions.

    Args:
        images: Folder of photos with a CSV (`file`, `lon`, `lat`) or EXIF coordinates, a frame
            with these columns, or a dataset folder, which contains regions and labels. None with
            `encoder="raster"`.
        regions: Polygon file, or frame with a CRS.
        region_id: Column of unique region ids.
        indicators: Indicators to predict with their units, such as `{"building_height": "m"}`. For
            a dataset, names suffice, and all indicators are the default.
        encoder: Built-in encoder (`efficientnet_lite0`, `mosaiks`, `colour_texture`), Hub id or
            folder of a vision or image-text model, or "raster" to average `rasters` over the
            regions. Defaults to `efficientnet_lite0` without access to the Hub.
        rasters: Raster files with one embedding per cell, such as AlphaEarth's.
        raster_settings: Settings to read them.
        labels: Table by region id, points, or raster. Defaults to columns of the regions.
        side_m: Side of grid squares over the images in metres, instead of `regions`.
        h3_resolution: Resolution of H3 cells over the images, instead of `regions`.
        csv: Name of the CSV in the image folder, if there are several.
        city: City of a dataset, if there are several.
        aggregate: Aggregation of points or raster cells per region: "mean", "sum" or "count".
        transform: Scale that is modelled and scored: "ln1p", "identity", or "auto", which is "ln1p"
            for skewed amounts.
        protocol: "block" holds out complete districts; "random" single regions, which measures
            interpolation.
        block_m: Side of a district in metres. Defaults to 16 regions or a fifth of the extent, or
            to the correlation range of the labels, up to a quarter of the extent.
        output_dir: Folder for embeddings and results, from which interrupted runs resume.
        seed: Seed of the folds of the random protocol.
        batch_size: Number of images per forward pass.
        num_workers: Number of threads that decode images.
        device: Device of the encoder. Defaults to an accelerator if there is one.
        trust_remote_code: Whether to run code that comes with a checkpoint.
        log: Function called with messages.

    Returns:
        One row per region, sorted by id (EPSG:4326): `region_id`, `n_images` (or raster cells) and,
        for each indicator in raw units, `<indicator>` (label), `<indicator>_predicted`,
        `<indicator>_low` and `<indicator>_high` (limits of the 90 % interval, block-conformal under
        "block") and `<indicator>_status`: "held_out", "unlabelled", "no_image" or
        "unlike_training". `attrs` contains the verdicts.

    Raises:
        InputError: If an input is invalid.
    """
    _check_choices(
        block_m,
        seed,
        aggregate=(aggregate, Aggregate),
        transform=(transform, Transform),
        protocol=(protocol, Protocol),
    )
    options = {
        "regions": regions,
        "region_id": region_id,
        "side_m": side_m,
        "h3_resolution": h3_resolution,
        "csv": csv,
        "labels": labels,
    }
    if (encoder == RASTER) != bool(rasters) or (images is None and not rasters):
        raise InputError(
            "Pass images (--images), or --encoder raster with --raster FILES, rasters with one "
            "embedding per cell."
        )
    inputs = _read_inputs(images, indicators, city, options, aggregate, transform)
    with ExitStack() as keep:
        if output_dir is None:
            folder = Path(keep.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = Path(output_dir)
            keep.enter_context(locked(folder))
        if rasters:
            vectors, inputs = average_rasters(rasters, inputs, folder, raster_settings, log)
            name, pooling = RASTER, f"area-weighted mean of {len(rasters)} files"
        else:
            model = open_encoder(encoder, device, seed, trust_remote_code, log)
            settings = EmbedSettings(batch_size, CHUNK_SIZE, num_workers)
            vectors = embed_regions(model, inputs, folder, settings, log)
            name, pooling = model.name, model.pooling
        found = predict(inputs, vectors, protocol=protocol, block_m=block_m, seed=seed)
        found.notes.insert(0, f"Encoder: {name} ({pooling}, {vectors.X.shape[1]} dimensions).")
        found = replace(found, encoder=name)
        for line in [*(verdict.sentence for verdict in found.verdicts), *found.notes]:
            log(line)
        if output_dir is not None:
            rejects = [*inputs.rejects, *inputs.region_rejects, *vectors.rejects]
            write_outputs(found, rejects, folder, log)
    return found.table


def predict(
    inputs: Inputs,
    vectors: Vectors,
    *,
    protocol: Protocol = "block",
    block_m: float | None = None,
    seed: int = 0,
) -> Predictions:
    """Predict the indicators of regions from their embeddings.

    Memory grows with the number of regions with an image.

    Args:
        inputs: Regions and labels.
        vectors: Embeddings of the regions with an image.
        protocol: See [`predict_regions`].
        block_m: See [`predict_regions`].
        seed: See [`predict_regions`].

    Raises:
        InputError: If there are too few labels or districts, or the labels are constant.
    """
    own = [replace(one, raw=one.raw[vectors.rows]) for one in inputs.indicators]
    place = make_place(
        inputs.regions.iloc[vectors.rows], own, protocol, block_m or inputs.block_m, seed
    )
    for whole, one in zip(inputs.indicators, own, strict=True):
        if fault := _fault(one, whole, place):
            raise InputError(fault)
    estimates = estimate(vectors.X, place, own)
    if lost := [one.indicator.name for one in estimates if not one.is_held_out.any()]:
        raise InputError(
            f"{', '.join(lost)}: no labelled region can be held out: too few others remain outside "
            f"its district of {place.block_m:,.0f} m and the regions that touch it. Use another "
            "--block_m or more labels."
        )
    statuses = [status(vectors.X, one) for one in estimates]
    verdicts = [
        judge(one, place, _reach(one, place, whole, vectors.rows, found))
        for whole, one, found in zip(inputs.indicators, estimates, statuses, strict=True)
    ]
    rejects = Counter(reject.reason for reject in (*inputs.rejects, *vectors.rejects))
    notes = [
        *(f"{n:,} images are excluded: {why.replace('_', ' ')}." for why, n in rejects.items()),
        *inputs.notes,
        _protocol_note(place),
    ]
    for verdict in verdicts:
        lines = verdict.reach.lines if verdict.reach else []
        notes += [f"{verdict.indicator}: {note}" for note in (*verdict.notes, *lines)]
    table = _table(inputs, vectors, estimates, statuses)
    table.attrs["verdicts"] = [verdict.as_dict() for verdict in verdicts]
    return Predictions(table, verdicts, notes, "", inputs.synthetic, vectors.X, estimates)


def predict_new(found: Predictions, X: NDArray[np.floating]) -> pd.DataFrame:
    """Predict other regions by the model of all labelled regions.

    Args:
        found: Predictions of the labelled regions.
        X: Embeddings by the same encoder, `(M, D)`, views in the same order.

    Returns:
        One row per region: `<indicator>_predicted`, `_low`, `_high` and `_status` as in
        [`predict_regions`]; the status is "unlabelled" or "unlike_training". Coverage of the
        intervals holds for regions similar to the labelled ones.
    """
    columns: dict[str, Any] = {}
    for one, (value, far) in zip(
        found.estimates, estimate_new(found.X, found.estimates, X), strict=True
    ):
        name, to_raw, width = one.indicator.name, one.indicator.to_raw, one.width_elsewhere
        columns[f"{name}_predicted"] = to_raw(value)
        columns[f"{name}_low"] = to_raw(value - width)
        columns[f"{name}_high"] = to_raw(value + width)
        columns[f"{name}_status"] = np.where(far, UNLIKE, UNLABELLED)
    return pd.DataFrame(columns)


def predictable(inputs: Inputs, vectors: Vectors, protocol: Protocol = "block") -> Inputs:
    """Select the indicators with enough labels to be predicted."""
    own = [replace(one, raw=one.raw[vectors.rows]) for one in inputs.indicators]
    place = make_place(inputs.regions.iloc[vectors.rows], own, protocol, inputs.block_m)
    kept = [
        whole
        for whole, one in zip(inputs.indicators, own, strict=True)
        if _fault(one, whole, place) is None
    ]
    return replace(inputs, indicators=kept)


def _check_choices(block_m: float | None, seed: int, **chosen: tuple[str, Any]) -> None:
    wrong = [
        f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}"
        for name, (value, choices) in chosen.items()
        if value not in get_args(choices)
    ]
    if block_m is not None and not 0 < block_m < np.inf:
        wrong.append(f"block_m must be above 0 (metres), got {block_m}")
    if seed < 0:
        wrong.append(f"seed must be at least 0, got {seed}")
    if wrong:
        raise InputError("; ".join(wrong) + ".")


def _read_inputs(
    images: Any,
    indicators: Mapping[str, str] | Sequence[str] | None,
    city: str | None,
    options: Mapping[str, Any],
    aggregate: Aggregate,
    transform: Transform,
) -> Inputs:
    units: dict[str, Any] = (
        dict(indicators)
        if isinstance(indicators, Mapping)
        else dict.fromkeys([indicators] if isinstance(indicators, str) else indicators or [])
    )
    if is_dataset(images):
        if any(one is not None for one in options.values()):
            raise InputError(
                f"{images} is a dataset, which contains regions and labels: omit "
                f"{', '.join(f'--{name}' for name in options)}."
            )
        return from_dataset(str(images), city, units, transform)
    if images is None and (options["regions"] is None or options["csv"] is not None):
        raise InputError(
            "Without images, pass polygons by --regions FILE; --side_m, --h3_resolution and --csv "
            "need images."
        )
    if city is not None:
        raise InputError(f"--city {city} is for dataset folders: omit it.")
    parts = ("", "_predicted", "_low", "_high", "_status")
    named = [name + part for name in units for part in parts]
    lower = [name.lower() for name in (*RESERVED, *named)]
    if twice := [name for name in named if lower.count(name.lower()) > 1]:
        raise InputError(
            f"The result would have duplicate columns {', '.join(twice[:3])}: rename one. Column "
            "names of a GeoPackage are case-insensitive, and `fid` and `geom` are reserved."
        )
    if not units:
        raise InputError("--indicator is missing: pass the column to predict.")
    if lacking := [name for name, unit in units.items() if not unit]:
        raise InputError(
            f"The unit of {', '.join(lacking)} is missing (--unit): maps and tables show raw units."
        )
    return from_files(images, units, **options, aggregate=aggregate, transform=transform)


def _fault(indicator: Indicator, whole: Indicator, place: Place) -> str | None:
    """Reason why an indicator of the regions with an image cannot be predicted, or None."""
    name, y, labelled = indicator.name, indicator.y, int(np.isfinite(whole.y).sum())
    usable = np.isfinite(y)
    if indicator.transform == "ln1p" and (indicator.raw <= -1).any():
        return (
            f"`{name}` has {int((indicator.raw <= -1).sum())} labels of -1 or less, where "
            "ln(y + 1) is undefined. Use --transform identity."
        )
    if not labelled:
        return f"All labels of `{name}` are missing."
    if usable.sum() < FEWEST_LABELLED:
        return (
            f"`{name}`: {int(usable.sum())} regions have a label and a usable image; "
            f"{FEWEST_LABELLED} are required. {labelled:,} have a label, {len(y):,} an image."
        )
    if np.ptp(y[usable]) == 0:
        return f"`{name}` is constant in all {int(usable.sum())} labelled regions."
    districts = len(np.unique(place.districts[usable]))
    if place.protocol == "block" and districts < FEWEST_FOLDS:
        return (
            f"`{name}`: the labelled regions lie in {districts} district(s) of "
            f"{place.block_m:,.0f} m; {FEWEST_FOLDS} are needed to hold one out. Use a smaller "
            "--block_m, or --protocol random, which measures interpolation only."
        )
    return None


def _protocol_note(place: Place) -> str:
    if place.protocol == "random":
        return (
            "Protocol: random. Models are trained on neighbours of the predicted regions: scores "
            "measure interpolation, not prediction in new districts."
        )
    return (
        f"Protocol: block. Districts are squares of {place.block_m / 1000:,.1f} km; a region is "
        "predicted by a model trained on neither its district nor regions that touch it."
    )


def _reach(
    estimate: Estimate,
    place: Place,
    whole: Indicator,
    rows: NDArray[np.int64],
    statuses: NDArray[np.object_],
) -> Reach:
    has_image = np.zeros(len(whole.y), dtype=bool)
    has_image[rows] = True
    residual = np.where(estimate.is_held_out, estimate.value - estimate.indicator.y, np.nan)
    return Reach(
        whole.name,
        morans_i(place.xy, residual),
        int(np.isin(statuses, (UNLABELLED, UNLIKE)).sum()),
        int((statuses == UNLIKE).sum()),
        covered_by_decile(whole.y, has_image),
    )


def _table(
    inputs: Inputs,
    vectors: Vectors,
    estimates: Sequence[Estimate],
    statuses: Sequence[NDArray[np.object_]],
) -> gpd.GeoDataFrame:
    n = len(inputs.regions)

    def of_all(values: NDArray[Any], elsewhere: Any) -> NDArray[Any]:
        column = np.full(n, elsewhere, dtype=values.dtype)
        column[vectors.rows] = values
        return column

    columns: dict[str, Any] = {
        "region_id": inputs.regions["region_id"].to_numpy(str).astype(object),
        "n_images": of_all(vectors.counts, 0),
    }
    for whole, one, found in zip(inputs.indicators, estimates, statuses, strict=True):
        name = whole.name
        low, high = raw_interval(one)
        columns[name] = whole.raw
        columns[f"{name}_predicted"] = of_all(one.indicator.to_raw(one.value), np.nan)
        columns[f"{name}_low"], columns[f"{name}_high"] = of_all(low, np.nan), of_all(high, np.nan)
        columns[f"{name}_status"] = of_all(found, NO_IMAGE)
    return gpd.GeoDataFrame(columns, geometry=inputs.regions.geometry.to_numpy(), crs="EPSG:4326")


__all__ = ["Predictions", "predict", "predict_new", "predict_regions", "predictable"]
