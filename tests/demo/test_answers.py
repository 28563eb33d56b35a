"""What the server answers, without a browser."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from demo.caption_page import Candidates, caption_page
from demo.choropleth import outline, paint
from demo.cities import ShownCity, number, open_cities, shown
from demo.map_panel import MapPanel
from demo.neighbours import FAR, Neighbours, side_by_side
from demo.own_images import answer
from demo.region_card import prediction_table
from demo.reported import Report
from demo.search_tab import search_regions
from demo.settings import DemoSettings
from pipelines.evaluation.cities import City, Target
from pipelines.evaluation.embedding_tables import EmbeddingTable, read_embeddings, write_embeddings
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.nearest import unit

from .test_probes import grid_city

ATTACK = '"><script>alert(1)</script>'


def shown_city(X: np.ndarray, city: City) -> ShownCity:
    ids = city.regions["region_id"].tolist()
    table = EmbeddingTable("e", {}, ids, {"satellite": X.astype(np.float32)}, "")
    return ShownCity(city, table, Report(None, city.name))


@pytest.fixture
def town(monkeypatch) -> ShownCity:
    """A city without pictures, whose ids and indicators are hostile."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(144, 6))
    city = grid_city(X @ rng.normal(size=6) + 5)
    city.regions["region_id"] = [f"{ATTACK}{i}" for i in range(144)]
    bad = Target("population", ATTACK, "ln1p", city.targets[0].y)
    monkeypatch.setattr("demo.cities._open_pictures", lambda city: iter(()))
    return shown_city(X, City("town", "d", True, city.regions, [bad], 4000.0))


def test_hostile_ids_and_units_stay_text(town):
    panel = MapPanel({"town": town})
    asked = {"city": "town", "view": "satellite", "region": f"{ATTACK}3", "indicator": "population"}
    pages = [panel.html(), panel.region(asked)["card"]]
    pages += [panel.layer({**asked, "layer": layer})["legend"] for layer in ("truth", "residual")]
    for page in pages:
        assert "<script" not in page
    assert "&lt;script&gt;" in pages[0]


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("city", {"city": "atlantis"}, "There is no city 'atlantis'"),
        ("city", None, "There is no city"),
        ("city", [1], "There is no city"),
        ("layer", {"city": "town", "layer": "lies"}, "A layer is one of"),
        ("layer", {"city": "town", "layer": "truth", "view": "x"}, "has no"),
        ("region", {"city": "town", "view": "satellite", "region": "r"}, "has no region 'r'"),
        ("region", {"city": {"a": 1}, "view": [], "region": {}}, "There is no city"),
    ],
)
def test_junk_is_answered_with_a_sentence(town, name, asked, said):
    functions = {function.__name__: function for function in MapPanel({"town": town}).functions}
    assert said in functions[name](asked)["error"]


def test_truth_and_prediction_share_a_scale_and_words_are_raw_values(town):
    truth = paint(town, "satellite", "population", "truth")
    prediction = paint(town, "satellite", "population", "prediction")
    bar = truth.legend.partition('<div class="ticks">')[2]
    assert bar == prediction.legend.partition('<div class="ticks">')[2]
    assert truth.values[0] == number(np.expm1(town.targets[0].y[0]))
    assert "out of sample" in prediction.note
    assert "synthetic" in prediction.note


def test_residual_of_a_logarithm_is_told_as_a_factor(town):
    painted = paint(town, "satellite", "population", "residual")
    held_out = town.views["satellite"].probes.held_out
    value = float(held_out.values[3, 0] - town.targets[0].y[3])
    side = "high" if value > 0 else "low"
    assert painted.values[3] == f"{np.exp(abs(value)):.2f} times too {side}"


def test_outline_has_a_path_a_region_north_up(town):
    svg = outline(town)
    assert svg.count("<path data-i=") == 144
    south = float(svg.split('data-i="0" d="M')[1].split()[1].split("a")[0])
    north = float(svg.split('data-i="143" d="M')[1].split()[1].split("a")[0])
    assert north < south


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (12.345, "12.3"), (1234.5, "1,230"), (0.00123, "0.00123"), (np.nan, "–")],
)
def test_numbers_have_three_digits(value, said):
    assert number(value) == said


def test_values_go_back_to_the_raw_scale_and_not_below_zero():
    target = Target("population", "people", "ln1p", np.zeros(1))
    assert shown(np.log1p(250), target) == "250"
    assert shown(-3.0, target) == "0"


def test_a_prediction_without_an_interval_says_why_and_draws_none(town):
    table = prediction_table(town, np.array([5.0]), np.array([np.nan]))
    assert "too few labels" in table
    assert "nan" not in table


# ---- neighbours ---------------------------------------------------------------------------------


def test_neighbours_are_those_of_the_full_matrix_without_the_region_itself():
    X = np.random.default_rng(0).normal(size=(50, 8))
    X[7] = np.nan
    found = Neighbours(X).search(X[3], 5, without=3)
    cosines = np.nan_to_num(unit(X), nan=-1.0) @ unit(X[[3]])[0]
    cosines[[3, 7]] = -2
    assert [one.row for one in found] == np.argsort(-cosines)[:5].tolist()
    assert [one.cosine for one in found] == pytest.approx(np.sort(cosines)[::-1][:5], abs=1e-6)


def test_cosine_side_by_side_is_the_mean_of_both_views():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 5)), rng.normal(size=(4, 7))
    both = unit(side_by_side([a, b]))
    mean = (unit(a) @ unit(a).T + unit(b) @ unit(b).T) / 2
    np.testing.assert_allclose(both @ both.T, mean, atol=1e-6)


def test_what_lies_elsewhere_is_far_and_a_known_vector_is_not():
    rng = np.random.default_rng(0)
    X = rng.normal(size=8) + 0.1 * rng.normal(size=(60, 8))
    neighbours = Neighbours(X)
    assert neighbours.strangeness(X[0])[1] < FAR
    assert neighbours.strangeness(-X[0])[1] == 1.0


# ---- cities -------------------------------------------------------------------------------------


def test_tables_of_another_model_or_of_random_weights_are_passed_over(settings, tmp_path, towers):
    table = read_embeddings(next(iter_tables(settings)))
    counts = {view: np.ones(len(table.region_ids), np.int64) for view in table.vectors}
    for label, changes in (("narrow", {}), ("random", {"random_init": True})):
        vectors = {v: x[:, :3] if label == "narrow" else x for v, x in table.vectors.items()}
        metadata = {**table.metadata, **changes, "label": label}
        write_embeddings(tmp_path / f"{label}.parquet", table.region_ids, counts, vectors, metadata)
    other = DemoSettings(settings.dataset_name, "m", (str(tmp_path),))
    with pytest.raises(InputError, match="found: narrow, random"):
        open_cities(other, towers.encoder.name, towers.encoder.dim)


def iter_tables(settings):
    from pathlib import Path

    return Path(settings.embeddings[0]).rglob("*.parquet")


def test_a_city_that_is_not_there_is_named(settings, towers):
    other = DemoSettings(settings.dataset_name, "m", settings.embeddings, city="atlantis")
    with pytest.raises(InputError, match=r"'atlantis' \(--city\); of harborview, oldgate"):
        open_cities(other, towers.encoder.name, towers.encoder.dim)


def test_the_city_that_is_asked_for_comes_first(settings, towers):
    other = DemoSettings(settings.dataset_name, "m", settings.embeddings, city="oldgate")
    assert list(open_cities(other, towers.encoder.name, towers.encoder.dim)) == [
        "oldgate",
        "harborview",
    ]


# ---- captions, search, own pictures --------------------------------------------------------------


def test_a_city_without_captions_has_a_polite_page(town):
    page = caption_page({"town": Candidates(town)}, "town", None)
    assert 'role="status"' in page
    assert "python -m pipelines.captioning run" in page


def test_an_unknown_image_is_told_of_one_that_is_known(cities):
    tables = {name: Candidates(city) for name, city in cities.items()}
    page = caption_page(tables, "harborview", "<b>nothing</b>")
    assert "&lt;b&gt;nothing" in page
    assert tables["harborview"].image_ids[0] in page


def test_struck_out_phrases_are_shown_with_score_and_reason(cities, monkeypatch):
    tables = {"harborview": Candidates(cities["harborview"])}
    phrases = (
        '[{"text": "red bus", "kept": false, "score": 0.0031, "reason": "below_threshold"},'
        ' {"text": "a tree", "kept": true, "score": 0.5, "reason": ""}]'
    )
    rows = [{"model": "m", "text": "t", "kept": True, "chosen": True, "score": 0.5},
            {"model": "n", "text": "u", "kept": False, "drop_reason": "too_short"}]  # fmt: skip
    rows[0]["phrases"] = phrases
    monkeypatch.setattr(tables["harborview"], "of_image", lambda image_id: rows)
    page = caption_page(tables, "harborview", None)
    assert "<s>red bus</s> 0.0031" in page
    assert "not seen in the image" in page
    assert "<s>a tree" not in page
    assert "left out: too short" in page


def test_search_finds_the_regions_of_the_highest_cosine(cities, towers):
    page = search_regions(cities, towers.tower, "a river", "harborview", "satellite")
    city = cities["harborview"]
    scores = unit(city.views["satellite"].X) @ unit(towers.tower.encode(["a river"]))[0]
    best = city.region_ids[int(np.argmax(scores))]
    assert page.index(f'data-region="{best}"') == page.index("data-region=")
    assert "has no vectors" in search_regions(cities, towers.tower, "a", "harborview", "both")


def test_vectors_of_own_pictures_are_the_mean_of_the_encoders(cities, towers, picture_files):
    files = picture_files["street_view"][:2]
    found = answer(cities, towers, "harborview", files, None)
    table = read_embeddings_of(found.files)
    images = [Image.open(name).convert("RGB") for name in files]
    wanted = np.mean([towers.encoder.encode(towers.encoder.prepare(i)[None])[0] for i in images], 0)
    np.testing.assert_allclose(table.vectors["street_view"][0], wanted, atol=1e-5)
    assert pq.read_schema(found.files[0]).names[0] == "region_id"


def read_embeddings_of(files: list[str]) -> EmbeddingTable:
    from pathlib import Path

    return read_embeddings(Path(files[0]))


def test_views_the_city_lacks_are_told_and_still_give_vectors(town, towers, picture_files):
    found = answer({"town": town}, towers, "town", picture_files["street_view"], None)
    assert "town has no vectors of street views" in found.html
    assert len(found.files) == 2
