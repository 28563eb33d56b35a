"""Pretrain UrbanLN; the work is done in pipelines/pretraining.

python train.py --config configs/quickstart.yaml --dataset_name DIR --output_dir OUT
accelerate launch train.py --config configs/vitb16.yaml --dataset_name DIR --output_dir OUT
"""

import os
import sys
from collections.abc import Sequence

# before torch: workers are forked after the tokenizer has run
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (2: something given cannot be used)."""
    from dataset_builders.commands import run_command
    from pipelines.pretraining.arguments import parse_arguments

    def work() -> None:
        arguments = parse_arguments(argv)
        from pipelines.pretraining.loop import pretrain  # heavy: not before the arguments are right

        pretrain(arguments)

    return run_command(work, "train.py: error")


if __name__ == "__main__":
    sys.exit(main())
