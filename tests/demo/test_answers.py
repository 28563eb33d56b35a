"""Responses of the server, without a browser."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image

from dataset_builders.captions import clean_caption
from dataset_builders.images import decode_image
from dataset_builders.unique import RepeatedIdError
from demo.amounts import Amounts, amounts_of, rounded
from demo.caption_page import caption_page, open_candidates
from demo.choropleth import LAYERS, paint
from demo.cities import Neighbours, Report, ShownCity, open_cities, side_by_side
from demo.map_panel import MapPanel
from demo.model import Towers
from demo.own_images import answer
from demo.pictures import open_pictures
from demo.recall import Recall, _examples, measure_recall
from demo.region_card import region_card
from demo.search_tab import Search
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
    return ShownCity("town", inputs, table, {}, Report(None, "town"))


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


def test_html_in_ids_and_units_is_escaped(town):
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
        ("city", [1], "There is no city"),
        ("layer", {"city": "town", "layer": "lies"}, "The layer must be one of"),
        ("layer", {"city": "town", "layer": "measured", "view": "x"}, "There is no"),
        ("region", {"city": "town", "view": "satellite", "region": "r"}, "There is no region 'r'"),
        ("region", {"city": {"a": 1}, "view": [], "region": {}}, "There is no city"),
    ],
)
def test_invalid_requests_are_answered_with_a_message(town, name, asked, said):
    functions = {function.__name__: function for function in MapPanel({"town": town}).functions}
    assert said in functions[name](asked)["error"]


def test_layers_share_a_scale_and_show_raw_values(town):
    measured, estimated, error = (paint(town, "satellite", "population", layer) for layer in LAYERS)
    ticks = [one.legend.partition('<div class="ticks">')[2] for one in (measured, estimated)]
    assert ticks[0] == ticks[1]
    raw = float(town.indicators["population"].raw[0])
    assert measured.values[0] == rounded(raw, 3, 1.0)
    held_out = town.views["satellite"].predictions.table["population_predicted"]
    assert estimated.values[0] == rounded(float(held_out.iloc[0]), 2, 1.0)
    assert "trained without its district and the regions next to it" in estimated.note
    assert "synthetic" in estimated.note
    assert error.values[3] == f"estimated {estimated.values[3]}, measured {measured.values[3]}"
    assert "estimated ÷ measured" in error.legend


def test_estimates_from_images_unlike_the_training_are_collapsed_and_not_painted(half_labelled):
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


def test_city_with_too_few_labels_is_shown_without_estimates():
    raw = np.full(SIDE * SIDE, np.nan)
    raw[:5] = np.arange(5)
    city = shown_city(np.random.default_rng(0).normal(size=(SIDE * SIDE, 6)), raw)
    card = region_card({"town": city}, city, "satellite", city.region_ids[0])
    assert "too few regions have labels" in card
    assert "too few labels" in paint(city, "satellite", "population", "estimated").note
    functions = {one.__name__: one for one in MapPanel({"town": city}).functions}
    answer = functions["geopackage"]({"city": "town", "view": "satellite"})
    assert "no predictions to download" in answer["error"]


def test_numbers_are_rounded_to_significant_digits_and_counts_are_whole():
    values = {0: "0", 12.345: "12.3", 1234.5: "1,230", 0.00123: "0.00123", np.nan: "–"}
    assert [rounded(value, 3) for value in values] == list(values.values())
    crime = amounts_of(Indicator("crime", "incidents", "ln1p", np.array([0.0, 3.0, 21.0])))
    assert crime.between(0.000216, 21.4) == "up to 21"
    assert crime.between(3.2, 180.7) == "between 3 and 180"
    assert crime.between(4.1, 4.4) == "about 4"
    assert crime.between(np.nan, 3.0) == ""
    light = amounts_of(Indicator("night_light", "nW", "ln1p", np.array([0.5, 2.86, 41.2])))
    assert light.estimated(2.8564) == "2.9"
    assert light.estimated(0.0001) == "0"
    assert amounts_of(Indicator("crime", "u", "ln1p", np.zeros(3))) == Amounts(1.0)


# ---- neighbours ---------------------------------------------------------------------------------


def test_neighbours_equal_the_full_matrix_of_mean_cosines_without_the_region_itself():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 5)), rng.normal(size=(50, 7))
    a[7] = np.nan
    X = side_by_side([a, b])
    found = Neighbours(X).search(X[3], 5, without=3)
    cosines = (unit(a) @ unit(a[[3]])[0] + unit(b) @ unit(b[[3]])[0]) / 2
    cosines[[3, 7]] = -2
    assert [one.row for one in found] == np.argsort(-cosines)[:5].tolist()
    assert [one.cosine for one in found] == pytest.approx(np.sort(cosines)[::-1][:5], abs=1e-6)


# ---- cities -------------------------------------------------------------------------------------


def test_cities_start_with_the_requested_one(settings, towers):
    found = open_cities(replace(settings, city="oldgate"), towers.encoder.name, towers.encoder.dim)
    assert list(found) == ["oldgate", "harborview"]
    with pytest.raises(InputError, match=r"'atlantis' \(--city\); choose one of harborview, old"):
        open_cities(replace(settings, city="atlantis"), towers.encoder.name, towers.encoder.dim)


def test_tables_of_another_model_or_random_weights_are_skipped(settings, tmp_path, towers):
    table = read_embeddings(Path(settings.embeddings[0]) / "oldgate" / "urbanln.parquet")
    counts = {view: np.ones(len(table.region_ids), np.int64) for view in table.vectors}
    for label, changes in (("narrow", {}), ("random", {"random_init": True})):
        vectors = {v: x[:, :3] if label == "narrow" else x for v, x in table.vectors.items()}
        metadata = {**table.metadata, **changes, "label": label}
        write_embeddings(tmp_path / f"{label}.parquet", table.region_ids, counts, vectors, metadata)
    other = replace(settings, embeddings=(str(tmp_path),))
    with pytest.raises(InputError, match="found: narrow, random"):
        open_cities(other, towers.encoder.name, towers.encoder.dim)


def test_city_may_lack_a_view_but_not_repeat_an_image(tiny_city, tmp_path):
    shutil.copytree(tiny_city / "data", tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "harborview-street_view")
    assert list(open_pictures(str(tmp_path), "harborview")) == ["satellite"]
    shards = tmp_path / "data" / "harborview-satellite"
    shutil.copy(shards / "part-00000.parquet", shards / "part-00001.parquet")
    with pytest.raises(RepeatedIdError, match="36 rows repeat the image_id"):
        open_pictures(str(tmp_path), "harborview")


# ---- captions -----------------------------------------------------------------------------------


def test_captions_open_on_the_image_with_most_removed_phrases(two_cities, tmp_path):
    folder = tmp_path / "dataset"
    shutil.copytree(two_cities, folder)
    path = folder / "data" / "oldgate-captions" / "part-00000.parquet"
    table = pq.read_table(path)
    last = table["image_id"].to_pylist()[-1]
    phrases = [
        {"text": "red bus", "kept": False, "score": 0.0031, "reason": "below_threshold"},
        {"text": "a tree", "kept": True, "score": 0.5, "reason": ""},
    ]
    column = [json.dumps(phrases) if one == last else None for one in table["image_id"].to_pylist()]
    pq.write_table(table.append_column("phrases", pa.array(column, pa.string())), path)
    shutil.rmtree(folder / "data" / "harborview-captions")
    candidates = open_candidates(str(folder))
    assert candidates["oldgate"].image_ids[0] != last
    page = caption_page(candidates, "oldgate", None)
    assert f"<b>{last}</b>" in page
    assert "<s>red bus</s> 0.003" in page
    assert "not found in the image" in page
    assert "<s>a tree" not in page

    unknown = caption_page(candidates, "oldgate", "<b>nothing</b>")
    assert "&lt;b&gt;nothing" in unknown
    assert last in unknown
    without = caption_page(candidates, "harborview", None)
    assert 'role="status"' in without
    assert "python -m pipelines.captioning run" in without


# ---- search -------------------------------------------------------------------------------------


def measured(**changed) -> Recall:
    values = {"images": 100, "unseen": True, "text_to_image": 0.6, "image_to_text": 0.6,
              "chance": 0.05, "floor": -1.0, "examples": ()}  # fmt: skip
    return Recall(**{**values, **changed})


def test_search_ranks_regions_and_collapses_results_of_poor_models_and_matches(
    cities, towers, monkeypatch
):
    def page(**changed) -> str:
        monkeypatch.setattr("demo.search_tab.measure_recall", lambda *_: measured(**changed))
        return Search(cities, towers).page("a river", "harborview", "satellite")

    city, found = cities["harborview"], page()
    scores = unit(city.views["satellite"].X) @ unit(towers.tower.encode(["a river"]))[0]
    best = city.region_ids[int(np.argmax(scores))]
    assert found.index(f'data-region="{best}"') == found.index("data-region=")
    assert "folded" not in found
    for changed, said in (
        ({"text_to_image": 0.09}, "Search quality of this model is low"),
        ({"floor": 1.1}, "No good match"),
    ):
        found = page(**changed)
        assert found.lstrip().startswith('<details class="folded">')
        assert said in found
    assert "has no embeddings" in Search(cities, towers).page("a", "harborview", "both")


def test_recall_is_measured_on_images_that_the_model_was_not_trained_on(cities, towers, tmp_path):
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


def test_note_states_training_images_and_examples_find_their_region(cities, towers):
    search = Search(cities, towers)
    note = search.note("harborview", "satellite")
    assert "36 captioned satellite images" in note
    assert "which the model may have been trained on" in note
    assert "Search quality is unknown" in search.note("oldgate", "satellite")
    pictures = cities["harborview"].pictures["satellite"]
    shown = [pictures.by_id(name) for name in pictures.image_ids]
    examples = search.recall("harborview", "satellite").examples
    assert examples
    for example in examples:
        page = search.page(example, "harborview", "satellite")
        own = [one.region_id for one in shown if example in (one.caption or "")]
        assert any(f'data-region="{region}"' in page for region in own)


def test_examples_are_dissimilar_and_of_different_images():
    sentences = ["it has houses in rows", "it has houses in long rows", "a park", "a tower"]
    owners = dict(zip(sentences, (0, 1, 2, 2), strict=True))
    ranks, matches = np.array([0, 1, 2, 3]), np.ones(4, bool)
    assert _examples(owners, ranks, matches) == ("it has houses in rows", "a park")


def test_search_tab_without_a_text_tower_says_so(cities, towers):
    import gradio as gr

    from demo.tabs import search_tab

    with gr.Blocks(analytics_enabled=False) as app:
        search_tab(cities, Towers(towers.encoder))
    assert "has no text tower, so text search is not available" in json.dumps(app.config)


# ---- own images ---------------------------------------------------------------------------------


def test_vectors_of_uploads_are_means_of_the_encoder(cities, towers, picture_files, town):
    files = picture_files["street_view"][:2]
    _, (written, _) = answer(cities, towers, "oldgate", files, None)
    table = read_embeddings(Path(written))
    images = [Image.open(name).convert("RGB") for name in files]
    wanted = np.mean([towers.encoder.encode(towers.encoder.prepare(i)[None])[0] for i in images], 0)
    np.testing.assert_allclose(table.vectors["street_view"][0], wanted, atol=1e-5)
    assert pq.read_schema(written).names[0] == "region_id"
    html, paths = answer({"town": town}, towers, "town", files, None)
    assert "Town has no embeddings of street views" in html
    assert len(paths) == 2


def test_uploads_unlike_the_training_have_their_estimates_collapsed(
    cities, towers, picture_files, monkeypatch
):
    files = picture_files["street_view"], picture_files["satellite"][0]
    usual, _ = answer(cities, towers, "harborview", *files)
    monkeypatch.setattr(
        "demo.own_images.predict_new",
        lambda found, X: predict_new(found, X + 1e3),
    )
    unusual, _ = answer(cities, towers, "harborview", *files)
    assert "similar to those of the training regions" in usual
    assert "folded" not in usual
    assert unusual.index("<details") < unusual.index('<table class="predictions">')
    assert "unlike those of any labelled region" in unusual
