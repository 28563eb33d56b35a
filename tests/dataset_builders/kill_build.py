"""Builds a city and kills itself at a chosen call; run by test_city_build.py."""

import os
import signal
import sys
from pathlib import Path

from dataset_builders import download
from dataset_builders.city import build as building
from dataset_builders.city.recipe import read_recipe

recipe, output_dir, point, count = *sys.argv[1:4], int(sys.argv[4])
calls = {"put": 0, "rename": 0}


def called(name: str) -> None:
    calls[name] += 1
    if name == point and calls[name] == count:
        os.kill(os.getpid(), signal.SIGKILL)


replace, put = os.replace, download.Store.put


def replace_or_die(*args):
    called("rename")
    replace(*args)


def put_or_die(self, *args, **kwargs):
    put(self, *args, **kwargs)
    called("put")


os.replace = replace_or_die
download.Store.put = put_or_die
building.build(read_recipe(recipe), Path(output_dir), draw=False)
print(calls)
