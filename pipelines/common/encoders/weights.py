"""Precision and fingerprint of encoders."""

import hashlib
from collections.abc import Mapping

import torch

from . import Precision

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: str, precision: Precision) -> torch.autocast:
    """Autocast context of a forward pass; "no" computes in float32."""
    return torch.autocast(device, dtype=DTYPES[precision], enabled=precision != "no")


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


__all__ = ["autocast", "fingerprint"]
