"""Peak memory of captioning runs on few and on many images, which should not grow.

    python -m benchmarks.captioning_memory --few 20 --many 160

Images are from a *synthetic* city and the models are *simulated*. Memory holds the images in
flight, the bounded phrase cache and the candidates of two shards.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from dataset_builders.synthetic import build_dataset

MODELS = ("synthetic-amber", "synthetic-cedar")


def peak_mb(city: Path, output: Path, images: int) -> float:
    recipe = {
        "dataset_name": str(city),
        "output_dir": str(output),
        "synthetic": True,
        "views": ["street_view"],
        "max_images": images,
        "models": [{"name": name, "client": "simulated"} for name in MODELS],
        "generate": {"captions_per_model": 1},
        "filter": {"detector": "simulated"},
        "run": {"images_per_shard": 10, "images_in_flight": 8, "gallery_size": 0},
    }
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-c", RUN, str(path)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


RUN = """
import resource, sys
from pipelines.captioning.recipe import read_recipe
from pipelines.captioning.run import run
assert run(read_recipe(sys.argv[1])).finished
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.captioning_memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--few", type=int, default=20, help="images of the small run")
    parser.add_argument("--many", type=int, default=160, help="images of the large run")
    args = parser.parse_args()
    side = max(3, int(args.many**0.5) + 1)
    with tempfile.TemporaryDirectory() as folder:
        city = build_dataset(Path(folder) / "city", grid_size=side, street_views=1, with_masks=True)
        few, many = (
            peak_mb(city, Path(folder) / f"run_{images}", images)
            for images in (args.few, args.many)
        )
    print(
        f"peak memory of a run (synthetic): {many:.0f} MB for {args.many} images, "
        f"{few:.0f} MB for {args.few}: {many / few:.3f}"
    )


if __name__ == "__main__":
    main()
