"""What the benchmark is told: a YAML file, checked whole before anything starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dataset_builders.errors import DatasetError
from dataset_builders.yaml_records import make_record, read_layered_yaml, unknown_name

from ..baselines.registry import SYSTEMS
from ..errors import InputError
from .runner import PROJECT

FULL = "full"


@dataclass(frozen=True)
class World:
    """Synthetic cities that are built and captioned together.

    Attributes:
        cities: their names.
        grid_size: regions of 1 km along a side.
        street_views: of each region.
        seed: of the cities.
    """

    cities: tuple[str, ...]
    grid_size: int
    street_views: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Settings:
    """A recipe of another command, and what stands above it.

    Attributes:
        recipe: its file, from the project's folder.
        set: keys that win over the file's.
    """

    recipe: str
    set: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Of the recipe's file."""
        return PROJECT / self.recipe


@dataclass(frozen=True)
class Variant:
    """UrbanLN, or UrbanLN with one thing taken away.

    Attributes:
        differs: from the full method, in words.
        captions: which of the recipe's captions it is trained on.
        train: flags of train.py above those of all.
    """

    differs: str
    captions: str
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """All systems on one city.

    Attributes:
        world: that has the city.
        city: where they are compared.
        seeds: of the training, for every variant.
        variants: by name; all of the recipe's by default.
        baselines: systems of `evaluate.py baseline`.
        baseline_seeds: of their training.
        baseline_captions: that baselines read.
        size: of the baselines' recipes.
    """

    world: str
    city: str
    seeds: tuple[int, ...]
    baseline_captions: str
    variants: tuple[str, ...] | None = None
    baselines: tuple[str, ...] = ()
    baseline_seeds: tuple[int, ...] = (0,)
    size: Literal["cpu", "paper"] = "cpu"


@dataclass(frozen=True)
class CityTransfer:
    """From city to city.

    Attributes:
        world: whose cities are sources and targets.
        variant: that is trained in each.
        seeds: of the training.
        leave_one_out: also train on all cities but one.
    """

    world: str
    variant: str = FULL
    seeds: tuple[int, ...] = (0,)
    leave_one_out: bool = True


@dataclass(frozen=True)
class Recipe:
    """The benchmark.

    Attributes:
        worlds: by name.
        captions: ways of making captions by name, recipes of `python -m pipelines.captioning`.
        training: of all variants, a recipe of train.py.
        variants: by name; `full` is the method.
        comparison: all systems on one city.
        transfer: from city to city; none if it is left out.
        probe: flags of `evaluate.py probe`, and those of them that `transfer` has.
        threads: threads per step.
    """

    worlds: Mapping[str, World]
    captions: Mapping[str, Settings]
    training: Settings
    variants: Mapping[str, Variant]
    comparison: Comparison
    transfer: CityTransfer | None = None
    probe: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 2

    @property
    def compared(self) -> tuple[str, ...]:
        """The variants that are compared, by name."""
        return self.comparison.variants or tuple(self.variants)


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        InputError: no such file, an unknown field (the nearest known one is named), a value of the
            wrong kind, or a name of something that there is not.
    """
    try:
        recipe = make_record(Recipe, read_layered_yaml(path))
    except DatasetError as error:
        raise InputError(f"{path}: {error}") from error
    _check(recipe)
    return recipe


def _check(recipe: Recipe) -> None:
    comparison = recipe.comparison
    _known("comparison.world", comparison.world, recipe.worlds)
    _known("comparison.city", comparison.city, recipe.worlds[comparison.world].cities)
    _known("comparison.baseline_captions", comparison.baseline_captions, recipe.captions)
    for name in recipe.compared:
        _known("comparison.variants", name, recipe.variants)
    for name in comparison.baselines:
        _known("comparison.baselines", name, SYSTEMS)
    for name, variant in recipe.variants.items():
        _known(f"variants.{name}.captions", variant.captions, recipe.captions)
    if recipe.transfer:
        _known("transfer.world", recipe.transfer.world, recipe.worlds)
        _known("transfer.variant", recipe.transfer.variant, recipe.variants)
        if len(recipe.worlds[recipe.transfer.world].cities) < 2:
            raise InputError("transfer.world must have two cities or more.")
    for settings in (recipe.training, *recipe.captions.values()):
        if not settings.path.is_file():
            raise InputError(f"There is no recipe at {settings.path}.")
    if recipe.threads < 1:
        raise InputError(f"`threads` must be 1 or more, got {recipe.threads}.")


def _known(where: str, name: str, known: Any) -> None:
    if name not in known:
        raise InputError(f"`{where}`: {unknown_name(name, name, list(known))}")


__all__ = [
    "FULL",
    "CityTransfer",
    "Comparison",
    "Recipe",
    "Settings",
    "Variant",
    "World",
    "read_recipe",
]
