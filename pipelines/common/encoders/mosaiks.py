"""Random convolutional features of image patches (MOSAIKS).

Ridge regression on such untrained features of satellite images came close to a trained CNN for
population, income, forest cover and other indicators (Rolf et al. 2021,
doi:10.1038/s41467-021-24638-z). Small patches of photographs are normalised, whitened and convolved
with the image; features are the means of the positive and of the negative part of each response.

Normalisation, whitening and both signs follow the authors' code
(github.com/Global-Policy-Lab/mosaiks-paper). Differences:

- Patches come from the two sample photographs of scikit-learn instead of the study's images, so
  that features depend on the image only and are comparable between cities.
- Patches have 6 x 6 pixels of a 128 x 128 image instead of 3 x 3 of 256 x 256, at stride 2.
- 512 patches instead of 4,096, suited to a few thousand regions.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import conv2d

from . import Precision
from .weights import autocast

VERSION = 1
SIDE, PATCH_SIDE, STRIDE = 128, 6, 2  # pixels
PATCHES = 512
CANDIDATES = 20_000  # patches to estimate the whitening
REGULARISATION = 1e-3  # added to the eigenvalues
CONVOLVED_AT_ONCE = 8  # images; their responses take 8 MB each


class MosaiksEncoder:
    """Mean positive and negative response of an image to 512 random patches.

    Args:
        seed: Seed of the patches.
        device: Device of the convolution.
        precision: Precision of the convolution.
    """

    name = "mosaiks"
    dim = 2 * PATCHES
    random_init = False
    pooling = "mean"

    def __init__(self, seed: int = 0, device: str = "cpu", precision: Precision = "no"):
        self.precision, self.device = precision, torch.device(device)
        self.fingerprint = f"mosaiks-{VERSION}-{seed}-{precision}"
        self.patches = torch.from_numpy(random_patches(seed)).to(self.device)

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Convert an RGB image to a tensor of shape `(3, 128, 128)` with values in 0..1."""
        small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
        return torch.from_numpy(np.asarray(small, np.float32) / 255).permute(2, 0, 1)

    @torch.inference_mode()
    def encode(self, batch: torch.Tensor) -> NDArray[np.float32]:
        """Encode images of shape `(batch_size, 3, 128, 128)` to `(batch_size, 1024)`."""
        parts = [self._features(part) for part in batch.split(CONVOLVED_AT_ONCE)]
        return torch.cat(parts).cpu().numpy()

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        with autocast(self.device.type, self.precision):
            response = conv2d(images.to(self.device), self.patches, stride=STRIDE)
        response = response.float()  # (B, 512, 62, 62)
        mean = response.mean((2, 3))
        positive = response.clamp_(min=0).mean((2, 3))
        return torch.cat([positive, positive - mean], dim=1)


def load(*, seed: int, device: str, precision: Precision, **_: object) -> MosaiksEncoder:
    """Create the encoder with patches sampled from the seed."""
    return MosaiksEncoder(seed, device, precision)


def random_patches(seed: int) -> NDArray[np.float32]:
    """Whitened patches of scikit-learn's sample photographs.

    Args:
        seed: Seed of the sampled positions.

    Returns:
        Filters of shape `(512, 3, 6, 6)`.
    """
    patches = _draw(np.random.default_rng(seed)).reshape(CANDIDATES, -1)
    patches -= patches.mean(1, keepdims=True)
    norms = np.linalg.norm(patches, axis=1, keepdims=True)
    patches /= np.where(norms > 1e-8, norms, 1)
    values, vectors = np.linalg.eigh(patches.T @ patches / CANDIDATES)
    # whitening applied twice: to the patches and to the images they are convolved with
    whitening = (vectors / (values + REGULARISATION)) @ vectors.T
    filters = patches[:PATCHES] @ whitening
    shape = (PATCHES, PATCH_SIDE, PATCH_SIDE, 3)
    return filters.reshape(shape).transpose(0, 3, 1, 2).astype(np.float32).copy()


def _draw(rng: np.random.Generator) -> NDArray[np.float64]:
    """Sample `(CANDIDATES, 6, 6, 3)` patches in 0..1, half per photograph, in random order."""
    from sklearn.datasets import load_sample_images

    parts = []
    for photograph in load_sample_images().images:
        height, width = photograph.shape[:2]
        size = (round(SIDE * width / height), SIDE)
        pixels = np.asarray(Image.fromarray(photograph).resize(size), np.float64) / 255
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (PATCH_SIDE, PATCH_SIDE, 3))
        windows = windows.reshape(-1, PATCH_SIDE, PATCH_SIDE, 3)
        parts.append(windows[rng.choice(len(windows), CANDIDATES // 2)])
    return rng.permutation(np.concatenate(parts))


__all__ = ["MosaiksEncoder", "load", "random_patches"]
