"""Command line: python -m pipelines.release convert | export | card | push."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from dataset_builders.commands import run_command
from dataset_builders.hub_errors import explain

from ..common.errors import InputError
from . import FORMATS

DESCRIPTION = """\
Convert checkpoints of other projects, export models, write model cards, and push to the Hub.

  python -m pipelines.release convert RemoteCLIP-ViT-B-32.pt --hidden_act gelu --output_dir DIR
  python -m pipelines.release convert longclip-B.pt --hidden_act quick_gelu --output_dir DIR
  python -m pipelines.release export runs/quickstart/model --output_dir DIR
  python -m pipelines.release card runs/quickstart/model --results RESULTS --repo org/name
  python -m pipelines.release push runs/quickstart/model --repo org/name --dry_run
"""
PUSH = """\
Push to the Hub in one atomic commit. Rerun the command to resume an interrupted upload.

  python -m pipelines.release push MODEL --results RESULTS --repo org/name --dry_run
  python -m pipelines.release push MODEL --results RESULTS --repo org/name --tag v1
  python -m pipelines.release push MODEL --adapter --repo org/name-lora
  python -m pipelines.release push PUBLISHED --dataset --repo org/name-captions
  python -m pipelines.release push MODEL --space NEW_FOLDER --repo org/name-demo \\
      --dataset_name DATASET --embeddings EMBEDDINGS --results RESULTS

A model is pushed with its code, card and processor, without training checkpoints. A dataset is the
output of `python -m dataset_builders publish`. A Space is the demo, which also runs locally by
`python app.py` in NEW_FOLDER; MODEL and DATASET may be Hub ids. In NEW_FOLDER, only files of an
earlier push are replaced. --dry_run writes nothing.

Log in first (`hf auth login`) or set HF_TOKEN.
"""
CARD = """\
Generate a model card from the files of a run: training data, settings, truncated captions, and
scores with their controls.

  python -m pipelines.release card MODEL --results RESULTS --repo org/name
"""
EXPORT = """\
Export a model and compare every file with torch. OUTPUT_DIR/export.json contains the deviations,
which the model card shows. `push` includes exports in the model folder.

  python -m pipelines.release export MODEL --images tiles/*.jpg
  python -m pipelines.release export org/name --output_dir DIR --formats onnx int8

  onnx      vision_model and text_model, for any batch size and text length
  int8      the ONNX models with 8-bit weights: smaller, and faster on CPUs
  openvino  for Intel's runtime
  sentence_transformers   a folder for SentenceTransformer(DIR), for texts and images

Outputs are the projected features (for probes) and L2-normalised embeddings (for search). Needs the
extra `export`.
"""
CONVERT = """\
Convert weights with OpenAI's names (open_clip's ViT, RemoteCLIP, OpenAI's CLIP, Long-CLIP, and
DGTRS-CLIP, also published as LRSCLIP) or FG-CLIP's folder (version 1, for long texts) to a folder
for AutoModel and AutoProcessor, `evaluate.py embed` and `train.py`.

Weights with OpenAI's names do not contain their activation, and the wrong one silently gives worse
embeddings:
  gelu        RemoteCLIP; open_clip's models trained on LAION or DataComp
  quick_gelu  OpenAI's weights; Long-CLIP; DGTRS-CLIP; open_clip's models named -quickgelu
FG-CLIP's config.json contains it: omit --hidden_act.
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.release",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add_command(name: str, help: str, description: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=help,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    convert = add_command("convert", "weights of other projects to a Hugging Face folder", CONVERT)
    convert.add_argument(
        "weights", metavar="WEIGHTS", help=".pt, .pth, .bin or .safetensors; or FG-CLIP's folder"
    )
    convert.add_argument("--output_dir", required=True, help="a new folder")
    convert.add_argument(
        "--hidden_act", choices=("gelu", "quick_gelu"), help="activation; see above"
    )
    for tower in ("vision", "text"):
        convert.add_argument(
            f"--{tower}_heads",
            type=int,
            help=f"attention heads of the {tower} tower (default: its width / 64)",
        )
    export = add_command("export", "ONNX, int8, OpenVINO, sentence-transformers", EXPORT)
    export.add_argument("model_name_or_path", metavar="MODEL", help="folder or Hub id")
    export.add_argument("--output_dir", help="default: the model folder")
    export.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=FORMATS, help="default: all"
    )
    export.add_argument("--images", nargs="*", default=[], help="images to compare on")
    card = add_command("card", "model card from a run and its scores", CARD)
    card.add_argument("run", metavar="MODEL", help="the --output_dir of train.py")
    _add_results(card)
    card.add_argument("--repo", required=True, help="org/name of the model, for the examples")
    push = add_command("push", "a model, an adapter, a dataset or a Space to the Hub", PUSH)
    push.add_argument("run", metavar="FOLDER", help="the --output_dir of train.py; see above")
    kinds = push.add_mutually_exclusive_group()
    kinds.add_argument("--adapter", action="store_true", help="push only the LoRA adapter")
    kinds.add_argument("--dataset", action="store_true", help="FOLDER is a published dataset")
    kinds.add_argument("--space", metavar="NEW_FOLDER", help="write the demo there and push it")
    _add_results(push)
    push.add_argument("--dataset_name", help="dataset of a Space: folder or Hub id")
    push.add_argument("--embeddings", nargs="+", help="embeddings of a Space: tables or folders")
    push.add_argument("--city", help="city that a Space shows first")
    push.add_argument("--repo", required=True, help="org/name; created if necessary")
    push.add_argument("--private", action="store_true", help="create a private repository")
    push.add_argument("--tag", help="tag of the commit, such as v1")
    push.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="only show the card and the files"
    )
    return parser.parse_args(argv)


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", help="output folder of evaluate.py probe and report, for the card"
    )
    parser.add_argument(
        "--system", help="label of this model in the results (default: the trained one)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code, see [`run_command`]."""
    args = parse_arguments(argv)

    def work() -> None:
        _check_name(getattr(args, "repo", None))
        run = {"convert": _convert, "export": _export, "card": _card, "push": _push}[args.command]
        run(args)

    return run_command(work)


def _check_name(repo_id: str | None) -> None:
    if repo_id is None:
        return
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(str(explain(error, repo_id))) from error
    if "/" not in repo_id:
        raise InputError(f"{repo_id!r} lacks its owner: give org/name (--repo).")


def _convert(args: argparse.Namespace) -> None:
    from .convert import convert_checkpoint

    model = convert_checkpoint(
        args.weights,
        args.output_dir,
        hidden_act=args.hidden_act,
        vision_heads=args.vision_heads,
        text_heads=args.text_heads,
    )
    vision: Any = model.config.vision_config
    text: Any = model.config.text_config
    print(
        f"Wrote {args.output_dir}: {type(model).__name__}, images of {vision.image_size} pixels in "
        f"patches of {vision.patch_size}, texts of up to {text.max_position_embeddings} tokens, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million weights, "
        f"{vision.hidden_act}."
    )


def _export(args: argparse.Namespace) -> None:
    from .export import export

    images = [Path(name) for name in args.images]
    output = args.output_dir or args.model_name_or_path
    if not args.output_dir and not Path(output).is_dir():
        raise InputError(f"{output} is not a local folder: pass --output_dir.")
    for one in export(args.model_name_or_path, output, args.formats, images):
        print(
            f"{one.file}: minimum cosine {one.min_cosine:.6f}, maximum difference "
            f"{one.max_difference:.1e}, {one.vectors} embeddings of {one.on}"
        )


def _card(args: argparse.Namespace) -> None:
    from .model_card import write_model_card
    from .runs import read_run

    print(write_model_card(read_run(args.run, args.results, args.system), args.repo))


def _push(args: argparse.Namespace) -> None:
    from .push import Destination, push_adapter, push_dataset, push_model

    to = Destination(args.repo, args.private, args.tag, args.dry_run)
    if args.adapter:
        print(push_adapter(args.run, to))
    elif args.dataset:
        print(push_dataset(args.run, to))
    elif args.space:
        from .space import SpaceSources, push_space

        if not (args.dataset_name and args.embeddings):
            raise InputError("A Space needs --dataset_name and --embeddings.")
        shown = (args.run, args.dataset_name, args.embeddings, args.results, args.city)
        print(push_space(args.space, SpaceSources(*shown), to))
    else:
        print(push_model(args.run, to, args.results, args.system))


if __name__ == "__main__":
    sys.exit(main())
