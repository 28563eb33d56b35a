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
    from dataset_builders.hub_errors import explain
    from pipelines.common.errors import InputError
    from pipelines.pretraining.arguments import parse_arguments

    try:
        arguments = parse_arguments(argv)
        from pipelines.pretraining.loop import pretrain  # heavy: not before the arguments are right

        pretrain(arguments)
    except InputError as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        said = explain(error)  # wherever in the work the Hub was asked
        if said is None and not isinstance(error, OSError):
            raise
        print(f"train.py: error: {said or error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
