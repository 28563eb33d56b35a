import csv
import html
import json
import re

import geopandas as gpd
import numpy as np
import pytest
import shapely

from pipelines.common.csv_files import write_csv
from pipelines.evaluation.cli import main
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.search.gallery import Gallery, Pairs, all_captions, own_captions
from pipelines.evaluation.search.nearest import unit
from pipelines.evaluation.search.page import hits_table, to_geojson, to_html
from pipelines.evaluation.search.retrieval import Hit, retrieval_metrics, search_regions
from pipelines.pretraining.validation import retrieval_metrics as training_metrics

ABOUT = {"dataset": "d", "city": "town", "synthetic": True, "encoder": "e", "view": "satellite"}


def embeds(n: int, seed: int, dim: int = 8) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(n, dim)))


def pairs_of(texts) -> Pairs:
    return Pairs(list(texts), np.arange(len(texts)))


@pytest.mark.parametrize("distinct", [60, 20, 1])
def test_numbers_agree_with_those_of_training(distinct):
    texts = [f"text {i % distinct}" for i in range(60)]
    images, words = embeds(60, 0), embeds(60, 1)
    mine = retrieval_metrics(images, words, pairs_of(texts), texts, ks=(1, 5))
    theirs = training_metrics(images, words, texts, ks=(1, 5))
    for direction in ("image_to_text", "text_to_image"):
        for k in (1, 5):
            assert mine[direction][f"recall_at_{k}"] == theirs[f"{direction}_recall_at_{k}"]
            chance = mine[direction][f"chance_recall_at_{k}"]
            assert chance == pytest.approx(theirs[f"chance_recall_at_{k}"])


def test_any_image_that_has_the_text_is_right():
    # two images share a caption; its text embedding equals that of the other image
    images = np.eye(3, dtype=np.float32)
    texts = Pairs(["a river", "a river", "a road", "a bridge"], np.array([0, 1, 2, 2]))
    words = images[[1, 0, 2, 0]]
    found = retrieval_metrics(images, words, texts, ["p", "q", "r"])
    assert found["text_to_image"]["recall_at_1"] == 0.75  # "a bridge" is nearest to a wrong image
    assert found["text_to_image"]["candidates"] == 3
    assert found["image_to_text"]["queries"] == 3
    # image 2 finds "a road"; image 0 is a tie between "a river" and the wrong "a bridge"
    assert found["image_to_text"]["recall_at_1"] == pytest.approx(2 / 3)


def test_a_region_is_right_if_one_of_its_images_is():
    images = np.eye(4, dtype=np.float32)
    texts = pairs_of(["a", "b", "c", "d"])
    # the text of image 0 is nearest to image 1, which is in the same region
    found = retrieval_metrics(images, images[[1, 1, 2, 3]], texts, ["p", "p", "q", "r"])
    assert found["text_to_image"]["recall_at_1"] == 0.75
    assert found["text_to_region"]["recall_at_1"] == 1
    assert found["text_to_region"]["candidates"] == 3
    assert found["text_to_region"]["median_rank"] == 1


def gallery(**changes) -> Gallery:
    fields = {
        "image_ids": ["i0", "i1", "i2"],
        "region_ids": ["north", "south", "north"],
        "captions": ["a lake", None, "a mill"],
        "vectors": np.eye(3, dtype=np.float32),
        "view": "satellite",
        "description": ABOUT,
    }
    return Gallery(**{**fields, **changes})


def test_captions_are_those_of_images_that_have_one(toy_dataset):
    found = own_captions(gallery())
    assert (found.texts, found.image.tolist()) == (["a lake", "a mill"], [0, 2])
    about = {**ABOUT, "dataset": str(toy_dataset), "city": "toytown"}
    with pytest.raises(InputError, match="has no table 'toytown-captions'"):
        all_captions(gallery(description=about))


def test_search_finds_the_region_of_the_nearest_image():
    hits = search_regions("a mill", gallery(), lambda texts: np.array([[0.1, 0.5, 2.0]]), top=5)
    assert [(hit.region_id, hit.image_id, hit.caption) for hit in hits] == [
        ("north", "i2", "a mill"),
        ("south", "i1", None),
    ]
    assert hits[0].score == pytest.approx(2 / np.sqrt(4.26))
    with pytest.raises(InputError, match="--query is empty"):
        search_regions(" \n", gallery(), lambda texts: np.eye(3)[:1])


EVIL = '<script>alert("x")</script>\u202e & <img src=x onerror=alert(1)>'


def regions_of(*rows):
    """Regions from tuples of region_id, lon, lat and geometry."""
    ids, lon, lat, shapes = zip(*rows, strict=True)
    columns = {"region_id": ids, "lon": np.array(lon, float), "lat": np.array(lat, float)}
    return gpd.GeoDataFrame(columns, geometry=list(shapes), crs="EPSG:4326")


def test_the_page_escapes_all_that_comes_from_outside():
    table = hits_table(
        [Hit(EVIL, f"image{EVIL}", 0.5, EVIL)], regions_of((EVIL, 1, 2, shapely.box(1, 2, 3, 4)))
    )
    page = to_html(EVIL, table, {f"image{EVIL}": b"jpeg"}, {**ABOUT, "encoder": EVIL})
    assert "<script" not in page
    assert "onerror" in page  # as text only
    assert len(re.findall(r"<img ", page)) == 1
    assert "\u202e" not in page
    assert html.unescape(page).count('<script>alert("x")</script>') == 6
    assert "default-src 'none'" in page
    assert "Synthetic" in page


def test_files_have_outlines_points_or_nothing_and_no_formula(tmp_path):
    hits = [Hit(name, "@x", 0.25, "=1+1") for name in ("=box", "point", "nowhere")]
    rows = ("=box", 2, 3, shapely.box(1, 2, 3, 4)), ("point", 2, 3, None)
    table = hits_table(hits, regions_of(("nowhere", np.nan, np.nan, None), *rows))
    found = json.loads(to_geojson("\ud800 query", table, ABOUT))
    kinds = [one["geometry"] and one["geometry"]["type"] for one in found["features"]]
    assert kinds == ["Polygon", "Point", None]
    assert [one["properties"]["rank"] for one in found["features"]] == [1, 2, 3]
    assert found["synthetic"] is True
    write_csv(tmp_path / "t.csv", table.drop(columns="geometry"))
    lines = list(csv.reader((tmp_path / "t.csv").open()))
    assert lines[1] == ["1", "'=box", "0.250000", "2.0", "3.0", "'@x", "'=1+1"]
    assert lines[3][3:5] == ["", ""]
    page = to_html("q", table, {}, ABOUT)
    assert page.count("This image cannot be decoded") == 3
    assert "nan" not in page


@pytest.fixture(scope="module")
def retrieve(tiny_city, tiny_model_dir):
    return [
        *("retrieve", "--model_name_or_path", str(tiny_model_dir), "--label", "tiny"),
        *("--dataset_name", str(tiny_city), "--city", "harborview", "--device", "cpu"),
    ]


def test_the_command_measures(retrieve, tmp_path, capsys):
    where = ["--output_dir", str(tmp_path), "--view", "street_view"]
    assert main([*retrieve, *where]) == 0
    assert "Synthetic data" in capsys.readouterr().out
    found = json.loads((tmp_path / "harborview" / "retrieval-street_view-tiny.json").read_text())
    directions = found["directions"]
    assert directions["text_to_image"]["candidates"] == found["images"] == 72
    assert directions["text_to_region"]["candidates"] == found["regions"] == 36
    assert 0 <= directions["text_to_region"]["recall_at_10"] <= 1
    assert found["synthetic"] is True


def test_the_command_searches_and_draws(retrieve, tmp_path, capsys):
    query = "old <b>low-rise</b> housing"
    where = ["--output_dir", str(tmp_path), "--query", query, "--top", "3"]
    assert main([*retrieve, *where]) == 0
    shown = capsys.readouterr().out
    folder = tmp_path / "harborview" / "search"
    assert sorted(path.suffix for path in folder.iterdir()) == [".csv", ".geojson", ".html"]
    page = next(folder.glob("*.html")).read_text()
    assert page.count("data:image/jpeg;base64,") == 3
    assert "<b>low-rise" not in page
    rows = list(csv.DictReader(next(folder.glob("*.csv")).open()))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert all(row["region_id"] in shown for row in rows)
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_the_command_names_the_views_there_are(retrieve, tmp_path, capsys, toy_dataset):
    text = [
        part.replace("harborview", "toytown") if part == "harborview" else part for part in retrieve
    ]
    text[text.index("--dataset_name") + 1] = str(toy_dataset)
    assert main([*text, "--output_dir", str(tmp_path)]) == 2
    assert "No satellite image of 'toytown' has a caption" in capsys.readouterr().err
