import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from shapely.geometry import box

from dataset_builders.importers import urbanclip
from dataset_builders.importers.base import import_dataset
from dataset_builders.schema import DatasetMetadata
from dataset_builders.writer import DatasetWriter
from pipelines.evaluation.cli import main
from pipelines.evaluation.embed.captions import (
    TfidfSettings,
    embed_text_tower,
    embed_tfidf,
    tfidf_vectors,
)
from pipelines.evaluation.embed.region_captions import read_captions
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.embed.text_tower import load_text_tower
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.results import read_rows

COLUMNS = ("image_id", "region_id", "caption")
SMALL = TfidfSettings(dim=4, min_captions=1)


def silent(text: str) -> None:
    pass


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
    picture = {"bytes": b"never decoded", "path": None}
    rows = [dict(zip(COLUMNS, image, strict=True)) | {"image": picture} for image in images]
    writer.write_shard("town", "street_view", 0, rows)
    candidates = [
        {"image_id": "a", "text": "not taken", "score": 9.0, "kept": True},
        {"image_id": "b", "text": "low", "score": 0.1, "kept": True},
        {"image_id": "b", "text": "high", "score": 0.9, "kept": True},
        {"image_id": "b", "text": "dropped", "score": 2.0, "kept": False},
        {"image_id": "16_2_7", "text": "a tile without picture", "kept": True},
        {"image_id": "16_9_9", "text": "of no tile here", "kept": True},
    ]
    writer.write_shard("town", "captions", 0, candidates)
    writer.finish()
    return str(tmp_path / "town")


def test_read_captions_takes_the_own_then_the_best_then_the_tiles(town):
    found = read_captions(town, "town")
    street, tiles = found.views["street_view"], found.views["satellite"]
    assert dict(zip(street.image_ids, street.texts, strict=True)) == {
        "a": "beside the image",
        "b": "high",
    }
    assert street.region.tolist() == [0, 0]
    assert (tiles.texts, tiles.region.tolist()) == (["a tile without picture"], [2])
    assert found.dropped == {
        "street_view image: no caption": 1,
        "street_view image: unknown region": 1,
        "caption of an image and tile that are not there": 1,
    }


def test_read_captions_says_where_there_are_none(toy_dataset):
    with pytest.raises(InputError, match="has no caption of 'toytown'"):
        read_captions(str(toy_dataset), "toytown")


def test_a_region_is_the_mean_of_its_captions(town, tmp_path, tiny_model_dir):
    captions = read_captions(town, "town")
    tower = load_text_tower(str(tiny_model_dir))
    table = read_embeddings(embed_text_tower(captions, tower, tmp_path, log=silent))
    singles = tower.encode(["beside the image", "high", "a tile without picture"])
    np.testing.assert_allclose(table.vectors["street_view"][0], singles[:2].mean(0), atol=1e-6)
    np.testing.assert_allclose(table.vectors["satellite"][2], singles[2], atol=1e-6)
    assert table.has("street_view").tolist() == [True, False, False]
    assert table.has("satellite").tolist() == [False, False, True]
    assert table.uses == ["captions"]
    assert table.label == "captions-text-tower"


def test_tfidf_keeps_all_that_few_axes_can():
    texts = ["a red barn", "a red barn", "the grey tower", "fields and woods"]
    vectors, about = tfidf_vectors(texts, SMALL)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(unit @ unit.T, alike, atol=1e-5)
    assert about["variance_kept"] == pytest.approx(1)


def test_tfidf_says_when_words_are_too_rare():
    with pytest.raises(InputError, match="occurs in 3 of 2 captions"):
        tfidf_vectors(["one", "two"], TfidfSettings())
    with pytest.raises(InputError, match="at least two captions, got 1"):
        tfidf_vectors(["one"], SMALL)


def test_a_table_that_is_there_is_left_unless_captions_or_settings_change(town, tmp_path):
    captions, said = read_captions(town, "town"), []
    fewer = TfidfSettings(dim=1, min_captions=1)
    # TF-IDF needs more than one caption per view
    del captions.views["satellite"]
    path = embed_tfidf(captions, tmp_path, "words", SMALL, said.append)
    before = path.stat().st_mtime_ns
    embed_tfidf(captions, tmp_path, "words", SMALL, said.append)
    assert path.stat().st_mtime_ns == before
    assert "already exists" in said[-1]
    embed_tfidf(captions, tmp_path, "words", fewer, said.append)
    assert read_embeddings(path).metadata["dim"] == 1


@pytest.fixture(scope="module")
def toolkit(tmp_path_factory):
    """Synthetic captions, labels and an image in UrbanCLIP's layout; words determine labels."""
    root = tmp_path_factory.mktemp("toolkit")
    for folder in ("tiles/Beijing", "captions", "indicators"):
        (root / folder).mkdir(parents=True)
    tiles = [(12614 + i // 12, 4690 + i % 12) for i in range(144)]
    Image.new("RGB", (32, 32), "green").save(root / "tiles/Beijing/16_12614_4690_s.jpg")
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, len(tiles))
    words = ("towers and malls", "flats beside a road", "farms with barns", "bare mountain rock")
    filler = ["seen from above", "in the afternoon", "with a few cars", "under a clear sky"]
    captions = [
        {"image": f"Beijing/16_{x}_{y}_s.jpg", "caption": part}
        for (x, y), k in zip(tiles, kind, strict=True)
        for part in (f"There are {words[k]}", f"It is {filler[rng.integers(4)]}")
    ]
    (root / "captions/Beijing_captions.json").write_text(json.dumps([captions]))
    level = np.array([9.0, 7.0, 4.0, 1.0])[kind] + rng.normal(0, 0.2, len(tiles))
    frame = pd.DataFrame({"BD09 coordinate": [f"({x},{y})" for x, y in tiles]})
    for column in ("carbon_emissions (ton)", "population (unit)", "gdp (million yuan)"):
        frame[column] = np.expm1(level)
    frame.to_csv(root / "indicators/Beijing.csv", index=False)
    dataset = root / "dataset"
    import_dataset(urbanclip.read, root, dataset)
    return str(dataset)


def test_imported_captions_predict_what_their_words_tell(toolkit, tmp_path):
    where = ["--dataset_name", toolkit, "--city", "beijing", "--output_dir", str(tmp_path)]
    assert main(["embed_captions", *where]) == 0
    path = tmp_path / "beijing" / "captions-tfidf.parquet"
    assert read_embeddings(path).has("satellite").all()
    probes = ["--probes", "ridge", "--protocols", "random", "--seeds", "2", "--device", "cpu"]
    where[-1] = str(tmp_path / "results")
    assert main(["probe", "--embeddings", str(path), *where, *probes]) == 0
    rows = list(read_rows(tmp_path / "results" / "beijing" / "results.jsonl"))
    words = [row.r2 for row in rows if row.system == "captions-tfidf"]
    places = [row.r2 for row in rows if row.system == "coordinates"]
    assert min(words) > 0.9
    assert max(places) < 0.3
    assert {tuple(row.uses) for row in rows if row.system == "captions-tfidf"} == {("captions",)}


def test_the_command_takes_a_model_for_a_tower_only(capsys):
    where = ["--dataset_name", "d", "--city", "c", "--output_dir", "o"]
    assert main(["embed_captions", *where, "--model_name_or_path", "m"]) == 2
    assert "TF-IDF has no model" in capsys.readouterr().err
    assert main(["embed_captions", *where, "--encoder", "text_tower"]) == 2
    assert "--model_name_or_path is missing" in capsys.readouterr().err
