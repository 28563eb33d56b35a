"""python -m pipelines.captioning run|status|inspect|export RECIPE.yaml, or presets."""

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from dataset_builders.errors import DatasetError

from .errors import (
    CaptioningError,
    MissingDependencyError,
    ModelUnavailableError,
    StorageError,
    explain_storage,
)
from .recipe import Recipe, read_recipe

DESCRIPTION = """\
Long captions for city images: several multimodal models each write several, what the image does
not support is taken out, and the caption the models agree on is kept.

  python -m pipelines.captioning run     configs/captioning/synthetic.yaml --dataset_name DIR ...
  python -m pipelines.captioning status  RECIPE.yaml      how far it is, what failed and why
  python -m pipelines.captioning inspect RECIPE.yaml --image_id ID     all that is known of an image
  python -m pipelines.captioning export  RECIPE.yaml --dataset_dir NEW     a dataset with captions
  python -m pipelines.captioning presets       models known by name, and how to serve them

Kill it at any moment and give the same command again: it goes on, and ends with the same table.
Give it on several machines that see the same folder, and they share the work.
"""
RUN = """\
Do what is left of a run, then write OUTPUT_DIR/report: report.md, report.json, gallery.html.

  python -m pipelines.captioning run RECIPE.yaml --dry_run         requests, tokens, price; no call
  python -m pipelines.captioning run RECIPE.yaml --max_images 20   try it on a few
  python -m pipelines.captioning run RECIPE.yaml --num_workers 4   processes on this machine
  python -m pipelines.captioning run RECIPE.yaml --backend ray     actors on a Ray cluster
  python -m pipelines.captioning run RECIPE.yaml --shard 2/8       every 8th shard, no look aside
  python -m pipelines.captioning run RECIPE.yaml --retry_failed    ask again where no answer came
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `--help` explains it."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.captioning",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = _command(commands, "run", "do what is left of a run, and report", RUN)
    run.add_argument("--num_workers", type=int, default=1, help="processes, or actors (default 1)")
    run.add_argument("--backend", choices=("local", "ray"), default="local", help="who works")
    run.add_argument(
        "--shard", type=_share, default=(1, 1), metavar="I/N", help="take the I-th of N shares only"
    )
    run.add_argument("--retry_failed", action="store_true", help="do again what failed")
    run.add_argument("--dry_run", action="store_true", help="say what it would take; ask nobody")
    status = _command(commands, "status", "how far a run is, and what failed")
    status.add_argument("--json", action="store_true", help="for programs")
    inspect = _command(commands, "inspect", "all that is known of an image, or of what failed")
    inspect.add_argument("--image_id", help="of the image")
    inspect.add_argument("--failed", action="store_true", help="list what failed, and why")
    export = _command(commands, "export", "write a dataset with the captions of a finished run")
    export.add_argument("--dataset_dir", required=True, help="a new folder")
    commands.add_parser("presets", help="models known by name, and how to serve them")
    return parser.parse_args(argv)


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    description: str = "",
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=description or summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="YAML file; see configs/captioning/")
    parser.add_argument("--dataset_name", help="in place of the recipe's")
    parser.add_argument("--output_dir", help="in place of the recipe's")
    parser.add_argument("--max_images", type=int, help="of each table, only the first ones")
    return parser


def _share(text: str) -> tuple[int, int]:
    try:
        number, total = (int(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be I/N, such as 2/8; got {text!r}") from None
    if not 1 <= number <= total:
        raise argparse.ArgumentTypeError(f"I must be from 1 to N, got {text!r}")
    return number, total


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see [`DESCRIPTION`]."""
    args = parse_arguments(argv)
    if args.command == "presets":
        from .clients.presets import describe_presets

        print(describe_presets())
        return
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        overrides = {
            name: getattr(args, name, None) for name in ("dataset_name", "output_dir", "max_images")
        }
        recipe = read_recipe(args.recipe, **overrides)
        command = {"run": _run, "status": _status, "inspect": _inspect, "export": _export}
        with explain_storage(getattr(args, "dataset_dir", recipe.output_dir)):
            command[args.command](recipe, args)
    except (
        CaptioningError,
        DatasetError,
        MissingDependencyError,
        ModelUnavailableError,
        StorageError,
    ) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped. What is done is kept: the same command goes on.")


def _run(recipe: Recipe, args: argparse.Namespace) -> None:
    from .estimate import estimate
    from .report_run import report_run
    from .run import run

    if args.dry_run:
        print(estimate(recipe))
        return
    number, total = args.shard
    done = run(
        recipe,
        num_workers=args.num_workers,
        shard=(number - 1, total),
        retry_failed=args.retry_failed,
        progress=True,
        backend=args.backend,
    )
    if not done.finished:
        if total == 1:
            raise CaptioningError(
                f"The run is not finished: of {done.images} images, by pass: {done.done}. What is "
                "done is kept: run the same command again."
            )
        print(f"This share is done; of {done.images} images, by pass: {done.done}.")
        return
    report = report_run(recipe)
    print(f"{done.images} images, {done.rejects} rejects. Report: {report}")


def _status(recipe: Recipe, args: argparse.Namespace) -> None:
    from .run import state

    now = state(recipe)
    if args.json:
        print(json.dumps(dataclasses.asdict(now) | {"finished": now.finished}))
        return
    print(f"{recipe.output_dir}: {now.images} images in {now.shards} shards, {now.held} in work")
    for name, count in now.done.items():
        print(f"  {name:<24} {count:>9} images  {count / now.images:6.1%}")
    print(f"  rejects so far: {now.rejects}")


def _inspect(recipe: Recipe, args: argparse.Namespace) -> None:
    from .inspection import describe_failures, describe_image

    if bool(args.image_id) == args.failed:
        raise CaptioningError("Give either --image_id ID or --failed.")
    print(describe_failures(recipe) if args.failed else describe_image(recipe, args.image_id))


def _export(recipe: Recipe, args: argparse.Namespace) -> None:
    from .export import export_dataset

    root = export_dataset(recipe, Path(args.dataset_dir))
    print(f"Wrote {root}; train on it with: python train.py --dataset_name {root} ...")


if __name__ == "__main__":
    main()
