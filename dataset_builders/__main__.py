"""`python -m dataset_builders plan|build|status|retry-failed|publish|rehydrate`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .download import StoppedError
from .errors import DatasetError, MissingExtraError, SourceError, SplitError

DESCRIPTION = """\
A city's dataset from its boundary: regions, satellite pictures, street views along the roads,
indicators with units, splits; as Parquet that `load_dataset` and geopandas read.

  python -m dataset_builders plan    CITY.yaml     what it costs, and a map; nothing is fetched
  python -m dataset_builders build   CITY.yaml     fetch what is missing, and write the dataset
  python -m dataset_builders status  CITY.yaml     how far it is, what failed and why
  python -m dataset_builders retry-failed CITY.yaml     forget what failed; build asks again
  python -m dataset_builders publish CITY.yaml     shards, card and licence gate; --push_to_hub
  python -m dataset_builders rehydrate FOLDER      fetch the pictures that a dataset may not hold

Recipes to start from: configs/cities/. A build lies in runs/NAME of its recipe NAME.yaml, or where
--output_dir says. Keys of providers are read from the environment. Kill it at any moment and give
the same command again: it goes on, and nothing is fetched twice.
"""
PLAN = """\
Count regions, points, requests, gigabytes, hours at the rate limits and money, source by source,
and draw maps in OUTPUT_DIR/plan. Asked for are only a place's outline and its roads, where the
recipe names no files for them.

  python -m dataset_builders plan configs/cities/lyon.yaml --data_dir data
  python -m dataset_builders plan configs/cities/lyon.yaml --data_dir data --limit 20
"""
BUILD = """\
Fetch what is missing and write OUTPUT_DIR/dataset, its card, and pictures in OUTPUT_DIR/report.

  python -m dataset_builders build CITY.yaml --output_dir runs/city --dry_run
  python -m dataset_builders build CITY.yaml --output_dir runs/city --limit 20
  python -m dataset_builders build CITY.yaml --output_dir runs/city --max_cost 50

Above the thresholds of the recipe (`costs`) it asks first; --yes answers.
"""
STATUS = """\
Say of each source how many items are in which state (ok, missing, blank, placeholder, quota,
denied, invalid, failed) and the most frequent reasons, and how many rows each table has. Nothing is
asked for.

  python -m dataset_builders status CITY.yaml --output_dir runs/city
"""
RETRY_FAILED = """\
Forget what failed (blank, placeholder, invalid, failed), so that the next build asks for it again.
What is there, and what the provider says it does not have, is not asked for again.

  python -m dataset_builders retry-failed CITY.yaml --output_dir runs/city
  python -m dataset_builders build        CITY.yaml --output_dir runs/city
"""
PUBLISH = """\
Write OUTPUT_DIR/published from OUTPUT_DIR/dataset: shards of 300 to 500 MB and a card. Pictures of
sources that may not be redistributed are left out: their rows keep ids and metadata, and
`rehydrate` fetches the pictures again with the user's own key.

  python -m dataset_builders publish CITY.yaml --output_dir runs/city
  python -m dataset_builders publish CITY.yaml --output_dir runs/city --push_to_hub org/name
"""
REHYDRATE = """\
Fetch again, with your own keys, the images of which a dataset holds ids only, and write the dataset
with them. Rerun the command to resume.

  python -m dataset_builders rehydrate FOLDER --output_dir NEW_FOLDER
  python -m dataset_builders rehydrate FOLDER --output_dir NEW_FOLDER --recipe MY.yaml

The dataset's own recipe.yaml was written by somebody else, so it may only name known providers
(Google, Baidu, Mapillary, KartaView, the map services of configs/cities/), each with its own key.
Other hosts, variables and local folders need a recipe of your own. Before anything is sent to an
unknown host, the command names host and variable and asks; --yes answers.
"""
KNOWN_ERRORS = (DatasetError, MissingExtraError, SourceError, SplitError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; what a user can mend is told in a line, with exit code 2."""
    arguments = _parser().parse_args(argv)
    if arguments.output_dir is None:
        arguments.output_dir = Path("runs") / arguments.recipe.stem
    try:
        return int(arguments.run(arguments))
    except StoppedError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 3
    except KNOWN_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dataset_builders",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    plan = _command(commands, "plan", _plan, "what a build would cost, and a map of it", PLAN)
    build = _command(commands, "build", _build, "fetch what is missing, write the dataset", BUILD)
    for one in (plan, build):
        one.add_argument("--limit", type=_positive, help="only so many regions, for a try")
    build.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="say what it would do, and stop"
    )
    build.add_argument(
        "--max_cost", "--max-cost", type=_amount, help="refuse to start if it may cost more"
    )
    build.add_argument("--yes", action="store_true", help="do not ask, however much it takes")
    _command(commands, "status", _status, "how far a build is, and what failed", STATUS)
    _command(commands, "retry-failed", _retry_failed, "let the next build ask again", RETRY_FAILED)
    publish = _command(commands, "publish", _publish, "shards, card and licence gate", PUBLISH)
    publish.add_argument("--push_to_hub", metavar="ORG/NAME", help="also push it; log in first")
    publish.add_argument("--private", action="store_true", help="of a repository that is made")
    publish.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="list what would be pushed"
    )
    rehydrate = commands.add_parser(
        "rehydrate",
        help="fetch the pictures that a published dataset may only name",
        description=REHYDRATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rehydrate.set_defaults(run=_rehydrate)
    rehydrate.add_argument("dataset", type=Path, help="folder of a published dataset")
    rehydrate.add_argument("--output_dir", type=Path, required=True, help="a new folder")
    rehydrate.add_argument(
        "--recipe", type=Path, help="a recipe of your own, in place of the dataset's recipe.yaml"
    )
    rehydrate.add_argument(
        "--yes", action="store_true", help="do not ask about the recipe's hosts and variables"
    )
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: object,
    summary: str,
    description: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("recipe", type=Path, help="YAML file; see configs/cities/")
    parser.add_argument(
        "--output_dir", type=Path, help="folder of the build; runs/NAME of NAME.yaml by default"
    )
    parser.add_argument(
        "--data_dir", type=Path, help="folder that the recipe's relative paths start from"
    )
    return parser


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return number


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"must be an amount of money from 0, got {text!r}")
    return number


def _plan(arguments: argparse.Namespace) -> int:
    from .city.planning import plan
    from .city.recipe import read_recipe

    recipe = read_recipe(arguments.recipe, arguments.data_dir)
    print(plan(recipe, arguments.output_dir, limit=arguments.limit))
    print(f"Maps: {arguments.output_dir / 'plan'}")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from .city.build import build
    from .city.planning import check_costs, plan
    from .city.recipe import read_recipe

    recipe = read_recipe(arguments.recipe, arguments.data_dir)
    found = plan(recipe, arguments.output_dir, limit=arguments.limit)
    print(found)
    question = check_costs(recipe, found, arguments.max_cost, arguments.yes)
    if arguments.dry_run:
        print(f"Nothing was fetched. Maps: {arguments.output_dir / 'plan'}")
        return 0
    if question and not _agrees(question):
        return 1
    text = arguments.recipe.read_text(encoding="utf-8")
    report = build(recipe, arguments.output_dir, limit=arguments.limit, recipe_text=text)
    print(report)
    print(f"Pictures: {arguments.output_dir / 'report'}")
    return 0


def _agrees(question: str) -> bool:
    if not sys.stdin.isatty():
        raise DatasetError(f"{question} Nobody can be asked here: say it with --yes.")
    if input(f"{question} [y/N] ").strip().lower() in ("y", "yes"):
        return True
    print("Nothing was fetched.")
    return False


def _status(arguments: argparse.Namespace) -> int:
    from .city.progress import describe
    from .city.recipe import read_recipe

    print(describe(read_recipe(arguments.recipe, arguments.data_dir), arguments.output_dir))
    return 0


def _retry_failed(arguments: argparse.Namespace) -> int:
    from .city.build import retry_failed
    from .city.recipe import read_recipe

    recipe = read_recipe(arguments.recipe, arguments.data_dir)
    count = retry_failed(recipe, arguments.output_dir)
    print(f"{count:,} items are forgotten; the next build asks for them again.")
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    from .city.recipe import read_recipe
    from .city.workspace import Workspace
    from .publish import files_of, publish, push

    if arguments.dry_run and arguments.push_to_hub is None:
        raise DatasetError("--dry_run lists what --push_to_hub ORG/NAME would send: give both.")
    read_recipe(arguments.recipe, arguments.data_dir)
    space = Workspace(arguments.output_dir)
    print(publish(space.dataset, space.published))
    if arguments.push_to_hub is None:
        return 0
    if arguments.dry_run:
        for name, size in files_of(space.published):
            print(f"{size:>14,}  {name}")
        print(f"Nothing was sent to {arguments.push_to_hub}.")
        return 0
    print(push(space.published, arguments.push_to_hub, private=arguments.private))
    return 0


def _rehydrate(arguments: argparse.Namespace) -> int:
    from .city.recipe import read_recipe
    from .rehydrate import rehydrate
    from .trust import question_about

    recipe = None if arguments.recipe is None else read_recipe(arguments.recipe)
    question = question_about(recipe.open_online()) if recipe is not None else None
    if question and not arguments.yes and not _agrees(question):
        return 1
    print(rehydrate(arguments.dataset, arguments.output_dir, recipe=recipe))
    return 0


if __name__ == "__main__":
    sys.exit(main())
