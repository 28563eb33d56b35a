"""Cars, buses and lorries on and beside a street."""

from .districts import WORKS
from .scene import Canvas, Scene
from .styles import Colour

CARS: dict[str, Colour] = {
    "white": (214, 216, 218),
    "black": (54, 56, 60),
    "red": (158, 40, 38),
    "blue": (44, 74, 130),
    "silver": (186, 184, 176),
    "green": (92, 108, 84),
}
LORRY, BUS = (196, 120, 50), (60, 132, 176)


def draw_traffic(canvas: Canvas, scene: Scene) -> None:
    """Far to near: moving and parked cars, buses downtown, lorries by the works."""
    density, rng, road = scene.latents["density"], scene.rng, scene.road_m
    count = rng.poisson(0.6 + 6.5 * density + 2.0 * scene.latents["night_life"])
    for z in sorted(rng.uniform(8, 80, size=count).tolist(), reverse=True):
        parked = scene.chance(0.45)
        x = road - 1.1 if parked else rng.uniform(0.3, 0.6) * road
        x = -x if scene.chance(0.5) else x
        if WORKS in scene.kinds and scene.chance(0.4):
            _draw_large(canvas, x, z, "lorry")
        elif not parked and density > 0.4 and scene.chance(0.12):
            _draw_large(canvas, x, z, "bus")
        else:
            draw_car(canvas, scene, x, z)


def draw_car(canvas: Canvas, scene: Scene, x: float, z: float) -> None:
    """A car, seen from behind, `x` metres to the right and `z` ahead."""
    colour = list(CARS)[int(scene.rng.integers(len(CARS)))]
    canvas.front((x - 0.9, x + 0.9), (0.3, 1.0), z, canvas.shade(CARS[colour], z), "vehicle")
    glass = canvas.shade((58, 70, 84), z)
    canvas.front((x - 0.72, x + 0.72), (1.0, 1.5), z, glass, "vehicle")
    for wheel in (-0.65, 0.65):
        canvas.ball((x + wheel, 0.3, z), 0.3, canvas.shade((30, 30, 32), z), "vehicle")
    canvas.note("car", colour, (x, z), (1.8, 1.5))


def _draw_large(canvas: Canvas, x: float, z: float, name: str) -> None:
    colour, attribute = (LORRY, "orange") if name == "lorry" else (BUS, "blue")
    canvas.front((x - 1.2, x + 1.2), (0.5, 3.2), z, canvas.shade(colour, z), "vehicle")
    canvas.front((x - 1.0, x + 1.0), (1.7, 2.7), z, canvas.shade((56, 66, 78), z))
    for wheel in (-0.85, 0.85):
        canvas.ball((x + wheel, 0.45, z), 0.45, canvas.shade((30, 30, 32), z), "vehicle")
    canvas.note(name, attribute, (x, z), (2.4, 3.2))


__all__ = ["draw_car", "draw_traffic"]
