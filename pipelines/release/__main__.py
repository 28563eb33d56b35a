"""python -m pipelines.release convert | export | card | push."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset_builders.errors import MissingExtraError

from .errors import ReleaseError

FORMATS = ("onnx", "int8", "openvino", "sentence_transformers")
DESCRIPTION = """\
Take in checkpoints of other projects, give out formats of other programs, describe a model.

  python -m pipelines.release convert RemoteCLIP-ViT-B-32.pt --hidden_act gelu --output_dir DIR
  python -m pipelines.release convert longclip-B.pt --hidden_act quick_gelu --output_dir DIR
  python -m pipelines.release export runs/quickstart/model --output_dir DIR
  python -m pipelines.release card runs/quickstart/model --results RESULTS --repo org/name
  python -m pipelines.release push runs/quickstart/model --repo org/name --dry_run
"""
PUSH = """\
Push a model to the Hub with its code, its card and its processor, in one commit. Checkpoints of the
training stay at home. Interrupted, the same command goes on.

  python -m pipelines.release push MODEL --results RESULTS --repo org/name --dry_run
  python -m pipelines.release push MODEL --results RESULTS --repo org/name --tag v1

Log in first (`hf auth login`) or set HF_TOKEN. A dataset is pushed by
`python -m dataset_builders publish`.
"""
CARD = """\
Write a model's card from its run: what it was trained on, how, what captions lost, and its scores,
never without the controls. Nothing is written by hand.

  python -m pipelines.release card MODEL --results RESULTS --repo org/name
"""
EXPORT = """\
Write a model for other programs, and check every file against torch: OUTPUT_DIR/export.json.

  python -m pipelines.release export MODEL --output_dir DIR
  python -m pipelines.release export MODEL --output_dir DIR --formats onnx int8 --images tiles/*.jpg

  onnx      vision_model and text_model, any batch, any length of text
  int8      of them, weights of 8 bits: smaller, and faster on CPUs
  openvino  for Intel's runtime
  sentence_transformers   a folder for SentenceTransformer(DIR), texts and images

Outputs are the projected features (for probes) and the same of unit length (for search). Needs the
extra `export`.
"""
CONVERT = """\
Convert weights with OpenAI's names (open_clip's ViT, RemoteCLIP, OpenAI's CLIP, Long-CLIP) to a
folder that AutoModel and AutoProcessor load; `evaluate.py embed` and `train.py` take it too.

The weights do not tell their activation, and the wrong one gives a model that works a little
worse and says nothing:
  gelu        RemoteCLIP; open_clip's models trained on LAION, DataComp and the like
  quick_gelu  OpenAI's weights; Long-CLIP; open_clip's models whose name ends in -quickgelu
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `--help` explains it."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.release",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    convert = commands.add_parser(
        "convert",
        help="weights of other projects to a Hugging Face folder",
        description=CONVERT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument("weights", metavar="WEIGHTS", help=".pt, .pth, .bin or .safetensors")
    convert.add_argument("--output_dir", required=True, help="a new folder")
    convert.add_argument(
        "--hidden_act", required=True, choices=("gelu", "quick_gelu"), help="activation; see above"
    )
    convert.add_argument(
        "--tokenizer", help="folder or Hub id (default: CLIP's own, which needs no network)"
    )
    for tower in ("vision", "text"):
        convert.add_argument(
            f"--{tower}_heads",
            type=int,
            help=f"attention heads of the {tower} tower (default: its width / 64)",
        )
    export = commands.add_parser(
        "export",
        help="ONNX, int8, OpenVINO, sentence-transformers",
        description=EXPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("model_name_or_path", metavar="MODEL", help="folder or Hub id")
    export.add_argument("--output_dir", required=True, help="a new folder")
    export.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=FORMATS, help="all of them"
    )
    export.add_argument("--images", nargs="*", default=[], help="real pictures to check on")
    card = commands.add_parser(
        "card",
        help="a model's card, from its run and its scores",
        description=CARD,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    card.add_argument("run", metavar="MODEL", help="the --output_dir of train.py")
    card.add_argument("--results", help="the --output_dir of evaluate.py probe")
    card.add_argument("--repo", required=True, help="org/name, as the examples call the model")
    push = commands.add_parser(
        "push",
        help="a model to the Hub",
        description=PUSH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    push.add_argument("run", metavar="MODEL", help="the --output_dir of train.py")
    push.add_argument("--results", help="the --output_dir of evaluate.py probe, for the card")
    push.add_argument("--repo", required=True, help="org/name; made if need be")
    push.add_argument("--private", action="store_true", help="of a repository that is made")
    push.add_argument("--tag", help="name for the commit, such as v1")
    push.add_argument("--message", default="Upload UrbanLN", help="of the commit")
    push.add_argument("--dry_run", action="store_true", help="write the card, list the files")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see [`DESCRIPTION`]."""
    args = parse_arguments(argv)
    try:
        run = {"convert": _convert, "export": _export, "card": _card, "push": _push}[args.command]
        run(args)
    except (MissingExtraError, ReleaseError, OSError) as error:
        sys.exit(f"error: {error}")


def _convert(args: argparse.Namespace) -> None:
    from .convert import convert_checkpoint

    model = convert_checkpoint(
        args.weights,
        args.output_dir,
        hidden_act=args.hidden_act,
        tokenizer=args.tokenizer,
        vision_heads=args.vision_heads,
        text_heads=args.text_heads,
    )
    vision: Any = model.config.vision_config
    text: Any = model.config.text_config
    print(
        f"Wrote {args.output_dir}: {type(model).__name__}, images of {vision.image_size} pixels in "
        f"patches of {vision.patch_size}, texts of up to {text.max_position_embeddings} tokens, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million weights, "
        f"{args.hidden_act}."
    )


def _export(args: argparse.Namespace) -> None:
    from .export import export

    images = [Path(name) for name in args.images]
    for one in export(args.model_name_or_path, args.output_dir, args.formats, images):
        print(
            f"{one.file}: cosine {one.min_cosine:.6f} at least, difference "
            f"{one.max_difference:.1e} at most, {one.vectors} vectors of {one.on}"
        )


def _card(args: argparse.Namespace) -> None:
    from .model_card import write_model_card
    from .runs import read_run

    print(write_model_card(read_run(args.run, args.results), args.repo))


def _push(args: argparse.Namespace) -> None:
    from .push import push_model

    print(
        push_model(
            args.run,
            args.repo,
            results=args.results,
            private=args.private,
            tag=args.tag,
            message=args.message,
            dry_run=args.dry_run,
        )
    )


if __name__ == "__main__":
    main()
