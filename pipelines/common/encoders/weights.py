"""Precision, weight files and fingerprint of encoders."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import InputError
from . import Precision

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: str, precision: Precision) -> torch.autocast:
    """Autocast context of a forward pass; "no" computes in float32."""
    return torch.autocast(device, dtype=DTYPES[precision], enabled=precision != "no")


def read_weights(path: Path, sha256: str, remedy: str) -> dict[str, torch.Tensor]:
    """Read weights that a package contains.

    Args:
        path: File saved by `torch.save`.
        sha256: Expected hash of the file.
        remedy: How to install the package again, for error messages.

    Raises:
        InputError: If the file is missing or its SHA-256 differs.
    """
    if not path.is_file():
        raise InputError(f"The weights are missing: {path}. {remedy}")
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    if got != sha256:
        raise InputError(
            f"{path} has the SHA-256 {got}, not {sha256}: it is damaged or another file. {remedy}"
        )
    weights: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def fingerprint(header: str, weights: Mapping[str, torch.Tensor]) -> str:
    """Digest of the weights.

    Args:
        header: Other settings that determine the embeddings.
        weights: Tensors by name.
    """
    sha = hashlib.sha256(header.encode())
    for key, value in sorted(weights.items()):
        sha.update(key.encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        sha.update(flat.view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


__all__ = ["autocast", "fingerprint", "read_weights"]
