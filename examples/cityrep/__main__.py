"""Evaluate location-only baselines and your own embeddings on CityRep's tasks and splits.

    python -m examples.cityrep --data DATA --output_dir runs/cityrep

`DATA` holds `labels/<city>.<task>.<year>/labels.tif` and `task.json` (or `tasks/`, as in the
release) and, for comparison with the published scores, `published/spatial_summary.csv` and
`random_summary.csv`. Rerun the command to resume.

Your own embeddings, as one GeoTIFF per city with one band per dimension or as a region table:

    python -m examples.cityrep ... --raster mine=embeddings/{city}.tif other=other/{city}.tif
    python -m examples.cityrep ... --table urbanln=runs/x/embeddings/new_york/urbanln.parquet

The published row PE, recomputed with the benchmark's MLP head (minutes to hours on a CPU):

    python -m examples.cityrep ... --systems pe --head mlp --tasks pm25

Systems: `mean`, `coordinates` (with nearest neighbours, trees and ridge), `pe` (the benchmark's
positional encoding), `geoclip` (GeoCLIP's location encoder). Protocols: `cityrep_block` and
`cityrep_random` reproduce the benchmark's splits exactly; `block` adds a buffer to `cityrep_block`.
Seeds of the benchmark: 42, 24, 7, 0 and 100.

Writes `page.html`, `scores.csv` (one row per city, task, protocol, system, probe and seed; errors
of z-scored labels), `summary.csv` (with intervals), `beaten.csv` (published models that score below
coordinates) and `skipped.csv` for the settings of this command; results of other settings are kept.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dataset_builders.commands import run_command
from pipelines.common.command_line import argument, did_you_mean, parse_dataclasses
from pipelines.common.errors import InputError

from .splits import BUFFER_M, PROTOCOLS, SEEDS
from .systems import CONTROLS, ENCODERS, Control, Vectors
from .tasks import TASKS, damaged_tasks, find_tasks, read_published

PROGRAM = "python -m examples.cityrep"
SYSTEMS = (*dict.fromkeys(control.name for control in CONTROLS), *ENCODERS)
NO_SYSTEM = "none"
MOST_SEED = 2**32 - 1  # limit of scikit-learn


@dataclass
class Arguments:
    """Command-line arguments."""

    data: Path = argument(None, "Folder of the release.")
    output_dir: Path = argument(None, "Folder of the results.")
    cities: list[str] | None = argument(None, "Cities to score; default: all.")
    tasks: list[str] | None = argument(None, f"Tasks to score; default: {', '.join(TASKS)}.")
    protocols: list[str] = argument(list(PROTOCOLS), "Split protocols.")
    seeds: list[int] = argument(list(SEEDS), "Split seeds.")
    systems: list[str] = argument(
        ["mean", "coordinates"],
        f"Systems to compare: {', '.join(SYSTEMS)}, or {NO_SYSTEM} for --raster and --table only.",
    )
    raster: list[str] | None = argument(
        None,
        "NAME=PATH ...: multi-band GeoTIFFs, with {city} in the path, averaged over each cell.",
    )
    table: list[str] | None = argument(None, "NAME=FILE ...: tables of `evaluate.py embed`.")
    dataset: str | None = argument(None, "Dataset of the tables, if it has moved.")
    head: Literal["ridge", "mlp"] = argument("ridge", "Regression head on embeddings.")
    buffer_m: float = argument(BUFFER_M, "Buffer of the protocol `block`, in metres.")
    device: str = argument("cpu", "Device of the MLP head: cpu, cuda, cuda:1, mps.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code of [`run_command`]."""
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: _run(_parse(words)), "examples.cityrep")


def _parse(argv: Sequence[str]) -> Arguments:
    parts = {"arguments": Arguments}
    (arguments,) = parse_dataclasses(argv, parts, program=PROGRAM, description=str(__doc__))
    for flag in ("--raster", "--table"):
        if sum(one.partition("=")[0] == flag for one in argv) > 1:
            raise InputError(f"Give {flag} once, followed by all its NAME=PATH.")
    return arguments  # type: ignore[no-any-return]


def _run(arguments: Arguments) -> None:
    from .report import write_report
    from .run import Settings, run

    problems = _wrong_values(arguments)
    systems = _systems(arguments, problems)
    published: Any = None
    if data := arguments.data:
        published = _attempt(problems, read_published, data / "published")
        found = _attempt(problems, find_tasks, data, arguments.cities, arguments.tasks)
        problems += damaged_tasks(found[0]) if found else []
    if problems:
        raise InputError(" ".join(problems).replace("\n", " "))
    settings = Settings(
        cities=arguments.cities,
        tasks=arguments.tasks,
        protocols=list(dict.fromkeys(arguments.protocols)),
        seeds=list(dict.fromkeys(arguments.seeds)),
        head=arguments.head,
        buffer_m=arguments.buffer_m,
        device=arguments.device,
    )
    scored = run(data, arguments.output_dir, settings, systems)
    for one in scored.skipped:
        print(f"Not scored: {one.task_id}: {one.reason}", file=sys.stderr)
    if not scored.rows:
        raise InputError("Nothing was scored; see the reasons above.")
    page = write_report(scored, published, arguments.output_dir, arguments.buffer_m)
    print(f"{len(scored.rows)} rows. Page: {page}")


def _attempt(problems: list[str], function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a call, or note its user error, as all are reported at once."""
    try:
        return function(*arguments)
    except (InputError, OSError) as error:
        problems.append(str(error))


def _wrong_values(arguments: Arguments) -> list[str]:
    wrong = [f"--{one} is missing." for one in ("data", "output_dir") if not vars(arguments)[one]]
    if arguments.output_dir and arguments.output_dir.is_file():
        wrong.append(f"--output_dir {arguments.output_dir} is a file; give a folder.")
    for flag, known in (("protocols", PROTOCOLS), ("systems", (*SYSTEMS, NO_SYSTEM))):
        for name in vars(arguments)[flag]:
            if name not in known:
                hint = did_you_mean(name, known)
                wrong.append(f"--{flag} takes {', '.join(known)}, got {name!r}.{hint}")
    if out := [seed for seed in arguments.seeds if not 0 <= seed <= MOST_SEED]:
        wrong.append(f"--seeds must be from 0 to {MOST_SEED}, got {out[0]}.")
    if not arguments.buffer_m >= 0:
        wrong.append(f"--buffer_m must not be negative, got {arguments.buffer_m}.")
    if arguments.head == "mlp" and (reason := _unusable(arguments.device)):
        wrong.append(f"--device {arguments.device} cannot be used here: {reason}.")
    return wrong


def _unusable(device: str) -> str | None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0].rstrip(".")
    return None


def _systems(arguments: Arguments, problems: list[str]) -> list[Control | Vectors]:
    names = [name for name in dict.fromkeys(arguments.systems) if name in SYSTEMS]
    systems: list[Any] = [one for one in CONTROLS if one.name in names]
    systems += [_attempt(problems, ENCODERS[name]) for name in names if name in ENCODERS]
    taken = {*SYSTEMS}
    for flag, texts in (("--raster", arguments.raster), ("--table", arguments.table)):
        for text in texts or ():
            name, separator, path = text.partition("=")
            if not (name and separator and path):
                problems.append(f"{flag} takes NAME=PATH, got {text!r}.")
            elif name in taken:
                problems.append(f"{flag}: the name {name!r} is taken; choose another.")
            else:
                taken.add(name)
                systems.append(_attempt(problems, _vectors, flag, name, path, arguments.dataset))
    if not systems and not problems:
        problems.append("Nothing to score: give --systems, --raster or --table.")
    return systems


def _vectors(flag: str, name: str, path: str, dataset: str | None) -> Vectors:
    from .embeddings import RasterVectors, TableVectors

    if flag == "--raster":
        return RasterVectors(name, path)
    return TableVectors(name, Path(path).expanduser(), dataset)


if __name__ == "__main__":
    sys.exit(main())
