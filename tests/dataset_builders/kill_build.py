"""Builds a city and kills itself at a chosen call; run by test_city_build.py."""

import os
import signal
import sys
from pathlib import Path

from dataset_builders import download
from dataset_builders.city import build as building
from dataset_builders.city.recipe import read_recipe

recipe, output_dir, point, count = *sys.argv[1:4], int(sys.argv[4])
calls = 0


def called() -> None:
    global calls
    calls += 1
    if calls == count:
        os.kill(os.getpid(), signal.SIGKILL)


replace, put = os.replace, download.Store.put


def replace_or_die(source, target):
    if str(target).endswith(".parquet"):  # a written but not yet renamed shard
        called()
    replace(source, target)


def put_or_die(self, *args, **kwargs):
    put(self, *args, **kwargs)
    called()


if point == "shard":
    os.replace = replace_or_die
else:
    download.Store.put = put_or_die
building.build(
    read_recipe(recipe), Path(output_dir), draw=False, recipe_text=Path(recipe).read_text()
)
