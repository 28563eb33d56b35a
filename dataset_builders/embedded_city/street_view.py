"""Street views: a road in one-point perspective, with what stands, grows and drives beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .districts import (
    CAR_PARK,
    FIELD,
    KINDS,
    PARK,
    ROWS,
    SLABS,
    SPORTS,
    TOWERS,
    VILLAS,
    WORKS,
    block_kinds,
    storeys,
)
from .styles import Colour
from .world import CELL_KM, Latents, World

WIDTH, HEIGHT = 512, 256
SCALE = 2  # drawn larger, then reduced
EYE_M, FAR_M, NEAR_M = 2.4, 130.0, 3.0
STOREY_M = 3.2
SEASONS = ("spring", "summer", "autumn", "winter")
SKIES = ("clear", "overcast", "evening")
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
SKY_COLOURS: dict[str, tuple[Colour, Colour]] = {
    "clear": ((92, 148, 212), (200, 222, 240)),
    "overcast": ((168, 174, 182), (206, 208, 210)),
    "evening": ((84, 88, 132), (236, 178, 138)),
}
LEAVES: dict[str, Colour] = {
    "spring": (126, 168, 88),
    "summer": (66, 112, 52),
    "autumn": (186, 126, 52),
    "winter": (112, 100, 88),
}
CARS: tuple[Colour, ...] = (
    (214, 216, 218), (54, 56, 60), (158, 40, 38), (44, 74, 130), (186, 184, 176), (92, 108, 84),
)  # fmt: skip
SIGNS: tuple[Colour, ...] = (
    (214, 52, 44),
    (240, 190, 40),
    (36, 120, 190),
    (30, 150, 96),
    (176, 60, 160),
)


@dataclass(frozen=True)
class SceneObject:
    """Something in a picture.

    Attributes:
        name: what it is.
        attribute: what can be said of it ("" if nothing).
        box: left, top, right, bottom in pixels of the picture.
    """

    name: str
    attribute: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class StreetView:
    """A street view and what is in it.

    Attributes:
        image: `WIDTH` x `HEIGHT`, RGB.
        mask: same size, index into `CLASSES`.
        objects: what was drawn and can be seen, far to near.
        facts: of the scene as a whole: season, sky, surroundings, storeys...
        x_km: place of the camera.
        y_km: place of the camera.
        heading: degrees clockwise from north.
    """

    image: Image.Image
    mask: Image.Image
    objects: list[SceneObject]
    facts: dict[str, str | float]
    x_km: float
    y_km: float
    heading: float


@dataclass
class _Canvas:
    """Draws picture and mask together, in metres seen from the camera."""

    picture: ImageDraw.ImageDraw
    mask: ImageDraw.ImageDraw
    haze: Colour
    objects: list[SceneObject] = field(default_factory=list)

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Metres right, up and ahead to pixels."""
        focal = 0.5 * WIDTH * SCALE
        return (
            WIDTH * SCALE / 2 + focal * x / z,
            0.5 * HEIGHT * SCALE + focal * (EYE_M - y) / z,
        )

    def shade(self, colour: Sequence[float], z: float, factor: float = 1.0) -> Colour:
        """Darker or lighter, and the farther the hazier."""
        fog = min(0.65, max(0.0, (z - 20) / 170))
        mixed = [c * factor * (1 - fog) + h * fog for c, h in zip(colour, self.haze, strict=True)]
        red, green, blue = (int(min(255, max(0, value))) for value in mixed)
        return red, green, blue

    def polygon(self, points: list[tuple[float, float, float]], colour: Colour, kind: str) -> None:
        """A polygon of points in metres."""
        flat = [self.project(*point) for point in points]
        self.picture.polygon(flat, fill=colour)
        self.mask.polygon(flat, fill=CLASS_INDEX[kind])

    def front(
        self, x0: float, y0: float, x1: float, y1: float, z: float, colour: Colour, kind: str
    ) -> None:
        """A rectangle that faces the camera."""
        self.polygon([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], colour, kind)

    def ball(self, x: float, y: float, z: float, radius: float, colour: Colour, kind: str) -> None:
        """A disc that faces the camera."""
        left, top = self.project(x - radius, y + radius, z)
        right, bottom = self.project(x + radius, y - radius, z)
        self.picture.ellipse((left, top, right, bottom), fill=colour)
        self.mask.ellipse((left, top, right, bottom), fill=CLASS_INDEX[kind])

    def note(
        self, name: str, attribute: str, x: float, width: float, height: float, z: float
    ) -> None:
        """List an object, if enough of it is in the picture."""
        left, top = self.project(x - width / 2, height, z)
        right, bottom = self.project(x + width / 2, 0, z)
        box = [max(0, left), max(0, top), min(WIDTH * SCALE, right), min(HEIGHT * SCALE, bottom)]
        if box[2] - box[0] > 5 and box[3] - box[1] > 7:
            a, b, c, d = (round(value / SCALE) for value in box)
            self.objects.append(SceneObject(name, attribute, (a, b, c, d)))


@dataclass(frozen=True)
class _Side:
    """One side of the street."""

    sign: int
    kind: int
    line: float  # metres from the middle of the road to the buildings


def render_street_view(world: World, column: int, row: int, view: int) -> StreetView:
    """A view from a street of a region.

    Args:
        world: the city.
        column: of the region, from the west.
        row: of the region, from the south.
        view: number of the view; the same number is the same picture.
    """
    rng = np.random.default_rng([world.hash_seed, column, row, view])
    x, y = _stand(world, rng, column, row)
    heading = float(rng.choice([0.0, 90.0, 180.0, 270.0]) + rng.normal(0, 3)) % 360
    latents = world.latents(np.array([x]), np.array([y]))
    local = {name: float(value[0]) for name, value in vars(latents).items()}
    kinds = _side_kinds(world, x, y, heading)
    season = SEASONS[rng.integers(4)]
    sky = SKIES[rng.choice(3, p=[0.5, 0.35, 0.15])]
    avenue = rng.uniform() < 0.2 + 0.5 * local["density"]

    size = (WIDTH * SCALE, HEIGHT * SCALE)
    image, mask = Image.new("RGB", size), Image.new("L", size, CLASS_INDEX["sky"])
    canvas = _Canvas(ImageDraw.Draw(image), ImageDraw.Draw(mask), SKY_COLOURS[sky][1])
    road = 9.5 if avenue else 5.0
    _draw_sky(canvas, sky, rng)
    _draw_ground(canvas, world, local, kinds, road, season, rng)
    sides = [_Side(s, k, road + 4.5 + _setback(k)) for s, k in zip((-1, 1), kinds, strict=True)]
    levels = _draw_sides(canvas, world, sides, local, road, season, sky, rng)
    _draw_traffic(canvas, local, kinds, road, rng)
    near_water = bool(world.river_distance(np.array([x]), np.array([y]))[0] < 0.2)
    reduced = image.filter(ImageFilter.GaussianBlur(0.6)).reduce(SCALE)
    noisy = np.asarray(reduced, dtype=np.int16) + rng.normal(0, 3, (HEIGHT, WIDTH, 1)).astype(
        np.int16
    )
    facts: dict[str, str | float] = {
        "season": season,
        "sky": sky,
        "left": KINDS[kinds[0]],
        "right": KINDS[kinds[1]],
        "road": "avenue" if avenue else "street",
        "storeys": levels,
        "near_river": float(near_water),
        "wealth": local["wealth"],
        "greenness": local["greenness"],
    }
    return StreetView(
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)),
        mask.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST),
        canvas.objects,
        facts,
        x,
        y,
        heading,
    )


def _stand(world: World, rng: np.random.Generator, column: int, row: int) -> tuple[float, float]:
    """A dry place in the region (the last drawn, where there is none)."""
    x = y = 0.0
    for _ in range(12):
        x, y = (np.array([column, row]) + rng.uniform(0.08, 0.92, size=2)) * CELL_KM
        if not world.is_water(np.array([x]), np.array([y]))[0]:
            break
    return float(x), float(y)


def _side_kinds(world: World, x: float, y: float, heading: float) -> tuple[int, int]:
    """Kinds of the blocks to the left and to the right."""
    angle = np.radians(heading)
    right = np.array([np.cos(angle), -np.sin(angle)]) * 0.09
    points = np.array([[x, y] - right, [x, y] + right])
    kind, _ = block_kinds(world, world.blocks(points[:, 0], points[:, 1]))
    return int(kind[0]), int(kind[1])


def _setback(kind: int) -> float:
    return {VILLAS: 7.0, ROWS: 1.0, SLABS: 5.0, TOWERS: 2.0, WORKS: 9.0}.get(kind, 3.0)


def _draw_sky(canvas: _Canvas, sky: str, rng: np.random.Generator) -> None:
    top, bottom = (np.array(colour, dtype=float) for colour in SKY_COLOURS[sky])
    horizon = HEIGHT * SCALE // 2 + 4
    for y in range(0, horizon, 4):
        red, green, blue = (int(v) for v in top + (bottom - top) * y / horizon)
        canvas.picture.rectangle((0, y, WIDTH * SCALE, y + 4), fill=(red, green, blue))
    if sky == "clear":
        for _ in range(rng.integers(1, 5)):
            x, y = rng.uniform(0, WIDTH * SCALE), rng.uniform(10, 130)
            for _ in range(4):
                dx, w = rng.normal(0, 30), rng.uniform(30, 70)
                canvas.picture.ellipse(
                    (x + dx - w, y - w / 5, x + dx + w, y + w / 5), fill=(236, 241, 246)
                )


def _draw_ground(canvas: _Canvas, world: World, local: dict[str, float], kinds: tuple[int, int], road: float, season: str, rng: np.random.Generator) -> None:  # fmt: skip
    lawn = np.array(world.style.grass if season != "winter" else (150, 148, 132), dtype=float)
    soil = np.array(world.style.soil, dtype=float)
    for sign, kind in zip((-1, 1), kinds, strict=True):
        green = 0.9 if kind in (PARK, VILLAS, SPORTS, FIELD) else 0.5 * local["greenness"]
        base = soil + (lawn - soil) * green
        if kind in (TOWERS, WORKS, CAR_PARK):
            base = np.array((150, 148, 146)) * (0.85 + 0.25 * local["wealth"])
        colour = canvas.shade(base, 10)
        outer = [
            (sign * 400, 0, NEAR_M),
            (sign * road, 0, NEAR_M),
            (sign * road, 0, 400),
            (sign * 400, 0, 400),
        ]
        canvas.polygon(outer, colour, "vegetation" if green > 0.6 else "ground")
        if kind != FIELD:
            walk = canvas.shade(np.array((168, 162, 154)) * (0.8 + 0.3 * local["wealth"]), 10)
            inner = [(sign * road, 0, NEAR_M), (sign * (road + 3), 0, NEAR_M), (sign * (road + 3), 0, 300), (sign * road, 0, 300)]  # fmt: skip
            canvas.polygon(inner, walk, "pavement")
    tarmac = canvas.shade(np.array((104, 104, 108)) + 12 * rng.normal(), 8)
    canvas.polygon(
        [(-road, 0, NEAR_M), (road, 0, NEAR_M), (road, 0, 400), (-road, 0, 400)], tarmac, "road"
    )
    for z in np.arange(4, 90, 6.0):
        lanes = (-road / 2, 0.0, road / 2) if road > 6 else (0.0,)
        for x in lanes:
            paint = canvas.shade((222, 220, 206), z)
            canvas.polygon(
                [(x - 0.1, 0, z), (x + 0.1, 0, z), (x + 0.1, 0, z + 3), (x - 0.1, 0, z + 3)],
                paint,
                "road",
            )
    if rng.uniform() < 0.15 + 0.6 * local["density"]:
        z = rng.uniform(6, 16)
        for x in np.arange(-road + 0.4, road - 0.6, 1.2):
            canvas.polygon(
                [(x, 0, z), (x + 0.6, 0, z), (x + 0.6, 0, z + 3), (x, 0, z + 3)],
                canvas.shade((236, 236, 230), z),
                "road",
            )
        canvas.note("zebra crossing", "white", 0, 2 * road, 0.6, z)
    if local["wealth"] < 0.35:
        for _ in range(rng.integers(3, 9)):
            x, z = rng.uniform(-road, road), rng.uniform(4, 25)
            canvas.polygon(
                [(x, 0, z), (x + 1.1, 0, z + 0.2), (x + 0.9, 0, z + 1.2), (x - 0.2, 0, z + 0.8)],
                canvas.shade((84, 84, 86), z),
                "road",
            )
        canvas.note("pothole", "patched", 0, road, 0.5, 8)


def _draw_sides(canvas: _Canvas, world: World, sides: list[_Side], local: dict[str, float], road: float, season: str, sky: str, rng: np.random.Generator) -> float:  # fmt: skip
    """Lots from far to near on both sides; returns the mean storeys."""
    levels: list[float] = []
    for side in sides:
        length = {VILLAS: 22.0, ROWS: 7.5, SLABS: 34.0, TOWERS: 26.0, WORKS: 46.0}.get(
            side.kind, 20.0
        )
        z = FAR_M
        while z > 5:
            near = max(NEAR_M + 0.5, z - length)
            if side.kind in (VILLAS, ROWS, SLABS, TOWERS):
                levels.append(_building(canvas, world, side, local, near, z, sky, rng))
            elif side.kind == WORKS:
                _shed(canvas, side, near, z, rng)
            elif side.kind in (SPORTS, CAR_PARK):
                _open_lot(canvas, side, near, z, rng)
            _greenery(canvas, side, local, near, z, season, rng)
            _furniture(canvas, side, local, road, near, z, rng)
            z = near if near > NEAR_M + 0.5 else 0
    return float(np.mean(levels)) if levels else 0.0


def _building(canvas: _Canvas, world: World, side: _Side, local: dict[str, float], near: float, far: float, sky: str, rng: np.random.Generator) -> float:  # fmt: skip
    style = world.style
    one = Latents(*(np.array([local[name]]) for name in vars_of_latents()))
    level = float(storeys(world, np.array([side.kind]), one, np.array([rng.uniform()]))[0])
    height = STOREY_M * level + (0.6 if side.kind >= SLABS else 0.0)
    rank = np.clip(local["wealth"] + rng.normal(0, 0.12), 0, 0.999)
    facade = np.array(style.facades[int(rank * len(style.facades))]) + rng.normal(0, 8)
    if side.kind == TOWERS and local["wealth"] > 0.55 and rng.uniform() < 0.6:
        facade = np.array((118, 148, 172)) + rng.normal(0, 10)  # glass
    gap = {VILLAS: 6.0, SLABS: 9.0, TOWERS: 5.0}.get(side.kind, 0.0)
    z0, z1, s, x = near + gap / 2, far - gap / 2, side.sign, side.line
    if z1 - z0 < 2:
        return level
    canvas.front(s * x, 0, s * (x + 14), height, z1, canvas.shade(facade, z1, 0.7), "building")
    canvas.polygon([(s * x, 0, z0), (s * x, 0, z1), (s * x, height, z1), (s * x, height, z0)], canvas.shade(facade, z0, 0.92 if s < 0 else 1.02), "building")  # fmt: skip
    canvas.front(s * x, 0, s * (x + 14), height, z0, canvas.shade(facade, z0, 0.8), "building")
    if side.kind in (VILLAS, ROWS):
        roof = canvas.shade(np.array(style.roofs[rng.integers(len(style.roofs))]), z0)
        top = height + 3.0
        canvas.polygon([(s * x, height, z0), (s * x, height, z1), (s * (x + 5), top, z1), (s * (x + 5), top, z0)], roof, "building")  # fmt: skip
        canvas.polygon([(s * x, height, z0), (s * (x + 5), top, z0), (s * (x + 10), height, z0)], canvas.shade(facade, z0, 0.85), "building")  # fmt: skip
    lit = sky == "evening"
    pane = (248, 214, 130) if lit else (70, 84, 100)
    bays = max(1, int((z1 - z0) / 3.2))
    for floor in range(min(int(level), 16)):
        y0 = floor * STOREY_M + 1.0
        shop = (
            floor == 0
            and side.kind in (ROWS, SLABS, TOWERS)
            and rng.uniform() < local["night_life"]
        )
        for bay in range(bays):
            a = z0 + (bay + 0.25) * (z1 - z0) / bays
            b = z0 + (bay + 0.75) * (z1 - z0) / bays
            if a > 75:
                break
            if lit and rng.uniform() < 0.4:
                glass = canvas.shade((60, 66, 78), a)
            else:
                glass = canvas.shade(pane, a)
            low, high = (0.2, 2.4) if shop else (y0, y0 + 1.5)
            canvas.polygon([(s * (x - 0.02), low, a), (s * (x - 0.02), low, b), (s * (x - 0.02), high, b), (s * (x - 0.02), high, a)], glass, "building")  # fmt: skip
        if shop:
            colour = SIGNS[rng.integers(len(SIGNS))]
            canvas.polygon([(s * (x - 0.1), 2.5, z0), (s * (x - 0.1), 2.5, z1), (s * (x - 0.1), 3.3, z1), (s * (x - 0.1), 3.3, z0)], canvas.shade(colour, z0), "sign")  # fmt: skip
            canvas.note("shop sign", "bright", s * x, 2.5, 3.3, (z0 + z1) / 2)
    name = {
        VILLAS: "detached house",
        ROWS: "terraced house",
        SLABS: "apartment block",
        TOWERS: "tower",
    }
    state = (
        "well-kept" if local["wealth"] > 0.6 else "weathered" if local["wealth"] < 0.35 else "plain"
    )
    canvas.note(name[side.kind], state, s * (x + 3), 8, height, (z0 + z1) / 2)
    return level


def vars_of_latents() -> tuple[str, ...]:
    """Names of the latents in the order of `Latents`."""
    return tuple(Latents.__dataclass_fields__)


def _shed(canvas: _Canvas, side: _Side, near: float, far: float, rng: np.random.Generator) -> None:
    s, x, z0, z1 = side.sign, side.line, near + 4, far - 6
    if z1 - z0 < 3:
        return
    sheet = np.array(
        [(182, 186, 190), (110, 134, 162), (160, 158, 150), (146, 96, 80)][rng.integers(4)]
    )
    height = rng.uniform(7, 12)
    canvas.polygon(
        [(s * x, 0, z0), (s * x, 0, z1), (s * x, height, z1), (s * x, height, z0)],
        canvas.shade(sheet, z0),
        "building",
    )
    canvas.front(s * x, 0, s * (x + 26), height, z0, canvas.shade(sheet, z0, 0.82), "building")
    for z in np.arange(z0, z1, 2.5):
        canvas.polygon([(s * (x - 0.02), 0, z), (s * (x - 0.02), 0, z + 0.3), (s * (x - 0.02), height, z + 0.3), (s * (x - 0.02), height, z)], canvas.shade(sheet, z, 0.88), "building")  # fmt: skip
    canvas.note("factory shed", "corrugated", s * (x + 4), 16, height, (z0 + z1) / 2)
    if rng.uniform() < 0.45:
        top, cx = rng.uniform(22, 38), s * (x + rng.uniform(8, 18))
        canvas.front(
            cx - 1.1, 0, cx + 1.1, top, z0 + 3, canvas.shade((164, 108, 88), z0), "building"
        )
        canvas.front(
            cx - 1.1,
            top - 3,
            cx + 1.1,
            top - 1.5,
            z0 + 3,
            canvas.shade((226, 222, 214), z0),
            "building",
        )
        canvas.note("chimney", "tall", cx, 2.2, top, z0 + 3)
    fence = s * (x - 6)
    canvas.polygon(
        [(fence, 0, near), (fence, 0, far), (fence, 1.9, far), (fence, 1.9, near)],
        canvas.shade((128, 132, 134), near),
        "fence",
    )
    canvas.note("fence", "grey", fence, 3, 1.9, (near + far) / 2)


def _open_lot(
    canvas: _Canvas, side: _Side, near: float, far: float, rng: np.random.Generator
) -> None:
    x = side.sign * (side.line + 6)
    if side.kind == SPORTS:
        colour = canvas.shade((84, 146, 72), near)
        canvas.polygon(
            [
                (x, 0.02, near),
                (x + side.sign * 40, 0.02, near),
                (x + side.sign * 40, 0.02, far),
                (x, 0.02, far),
            ],
            colour,
            "ground",
        )
        canvas.front(x - 0.1, 0, x + 0.1, 4, near, canvas.shade((230, 230, 226), near), "pole")
        canvas.note("playing field", "marked", x + side.sign * 4, 10, 1.5, near + 4)
        return
    for step in range(3):
        z = near + 4 + 5 * step
        if z < far and rng.uniform() < 0.7:
            _car(canvas, x + side.sign * rng.uniform(0, 8), z, rng)


def _greenery(canvas: _Canvas, side: _Side, local: dict[str, float], near: float, far: float, season: str, rng: np.random.Generator) -> None:  # fmt: skip
    chance = {PARK: 0.95, VILLAS: 0.7, FIELD: 0.12}.get(side.kind, 0.75 * local["greenness"])
    step = 5.0 if side.kind == PARK else 9.0
    for z in np.arange(far, near, -step):
        if rng.uniform() > chance:
            continue
        reach = rng.uniform(0, 14) if side.kind == PARK else rng.uniform(-0.5, 1.0)
        x = side.sign * (side.line - 2.0 + reach)
        height, crown = rng.uniform(5, 9.5), rng.uniform(1.6, 2.9)
        bark = canvas.shade((88, 70, 56), z)
        canvas.front(x - 0.16, 0, x + 0.16, height - crown, z, bark, "vegetation")
        leaf = np.array(LEAVES[season]) + rng.normal(0, 9, 3)
        bare = season == "winter"
        for _ in range(3 if bare else 5):
            dx, dy = rng.normal(0, crown / 2.4, 2)
            radius = crown * (0.35 if bare else 0.62)
            canvas.ball(
                x + dx,
                height - crown + dy,
                z,
                radius,
                canvas.shade(leaf, z, rng.uniform(0.85, 1.12)),
                "vegetation",
            )
        canvas.note(
            "tree",
            {"autumn": "golden", "winter": "bare"}.get(season, "leafy"),
            x,
            2 * crown,
            height,
            z,
        )


def _furniture(canvas: _Canvas, side: _Side, local: dict[str, float], road: float, near: float, far: float, rng: np.random.Generator) -> None:  # fmt: skip
    walk = side.sign * (road + 1.4)
    if side.kind != FIELD and rng.uniform() < 0.55:
        z = rng.uniform(near, far)
        canvas.front(walk - 0.08, 0, walk + 0.08, 6.5, z, canvas.shade((92, 94, 98), z), "pole")
        canvas.front(min(walk, walk - side.sign * 1.6), 6.3, max(walk, walk - side.sign * 1.6), 6.5, z, canvas.shade((92, 94, 98), z), "pole")  # fmt: skip
        canvas.note("street lamp", "tall", walk, 1.0, 6.5, z)
    crowd = 2.2 * local["night_life"] + 0.4 * local["density"]
    for _ in range(rng.poisson(crowd * (far - near) / 22)):
        z = rng.uniform(near, far)
        x = side.sign * (road + rng.uniform(0.5, 2.7))
        coat = canvas.shade(SIGNS[rng.integers(5)] if rng.uniform() < 0.4 else (64, 66, 76), z)
        canvas.front(x - 0.25, 0, x + 0.25, 0.85, z, canvas.shade((52, 54, 66), z), "person")
        canvas.front(x - 0.3, 0.85, x + 0.3, 1.5, z, coat, "person")
        canvas.ball(x, 1.66, z, 0.16, canvas.shade((206, 168, 140), z), "person")
        canvas.note("pedestrian", "walking", x, 0.6, 1.8, z)
    if local["night_life"] > 0.4 and rng.uniform() < 0.3:
        z = rng.uniform(near, far)
        canvas.front(walk - 0.9, 0.4, walk + 0.9, 0.8, z, canvas.shade((124, 88, 60), z), "pole")
        canvas.note("bench", "wooden", walk, 1.8, 0.8, z)


def _car(canvas: _Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    paint = np.array(CARS[rng.integers(len(CARS))], dtype=float)
    canvas.front(x - 0.9, 0.3, x + 0.9, 1.0, z, canvas.shade(paint, z), "vehicle")
    canvas.front(x - 0.72, 1.0, x + 0.72, 1.5, z, canvas.shade((58, 70, 84), z), "vehicle")
    for wheel in (-0.65, 0.65):
        canvas.ball(x + wheel, 0.3, z, 0.3, canvas.shade((30, 30, 32), z), "vehicle")
    canvas.note(
        "car",
        ("white", "black", "red", "blue", "silver", "green")[
            CARS.index(tuple(int(v) for v in paint))
        ],
        x,
        1.8,
        1.5,
        z,
    )  # type: ignore[arg-type]


def _draw_traffic(canvas: _Canvas, local: dict[str, float], kinds: tuple[int, int], road: float, rng: np.random.Generator) -> None:  # fmt: skip
    """Far to near: moving and parked cars, buses downtown, lorries by the works."""
    count = rng.poisson(0.6 + 6.5 * local["density"] + 2.0 * local["night_life"])
    for z in sorted(rng.uniform(8, 80, size=count), reverse=True):
        parked = rng.uniform() < 0.45
        x = rng.choice([-1, 1]) * (road - 1.1 if parked else rng.uniform(0.3, 0.6) * road)
        lorry = WORKS in kinds and rng.uniform() < 0.4
        bus = not lorry and not parked and local["density"] > 0.4 and rng.uniform() < 0.12
        if lorry or bus:
            colour = (196, 120, 50) if lorry else (60, 132, 176)
            canvas.front(x - 1.2, 0.5, x + 1.2, 3.2, z, canvas.shade(colour, z), "vehicle")
            canvas.front(x - 1.0, 1.7, x + 1.0, 2.7, z, canvas.shade((56, 66, 78), z), "vehicle")
            canvas.note("lorry" if lorry else "bus", "orange" if lorry else "blue", x, 2.4, 3.2, z)
        else:
            _car(canvas, float(x), float(z), rng)


__all__ = ["CLASSES", "HEIGHT", "WIDTH", "SceneObject", "StreetView", "render_street_view"]
