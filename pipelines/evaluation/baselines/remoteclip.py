"""RemoteCLIP: OpenAI's CLIP trained on with captions of remote sensing images (Liu et al. 2024).

https://arxiv.org/abs/2306.11029, code at ChenDelong1999/RemoteCLIP. Its weights are open_clip's;
`python -m pipelines.release convert RemoteCLIP-ViT-L-14.pt --hidden_act gelu --output_dir DIR`
makes the folder that this file reads.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from dataset_builders.files import digest
from pipelines.common.encoders.pooling import IMAGE_FEATURES
from pipelines.common.encoders.transformers_models import ModelEncoder, load_model_encoder

from ..errors import InputError
from .base import Provenance, RegionData, View
from .image_text import checkpoint_fingerprint
from .pooling import mean_by_region

BATCH = 64


@dataclass(frozen=True)
class Settings:
    """Of [`RemoteCLIP`].

    Attributes:
        model_name_or_path: converted folder or Hub id in Hugging Face form; None: a tower of the
            sizes below, drawn at random.
        image_size: side of the square image that the tower sees, pixels; a checkpoint's own.
        patch_size: of the drawn tower, pixels.
        width: of the drawn tower.
        layers: of the drawn tower.
        head_width: of the drawn tower's attention heads.
        projection_dim: of the drawn tower.
    """

    model_name_or_path: str | None = None
    image_size: int = 64
    patch_size: int = 16
    width: int = 128
    layers: int = 4
    head_width: int = 32
    projection_dim: int = 128


class RemoteCLIP:
    """A frozen image tower; a region is the mean of its images, of each view by itself.

    Args:
        settings: see [`Settings`].
        seed: of drawn weights.
        device: where it runs.
    """

    def __init__(self, settings: Settings, seed: int, device: str):
        drawn = settings.model_name_or_path is None
        self.settings, self.seed, self.device = settings, seed, device
        self.name = "remoteclip-random-weights" if drawn else "remoteclip"
        weights = seed if drawn else checkpoint_fingerprint(settings.model_name_or_path)
        self.fingerprint = digest("remoteclip-1", asdict(settings), weights)
        differs = ("A small tower with random weights, which has learnt nothing.",)
        self.provenance = Provenance(
            source="Liu et al. 2024 (arXiv 2306.11029), README of ChenDelong1999/RemoteCLIP",
            differs=differs if drawn else (),
            uses=frozenset({"satellite", "street_view"}),
            pretrained=settings.model_name_or_path,
        )
        self._encoder: ModelEncoder | None = None

    def fit(self, data: RegionData) -> None:
        """Nothing: its weights are frozen."""

    def encode(self, data: RegionData) -> dict[str, NDArray[np.float32]]:
        """Projected image features, not normalised, mean over a region's images of a view.

        Raises:
            InputError: there is no such checkpoint.
        """
        if self._encoder is None:
            self._encoder = self._load()
        return {
            name: mean_by_region(_encode(self._encoder, view), view.region, len(data.region_ids))
            for name, view in sorted(data.views.items())
            if len(view)
        }

    def _load(self) -> ModelEncoder:
        settings = self.settings
        if settings.model_name_or_path is not None:
            encoder = load_model_encoder(settings.model_name_or_path, device=self.device)
            _check_checkpoint(encoder, settings)
            return encoder
        config = CLIPConfig(
            projection_dim=settings.projection_dim,
            vision_config={
                "image_size": settings.image_size,
                "patch_size": settings.patch_size,
                "hidden_size": settings.width,
                "intermediate_size": 4 * settings.width,
                "num_hidden_layers": settings.layers,
                "num_attention_heads": settings.width // settings.head_width,
                "hidden_act": "gelu",
            },
            # no text is read
            text_config={
                "vocab_size": 2,
                "hidden_size": 8,
                "num_hidden_layers": 1,
                "bos_token_id": 0,
                "eos_token_id": 1,
                "pad_token_id": 1,
            },
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = CLIPModel(config).eval()
        model.to(torch.device(self.device))
        side = {"height": settings.image_size, "width": settings.image_size}
        processor = CLIPImageProcessor(size=side, do_center_crop=False)
        return ModelEncoder(model, processor, self.name, random_init=True)


def _check_checkpoint(encoder: ModelEncoder, settings: Settings) -> None:
    """Refuse a model without a text side, and one of another image size than the recipe's.

    Images are decoded at the recipe's size: smaller ones would be enlarged silently.
    """
    if encoder.pooling != IMAGE_FEATURES:
        raise InputError(
            f"{settings.model_name_or_path!r} is a {type(encoder.model).__name__}, not an "
            "image-text model like CLIP. For other encoders: `python evaluate.py embed --encoder "
            f"{settings.model_name_or_path}`."
        )
    vision = getattr(encoder.model.config, "vision_config", None)
    sees = getattr(vision, "image_size", settings.image_size)
    if sees != settings.image_size:
        raise InputError(
            f"{settings.model_name_or_path!r} sees images of {sees} pixels, and image_size of the "
            f"recipe is {settings.image_size}: give --settings image_size={sees}."
        )


def _encode(encoder: ModelEncoder, view: View) -> NDArray[np.float32]:
    chunks = [range(i, min(i + BATCH, len(view))) for i in range(0, len(view), BATCH)]
    return np.concatenate(
        [
            encoder.encode(
                torch.stack([encoder.prepare(Image.fromarray(view.pixels[i])) for i in chunk])
            )
            for chunk in chunks
        ]
    )


SYSTEM = RemoteCLIP

__all__ = ["SYSTEM", "RemoteCLIP", "Settings"]
