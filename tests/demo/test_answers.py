"""Responses of the server, without a browser."""

import json
import shutil

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image

from dataset_builders.captions import clean_caption
from dataset_builders.images import decode_image
from demo.amounts import Amounts, amounts_of, rounded
from demo.caption_page import caption_page, open_candidates
from demo.choropleth import outline, paint
from demo.cities import ShownCity, open_cities
from demo.map_panel import MapPanel
from demo.model import Towers
from demo.neighbours import Neighbours, side_by_side
from demo.own_images import answer
from demo.recall import Recall, _examples, measure_recall
from demo.region_card import region_card
from demo.reported import Report
from demo.search_tab import Search
from demo.settings import DemoSettings
from pipelines.evaluation.embed.tables import EmbeddingTable, read_embeddings, write_embeddings
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.search.nearest import unit
from pipelines.prediction.inputs import Inputs
from pipelines.prediction.labels import Indicator
from pipelines.prediction.predict import predict_new

ATTACK = '"><script>alert(1)</script>'
SIDE = 12


def shown_city(X: np.ndarray, raw: np.ndarray, unit: str = "people") -> ShownCity:
    """City of 1-km cells without images and with region ids that contain HTML."""
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    lon, lat = 10 + columns * 0.009, rows * 0.009
    ids = [f"{ATTACK}{i:03d}" for i in range(len(lon))]
    regions = gpd.GeoDataFrame(
        {"region_id": ids, "lon": lon, "lat": lat, "area_m2": 1e6},
        geometry=shapely.points(lon, lat),
        crs="EPSG:4326",
    )
    population = Indicator("population", unit, "ln1p", raw)
    inputs = Inputs(regions, [population], None, [], 4000.0, synthetic=True)  # type: ignore[arg-type]
    table = EmbeddingTable("e", {}, ids, {"satellite": X.astype(np.float32)}, "")
    return ShownCity("town", "d", inputs, table, {}, Report(None, "town"))


@pytest.fixture(scope="module")
def town() -> ShownCity:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(SIDE * SIDE, 6))
    return shown_city(X, np.round(np.expm1(X @ rng.normal(size=6) + 8)).clip(0), ATTACK)


@pytest.fixture(scope="module")
def half_labelled() -> ShownCity:
    """City with an unlabelled north whose images are unlike those of the south."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(SIDE * SIDE, 6))
    raw = np.expm1(X @ rng.normal(size=6) + 8)
    raw[100:] = np.nan
    X[120:] += 100
    return shown_city(X, raw)


def test_hostile_ids_and_units_stay_text(town):
    panel = MapPanel({"town": town})
    asked = {
        "city": "town",
        "view": "satellite",
        "region": f"{ATTACK}003",
        "indicator": "population",
    }
    pages = [panel.html(), panel.region(asked)["card"]]
    pages += [panel.layer({**asked, "layer": layer})["legend"] for layer in ("measured", "error")]
    for page in pages:
        assert "<script" not in page
    assert "&lt;script&gt;" in pages[0]


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("city", {"city": "atlantis"}, "There is no city 'atlantis'"),
        ("city", None, "There is no city"),
        ("city", [1], "There is no city"),
        ("layer", {"city": "town", "layer": "lies"}, "The layer must be one of"),
        ("layer", {"city": "town", "layer": "measured", "view": "x"}, "has no"),
        ("region", {"city": "town", "view": "satellite", "region": "r"}, "has no region 'r'"),
        ("region", {"city": {"a": 1}, "view": [], "region": {}}, "There is no city"),
    ],
)
def test_junk_is_answered_with_a_message(town, name, asked, said):
    functions = {function.__name__: function for function in MapPanel({"town": town}).functions}
    assert said in functions[name](asked)["error"]


def test_measured_and_estimated_share_a_scale_and_are_raw_values(town):
    measured = paint(town, "satellite", "population", "measured")
    estimated = paint(town, "satellite", "population", "estimated")
    ticks = [one.legend.partition('<div class="ticks">')[2] for one in (measured, estimated)]
    assert ticks[0] == ticks[1]
    raw = float(town.indicators[0].raw[0])
    assert measured.values[0] == rounded(raw, 3, 1.0)
    held_out = town.views["satellite"].predictions.table["population_predicted"]
    assert estimated.values[0] == rounded(float(held_out.iloc[0]), 2, 1.0)
    assert "trained without its district and the regions next to it" in estimated.note
    assert "synthetic" in estimated.note


def test_an_error_is_told_by_both_values(town):
    painted = paint(town, "satellite", "population", "error")
    estimated = paint(town, "satellite", "population", "estimated").values[3]
    measured = paint(town, "satellite", "population", "measured").values[3]
    assert painted.values[3] == f"estimated {estimated}, measured {measured}"
    assert "estimated ÷ measured" in painted.legend


def test_estimates_from_images_unlike_the_training_are_folded_and_not_painted(half_labelled):
    painted = paint(half_labelled, "satellite", "population", "estimated")
    assert painted.values[130] == "–"
    assert painted.values[0] != "–"
    ids = half_labelled.region_ids
    unlike, like = (
        region_card({"town": half_labelled}, half_labelled, "satellite", ids[row])
        for row in (130, 0)
    )
    assert '<details class="folded">' in unlike
    assert unlike.index("<details") < unlike.index("<table")
    assert "folded" not in like


def test_a_city_with_too_few_labels_is_shown_without_estimates():
    raw = np.full(SIDE * SIDE, np.nan)
    raw[:5] = np.arange(5)
    city = shown_city(np.random.default_rng(0).normal(size=(SIDE * SIDE, 6)), raw)
    card = region_card({"town": city}, city, "satellite", city.region_ids[0])
    assert "too few regions have labels" in card
    assert "too few labels" in paint(city, "satellite", "population", "estimated").note
    panel = MapPanel({"town": city})
    asked = {"city": "town", "view": "satellite"}
    geopackage = {one.__name__: one for one in panel.functions}["geopackage"]
    assert "no predictions to download" in geopackage(asked)["error"]


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
def test_numbers_are_rounded_to_significant_digits(value, said):
    assert rounded(value, 3) == said


def test_counts_are_whole_and_intervals_are_in_words():
    crime = amounts_of(Indicator("crime", "incidents", "ln1p", np.array([0.0, 3.0, 21.0])))
    assert crime.between(0.000216, 21.4) == "up to 21"
    assert crime.between(3.2, 180.7) == "between 3 and 180"
    assert crime.between(4.1, 4.4) == "about 4"
    assert crime.between(np.nan, 3.0) == ""
    light = amounts_of(Indicator("night_light", "nW", "ln1p", np.array([0.5, 2.86, 41.2])))
    assert light.estimated(2.8564) == "2.9"
    assert light.estimated(0.0001) == "0"


def test_a_constant_zero_indicator_can_be_written():
    assert amounts_of(Indicator("crime", "u", "ln1p", np.zeros(3))) == Amounts(1.0)


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
    with pytest.raises(InputError, match=r"'atlantis' \(--city\); choose one of harborview, old"):
        open_cities(other, towers.encoder.name, towers.encoder.dim)


def test_the_city_that_is_asked_for_comes_first(settings, towers):
    other = DemoSettings(settings.dataset_name, "m", settings.embeddings, city="oldgate")
    assert list(open_cities(other, towers.encoder.name, towers.encoder.dim)) == [
        "oldgate",
        "harborview",
    ]


# ---- captions, search, own images ----------------------------------------------------------------


@pytest.fixture(scope="module")
def candidates(settings):
    return open_candidates(settings.dataset_name)


def test_a_city_without_captions_has_a_polite_page(two_cities, tmp_path):
    folder = tmp_path / "dataset"
    shutil.copytree(two_cities, folder)
    shutil.rmtree(folder / "data" / "oldgate-captions")
    page = caption_page(open_candidates(str(folder)), "oldgate", None)
    assert 'role="status"' in page
    assert "python -m pipelines.captioning run" in page


def test_an_unknown_image_is_told_of_one_that_is_known(candidates):
    page = caption_page(candidates, "harborview", "<b>nothing</b>")
    assert "&lt;b&gt;nothing" in page
    assert candidates["harborview"].image_ids[0] in page


def test_the_image_with_most_struck_out_is_shown_first(two_cities, tmp_path):
    folder = tmp_path / "dataset"
    shutil.copytree(two_cities, folder)
    path = folder / "data" / "oldgate-captions" / "part-00000.parquet"
    table = pq.read_table(path)
    last = table["image_id"].to_pylist()[-1]
    struck = json.dumps([{"text": "a red bus", "kept": False}])
    phrases = [struck if one == last else None for one in table["image_id"].to_pylist()]
    pq.write_table(table.append_column("phrases", pa.array(phrases, pa.string())), path)
    oldgate = open_candidates(str(folder))["oldgate"]
    assert oldgate.image_ids[0] != last
    assert oldgate.opening == last


def test_struck_out_phrases_are_shown_with_score_and_reason(candidates, monkeypatch):
    phrases = (
        '[{"text": "red bus", "kept": false, "score": 0.0031, "reason": "below_threshold"},'
        ' {"text": "a tree", "kept": true, "score": 0.5, "reason": ""}]'
    )
    rows = [{"model": "m", "text": "t", "kept": True, "chosen": True, "score": 0.5},
            {"model": "n", "text": "u", "kept": False, "drop_reason": "too_short"}]  # fmt: skip
    rows[0]["phrases"] = phrases
    monkeypatch.setattr(candidates["harborview"], "of_image", lambda image_id: rows)
    page = caption_page(candidates, "harborview", None)
    assert "<s>red bus</s> 0.003" in page
    assert "not found in the image" in page
    assert "<s>a tree" not in page
    assert "dropped: too short" in page


def measured(**changed) -> Recall:
    values = {"images": 100, "unseen": True, "text_to_image": 0.6, "image_to_text": 0.6,
              "chance": 0.05, "floor": -1.0, "examples": ()}  # fmt: skip
    return Recall(**{**values, **changed})


@pytest.fixture
def search(cities, towers, monkeypatch) -> Search:
    """Search with a model of good measured recall."""
    monkeypatch.setattr("demo.search_tab.measure_recall", lambda *_: measured())
    return Search(cities, towers)


def test_search_finds_the_regions_of_the_highest_cosine(search, cities, towers):
    page = search.page("a river", "harborview", "satellite")
    city = cities["harborview"]
    scores = unit(city.views["satellite"].X) @ unit(towers.tower.encode(["a river"]))[0]
    best = city.region_ids[int(np.argmax(scores))]
    assert page.index(f'data-region="{best}"') == page.index("data-region=")
    assert "folded" not in page
    assert "has no embeddings" in search.page("a", "harborview", "both")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"text_to_image": 0.09}, "Search quality of this model is low"),
        ({"floor": 1.1}, "No good match"),
    ],
)
def test_poor_searches_and_words_that_match_nothing_are_folded_away(
    cities, towers, monkeypatch, changed, said
):
    monkeypatch.setattr("demo.search_tab.measure_recall", lambda *_: measured(**changed))
    page = Search(cities, towers).page("a river", "harborview", "satellite")
    assert page.lstrip().startswith('<details class="folded">')
    assert said in page


def test_poor_is_below_twice_chance_where_that_can_be_reached():
    assert measured(text_to_image=0.09).poor
    assert not measured(text_to_image=0.11).poor
    assert not measured(text_to_image=0.95, chance=0.6).poor
    assert measured(text_to_image=0.7, chance=0.6).poor


def test_recall_is_that_of_the_images_a_model_was_not_trained_on(cities, towers, tmp_path):
    city = cities["harborview"]
    ids = city.pictures["satellite"].image_ids
    seen = pa.table({"table": ["harborview-satellite"] * 20, "image_id": ids[:20],
                     "split": ["train"] * 20})  # fmt: skip
    pq.write_table(seen, tmp_path / "pairs.parquet")
    trained = Towers(towers.encoder, towers.tower, tmp_path)
    found = measure_recall(city, "satellite", trained)
    assert found.unseen
    assert found.images == len(ids) - 20
    vectors, texts = [], []
    for name in ids[20:]:
        row = city.pictures["satellite"].stored(name)
        vectors.append(towers.encode_images([decode_image(row["bytes"])])[0])
        texts.append(clean_caption(row["caption"]))
    scores = unit(towers.tower.encode(texts)) @ unit(np.stack(vectors)).T
    rank = (scores > scores.diagonal()[:, None] + 1e-6).sum(1)
    assert found.text_to_image == pytest.approx((rank < 5).mean(), abs=0.1)
    assert found.chance == pytest.approx(5 / found.images, abs=0.05)


def test_images_that_may_have_been_trained_on_are_said_to_be(cities, towers):
    note = Search(cities, towers).note("harborview", "satellite")
    assert "which the model may have been trained on" in note
    assert "36 captioned satellite images" in note


def test_examples_find_their_own_region(cities, towers):
    city = cities["harborview"]
    found = measure_recall(city, "street_view", towers)
    assert found.examples
    pictures = city.pictures["street_view"]
    shown = [pictures.by_id(name) for name in pictures.image_ids]
    for example in found.examples:
        page = Search(cities, towers).page(example, "harborview", "street_view")
        own = [one.region_id for one in shown if example in (one.caption or "")]
        assert any(f'data-region="{region}"' in page for region in own)


def test_examples_are_dissimilar_and_of_different_images():
    sentences = ["it has houses in rows", "it has houses in long rows", "a park", "a tower"]
    owners = dict(zip(sentences, (0, 1, 2, 2), strict=True))
    ranks, matches = np.array([0, 1, 2, 3]), np.ones(4, bool)
    assert _examples(owners, ranks, matches) == ("it has houses in rows", "a park")


def test_a_city_of_too_few_captioned_images_has_no_recall(cities, towers):
    assert "Search quality is unknown" in Search(cities, towers).note("oldgate", "satellite")


def test_vectors_of_own_images_are_the_mean_of_the_encoders(cities, towers, picture_files):
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
    assert "Town has no embeddings of street views" in found.html
    assert len(found.files) == 2


def test_own_images_unlike_the_training_have_their_estimates_folded(
    cities, towers, picture_files, monkeypatch
):
    files = picture_files["satellite"][:1]
    usual = answer(cities, towers, "harborview", None, files[0]).html
    monkeypatch.setattr(
        "demo.own_images.predict_new",
        lambda found, X: predict_new(found, X + 1e3),
    )
    unusual = answer(cities, towers, "harborview", None, files[0]).html
    assert "similar to those of the training regions" in usual
    assert "folded" not in usual
    assert unusual.index("<details") < unusual.index('<table class="predictions">')
    assert "unlike those of any labelled region" in unusual


def test_the_search_tab_of_an_encoder_without_a_text_tower_says_so(cities, towers):
    import gradio as gr

    from demo.tabs import search_tab

    with gr.Blocks(analytics_enabled=False) as app:
        search_tab(cities, Towers(towers.encoder))
    assert "has no text tower, so text search is not available" in json.dumps(app.config)
