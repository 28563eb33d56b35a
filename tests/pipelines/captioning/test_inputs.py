import hashlib

import pytest

from dataset_builders.errors import DatasetError
from dataset_builders.storage import iter_images
from pipelines.captioning.inputs import BadRow, list_shards, read_shard
from pipelines.captioning.recipe import make_recipe


def recipe_for(dataset, **changes):
    base = {"dataset_name": str(dataset), "output_dir": "out", "models": [{"name": "m"}]}
    return make_recipe(base | changes)


def rows(recipe):
    return [row for shard in list_shards(recipe) for row in read_shard(shard)]


@pytest.mark.parametrize("images_per_shard", [7, 1000])
def test_every_image_of_a_dataset_is_in_one_shard(city_with_truth, images_per_shard):
    recipe = recipe_for(city_with_truth, run={"images_per_shard": images_per_shard})
    found = rows(recipe)
    stored = [
        (row["image_id"], view, row["image"])
        for view in ("satellite", "street_view")
        for row in iter_images(city_with_truth, "harborview", view)
    ]
    assert [(one.image_id, one.view, one.data) for one in found] == stored
    assert found[0].sha256 == hashlib.sha256(stored[0][2]).hexdigest()
    shards = list_shards(recipe)
    assert len({shard.name for shard in shards}) == len(shards)
    assert max(shard.count for shard in shards) <= images_per_shard
    assert [len(list(read_shard(one))) for one in shards] == [one.count for one in shards]
    few = list_shards(recipe.model_copy(update={"max_images": 5}))
    assert sum(shard.count for shard in few) == 2 * 5  # per table


def test_folder_of_images_is_a_table_of_one_view(tmp_path):
    folder = tmp_path / "My Photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "sub/c.webp", "notes.txt", ".hidden.png"):
        (folder / name).write_bytes(name.encode())
    (folder / "empty.jpg").write_bytes(b"")
    recipe = recipe_for(folder, views=["street_view"], run={"images_per_shard": 3})
    assert [shard.table for shard in list_shards(recipe)] == ["my_photos-street_view"] * 2
    found = rows(recipe)
    assert [one.image_id for one in found] == ["a.png", "b.JPG", "empty.jpg", "sub/c.webp"]
    assert found[2] == BadRow("empty.jpg", "missing", "the row has no image")
    before = list_shards(recipe)[0].stamp
    (folder / "a.png").write_bytes(b"changed")
    assert list_shards(recipe)[0].stamp != before


def test_rejects_unknown_datasets_cities_and_views(city_with_truth, tmp_path):
    for changes, message in (
        ({"cities": ["atlantis"]}, "Unknown `cities` atlantis; the dataset has harborview"),
        ({"views": ["drone"]}, "Unknown `views` drone"),
        ({"dataset_name": "/no/such"}, "no such folder"),
        ({"dataset_name": str(tmp_path)}, r"set `views: \[street_view\]`"),
        ({"dataset_name": str(tmp_path), "views": ["satellite"]}, "has no image to caption"),
    ):
        with pytest.raises(DatasetError, match=message):
            list_shards(recipe_for(city_with_truth, **changes))
