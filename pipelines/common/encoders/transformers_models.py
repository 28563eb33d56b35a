"""Vision and image-text models of transformers as image encoders."""

import inspect
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dataset_builders.hub_errors import explain

from ..errors import InputError
from . import BUILT_IN, Precision
from .weights import autocast, fingerprint

TEXT_SIDE = ("text_model.", "text_projection.", "logit_scale", "logit_bias")
CLS_PARAMETERS = ("cls_token", "class_token", "class_embedding")
PROBE = Image.new("RGB", (64, 64))
ADVICE = (
    "Pass the folder or Hub id of a vision or image-text model of transformers with its image "
    f"processor, or a built-in encoder: {', '.join(BUILT_IN)}."
)


class ModelEncoder:
    """Vision or image-text model with its own pooling; embeddings are not normalised.

    Args:
        model: Model in evaluation mode, on its device.
        image_processor: Image processor of the checkpoint.
        name: Name in the metadata of an embedding table.
        random_init: Whether the weights were initialised randomly instead of loaded.
        precision: Precision of the forward pass.
    """

    def __init__(
        self,
        model: Any,
        image_processor: Any,
        name: str,
        random_init: bool = False,
        precision: Precision = "no",
    ):
        self.model, self.image_processor, self.precision = model, image_processor, precision
        self.name, self.random_init = name, random_init
        self.device = next(model.parameters()).device
        self._arguments = set(inspect.signature(_image_function(model)).parameters)
        probe = self._inputs(PROBE)
        self._layout = {key: (value.shape, value.dtype) for key, value in probe.items()}
        vectors, self.pooling = self._forward(self.prepare(PROBE)[None])
        self.dim = vectors.shape[1]
        self.fingerprint = _fingerprint(model, image_processor, precision)

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Convert an RGB image to `pixel_values` of shape `(3, height, width)`.

        If the model takes further inputs, as SigLIP 2 NaFlex does, all inputs are flattened into
        one tensor of shape `(num_values,)`.

        Raises:
            InputError: If the image processor does not resize all images to one shape.
        """
        inputs = self._inputs(image)
        for key, value in inputs.items():
            if value.shape != self._layout[key][0]:
                raise InputError(
                    f"The image processor of {self.name} does not resize all images to one shape: "
                    f"{key} has shape {tuple(self._layout[key][0])} for one image and "
                    f"{tuple(value.shape)} for another. Set a fixed `size` (height and width) or "
                    "`do_center_crop` in its preprocessor_config.json."
                )
        if len(inputs) == 1:
            return next(iter(inputs.values()))
        return torch.cat([value.reshape(-1).float() for value in inputs.values()])

    def encode(self, batch: torch.Tensor) -> NDArray[np.float32]:
        """Encode a batch of prepared images to `(batch_size, dim)`."""
        return self._forward(batch)[0].float().cpu().numpy()

    @torch.inference_mode()
    def _forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, str]:
        batch = batch.to(self.device, non_blocking=True)
        with autocast(self.device.type, self.precision):
            return pooled(self.model, self._unpack(batch))

    def _inputs(self, image: Image.Image) -> dict[str, torch.Tensor]:
        features = self.image_processor(images=image, return_tensors="pt")
        return {key: value[0] for key, value in features.items() if key in self._arguments}

    def _unpack(self, batch: torch.Tensor) -> Mapping[str, torch.Tensor]:
        if len(self._layout) == 1:
            return {next(iter(self._layout)): batch}
        parts = batch.split([prod(shape) for shape, _ in self._layout.values()], dim=1)
        return {
            key: part.reshape(len(batch), *shape).to(dtype)
            for (key, (shape, dtype)), part in zip(self._layout.items(), parts, strict=True)
        }


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
        return _one_each(features), "image_features"
    output = model(**inputs)
    if getattr(output, "pooler_output", None) is not None:
        return _one_each(output.pooler_output), "pooler_output"
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None:
        raise ValueError(f"a {type(output).__name__} holds no features")
    names = [name.rsplit(".", 1)[-1] for name, _ in model.named_parameters()]
    if hidden.ndim == 3 and any(name in CLS_PARAMETERS for name in names):
        return hidden[:, 0], "cls"
    return _one_each(hidden), "mean"


def _image_function(model: Any) -> Callable[..., Any]:
    return getattr(model, "get_image_features", model.forward)


def _one_each(features: Any) -> torch.Tensor:
    if isinstance(features, list | tuple):  # number of tokens varies per image
        return torch.cat([_one_each(one[None]) for one in features])
    if features.ndim == 4:  # (B, D, height, width)
        return features.mean((2, 3))
    return features.mean(1) if features.ndim == 3 else features  # (B, tokens, D)


def load_model_encoder(
    model_name_or_path: str,
    *,
    random_init: bool = False,
    seed: int = 0,
    device: str = "cpu",
    precision: Precision = "no",
    trust_remote_code: bool = False,
) -> ModelEncoder:
    """Load a vision or image-text model, or initialise its architecture randomly.

    Missing weights outside the image tower, such as a text tower, are ignored. A pooler missing
    from the checkpoint is removed rather than used untrained.

    Args:
        model_name_or_path: Hub id or folder: UrbanLN, CLIP, SigLIP, ViT, DINO, ConvNeXt, timm...
        random_init: Whether to read only the configuration and initialise the weights randomly.
        seed: Seed of the random initialisation.
        device: Device of the model.
        precision: Precision of the forward pass.
        trust_remote_code: Whether to run code that comes with the checkpoint.

    Raises:
        InputError: If there is no such checkpoint, its model does not take images, or weights of
            its image tower are missing.
    """
    import modeling_urbanln  # noqa: F401 - registers the auto classes

    name = model_name_or_path
    config, image_processor = _read_configuration(name, trust_remote_code)
    model, missing = _read_model(name, config, trust_remote_code, seed if random_init else None)
    if "pixel_values" not in inspect.signature(_image_function(model)).parameters:
        raise InputError(
            f"{name!r} is a {type(model).__name__}, which takes {model.main_input_name}, not "
            f"images. {ADVICE}"
        )
    model = model.float().to(device).eval()
    title = f"{Path(name).name} ({type(model).__name__})"
    try:
        encoder = ModelEncoder(model, image_processor, title, random_init, precision)
    except Exception as error:  # models raise various types for a missing input
        said = _one_line(str(error))
        raise InputError(f"{name!r} cannot encode images: {said}. {ADVICE}") from error
    _check_complete(encoder, missing, name)
    return encoder


def _read_configuration(name: str, trust_remote_code: bool) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoImageProcessor

    kind = ""
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        kind = f" (model_type {config.model_type})"
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers does not validate the JSON files
        said = _one_line(explain(error, name) or str(error))
        raise InputError(f"No usable checkpoint at {name!r}{kind}: {said}. {ADVICE}") from error
    if hasattr(config, "mask_ratio"):
        config.mask_ratio = 0.0  # masked autoencoders mask random patches also in inference
    return config, processor


def _one_line(message: str) -> str:
    return " ".join(message.split()).rstrip(".")


def _read_model(
    name: str, config: Any, trust_remote_code: bool, seed: int | None
) -> tuple[Any, list[str]]:
    """Model and missing weights of its checkpoint; with a seed, a randomly initialised model."""
    from transformers import set_seed

    try:
        auto_class = _auto_class(config)
        if seed is not None:
            set_seed(seed)
            return auto_class.from_config(config, trust_remote_code=trust_remote_code), []
        model, report = auto_class.from_pretrained(
            name, config=config, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except MemoryError:
        raise
    except Exception as error:
        said = explain(error, name) or f"{type(error).__name__}: {error}"
        raise InputError(f"The weights of {name!r} cannot be loaded: {said}") from error
    missing = sorted(report["missing_keys"])
    if any(key.startswith("pooler.") for key in missing):
        model.pooler = None
        missing = [key for key in missing if not key.startswith("pooler.")]
    return model, missing


def _auto_class(config: Any) -> Any:
    """`AutoModel`, or the only auto class that the checkpoint's own code registers.

    For example, FG-CLIP 2 registers only `AutoModelForCausalLM`.
    """
    import transformers

    own = [name for name in getattr(config, "auto_map", None) or {} if name.startswith("AutoModel")]
    if not own or "AutoModel" in own or type(config) in transformers.MODEL_MAPPING:
        return transformers.AutoModel
    return getattr(transformers, own[0], transformers.AutoModel)


def _check_complete(encoder: ModelEncoder, missing: list[str], name: str) -> None:
    """Raise an error if weights of the image tower were randomly initialised."""
    used = _modules_an_image_passes(encoder) if missing else set()
    # "" is the model itself
    gone = [key for key in missing if any(key.startswith(f"{m}." if m else "") for m in used)]
    if gone:
        raise InputError(
            f"{name!r} is not a complete {type(encoder.model).__name__}: {len(gone)} weights of "
            f"the image tower are missing ({', '.join(gone[:3])}...). Pass the folder of a "
            "finished model."
        )


def _modules_an_image_passes(encoder: ModelEncoder) -> set[str]:
    """Names of the modules whose `forward` is called for an image."""
    used: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: used.add(name))
        for name, module in encoder.model.named_modules()
    ]
    encoder.encode(encoder.prepare(PROBE)[None])
    for hook in hooks:
        hook.remove()
    return used


def _fingerprint(model: Any, image_processor: Any, precision: str) -> str:
    state = model.state_dict().items()
    return fingerprint(
        f"{image_processor.to_json_string()}{precision}",
        {key: value for key, value in state if not key.startswith(TEXT_SIDE)},
    )


__all__ = ["ModelEncoder", "load_model_encoder"]
