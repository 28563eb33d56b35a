"""Latent world of the synthetic cities: fields, labels, images and captions."""

import itertools
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from dataset_builders.synthetic import labels
from dataset_builders.synthetic.captioners import (
    CAPTIONERS,
    MAX_WORDS,
    MIN_WORDS,
    omission_chance,
    phrase,
    reference_caption,
    reword,
    satellite_facts,
    street_view_facts,
    write_caption,
)
from dataset_builders.synthetic.satellite import render_tile
from dataset_builders.synthetic.scene import CLASS_INDEX, OBJECT_CLASSES
from dataset_builders.synthetic.street_view import render_street_view
from dataset_builders.synthetic.styles import STYLES
from dataset_builders.synthetic.world import LATENTS, SmoothField, World, hash_uniform
from pipelines.common.tokenizer import clip_tokenizer

CITIES = sorted(STYLES)
CONTEXT_OF_CLIP = 77
RANGES = {  # per square kilometre
    "population": (0, 60_000),
    "gdp": (1, 20_000),
    "night_light": (0.2, 150),
    "comments": (0, 40_000),
    "carbon": (50, 150_000),
    "crime": (0, 1_000),
    "poi": (0, 3_000),
}


@cache
def _facts() -> list[tuple[str, tuple]]:
    """View and facts of each image of a small city."""
    world = World("harborview", 5, 1)
    found = []
    for column, row in itertools.product(range(5), repeat=2):
        found.append(("satellite", tuple(satellite_facts(render_tile(world, column, row)))))
        for view in range(2):
            scene = render_street_view(world, column, row, view)
            found.append(("street_view", tuple(street_view_facts(scene))))
    return found


def _morans_i(field: np.ndarray) -> float:
    centred = field - field.mean()
    products = [(centred[1:] * centred[:-1]).ravel(), (centred[:, 1:] * centred[:, :-1]).ravel()]
    return float(np.concatenate(products).mean() / (centred**2).mean())


# ---- fields and labels ------------------------------------------------------------------------


@pytest.mark.parametrize("city", CITIES)
@pytest.mark.parametrize("name", LATENTS)
def test_latents_are_spatially_autocorrelated(city, name):
    assert _morans_i(World(city, 20).region_latents[name]) > 0.5


def test_smooth_field_has_its_variance_and_its_length():
    rng = np.random.default_rng(0)
    steps = np.arange(0, 60, 0.5)
    fields = [SmoothField(rng, 2.0)(steps[None, :], steps[:, None]) for _ in range(12)]
    assert np.mean([field.var() for field in fields]) == pytest.approx(1, abs=0.15)
    lag = np.mean([np.mean(field[:, 4:] * field[:, :-4]) for field in fields])
    assert lag == pytest.approx(math.exp(-0.5), abs=0.12)  # at a lag of one correlation length


def test_open_grid_equals_single_points():
    field = SmoothField(np.random.default_rng(0), 1.5)
    x, y = np.linspace(0, 9, 7), np.linspace(3, 8, 5)
    grid = field(x[None, :], y[:, None])
    np.testing.assert_allclose(grid, field(*np.meshgrid(x, y)), atol=1e-5)


def test_hash_is_uniform_and_depends_on_every_key():
    values = hash_uniform(7, np.arange(200)[:, None], np.arange(200))
    assert values.min() >= 0
    assert values.max() < 1
    assert np.histogram(values, 10, (0, 1))[0] == pytest.approx(4000, rel=0.1)
    assert np.abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 0.02
    assert hash_uniform(7, 3, 4) != hash_uniform(7, 4, 3)


@pytest.mark.parametrize("city", CITIES)
def test_labels_lie_in_plausible_ranges_and_vary(city):
    for name, values in labels.indicators(World(city, 16)).items():
        low, high = RANGES[name]
        assert low <= values.min(), name
        assert values.max() <= high, name
        assert np.quantile(values, 0.95) > 2 * np.quantile(values, 0.2), name


def test_labels_are_not_linear_in_the_latents():
    world = World("harborview", 30)
    latents = np.stack([world.region_latents[name].ravel() for name in LATENTS], axis=1)
    linear = make_pipeline(StandardScaler(), RidgeCV())
    curved = make_pipeline(StandardScaler(), PolynomialFeatures(3), RidgeCV(np.logspace(-3, 3, 7)))
    near = make_pipeline(StandardScaler(), KNeighborsRegressor(8, weights="distance"))
    gains = []
    for values in labels.indicators(world).values():
        target = np.log1p(values.ravel())
        scores = [cross_val_score(m, latents, target, cv=5).mean() for m in (linear, curved, near)]
        gains.append(max(scores[1:]) - scores[0])
    assert np.median(gains) > 0.03


@pytest.mark.parametrize("name", ["gdp", "night_light", "carbon", "population"])
def test_noise_of_labels_is_the_declared_one(monkeypatch, name):
    world = World("ironford", 30)
    noisy, declared = labels.indicators(world)[name], labels.NOISE[name]
    monkeypatch.setitem(labels.NOISE, name, 0.0)
    expected = labels.indicators(world)[name]
    enough = expected > 500 if name == "population" else expected > 0  # little Poisson noise
    ratio = np.log(noisy[enough] / expected[enough])
    assert ratio.std() == pytest.approx(declared, rel=0.12)
    assert np.exp(ratio).mean() == pytest.approx(1, abs=0.03)


# ---- images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("city", CITIES)
def test_neighbouring_tiles_join_without_a_seam(city):
    world = World(city, 6)
    between = np.asarray(render_tile(world, 2.5, 3).image, np.int64)  # halfway between two tiles
    west, east = (np.asarray(render_tile(world, column, 3).image, np.int64) for column in (2, 3))
    joined = np.concatenate([west[:, 128:], east[:, :128]], axis=1)
    same = (np.abs(between - joined).max(axis=-1) <= 1).mean(axis=0)
    assert same.min() > 0.97  # edges may differ by float32 rounding
    below = np.asarray(render_tile(world, 2, 2.5).image, np.int64)
    south = np.asarray(render_tile(world, 2, 2).image, np.int64)
    joined = np.concatenate([west[128:], south[:128]])
    assert (np.abs(below - joined).max(axis=-1) <= 1).mean(axis=1).min() > 0.97


def test_the_four_cities_differ():
    tiles = [np.asarray(render_tile(World(city, 6), 3, 3).image, float) for city in CITIES]
    for one, other in itertools.combinations(tiles, 2):
        assert np.abs(one - other).mean() > 15
    means = [World(city, 12).region_latents["industry"].mean() for city in CITIES]
    assert np.ptp(means) > 0.05


def test_shares_of_a_tile_follow_the_latents():
    world = World("ironford", 8)
    cells = list(itertools.product(range(8), range(0, 8, 2)))
    tiles = [render_tile(world, column, row) for column, row in cells]
    for latent, kinds in (("industry", ("works",)), ("density", ("slabs", "towers"))):
        field = [world.region_latents[latent][row, column] for column, row in cells]
        shares = [sum(tile.shares[kind] for kind in kinds) for tile in tiles]
        assert np.corrcoef(field, shares)[0, 1] > 0.6
    assert all(0 <= share <= 1 for tile in tiles for share in tile.shares.values())


def test_objects_listed_are_in_the_mask_and_the_mask_fits_the_picture():
    world = World("harborview", 5, 1)
    seen = set()
    for column, row in itertools.product(range(5), repeat=2):
        scene = render_street_view(world, column, row, 0)
        mask = np.asarray(scene.mask)
        assert mask.shape == np.asarray(scene.image).shape[:2]
        for item in scene.objects:
            left, top, right, bottom = item.box
            inside = mask[top:bottom, left:right]
            assert (inside == CLASS_INDEX[OBJECT_CLASSES[item.name]]).any(), item
            seen.add(item.name)
        listed = {OBJECT_CLASSES[item.name] for item in scene.objects}
        for name in ("vehicle", "building", "sign"):
            if (mask == CLASS_INDEX[name]).mean() > 0.01:
                assert name in listed
    assert len(seen) >= 8


def test_sky_is_where_the_mask_says_sky():
    scene = render_street_view(World("oldgate", 5), 2, 2, 0)
    picture, sky = np.asarray(scene.image, float), np.asarray(scene.mask) == CLASS_INDEX["sky"]
    road = np.asarray(scene.mask) == CLASS_INDEX["road"]
    assert picture[sky].mean() > picture[road].mean() + 15


# ---- captions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["street_view", "satellite"])
def test_captions_are_long_and_tell_most_facts_after_the_context_of_clip(view):
    tokenizer = clip_tokenizer()
    rng = np.random.default_rng(0)
    late, beginnings = [], set()
    of_view = [facts for its_view, facts in _facts() if its_view == view]
    for facts in of_view:
        for captioner in CAPTIONERS:
            caption = write_caption(captioner, facts, view, rng)
            assert MIN_WORDS <= len(caption.text.split()) <= MAX_WORDS, caption
            told = (set(facts) - set(caption.omitted)) | set(caption.hallucinated)
            for fact in told:
                words = reword(phrase(fact, view), captioner)
                read = caption.text[: caption.text.index(words) + len(words)]
                # the end token takes one of the 77 positions
                late.append(len(tokenizer(read)["input_ids"]) - 1 > CONTEXT_OF_CLIP - 1)
            beginnings.add(tuple(tokenizer(caption.text)["input_ids"][:CONTEXT_OF_CLIP]))
    assert 0.5 < np.mean(late) < 0.7
    # most captions still differ after truncation to 77 tokens
    assert len(beginnings) > 0.8 * len(of_view) * len(CAPTIONERS)


def test_the_reference_tells_all_facts_and_nothing_else():
    for view, facts in _facts():
        caption = reference_caption(facts, view)
        assert MIN_WORDS <= len(caption.text.split()) <= MAX_WORDS
        assert not caption.hallucinated
        assert len(caption.omitted) <= 1  # only if the caption would exceed 200 words
        assert caption.text.count("It shows") == len(facts) - len(caption.omitted)


@pytest.mark.parametrize(
    "captioner",
    [*CAPTIONERS, replace(CAPTIONERS[0], name="half", hallucination=0.5)],
    ids=lambda one: one.name,
)
def test_captioners_err_at_their_declared_rates(captioner):
    rng = np.random.default_rng(5)
    omitted = expected = variance = invented = true = 0.0
    for _ in range(8):
        for view, facts in _facts():
            caption = write_caption(captioner, facts, view, rng)
            chances = np.array([omission_chance(captioner, fact) for fact in facts])
            omitted += len(caption.omitted)
            expected += chances.sum()
            variance += (chances * (1 - chances)).sum()
            invented += len(caption.hallucinated)
            true += len(facts) - len(caption.omitted)
    # four standard deviations, plus facts dropped at the limit of 200 words
    assert -4 * math.sqrt(variance) <= omitted - expected <= 4 * math.sqrt(variance) + 0.01 * true
    told = invented + true
    error = math.sqrt(captioner.hallucination / told)
    assert invented / told == pytest.approx(captioner.hallucination, abs=4 * error)
