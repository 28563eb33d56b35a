"""A street scene, and the canvas on which its image and its mask are drawn together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .styles import Colour
from .world import Kind, World

WIDTH, HEIGHT = 512, 256
SCALE = 2  # the image is drawn larger, then reduced
EYE_M, FAR_M, NEAR_M = 2.4, 130.0, 3.0
ROAD_M = {"avenue": 9.5, "street": 5.0}
SMALLEST_PX = (3, 4)  # of an object that is listed
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
"""Class in the mask of every kind of object that is listed."""
SKY_COLOURS: dict[str, tuple[Colour, Colour]] = {
    "clear": ((92, 148, 212), (200, 222, 240)),
    "overcast": ((168, 174, 182), (206, 208, 210)),
    "evening": ((84, 88, 132), (236, 178, 138)),
}

Point = tuple[float, float, float]
Pair = tuple[float, float]


@dataclass(frozen=True)
class SceneObject:
    """An object: a key of `OBJECT_CLASSES`, a word that describes it or "", its box in pixels."""

    name: str
    attribute: str
    box: tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Scene:
    """What all parts of a street view share.

    Attributes:
        world: The city.
        latents: Latents at the camera, by name.
        kinds: Kinds of the blocks to the left and to the right.
        season: "spring", "summer", "autumn" or "winter".
        sky: Key of `SKY_COLOURS`.
        road: "avenue" or "street".
        rng: Source of what the latents leave open.
    """

    world: World
    latents: dict[str, float]
    kinds: tuple[Kind, Kind]
    season: str
    sky: str
    road: str
    rng: np.random.Generator

    @property
    def road_m(self) -> float:
        """Distance from the middle of the road to its kerb."""
        return ROAD_M[self.road]

    def pick(self, choices: Sequence[Colour]) -> Colour:
        """One of the colours."""
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        """Whether an event of this probability happens."""
        return bool(self.rng.uniform() < probability)


@dataclass(frozen=True)
class Side:
    """A side of the street."""

    sign: int  # -1 left, 1 right
    kind: Kind
    line_m: float  # from the middle of the road to the buildings

    def at(self, distance_m: float) -> float:
        """Metres right of the camera, at a distance from the middle of the road."""
        return self.sign * distance_m


def tinted(colour: Sequence[float], factor: float = 1.0, by: Sequence[float] = (0, 0, 0)) -> Colour:
    """A colour times a factor, plus a shift for each channel."""
    red, green, blue = (
        int(min(255, max(0, value * factor + shift)))
        for value, shift in zip(colour, by, strict=True)
    )
    return red, green, blue


def blended(one: Sequence[float], other: Sequence[float], weight: float) -> Colour:
    """A colour between two."""
    red, green, blue = (int(a + (b - a) * weight) for a, b in zip(one, other, strict=True))
    return red, green, blue


class Paint(NamedTuple):
    """A colour, the class it has in the mask (None leaves the mask as it is), and its lightness."""

    colour: Sequence[float]
    kind: str | None = None
    factor: float = 1.0


@dataclass
class Canvas:
    """Image and mask, drawn in metres: x right of the camera, y above the ground, z ahead.

    Attributes:
        sky: Key of `SKY_COLOURS`; far things take on its colour.
        visibility_km: Distance at which they are lost in it; by default a haze of about 0.5 km.
        objects: Objects listed so far.
    """

    sky: str
    visibility_km: float | None = None
    objects: list[SceneObject] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE))
        self.mask = Image.new("L", (WIDTH, HEIGHT), CLASS_INDEX["sky"])
        self.draw = ImageDraw.Draw(self.image)
        self._draw_mask = ImageDraw.Draw(self.mask)

    def polygon(self, points: Sequence[Point], paint: Paint, seen_at: float | None = None) -> None:
        """A polygon of points (x, y, z) in metres; hazy as at its first point, if not told."""
        pixels = [value for point in points for value in _project(*point)]
        self._fill("polygon", pixels, paint, seen_at or points[0][2])

    def front(self, x: Pair, y: Pair, z: float, paint: Paint) -> None:
        """A rectangle that faces the camera: from `x[0]` to `x[1]`, from `y[0]` to `y[1]`."""
        box = [*_project(min(x), y[1], z), *_project(max(x), y[0], z)]
        self._fill("rectangle", box, paint, z)

    def wall(self, x: float, y: Pair, z: Pair, paint: Paint) -> None:
        """A rectangle that runs along the road."""
        (low, high), (near, far) = y, z
        self.polygon(((x, low, near), (x, low, far), (x, high, far), (x, high, near)), paint)

    def floor(self, x: Pair, z: Pair, paint: Paint, seen_at: float | None = None) -> None:
        """A rectangle on the ground."""
        (left, right), (near, far) = x, z
        corners = ((left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far))
        self.polygon(corners, paint, seen_at)

    def ball(self, centre: Point, radius: float, paint: Paint) -> None:
        """A disc that faces the camera."""
        x, y, z = centre
        box = [*_project(x - radius, y + radius, z), *_project(x + radius, y - radius, z)]
        self._fill("ellipse", box, paint, z)

    def note(self, name: str, attribute: str, place: Pair, size: Pair) -> None:
        """List an object, if enough of it is in the image.

        Args:
            name: Key of `OBJECT_CLASSES`.
            attribute: A word that describes it.
            place: Metres to the right and ahead.
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
        """The listed objects that nothing nearer hides: the mask shows their class in their box."""
        mask, visible = np.asarray(self.mask), []
        for item in self.objects:
            left, top, right, bottom = item.box
            shown = mask[top:bottom, left:right] == CLASS_INDEX[OBJECT_CLASSES[item.name]]
            visible += [item] * bool(shown.any())
        return visible

    def _fill(self, shape: str, pixels: list[float], paint: Paint, z: float) -> None:
        fog = min(0.65, max(0.0, (z - 20) / 170))
        if self.visibility_km is not None:
            # Koschmieder's law: at this distance, 2 % of the contrast are left
            fog = 1 - np.exp(-3.912e-3 * z / self.visibility_km)
        haze = [value * fog for value in SKY_COLOURS[self.sky][1]]
        colour = tinted(paint.colour, paint.factor * (1 - fog), haze)
        getattr(self.draw, shape)([value * SCALE for value in pixels], fill=colour)
        if paint.kind is not None:
            getattr(self._draw_mask, shape)(pixels, fill=CLASS_INDEX[paint.kind])


def _project(x: float, y: float, z: float) -> Pair:
    """Metres to pixels of the image; the field of view is 90 degrees wide."""
    scale = 0.5 * WIDTH / z
    return 0.5 * WIDTH + scale * x, 0.5 * HEIGHT + scale * (EYE_M - y)
