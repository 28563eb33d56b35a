"""What does a location alone predict? CityRep's tasks, splits and head, and controls beside them.

    python -m examples.cityrep --data DATA --output_dir runs/cityrep

`DATA` holds `labels/<city>.<task>.<year>/labels.tif` and `task.json` (or `tasks/`, as in the
release), and `published/spatial_summary.csv` and `random_summary.csv` if the published scores are
to stand beside. Rerun the command to resume.

Your own embeddings, one GeoTIFF per city whose bands are the components, and a table of regions:

    python -m examples.cityrep ... --raster mine=embeddings/{city}.tif
    python -m examples.cityrep ... --table urbanln=runs/x/embeddings/new_york/urbanln.parquet

The benchmark's own head, and its published row PE computed again (minutes to hours on a CPU):

    python -m examples.cityrep ... --systems pe --head mlp --tasks pm25

Systems: `mean`, `coordinates` (by nearest neighbours, trees and ridge), `pe` (the benchmark's
positional encoding), `geoclip` (its location encoder). Protocols: `cityrep_block` and
`cityrep_random` are the benchmark's, to the sample; `block` is `cityrep_block` without the training
cells near another part.

Writes `page.html`, `scores.csv` (one row per city, task, protocol, system, probe and seed; errors
of z-scored labels), `summary.csv` (with intervals), `beaten.csv` (where coordinates beat a
published model) and `skipped.csv`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.common.errors import InputError

from .splits import BUFFER_M, PROTOCOLS, SEEDS
from .systems import CONTROLS, ENCODERS, Control, Vectors
from .tasks import TASKS, read_published


def parser() -> argparse.ArgumentParser:
    """Command-line arguments."""
    names = [*dict.fromkeys(control.name for control in CONTROLS), *ENCODERS]
    made = argparse.ArgumentParser(
        prog="python -m examples.cityrep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--data", type=Path, required=True, help="folder of the release")
    made.add_argument("--output_dir", type=Path, required=True)
    made.add_argument("--cities", nargs="+", metavar="CITY", help="default: all there are")
    made.add_argument("--tasks", nargs="+", metavar="TASK", help=f"default: {' '.join(TASKS)}")
    made.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    made.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="of the splits")
    made.add_argument("--systems", nargs="*", choices=names, default=["mean", "coordinates"])
    made.add_argument(
        "--raster",
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help="many-band GeoTIFFs, {city} in the path; averaged by area over each cell",
    )
    made.add_argument(
        "--table", nargs="+", default=[], metavar="NAME=FILE", help="Parquet of `evaluate.py embed`"
    )
    made.add_argument("--dataset", help="of the tables, where it is not where they say")
    made.add_argument("--head", choices=("ridge", "mlp"), default="ridge", help="on vectors")
    made.add_argument("--buffer_m", type=float, default=BUFFER_M, help="of `block`, in metres")
    made.add_argument("--device", default="cpu", help="of the MLP head")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; a user error is one line and exit code 2."""
    arguments = parser().parse_args(argv)
    try:
        _run(arguments)
    except (InputError, OSError) as error:
        print(f"examples.cityrep: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("examples.cityrep: stopped. Rerun the command to resume.", file=sys.stderr)
        return 130
    return 0


def _run(arguments: argparse.Namespace) -> None:
    from .report import write_report
    from .run import Settings, run

    if not arguments.buffer_m >= 0:
        raise InputError(f"--buffer_m must not be negative, got {arguments.buffer_m}.")
    published = read_published(arguments.data / "published")
    settings = Settings(
        cities=arguments.cities,
        tasks=arguments.tasks,
        protocols=arguments.protocols,
        seeds=arguments.seeds,
        head=arguments.head,
        buffer_m=arguments.buffer_m,
        device=arguments.device,
    )
    scored = run(arguments.data, arguments.output_dir, settings, _systems(arguments))
    page = write_report(scored, published, arguments.output_dir, arguments.buffer_m)
    for one in scored.skipped:
        print(f"Not scored: {one.task_id}: {one.reason}", file=sys.stderr)
    print(f"{len(scored.rows)} rows. Page: {page}")


def _systems(arguments: argparse.Namespace) -> list[Control | Vectors]:
    names = list(arguments.systems)
    systems: list[Control | Vectors] = [one for one in CONTROLS if one.name in names]
    systems += [ENCODERS[name]() for name in names if name in ENCODERS]
    if arguments.raster or arguments.table:
        from .embeddings import RasterVectors, TableVectors

        for text in arguments.raster:
            systems.append(RasterVectors(*_named(text, "--raster", names)))
        for text in arguments.table:
            name, path = _named(text, "--table", names)
            systems.append(TableVectors(name, Path(path), arguments.dataset))
    if not systems:
        raise InputError("Nothing to score: give --systems, --raster or --table.")
    return systems


def _named(text: str, flag: str, names: list[str]) -> tuple[str, str]:
    """Name and path of `NAME=PATH`; a name is added to those that are taken."""
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise InputError(f"{flag} takes NAME=PATH, got {text!r}.")
    if name in names:
        raise InputError(f"{flag}: the name {name!r} is taken; give another.")
    names.append(name)
    return name, path


if __name__ == "__main__":
    sys.exit(main())
