"""Four city styles that differ in street pattern, palette and climate."""

import re
from dataclasses import dataclass
from typing import Literal

from ..errors import DatasetError

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Style:
    """Appearance and location of a city."""

    name: str  # city name in the configs
    lon: float  # longitude of the centre (EPSG:4326), in open sea or steppe
    lat: float  # latitude of the centre (EPSG:4326)
    streets: Literal["grid", "radial", "organic"]  # pattern of the street network
    block_km: float  # side of a block of buildings
    spread: float  # radius of the city as a share of the grid's side
    height: float  # factor on the number of storeys
    sea: bool  # whether there is open water in the south
    roofs: tuple[Colour, ...]  # colours of pitched roofs
    flat_roofs: tuple[Colour, ...]  # colours of flat roofs
    facades: tuple[Colour, ...]  # colours of facades by increasing wealth
    grass: Colour  # colour of grass in summer
    soil: Colour  # colour of bare soil
    crop: Colour  # colour of ripe crops
    trees: float  # factor on the number of trees in satellite tiles
    industry: float  # offset of the latent industry
    # dark and light colour of tree crowns in satellite tiles
    crowns: tuple[Colour, Colour] = ((38, 68, 38), (52, 88, 46))
    crown_cover: float = 1.0  # opacity of tree crowns in satellite tiles
    roofs_by_wealth: bool = True  # whether roofs are lighter in wealthy areas


_CITIES = (
    Style(
        "harborview", lon=-38.0, lat=41.0, streets="grid",
        block_km=0.22, spread=0.30, height=1.3, sea=True, trees=1.0, industry=0.0,
        roofs=((150, 96, 78), (128, 110, 98), (112, 88, 80)),
        flat_roofs=((178, 180, 184), (150, 154, 160), (196, 192, 184)),
        facades=((148, 132, 118), (172, 160, 146), (160, 176, 190), (196, 208, 218)),
        grass=(96, 136, 72), soil=(160, 146, 120), crop=(176, 164, 92),
    ),
    Style(
        "oldgate", lon=75.0, lat=46.5, streets="radial",
        block_km=0.20, spread=0.26, height=0.8, sea=False, trees=1.0, industry=-0.4,
        roofs=((178, 92, 62), (164, 80, 58), (190, 112, 76)),
        flat_roofs=((190, 114, 84), (186, 168, 146), (176, 98, 70)),
        facades=((196, 164, 120), (212, 188, 148), (222, 204, 170), (232, 222, 198)),
        grass=(112, 138, 70), soil=(176, 156, 116), crop=(196, 176, 92),
    ),
    Style(
        "mesaplain", lon=-12.5, lat=22.0, streets="grid",
        block_km=0.30, spread=0.42, height=0.55, sea=False, trees=0.4, industry=-0.4,
        roofs=((186, 150, 120), (200, 172, 140), (160, 130, 110)),
        flat_roofs=((214, 204, 186), (198, 186, 166), (184, 176, 166)),
        facades=((186, 152, 118), (206, 176, 140), (222, 200, 170), (236, 224, 206)),
        grass=(168, 158, 100), soil=(210, 180, 132), crop=(206, 178, 112),
    ),
    Style(
        "ironford", lon=60.0, lat=55.5, streets="organic",
        block_km=0.24, spread=0.32, height=0.95, sea=False, trees=0.9, industry=0.35,
        roofs=((96, 84, 84), (116, 86, 78), (84, 82, 90)),
        flat_roofs=((134, 136, 138), (118, 120, 124), (152, 150, 144)),
        facades=((120, 84, 70), (140, 98, 80), (156, 120, 100), (170, 152, 138)),
        grass=(82, 118, 66), soil=(132, 120, 104), crop=(150, 142, 84),
    ),
)  # fmt: skip
STYLES = {style.name: style for style in _CITIES}
"""City styles by name."""


def parse_city(city: str) -> tuple[Style, int | None]:
    """Style and seed of a city name: "harborview" has no seed, "harborview-7" has seed 7.

    Raises:
        DatasetError: The style is unknown, or the seed is not a number.
    """
    style, dash, seed = city.partition("-")
    if style not in STYLES or (dash and not re.fullmatch("[0-9]+", seed)):
        raise DatasetError(
            f"`city` must be one of {sorted(STYLES)}, or <style>-<seed> for one of them with its "
            f"own seed; got {city!r}."
        )
    return STYLES[style], int(seed) if dash else None


def city_title(city: str) -> str:
    """Display name of a city, such as "Harborview 7 (synthetic)"."""
    return f"{city.capitalize().replace('-', ' ')} (synthetic)"
