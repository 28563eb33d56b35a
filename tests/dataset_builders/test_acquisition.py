"""Simulated acquisition: bounded, consistent within a scene, uncorrelated with indicators."""

import itertools

import numpy as np
import pytest

from dataset_builders.synthetic.acquisition import (
    LOWEST_SUN,
    SCENE_KM2,
    Overpass,
    develop,
    draw_overpass,
    draw_shot,
)
from dataset_builders.synthetic.labels import indicators
from dataset_builders.synthetic.satellite import render_tile
from dataset_builders.synthetic.street_view import render_street_view
from dataset_builders.synthetic.styles import STYLES
from dataset_builders.synthetic.world import World

SIDE = 12
# means of the tile and of a street view of each region, from a version without acquisition;
# means, since float32 rounding at edges differs between processors
PLAIN_MEANS = (
    (111.3, 136.6), (104.0, 157.0), (115.7, 145.3),
    (108.8, 126.1), (91.1, 143.7), (103.1, 141.2),
    (112.9, 131.7), (96.5, 147.1), (109.2, 145.6),
)  # fmt: skip
CLEAR = Overpass(0, 180, 60.0, 180.0, aerosol=0.0, angstrom=1.2, gain=(1, 1, 1), contrast=1.0)


def _tiles(world: World) -> dict[tuple[int, int], Overpass]:
    cells = itertools.product(range(world.grid_size), repeat=2)
    return {cell: draw_overpass(world, *cell) for cell in cells}


def _numbers(overpass: Overpass) -> list[float]:
    """Parameters of an overpass."""
    turn = np.radians([overpass.day * 360 / 365, overpass.azimuth])
    return [
        *np.sin(turn),
        *np.cos(turn),
        overpass.elevation,
        np.log(overpass.aerosol),
        overpass.angstrom,
        *overpass.gain,
        overpass.contrast,
    ]


def _strongest(parameters: np.ndarray, targets: np.ndarray) -> float:
    """Largest correlation between columns, in standard errors under independence."""
    joint = np.corrcoef(parameters, targets, rowvar=False)
    between = joint[: parameters.shape[1], parameters.shape[1] :]
    return float(np.abs(between).max() * np.sqrt(len(parameters)))


def test_what_an_overpass_sets_says_nothing_about_the_indicators():
    parameters, targets = [], []
    for seed, style in itertools.product(range(20), STYLES):
        world = World(style, SIDE, seed)
        tiles = _tiles(world)
        labels = np.log1p(np.stack(list(indicators(world).values())))
        of_city = np.stack([labels[:, row, column] for column, row in tiles])
        of_city = (of_city - of_city.mean(axis=0)) / of_city.std(axis=0)
        scene = np.array([one.number for one in tiles.values()])
        rows = np.array([_numbers(one) for one in tiles.values()])
        for number in np.unique(scene):
            parameters.append(rows[scene == number][0])
            targets.append(of_city[scene == number].mean(axis=0))
    found, told = np.array(parameters), np.array(targets)
    # with 77 independent correlations, 4 standard errors are exceeded in 1 of 200 worlds
    assert _strongest(found, told) < 4
    leaking = found + 0.2 * found.std(axis=0) * told[:, :1] / told[:, 0].std()
    assert _strongest(leaking, told) > 4


@pytest.mark.parametrize("style", STYLES)
def test_tiles_of_a_scene_share_its_sun_and_sensor(style):
    tiles = list(_tiles(World(style, SIDE, 1)).values())
    scenes = {(one.number, *_numbers(one)) for one in tiles}
    assert len(scenes) == len({one.number for one in tiles})
    assert len(scenes) == pytest.approx(SIDE**2 / SCENE_KM2, abs=1)  # one may contain no centre
    assert all(one.elevation >= LOWEST_SUN - 1e-9 for one in tiles)
    assert len({one.day for one in tiles}) > 3
    assert len({one.tile_gain for one in tiles}) == len(tiles)


def test_street_views_of_a_drive_share_a_camera_but_not_the_light():
    world = World("oldgate", SIDE)
    one, near, far = (draw_shot(world, column, 4, 0, "clear") for column in (3, 5, 6))
    assert (one.exposure, one.noise, one.gamma) == (near.exposure, near.noise, near.gamma)
    assert one.exposure != far.exposure
    assert one.light != near.light
    evening = draw_shot(world, 3, 4, 0, "evening").light
    assert evening[0] > evening[1] > evening[2]


def test_a_clear_sky_and_a_neutral_sensor_change_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    assert np.array_equal(develop(pixels, CLEAR), pixels)


def test_developed_pixels_stay_pixels_and_haze_fades_the_blue_most():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    before = pixels.copy()
    hazy = Overpass(0, 180, 30.0, 180.0, aerosol=1.0, angstrom=1.4, gain=(1, 1, 1), contrast=1.0)
    seen = develop(pixels, hazy)
    assert seen.dtype == np.uint8
    assert seen.shape == pixels.shape
    assert np.array_equal(pixels, before)
    red, green, blue = seen.std(axis=(0, 1)) / pixels.std(axis=(0, 1))
    assert 0 < blue < green < red < 1
    glaring = Overpass(0, 180, 30.0, 180.0, 0.0, 1.2, gain=(1.3, 1.3, 1.3), contrast=1.15)
    bright = pixels > 128
    assert np.all(develop(pixels, glaring)[bright] >= pixels[bright])  # clipped, not wrapped


def test_plain_images_are_those_of_before_acquisition_varied():
    world = World("harborview", 3)
    found = [
        np.asarray(image, float).mean()
        for cell in itertools.product(range(3), repeat=2)
        for image in (render_tile(world, *cell).image, render_street_view(world, *cell, 0).image)
    ]
    np.testing.assert_allclose(found, np.ravel(PLAIN_MEANS), atol=0.1)
