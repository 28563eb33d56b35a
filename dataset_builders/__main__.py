"""Command line: `python -m dataset_builders plan|build|status|retry-failed|publish|rehydrate`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .commands import run_command
from .errors import DatasetError
from .files import locked

DESCRIPTION = """\
Build the dataset of a city from its boundary: regions, satellite images, street views along the
roads, indicators with units, and splits, as Parquet files for `load_dataset` and geopandas.

  python -m dataset_builders plan    CITY.yaml     estimate costs and draw a map; no image requests
  python -m dataset_builders build   CITY.yaml     fetch missing data and write the dataset
  python -m dataset_builders status  CITY.yaml     progress, failures and their reasons
  python -m dataset_builders retry-failed CITY.yaml     retry failed items in the next build
  python -m dataset_builders publish CITY.yaml     shards, card and licence gate; --push_to_hub
  python -m dataset_builders rehydrate FOLDER      fetch the images withheld from a dataset

Example recipes are in configs/cities/. The build of NAME.yaml is written to runs/NAME, or to
--output_dir. API keys are read from environment variables. Rerun an interrupted command to resume
it; completed downloads are not repeated.
"""
PLAN = """\
Estimate the number of regions and sampling points and, for each source, requests, gigabytes, hours
at the rate limits and cost. Draw maps in OUTPUT_DIR/plan. Only the boundary and the roads are
requested, unless the recipe names files for them. `plan` makes the same checks as `build`.
"""
BUILD = """\
Fetch missing data, and write OUTPUT_DIR/dataset with its card, and maps in OUTPUT_DIR/report. Asks
for confirmation above the thresholds of the recipe (`costs`), unless --yes is given.
"""
STATUS = """\
List for each source the number of items per state (ok, missing, blank, placeholder, quota, denied,
invalid, failed) with the most frequent reasons, and the number of rows of each table. No requests
are made.
"""
RETRY_FAILED = """\
Clear the state of failed items (blank, placeholder, invalid, failed), so that the next build
requests them again. Fetched images, and those missing at the provider, are not requested again.
"""
PUBLISH = """\
Write OUTPUT_DIR/published from OUTPUT_DIR/dataset: shards of 300 to 500 MB and a card. Images that
may not be redistributed are withheld: their rows keep ids and metadata, and `rehydrate` fetches the
images again with the user's own key.
"""
REHYDRATE = """\
Fetch the images withheld from a published dataset with your own keys, and write the dataset with
them. The recipe.yaml of the dataset is not trusted: it may only name known providers (Google,
Baidu, Mapillary, KartaView, the map services of configs/cities/), each with its own key. Other
hosts, variables and local folders need your own recipe (--recipe); the command then shows hosts and
variables, and asks for confirmation.
"""


class _NothingFetchedError(Exception):
    """Raised to stop before fetching, with exit code 0 for a dry run, 1 if the user declines."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code (see [`run_command`]).

    The exit code is 3 if a provider's quota is exhausted or a key is rejected.
    """
    arguments = _parser().parse_args(argv)
    if arguments.output_dir is None:
        arguments.output_dir = Path("runs") / arguments.recipe.stem

    def work() -> int:
        try:
            arguments.run(arguments)
        except _NothingFetchedError as error:
            print("Nothing was fetched.")
            return int(error.args[0])
        return 0

    return run_command(work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dataset_builders",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], None], summary: str, description: str
    ) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name,
            help=summary,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(run=run)
        return one

    plan = command("plan", _plan, "cost estimate and map of a build", PLAN)
    build = command("build", _build, "fetch missing data and write the dataset", BUILD)
    status = command("status", _status, "progress and failures of a build", STATUS)
    retry = command("retry-failed", _retry_failed, "retry failures in the next build", RETRY_FAILED)
    publish = command("publish", _publish, "shards, card and licence gate", PUBLISH)
    for one in (plan, build, status, retry, publish):
        one.add_argument("recipe", type=Path, help="YAML file; see configs/cities/")
        one.add_argument(
            "--output_dir", type=Path, help="folder of the build; default: runs/NAME for NAME.yaml"
        )
        one.add_argument(
            "--data_dir", type=Path, help="base folder of relative paths in the recipe"
        )
    for one in (plan, build):
        one.add_argument("--limit", type=_positive, help="maximum number of regions, for testing")
    for one, what in ((build, "show the plan and exit"), (publish, "list the files to push")):
        one.add_argument("--dry_run", "--dry-run", action="store_true", help=what)
    build.add_argument(
        "--max_cost", "--max-cost", type=_amount, help="exit if the estimated cost is higher"
    )
    build.add_argument("--yes", action="store_true", help="skip all confirmation prompts")
    publish.add_argument(
        "--push_to_hub", metavar="ORG/NAME", help="also push to the Hub (requires login)"
    )
    publish.add_argument(
        "--private", action="store_true", help="create a new repository as private"
    )

    rehydrate = command(
        "rehydrate", _rehydrate, "fetch the images withheld from a published dataset", REHYDRATE
    )
    rehydrate.add_argument("dataset", type=Path, help="folder of a published dataset")
    rehydrate.add_argument("--output_dir", type=Path, required=True, help="output folder")
    rehydrate.add_argument(
        "--recipe", type=Path, help="your own recipe, instead of the dataset's recipe.yaml"
    )
    rehydrate.add_argument(
        "--yes", action="store_true", help="skip the prompt about hosts and variables of the recipe"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"must be an amount of money from 0, got {text!r}")
    return number


def _plan(arguments: argparse.Namespace) -> None:
    from .city.planning import plan
    from .city.recipe import read_recipe

    recipe = read_recipe(arguments.recipe, arguments.data_dir)
    print(plan(recipe, arguments.output_dir, limit=arguments.limit))
    print(f"Maps: {arguments.output_dir / 'plan'}")


def _build(arguments: argparse.Namespace) -> None:
    from .city.build import build
    from .city.planning import Plan, check_costs
    from .city.recipe import read_recipe

    recipe = read_recipe(arguments.recipe, arguments.data_dir)

    def confirm(plan: Plan) -> None:
        print(plan)
        print(f"Maps: {arguments.output_dir / 'plan'}")
        question = check_costs(recipe, plan, arguments.max_cost, arguments.yes)
        if arguments.dry_run:
            raise _NothingFetchedError(0)
        if question:
            _ask(question)

    text = arguments.recipe.read_text(encoding="utf-8")
    with locked(arguments.output_dir):
        report = build(
            recipe, arguments.output_dir, limit=arguments.limit, recipe_text=text, confirm=confirm
        )
    print(report)
    print(f"Report: {arguments.output_dir / 'report'}")


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise DatasetError(f"{question} There is no terminal to ask on; confirm with --yes.")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise _NothingFetchedError(1)


def _status(arguments: argparse.Namespace) -> None:
    from .city.planning import describe
    from .city.recipe import read_recipe

    print(describe(read_recipe(arguments.recipe, arguments.data_dir), arguments.output_dir))


def _retry_failed(arguments: argparse.Namespace) -> None:
    from .city.build import retry_failed
    from .city.recipe import read_recipe

    recipe = read_recipe(arguments.recipe, arguments.data_dir)
    with locked(arguments.output_dir):
        count = retry_failed(recipe, arguments.output_dir)
    print(f"{count:,} items will be requested again by the next build.")


def _publish(arguments: argparse.Namespace) -> None:
    from .city.recipe import read_recipe
    from .city.workspace import Workspace
    from .publish import files_of, publish, push

    if arguments.dry_run and arguments.push_to_hub is None:
        raise DatasetError("--dry_run lists what --push_to_hub ORG/NAME would send: give both.")
    read_recipe(arguments.recipe, arguments.data_dir)
    space = Workspace(arguments.output_dir)
    with locked(space.root):  # the lock that `build` takes
        print(publish(space.dataset, space.published))
    if arguments.push_to_hub is None:
        return
    if arguments.dry_run:
        for name, size in files_of(space.published):
            print(f"{size:>14,}  {name}")
        print(f"Nothing was sent to {arguments.push_to_hub}.")
        return
    print(push(space.published, arguments.push_to_hub, private=arguments.private))


def _rehydrate(arguments: argparse.Namespace) -> None:
    from .city.recipe import read_recipe
    from .rehydrate import rehydrate
    from .trust import question_about

    recipe = None if arguments.recipe is None else read_recipe(arguments.recipe)
    question = question_about(recipe.online_sources()) if recipe is not None else None
    if question and not arguments.yes:
        _ask(question)
    with locked(arguments.output_dir):
        print(rehydrate(arguments.dataset, arguments.output_dir, recipe=recipe))


if __name__ == "__main__":
    sys.exit(main())
