"""Build a synthetic dataset without network access or image licences.

    python -m dataset_builders.synthetic --output_dir runs/city
    python -m dataset_builders.synthetic --output_dir runs/four --cities all --grid_size 24

A simulated world is rendered into the common dataset layout: satellite tiles, street views,
captions and indicators. The folder `truth/` contains the facts of each image and the errors of each
caption. Rerun the command to resume an interrupted build; the output does not depend on the number
of processes.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import get_args

from ..commands import run_command
from .acquisition import Acquisition
from .build import CaptionSource, build_dataset
from .styles import STYLES, city_title


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, see [`run_command`]."""
    parser = argparse.ArgumentParser(
        prog="python -m dataset_builders.synthetic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output_dir", required=True, help="dataset folder")
    names = f"all, or some of {', '.join(STYLES)}; harborview-7 is harborview with seed 7"
    parser.add_argument("--cities", nargs="+", default=["harborview"], help=names)
    parser.add_argument("--grid_size", type=int, default=20, help="regions of 1 km per side")
    parser.add_argument("--street_views", type=int, default=3, help="street views per region")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    sources = "captions with errors of simulated captioners, or correct and complete captions"
    parser.add_argument(
        "--caption_source", choices=get_args(CaptionSource), default="noisy", help=sources
    )
    parser.add_argument("--with_masks", action="store_true", help="masks and covers in truth/")
    conditions = "varying dates, sensors and weather, or identical conditions"
    parser.add_argument(
        "--acquisition", choices=get_args(Acquisition), default="realistic", help=conditions
    )
    parser.add_argument("--num_workers", type=int, help="processes (default: one per core)")
    args = parser.parse_args(argv)
    args.cities = list(STYLES) if args.cities == ["all"] else args.cities

    def work() -> None:
        root = build_dataset(**vars(args), progress=True)
        titles = ", ".join(city_title(city) for city in args.cities)
        print(f"Built {titles} in {root}; see its README.md.")

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
