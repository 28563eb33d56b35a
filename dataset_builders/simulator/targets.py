"""From latents to the seven indicators: the same non-linear laws in every city, with known noise.

With d, w, g, n, l the region's mean density, wealth, greenness, industry and night life, all in
[0, 1], and s its share of land, the expected values are those of [`expected`]. Each is then
multiplied by log-normal noise of the standard deviation in [`NOISE_SD`] (natural log), and counts
are drawn from a Poisson distribution. The laws saturate (night light), have powers (gdp), products
(comments, crime) and sums of unlike sources (carbon: factories and households), so that no single
latent, and no linear function of them, gives an indicator. The ranges are those of square
kilometres of large cities; the constants are this simulator's assumptions, fitted to nothing.
"""

from collections.abc import Mapping

import numpy as np

from .seeds import generator

NOISE_SD: dict[str, float] = {
    "population": 0.18,
    "gdp": 0.25,
    "night_light": 0.15,
    "comments": 0.40,
    "carbon": 0.22,
    "crime": 0.30,
    "poi": 0.20,
}
COUNTS = ("population", "comments", "crime", "poi")


def expected(latents: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Noise-free indicators.

    Args:
        latents: density, wealth, greenness, industry, night_life and water, equal shapes.

    Returns:
        By name, in the units of `schema.INDICATORS`, of that shape.
    """
    d, w, g, n, l, water = (  # noqa: E741
        np.asarray(latents[name], dtype=np.float64)
        for name in ("density", "wealth", "greenness", "industry", "night_life", "water")
    )
    land = 1 - water
    population = 42_000 * land * d**1.7 * (1 - 0.7 * n) * (1 - 0.35 * w * d)
    jobs = d**2.2 * (0.25 + w**1.5) + 0.3 * n**1.5 * (0.4 + 0.6 * d)
    gdp = 9_000 * land * jobs + 6 * land
    light = 0.35 + 95 * land * (1 - np.exp(-(1.1 * d**1.4 + 1.5 * l * d + 0.55 * n**1.2)))
    comments = 42_000 * land * l**1.8 * d**0.6 * (0.3 + 0.7 * w)
    carbon = land * (95_000 * n**1.6 * (0.5 + d) + 1.1 * population * (0.7 + w)) + 250 * land
    crime = 620 * land * d**0.9 * (0.15 + l**1.2) * np.exp(-1.9 * w) * (1 - 0.35 * g)
    poi = 780 * land * d**0.8 * (0.12 + 0.88 * l**0.9) + 40 * land * n + 3 * land
    return {
        "population": population,
        "gdp": gdp,
        "night_light": light,
        "comments": comments,
        "carbon": carbon,
        "crime": crime,
        "poi": poi,
    }


def draw(latents: Mapping[str, np.ndarray], seed: int, city: str) -> dict[str, np.ndarray]:
    """Indicators as observed: [`expected`] with its noise; counts are whole numbers."""
    values = {}
    for name, mean in expected(latents).items():
        rng = generator(seed, city, "indicator", name)
        sd = NOISE_SD[name]
        noisy = mean * np.exp(rng.normal(-(sd**2) / 2, sd, mean.shape))
        if name in COUNTS:
            noisy = rng.poisson(noisy).astype(np.float64)
        values[name] = np.round(noisy, 3)
    return values


__all__ = ["COUNTS", "NOISE_SD", "draw", "expected"]
