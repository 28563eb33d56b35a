"""ResNet trunk of the image-only baselines."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import ResNetConfig, ResNetModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..embed.tables import mean_by_region
from ..errors import InputError
from . import image_text
from .base import RegionData, View

ENCODE_BATCH = 128


@dataclass(frozen=True)
class TrunkSettings:
    """Settings of the ResNet.

    Attributes:
        model_name_or_path: Hub id or folder of a ResNet. None: random initialisation at the sizes
            below.
        image_size: Side length of input images, in pixels.
        widths: Channels of each stage, the last being the vector dimension; (64, 128, 256, 512)
            is ResNet-18.
        depths: Number of basic blocks in each stage; (2, 2, 2, 2) is ResNet-18.
    """

    model_name_or_path: str | None = None
    image_size: int = 64
    widths: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 2, 2)

    def __post_init__(self) -> None:
        """Validate the settings."""
        if len(self.widths) != len(self.depths) or not self.widths:
            raise InputError(
                f"widths and depths need one number per stage, got {self.widths} and {self.depths}."
            )
        if min(*self.widths, *self.depths, self.image_size) < 1:
            raise InputError(
                "widths, depths and image_size must be 1 or more, got "
                f"{self.widths}, {self.depths} and {self.image_size}."
            )


RESNET_18 = TrunkSettings(image_size=224)


def size_differences(settings: TrunkSettings) -> tuple[str, ...]:
    """Differences from ResNet-18 at 224 pixels, for [`Provenance`]."""
    differs = []
    if settings.image_size != RESNET_18.image_size:
        differs.append(f"images of {settings.image_size} pixels, not {RESNET_18.image_size}")
    shape = (settings.widths, settings.depths)
    if settings.model_name_or_path is None and shape != (RESNET_18.widths, RESNET_18.depths):
        differs.append(f"a ResNet of widths {shape[0]} and depths {shape[1]}, not ResNet-18")
    return (f"Another size: {'; '.join(differs)}.",) if differs else ()


class Trunk(nn.Module):
    """ResNet without classifier; random initialisation uses torch's global generator.

    Args:
        settings: Settings of the ResNet.

    Attributes:
        dim: Vector dimension.

    Raises:
        InputError: The checkpoint does not exist.
    """

    def __init__(self, settings: TrunkSettings):
        super().__init__()
        self.resnet = _pretrained(settings) if settings.model_name_or_path else _drawn(settings)
        self.image_size = settings.image_size
        sizes: Any = self.resnet.config.hidden_sizes  # transformers types it as optional
        self.dim = int(sizes[-1])

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`(B, 3, S, S)` to `(B, dim)`."""
        return self.resnet(pixel_values).pooler_output.flatten(1)


def _drawn(settings: TrunkSettings) -> ResNetModel:
    return ResNetModel(
        ResNetConfig(
            embedding_size=settings.widths[0],
            hidden_sizes=list(settings.widths),
            depths=list(settings.depths),
            layer_type="basic",
        )
    )


def _pretrained(settings: TrunkSettings) -> ResNetModel:
    name = settings.model_name_or_path
    loader: Any = ResNetModel.from_pretrained  # its type omits the loading report
    try:
        model, report = loader(name, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No ResNet at {name!r} (model_name_or_path of the recipe): {error} Offline, use "
            "--settings model_name_or_path=FOLDER, or --size cpu, which needs no checkpoint."
        ) from error
    # transformers initialises missing weights randomly
    if report["missing_keys"]:
        missing = len(report["missing_keys"])
        raise InputError(f"{name!r} is an incomplete ResNet: {missing} weights are missing.")
    return model


def pixel_values(pixels: NDArray[np.uint8], size: int, device: str | torch.device) -> torch.Tensor:
    """Resize and normalise uint8 images `(B, S, S, 3)` for a ResNet, `(B, 3, size, size)`."""
    moments = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return image_text.pixel_values(pixels, size, device, *moments)


@torch.inference_mode()
def encode_images(network: nn.Module, view: View, image_size: int) -> NDArray[np.float32]:
    """Vectors of a view's images, `(M, D)`.

    Args:
        network: Image encoder; set to eval mode.
        view: Images, at least one.
        image_size: Side length of the network's input, in pixels.
    """
    network.eval()
    device = next(network.parameters()).device
    chunks = range(0, len(view), ENCODE_BATCH)
    vectors = [
        network(pixel_values(view.pixels[start : start + ENCODE_BATCH], image_size, device))
        for start in chunks
    ]
    return torch.cat(vectors).float().cpu().numpy()


def encode_regions(
    network: nn.Module, data: RegionData, view: str, image_size: int
) -> NDArray[np.float32]:
    """Mean vector of each region's images of a view, `(N, D)`; NaN without images."""
    images = data.views[view]
    vectors = encode_images(network, images, image_size)
    return mean_by_region(vectors, images.region, len(data.region_ids))


__all__ = [
    "Trunk",
    "TrunkSettings",
    "encode_images",
    "encode_regions",
    "pixel_values",
    "size_differences",
]
