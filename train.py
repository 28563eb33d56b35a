"""Pretrain UrbanLN.

python train.py --config configs/quickstart.yaml --dataset_name DIR --output_dir OUT
accelerate launch train.py --config configs/vitb16.yaml --dataset_name DIR --output_dir OUT
"""

import os
import sys
from collections.abc import Sequence

# tokenizers warn and disable parallelism when data loading workers are forked
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code (2: invalid input)."""
    from dataset_builders.commands import run_command
    from pipelines.pretraining.arguments import parse_arguments

    def work() -> None:
        arguments = parse_arguments(argv)
        from pipelines.pretraining.loop import pretrain  # slow import

        pretrain(arguments)

    return run_command(work, "train.py: error")


if __name__ == "__main__":
    sys.exit(main())
