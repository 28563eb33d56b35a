"""Street scene, and a canvas that draws its image and segmentation mask."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .styles import Colour
from .world import Kind, World

WIDTH, HEIGHT = 512, 256
SCALE = 2  # supersampling factor
EYE_M, FAR_M, NEAR_M = 2.4, 130.0, 3.0
ROAD_M = {"avenue": 9.5, "street": 5.0}
SMALLEST_PX = (3, 4)  # minimum width and height of a listed object
CLASSES = (
    *("sky", "building", "road", "pavement", "vegetation", "vehicle"),
    *("person", "sign", "pole", "water", "ground", "fence"),
)
CLASS_INDEX = {name: index for index, name in enumerate(CLASSES)}
OBJECT_CLASSES = {
    "zebra crossing": "road", "pothole": "road", "detached house": "building",
    "terraced house": "building", "apartment block": "building", "tower": "building",
    "factory shed": "building", "chimney": "building", "shop sign": "sign", "fence": "fence",
    "playing field": "ground", "tree": "vegetation", "street lamp": "pole", "pedestrian": "person",
    "bench": "pole", "car": "vehicle", "lorry": "vehicle", "bus": "vehicle",
}  # fmt: skip
"""Mask class of each kind of listed object."""
SKY_COLOURS: dict[str, tuple[Colour, Colour]] = {
    "clear": ((92, 148, 212), (200, 222, 240)),
    "overcast": ((168, 174, 182), (206, 208, 210)),
    "evening": ((84, 88, 132), (236, 178, 138)),
}

Point = tuple[float, float, float]
Pair = tuple[float, float]


@dataclass(frozen=True)
class SceneObject:
    """Object: key of `OBJECT_CLASSES`, adjective or "", and bounding box in pixels."""

    name: str
    attribute: str
    box: tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Scene:
    """Properties of a street view."""

    world: World
    latents: dict[str, float]  # latents at the camera, by name
    kinds: tuple[Kind, Kind]  # kinds of the blocks on the left and on the right
    season: str  # "spring", "summer", "autumn" or "winter"
    sky: str  # key of `SKY_COLOURS`
    road: str  # "avenue" or "street"
    rng: np.random.Generator  # random generator of everything not determined by the latents

    @property
    def road_m(self) -> float:
        """Half the width of the road in metres."""
        return ROAD_M[self.road]

    def pick(self, choices: Sequence[Colour]) -> Colour:
        """Random colour."""
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        """Bernoulli trial."""
        return bool(self.rng.uniform() < probability)


@dataclass(frozen=True)
class Side:
    """Side of the street."""

    sign: int  # -1 left, 1 right
    kind: Kind
    line_m: float  # distance from the centre of the road to the buildings

    def at(self, distance_m: float) -> float:
        """Signed x coordinate at a distance from the centre of the road."""
        return self.sign * distance_m


def tinted(colour: Sequence[float], factor: float = 1.0, by: Sequence[float] = (0, 0, 0)) -> Colour:
    """Colour times a factor, plus an offset per channel."""
    red, green, blue = (
        int(min(255, max(0, value * factor + shift)))
        for value, shift in zip(colour, by, strict=True)
    )
    return red, green, blue


def blended(one: Sequence[float], other: Sequence[float], weight: float) -> Colour:
    """Interpolate between two colours."""
    red, green, blue = (int(a + (b - a) * weight) for a, b in zip(one, other, strict=True))
    return red, green, blue


class Paint(NamedTuple):
    """Colour, mask class (None leaves the mask unchanged), and lightness factor."""

    colour: Sequence[float]
    kind: str | None = None
    factor: float = 1.0


@dataclass
class Canvas:
    """Image and mask in metric coordinates: x right of the camera, y above ground, z ahead."""

    sky: str  # key of `SKY_COLOURS`, whose horizon colour is that of the haze
    visibility_km: float | None = None  # by default a fixed haze of about 0.5 km
    objects: list[SceneObject] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE))
        self.mask = Image.new("L", (WIDTH, HEIGHT), CLASS_INDEX["sky"])
        self.draw = ImageDraw.Draw(self.image)
        self._draw_mask = ImageDraw.Draw(self.mask)

    def polygon(self, points: Sequence[Point], paint: Paint, seen_at: float | None = None) -> None:
        """Draw a polygon with the haze at distance `seen_at` (default: first point)."""
        pixels = [value for point in points for value in _project(*point)]
        self._fill("polygon", pixels, paint, seen_at or points[0][2])

    def front(self, x: Pair, y: Pair, z: float, paint: Paint) -> None:
        """Draw a rectangle that faces the camera."""
        box = [*_project(min(x), y[1], z), *_project(max(x), y[0], z)]
        self._fill("rectangle", box, paint, z)

    def wall(self, x: float, y: Pair, z: Pair, paint: Paint) -> None:
        """Draw a vertical rectangle parallel to the road."""
        (low, high), (near, far) = y, z
        self.polygon(((x, low, near), (x, low, far), (x, high, far), (x, high, near)), paint)

    def floor(self, x: Pair, z: Pair, paint: Paint, seen_at: float | None = None) -> None:
        """Draw a rectangle on the ground."""
        (left, right), (near, far) = x, z
        corners = ((left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far))
        self.polygon(corners, paint, seen_at)

    def ball(self, centre: Point, radius: float, paint: Paint) -> None:
        """Draw a disc that faces the camera."""
        x, y, z = centre
        box = [*_project(x - radius, y + radius, z), *_project(x + radius, y - radius, z)]
        self._fill("ellipse", box, paint, z)

    def note(self, name: str, attribute: str, place: Pair, size: Pair) -> None:
        """List an object if its box in the image is large enough.

        Args:
            name: Key of `OBJECT_CLASSES`.
            attribute: Adjective.
            place: Position (x, z) in metres.
            size: Width and height in metres.
        """
        (x, z), (width, height) = place, size
        left, top = _project(x - width / 2, height, z)
        right, bottom = _project(x + width / 2, 0, z)
        start = round(max(0, left)), round(max(0, top))
        end = round(min(WIDTH, right)), round(min(HEIGHT, bottom))
        if end[0] - start[0] >= SMALLEST_PX[0] and end[1] - start[1] >= SMALLEST_PX[1]:
            self.objects.append(SceneObject(name, attribute, (*start, *end)))

    def visible_objects(self) -> list[SceneObject]:
        """Listed objects that are not occluded: their class is in the mask within their box."""
        mask, visible = np.asarray(self.mask), []
        for item in self.objects:
            left, top, right, bottom = item.box
            shown = mask[top:bottom, left:right] == CLASS_INDEX[OBJECT_CLASSES[item.name]]
            visible += [item] * bool(shown.any())
        return visible

    def _fill(self, shape: str, pixels: list[float], paint: Paint, z: float) -> None:
        fog = min(0.65, max(0.0, (z - 20) / 170))
        if self.visibility_km is not None:
            # Koschmieder's law: 2 % of the contrast remains at the visual range
            fog = 1 - np.exp(-3.912e-3 * z / self.visibility_km)
        haze = [value * fog for value in SKY_COLOURS[self.sky][1]]
        colour = tinted(paint.colour, paint.factor * (1 - fog), haze)
        getattr(self.draw, shape)([value * SCALE for value in pixels], fill=colour)
        if paint.kind is not None:
            getattr(self._draw_mask, shape)(pixels, fill=CLASS_INDEX[paint.kind])


def _project(x: float, y: float, z: float) -> Pair:
    """Project metres to image pixels; the horizontal field of view is 90 degrees."""
    scale = 0.5 * WIDTH / z
    return 0.5 * WIDTH + scale * x, 0.5 * HEIGHT + scale * (EYE_M - y)
