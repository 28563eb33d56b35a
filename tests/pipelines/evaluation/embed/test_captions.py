import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from shapely.geometry import box

from dataset_builders.schema import DatasetMetadata
from dataset_builders.writer import DatasetWriter
from modeling_urbanln import UrbanLNProcessor
from pipelines.evaluation.cli import main
from pipelines.evaluation.embed.captions import (
    TfidfSettings,
    embed_text_tower,
    embed_tfidf,
    read_captions,
    tfidf_vectors,
)
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.embed.text_tower import cached_vectors, load_text_tower
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.results import read_rows
from tests.pipelines.evaluation.toy import CITY, build_toy

TEXTS = ["a railway", "old low-rise housing beside a railway", "parks " * 300, "a railway"]
SMALL = TfidfSettings(dim=4, min_captions=1)


@pytest.fixture
def town(tmp_path):
    """Three regions with captions of images, in the table of captions, and of tiles."""
    writer = DatasetWriter(tmp_path / "town", DatasetMetadata("t", "d", "s", "CC0-1.0"))
    regions = [
        {"region_id": f"map_16_{x}_7", "city": "town", "geometry": box(x, 0, x + 1, 1)}
        | {"lon": x + 0.5, "lat": 0.5, "tile_z": 16, "tile_x": x, "tile_y": 7}
        for x in range(3)
    ]
    writer.write_shard("town", "regions", 0, regions)
    images = [
        ("a", "map_16_0_7", "beside  the\nimage"),
        ("b", "map_16_0_7", None),
        ("c", "map_16_1_7", " "),
        ("d", "elsewhere", "of no region"),
    ]
    picture = {"image": {"bytes": b"never decoded", "path": None}}
    columns = ("image_id", "region_id", "caption")
    rows = [dict(zip(columns, image, strict=True)) | picture for image in images]
    writer.write_shard("town", "street_view", 0, rows)
    candidates = [
        ("a", "not used", 9.0, True),
        ("b", "low", 0.1, True),
        ("b", "high", 0.9, True),
        ("b", "dropped", 2.0, False),
        ("16_2_7", "a tile without image", None, True),
        ("16_9_9", "of no tile here", None, True),
    ]
    columns = ("image_id", "text", "score", "kept")
    rows = [dict(zip(columns, one, strict=True)) for one in candidates]
    writer.write_shard("town", "captions", 0, rows)
    writer.finish()
    return read_captions(str(tmp_path / "town"), "town")


def test_regions_are_means_of_their_captions(town, tmp_path, tiny_model_dir):
    street, tiles = town.views["street_view"], town.views["satellite"]
    assert dict(zip(street.image_ids, street.texts, strict=True)) == {
        "a": "beside the image",
        "b": "high",
    }
    assert street.region.tolist() == [0, 0]
    assert (tiles.texts, tiles.region.tolist()) == (["a tile without image"], [2])
    assert town.dropped == {
        "street_view image: no caption": 1,
        "street_view image: unknown region": 1,
        "caption of an image and tile that are not there": 1,
    }
    tower = load_text_tower(str(tiny_model_dir))
    table = read_embeddings(embed_text_tower(town, tower, tmp_path, log=str))
    singles = tower.encode(["beside the image", "high", "a tile without image"])
    np.testing.assert_allclose(table.vectors["street_view"][0], singles[:2].mean(0), atol=1e-6)
    np.testing.assert_allclose(table.vectors["satellite"][2], singles[2], atol=1e-6)
    assert table.has("street_view").tolist() == [True, False, False]
    assert table.has("satellite").tolist() == [False, False, True]
    assert (table.label, table.uses) == ("captions-text-tower", ["captions"])


def test_tfidf_separates_captions_by_their_words():
    texts = ["a red barn", "a red barn", "the grey tower", "fields and woods"]
    vectors, about = tfidf_vectors(texts, SMALL)
    assert vectors.shape == (4, 3)  # three distinct captions
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(unit @ unit.T, alike, atol=1e-5)
    assert about["variance_kept"] == pytest.approx(1)
    with pytest.raises(InputError, match="occurs in 3 of 2 captions"):
        tfidf_vectors(["one", "two"], TfidfSettings())
    with pytest.raises(InputError, match="at least two captions, got 1"):
        tfidf_vectors(["one"], SMALL)


def test_finished_table_is_kept_until_the_settings_change(town, tmp_path):
    del town.views["satellite"]  # TF-IDF needs more than one caption per view
    path = embed_tfidf(town, tmp_path, "words", SMALL)
    before = path.stat().st_mtime_ns
    embed_tfidf(town, tmp_path, "words", SMALL)
    assert path.stat().st_mtime_ns == before
    embed_tfidf(town, tmp_path, "words", TfidfSettings(dim=1, min_captions=1))
    assert read_embeddings(path).metadata["dim"] == 1


def test_captions_predict_what_their_words_say(tmp_path):
    dataset = str(build_toy(tmp_path / "toy", side=12, street_views=0, captions=True))
    where = ["--dataset_name", dataset, "--city", CITY, "--output_dir", str(tmp_path)]
    assert main(["embed_captions", *where]) == 0
    path = tmp_path / CITY / "captions-tfidf.parquet"
    assert read_embeddings(path).has("satellite").all()
    probes = ["--probes", "ridge", "--protocols", "random", "--seeds", "1"]
    assert main(["probe", "--embeddings", str(path), *where, *probes]) == 0
    rows = [row for row in read_rows(tmp_path / CITY / "results.jsonl") if not row.beside]
    r2 = {row.system: row.r2 for row in rows if row.indicator == "population"}
    assert r2["captions-tfidf"] > 0.9
    assert {tuple(row.uses) for row in rows if row.system == "captions-tfidf"} == {("captions",)}


def test_dataset_without_captions_raises(toy_dataset):
    with pytest.raises(InputError, match="has no caption of 'toytown'"):
        read_captions(str(toy_dataset), "toytown")


# ---- text encoder ----


@pytest.fixture(scope="module")
def tower(tiny_model_dir):
    return load_text_tower(str(tiny_model_dir))


def test_vectors_equal_text_features_for_any_batch_size(tower, tiny_model_dir):
    processor = UrbanLNProcessor.from_pretrained(tiny_model_dir)
    with torch.inference_mode():
        inputs = processor(text=TEXTS, return_tensors="pt")
        expected = tower.model.get_text_features(**inputs).pooler_output.numpy()
    for batch_size in (64, 1):
        np.testing.assert_allclose(tower.encode(TEXTS, batch_size), expected, atol=1e-5)
    assert (tower.max_length, tower.count_truncated(TEXTS)) == (248, 1)
    with pytest.raises(InputError, match="no text to encode"):
        tower.encode([])


def test_texts_of_siglip_are_padded_as_in_training(tiny_siglip_dir):
    tower = load_text_tower(str(tiny_siglip_dir))
    texts = ["a railway", "parks and old houses"]
    with torch.inference_mode():
        ids = tower.tokenizer(texts, padding="max_length", max_length=64, return_tensors="pt")
        expected = tower.model.get_text_features(input_ids=ids["input_ids"]).pooler_output.numpy()
    np.testing.assert_allclose(tower.encode(texts), expected, atol=1e-5)
    np.testing.assert_allclose(tower.encode(texts[:1]), expected[:1], atol=1e-5)


def test_vectors_are_cached_by_text(tower, tmp_path, monkeypatch):
    first = cached_vectors(tmp_path, tower, TEXTS)
    assert len(cached_vectors(tmp_path, tower, TEXTS[:2])) == 2
    monkeypatch.setattr(type(tower), "encode", None)
    np.testing.assert_array_equal(cached_vectors(tmp_path, tower, TEXTS), first)


def test_checkpoint_without_text_weights_raises(tiny_model_dir, tmp_path):
    for path in tiny_model_dir.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("text_model.")}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="weights of the text encoder"):
        load_text_tower(str(tmp_path))
    with pytest.raises(InputError, match="No usable checkpoint"):
        load_text_tower(str(tmp_path / "nowhere"))
