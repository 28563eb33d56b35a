"""The systems by name, and their recipes: configs/baselines/<system>.yaml.

A recipe has two sizes: `paper`, the hyper-parameters of the system's own public code or paper, and
`cpu`, a small one that a processor trains in about a minute from random weights. Settings that both
have are under `shared`; a variant names the recipe that it varies as its `base`.
"""

import difflib
import importlib
from pathlib import Path
from typing import Any, Literal, get_args

from dataset_builders.errors import DatasetError
from dataset_builders.yaml_records import make_record, read_layered_yaml, unknown_name

from ..errors import InputError
from .base import RegionEncoder

Size = Literal["paper", "cpu"]
SIZES: tuple[str, ...] = get_args(Size)
RECIPES = Path(__file__).resolve().parents[3] / "configs" / "baselines"

# frozen encoders of the paper's tables, which learn nothing from a city: `embed` does them. They
# are Hub ids; `-random` says that the weights are initialised randomly
RANDOM = "-random"
FROZEN: dict[str, str] = {
    "clip": "openai/clip-vit-base-patch16",
    "clip-random": "openai/clip-vit-base-patch16",
    "clip-stretched": "BeichenZhang/LongCLIP-B",
    "remoteclip": "BiliSakura/Remote-CLIP-ViT-L-14",
    "resnet18": "microsoft/resnet-18",
}

# module of each, imported when it is asked for; one module may serve several recipes
SYSTEMS: dict[str, str] = {
    "musecl-nomob": "musecl",
    "pg-simclr": "pg_simclr",
    "simclr-adjacency": "pg_simclr",
    "tile2vec": "tile2vec",
    "urbanclip": "urbanclip",
    "urbanclip-full": "urbanclip",
    "urbanvlp": "urbanvlp",
    "urbanvlp-nocoord": "urbanvlp",
}


def read_settings(name: str, size: str, **overrides: Any) -> Any:
    """A system's `Settings` from its recipe.

    Args:
        name: of [`SYSTEMS`].
        size: "paper" or "cpu".
        overrides: fields that stand above the recipe's.

    Raises:
        InputError: no such system, size or field (the nearest is named), or a wrong value.
    """
    module = _module(name)
    if size not in SIZES:
        raise InputError(f"--size is one of {', '.join(SIZES)}, got {size!r}.")
    path = RECIPES / f"{name}.yaml"
    try:
        recipe = read_layered_yaml(path)
        shared = recipe.pop("shared", None) or {}
        for key in recipe:
            if key not in SIZES:
                raise InputError(f"{path}: {unknown_name(str(key), str(key), list(SIZES))}")
        if size not in recipe:
            raise InputError(f"{path} has no size {size!r}, only {', '.join(recipe)}.")
        return make_record(module.Settings, {**shared, **(recipe[size] or {}), **overrides})
    except DatasetError as error:
        raise InputError(f"{path}, size {size}: {error}") from error


def make(
    name: str, size: str = "cpu", seed: int = 0, device: str = "cpu", **overrides: Any
) -> RegionEncoder:
    """A system, ready to be fitted.

    Args:
        name: of [`SYSTEMS`].
        size: of its recipe, "paper" or "cpu".
        seed: of weights, pairs and batches.
        device: where it runs.
        overrides: settings that stand above the recipe's.

    Raises:
        InputError: no such system, size or setting, or a wrong value.
    """
    return build(name, read_settings(name, size, **overrides), seed, device)


def build(name: str, settings: Any, seed: int, device: str) -> RegionEncoder:
    """A system of these settings."""
    return _module(name).SYSTEM(settings, seed, device)


def _module(name: str) -> Any:
    if name in FROZEN:
        raise InputError(
            f"{name} is a frozen encoder and learns nothing from a city: use `python evaluate.py "
            f"embed --encoder {FROZEN[name]}`."
        )
    if name not in SYSTEMS:
        close = difflib.get_close_matches(name, [*SYSTEMS, *FROZEN], 1)
        hint = (
            f"Did you mean {close[0]!r}?"
            if close
            else f"There are: {', '.join([*SYSTEMS, *FROZEN])}."
        )
        raise InputError(f"There is no system {name!r}. {hint}")
    return importlib.import_module(f".{SYSTEMS[name]}", __package__)


__all__ = ["FROZEN", "RANDOM", "SIZES", "SYSTEMS", "Size", "build", "make", "read_settings"]
