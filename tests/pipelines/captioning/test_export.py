import shutil
from pathlib import Path

import pytest

from dataset_builders.storage import count_rows, iter_images, read_rejects, read_table
from pipelines.captioning.errors import CaptioningError
from pipelines.captioning.export import export_dataset
from pipelines.captioning.inputs import _files
from pipelines.captioning.recipe import make_recipe
from pipelines.captioning.run import run
from pipelines.common.tokenizer import clip_tokenizer
from pipelines.pretraining.arguments import DataArguments
from pipelines.pretraining.data import read_pairs

from .runs import FEW, recipe_values, table


def exported(recipe, folder):
    """Export twice: the second call resumes."""
    root = export_dataset(recipe, folder)
    assert export_dataset(recipe, folder) == root
    return root


def check_captions(images, candidates):
    best = candidates[candidates["chosen"]].set_index("image_id")
    assert len(best)
    for image in images.itertuples():
        if image.image_id in best.index:
            assert image.caption == best.loc[image.image_id, "text"]
            assert image.caption_score == best.loc[image.image_id, "score"]


def test_export_of_a_dataset_contains_its_tables_and_captions(city_with_truth, tmp_path):
    recipe = make_recipe(recipe_values(city_with_truth, tmp_path / "run", **FEW))
    with pytest.raises(CaptioningError, match="1 of 1 shards have no candidates yet"):
        export_dataset(recipe, tmp_path / "new")
    assert run(recipe).finished
    root = exported(recipe, tmp_path / "new")
    captions = read_table(root, "harborview", "captions")
    assert len(captions) == len(table(tmp_path / "run"))
    images = read_table(root, "harborview", "satellite")
    assert len(images) == count_rows(city_with_truth, "harborview", "satellite")
    check_captions(images, captions)
    for name in ("regions", "street_view"):
        copied = read_table(root, "harborview", name)
        assert copied.equals(read_table(city_with_truth, "harborview", name))
    assert len(read_rejects(root)) == 0
    assert "synthetic" in (root / "README.md").read_text()


def by_stem(shard):
    for path in _files(Path(shard.source))[shard.start : shard.start + shard.count]:
        yield path.stem, path.read_bytes()


def test_export_of_a_folder_is_a_dataset_for_training(city_with_truth, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(city_with_truth / "truth", photos / "truth")  # for the simulated models
    stored = list(iter_images(city_with_truth, "harborview", "street_view"))
    for row in stored:
        (photos / f"{row['image_id']}.jpg").write_bytes(row["image"])
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.jpg").write_bytes(b"<html>no image</html>")
    (photos / "torn.jpg").write_bytes(stored[0]["image"][:2000])
    changes = FEW | {"views": ["street_view"], "max_images": None}
    recipe = make_recipe(recipe_values(photos, tmp_path / "run", **changes))
    with pytest.MonkeyPatch.context() as patch:  # ground truth has ids without ".jpg"
        patch.setattr("pipelines.captioning.inputs._folder_rows", by_stem)
        assert run(recipe).finished
        root = exported(recipe, tmp_path / "new")
    images = read_table(root, "photos", "street_view")
    assert sorted(images["image_id"]) == sorted(row["image_id"] for row in stored)
    check_captions(images, read_table(root, "photos", "captions"))
    splits = set(read_table(root, "photos", "regions")["split_random"])
    assert splits == {"train", "validation", "test"}
    rejects = read_rejects(root).set_index("item")["reason"].to_dict()
    assert rejects == {"empty": "missing", "text": "unreadable", "torn": "truncated"}
    arguments = DataArguments(dataset_name=str(root), split_column="split_random")
    pairs = read_pairs(arguments, clip_tokenizer(248), 248, 0)
    assert len(pairs.train) == 5
    assert pairs.summary()["rejected"] == {}
