"""Shared parts of the trained systems: provenance, seeding, training loop, encoding of images."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from tqdm import trange
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from dataset_builders.files import digest, files_fingerprint

from ..embed.tables import mean_by_region
from ..errors import InputError
from .base import Provenance, RegionData
from .sampling import view_of

ENCODE_BATCH = 128
IMAGENET = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
CLIP = OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

T = TypeVar("T")
Network = TypeVar("Network", bound=nn.Module)


class TrainedSystem:
    """Base class of the systems; a subclass adds `fit`, and `encode`, which raises before `fit`.

    Args:
        settings: Settings of the system.
        seed: Seed of weights, samples and augmentation.
        device: Device of the models.
        name: Name in tables.
        differs: Differences from the source, see [`Provenance`].
        uses: Inputs, see [`Provenance`].
    """

    version: ClassVar[str]  # part of the fingerprint; changes with the vectors
    source: ClassVar[str]
    moments: ClassVar[tuple[Sequence[float], Sequence[float]]] = IMAGENET

    def __init__(
        self,
        settings: Any,
        seed: int,
        device: str,
        name: str,
        differs: Iterable[str],
        uses: Iterable[str],
    ):
        self.settings, self.seed, self.device, self.name = settings, seed, device, name
        weights = settings.model_name_or_path
        folder = weights and Path(weights).is_dir() and Path(weights).iterdir()
        files = files_fingerprint(path for path in folder if path.is_file()) if folder else None
        self.fingerprint = digest(self.version, asdict(settings), files or digest(weights), seed)
        self.provenance = Provenance(self.source, tuple(differs), frozenset(uses), weights)

    def seeded(self, build: Callable[[], Network], offset: int = 0) -> Network:
        """Build a network from the seed, without changing torch's global generator."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + offset)
            return build().to(self.device)

    def fitted(self, network: T | None) -> T:
        """Check that a network is trained.

        Raises:
            InputError: It is not.
        """
        if not network:
            raise InputError(f"{self.name} is not fitted: call fit first.")
        return network

    def pixel_values(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        """Images `(B, S, S, 3)` as input of the network, `(B, 3, image_size, image_size)`."""
        return pixel_values(pixels, self.settings.image_size, self.device, self.moments)

    @torch.inference_mode()
    def encode_view(
        self, encode: Callable[[torch.Tensor], torch.Tensor], data: RegionData, view: str
    ) -> NDArray[np.float32]:
        """Mean vector of each region's images of a view, `(N, D)`; NaN without images."""
        images = view_of(data, view, self.name)
        vectors = [
            encode(self.pixel_values(images.pixels[start : start + ENCODE_BATCH])).float().cpu()
            for start in range(0, len(images), ENCODE_BATCH)
        ]
        return mean_by_region(torch.cat(vectors).numpy(), images.region, len(data.region_ids))


def pixel_values(
    pixels: NDArray[np.uint8],
    size: int,
    device: str | torch.device,
    moments: tuple[Sequence[float], Sequence[float]] = CLIP,
) -> torch.Tensor:
    """Resize and normalise images.

    Args:
        pixels: Images, `(B, S, S, 3)`, uint8.
        size: Side length of the result, in pixels.
        device: Device of the result.
        moments: Mean and standard deviation of each channel.

    Returns:
        Normalised images, `(B, 3, size, size)`.
    """
    images = torch.from_numpy(np.array(pixels)).to(device).permute(0, 3, 1, 2).float() / 255
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in moments)
    return (images - mean) / std


def train(
    network: nn.Module,
    loss: Callable[[int], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    num_steps: int,
    name: str,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> list[float]:
    """Train in place.

    Args:
        network: Network, left in eval mode.
        loss: Draws the batch of a step and returns its loss.
        optimizer: Optimiser of the network's parameters.
        num_steps: Number of batches.
        name: Name on the progress bar.
        scheduler: Learning rate scheduler, stepped after every batch.

    Returns:
        Loss of each step.

    Raises:
        InputError: The loss is not finite.
    """
    network.train()
    losses = []
    for step in trange(num_steps, desc=name, unit="step", disable=None):
        value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(value.item())
        if not math.isfinite(losses[-1]):
            raise InputError(
                f"The loss of {name} became {losses[-1]} at step {step}: lower learning_rate in "
                "its recipe."
            )
    network.eval()
    return losses


def num_steps(num_regions: int, epochs: int, batch_size: int) -> int:
    """Number of batches in some epochs, at least one per epoch."""
    return epochs * max(1, round(num_regions / batch_size))


__all__ = ["CLIP", "TrainedSystem", "num_steps", "pixel_values", "train"]
