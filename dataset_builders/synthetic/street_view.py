"""Rendering of street views: a road in one-point perspective with its surroundings."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .acquisition import Acquisition, Shot, draw_shot, expose
from .roadside import SETBACK_M, WITHERED, draw_side, draw_traffic
from .scene import (
    HEIGHT,
    NEAR_M,
    SCALE,
    SKY_COLOURS,
    WIDTH,
    Canvas,
    Paint,
    Scene,
    SceneObject,
    Side,
    blended,
    tinted,
)
from .styles import Colour
from .world import CELL_KM, Kind, World

SEASONS = ("spring", "summer", "autumn", "winter")
SKIES, SKY_CHANCES = tuple(SKY_COLOURS), (0.5, 0.35, 0.15)
VERGE_M = 4.5
SIDE_KM = 0.09  # distance from the camera to the blocks on both sides
CLOUD = (236, 241, 246)
PAINT, STRIPE, HOLE = Paint((222, 220, 206)), Paint((236, 236, 230)), Paint((84, 84, 86))
NEAR_RIVER_KM = 0.2
SENSOR_NOISE = 3.0


@dataclass(frozen=True)
class StreetView:
    """Rendered street view with its ground truth."""

    image: Image.Image  # RGB image of `WIDTH` x `HEIGHT` pixels
    mask: Image.Image  # segmentation mask of the same size, index into `CLASSES`
    objects: list[SceneObject]  # visible objects, roughly from far to near
    scene: Scene  # season, sky and surroundings
    storeys: float  # mean number of storeys of the buildings; 0 without buildings
    near_river: bool  # whether a river is close by
    x_km: float  # eastward coordinate of the camera
    y_km: float  # northward coordinate of the camera
    heading: float  # direction of the camera in degrees clockwise from north
    shot: Shot | None  # light, weather and camera; None for plain acquisition


def render_street_view(
    world: World, column: int, row: int, view: int, acquisition: Acquisition = "plain"
) -> StreetView:
    """Render a street view of a region.

    Args:
        world: City.
        column: Column of the region, from the west.
        row: Row of the region, from the south.
        view: Index of the view in the region.
        acquisition: "realistic" for varying light, weather and camera, or "plain".
    """
    rng = np.random.default_rng([world.hash_seed, column, row, view])
    # the first candidate on land, or the first candidate if all are in water
    places = (np.array([column, row]) + rng.uniform(0.08, 0.92, size=(12, 2))) * CELL_KM
    x, y = places[np.argmax(~world.is_water(places[:, 0], places[:, 1]))].tolist()
    heading = float(rng.choice([0.0, 90.0, 180.0, 270.0]) + rng.normal(0, 3)) % 360
    scene = _scene(world, rng, x, y, heading)
    realistic = acquisition == "realistic"
    shot = draw_shot(world, column, row, view, scene.sky) if realistic else None
    canvas = Canvas(scene.sky, shot.visibility_km if shot else None)
    _draw_sky(canvas, scene)
    _draw_ground(canvas, scene)
    levels: list[float] = []
    for sign, kind in zip((-1, 1), scene.kinds, strict=True):
        line_m = scene.road_m + VERGE_M + SETBACK_M.get(kind, 3.0)
        levels += draw_side(canvas, scene, Side(sign, kind, line_m))
    draw_traffic(canvas, scene)
    river_km = float(world.river_distance(np.array([x]), np.array([y]))[0])
    reduced = canvas.image.reduce(SCALE)
    image = expose(reduced, shot) if shot else np.asarray(reduced, dtype=np.float32)
    noise = rng.standard_normal((HEIGHT, WIDTH, 1), dtype=np.float32)
    image = image + (shot.noise if shot else SENSOR_NOISE) * noise
    return StreetView(
        image=Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)),
        mask=canvas.mask,
        objects=canvas.visible_objects(),
        scene=scene,
        storeys=float(np.mean(levels)) if levels else 0.0,
        near_river=river_km < NEAR_RIVER_KM,
        x_km=x,
        y_km=y,
        heading=heading,
        shot=shot,
    )


def _scene(world: World, rng: np.random.Generator, x: float, y: float, heading: float) -> Scene:
    latents = world.latents(np.array([x]), np.array([y]))
    local = {name: float(value[0]) for name, value in latents.items()}
    avenue = rng.uniform() < 0.2 + 0.5 * local["density"]
    angle = np.radians(heading)
    right = np.array([np.cos(angle), -np.sin(angle)]) * SIDE_KM
    blocks = world.blocks(x + np.array([-1, 1]) * right[0], y + np.array([-1, 1]) * right[1])
    kinds, _ = world.block_kinds(blocks.column, blocks.row)
    return Scene(
        world=world,
        latents=local,
        kinds=(Kind(kinds[0]), Kind(kinds[1])),
        season=SEASONS[int(rng.integers(len(SEASONS)))],
        sky=SKIES[int(rng.choice(len(SKIES), p=SKY_CHANCES))],
        road="avenue" if avenue else "street",
        rng=rng,
    )


def _draw_sky(canvas: Canvas, scene: Scene) -> None:
    top, bottom = SKY_COLOURS[scene.sky]
    width, horizon = WIDTH * SCALE, HEIGHT * SCALE // 2 + 4
    for line in range(0, horizon, 4):
        colour = blended(top, bottom, line / horizon)
        canvas.draw.rectangle((0, line, width, line + 4), fill=colour)
    for _ in range(scene.rng.integers(1, 5) if scene.sky == "clear" else 0):
        x, y = scene.rng.uniform(0, width), scene.rng.uniform(10, 130)
        for _ in range(4):
            middle, half = x + scene.rng.normal(0, 30), scene.rng.uniform(30, 70)
            box = (middle - half, y - half / 5, middle + half, y + half / 5)
            canvas.draw.ellipse(box, fill=CLOUD)


def _draw_ground(canvas: Canvas, scene: Scene) -> None:
    road, wealth, rng = scene.road_m, scene.latents["wealth"], scene.rng
    walk = Paint((168, 162, 154), "pavement", 0.8 + 0.3 * wealth)
    for sign, kind in zip((-1, 1), scene.kinds, strict=True):
        canvas.floor((sign * road, sign * 400), (NEAR_M, 400), _ground(scene, kind), 10)
        if kind != Kind.FIELD:
            canvas.floor((sign * road, sign * (road + 3)), (NEAR_M, 300), walk, 10)
    tone = 104 + 12 * rng.normal()
    canvas.floor((-road, road), (NEAR_M, 400), Paint((tone, tone, tone + 4), "road"), 8)
    for ahead in range(4, 90, 6):
        for x in (-road / 2, 0.0, road / 2) if scene.road == "avenue" else (0.0,):
            canvas.floor((x - 0.1, x + 0.1), (ahead, ahead + 3), PAINT)
    if scene.chance(0.15 + 0.6 * scene.latents["density"]):
        z = rng.uniform(6, 16)
        for x in np.arange(-road + 0.4, road - 0.6, 1.2).tolist():
            canvas.floor((x, x + 0.6), (z, z + 3), STRIPE)
        canvas.note("zebra crossing", "white", (0, z), (2 * road, 0.6))
    if wealth < 0.35:
        for _ in range(rng.integers(3, 9)):
            x, z = rng.uniform(-road, road), rng.uniform(4, 25)
            hole = ((x, 0, z), (x + 1.1, 0, z + 0.2), (x + 0.9, 0, z + 1.2), (x - 0.2, 0, z + 0.8))
            canvas.polygon(hole, HOLE)
        canvas.note("pothole", "patched", (0, 8), (road, 0.5))


def _ground(scene: Scene, kind: Kind) -> Paint:
    style, latents = scene.world.style, scene.latents
    if kind in (Kind.TOWERS, Kind.WORKS, Kind.CAR_PARK):
        return Paint(tinted((150, 148, 146), 0.85 + 0.25 * latents["wealth"]), "ground")
    open_kinds = (Kind.PARK, Kind.VILLAS, Kind.SPORTS, Kind.FIELD)
    green = 0.9 if kind in open_kinds else 0.5 * latents["greenness"]
    lawn: Colour = WITHERED if scene.season == "winter" else style.grass
    return Paint(blended(style.soil, lawn, green), "vegetation" if green > 0.6 else "ground")
