"""python -m pipelines.release convert WEIGHTS --output_dir DIR --hidden_act gelu|quick_gelu."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from .errors import ReleaseError

DESCRIPTION = """\
Take in checkpoints of other projects.

  python -m pipelines.release convert RemoteCLIP-ViT-B-32.pt --hidden_act gelu --output_dir DIR
  python -m pipelines.release convert longclip-B.pt --hidden_act quick_gelu --output_dir DIR
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
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see [`DESCRIPTION`]."""
    args = parse_arguments(argv)
    try:
        {"convert": _convert}[args.command](args)
    except (ReleaseError, OSError) as error:
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


if __name__ == "__main__":
    main()
