"""One embedding per image from a transformers model, by its own pooling."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

IMAGE_FEATURES, POOLER_OUTPUT, CLS, MEAN = "image_features", "pooler_output", "cls", "mean"
CLS_PARAMETERS = ("cls_token", "class_token", "class_embedding")


def image_function(model: Any) -> Callable[..., Any]:
    """Function that encodes images: `get_image_features` of an image-text model, else `forward`."""
    return getattr(model, "get_image_features", model.forward)


def pooled(model: Any, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, str]:
    """Encode images to one embedding each.

    The embedding is the projected features of an image-text model, else the pooler's output, else
    the CLS token, else the mean over tokens or over the feature map.

    Args:
        model: Vision or image-text model.
        inputs: Prepared images, as keyword arguments of the model.

    Returns:
        Embeddings of shape `(batch_size, dim)` and the name of the pooling.

    Raises:
        ValueError: If the output has neither features nor hidden states.
    """
    if hasattr(model, "get_image_features"):
        output = model.get_image_features(**inputs)
        features = output if isinstance(output, torch.Tensor) else output.pooler_output
        return _one_each(features), IMAGE_FEATURES
    output = model(**inputs)
    if getattr(output, "pooler_output", None) is not None:
        return _one_each(output.pooler_output), POOLER_OUTPUT
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None:
        raise ValueError(f"a {type(output).__name__} holds no features")
    if hidden.ndim == 3 and _has_cls_token(model):
        return hidden[:, 0], CLS
    return _one_each(hidden), MEAN


def _one_each(features: Any) -> torch.Tensor:
    if isinstance(features, list | tuple):  # number of tokens varies per image
        return torch.cat([_one_each(one[None]) for one in features])
    if features.ndim == 4:  # (B, D, height, width)
        return features.mean((2, 3))
    return features.mean(1) if features.ndim == 3 else features  # (B, tokens, D)


def _has_cls_token(model: Any) -> bool:
    return any(name.rsplit(".", 1)[-1] in CLS_PARAMETERS for name, _ in model.named_parameters())


__all__ = ["CLS", "IMAGE_FEATURES", "MEAN", "POOLER_OUTPUT", "image_function", "pooled"]
