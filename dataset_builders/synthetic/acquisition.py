"""Image acquisition: sun, season, haze and sensor of tiles; weather and camera of street views.

Acquisition is drawn from the seed and the location, independently of the latents, and so carries no
information about the indicators. Image content, facts and captions have their own generators and
do not depend on it. All ranges were fixed before any experiment; [A] marks assumptions without a
published value.

- Dates within one mosaic range from July to November: metadata of NAIP tiles m_4010421_ne (2011),
  m_4107435_ne (2019), m_3210503_sw (2018), https://naipeuwest.blob.core.windows.net/naip/v002.
- Sun above 30 degrees: survey of mapping agencies,
  https://goobi.tib.eu/viewer/!fulltext/1049147073/424.
- Visible greenery differs by half between seasons: Zhao et al. 2025,
  https://ual.sg/publication/2025-ceus-svi-seasonality.
- Aerosol optical depth and Angstrom exponent: doi:10.3878/j.issn.1006-9585.2011.10034; standard
  deviations of the depth and of the visual range: [A].
- Colour differences within mosaics: causes in De Carvalho et al. 2013, doi:10.3390/rs5062763; size
  [A], bounded by the common colour augmentation of 0.8 to 1.2.
- Reflectance of roofs: Parker et al. 2000, FSEC-CR-670-00; pixel values are 255 rho^(1/2.2).
- Visual range: Koschmieder's law at a contrast of 2 %, https://glossary.ametsoc.org.
- White balance errors: Afifi et al. 2019, arXiv:1912.06960; differences between cameras: INTEL-TAU,
  arXiv:1910.10404. Size of both, and all other differences between cameras: [A].
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .roadside import LEAVES, WITHERED
from .styles import Colour, Style
from .world import CELL_KM, Floats, World

Acquisition = Literal["realistic", "plain"]
Pixels = NDArray[np.uint8]
Channels = tuple[float, ...]

SCENE_KM2 = 16.0  # [A]; smaller than the blocks of the splits, so that scenes do not identify them
DRIVE_CELLS = 3  # [A]: side, in regions, of the square that a camera car covers in a drive
# IDs of random streams, larger than any column of a grid
PLACES, OVERPASS, TILE, DRIVE, VIEW = range(10_041, 10_046)
LOWEST_SUN = 30.0  # degrees
NOON_HOURS = 2.0  # maximum difference from solar noon
CHANNEL_NM = np.array([660.0, 550.0, 480.0])
AIRLIGHT = np.array([190.0, 200.0, 215.0])
MID_GREY = 128.0
EVERGREEN_LATITUDE, LEAFLESS_LATITUDE = 20.0, 40.0  # [A]: no seasons, and full seasons
MIDDLES = {"spring": 105, "summer": 196, "autumn": 288, "winter": 15}  # days of the year
# [A], in the order of MIDDLES: opacity of crowns, and withering of lawns
CROWN_COVER, WITHER = (0.85, 1.0, 0.85, 0.55), (0.0, 0.2, 0.3, 0.8)
# red tile, dark, brown and white shingle, aluminium; bitumen, gravel, aluminium, membrane
PITCHED = ((186, 124, 102), (104, 101, 98), (140, 119, 100), (150, 147, 143), (192, 195, 196))
FLAT = ((104, 101, 98), (126, 123, 118), (192, 195, 196), (224, 224, 220))
KELVIN = {"clear": (5000, 6500), "overcast": (6500, 8000), "evening": (3000, 4000)}
DAYLIGHT_KELVIN = 6500.0
MIST_CHANCE, MIST_KM = 0.1, (1.0, 4.0)  # [A]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Overpass:
    """Flight or orbit that captures many tiles at the same time with the same sensor."""

    number: int  # index of the overpass in the city
    day: int  # day of the year, from 1
    elevation: float  # elevation of the sun in degrees
    azimuth: float  # azimuth of the sun in degrees clockwise from north
    aerosol: float  # aerosol optical depth at 550 nm
    angstrom: float  # Angstrom exponent, by which the depth decreases with the wavelength
    gain: Channels  # gain of the sensor per channel
    contrast: float  # contrast of the sensor, relative to mid-grey
    # residual gain of a tile relative to the overpass, per channel
    tile_gain: Channels = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Shot:
    """Light, weather and camera of a street view."""

    light: Channels  # residual colour cast after white balance, per channel
    visibility_km: float
    exposure: float  # exposure error in stops
    vignette: float  # light fall-off in the corners as a share
    blur: float  # blur radius in pixels
    noise: float  # standard deviation of the noise on a scale of 0 to 255
    saturation: float
    gamma: float  # exponent of the tone curve
    quality: int  # JPEG quality


def draw_overpass(world: World, column: float, row: float) -> Overpass:
    """Overpass of a region's tile.

    The overpasses divide the city into Voronoi cells, one per `SCENE_KM2` on average. A tile has
    the overpass of its centre, so there are no seams within a tile.
    """
    count = max(1, round(world.extent_km**2 / SCENE_KM2))
    places = _rng(world, PLACES).uniform(0, world.extent_km, (count, 2))
    centre = (np.array([column, row]) + 0.5) * CELL_KM
    number = int(np.argmin(np.linalg.norm(places - centre, axis=1)))
    rng = _rng(world, OVERPASS, number)
    day, elevation, azimuth = _sun(rng, world.style.lat)
    gain = _normal(rng, 1.0, 0.10) * np.exp(_normal(rng, 0.0, [0.05, 0, 0.05]))
    return Overpass(
        number=number,
        day=day,
        elevation=elevation,
        azimuth=azimuth,
        aerosol=float(np.clip(rng.lognormal(np.log(0.2), 0.6), 0.05, 1.0)),
        angstrom=float(_normal(rng, 1.2, 0.2)),
        gain=tuple(gain.tolist()),
        contrast=rng.uniform(0.85, 1.15),
        tile_gain=tuple(
            _normal(_rng(world, TILE, int(column), int(row)), 1.0, [0.02] * 3).tolist()
        ),
    )


def draw_shot(world: World, column: int, row: int, view: int, sky: str) -> Shot:
    """Shot of a street view, with the camera of its drive and the light of its sky."""
    rng = _rng(world, VIEW, column, row, view)
    cast = _black_body(rng.uniform(*KELVIN[sky])) / _black_body(DAYLIGHT_KELVIN)
    light = (cast / cast[1]) ** (1 - _normal(rng, 0.8, 0.1))
    mist = rng.uniform() < MIST_CHANCE
    visibility = rng.uniform(*MIST_KM) if mist else rng.lognormal(np.log(15.0), 0.5)
    camera = _rng(world, DRIVE, column // DRIVE_CELLS, row // DRIVE_CELLS)
    return Shot(
        light=tuple(light.tolist()),
        visibility_km=float(visibility),
        exposure=float(_normal(camera, 0.0, 0.25)),
        vignette=camera.uniform(0.0, 0.2),
        blur=camera.uniform(0.0, 0.8),
        noise=camera.uniform(2.0, 8.0),
        saturation=camera.uniform(0.75, 1.15),
        gamma=camera.uniform(0.9, 1.1),
        quality=int(camera.integers(75, 96)),
    )


def develop(pixels: Pixels, overpass: Overpass) -> Pixels:
    """Apply haze and sensor response to a tile.

    Haze attenuates light on both paths and adds airlight, most in the blue channel. Half of the
    scattered light is assumed to travel forward [A].

    Args:
        pixels: RGB image, `(height, width, 3)`.
        overpass: Acquisition of the tile.
    """
    depth = overpass.aerosol * (CHANNEL_NM / 550.0) ** -overpass.angstrom
    through = np.exp(-0.5 * depth * (1 + 1 / np.sin(np.radians(overpass.elevation))))
    values = np.arange(256.0)[:, None]
    seen = (values * through + AIRLIGHT * (1 - through)) * overpass.gain * overpass.tile_gain
    table = MID_GREY + overpass.contrast * (seen - MID_GREY)
    return np.clip(np.round(table), 0, 255).astype(np.uint8)[pixels, np.arange(3)]


def expose(image: Image.Image, shot: Shot) -> Floats:
    """Apply the camera to a street view; returns `(height, width, 3)` without noise."""
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(shot.blur)))
    values = np.arange(256.0)[:, None] / 255
    light = np.multiply(shot.light, 2**shot.exposure) ** (1 / 2.2)  # gamma-encoded
    table = (255 * (values * light) ** shot.gamma).astype(np.float32)
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) ** 2 for side in pixels.shape[:2])
    corner = 1 - np.float32(shot.vignette / 2) * (y[:, None] + x)
    seen = table[pixels, np.arange(3)] * corner[..., None]
    grey = (seen @ LUMA)[..., None]
    return grey + np.float32(shot.saturation) * (seen - grey)


def dressed(style: Style, day: int) -> Style:
    """Palette of a city on a day of the year: seasonal vegetation, roofs of various materials.

    Half of the roofs keep the city's palette [A], the others have the colour of any material.
    """
    span = LEAFLESS_LATITUDE - EVERGREEN_LATITUDE
    strength = min(1.0, max(0.0, (style.lat - EVERGREEN_LATITUDE) / span))

    def on_day(plain: Any, by_season: Any) -> Floats:
        columns = np.asarray(by_season, float).reshape(len(MIDDLES), -1).T
        days = list(MIDDLES.values())
        seasonal = np.array([np.interp(day, days, column, period=365) for column in columns])
        return plain + strength * (seasonal - plain)

    leaf = [np.divide(LEAVES[season], LEAVES["summer"]) for season in MIDDLES]
    grass, withered = np.array(style.grass), np.array(WITHERED)
    dark, light = (_colour(on_day(1.0, leaf) * crown) for crown in style.crowns)
    return replace(
        style,
        grass=_colour(on_day(grass, [grass + dry * (withered - grass) for dry in WITHER])),
        # sown, ripe, ploughed
        crop=_colour(on_day(np.array(style.crop), [grass, style.crop, style.soil, style.soil])),
        crowns=(dark, light),
        crown_cover=float(on_day(1.0, CROWN_COVER)[0]),
        roofs=2 * style.roofs + PITCHED,
        flat_roofs=2 * style.flat_roofs + FLAT,
        roofs_by_wealth=False,
    )


def _sun(rng: np.random.Generator, latitude: float) -> tuple[int, float, float]:
    """Random day of the year, and elevation and azimuth of the sun in degrees."""
    days = np.arange(1, 366)
    tilts = -23.44 * np.cos(2 * np.pi * (days + 10) / 365)  # declination, within 0.5 degrees
    day = int(rng.choice(days[90 - np.abs(latitude - tilts) >= LOWEST_SUN]))
    phi, tilt = np.radians(latitude), np.radians(tilts[day - 1])
    steep, flat = np.sin(phi) * np.sin(tilt), np.cos(phi) * np.cos(tilt)
    lowest = np.sin(np.radians(LOWEST_SUN))
    latest = np.arccos(np.clip((lowest - steep) / flat, -1, 1))  # hour angle at LOWEST_SUN
    hour = rng.uniform(-1, 1) * min(latest, np.radians(15 * NOON_HOURS))
    elevation = np.arcsin(steep + flat * np.cos(hour))
    west = np.arctan2(np.sin(hour), np.cos(hour) * np.sin(phi) - np.tan(tilt) * np.cos(phi))
    return day, float(np.degrees(elevation)), float(180 + np.degrees(west))


def _black_body(kelvin: float) -> Floats:
    """Relative radiance per channel (Planck's law)."""
    return 1 / np.expm1(1.4388e7 / (CHANNEL_NM * kelvin))


def _normal(rng: np.random.Generator, mean: float, spread: float | Sequence[float]) -> Any:
    """Normal random numbers, clipped to two standard deviations."""
    return mean + np.multiply(spread, np.clip(rng.normal(size=np.shape(spread)), -2, 2))


def _rng(world: World, *keys: int) -> np.random.Generator:
    return np.random.default_rng([world.hash_seed, *keys])


def _colour(values: Floats) -> Colour:
    red, green, blue = np.round(values).astype(int).tolist()
    return red, green, blue
