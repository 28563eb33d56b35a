"""Command line of `python evaluate.py predict`."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from dataset_builders.commands import run_command
from pipelines.common.command_line import argument, parse_dataclasses
from pipelines.common.errors import InputError
from pipelines.evaluation.arguments import EmbedArguments

# waiting threads must not spin, which is slow when other programs use the CPU
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

PROGRAM = "evaluate.py predict"
DESCRIPTION = """\
Predict an indicator of unlabelled regions from photos: a map with 90 % intervals, and a verdict on
whether images predict better than location alone. Regions are polygons or grid cells. Districts are
squares of several regions that are held out together, so that scores apply to new districts.

  # a folder of photos with a CSV (file, lon, lat), and polygons, some of them labelled
  python evaluate.py predict --images photos --regions tracts.gpkg --region_id tract \\
      --indicator building_height --unit m --output_dir runs/predict

  # photos with EXIF coordinates, squares of 500 m, labels from a raster
  python evaluate.py predict --images photos --side_m 500 --labels population.tif \\
      --aggregate sum --indicator population --unit people --output_dir runs/predict

  # precomputed Earth embeddings (AlphaEarth, TESSERA, any multi-band GeoTIFF) instead of photos
  python evaluate.py predict --encoder raster --raster alphaearth/*.tiff --regions tracts.gpkg \\
      --region_id tract --indicator building_height --unit m --output_dir runs/predict

  # a dataset folder, which contains regions, labels and units
  python evaluate.py predict --images runs/quickstart/dataset --output_dir runs/predict

OUTPUT_DIR receives predictions.gpkg (opens coloured in QGIS), predictions.parquet,
predictions.html, verdict.json and rejects.parquet. Rerun the command to resume an interrupted run.
"""
EMBED = {one.name: one.metadata["help"] for one in fields(EmbedArguments)}


@dataclass
class RegionArguments:
    """Flags for images, regions and labels."""

    images: str | None = argument(
        None, "Folder of photos, or a dataset folder; not needed with --raster."
    )
    csv: str | None = argument(
        None, "Name of the CSV with coordinates in the folder, if there are several."
    )
    city: str | None = argument(None, "City of the dataset, if there are several.")
    regions: str | None = argument(
        None, "Polygon file (GeoPackage, GeoJSON, Shapefile, GeoParquet)."
    )
    region_id: str | None = argument(None, "Column of unique region ids.")
    side_m: float | None = argument(None, "Side of grid squares over the images, in metres.")
    h3_resolution: int | None = argument(None, "Resolution of H3 cells over the images.")
    indicator: list[str] = argument([], "Columns to predict. Default for a dataset: all.")
    unit: list[str] = argument(
        [], "Unit of each indicator, in the same order. Default for a dataset: its own."
    )
    labels: str | None = argument(
        None,
        "CSV by region id, CSV with lon and lat, vector file, or raster. Default: columns of the "
        "regions.",
    )
    aggregate: Literal["mean", "sum", "count"] = argument(
        "mean", "Aggregation of points or raster cells per region."
    )
    transform: Literal["auto", "ln1p", "identity"] = argument(
        "auto", "Scale to model; auto uses ln(y + 1) for skewed amounts."
    )


@dataclass
class EncoderArguments:
    """Flags of the encoder, as in `evaluate.py embed`."""

    encoder: str | None = argument(
        None,
        "efficientnet_lite0, mosaiks, colour_texture, raster, or Hub id or folder of a vision or "
        "image-text model. Default without access to the Hub: efficientnet_lite0.",
    )
    model_name_or_path: str | None = argument(None, EMBED["model_name_or_path"])
    raster: list[str] = argument([], EMBED["raster"])
    raster_layout: Literal["auto", "plain", "alphaearth", "tessera"] = argument(
        "auto", EMBED["raster_layout"]
    )
    raster_nodata: float | None = argument(None, EMBED["raster_nodata"])
    min_coverage: float = argument(0.1, EMBED["min_coverage"])
    batch_size: int = argument(32, EMBED["batch_size"], least=1)
    num_workers: int | None = argument(None, EMBED["num_workers"], least=1)
    device: str | None = argument(None, EMBED["device"])
    trust_remote_code: bool = argument(False, EMBED["trust_remote_code"])


@dataclass
class OutputArguments:
    """Flags of evaluation and output."""

    protocol: Literal["block", "random"] = argument(
        "block",
        "block holds out complete districts; random holds out single regions, which measures "
        "interpolation.",
    )
    block_m: float | None = argument(
        None, "Side of a district in metres. Default: from the labels."
    )
    seed: int = argument(0, "Seed of the folds of the random protocol.")
    output_dir: str = argument("", "Folder of the results.")


def parse_arguments(argv: Sequence[str]) -> dict[str, Any]:
    """Parse the command line into values by flag.

    Raises:
        InputError: If a flag is unknown, missing or invalid.
    """
    parts = {
        "images, regions and labels": RegionArguments,
        "encoder": EncoderArguments,
        "evaluation and output": OutputArguments,
    }
    found = parse_dataclasses(argv, parts, program=PROGRAM, description=DESCRIPTION)
    values = {name: value for part in found for name, value in vars(part).items()}
    names, units = values["indicator"], values["unit"]
    if units and len(units) != len(names):
        raise InputError(
            f"got {len(names)} indicators and {len(units)} units: pass one --unit per --indicator, "
            "in the same order."
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"--indicator names {', '.join(twice)} twice.")
    if not 0 <= values["min_coverage"] <= 1:
        raise InputError(f"--min_coverage must be in [0, 1], got {values['min_coverage']}.")
    if not values["output_dir"]:
        raise InputError("--output_dir is missing.")
    return values


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code, see [`run_command`]."""
    return run_command(lambda: _run(sys.argv[2:] if argv is None else argv), PROGRAM)


def _run(argv: Sequence[str]) -> None:
    values = parse_arguments(argv)
    from pipelines.evaluation.embed.images import decoding_threads
    from pipelines.evaluation.embed.raster import RasterSettings

    from .predict import predict_regions

    names, units = values.pop("indicator"), values.pop("unit")
    how = (values.pop(name) for name in ("raster_layout", "raster_nodata", "min_coverage"))
    alias = values.pop("model_name_or_path")
    predict_regions(
        indicators=dict(zip(names, units, strict=True)) if units else names,
        encoder=values.pop("encoder") or alias,
        rasters=values.pop("raster"),
        raster_settings=RasterSettings(*how),
        num_workers=decoding_threads(values.pop("num_workers")),
        **values,
    )


__all__ = ["main", "parse_arguments"]
