"""`python -m dataset_builders.importers NAME --source DIR --output_dir DIR`."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ..commands import run_command
from .base import import_dataset

PACKAGE = "dataset_builders.importers"
DESCRIPTION = """Import images, captions and indicators into a dataset of Parquet tables.
Rerun the command to resume an interrupted import."""


def main(arguments: Sequence[str] | None = None, package: str = PACKAGE) -> int:
    """Run an importer.

    Args:
        arguments: Command-line arguments; `sys.argv[1:]` by default.
        package: Package whose `NAMES` lists the importers.

    Returns:
        The exit code; see [`run_command`].
    """
    modules = {name: import_module(f"{package}.{name}") for name in import_module(package).NAMES}
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, module in modules.items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--source", type=Path, required=True, help="folder to import")
        command.add_argument(
            "--output_dir", type=Path, required=True, help="dataset folder, new or to resume"
        )
        if hasattr(module, "add_arguments"):
            module.add_arguments(command)
        command.add_argument("--seed", type=int, default=0, help="split seed (default 0)")
    options = vars(parser.parse_args(arguments))
    read = modules[options.pop("name")].read

    def work() -> None:
        print(import_dataset(read, **options))

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
