"""`python -m dataset_builders.importers NAME --source DIR --output_dir DIR`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import DatasetError, SourceError
from . import NAMES, importer
from .base import IMAGES_PER_SHARD

DESCRIPTION = """Import images, captions and indicators into a dataset of Parquet tables.
Run the same command again after an interruption and it goes on where it was."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the importer that the command line names; the exit code is returned."""
    options = vars(_parser().parse_args(arguments))
    module = importer(options.pop("name"))
    try:
        print(module.import_dataset(**options))
    except (DatasetError, SourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dataset_builders.importers", description=DESCRIPTION
    )
    commands = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name in NAMES:
        module = importer(name)
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--source", type=Path, required=True, help="folder to import")
        command.add_argument(
            "--output_dir", type=Path, required=True, help="dataset folder; new, or unfinished"
        )
        module.add_arguments(command)
        command.add_argument("--seed", type=int, default=0, help="of the splits (default 0)")
        command.add_argument(
            "--images_per_shard",
            type=int,
            default=IMAGES_PER_SHARD,
            help=f"rows of a Parquet file (default {IMAGES_PER_SHARD})",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
