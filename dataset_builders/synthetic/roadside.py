"""Painters of buildings, vegetation, furniture, people and vehicles, drawn from far to near."""

import numpy as np

from .scene import FAR_M, NEAR_M, Canvas, Paint, Pair, Scene, Side, tinted
from .styles import Colour
from .world import Kind

STOREY_M, BAY_M = 3.2, 3.2
FARTHEST_WINDOW_M, WINDOW_STOREYS = 75.0, 16
HOUSES = {
    Kind.VILLAS: "detached house",
    Kind.ROWS: "terraced house",
    Kind.SLABS: "apartment block",
    Kind.TOWERS: "tower",
}
LOT_M = {Kind.VILLAS: 22.0, Kind.ROWS: 7.5, Kind.SLABS: 34.0, Kind.TOWERS: 26.0, Kind.WORKS: 46.0}
GAP_M = {Kind.VILLAS: 6.0, Kind.SLABS: 9.0, Kind.TOWERS: 5.0}
SETBACK_M = {Kind.VILLAS: 7.0, Kind.ROWS: 1.0, Kind.SLABS: 5.0, Kind.TOWERS: 2.0, Kind.WORKS: 9.0}
GLASS, LIT, DARK = (70, 84, 100), (248, 214, 130), (60, 66, 78)
LEAVES: dict[str, Colour] = {
    "spring": (126, 168, 88), "summer": (66, 112, 52),
    "autumn": (186, 126, 52), "winter": (112, 100, 88),
}  # fmt: skip
WITHERED = (150, 148, 132)
FOLIAGE = {"autumn": "golden", "winter": "bare"}
SHEETS = ((182, 186, 190), (110, 134, 162), (160, 158, 150), (146, 96, 80))
SIGNS = ((214, 52, 44), (240, 190, 40), (36, 120, 190), (30, 150, 96), (176, 60, 160))
CARS: dict[str, Colour] = {
    "white": (214, 216, 218), "black": (54, 56, 60), "red": (158, 40, 38),
    "blue": (44, 74, 130), "silver": (186, 184, 176), "green": (92, 108, 84),
}  # fmt: skip
LORRY, BUS, WHEEL = (196, 120, 50), (60, 132, 176), (30, 30, 32)


def draw_side(canvas: Canvas, scene: Scene, side: Side) -> list[float]:
    """Draw one side of the street.

    Returns:
        Number of storeys of each building.
    """
    # near and far end of each lot in metres, farthest first
    length, nearest = LOT_M.get(side.kind, 20.0), NEAR_M + 0.5
    ends = np.arange(FAR_M, nearest, -length).tolist()
    lots = [(max(nearest, far - length), far) for far in ends if far > 5]
    levels: list[float] = []
    if side.kind in HOUSES:
        density = np.full(len(lots), scene.latents["density"])
        dice = scene.rng.uniform(size=len(lots))
        levels = scene.world.storeys(side.kind, density, dice).tolist()
    for number, lot in enumerate(lots):
        if levels:
            _building(canvas, scene, side, lot, levels[number])
        elif side.kind == Kind.WORKS:
            _shed(canvas, scene, side, lot)
        elif side.kind == Kind.SPORTS:
            _playing_field(canvas, side, lot)
        elif side.kind == Kind.CAR_PARK:
            _parked_cars(canvas, scene, side, lot)
        for draw in (_trees, _furniture, _people):
            draw(canvas, scene, side, lot)
    return levels


def _building(canvas: Canvas, scene: Scene, side: Side, lot: Pair, level: float) -> None:
    half_gap = GAP_M.get(side.kind, 0.0) / 2
    near, far = lot[0] + half_gap, lot[1] - half_gap
    if far - near < 2:
        return
    height = STOREY_M * level + (0.6 if side.kind >= Kind.SLABS else 0.0)
    facade = _facade(scene, side)
    x, back = side.at(side.line_m), side.at(side.line_m + 14)
    light = 0.92 if side.sign < 0 else 1.02  # the sun stands to the left
    canvas.front((x, back), (0, height), far, Paint(facade, "building", 0.7))
    canvas.wall(x, (0, height), (near, far), Paint(facade, "building", light))
    canvas.front((x, back), (0, height), near, Paint(facade, "building", 0.8))
    if side.kind in (Kind.VILLAS, Kind.ROWS):
        _pitched_roof(canvas, scene, side, (near, far), height, facade)
    shop = side.kind != Kind.VILLAS and scene.chance(scene.latents["night_life"])
    for floor in range(1 if shop else 0, min(int(level), WINDOW_STOREYS)):
        bottom = floor * STOREY_M + 1.0
        _windows(canvas, scene, side, (near, far), (bottom, bottom + 1.5))
    if shop:
        _windows(canvas, scene, side, (near, far), (0.2, 2.4))
        sign = Paint(scene.pick(SIGNS), "sign")
        canvas.wall(side.at(side.line_m - 0.1), (2.5, 3.3), (near, far), sign)
        canvas.note("shop sign", "bright", (x, (near + far) / 2), (2.5, 3.3))
    wealth = scene.latents["wealth"]
    state = "weathered" if wealth < 0.35 else "well-kept" if wealth > 0.6 else "plain"
    place = side.at(side.line_m + 3), (near + far) / 2
    canvas.note(HOUSES[side.kind], state, place, (8, height))


def _facade(scene: Scene, side: Side) -> Colour:
    wealth, facades = scene.latents["wealth"], scene.world.style.facades
    rank = min(0.999, max(0.0, wealth + scene.rng.normal(0, 0.12)))
    if side.kind == Kind.TOWERS and wealth > 0.55 and scene.chance(0.6):
        return tinted((118, 148, 172), by=scene.rng.normal(0, 10, 3).tolist())  # glass
    return tinted(facades[int(rank * len(facades))], by=[scene.rng.normal(0, 8)] * 3)


def _pitched_roof(
    canvas: Canvas, scene: Scene, side: Side, lot: Pair, height: float, facade: Colour
) -> None:
    near, far = lot
    eaves, ridge, back = (side.at(side.line_m + depth) for depth in (0, 5, 10))
    top = height + 3.0
    slope = ((eaves, height, near), (eaves, height, far), (ridge, top, far), (ridge, top, near))
    canvas.polygon(slope, Paint(scene.pick(scene.world.style.roofs), "building"))
    gable = ((eaves, height, near), (ridge, top, near), (back, height, near))
    canvas.polygon(gable, Paint(facade, "building", 0.85))


def _windows(canvas: Canvas, scene: Scene, side: Side, lot: Pair, rise: Pair) -> None:
    near, far = lot
    count = max(1, int((far - near) / BAY_M))
    width = (far - near) / count
    for bay in range(count):
        start = near + (bay + 0.25) * width
        if start > FARTHEST_WINDOW_M:
            break
        pane = GLASS if scene.sky != "evening" else DARK if scene.chance(0.4) else LIT
        canvas.wall(side.at(side.line_m - 0.02), rise, (start, start + width / 2), Paint(pane))


def _shed(canvas: Canvas, scene: Scene, side: Side, lot: Pair) -> None:
    near, far = lot[0] + 4, lot[1] - 6
    if far - near < 3:
        return
    sheet, height = scene.pick(SHEETS), scene.rng.uniform(7, 12)
    x, back = side.at(side.line_m), side.at(side.line_m + 26)
    canvas.wall(x, (0, height), (near, far), Paint(sheet, "building"))
    canvas.front((x, back), (0, height), near, Paint(sheet, "building", 0.82))
    for seam in np.arange(near, min(far, FARTHEST_WINDOW_M), 2.5).tolist():
        dark = Paint(sheet, factor=0.88)
        canvas.wall(side.at(side.line_m - 0.02), (0, height), (seam, seam + 0.3), dark)
    place = side.at(side.line_m + 4), (near + far) / 2
    canvas.note("factory shed", "corrugated", place, (16, height))
    if scene.chance(0.45):
        top, x = scene.rng.uniform(22, 38), side.at(side.line_m + scene.rng.uniform(8, 18))
        z, span = near + 3, (x - 1.1, x + 1.1)
        canvas.front(span, (0, top), z, Paint((164, 108, 88), "building"))
        canvas.front(span, (top - 3, top - 1.5), z, Paint((226, 222, 214)))
        canvas.note("chimney", "tall", (x, z), (2.2, top))
    fence = side.at(side.line_m - 6)
    canvas.wall(fence, (0, 1.9), lot, Paint((128, 132, 134), "fence"))
    canvas.note("fence", "grey", (fence, sum(lot) / 2), (3, 1.9))


def _playing_field(canvas: Canvas, side: Side, lot: Pair) -> None:
    near, x = lot[0], side.at(side.line_m + 6)
    canvas.floor((x, side.at(side.line_m + 46)), lot, Paint((84, 146, 72), "ground"))
    canvas.front((x - 0.1, x + 0.1), (0, 4), near, Paint((230, 230, 226), "pole"))
    canvas.note("playing field", "marked", (side.at(side.line_m + 10), near + 4), (10, 1.5))


def _trees(canvas: Canvas, scene: Scene, side: Side, lot: Pair) -> None:
    usual = 0.75 * scene.latents["greenness"]
    chance = {Kind.PARK: 0.95, Kind.VILLAS: 0.7, Kind.FIELD: 0.12}.get(side.kind, usual)
    park = side.kind == Kind.PARK
    for z in np.arange(lot[1], lot[0], -5.0 if park else -9.0).tolist():
        if scene.chance(chance):
            deep = scene.rng.uniform(0, 14) if park else scene.rng.uniform(-0.5, 1.0)
            _tree(canvas, scene, side.at(side.line_m - 2.0 + deep), z)


def _tree(canvas: Canvas, scene: Scene, x: float, z: float) -> None:
    rng, bare = scene.rng, scene.season == "winter"
    height, crown = rng.uniform(5, 9.5), rng.uniform(1.6, 2.9)
    trunk = Paint((88, 70, 56), "vegetation")
    canvas.front((x - 0.16, x + 0.16), (0, height - crown), z, trunk)
    leaf = tinted(LEAVES[scene.season], by=rng.normal(0, 9, 3).tolist())
    count, radius = (3, 0.35 * crown) if bare else (5, 0.62 * crown)
    shifts = rng.normal(0, crown / 2.4, (count, 2)).tolist()
    tones = rng.uniform(0.85, 1.12, count).tolist()
    for (dx, dy), tone in zip(shifts, tones, strict=True):
        canvas.ball((x + dx, height - crown + dy, z), radius, Paint(leaf, "vegetation", tone))
    canvas.note("tree", FOLIAGE.get(scene.season, "leafy"), (x, z), (2 * crown, height))


def _furniture(canvas: Canvas, scene: Scene, side: Side, lot: Pair) -> None:
    walk = side.at(scene.road_m + 1.4)
    if side.kind != Kind.FIELD and scene.chance(0.55):
        z, steel = scene.rng.uniform(*lot), Paint((92, 94, 98), "pole")
        canvas.front((walk - 0.08, walk + 0.08), (0, 6.5), z, steel)
        canvas.front((walk, side.at(scene.road_m - 0.2)), (6.3, 6.5), z, steel)
        canvas.note("street lamp", "tall", (walk, z), (1.0, 6.5))
    if scene.latents["night_life"] > 0.4 and scene.chance(0.3):
        z = scene.rng.uniform(*lot)
        canvas.front((walk - 0.9, walk + 0.9), (0.4, 0.8), z, Paint((124, 88, 60), "pole"))
        canvas.note("bench", "wooden", (walk, z), (1.8, 0.8))


def _people(canvas: Canvas, scene: Scene, side: Side, lot: Pair) -> None:
    crowd = 2.2 * scene.latents["night_life"] + 0.4 * scene.latents["density"]
    count = scene.rng.poisson(crowd * (lot[1] - lot[0]) / 22)
    for z in sorted(scene.rng.uniform(*lot, size=count).tolist(), reverse=True):
        x = side.at(scene.road_m + scene.rng.uniform(0.5, 2.7))
        coat = scene.pick(SIGNS) if scene.chance(0.4) else (64, 66, 76)
        canvas.front((x - 0.25, x + 0.25), (0, 0.85), z, Paint((52, 54, 66), "person"))
        canvas.front((x - 0.3, x + 0.3), (0.85, 1.5), z, Paint(coat, "person"))
        canvas.ball((x, 1.66, z), 0.16, Paint((206, 168, 140), "person"))
        canvas.note("pedestrian", "walking", (x, z), (0.6, 1.8))


def draw_traffic(canvas: Canvas, scene: Scene) -> None:
    """Draw moving and parked cars, buses in dense areas and lorries in industrial areas."""
    density, rng, road = scene.latents["density"], scene.rng, scene.road_m
    count = rng.poisson(0.6 + 6.5 * density + 2.0 * scene.latents["night_life"])
    for z in sorted(rng.uniform(8, 80, size=count).tolist(), reverse=True):
        parked = scene.chance(0.45)
        x = road - 1.1 if parked else rng.uniform(0.3, 0.6) * road
        x = -x if scene.chance(0.5) else x
        if Kind.WORKS in scene.kinds and scene.chance(0.4):
            _large_vehicle(canvas, x, z, "lorry", "orange", LORRY)
        elif not parked and density > 0.4 and scene.chance(0.12):
            _large_vehicle(canvas, x, z, "bus", "blue", BUS)
        else:
            _car(canvas, scene, x, z)


def _parked_cars(canvas: Canvas, scene: Scene, side: Side, lot: Pair) -> None:
    near, far = lot
    for z in (near + 14, near + 9, near + 4):
        if z < far and scene.chance(0.7):
            _car(canvas, scene, side.at(side.line_m + 6 + scene.rng.uniform(0, 8)), z)


def _car(canvas: Canvas, scene: Scene, x: float, z: float) -> None:
    colour = list(CARS)[int(scene.rng.integers(len(CARS)))]
    canvas.front((x - 0.9, x + 0.9), (0.3, 1.0), z, Paint(CARS[colour], "vehicle"))
    canvas.front((x - 0.72, x + 0.72), (1.0, 1.5), z, Paint((58, 70, 84), "vehicle"))
    _wheels(canvas, x, z, 0.65, 0.3)
    canvas.note("car", colour, (x, z), (1.8, 1.5))


def _large_vehicle(
    canvas: Canvas, x: float, z: float, name: str, attribute: str, colour: Colour
) -> None:
    canvas.front((x - 1.2, x + 1.2), (0.5, 3.2), z, Paint(colour, "vehicle"))
    canvas.front((x - 1.0, x + 1.0), (1.7, 2.7), z, Paint((56, 66, 78)))
    _wheels(canvas, x, z, 0.85, 0.45)
    canvas.note(name, attribute, (x, z), (2.4, 3.2))


def _wheels(canvas: Canvas, x: float, z: float, apart: float, radius: float) -> None:
    for wheel in (-apart, apart):
        canvas.ball((x + wheel, radius, z), radius, Paint(WHEEL, "vehicle"))
