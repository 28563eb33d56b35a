"""Training loop and augmentation of the image-only baselines."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import trange

from ..errors import InputError


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


__all__ = ["crop_and_flip", "num_steps", "train", "turn_and_flip"]
