"""Image encoders.

`load_encoder` takes the name of a built-in encoder or the Hub id or folder of a transformers model.
A built-in encoder is a module of this package with a function `load` and an entry in `BUILT_IN`.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class BuiltIn:
    """Built-in encoder.

    Attributes:
        summary: One-line description.
        trained: Whether it has trained weights.
    """

    summary: str
    trained: bool


BUILT_IN = {
    "efficientnet_lite0": BuiltIn(
        "ImageNet features, available offline by the extra `offline`", trained=True
    ),
    "mosaiks": BuiltIn(
        "random convolutional features of image patches (Rolf et al. 2021)", trained=False
    ),
    "colour_texture": BuiltIn("colour, gradient and texture statistics", trained=False),
}


class Encoder(Protocol):
    """Image encoder: threads call `prepare` per image, one thread calls `encode` per batch.

    Attributes:
        name: Name in the metadata of an embedding table.
        dim: Embedding dimension.
        fingerprint: Identifier shared by encoders that produce equal embeddings.
        random_init: Whether the weights were initialised randomly instead of loaded.
        pooling: Pooling of the model's output, such as `image_features`, `pooler_output`, `cls`
            or `mean`.
    """

    name: str
    dim: int
    fingerprint: str
    random_init: bool
    pooling: str

    def prepare(self, image: "Image.Image") -> "torch.Tensor":
        """Convert an RGB image to a tensor to batch."""
        ...

    def encode(self, batch: "torch.Tensor") -> "NDArray[np.float32]":
        """Encode a batch of prepared images to embeddings of shape `(batch_size, dim)`."""
        ...


def load_encoder(
    name: str,
    *,
    random_init: bool = False,
    seed: int = 0,
    device: str = "cpu",
    precision: Precision = "no",
    trust_remote_code: bool = False,
) -> Encoder:
    """Load an image encoder.

    Args:
        name: Name of a built-in encoder, or Hub id or folder of a vision or image-text model.
        random_init: Whether to initialise the weights randomly instead of loading them.
        seed: Random seed.
        device: Device of the encoder.
        precision: Precision of the forward pass.
        trust_remote_code: Whether to run code that comes with a checkpoint.

    Raises:
        InputError: If there is no such encoder, it cannot be loaded, or it has no weights to
            initialise.
    """
    settings: dict[str, Any] = {
        "random_init": random_init,
        "seed": seed,
        "device": device,
        "precision": precision,
    }
    if name == "raster":
        raise InputError("The encoder 'raster' reads raster files: pass them by --raster.")
    if name == "geoclip":
        raise InputError(
            "The encoder 'geoclip' encodes locations, not images: use it in `evaluate.py embed`, "
            "or as a control by `evaluate.py probe --controls geoclip`."
        )
    if name in BUILT_IN:
        if random_init and not BUILT_IN[name].trained:
            raise InputError(f"The encoder {name!r} has no trained weights: omit random_init.")
        return import_module(f".{name}", __name__).load(**settings)
    from .transformers_models import load_model_encoder

    return load_model_encoder(name, trust_remote_code=trust_remote_code, **settings)


__all__ = ["BUILT_IN", "BuiltIn", "Encoder", "Precision", "load_encoder"]
