"""Command line: `python -m dataset_builders plan|build|status|retry-failed|publish|rehydrate`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .commands import run_command
from .errors import DatasetError
from .files import locked

DESCRIPTION = """\
A city's dataset from its boundary: regions, satellite images, street views along the roads,
indicators with units, splits; as Parquet that `load_dataset` and geopandas read.

  python -m dataset_builders plan    CITY.yaml     costs and a map; no image is fetched
  python -m dataset_builders build   CITY.yaml     fetch what is missing, and write the dataset
  python -m dataset_builders status  CITY.yaml     progress, failures and their reasons
  python -m dataset_builders retry-failed CITY.yaml     let the next build retry what failed
  python -m dataset_builders publish CITY.yaml     shards, card and licence gate; --push_to_hub
  python -m dataset_builders rehydrate FOLDER      fetch the images that a dataset may not hold

Recipes to start from: configs/cities/. A build lies in runs/NAME of its recipe NAME.yaml, or where
--output_dir says. Keys of providers are read from the environment. Rerun the command to resume a
build that was stopped at any moment: nothing is fetched twice.
"""
PLAN = """\
Count regions, points, requests, gigabytes, hours at the rate limits and money, source by source,
and draw maps in OUTPUT_DIR/plan. Only the outline of a place and its roads are requested, where the
recipe names no files for them. What `build` would refuse, `plan` refuses.
"""
BUILD = """\
Fetch what is missing and write OUTPUT_DIR/dataset, its card, and maps in OUTPUT_DIR/report. Above
the thresholds of the recipe (`costs`) it asks first; --yes answers.
"""
STATUS = """\
List for each source how many items are in each state (ok, missing, blank, placeholder, quota,
denied, invalid, failed) with the most frequent reasons, and the number of rows of each table.
Nothing is requested.
"""
RETRY_FAILED = """\
Forget what failed (blank, placeholder, invalid, failed), so that the next build requests it again.
Images that were fetched, and those the provider says it does not have, are not requested again.
"""
PUBLISH = """\
Write OUTPUT_DIR/published from OUTPUT_DIR/dataset: shards of 300 to 500 MB and a card. Images of
sources that may not be redistributed are left out: their rows keep ids and metadata, and
`rehydrate` fetches the images again with the user's own key.
"""
REHYDRATE = """\
Fetch again, with your own keys, the images of which a dataset holds ids only, and write the dataset
with them. The dataset's own recipe.yaml was written by somebody else, so it may only name known
providers (Google, Baidu, Mapillary, KartaView, the map services of configs/cities/), each with its
own key. Other hosts, variables and local folders need a recipe of your own (--recipe); the command
then names host and variable and asks.
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

    plan = command("plan", _plan, "what a build would cost, and a map of it", PLAN)
    build = command("build", _build, "fetch what is missing, write the dataset", BUILD)
    status = command("status", _status, "how far a build is, and what failed", STATUS)
    retry = command("retry-failed", _retry_failed, "let the next build ask again", RETRY_FAILED)
    publish = command("publish", _publish, "shards, card and licence gate", PUBLISH)
    for one in (plan, build, status, retry, publish):
        one.add_argument("recipe", type=Path, help="YAML file; see configs/cities/")
        one.add_argument(
            "--output_dir", type=Path, help="folder of the build; runs/NAME of NAME.yaml by default"
        )
        one.add_argument(
            "--data_dir", type=Path, help="folder that the recipe's relative paths start from"
        )
    for one in (plan, build):
        one.add_argument("--limit", type=_positive, help="number of regions, for a try")
    for one, what in ((build, "show the plan, and stop"), (publish, "list what would be pushed")):
        one.add_argument("--dry_run", "--dry-run", action="store_true", help=what)
    build.add_argument(
        "--max_cost", "--max-cost", type=_amount, help="refuse to start if it may cost more"
    )
    build.add_argument("--yes", action="store_true", help="do not ask, whatever it takes")
    publish.add_argument("--push_to_hub", metavar="ORG/NAME", help="also push it; log in first")
    publish.add_argument("--private", action="store_true", help="make a new repository private")

    rehydrate = command(
        "rehydrate", _rehydrate, "fetch the images that a published dataset only names", REHYDRATE
    )
    rehydrate.add_argument("dataset", type=Path, help="folder of a published dataset")
    rehydrate.add_argument("--output_dir", type=Path, required=True, help="a new folder")
    rehydrate.add_argument(
        "--recipe", type=Path, help="a recipe of your own, instead of the dataset's recipe.yaml"
    )
    rehydrate.add_argument(
        "--yes", action="store_true", help="do not ask about the recipe's hosts and variables"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
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
        raise DatasetError(f"{question} Nobody can be asked here: answer with --yes.")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise _NothingFetchedError(1)


def _status(arguments: argparse.Namespace) -> None:
    from .city.progress import describe
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
