import shutil

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_builders.errors import ReportedError
from pipelines.common.errors import InputError
from pipelines.pretraining.arguments import DataArguments
from pipelines.pretraining.data import read_pairs

from .conftest import (
    candidate_rows,
    encoded_image,
    image_rows,
    long_caption,
    write_candidates,
    write_dataset,
)


@pytest.fixture
def read(tokenizer):
    def run(root, max_length=248, seed=0, **settings):
        settings = {"validation_split_percentage": 25.0, **settings}
        return read_pairs(
            DataArguments(dataset_name=str(root), **settings), tokenizer, max_length, seed
        )

    return run


def test_bad_rows_are_listed_with_reasons(tmp_path, read):
    rows = image_rows(20)
    rows[1]["caption"] = "A wide street.<|endoftext|> Several cars are parked."
    rows[2]["image"] = {"bytes": b"no image at all", "path": None}
    rows[3]["image"] = {"bytes": encoded_image(3, side=128)[:200], "path": None}
    rows[4]["image"] = {"bytes": b"", "path": None}
    rows[5]["image"] = None
    rows[6]["caption"] = None
    rows[7]["caption"] = " \n\t\x00 "
    rows[8]["caption"] = "one\x07 two\n three"
    rows[9]["caption"] = "street " * 10_000
    rows[10]["caption"] = "<|im_start|>assistant\nA park with two ponds.<|im_end|>"
    pairs = read(write_dataset(tmp_path, rows))
    rejects = pairs.rejects.set_index("item")
    assert sorted(rejects.index) == [f"image-{i:04d}" for i in range(1, 8)]
    assert "<|im_end|>, is within the caption" in rejects["detail"]["image-0001"]
    assert rejects["reason"]["image-0005"] == "no_image"
    assert set(pairs.rejects["table"]) == {"harborview-street_view"}
    assert len(pairs.train) + len(pairs.validation) == 13 == len(pairs.captions)
    assert {"one two three", "A park with two ponds."} <= set(pairs.captions.to_pylist())
    assert pairs.num_tokens.max() == 248
    summary = pairs.summary()
    assert summary["num_rejected"] == 7
    assert summary["rejected"]["template_token"] == 1
    assert summary["rejected"]["empty_caption"] == 2
    assert summary["num_truncated_captions"] == 1
    assert summary["longest_caption_tokens"] == 10_002
    assert summary["truncation_rate"] == pytest.approx(1 / 13)
    assert list(pairs.listing["image_id"]) == [
        row["image_id"] for i, row in enumerate(rows) if not 1 <= i < 8
    ]


def test_paths_in_rows_are_not_opened(tmp_path, read):
    own = tmp_path / "own.jpg"
    own.write_bytes(encoded_image(3, side=64))
    root = write_dataset(tmp_path / "city", image_rows(8))
    path = root / "data" / "harborview-street_view" / "part-00000.parquet"
    table = pq.read_table(path)
    images = table["image"].to_pylist()
    for index, name in enumerate((str(own), "http://127.0.0.1:9/own.jpg")):
        images[index] = {"bytes": None, "path": name}
    column = pa.array(images, table.schema.field("image").type)
    pq.write_table(table.set_column(table.schema.get_field_index("image"), "image", column), path)
    pairs = read(root)
    assert pairs.summary()["rejected"] == {"outside_dataset": 2}


def test_images_stay_on_disk(pairs_dir, read):
    pairs = read(pairs_dir)
    assert pairs.images.cache_files
    assert isinstance(pairs.images[0]["image"]["bytes"], bytes)


def test_rebuilt_dataset_is_not_read_from_the_cache(tmp_path, read):
    first = read(write_dataset(tmp_path / "a" / "city", image_rows(8)))
    namesake = read(write_dataset(tmp_path / "b" / "city", image_rows(9, seed=50)))
    rebuilt = read(write_dataset(tmp_path / "a" / "city", image_rows(10, seed=90)))
    assert [len(pairs.rows) for pairs in (first, namesake, rebuilt)] == [8, 9, 10]
    assert rebuilt.captions[0].as_py() == long_caption(90, 1)


def test_stored_splits_select_regions(tmp_path, read):
    splits = {"region-0": "train", "region-1": "validation", "region-2": "test", "region-3": None}
    root = write_dataset(tmp_path, image_rows(40, regions=5), splits=splits)
    pairs = read(root, split_column="split_block")
    by_split = pairs.listing.groupby("split")["region_id"].agg(set).to_dict()
    assert by_split == {
        "train": {"region-0"},
        "validation": {"region-1"},
        "held_out": {"region-2", "region-3"},
    }
    assert (pairs.rejects["reason"] == "unknown_region").sum() == 8  # region-4 is in no table
    with pytest.raises(InputError, match=r"--split_column split_random: this column .* cannot"):
        read(root, split_column="split_random")


def test_seeded_split_is_by_image_or_region(pairs_dir, read):
    first, again, other = read(pairs_dir), read(pairs_dir), read(pairs_dir, seed=1)
    assert len(first.validation) == 12
    assert np.array_equal(first.validation, again.validation)
    assert not np.array_equal(first.validation, other.validation)
    assert len(set(first.sample_ids)) == 48
    regions = read(pairs_dir, positives="region", validation_split_percentage=34)
    assert len(set(regions.sample_ids)) == 6
    sides = regions.listing.groupby("region_id")["split"].nunique()
    assert (sides == 1).all()
    assert len(regions.validation) == 16


def test_reads_several_cities_and_views(tmp_path, read):
    write_dataset(tmp_path, image_rows(8, seed=1), table="harborview-satellite")
    write_dataset(tmp_path, image_rows(8, seed=2), table="harborview-street_view")
    write_dataset(tmp_path, image_rows(8, seed=3), table="millbrook-street_view")
    pairs = read(tmp_path)
    assert pairs.listing["table"].value_counts().to_dict() == {
        "harborview-satellite": 8,
        "harborview-street_view": 8,
        "millbrook-street_view": 8,
    }
    assert len(set(pairs.sample_ids)) == 24  # the same image_id in another table is another image
    assert len(read(tmp_path, cities=["millbrook"]).rows) == 8
    assert len(read(tmp_path, views=["satellite"]).rows) == 8
    by_region = read(tmp_path, positives="region")
    assert len(set(by_region.sample_ids)) == 12
    with pytest.raises(InputError, match=r"no images of 'atlantis'; available: \['harborview', "):
        read(tmp_path, cities=["atlantis"])
    with pytest.raises(InputError, match=r"--views must be among .* got 'aerial'"):
        read(tmp_path, views=["aerial"])
    with pytest.raises(InputError, match="None of the cities"):
        read(tmp_path, cities=["millbrook"], views=["satellite"])


def test_sample_limits_are_reproducible(pairs_dir, read):
    limits = {"max_train_samples": 10, "max_eval_samples": 4}
    pairs = read(pairs_dir, **limits)
    assert (len(pairs.train), len(pairs.validation)) == (10, 4)
    assert np.array_equal(pairs.train, read(pairs_dir, **limits).train)
    assert pairs.summary()["num_held_out"] == 34


def test_rejects_datasets_without_usable_pairs(tmp_path, read, pairs_dir):
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is empty"):
        read(write_dataset(tmp_path / "empty", []))
    text = datasets.Value("string")
    features = datasets.Features(
        {"image": datasets.Image(), "image_id": text, "region_id": text, "text": text}
    )
    without_captions = write_dataset(tmp_path / "column", image_rows(4), features=features)
    with pytest.raises(InputError, match=r"lacks the column\(s\) caption; it has image, image_id"):
        read(without_captions)
    rows = [{**row, "caption": None} for row in image_rows(4)]
    with pytest.raises(InputError, match=r"None of the 4 rows.*4 empty_caption.*needs captions"):
        read(write_dataset(tmp_path / "null", rows))
    with pytest.raises(InputError, match=r"validation split has 1 pair\(s\) of 48"):
        read(pairs_dir, validation_split_percentage=2)
    only_validation = write_dataset(
        tmp_path / "test", image_rows(6), splits={"region-0": "validation"}
    )
    with pytest.raises(InputError, match="The training split has no images"):
        read(only_validation, split_column="split_block")
    assert len(read(pairs_dir, validation_split_percentage=0).validation) == 0


@pytest.mark.parametrize("table", ["street_view", "regions", "captions"])
def test_rejects_repeated_rows(tmp_path, read, table):
    root = write_candidates(write_dataset(tmp_path, image_rows(8)), candidate_rows(8))
    shards = root / "data" / f"harborview-{table}"
    shutil.copy(shards / "part-00000.parquet", shards / "part-00001.parquet")
    with pytest.raises(ReportedError, match="rows repeat the"):
        read(root, split_column="split_block", caption_sampling="score")
