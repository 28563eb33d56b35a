"""Command-line interface: python -m pipelines.captioning run|status|inspect|export|presets."""

import argparse
import logging
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

from filelock import FileLock

from dataset_builders.commands import run_command
from dataset_builders.files import locked

from .errors import CaptioningError
from .recipe import Recipe, read_recipe
from .records import Candidate

DESCRIPTION = """\
Long captions for city images: several multimodal models generate several captions each, phrases
that the image does not support are removed, and the caption with the highest consensus is chosen.

  python -m pipelines.captioning run     configs/captioning/synthetic.yaml --dataset_name DIR ...
  python -m pipelines.captioning status  RECIPE.yaml      progress
  python -m pipelines.captioning inspect RECIPE.yaml --image_id ID     all results for one image
  python -m pipelines.captioning export  RECIPE.yaml --dataset_dir NEW     a dataset with captions
  python -m pipelines.captioning presets       known models and how to serve them

Rerun the command to resume an interrupted run.
"""
RUN = """\
Run or resume a recipe, then write OUTPUT_DIR/report: report.md, report.json, gallery.html.

  python -m pipelines.captioning run RECIPE.yaml --dry_run         estimate requests, tokens, price
  python -m pipelines.captioning run RECIPE.yaml --max_images 20   the first images of each table
  python -m pipelines.captioning run RECIPE.yaml --retry_failed    compute failed units again
  python -m pipelines.captioning run RECIPE.yaml --shard 2/8       job 2 of a Slurm array of 8
  python -m pipelines.captioning run RECIPE.yaml --backend ray --num_actors 4 --ray_address auto

docs/scaling.md shows one machine, a Slurm array and a Ray cluster.
"""
TOKENS_OF_A_REQUEST, TOKENS_OF_A_MERGE, BOXES_OF_AN_IMAGE = 1150, 500, 4
"""Approximate averages for `--dry_run`; the report has measured counts."""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command-line arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.captioning",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("recipe", help="YAML file; see configs/captioning/")
    shared.add_argument("--dataset_name", help="override `dataset_name` of the recipe")
    shared.add_argument("--output_dir", help="override `output_dir` of the recipe")
    shared.add_argument("--max_images", type=int, help="use only the first images of each table")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str, description: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            parents=[shared],
            help=summary,
            description=description or summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    run = command("run", "run or resume a recipe and write a report", RUN)
    run.add_argument(
        "--shard", type=_share, default=(1, 1), metavar="I/N", help="process only share I of N"
    )
    run.add_argument("--retry_failed", action="store_true", help="compute failed units again")
    run.add_argument("--dry_run", action="store_true", help="estimate the cost and exit")
    run.add_argument("--backend", choices=("local", "ray"), default="local", help="default: local")
    run.add_argument("--num_actors", type=int, help="number of Ray actors (default: 1)")
    run.add_argument(
        "--ray_address", help="address of the Ray cluster (default: RAY_ADDRESS, else this machine)"
    )
    command("status", "progress of a run")
    inspect = command("inspect", "all results for one image, or all failures")
    inspect.add_argument("--image_id", help="id of the image")
    inspect.add_argument("--failed", action="store_true", help="list failures with their reasons")
    export = command("export", "write a dataset with the captions of a finished run")
    export.add_argument("--dataset_dir", required=True, help="new folder for the dataset")
    commands.add_parser("presets", help="known models and how to serve them")
    args = parser.parse_args(argv)
    if args.command == "run" and args.backend == "local" and (args.num_actors or args.ray_address):
        parser.error("--num_actors and --ray_address need --backend ray")
    if args.command == "run" and args.num_actors is not None and args.num_actors < 1:
        parser.error(f"--num_actors must be at least 1, got {args.num_actors}")
    return args


def _share(text: str) -> tuple[int, int]:
    try:
        number, total = (int(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be I/N, such as 2/8; got {text!r}") from None
    if not 1 <= number <= total:
        raise argparse.ArgumentTypeError(f"I must be from 1 to N, got {text!r}")
    return number, total


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code, see [`run_command`]."""
    args = parse_arguments(argv)
    return run_command(lambda: _call(args))


def _call(args: argparse.Namespace) -> None:
    if args.command == "presets":
        from .clients.presets import describe_presets

        print(describe_presets())
        return
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    overrides = {name: getattr(args, name) for name in ("dataset_name", "output_dir", "max_images")}
    recipe = read_recipe(args.recipe, **overrides)
    command = {"run": _run, "status": _status, "inspect": _inspect, "export": _export}
    command[args.command](recipe, args)


def _run(recipe: Recipe, args: argparse.Namespace) -> None:
    from .report import report_run
    from .run import run

    if args.dry_run:
        print(_estimate(recipe))
        return
    number, total = args.shard
    now = run(
        recipe,
        shard=(number - 1, total),
        retry_failed=args.retry_failed,
        progress=True,
        backend=args.backend,
        num_actors=args.num_actors or 1,
        ray_address=args.ray_address,
    )
    if not now.finished:
        print(f"Finished this share; {now.done} of {now.images} images of the run are done.")
        return
    with FileLock(Path(recipe.output_dir) / ".report.lock"):  # several shares may finish at once
        report = report_run(recipe)
    print(f"{now.images} images, {now.rejects} rejects. Report: {report}")


def _estimate(recipe: Recipe) -> str:
    from .inputs import list_shards
    from .kit import open_models
    from .stages import REFINED, SHORT

    images = sum(shard.count for shard in list_shards(recipe))
    long = recipe.generate.captions_per_model
    local, merges = (BOXES_OF_AN_IMAGE, long) if recipe.refine else (0, 0)
    requests = images * (long + local + merges)
    asked = requests * TOKENS_OF_A_REQUEST + images * merges * TOKENS_OF_A_MERGE
    answered = images * (
        long * recipe.generate.max_tokens + merges * REFINED.max_tokens + local * SHORT.max_tokens
    )
    lines = [
        f"{images} images; per model about {requests:,} requests, {asked / 1e6:,.1f} million "
        f"prompt tokens and {answered / 2e6:,.1f} million completion tokens. Models differ by a "
        "factor of ten: run with --max_images 20 and see the measured counts in the report."
    ]
    for name, model in open_models(recipe).items():
        where = "images leave this machine" if model.remote else "images stay on this machine"
        price = model.cost(asked, answered // 2) if hasattr(model, "cost") else 0.0
        lines.append(f"  {name}: {where}; price {price:,.2f}")
    return "\n".join(lines)


def _status(recipe: Recipe, args: argparse.Namespace) -> None:
    from .run import state

    now = state(recipe)
    print(
        f"{recipe.output_dir}: {now.done} of {now.images} images done ({now.shards} shards), "
        f"{now.rejects} rejects"
    )


def _inspect(recipe: Recipe, args: argparse.Namespace) -> None:
    from .ledger import finished_shards
    from .tables import read_candidates, read_rejects

    if bool(args.image_id) == args.failed:
        raise CaptioningError("Give either --image_id ID or --failed.")
    folders = finished_shards(recipe)
    rejects = list(read_rejects([folder.rejects for folder in folders]))
    if args.failed:
        counts = Counter(" ".join((one.stage, one.model, one.reason)) for one in rejects)
        lines = [f"{len(rejects)} rejects"]
        lines += [f"{times:>7}  {text}" for text, times in sorted(counts.items())]
    else:
        candidates = read_candidates([folder.candidates for folder in folders])
        found = [one for one in candidates if one.image_id == args.image_id]
        rejects = [one for one in rejects if one.image_id == args.image_id]
        if not found and not rejects:
            raise CaptioningError(
                f"No image {args.image_id!r} in the finished shards of {recipe.output_dir}. "
                "See `status` for the progress."
            )
        found.sort(key=lambda one: (not one.chosen, -(one.scores.score or 0)))
        lines = [line for one in found for line in _described(one)]
    lines += [" ".join(map(str, astuple(reject))) for reject in rejects]
    print("\n".join(lines))


def _described(one: Candidate) -> Iterator[str]:
    score = "" if one.scores.score is None else f" consensus {one.scores.score:.3f}"
    state = "CHOSEN" if one.chosen else one.drop_reason or "kept"
    yield f"\n{one.model}#{one.index} [{state}]{score} {one.prompt_version} {one.model_revision}"
    yield textwrap.indent(textwrap.fill(one.text, 96), "  ")
    if one.generated != one.text:
        yield "  as generated:"
        yield textwrap.indent(textwrap.fill(one.generated, 96), "    ")
    for phrase in one.phrases:
        if not phrase.kept:
            yield f"  dropped: {phrase.text!r} ({phrase.source}) {phrase.score:.4f} {phrase.reason}"
    if one.flags:
        yield f"  flags: {', '.join(one.flags)}"


def _export(recipe: Recipe, args: argparse.Namespace) -> None:
    from .export import export_dataset, is_plain

    with locked(Path(args.dataset_dir)):
        root = export_dataset(recipe, Path(args.dataset_dir))
    split = " --split_column none" if is_plain(recipe) else ""
    print(f"Wrote {root}; train on it with: python train.py --dataset_name {root}{split} ...")


if __name__ == "__main__":
    sys.exit(main())
