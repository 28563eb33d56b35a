"""What stands beside a street: buildings, sheds, fields, trees, lamps and people, far to near."""

import numpy as np

from .districts import (
    CAR_PARK,
    FIELD,
    PARK,
    ROWS,
    SLABS,
    SPORTS,
    TOWERS,
    VILLAS,
    WORKS,
    storeys,
)
from .scene import FAR_M, NEAR_M, Canvas, Pixel, Scene, Side, shifted
from .styles import Colour
from .vehicles import draw_car

STOREY_M, BAY_M = 3.2, 3.2
FARTHEST_WINDOW_M, WINDOW_STOREYS = 75.0, 16
HOUSES = (VILLAS, ROWS, SLABS, TOWERS)
NAMES = {
    VILLAS: "detached house",
    ROWS: "terraced house",
    SLABS: "apartment block",
    TOWERS: "tower",
}
LOT_M = {VILLAS: 22.0, ROWS: 7.5, SLABS: 34.0, TOWERS: 26.0, WORKS: 46.0}
GAP_M = {VILLAS: 6.0, SLABS: 9.0, TOWERS: 5.0}
SETBACK_M = {VILLAS: 7.0, ROWS: 1.0, SLABS: 5.0, TOWERS: 2.0, WORKS: 9.0}
GLASS, LIT, DARK = (70, 84, 100), (248, 214, 130), (60, 66, 78)
LEAVES: dict[str, Colour] = {
    "spring": (126, 168, 88),
    "summer": (66, 112, 52),
    "autumn": (186, 126, 52),
    "winter": (112, 100, 88),
}
FOLIAGE = {"autumn": "golden", "winter": "bare"}
SHEETS: tuple[Colour, ...] = ((182, 186, 190), (110, 134, 162), (160, 158, 150), (146, 96, 80))
SIGNS: tuple[Colour, ...] = (
    (214, 52, 44),
    (240, 190, 40),
    (36, 120, 190),
    (30, 150, 96),
    (176, 60, 160),
)


def draw_side(canvas: Canvas, scene: Scene, side: Side) -> list[float]:
    """Everything on one side of the street.

    Returns:
        The storeys of its buildings.
    """
    lots = _lots(side)
    levels = _storeys(scene, side, len(lots)) if side.kind in HOUSES else []
    for number, lot in enumerate(lots):
        if levels:
            _building(canvas, scene, side, lot, levels[number])
        elif side.kind == WORKS:
            _shed(canvas, scene, side, lot)
        elif side.kind == SPORTS:
            _playing_field(canvas, side, lot)
        elif side.kind == CAR_PARK:
            _parked_cars(canvas, scene, side, lot)
        _trees(canvas, scene, side, lot)
        _furniture(canvas, scene, side, lot)
        _people(canvas, scene, side, lot)
    return levels


def _lots(side: Side) -> list[Pixel]:
    """Near and far end of each lot in metres, from the farthest on."""
    length, nearest = LOT_M.get(side.kind, 20.0), NEAR_M + 0.5
    ends = np.arange(FAR_M, nearest, -length).tolist()
    return [(max(nearest, far - length), far) for far in ends if far > 5]


def _storeys(scene: Scene, side: Side, count: int) -> list[float]:
    density = np.full(count, scene.latents["density"])
    return storeys(scene.world, side.kind, density, scene.rng.uniform(size=count)).tolist()


def _building(canvas: Canvas, scene: Scene, side: Side, lot: Pixel, level: float) -> None:
    half_gap = GAP_M.get(side.kind, 0.0) / 2
    near, far = lot[0] + half_gap, lot[1] - half_gap
    if far - near < 2:
        return
    height = STOREY_M * level + (0.6 if side.kind >= SLABS else 0.0)
    facade = _facade(scene, side)
    x, back = side.at(side.line_m), side.at(side.line_m + 14)
    light = 0.92 if side.sign < 0 else 1.02  # the sun stands to the left
    canvas.front((x, back), (0, height), far, canvas.shade(facade, far, 0.7), "building")
    canvas.wall(x, (0, height), (near, far), canvas.shade(facade, near, light), "building")
    canvas.front((x, back), (0, height), near, canvas.shade(facade, near, 0.8), "building")
    if side.kind in (VILLAS, ROWS):
        _pitched_roof(canvas, scene, side, (near, far), height, facade)
    shop = side.kind != VILLAS and scene.chance(scene.latents["night_life"])
    for floor in range(1 if shop else 0, min(int(level), WINDOW_STOREYS)):
        bottom = floor * STOREY_M + 1.0
        _windows(canvas, scene, side, (near, far), (bottom, bottom + 1.5))
    if shop:
        _shop(canvas, scene, side, (near, far))
    state = scene.level(("weathered", "plain", "well-kept"))
    middle = (near + far) / 2
    canvas.note(NAMES[side.kind], state, (side.at(side.line_m + 3), middle), (8, height))


def _facade(scene: Scene, side: Side) -> Colour:
    wealth, facades = scene.latents["wealth"], scene.world.style.facades
    rank = min(0.999, max(0.0, wealth + scene.rng.normal(0, 0.12)))
    if side.kind == TOWERS and wealth > 0.55 and scene.chance(0.6):
        return shifted((118, 148, 172), scene.rng.normal(0, 10, 3).tolist())  # glass
    shift = scene.rng.normal(0, 8)
    return shifted(facades[int(rank * len(facades))], (shift, shift, shift))


def _pitched_roof(
    canvas: Canvas, scene: Scene, side: Side, lot: Pixel, height: float, facade: Colour
) -> None:
    near, far = lot
    eaves, ridge, back = (side.at(side.line_m + depth) for depth in (0, 5, 10))
    top = height + 3.0
    slope = (
        (eaves, height, near),
        (eaves, height, far),
        (ridge, top, far),
        (ridge, top, near),
    )
    canvas.polygon(slope, canvas.shade(scene.pick(scene.world.style.roofs), near), "building")
    gable = ((eaves, height, near), (ridge, top, near), (back, height, near))
    canvas.polygon(gable, canvas.shade(facade, near, 0.85), "building")


def _windows(canvas: Canvas, scene: Scene, side: Side, lot: Pixel, rise: Pixel) -> None:
    near, far = lot
    evening, x = scene.sky == "evening", side.at(side.line_m - 0.02)
    count = max(1, int((far - near) / BAY_M))
    width = (far - near) / count
    for bay in range(count):
        start = near + (bay + 0.25) * width
        if start > FARTHEST_WINDOW_M:
            break
        pane = GLASS if not evening else DARK if scene.chance(0.4) else LIT
        canvas.wall(x, rise, (start, start + width / 2), canvas.shade(pane, start))


def _shop(canvas: Canvas, scene: Scene, side: Side, lot: Pixel) -> None:
    _windows(canvas, scene, side, lot, (0.2, 2.4))
    colour = canvas.shade(scene.pick(SIGNS), lot[0])
    canvas.wall(side.at(side.line_m - 0.1), (2.5, 3.3), lot, colour, "sign")
    canvas.note("shop sign", "bright", (side.at(side.line_m), sum(lot) / 2), (2.5, 3.3))


def _shed(canvas: Canvas, scene: Scene, side: Side, lot: Pixel) -> None:
    near, far = lot[0] + 4, lot[1] - 6
    if far - near < 3:
        return
    sheet, height = scene.pick(SHEETS), scene.rng.uniform(7, 12)
    x = side.at(side.line_m)
    canvas.wall(x, (0, height), (near, far), canvas.shade(sheet, near), "building")
    end = canvas.shade(sheet, near, 0.82)
    canvas.front((x, side.at(side.line_m + 26)), (0, height), near, end, "building")
    for seam in np.arange(near, min(far, FARTHEST_WINDOW_M), 2.5).tolist():
        dark = canvas.shade(sheet, seam, 0.88)
        canvas.wall(side.at(side.line_m - 0.02), (0, height), (seam, seam + 0.3), dark)
    place = side.at(side.line_m + 4), (near + far) / 2
    canvas.note("factory shed", "corrugated", place, (16, height))
    if scene.chance(0.45):
        _chimney(canvas, scene, side, near + 3)
    fence = side.at(side.line_m - 6)
    canvas.wall(fence, (0, 1.9), lot, canvas.shade((128, 132, 134), lot[0]), "fence")
    canvas.note("fence", "grey", (fence, sum(lot) / 2), (3, 1.9))


def _chimney(canvas: Canvas, scene: Scene, side: Side, z: float) -> None:
    top, x = scene.rng.uniform(22, 38), side.at(side.line_m + scene.rng.uniform(8, 18))
    span = (x - 1.1, x + 1.1)
    canvas.front(span, (0, top), z, canvas.shade((164, 108, 88), z), "building")
    canvas.front(span, (top - 3, top - 1.5), z, canvas.shade((226, 222, 214), z))
    canvas.note("chimney", "tall", (x, z), (2.2, top))


def _playing_field(canvas: Canvas, side: Side, lot: Pixel) -> None:
    near, x = lot[0], side.at(side.line_m + 6)
    canvas.floor((x, side.at(side.line_m + 46)), lot, canvas.shade((84, 146, 72), near), "ground")
    post = canvas.shade((230, 230, 226), near)
    canvas.front((x - 0.1, x + 0.1), (0, 4), near, post, "pole")
    canvas.note("playing field", "marked", (side.at(side.line_m + 10), near + 4), (10, 1.5))


def _parked_cars(canvas: Canvas, scene: Scene, side: Side, lot: Pixel) -> None:
    near, far = lot
    for z in (near + 14, near + 9, near + 4):
        if z < far and scene.chance(0.7):
            x = side.at(side.line_m + 6 + scene.rng.uniform(0, 8))
            draw_car(canvas, scene, x, z)


def _trees(canvas: Canvas, scene: Scene, side: Side, lot: Pixel) -> None:
    usual = 0.75 * scene.latents["greenness"]
    chance = {PARK: 0.95, VILLAS: 0.7, FIELD: 0.12}.get(side.kind, usual)
    step = 5.0 if side.kind == PARK else 9.0
    for z in np.arange(lot[1], lot[0], -step).tolist():
        if scene.chance(chance):
            deep = scene.rng.uniform(0, 14) if side.kind == PARK else scene.rng.uniform(-0.5, 1.0)
            _tree(canvas, scene, side.at(side.line_m - 2.0 + deep), z)


def _tree(canvas: Canvas, scene: Scene, x: float, z: float) -> None:
    rng, bare = scene.rng, scene.season == "winter"
    height, crown = rng.uniform(5, 9.5), rng.uniform(1.6, 2.9)
    bark = canvas.shade((88, 70, 56), z)
    canvas.front((x - 0.16, x + 0.16), (0, height - crown), z, bark, "vegetation")
    leaf = shifted(LEAVES[scene.season], rng.normal(0, 9, 3).tolist())
    count, radius = (3, 0.35 * crown) if bare else (5, 0.62 * crown)
    shifts = rng.normal(0, crown / 2.4, (count, 2)).tolist()
    tones = rng.uniform(0.85, 1.12, count).tolist()
    for (dx, dy), tone in zip(shifts, tones, strict=True):
        colour = canvas.shade(leaf, z, tone)
        canvas.ball((x + dx, height - crown + dy, z), radius, colour, "vegetation")
    canvas.note("tree", FOLIAGE.get(scene.season, "leafy"), (x, z), (2 * crown, height))


def _furniture(canvas: Canvas, scene: Scene, side: Side, lot: Pixel) -> None:
    walk = side.at(scene.road_m + 1.4)
    if side.kind != FIELD and scene.chance(0.55):
        z = scene.rng.uniform(*lot)
        steel = canvas.shade((92, 94, 98), z)
        canvas.front((walk - 0.08, walk + 0.08), (0, 6.5), z, steel, "pole")
        canvas.front((walk, side.at(scene.road_m - 0.2)), (6.3, 6.5), z, steel, "pole")
        canvas.note("street lamp", "tall", (walk, z), (1.0, 6.5))
    if scene.latents["night_life"] > 0.4 and scene.chance(0.3):
        z = scene.rng.uniform(*lot)
        canvas.front(
            (walk - 0.9, walk + 0.9), (0.4, 0.8), z, canvas.shade((124, 88, 60), z), "pole"
        )
        canvas.note("bench", "wooden", (walk, z), (1.8, 0.8))


def _people(canvas: Canvas, scene: Scene, side: Side, lot: Pixel) -> None:
    crowd = 2.2 * scene.latents["night_life"] + 0.4 * scene.latents["density"]
    count = scene.rng.poisson(crowd * (lot[1] - lot[0]) / 22)
    for z in sorted(scene.rng.uniform(*lot, size=count).tolist(), reverse=True):
        x = side.at(scene.road_m + scene.rng.uniform(0.5, 2.7))
        coat = scene.pick(SIGNS) if scene.chance(0.4) else (64, 66, 76)
        trousers = canvas.shade((52, 54, 66), z)
        canvas.front((x - 0.25, x + 0.25), (0, 0.85), z, trousers, "person")
        canvas.front((x - 0.3, x + 0.3), (0.85, 1.5), z, canvas.shade(coat, z), "person")
        canvas.ball((x, 1.66, z), 0.16, canvas.shade((206, 168, 140), z), "person")
        canvas.note("pedestrian", "walking", (x, z), (0.6, 1.8))


__all__ = ["SETBACK_M", "draw_side"]
