"""ResNet of the image-only baselines, and augmentation of its images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetModel

from ..errors import InputError


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
        self.resnet = (
            _pretrained(settings.model_name_or_path)
            if settings.model_name_or_path
            else ResNetModel(
                ResNetConfig(
                    embedding_size=settings.widths[0],
                    hidden_sizes=list(settings.widths),
                    depths=list(settings.depths),
                    layer_type="basic",
                )
            )
        )
        sizes: Any = self.resnet.config.hidden_sizes  # transformers types it as optional
        self.dim = int(sizes[-1])

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`(B, 3, S, S)` to `(B, dim)`."""
        return self.resnet(pixel_values).pooler_output.flatten(1)


def _pretrained(name: str) -> ResNetModel:
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


def turn_and_flip(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Apply a random symmetry of the square to each image, `(B, C, S, S)`."""
    turns, flips = rng.integers(0, 4, len(images)), rng.integers(0, 2, len(images))
    turned = torch.empty_like(images)
    for turn in range(4):
        for flip in range(2):
            rows = torch.from_numpy(np.flatnonzero((turns == turn) & (flips == flip)))
            rows = rows.to(images.device)
            some = torch.rot90(images[rows], turn, dims=(2, 3))
            turned[rows] = some.flip(3) if flip else some
    return turned


def crop_and_flip(
    images: torch.Tensor, rng: np.random.Generator, least: float = 0.08
) -> torch.Tensor:
    """Random resized crop and horizontal flip of each image, as in torchvision.

    Area shares are uniform in [least, 1], aspect ratios log-uniform in [3/4, 4/3].

    Args:
        images: Images, `(B, C, S, S)`.
        rng: Random generator.
        least: Minimum share of the area.
    """
    n = len(images)
    area = rng.uniform(least, 1.0, n)
    root = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), n) / 2)
    width, height = (np.minimum(np.sqrt(area) * side, 1.0) for side in (root, 1 / root))
    # affine map from [-1, 1]^2 to the crop
    theta = np.zeros((n, 2, 3), dtype=np.float32)
    theta[:, 0, 0] = width * np.where(rng.random(n) < 0.5, -1, 1)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = rng.uniform(-1, 1, n) * (1 - width)
    theta[:, 1, 2] = rng.uniform(-1, 1, n) * (1 - height)
    grid = F.affine_grid(
        torch.from_numpy(theta).to(images.device), list(images.shape), align_corners=False
    )
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


__all__ = ["Trunk", "TrunkSettings", "crop_and_flip", "size_differences", "turn_and_flip"]
