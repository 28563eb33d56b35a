"""What the benchmark is told: a YAML file, checked as a whole before anything starts."""

import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from dataset_builders.errors import DatasetError
from dataset_builders.yaml_records import make_record, nearest, read_layered_yaml

from ..arguments import ProbeArguments
from ..baselines.registry import SYSTEMS
from ..errors import InputError
from .runner import PROJECT

FULL = "full"


@dataclass(frozen=True)
class Settings:
    """A recipe of another command, from the project's folder, and keys that win over the file's."""

    recipe: str
    set: Mapping[str, Any] = field(default_factory=dict)

    def merged(self) -> dict[str, Any]:
        """The recipe as the command gets it; mappings are merged one level deep."""
        values = read_layered_yaml(PROJECT / self.recipe)
        for name, value in self.set.items():
            both = isinstance(value, dict) and isinstance(values.get(name), dict)
            values[name] = {**values[name], **value} if both else value
        return values


@dataclass(frozen=True)
class Variant:
    """The method with one thing changed, and what is claimed of the difference.

    Attributes:
        differs: From `against`, in words.
        captions: Which of the recipe's captions it is trained on.
        train: Flags of train.py that win over those of all variants.
        against: The variant it is compared with.
        claim: What the comparison is to show; empty: it is shown without a verdict.
        expected: Where the variant scores, if the claim holds.
        curve: Name of a curve that it is a point of -> its place on the x axis.
    """

    differs: str
    captions: str
    train: Mapping[str, Any] = field(default_factory=dict)
    against: str = FULL
    claim: str = ""
    expected: Literal["lower", "higher"] = "lower"
    curve: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """The benchmark.

    Attributes:
        world: Flags of `python -m dataset_builders.synthetic`; systems are compared on the first
            of its cities.
        captions: Name -> a recipe of `python -m pipelines.captioning`.
        training: A recipe of train.py, for all variants.
        variants: Name -> variant; `full` is the method.
        seeds: Training seeds of every system.
        baselines: Systems of `evaluate.py baseline`; they read the captions of `full`.
        transfer: Also train the method in each city and in all but one, and score each by each.
        probe: Flags of `evaluate.py probe`, and those of them that `transfer` has.
        jobs: Steps that run at a time.
        threads: Threads per step.
    """

    world: Mapping[str, Any]
    captions: Mapping[str, Settings]
    training: Settings
    variants: Mapping[str, Variant]
    seeds: tuple[int, ...]
    baselines: tuple[str, ...] = ()
    transfer: bool = False
    probe: Mapping[str, Any] = field(default_factory=dict)
    jobs: int = 2
    threads: int = 1

    @property
    def cities(self) -> tuple[str, ...]:
        """Cities of the world."""
        return tuple(self.world["cities"])


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        InputError: There is no such file, a field or flag is unknown (the nearest known one is
            named), a value is of the wrong kind, or a name stands for nothing.
    """
    try:
        recipe = make_record(Recipe, read_layered_yaml(path))
        for settings in (recipe.training, *recipe.captions.values()):
            settings.merged()
    except DatasetError as error:
        raise InputError(f"{path}: {error}") from error
    if min(recipe.jobs, recipe.threads, len(recipe.seeds)) < 1 or not recipe.world.get("cities"):
        raise InputError(f"{path}: needs `world.cities`, `seeds`, `jobs` and `threads`.")
    for where, names, known in _names(recipe):
        for name in names:
            if name not in known:
                raise InputError(f"{path}, `{where}`: no {name!r}.{nearest(name, sorted(known))}")
    return recipe


def _names(recipe: Recipe) -> Iterable[tuple[str, Iterable[str], Iterable[str]]]:
    """Where names stand in the recipe, the names, and those that there are."""
    flags = _training_flags()
    yield "variants", [FULL], recipe.variants
    yield "baselines", recipe.baselines, SYSTEMS
    yield "probe", recipe.probe, [flag.name for flag in fields(ProbeArguments)]
    yield "training.set", recipe.training.set, flags
    for name, variant in recipe.variants.items():
        yield f"variants.{name}.captions", [variant.captions], recipe.captions
        yield f"variants.{name}.against", [variant.against], recipe.variants
        yield f"variants.{name}.train", variant.train, flags


@cache
def _training_flags() -> list[str]:
    """Flags of train.py: another pipeline is known by its command line alone."""
    command = [sys.executable, "train.py", "--help"]
    told = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    return re.findall(r"^\s+--(\w+)", told, re.MULTILINE)


__all__ = ["FULL", "Recipe", "Settings", "Variant", "read_recipe"]
