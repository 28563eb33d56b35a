"""Safe reading of weight files of other projects."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..common.errors import InputError

WRAPPERS = ("state_dict", "model", "model_state_dict")
DISTRIBUTED_PREFIX = "module."
OF_A_FOLDER = ("model.safetensors", "pytorch_model.bin")


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a weight file, on the CPU.

    Unwraps training checkpoints such as `{"state_dict": ...}` and removes the prefix `module.`.

    Args:
        path: `.safetensors`, or `.pt`, `.pth` or `.bin` (read with `weights_only=True`), or a
            Hugging Face folder with one weight file.

    Raises:
        InputError: If there is no such file, or it contains anything but named tensors.
    """
    path = Path(path)
    if path.is_dir():
        path = _weight_file(path)
    if not path.is_file():
        raise InputError(f"There is no weight file {path}: give a .pt, .bin or .safetensors.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _without_prefix(load_file(path))
        except SafetensorError as error:
            raise InputError(f"{path} is not a valid safetensors file: {error}") from error
    return _without_prefix(_unwrapped(_unpickled(path), path))


def read_config(path: str | Path) -> dict[str, Any]:
    """Read the `config.json` of a Hugging Face folder or next to a weight file.

    Raises:
        InputError: If there is none, or it is not a JSON object.
    """
    path = Path(path)
    file = (path if path.is_dir() else path.parent) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} of these weights cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{file} holds a {type(config).__name__}, not a configuration.")
    return config


def _weight_file(folder: Path) -> Path:
    found = [folder / name for name in OF_A_FOLDER if (folder / name).is_file()]
    if not found:
        raise InputError(f"{folder} has no {' or '.join(OF_A_FOLDER)}: give the weight file.")
    return found[0]


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():  # TorchScript is reported below
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises any type
        if "TorchScript" in str(error):
            raise InputError(
                f"{path} is a TorchScript program, as published by OpenAI, which is not executed. "
                "Use the same weights in Hugging Face format, such as "
                "openai/clip-vit-base-patch16, or save `torch.jit.load(file).state_dict()` as "
                "safetensors and convert that."
            ) from error
        raise InputError(
            f"{path} cannot be loaded with weights_only=True: it is damaged, or contains Python "
            "objects, which may run code. If you trust it, save its state dict as safetensors."
        ) from error


def _unwrapped(content: Any, path: Path) -> dict[str, torch.Tensor]:
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise InputError(f"{path} contains a {type(content).__name__}, not a state dict.")
    others = sorted(str(k) for k, v in content.items() if not isinstance(v, torch.Tensor))
    if others:
        raise InputError(
            f"{path} contains other objects than tensors: {', '.join(others[:5])}. Pass the state "
            f"dict of a training checkpoint, or store it under one of {', '.join(WRAPPERS)}."
        )
    return dict(content)


def _without_prefix(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if state and all(key.startswith(DISTRIBUTED_PREFIX) for key in state):
        return {key.removeprefix(DISTRIBUTED_PREFIX): value for key, value in state.items()}
    return state


__all__ = ["read_config", "read_state_dict"]
