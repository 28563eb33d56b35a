"""A street scene, and the canvas on which its picture and its mask are drawn together."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from .styles import Colour
from .world import World

WIDTH, HEIGHT = 512, 256
SCALE = 2  # the picture is drawn larger, then reduced
EYE_M, FAR_M, NEAR_M = 2.4, 130.0, 3.0
SMALLEST_PX = (3, 4)  # of an object that is listed
CLASSES = (
    "sky",
    "building",
    "road",
    "pavement",
    "vegetation",
    "vehicle",
    "person",
    "sign",
    "pole",
    "water",
    "ground",
    "fence",
)
CLASS_INDEX = {name: index for index, name in enumerate(CLASSES)}
# class in the mask of the objects that are listed
OBJECT_CLASSES = {
    "zebra crossing": "road",
    "pothole": "road",
    "detached house": "building",
    "terraced house": "building",
    "apartment block": "building",
    "tower": "building",
    "factory shed": "building",
    "chimney": "building",
    "shop sign": "sign",
    "fence": "fence",
    "playing field": "ground",
    "tree": "vegetation",
    "street lamp": "pole",
    "pedestrian": "person",
    "bench": "pole",
    "car": "vehicle",
    "lorry": "vehicle",
    "bus": "vehicle",
}
SKY_COLOURS: dict[str, tuple[Colour, Colour]] = {
    "clear": ((92, 148, 212), (200, 222, 240)),
    "overcast": ((168, 174, 182), (206, 208, 210)),
    "evening": ((84, 88, 132), (236, 178, 138)),
}

Point = tuple[float, float, float]
Pixel = tuple[float, float]


@dataclass(frozen=True)
class SceneObject:
    """Something in a picture.

    Attributes:
        name: what it is, of `OBJECT_CLASSES`.
        attribute: what can be said of it ("" if nothing).
        box: left, top, right, bottom in pixels of the picture.
    """

    name: str
    attribute: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """What all parts of a street view share.

    Attributes:
        world: the city.
        latents: at the camera, by name.
        kinds: of the blocks to the left and to the right.
        season: of `SEASONS`.
        sky: of `SKY_COLOURS`.
        road_m: from the middle of the road to its kerb.
        rng: draws what the latents leave open.
    """

    world: World
    latents: dict[str, float]
    kinds: tuple[int, int]
    season: str
    sky: str
    road_m: float
    rng: np.random.Generator

    def pick(self, choices: Sequence[Colour]) -> Colour:
        """One of the colours."""
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        """Whether it happens."""
        return bool(self.rng.uniform() < probability)

    def level(self, words: Sequence[str]) -> str:
        """The word for poor, middling or rich."""
        wealth = self.latents["wealth"]
        return words[0] if wealth < 0.35 else words[2] if wealth > 0.6 else words[1]


@dataclass(frozen=True)
class Side:
    """One side of the street.

    Attributes:
        sign: -1 left, 1 right.
        kind: of the blocks.
        line_m: from the middle of the road to the buildings.
    """

    sign: int
    kind: int
    line_m: float

    def at(self, distance_m: float) -> float:
        """Metres to the right of the camera of what is so far from the middle of the road."""
        return self.sign * distance_m


def scaled(colour: Sequence[float], factor: float) -> Colour:
    """A colour, lighter or darker."""
    red, green, blue = (int(min(255, max(0, value * factor))) for value in colour)
    return red, green, blue


def shifted(colour: Sequence[float], by: Sequence[float]) -> Colour:
    """A colour, a little different."""
    red, green, blue = (int(min(255, max(0, a + b))) for a, b in zip(colour, by, strict=True))
    return red, green, blue


def blended(one: Sequence[float], other: Sequence[float], weight: float) -> Colour:
    """A colour between two."""
    red, green, blue = (int(a + (b - a) * weight) for a, b in zip(one, other, strict=True))
    return red, green, blue


@dataclass
class Canvas:
    """Picture and mask, drawn in metres: x right of the camera, y above the ground, z ahead.

    A class of None leaves the mask as it is.

    Attributes:
        sky: of `SKY_COLOURS`; far things take on its colour.
        objects: listed so far.
    """

    sky: str
    objects: list[SceneObject] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE))
        self.mask = Image.new("L", (WIDTH, HEIGHT), CLASS_INDEX["sky"])
        self.picture = ImageDraw.Draw(self.image)
        self._mask = ImageDraw.Draw(self.mask)
        self._haze = SKY_COLOURS[self.sky][1]

    def shade(self, colour: Sequence[float], z: float, factor: float = 1.0) -> Colour:
        """Darker or lighter, and the farther the hazier."""
        fog = min(0.65, max(0.0, (z - 20) / 170))
        keep = factor * (1 - fog)
        a, b, c = self._haze
        return (
            min(255, max(0, int(colour[0] * keep + a * fog))),
            min(255, max(0, int(colour[1] * keep + b * fog))),
            min(255, max(0, int(colour[2] * keep + c * fog))),
        )

    def polygon(self, points: Sequence[Point], colour: Colour, kind: str | None = None) -> None:
        """A polygon of points (x, y, z) in metres."""
        pixels = [_project(*point) for point in points]
        self.picture.polygon([(u * SCALE, v * SCALE) for u, v in pixels], fill=colour)
        if kind is not None:
            self._mask.polygon(pixels, fill=CLASS_INDEX[kind])

    def front(self, x: Pixel, y: Pixel, z: float, colour: Colour, kind: str | None = None) -> None:
        """A rectangle that faces the camera: from `x[0]` to `x[1]`, from `y[0]` to `y[1]`."""
        left, top = _project(min(x), y[1], z)
        right, bottom = _project(max(x), y[0], z)
        box = (left * SCALE, top * SCALE, right * SCALE, bottom * SCALE)
        self.picture.rectangle(box, fill=colour)
        if kind is not None:
            self._mask.rectangle((left, top, right, bottom), fill=CLASS_INDEX[kind])

    def wall(self, x: float, y: Pixel, z: Pixel, colour: Colour, kind: str | None = None) -> None:
        """A rectangle that runs along the road."""
        (low, high), (near, far) = y, z
        points = ((x, low, near), (x, low, far), (x, high, far), (x, high, near))
        self.polygon(points, colour, kind)

    def floor(self, x: Pixel, z: Pixel, colour: Colour, kind: str | None = None) -> None:
        """A rectangle on the ground."""
        (left, right), (near, far) = x, z
        points = ((left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far))
        self.polygon(points, colour, kind)

    def ball(self, centre: Point, radius: float, colour: Colour, kind: str | None = None) -> None:
        """A disc that faces the camera."""
        x, y, z = centre
        left, top = _project(x - radius, y + radius, z)
        right, bottom = _project(x + radius, y - radius, z)
        box = (left * SCALE, top * SCALE, right * SCALE, bottom * SCALE)
        self.picture.ellipse(box, fill=colour)
        if kind is not None:
            self._mask.ellipse((left, top, right, bottom), fill=CLASS_INDEX[kind])

    def note(self, name: str, attribute: str, place: Pixel, size: Pixel) -> None:
        """List an object, if enough of it is in the picture.

        Args:
            name: of `OBJECT_CLASSES`.
            attribute: what can be said of it.
            place: metres to the right and ahead.
            size: width and height in metres.
        """
        (x, z), (width, height) = place, size
        left, top = _project(x - width / 2, height, z)
        right, bottom = _project(x + width / 2, 0, z)
        box = (
            round(max(0, left)),
            round(max(0, top)),
            round(min(WIDTH, right)),
            round(min(HEIGHT, bottom)),
        )
        if box[2] - box[0] >= SMALLEST_PX[0] and box[3] - box[1] >= SMALLEST_PX[1]:
            self.objects.append(SceneObject(name, attribute, box))

    def visible_objects(self, mask: np.ndarray) -> list[SceneObject]:
        """The listed objects that nothing nearer hides: the mask shows their class in their box."""
        return [item for item in self.objects if _is_visible(item, mask)]


def _is_visible(item: SceneObject, mask: np.ndarray) -> bool:
    left, top, right, bottom = item.box
    inside = mask[top:bottom, left:right]
    return bool((inside == CLASS_INDEX[OBJECT_CLASSES[item.name]]).any())


def _project(x: float, y: float, z: float) -> Pixel:
    """Metres to pixels of the picture; the field of view is 90 degrees wide."""
    scale = 0.5 * WIDTH / z
    return 0.5 * WIDTH + scale * x, 0.5 * HEIGHT + scale * (EYE_M - y)


__all__ = [
    "CLASSES",
    "CLASS_INDEX",
    "FAR_M",
    "HEIGHT",
    "NEAR_M",
    "OBJECT_CLASSES",
    "SCALE",
    "SKY_COLOURS",
    "WIDTH",
    "Canvas",
    "Scene",
    "SceneObject",
    "Side",
    "blended",
    "scaled",
    "shifted",
]
