"""Street views: a road in one-point perspective, with what stands, grows and drives beside it."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .districts import CAR_PARK, FIELD, KINDS, PARK, SPORTS, TOWERS, VILLAS, WORKS, block_kinds
from .frontage import SETBACK_M, draw_side
from .scene import (
    CLASSES,
    HEIGHT,
    NEAR_M,
    SCALE,
    SKY_COLOURS,
    WIDTH,
    Canvas,
    Scene,
    SceneObject,
    Side,
    blended,
    scaled,
)
from .styles import Colour
from .vehicles import draw_traffic
from .world import CELL_KM, World

SEASONS = ("spring", "summer", "autumn", "winter")
SKIES = tuple(SKY_COLOURS)
SKY_CHANCES = (0.5, 0.35, 0.15)
AVENUE_M, STREET_M, VERGE_M = 9.5, 5.0, 4.5
WITHERED: Colour = (150, 148, 132)
PAINT: Colour = (222, 220, 206)
NEAR_RIVER_KM = 0.2
SENSOR_NOISE = 3.0


@dataclass(frozen=True)
class StreetView:
    """A street view and what is in it.

    Attributes:
        image: `WIDTH` x `HEIGHT`, RGB.
        mask: same size, index into `CLASSES`.
        objects: what was drawn and can be seen, about far to near.
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
    scene = _scene(world, rng, x, y, heading)
    canvas = Canvas(scene.sky)
    _draw_sky(canvas, scene)
    _draw_ground(canvas, scene)
    levels: list[float] = []
    for sign, kind in zip((-1, 1), scene.kinds, strict=True):
        line_m = scene.road_m + VERGE_M + SETBACK_M.get(kind, 3.0)
        levels += draw_side(canvas, scene, Side(sign, kind, line_m))
    draw_traffic(canvas, scene)
    near_river = world.river_distance(np.array([x]), np.array([y]))[0] < NEAR_RIVER_KM
    facts = {
        **_facts(scene),
        "storeys": float(np.mean(levels)) if levels else 0.0,
        "near_river": float(near_river),
    }
    objects = canvas.visible_objects(np.asarray(canvas.mask))
    return StreetView(_expose(canvas, rng), canvas.mask, objects, facts, x, y, heading)


def _stand(world: World, rng: np.random.Generator, column: int, row: int) -> tuple[float, float]:
    """A dry place in the region (the first drawn, where there is none)."""
    places = (np.array([column, row]) + rng.uniform(0.08, 0.92, size=(12, 2))) * CELL_KM
    dry = ~world.is_water(places[:, 0], places[:, 1])
    x, y = places[np.argmax(dry)].tolist()
    return x, y


def _scene(world: World, rng: np.random.Generator, x: float, y: float, heading: float) -> Scene:
    latents = world.latents(np.array([x]), np.array([y]))
    local = {name: float(value[0]) for name, value in vars(latents).items()}
    avenue = rng.uniform() < 0.2 + 0.5 * local["density"]
    return Scene(
        world=world,
        latents=local,
        kinds=_side_kinds(world, x, y, heading),
        season=SEASONS[int(rng.integers(len(SEASONS)))],
        sky=SKIES[int(rng.choice(len(SKIES), p=SKY_CHANCES))],
        road_m=AVENUE_M if avenue else STREET_M,
        rng=rng,
    )


def _side_kinds(world: World, x: float, y: float, heading: float) -> tuple[int, int]:
    """Kinds of the blocks to the left and to the right."""
    angle = np.radians(heading)
    right = np.array([np.cos(angle), -np.sin(angle)]) * 0.09
    xs, ys = x + np.array([-1, 1]) * right[0], y + np.array([-1, 1]) * right[1]
    blocks = world.blocks(xs, ys)
    kind, _ = block_kinds(world, blocks.column, blocks.row)
    return int(kind[0]), int(kind[1])


def _facts(scene: Scene) -> dict[str, str | float]:
    left, right = scene.kinds
    return {
        "season": scene.season,
        "sky": scene.sky,
        "left": KINDS[left],
        "right": KINDS[right],
        "road": "avenue" if scene.road_m == AVENUE_M else "street",
        "wealth": scene.latents["wealth"],
        "greenness": scene.latents["greenness"],
    }


def _expose(canvas: Canvas, rng: np.random.Generator) -> Image.Image:
    """The picture at its size, with the noise of a sensor."""
    picture = np.asarray(canvas.image.reduce(SCALE), dtype=np.float32)
    picture = picture + SENSOR_NOISE * rng.standard_normal((HEIGHT, WIDTH, 1), dtype=np.float32)
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


# ---- sky and ground ---------------------------------------------------------------------------


def _draw_sky(canvas: Canvas, scene: Scene) -> None:
    top, bottom = SKY_COLOURS[scene.sky]
    width, horizon = WIDTH * SCALE, HEIGHT * SCALE // 2 + 4
    for line in range(0, horizon, 4):
        colour = blended(top, bottom, line / horizon)
        canvas.picture.rectangle((0, line, width, line + 4), fill=colour)
    if scene.sky != "clear":
        return
    for _ in range(scene.rng.integers(1, 5)):
        x, y = scene.rng.uniform(0, width), scene.rng.uniform(10, 130)
        for _ in range(4):
            middle, half = x + scene.rng.normal(0, 30), scene.rng.uniform(30, 70)
            box = (middle - half, y - half / 5, middle + half, y + half / 5)
            canvas.picture.ellipse(box, fill=(236, 241, 246))


def _draw_ground(canvas: Canvas, scene: Scene) -> None:
    road, wealth = scene.road_m, scene.latents["wealth"]
    for sign, kind in zip((-1, 1), scene.kinds, strict=True):
        colour, name = _ground(scene, kind)
        canvas.floor((sign * road, sign * 400), (NEAR_M, 400), canvas.shade(colour, 10), name)
        if kind != FIELD:
            walk = canvas.shade((168, 162, 154), 10, 0.8 + 0.3 * wealth)
            canvas.floor((sign * road, sign * (road + 3)), (NEAR_M, 300), walk, "pavement")
    tone = 104 + 12 * scene.rng.normal()
    canvas.floor((-road, road), (NEAR_M, 400), canvas.shade((tone, tone, tone + 4), 8), "road")
    _draw_lanes(canvas, scene)
    if scene.chance(0.15 + 0.6 * scene.latents["density"]):
        _draw_crossing(canvas, scene)
    if wealth < 0.35:
        _draw_potholes(canvas, scene)


def _ground(scene: Scene, kind: int) -> tuple[Colour, str]:
    """Colour and class of the ground on a side."""
    style, latents = scene.world.style, scene.latents
    green = 0.9 if kind in (PARK, VILLAS, SPORTS, FIELD) else 0.5 * latents["greenness"]
    name = "vegetation" if green > 0.6 else "ground"
    if kind in (TOWERS, WORKS, CAR_PARK):
        return scaled((150, 148, 146), 0.85 + 0.25 * latents["wealth"]), "ground"
    lawn = WITHERED if scene.season == "winter" else style.grass
    return blended(style.soil, lawn, green), name


def _draw_lanes(canvas: Canvas, scene: Scene) -> None:
    road = scene.road_m
    lanes = (-road / 2, 0.0, road / 2) if road == AVENUE_M else (0.0,)
    for z in range(4, 90, 6):
        for x in lanes:
            canvas.floor((x - 0.1, x + 0.1), (z, z + 3), canvas.shade(PAINT, z))


def _draw_crossing(canvas: Canvas, scene: Scene) -> None:
    road, z = scene.road_m, scene.rng.uniform(6, 16)
    paint = canvas.shade((236, 236, 230), z)
    for x in np.arange(-road + 0.4, road - 0.6, 1.2).tolist():
        canvas.floor((x, x + 0.6), (z, z + 3), paint)
    canvas.note("zebra crossing", "white", (0, z), (2 * road, 0.6))


def _draw_potholes(canvas: Canvas, scene: Scene) -> None:
    road = scene.road_m
    for _ in range(scene.rng.integers(3, 9)):
        x, z = scene.rng.uniform(-road, road), scene.rng.uniform(4, 25)
        hole = ((x, 0, z), (x + 1.1, 0, z + 0.2), (x + 0.9, 0, z + 1.2), (x - 0.2, 0, z + 0.8))
        canvas.polygon(hole, canvas.shade((84, 84, 86), z))
    canvas.note("pothole", "patched", (0, 8), (road, 0.5))


__all__ = ["CLASSES", "HEIGHT", "WIDTH", "StreetView", "render_street_view"]
