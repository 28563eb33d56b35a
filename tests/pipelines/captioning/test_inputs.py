import hashlib
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builders.storage import count_rows, iter_images
from pipelines.captioning import inputs
from pipelines.captioning.errors import CaptioningError
from pipelines.captioning.inputs import BadRow, list_shards, read_shard
from pipelines.captioning.recipe import make_recipe


def recipe_for(dataset, **changes):
    base = {"dataset_name": str(dataset), "output_dir": "out", "models": [{"name": "m"}]}
    return make_recipe(base | changes)


def rows(recipe):
    return [row for shard in list_shards(recipe) for row in read_shard(recipe, shard)]


@pytest.mark.parametrize("images_per_shard", [1, 7, 36, 1000])
def test_every_image_of_a_dataset_is_in_one_shard(tiny_city, images_per_shard):
    recipe = recipe_for(tiny_city, run={"images_per_shard": images_per_shard})
    found = rows(recipe)
    stored = [
        (row["image_id"], view, row["image"])
        for view in ("satellite", "street_view")
        for row in iter_images(tiny_city, "harborview", view)
    ]
    assert [(one.image_id, one.view, one.data) for one in found] == stored
    assert found[0].sha256 == hashlib.sha256(stored[0][2]).hexdigest()
    shards = list_shards(recipe)
    assert len({shard.name for shard in shards}) == len(shards)
    assert max(shard.count for shard in shards) <= images_per_shard


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 80))
def test_shards_have_the_rows_they_promise(tiny_city, images_per_shard, max_images):
    recipe = recipe_for(
        tiny_city,
        views=["street_view"],
        max_images=max_images,
        run={"images_per_shard": images_per_shard},
    )
    shards = list_shards(recipe)
    assert [len(list(read_shard(recipe, s))) for s in shards] == [s.count for s in shards]
    total = count_rows(tiny_city, "harborview", "street_view")
    assert sum(s.count for s in shards) == min(max_images, total)


def test_a_folder_of_images_is_a_table_of_one_view(tmp_path):
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


def test_a_changed_file_changes_the_stamp(tmp_path):
    (tmp_path / "a.png").write_bytes(b"1")
    recipe = recipe_for(tmp_path, views=["satellite"])
    before = list_shards(recipe)[0].stamp
    (tmp_path / "a.png").write_bytes(b"22")
    assert list_shards(recipe)[0].stamp != before


def test_a_hub_dataset_in_another_layout_is_read_by_its_columns(tmp_path, monkeypatch):
    import datasets

    bytes_of = [{"bytes": b"one", "path": None}, {"bytes": b"two", "path": None}]
    table = datasets.Dataset.from_dict(
        {"photo": bytes_of, "key": ["x", "y"]},
        features=datasets.Features({"photo": datasets.Image(), "key": datasets.Value("string")}),
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: table)
    inputs._load.cache_clear()
    fields = {"image_column": "photo", "id_column": "key", "views": ["street_view"]}
    recipe = recipe_for("org/photos", **fields)
    assert [(one.image_id, one.data) for one in rows(recipe)] == [("x", b"one"), ("y", b"two")]
    inputs._load.cache_clear()
    with pytest.raises(CaptioningError, match="no column 'picture'; it has photo, key"):
        list_shards(recipe_for("org/photos", **(fields | {"image_column": "picture"})))
    inputs._load.cache_clear()


def test_a_row_of_a_dataset_names_no_file_but_those_of_its_download(tmp_path, monkeypatch):
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    secret, own = tmp_path / "hub" / "token", tmp_path / "hub" / "datasets--org--photos" / "a.png"
    own.parent.mkdir(parents=True)
    for path in (secret, own):
        path.write_bytes(path.name.encode())
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": None, "path": str(path)} for path in (secret, own)]},
        features=datasets.Features({"image": datasets.Image()}),
    )
    table = table.add_column("key", ["x", "y"])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: table)
    inputs._load.cache_clear()
    recipe = recipe_for("org/photos", id_column="key", views=["street_view"])
    bad, good = rows(recipe)
    assert bad == BadRow("x", "outside_dataset", f"'{secret}' is no file of the dataset")
    assert good.data == b"a.png"
    inputs._load.cache_clear()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cities": ["atlantis"]}, "no atlantis among its `cities`; it has harborview"),
        ({"views": ["drone"]}, "no drone among its `views`"),
    ],
)
def test_unknown_tables_are_refused(tiny_city, changes, message):
    with pytest.raises(CaptioningError, match=message):
        list_shards(recipe_for(tiny_city, **changes))


def test_a_plain_folder_needs_its_view_and_an_image(tmp_path):
    with pytest.raises(CaptioningError, match="has no image to caption"):
        list_shards(recipe_for(tmp_path, views=["satellite"]))
    (tmp_path / "a.png").write_bytes(b"1")
    inputs._files.cache_clear()
    with pytest.raises(CaptioningError, match="say what they show"):
        list_shards(recipe_for(tmp_path))


def test_a_dataset_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CaptioningError, match="no such folder"):
        list_shards(recipe_for(tmp_path / "none"))


def test_an_image_id_in_two_rows_is_refused(tiny_city, tmp_path, monkeypatch):
    import datasets

    shutil.copytree(tiny_city, tmp_path / "d")
    shards = tmp_path / "d" / "data" / "harborview-satellite"
    shutil.copy(shards / "part-00000.parquet", shards / "part-00001.parquet")
    with pytest.raises(CaptioningError, match="36 rows repeat the image_id"):
        list_shards(recipe_for(tmp_path / "d"))
    image = {"bytes": b"one", "path": None}
    table = datasets.Dataset.from_dict(
        {"image": [image] * 3, "key": [7, 8, 7]},
        features=datasets.Features({"image": datasets.Image(), "key": datasets.Value("int64")}),
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: table)
    inputs._load.cache_clear()
    with pytest.raises(CaptioningError, match=r"1 row repeats the key of an earlier row \(7; 1 id"):
        list_shards(recipe_for("org/photos", id_column="key", views=["satellite"]))
    inputs._load.cache_clear()
