"""The four synthetic cities: what differs between them. The laws of targets.py do not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Rgb = tuple[int, int, int]
Pattern = Literal["grid", "radial", "sprawl", "river"]


@dataclass(frozen=True)
class CityStyle:
    """How a city looks and is laid out.

    Attributes:
        name: in config names and region ids.
        title: for people.
        epsg: its metric system, a UTM zone.
        origin_m: easting and northing of the south-west corner of the grid; in the open ocean, so
            that nobody takes it for a real place.
        pattern: of its main roads.
        street_angle_deg: of the street lattice, counter-clockwise from east.
        block_m: sides of a block.
        jitter: of a lattice node, as a share of a block.
        wobble_m: amplitude of the smooth bending of streets.
        coast: the sea lies in the east.
        river_width_m: 0 for no river.
        core_radius: of the dense core, as a share of the side of the grid.
        density_bias: shifts the density latent (logits).
        industry_bias: shifts the industry latent (logits).
        storeys: of the tallest towers.
        roofs: roof colours by kind of building, seen from above.
        walls: wall colours by kind of building, seen from the street.
        ground: colours of what is not built.
        trees: kinds of tree in the streets, first is the commonest.
        crops: field colours.
        winters: share of pictures taken in snow.
    """

    name: str
    title: str
    epsg: int
    origin_m: tuple[float, float]
    pattern: Pattern
    street_angle_deg: float
    block_m: tuple[float, float]
    jitter: float
    wobble_m: float
    coast: bool
    river_width_m: float
    core_radius: float
    density_bias: float
    industry_bias: float
    storeys: int
    roofs: Mapping[str, tuple[Rgb, ...]]
    walls: Mapping[str, tuple[Rgb, ...]]
    ground: Mapping[str, Rgb]
    trees: tuple[str, ...]
    crops: tuple[Rgb, ...]
    winters: float = 0.1


_TIN: tuple[Rgb, ...] = ((172, 174, 172), (150, 110, 84), (98, 120, 142), (190, 186, 176))
_HALLS: tuple[Rgb, ...] = ((196, 200, 202), (164, 170, 176), (112, 138, 160), (178, 168, 150))
_SHEDS: tuple[Rgb, ...] = ((176, 180, 182), (142, 152, 160), (150, 118, 96), (120, 140, 150))

HARBORVIEW = CityStyle(
    name="harborview",
    title="Harborview, a coastal grid city with dense towers",
    epsg=32625,
    origin_m=(500_000.0, 3_900_000.0),
    pattern="grid",
    street_angle_deg=9.0,
    block_m=(118.0, 132.0),
    jitter=0.03,
    wobble_m=0.0,
    coast=True,
    river_width_m=70.0,
    core_radius=0.24,
    density_bias=0.0,
    industry_bias=0.0,
    storeys=42,
    roofs={
        "tower": ((186, 190, 196), (120, 128, 140), (214, 212, 206), (84, 92, 104)),
        "block": ((168, 160, 150), (148, 140, 134), (186, 178, 168), (130, 118, 110)),
        "house": ((142, 96, 82), (116, 110, 108), (160, 140, 122), (98, 92, 94)),
        "poor": _TIN,
        "retail": ((226, 226, 222), (206, 208, 208), (190, 178, 160)),
        "hall": _HALLS,
    },
    walls={
        "tower": ((112, 140, 162), (150, 164, 174), (88, 108, 126), (176, 172, 164)),
        "block": ((190, 170, 148), (168, 128, 106), (204, 196, 182), (148, 142, 138)),
        "house": ((222, 214, 198), (176, 112, 90), (196, 204, 206), (224, 196, 160)),
        "poor": ((172, 160, 144), (150, 138, 128), (134, 128, 122), (176, 148, 120)),
        "hall": _SHEDS,
    },
    ground={
        "grass": (112, 138, 78),
        "lawn": (124, 150, 84),
        "forest": (58, 86, 50),
        "tree": (64, 98, 52),
        "soil": (158, 142, 116),
        "yard": (146, 142, 134),
        "paving": (186, 182, 174),
        "street": (122, 124, 128),
        "water": (52, 88, 112),
    },
    trees=("broadleaf", "poplar"),
    crops=((168, 164, 96), (132, 152, 82), (188, 172, 116), (112, 140, 70)),
)

KINGSMERE = CityStyle(
    name="kingsmere",
    title="Kingsmere, an old radial city of perimeter blocks",
    epsg=32629,
    origin_m=(500_000.0, 5_100_000.0),
    pattern="radial",
    street_angle_deg=0.0,
    block_m=(106.0, 112.0),
    jitter=0.26,
    wobble_m=70.0,
    coast=False,
    river_width_m=95.0,
    core_radius=0.27,
    density_bias=0.05,
    industry_bias=-0.3,
    storeys=14,
    roofs={
        "tower": ((150, 152, 156), (176, 170, 160), (128, 124, 124)),
        "block": ((170, 98, 72), (150, 84, 64), (184, 116, 84), (110, 106, 108)),
        "house": ((176, 104, 76), (158, 88, 66), (140, 80, 64), (190, 124, 92)),
        "poor": ((150, 104, 84), (148, 142, 134), (128, 112, 100), (168, 140, 118)),
        "retail": ((200, 194, 184), (178, 174, 168), (164, 108, 84)),
        "hall": ((176, 172, 166), (150, 112, 92), (140, 146, 150)),
    },
    walls={
        "tower": ((196, 190, 178), (166, 168, 170), (140, 148, 156)),
        "block": ((226, 206, 160), (214, 178, 142), (204, 200, 184), (190, 150, 122)),
        "house": ((236, 222, 188), (216, 186, 150), (228, 228, 216), (198, 160, 136)),
        "poor": ((178, 164, 142), (156, 142, 124), (188, 172, 150), (140, 130, 118)),
        "hall": ((162, 104, 84), (172, 168, 160), (146, 122, 104)),
    },
    ground={
        "grass": (102, 142, 74),
        "lawn": (110, 152, 80),
        "forest": (48, 84, 46),
        "tree": (58, 102, 50),
        "soil": (144, 126, 98),
        "yard": (152, 144, 130),
        "paving": (190, 178, 158),
        "street": (140, 134, 126),
        "water": (66, 92, 84),
    },
    trees=("broadleaf", "conifer"),
    crops=((196, 180, 94), (118, 150, 72), (150, 162, 84), (204, 190, 120)),
    winters=0.22,
)

PALMETTO = CityStyle(
    name="palmetto",
    title="Palmetto, a sprawling low-rise city in a dry land",
    epsg=32611,
    origin_m=(500_000.0, 1_800_000.0),
    pattern="sprawl",
    street_angle_deg=0.0,
    block_m=(150.0, 120.0),
    jitter=0.12,
    wobble_m=120.0,
    coast=False,
    river_width_m=35.0,
    core_radius=0.14,
    density_bias=-0.35,
    industry_bias=-0.2,
    storeys=24,
    roofs={
        "tower": ((218, 212, 200), (180, 176, 170), (140, 146, 154)),
        "block": ((214, 196, 170), (196, 176, 152), (224, 214, 198)),
        "house": ((204, 152, 116), (190, 170, 148), (214, 194, 164), (176, 128, 100)),
        "poor": ((188, 178, 160), (166, 136, 112), (198, 194, 184), (142, 132, 124)),
        "retail": ((238, 234, 226), (222, 214, 202), (206, 196, 182)),
        "hall": ((222, 218, 208), (198, 192, 182), (178, 166, 150)),
    },
    walls={
        "tower": ((198, 190, 176), (150, 166, 174), (222, 212, 196)),
        "block": ((226, 204, 168), (212, 180, 144), (236, 226, 204)),
        "house": ((238, 222, 190), (222, 188, 148), (206, 150, 116), (240, 236, 224)),
        "poor": ((200, 184, 158), (186, 166, 140), (170, 156, 140)),
        "hall": ((206, 198, 184), (178, 168, 154), (188, 150, 124)),
    },
    ground={
        "grass": (160, 152, 98),
        "lawn": (130, 156, 82),
        "forest": (112, 118, 70),
        "tree": (88, 112, 60),
        "soil": (198, 174, 136),
        "yard": (190, 176, 150),
        "paving": (206, 196, 178),
        "street": (138, 134, 130),
        "water": (74, 112, 118),
    },
    trees=("palm", "broadleaf"),
    crops=((206, 184, 138), (192, 170, 122), (150, 160, 84), (214, 194, 148)),
    winters=0.0,
)

IRONFORD = CityStyle(
    name="ironford",
    title="Ironford, an industrial river town of brick terraces",
    epsg=32655,
    origin_m=(500_000.0, 4_400_000.0),
    pattern="river",
    street_angle_deg=-24.0,
    block_m=(132.0, 96.0),
    jitter=0.09,
    wobble_m=36.0,
    coast=False,
    river_width_m=130.0,
    core_radius=0.19,
    density_bias=-0.12,
    industry_bias=0.9,
    storeys=18,
    roofs={
        "tower": ((142, 144, 148), (120, 120, 124), (164, 160, 154)),
        "block": ((118, 96, 90), (104, 100, 104), (136, 108, 96)),
        "house": ((96, 92, 98), (112, 84, 78), (84, 82, 88), (126, 96, 86)),
        "poor": ((110, 102, 98), (134, 104, 86), (142, 138, 134), (94, 90, 92)),
        "retail": ((190, 190, 188), (168, 166, 164), (148, 128, 114)),
        "hall": ((148, 154, 160), (120, 132, 146), (140, 106, 88), (176, 178, 178)),
    },
    walls={
        "tower": ((150, 146, 142), (172, 166, 158), (128, 132, 138)),
        "block": ((158, 96, 78), (140, 84, 70), (176, 120, 96), (150, 140, 132)),
        "house": ((164, 98, 78), (148, 86, 70), (178, 112, 88), (190, 180, 166)),
        "poor": ((140, 92, 78), (126, 100, 88), (148, 134, 122), (116, 104, 98)),
        "hall": ((140, 92, 76), (136, 146, 154), (112, 124, 134), (158, 148, 136)),
    },
    ground={
        "grass": (98, 124, 72),
        "lawn": (104, 134, 74),
        "forest": (56, 78, 50),
        "tree": (66, 92, 54),
        "soil": (130, 116, 98),
        "yard": (124, 116, 106),
        "paving": (164, 160, 154),
        "street": (112, 112, 114),
        "water": (86, 90, 76),
    },
    trees=("poplar", "broadleaf"),
    crops=((150, 156, 86), (126, 144, 78), (172, 160, 104), (118, 110, 84)),
    winters=0.18,
)

STYLES: dict[str, CityStyle] = {
    style.name: style for style in (HARBORVIEW, KINGSMERE, PALMETTO, IRONFORD)
}

__all__ = ["STYLES", "CityStyle", "Rgb"]
