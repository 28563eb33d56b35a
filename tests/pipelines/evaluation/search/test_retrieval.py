import csv
import html
import json
import re
import tracemalloc

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from pipelines.evaluation.cli import main
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.search import nearest
from pipelines.evaluation.search.page import hits_table, to_geojson, to_html
from pipelines.evaluation.search.retrieval import (
    Gallery,
    Hit,
    Pairs,
    own_captions,
    retrieval_metrics,
    search_regions,
)
from pipelines.pretraining.validation import retrieval_metrics as training_metrics
from tests.pipelines.evaluation.toy import CITY, build_toy

ABOUT = {"dataset": "d", "city": "town", "synthetic": True, "encoder": "e", "view": "satellite"}
GALLERY = Gallery(
    image_ids=["i0", "i1", "i2"],
    region_ids=["north", "south", "north"],
    captions=["a lake", None, "a mill"],
    vectors=np.eye(3, dtype=np.float32),
    view="satellite",
    description=ABOUT,
)
EVIL = '<script>alert("x")</script>\u202e & <img src=x onerror=alert(1)>'


@given(*(st.integers(1, n) for n in (7, 25, 3, 30, 40, 8)), st.integers(0, 2**32))
def test_blockwise_search_equals_the_full_matrix(q, n, dim, k, block_keys, block_queries, seed):
    rng = np.random.default_rng(seed)
    # integers: exact products and many ties
    queries, vectors = (rng.integers(-2, 3, (m, dim)).astype(np.float32) for m in (q, n))
    owners = rng.integers(0, rng.integers(1, n + 1), n)
    full = np.stack(
        [(queries @ vectors[owners == name].T).max(1) for name in np.unique(owners)], axis=1
    )
    keys, _ = nearest.owned_keys(vectors, owners)
    scores, found = nearest.top_k(queries, keys, k, block_keys)
    expected = np.argsort(-full, axis=1, kind="stable")[:, :k]
    assert np.array_equal(found, expected)
    assert np.array_equal(scores, np.take_along_axis(full, expected, 1))
    right = rng.random(full.shape) < 0.3
    right[np.arange(q), rng.integers(0, full.shape[1], q)] = True
    rows, columns = rng.permutation(q), rng.permutation(full.shape[1])
    matrix = csr_array(right[np.argsort(rows)][:, np.argsort(columns)])
    relevance = nearest.Relevance(matrix, rows, columns)
    hits = nearest.first_hits(queries, keys, relevance, block_keys, block_queries)
    best = np.where(right, full, -np.inf).max(1, keepdims=True)
    assert np.array_equal(hits, (~right & (full >= best)).sum(1))
    assert np.array_equal(relevance.num_right(), right.sum(1))


def test_collapsed_embeddings_rank_worst_for_any_block_size():
    # scores in different blocks differ by rounding and must count as ties
    vectors = np.repeat(nearest.unit(np.random.default_rng(0).normal(size=(1, 100))), 200, axis=0)
    alone = nearest.Relevance(csr_array(np.eye(200, dtype=bool)), np.arange(200), np.arange(200))
    for block in (7, 13, 199):
        assert (
            nearest.first_hits(vectors, nearest.plain_keys(vectors), alone, block, 17) == 199
        ).all()


def test_chance_recall_equals_that_of_random_rankings():
    rng = np.random.default_rng(0)
    right = np.array([1, 3, 10])
    first = rng.permuted(np.tile(np.arange(10), (20_000, 1)), axis=1)[:, :4].min(1)
    assert nearest.chance_recall(right, 10, 4) == pytest.approx(
        (first[:, None] < right).mean(), abs=0.01
    )
    assert nearest.chance_recall(right, 10, 10) == 1


def test_memory_does_not_grow_with_the_keys(tmp_path):
    peaks = []
    for count in (20_000, 100_000):
        np.save(tmp_path / "keys.npy", np.ones((count, 16), np.float32))
        keys = nearest.plain_keys(np.load(tmp_path / "keys.npy", mmap_mode="r"))
        tracemalloc.start()
        nearest.top_k(np.ones((64, 16), np.float32), keys, 10, 2048)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize("distinct", [60, 20, 1])
def test_recall_equals_that_of_training(distinct):
    texts = [f"text {i % distinct}" for i in range(60)]
    images, words = nearest.unit(np.random.default_rng(0).normal(size=(2, 60, 8)))
    mine = retrieval_metrics(images, words, Pairs(texts, np.arange(60)), texts, ks=(1, 5))
    theirs = training_metrics(images, words, texts, ks=(1, 5))
    for direction in ("image_to_text", "text_to_image"):
        for k in (1, 5):
            assert mine[direction][f"recall_at_{k}"] == theirs[f"{direction}_recall_at_{k}"]
            chance = mine[direction][f"chance_recall_at_{k}"]
            assert chance == pytest.approx(theirs[f"chance_recall_at_{k}"])


def test_any_image_with_the_text_or_in_the_region_is_a_hit():
    # two images share a caption; its text embedding equals that of the other image
    images = np.eye(3, dtype=np.float32)
    texts = Pairs(["a river", "a river", "a road", "a bridge"], np.array([0, 1, 2, 2]))
    found = retrieval_metrics(images, images[[1, 0, 2, 0]], texts, ["p", "q", "r"])
    assert found["text_to_image"]["recall_at_1"] == 0.75  # "a bridge" is nearest to a wrong image
    assert found["text_to_image"]["candidates"] == 3
    # image 2 finds "a road"; image 0 is a tie between "a river" and the wrong "a bridge"
    assert found["image_to_text"]["recall_at_1"] == pytest.approx(2 / 3)
    images, texts = np.eye(4, dtype=np.float32), Pairs(["a", "b", "c", "d"], np.arange(4))
    # the text of image 0 is nearest to image 1, which is in the same region
    found = retrieval_metrics(images, images[[1, 1, 2, 3]], texts, ["p", "p", "q", "r"])
    assert found["text_to_image"]["recall_at_1"] == 0.75
    region = found["text_to_region"]
    assert (region["recall_at_1"], region["candidates"], region["median_rank"]) == (1, 3, 1)


def test_search_finds_the_region_of_the_nearest_image():
    hits = search_regions("a mill", GALLERY, lambda texts: np.array([[0.1, 0.5, 2.0]]), top=5)
    assert [(hit.region_id, hit.image_id, hit.caption) for hit in hits] == [
        ("north", "i2", "a mill"),
        ("south", "i1", None),
    ]
    assert hits[0].score == pytest.approx(2 / np.sqrt(4.26))
    with pytest.raises(InputError, match="--query is empty"):
        search_regions(" \n", GALLERY, lambda texts: np.eye(3)[:1])
    found = own_captions(GALLERY)
    assert (found.texts, found.image.tolist()) == (["a lake", "a mill"], [0, 2])


def regions_of(*rows):
    """Regions from tuples of region_id, lon, lat and geometry."""
    ids, lon, lat, shapes = zip(*rows, strict=True)
    columns = {"region_id": ids, "lon": np.array(lon, float), "lat": np.array(lat, float)}
    return gpd.GeoDataFrame(columns, geometry=list(shapes), crs="EPSG:4326")


def test_page_escapes_untrusted_text():
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


def test_files_have_polygons_points_or_nothing():
    hits = [Hit(name, "x", 0.25, "y") for name in ("box", "point", "nowhere")]
    rows = ("box", 2, 3, shapely.box(1, 2, 3, 4)), ("point", 2, 3, None)
    table = hits_table(hits, regions_of(("nowhere", np.nan, np.nan, None), *rows))
    found = json.loads(to_geojson("\ud800 query", table, ABOUT))
    kinds = [one["geometry"] and one["geometry"]["type"] for one in found["features"]]
    assert kinds == ["Polygon", "Point", None]
    assert [one["properties"]["rank"] for one in found["features"]] == [1, 2, 3]
    page = to_html("q", table, {}, ABOUT)
    assert page.count("This image cannot be decoded") == 3
    assert "nan" not in page


def test_command_measures_and_searches(toy_dataset, tiny_model_dir, tmp_path, capsys):
    dataset = build_toy(tmp_path / "toy", side=4, street_views=1, captions=True)
    where = ["--city", CITY, "--output_dir", str(tmp_path), "--device", "cpu"]
    command = ["retrieve", "--model_name_or_path", str(tiny_model_dir), "--label", "tiny", *where]
    assert main([*command, "--dataset_name", str(dataset)]) == 0
    assert "Synthetic data" in capsys.readouterr().out
    found = json.loads((tmp_path / CITY / "retrieval-satellite-tiny.json").read_text())
    directions = found["directions"]
    assert directions["text_to_image"]["candidates"] == found["images"] == 16
    assert directions["text_to_region"]["candidates"] == found["regions"] == 16
    assert found["synthetic"] is True
    query = ["--query", "old <b>low-rise</b> housing", "--top", "3"]
    assert main([*command, "--dataset_name", str(dataset), *query]) == 0
    shown, folder = capsys.readouterr().out, tmp_path / CITY / "search"
    page = next(folder.glob("*.html")).read_text()
    assert page.count("data:image/jpeg;base64,") == 3
    assert "<b>low-rise" not in page
    assert next(folder.glob("*.geojson")).exists()
    rows = list(csv.DictReader(next(folder.glob("*.csv")).open()))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert all(row["region_id"] in shown for row in rows)
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    where[-3] = str(tmp_path / "bare")
    assert main([*command, "--dataset_name", str(toy_dataset)]) == 2
    assert "No satellite image of 'toytown' has a caption" in capsys.readouterr().err
