"""Command line of `python evaluate.py predict`."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

# waiting threads must not spin, which is slow when other programs use the CPU
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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


def parser() -> argparse.ArgumentParser:
    """Argument parser of the command."""
    top = _Parser(
        prog="evaluate.py predict",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    inputs = top.add_argument_group("images and regions")
    add = inputs.add_argument
    add("--images", help="folder of photos, or a dataset folder; not needed with --raster")
    add("--csv", help="name of the CSV with coordinates in the folder, if there are several")
    add("--city", help="city of the dataset, if there are several")
    add("--regions", help="polygon file (GeoPackage, GeoJSON, Shapefile, GeoParquet)")
    add("--region_id", help="column of unique region ids")
    add("--side_m", type=float, help="side of grid squares over the images, in metres")
    add("--h3_resolution", type=int, help="resolution of H3 cells over the images")
    labels = top.add_argument_group("labels")
    add = labels.add_argument
    add("--indicator", nargs="+", default=[], help="columns to predict; default for a dataset: all")
    add("--unit", nargs="+", default=[], help="unit of each indicator, in the same order")
    add(
        "--labels",
        help="CSV by region id, CSV with lon and lat, vector file, or raster; default: columns of "
        "the regions",
    )
    add(
        "--aggregate",
        choices=("mean", "sum", "count"),
        default="mean",
        help="aggregation of points or raster cells per region (default: mean)",
    )
    add(
        "--transform",
        choices=("auto", "ln1p", "identity"),
        default="auto",
        help="scale to model; auto uses ln(y + 1) for skewed amounts (default: auto)",
    )
    model = top.add_argument_group("encoder")
    add = model.add_argument
    add(
        "--encoder",
        help="efficientnet_lite0, mosaiks, colour_texture, raster, or Hub id or folder of a vision "
        "or image-text model; default without access to the Hub: efficientnet_lite0",
    )
    add("--model_name_or_path", dest="encoder", help=argparse.SUPPRESS)
    add("--raster", nargs="+", default=[], help="raster files with one embedding per cell")
    add(
        "--raster_layout",
        choices=("auto", "plain", "alphaearth", "tessera"),
        default="auto",
        help="layout of the raster files (default: auto)",
    )
    add("--raster_nodata", type=float, help="nodata value, if the files do not define one")
    add(
        "--min_coverage",
        type=float,
        default=0.1,
        help="minimum share of a region that rasters cover (default: 0.1)",
    )
    add("--batch_size", type=int, default=32, help="images per forward pass (default: 32)")
    add("--num_workers", type=int, help="threads that decode images (default: cores, at most 8)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: an accelerator if there is one)")
    add("--trust_remote_code", action="store_true", help="run code that comes with a checkpoint")
    rest = top.add_argument_group("evaluation and output")
    add = rest.add_argument
    add(
        "--protocol",
        choices=("block", "random"),
        default="block",
        help="block holds out complete districts; random holds out single regions, which measures "
        "interpolation (default: block)",
    )
    add("--block_m", type=float, help="side of a district in metres (default: from the labels)")
    add("--seed", type=int, default=0, help="seed of the random protocol's folds (default: 0)")
    add("--output_dir", required=True, help="folder of the results")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code, see [`run_command`]."""
    from dataset_builders.commands import run_command

    words = sys.argv[2:] if argv is None else argv
    return run_command(lambda: run(words), "evaluate.py predict")


def run(argv: Sequence[str]) -> None:
    """Parse the arguments and predict."""
    arguments = parser().parse_args(argv)
    _check(arguments)
    from pipelines.evaluation.embed.raster import RasterSettings

    from .predict import predict_regions

    names, units = arguments.indicator, arguments.unit
    indicators: Any = dict(zip(names, units, strict=True)) if units else names
    workers = arguments.num_workers or min(os.cpu_count() or 1, 8)
    predict_regions(
        arguments.images,
        arguments.regions,
        arguments.region_id,
        indicators,
        arguments.encoder,
        rasters=arguments.raster,
        raster_settings=RasterSettings(
            arguments.raster_layout, arguments.raster_nodata, arguments.min_coverage
        ),
        labels=arguments.labels,
        side_m=arguments.side_m,
        h3_resolution=arguments.h3_resolution,
        csv=arguments.csv,
        city=arguments.city,
        aggregate=arguments.aggregate,
        transform=arguments.transform,
        protocol=arguments.protocol,
        block_m=arguments.block_m,
        output_dir=arguments.output_dir,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        num_workers=workers,
        device=arguments.device,
        trust_remote_code=arguments.trust_remote_code,
    )


def _check(arguments: argparse.Namespace) -> None:
    from pipelines.common.errors import InputError

    wrong = []
    if arguments.unit and len(arguments.unit) != len(arguments.indicator):
        wrong.append(
            f"got {len(arguments.indicator)} indicators and {len(arguments.unit)} units: pass one "
            "--unit per --indicator, in the same order"
        )
    if twice := sorted({n for n in arguments.indicator if arguments.indicator.count(n) > 1}):
        wrong.append(f"--indicator names {', '.join(twice)} twice")
    for name, least in (("side_m", 0.0), ("block_m", 0.0)):
        value = getattr(arguments, name)
        if value is not None and not value > least:
            wrong.append(f"--{name} must be above {least:g}, got {value}")
    if not 0 <= arguments.min_coverage <= 1:
        wrong.append(f"--min_coverage must lie in [0, 1], got {arguments.min_coverage}")
    for name in ("batch_size", "num_workers"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            wrong.append(f"--{name} must be at least 1, got {value}")
    if wrong:
        raise InputError("; ".join(wrong) + ".")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        from pipelines.common.errors import InputError

        raise InputError(f"{message}. `python evaluate.py predict --help` lists all flags.")


__all__ = ["main", "parser"]
