"""GeoCLIP's location encoder: random Fourier features of a projected place at three scales.

Vivanco Cepeda et al. 2023, https://arxiv.org/abs/2309.16020, section 3.2; UrbanVLP uses it.
"""

import math

import torch
from torch import nn

# coefficients of the Equal Earth projection (Savric, Patterson and Jenny 2019)
A1, A2, A3, A4 = 1.340264, -0.081106, 0.000893, 0.003796
SCALE = 66.50336 / 180  # of GeoCLIP: x and y lie within about -1 to 1
SIGMAS = (1.0, 16.0, 256.0)
NUM_FREQUENCIES = 256


def equal_earth(lonlat: torch.Tensor) -> torch.Tensor:
    """Project longitude and latitude to a plane where areas are equal.

    Args:
        lonlat: `(N, 2)` degrees.

    Returns:
        `(N, 2)`, x to the east and y to the north, within about -1 to 1.
    """
    lon, lat = torch.deg2rad(lonlat).unbind(dim=1)
    theta = torch.asin(math.sqrt(3) / 2 * torch.sin(lat))
    stretch = 9 * A4 * theta**8 + 7 * A3 * theta**6 + 3 * A2 * theta**2 + A1
    x = 2 * math.sqrt(3) / 3 * lon * torch.cos(theta) / stretch
    y = A4 * theta**9 + A3 * theta**7 + A2 * theta**3 + A1 * theta
    return SCALE * torch.stack([x, y], dim=1)


class FourierFeatures(nn.Module):
    """`[cos(2 pi B v), sin(2 pi B v)]` with B drawn once from a normal distribution.

    Args:
        sigma: deviation of B: large ones tell near places apart.
    """

    frequencies: torch.Tensor

    def __init__(self, sigma: float):
        super().__init__()
        self.register_buffer("frequencies", sigma * torch.randn(NUM_FREQUENCIES, 2))

    def forward(self, places: torch.Tensor) -> torch.Tensor:
        """`(N, 2)` to `(N, 512)`."""
        angles = 2 * math.pi * places @ self.frequencies.T
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class LocationEncoder(nn.Module):
    """The sum of three capsules, one a scale.

    Args:
        dim: of the result.
        width: of a capsule's three hidden layers; GeoCLIP has 1,024.
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
        """`(N, 2)` degrees, float64 for the sake of metres, to `(N, dim)` float32."""
        places = equal_earth(lonlat).float()
        return torch.stack([capsule(places) for capsule in self.capsules]).sum(dim=0)


__all__ = ["SIGMAS", "FourierFeatures", "LocationEncoder", "equal_earth"]
