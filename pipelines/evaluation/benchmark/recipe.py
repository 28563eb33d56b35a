"""Benchmark recipes: YAML files, validated before any step starts."""

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
    """Recipe of another command, and values that override it.

    Attributes:
        recipe: Path of the YAML file, relative to the project folder.
        set: Overrides.
    """

    recipe: str
    set: Mapping[str, Any] = field(default_factory=dict)

    def merged(self) -> dict[str, Any]:
        """The recipe with its overrides; mappings are merged one level deep."""
        values = read_layered_yaml(PROJECT / self.recipe)
        for name, value in self.set.items():
            both = isinstance(value, dict) and isinstance(values.get(name), dict)
            values[name] = {**values[name], **value} if both else value
        return values


@dataclass(frozen=True)
class Variant:
    """Variant of the method for an ablation.

    Attributes:
        differs: Description of the difference from `against`.
        captions: Name of the caption set for training.
        train: Flags of train.py that override those of `training`.
        against: Variant to compare with.
        claim: Hypothesis that the comparison tests; without one, the report gives no verdict.
        expected: Direction of the variant's score under the hypothesis.
        curve: Curves that the variant is a point of, with its position on the x axis.
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
    """Benchmark recipe.

    Attributes:
        world: Flags of `python -m dataset_builders.synthetic`; systems are compared on the first
            city.
        captions: Recipes of `python -m pipelines.captioning` by name.
        training: Recipe of train.py for all variants.
        variants: Variants by name; `full` is the method.
        seeds: Training seeds of every system.
        baselines: Systems of `evaluate.py baseline`, trained on the captions of `full`.
        transfer: Whether to also train the method on each city and on all but one city, and
            evaluate every training on every city.
        probe: Flags of `evaluate.py probe` and, where it has them, of `evaluate.py transfer`.
        jobs: Number of concurrent steps.
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
        """Names of the synthetic cities."""
        return tuple(self.world["cities"])


def read_recipe(path: str | Path) -> Recipe:
    """Read and validate a recipe.

    Raises:
        InputError: The file does not exist, or has an unknown field, flag or name or a value of
            the wrong type.
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
    """References to check: location in the recipe, names, known names."""
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
    """Flags of train.py, from its help text because pipelines do not import one another."""
    command = [sys.executable, "train.py", "--help"]
    shown = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    return re.findall(r"^\s+--(\w+)", shown, re.MULTILINE)


__all__ = ["FULL", "Recipe", "Settings", "Variant", "read_recipe"]
