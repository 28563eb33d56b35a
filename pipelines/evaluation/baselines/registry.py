"""Registry of baselines, and their recipes configs/baselines/<system>.yaml.

A recipe has two sizes: `paper`, the hyper-parameters of the published code or paper, and `cpu`, a
small randomly initialised model that trains in about a minute. `shared` holds common settings;
`base` names the recipe that a variant inherits from.
"""

import importlib
from pathlib import Path
from typing import Any

from dataset_builders.errors import DatasetError
from dataset_builders.yaml_records import make_record, nearest, read_layered_yaml, unknown_name

from ..errors import InputError
from .base import RegionEncoder

SIZES = ("paper", "cpu")
RECIPES = Path(__file__).resolve().parents[3] / "configs" / "baselines"

# Hub ids of the paper's frozen encoders, for `embed`; "-random" means random initialisation
RANDOM = "-random"
FROZEN: dict[str, str] = {
    "clip": "openai/clip-vit-base-patch16",
    "clip-random": "openai/clip-vit-base-patch16",
    "clip-stretched": "BeichenZhang/LongCLIP-B",
    "remoteclip": "BiliSakura/Remote-CLIP-ViT-L-14",
    "resnet18": "microsoft/resnet-18",
}

# module of each system, imported lazily
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
    """Read the `Settings` of a system from its recipe.

    Args:
        name: Name in [`SYSTEMS`].
        size: "paper" or "cpu".
        overrides: Settings that override those of the recipe.

    Raises:
        InputError: Unknown system, size or field, or an invalid value.
    """
    module = _module(name)
    if size not in SIZES:
        raise InputError(f"--size must be one of {', '.join(SIZES)}, got {size!r}.")
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
    """Create a system from its recipe.

    Args:
        name: Name in [`SYSTEMS`].
        size: "paper" or "cpu".
        seed: Seed of weights, pairs and batches.
        device: Device of the models.
        overrides: Settings that override those of the recipe.

    Raises:
        InputError: Unknown system, size or setting, or an invalid value.
    """
    return build(name, read_settings(name, size, **overrides), seed, device)


def build(name: str, settings: Any, seed: int, device: str) -> RegionEncoder:
    """Create a system with the given settings."""
    return _module(name).SYSTEM(settings, seed, device)


def _module(name: str) -> Any:
    if name in FROZEN:
        raise InputError(
            f"{name} is a frozen encoder, which is not fitted: use `python evaluate.py embed "
            f"--encoder {FROZEN[name]}`."
        )
    if name not in SYSTEMS:
        raise InputError(f"There is no system {name!r}.{nearest(name, [*SYSTEMS, *FROZEN])}")
    return importlib.import_module(f".{SYSTEMS[name]}", __package__)


__all__ = ["FROZEN", "RANDOM", "SIZES", "SYSTEMS", "build", "make", "read_settings"]
