"""Models of the transformers library as image encoders."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dataset_builders.hub_errors import explain

from ..errors import InputError
from . import Precision


class ModelEncoder:
    """The image tower of a checkpoint with `get_image_features`: projected, not normalised.

    Args:
        model: in eval mode, on its device.
        image_processor: the checkpoint's own.
        name: for the table's metadata.
        random_init: its weights are drawn, not trained.
        precision: of the forward pass.
    """

    pooling = "image_features"

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
        self.dim = int(self.encode(self.prepare(Image.new("RGB", (64, 64)))[None]).shape[1])
        self.fingerprint = _fingerprint(model, image_processor, precision)

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """`pixel_values` of one image, `(3, height, width)`."""
        return self.image_processor(images=image, return_tensors="pt")["pixel_values"][0]

    @torch.inference_mode()
    def encode(self, batch: torch.Tensor) -> NDArray[np.float32]:
        """Image features of `(B, 3, height, width)`."""
        pixel_values = batch.to(self.device, non_blocking=True)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        with torch.autocast(self.device.type, dtype=dtype, enabled=self.precision != "no"):
            features = self.model.get_image_features(pixel_values=pixel_values)
        pooled = features if isinstance(features, torch.Tensor) else features.pooler_output
        return pooled.float().cpu().numpy()


def load_model_encoder(
    model_name_or_path: str,
    *,
    random_init: bool = False,
    seed: int = 0,
    device: str = "cpu",
    precision: Precision = "no",
    trust_remote_code: bool = False,
) -> ModelEncoder:
    """Load a checkpoint, or draw weights for its architecture.

    Args:
        model_name_or_path: Hub id or folder: UrbanLN, CLIP, or another model of the library with
            `get_image_features`.
        random_init: take the configuration only.
        seed: of the drawn weights.
        device: where it runs.
        precision: of the forward pass.
        trust_remote_code: run code that comes with the checkpoint.

    Raises:
        InputError: there is no such checkpoint, it is of another architecture, or weights of its
            image tower are missing.
    """
    import transformers

    import modeling_urbanln  # noqa: F401 - registers the auto classes

    try:
        config = transformers.AutoConfig.from_pretrained(
            model_name_or_path, trust_remote_code=trust_remote_code
        )
        image_processor = transformers.AutoImageProcessor.from_pretrained(
            model_name_or_path, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"No usable checkpoint at {model_name_or_path!r} (--model_name_or_path): "
            f"{explain(error, model_name_or_path) or error}"
        ) from error
    if random_init:
        transformers.set_seed(seed)
        model = transformers.AutoModel.from_config(config, trust_remote_code=trust_remote_code)
        _check_architecture(model, model_name_or_path)
    else:
        model = _load_weights(model_name_or_path, trust_remote_code)
    name = f"{Path(model_name_or_path).name} ({type(model).__name__})"
    model = model.float().to(device).eval()
    return ModelEncoder(model, image_processor, name, random_init, precision)


def _load_weights(name: str, trust_remote_code: bool) -> Any:
    import transformers

    try:
        model, report = transformers.AutoModel.from_pretrained(
            name, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except Exception as error:
        said = explain(error, name)
        if said is None and not isinstance(error, OSError | ValueError | RuntimeError):
            raise
        raise InputError(f"The weights of {name!r} do not load: {said or error}") from error
    _check_architecture(model, name)
    # the library fills gaps with random numbers and goes on: a vector must not come from those
    missing = sorted(
        key for key in report["missing_keys"] if not key.startswith(("text_model.", "text_proj"))
    )
    if missing:
        raise InputError(
            f"{name!r} is no complete {type(model).__name__}: {len(missing)} weights of the image "
            f"side are missing ({', '.join(missing[:3])}...). Is it the folder of a finished model?"
        )
    return model


def _check_architecture(model: Any, name: str) -> None:
    if not hasattr(model, "get_image_features"):
        raise InputError(
            f"{name!r} is a {type(model).__name__}, which has no get_image_features. Embedding "
            "needs UrbanLN, CLIP or another image-text model of the transformers library."
        )


def _fingerprint(model: Any, image_processor: Any, precision: str) -> str:
    sha = hashlib.sha256(f"{image_processor.to_json_string()}{precision}".encode())
    for key, value in sorted(model.state_dict().items()):
        if not key.startswith("text_model."):
            sha.update(key.encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            sha.update(flat.view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


__all__ = ["ModelEncoder", "load_model_encoder"]
