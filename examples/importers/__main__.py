"""`python -m examples.importers NAME --source DIR --output_dir DIR`."""

import sys

from dataset_builders.importers.__main__ import main

if __name__ == "__main__":
    sys.exit(main(package="examples.importers"))
