"""GeoCLIP's location encoder: random Fourier features of projected coordinates at three scales.

Vivanco Cepeda et al. 2023, https://arxiv.org/abs/2309.16020, section 3.2. Its weights were trained
to match photos worldwide to their coordinates, so it serves as a location-only control. They come
with the Python package `geoclip` (MIT); their SHA-256 is checked and the package is not imported.
"""

import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from ..errors import InputError
from .weights import fingerprint, read_weights

# coefficients of the Equal Earth projection (Savric, Patterson and Jenny 2019)
A1, A2, A3, A4 = 1.340264, -0.081106, 0.000893, 0.003796
SCALE = 66.50336  # GeoCLIP's: SCALE / 180 maps x and y to about -1 to 1
SIGMAS = (1.0, 16.0, 256.0)
NUM_FREQUENCIES = 256
DIM, WIDTH = 512, 1024  # of the trained encoder
SHA256 = "94b80ae3af89fca78539e129dd2929d321247f5ceeeb0a31bc2c31041a253394"
PLACES_AT_ONCE = 4096


def equal_earth(lonlat: torch.Tensor) -> torch.Tensor:
    """Project longitude and latitude by the Equal Earth projection.

    Args:
        lonlat: Longitudes and latitudes of shape `(N, 2)`, in degrees.

    Returns:
        Eastings and northings of shape `(N, 2)`, within about -1 to 1.
    """
    # GeoCLIP's order of operations: in float32, another order changes the highest frequencies
    lon, lat = torch.deg2rad(lonlat).unbind(dim=1)
    root = math.sqrt(3)
    theta = torch.asin(root / 2 * torch.sin(lat))
    stretch = 3 * (9 * A4 * theta**8 + 7 * A3 * theta**6 + 3 * A2 * theta**2 + A1)
    x = 2 * root * lon * torch.cos(theta) / stretch
    y = A4 * theta**9 + A3 * theta**7 + A2 * theta**3 + A1 * theta
    return torch.stack([x, y], dim=1) * SCALE / 180


class FourierFeatures(nn.Module):
    """`[cos(2 pi B v), sin(2 pi B v)]` with B sampled from a normal distribution.

    Args:
        sigma: Standard deviation of B; larger values resolve smaller distances.
    """

    frequencies: torch.Tensor

    def __init__(self, sigma: float):
        super().__init__()
        self.register_buffer("frequencies", sigma * torch.randn(NUM_FREQUENCIES, 2))

    def forward(self, places: torch.Tensor) -> torch.Tensor:
        """Map `(N, 2)` to `(N, 512)`."""
        angles = 2 * math.pi * places @ self.frequencies.T
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class LocationEncoder(nn.Module):
    """Sum of three MLPs, one per scale.

    Args:
        dim: Embedding dimension.
        width: Width of the three hidden layers; 1,024 in GeoCLIP.
    """

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.capsules = nn.ModuleList(
            nn.Sequential(
                FourierFeatures(sigma),
                nn.Linear(2 * NUM_FREQUENCIES, width),
                nn.ReLU(),
                nn.Linear(width, width),
                nn.ReLU(),
                nn.Linear(width, width),
                nn.ReLU(),
                nn.Linear(width, dim),
            )
            for sigma in SIGMAS
        )

    def forward(self, lonlat: torch.Tensor) -> torch.Tensor:
        """Encode `(N, 2)` longitudes and latitudes in degrees to `(N, dim)` float32.

        The trained weights expect float32, as in GeoCLIP's training.
        """
        places = equal_earth(lonlat).float()
        return torch.stack([capsule(places) for capsule in self.capsules]).sum(dim=0)


def load_location_encoder() -> LocationEncoder:
    """Load the encoder with GeoCLIP's weights, in evaluation mode.

    Raises:
        InputError: If the package `geoclip` is not installed, or the SHA-256 of its weights
            differs.
    """
    published = read_weights(_weights_path(), SHA256, 'Reinstall it: pip install -e ".[geoclip]"')
    encoder = LocationEncoder(DIM, WIDTH)
    encoder.load_state_dict({_our_name(name): value for name, value in published.items()})
    return encoder.eval()


@torch.inference_mode()
def encode_places(
    lon: ArrayLike, lat: ArrayLike, device: str = "cpu"
) -> tuple[NDArray[np.float32], str]:
    """Encode locations by GeoCLIP's location encoder.

    Args:
        lon: Longitudes of shape `(N,)`, WGS 84, in degrees.
        lat: Latitudes of shape `(N,)`, WGS 84, in degrees.
        device: Device of the encoder.

    Returns:
        Embeddings of shape `(N, 512)`, and the fingerprint of the weights.

    Raises:
        InputError: See [`load_location_encoder`].
    """
    encoder = load_location_encoder().to(device)
    lonlat = torch.as_tensor(np.stack([lon, lat], axis=1), dtype=torch.float32, device=device)
    vectors = torch.cat([encoder(places) for places in lonlat.split(PLACES_AT_ONCE)])
    return vectors.cpu().numpy(), fingerprint("geoclip-location-1", encoder.state_dict())


def _weights_path() -> Path:
    # without importing the package, which imports its training dependencies
    package = find_spec("geoclip")
    for folder in (package.submodule_search_locations or ()) if package else ():
        path = Path(folder) / "model" / "weights" / "location_encoder_weights.pth"
        if path.is_file():
            return path
    raise InputError(
        "GeoCLIP's location encoder needs the optional extra `geoclip`: "
        'pip install -e ".[geoclip]"'
    )


def _our_name(name: str) -> str:
    """Map `LocEnc0.capsule.1.weight` to `capsules.0.1.weight`, and the head to layer 7."""
    scale, part, *rest = name.removeprefix("LocEnc").split(".")
    if part == "head":
        return f"capsules.{scale}.7.{rest[-1]}"
    return f"capsules.{scale}.{rest[0]}.{'frequencies' if rest[1] == 'b' else rest[1]}"


__all__ = [
    "SIGMAS",
    "FourierFeatures",
    "LocationEncoder",
    "encode_places",
    "equal_earth",
    "load_location_encoder",
]
