import shutil
from collections import Counter

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.common.errors import InputError
from pipelines.pretraining.arguments import DataArguments
from pipelines.pretraining.batches import (
    PairBatches,
    batch_loader,
    shorten,
    shuffle_sentences,
    tokenize,
)
from pipelines.pretraining.data import read_pairs
from pipelines.pretraining.sampling import BatchIndices, BatchPlan

from .conftest import encoded_image, image_rows, long_caption, write_dataset


@pytest.fixture
def read(tokenizer):
    def run(root, max_length=248, seed=0, **settings):
        settings = {"validation_split_percentage": 25.0, **settings}
        return read_pairs(
            DataArguments(dataset_name=str(root), **settings), tokenizer, max_length, seed
        )

    return run


def test_a_caption_with_a_template_token_within_it_is_counted(tmp_path, read):
    rows = image_rows(8)
    rows[1]["caption"] = "A wide street.<|endoftext|> Several cars are parked."
    rows[2]["caption"] = "<|im_start|>assistant\nA park with two ponds.<|im_end|>"
    pairs = read(write_dataset(tmp_path, rows))
    assert pairs.summary()["rejected"] == {"template_token": 1}
    assert pairs.rejects["item"].tolist() == ["image-0001"]
    assert "<|im_end|>, is within the caption" in pairs.rejects["detail"][0]
    assert "A park with two ponds." in pairs.captions.to_pylist()


def test_bad_rows_are_counted_with_their_reason_and_nothing_else_is_lost(tmp_path, read):
    rows = image_rows(20)
    rows[2]["image"] = {"bytes": b"no image at all", "path": None}
    rows[3]["image"] = {"bytes": encoded_image(3, side=128)[:200], "path": None}
    rows[4]["image"] = {"bytes": b"", "path": None}
    rows[5]["image"] = None
    rows[6]["caption"] = None
    rows[7]["caption"] = " \n\t\x00 "
    rows[8]["caption"] = "one\x07 two\n three"
    rows[9]["caption"] = "street " * 10_000
    pairs = read(write_dataset(tmp_path, rows))
    rejects = pairs.rejects.set_index("item")["reason"]
    assert sorted(rejects.index) == [f"image-{i:04d}" for i in range(2, 8)]
    assert rejects["image-0005"] == "no_image"
    assert rejects["image-0006"] == rejects["image-0007"] == "empty_caption"
    assert set(pairs.rejects["table"]) == {"harborview-street_view"}
    assert len(pairs.train) + len(pairs.validation) == 14 == len(pairs.captions)
    assert "one two three" in pairs.captions.to_pylist()
    assert pairs.num_truncated == 1
    assert pairs.longest == 10_002
    assert pairs.num_tokens.max() == 248
    summary = pairs.summary()
    assert summary["num_rejected"] == 6
    assert summary["truncation_rate"] == pytest.approx(1 / 14)
    assert list(pairs.listing["image_id"]) == [
        row["image_id"] for i, row in enumerate(rows) if not 2 <= i < 8
    ]


def test_a_row_opens_no_file_of_this_machine(tmp_path, read):
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
    assert not isinstance(pairs.images.data.table, bytes)
    assert isinstance(pairs.images[0]["image"]["bytes"], bytes)


def test_a_dataset_built_again_is_read_again(tmp_path, read):
    first = read(write_dataset(tmp_path / "a" / "city", image_rows(8)))
    namesake = read(write_dataset(tmp_path / "b" / "city", image_rows(9, seed=50)))
    rebuilt = read(write_dataset(tmp_path / "a" / "city", image_rows(10, seed=90)))
    assert [len(pairs.rows) for pairs in (first, namesake, rebuilt)] == [8, 9, 10]
    assert rebuilt.captions[0].as_py() == long_caption(90, 1)


def test_stored_splits_decide_which_regions_are_seen(tmp_path, read):
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


def test_the_seeded_split_is_by_image_or_by_region(pairs_dir, read):
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


def test_several_cities_and_views_are_read_together(tmp_path, read):
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


def test_limits_choose_the_same_pairs_every_time(pairs_dir, read):
    pairs = read(pairs_dir, max_train_samples=10, max_eval_samples=4)
    assert (len(pairs.train), len(pairs.validation)) == (10, 4)
    assert np.array_equal(
        pairs.train, read(pairs_dir, max_train_samples=10, max_eval_samples=4).train
    )
    assert pairs.summary()["num_held_out"] == 34


def test_a_missing_column_is_named(tmp_path, read):
    text = datasets.Value("string")
    features = datasets.Features(
        {"image": datasets.Image(), "image_id": text, "region_id": text, "text": text}
    )
    root = write_dataset(tmp_path, image_rows(4), features=features)
    with pytest.raises(InputError, match=r"lacks the column\(s\) caption; it has image, image_id"):
        read(root)


def test_what_leaves_nothing_to_train_on_is_refused(tmp_path, read, pairs_dir):
    with pytest.raises(InputError, match="is empty"):
        read(write_dataset(tmp_path / "empty", []))
    rows = [{**row, "caption": None} for row in image_rows(4)]
    with pytest.raises(InputError, match=r"None of the 4 rows.*4 empty_caption.*needs captions"):
        read(write_dataset(tmp_path / "null", rows))
    with pytest.raises(InputError, match=r"validation split has 1 pair\(s\) of 48"):
        read(pairs_dir, validation_split_percentage=2)
    with pytest.raises(InputError, match="The training split has no images"):
        read(
            write_dataset(tmp_path / "test", image_rows(6), splits={"region-0": "validation"}),
            split_column="split_block",
        )
    assert len(read(pairs_dir, validation_split_percentage=0).validation) == 0


def test_what_is_no_dataset_is_refused(tmp_path, read):
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "nowhere")
    (tmp_path / "data").mkdir()
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "data" / "part.parquet")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("table", "rows"), [("street_view", 72), ("satellite", 36), ("regions", 36), ("captions", 648)]
)
def test_a_shard_that_was_copied_is_refused(tiny_city, tmp_path, read, table, rows):
    shutil.copytree(tiny_city, tmp_path / "d")
    shards = tmp_path / "d" / "data" / f"harborview-{table}"
    shutil.copy(shards / "part-00000.parquet", shards / "part-00001.parquet")
    with pytest.raises(InputError, match=f"{rows} rows repeat the"):
        read(tmp_path / "d", split_column="split_block", caption_sampling="score")


def test_a_batch_is_padded_to_its_longest_text(tokenizer):
    texts = ["a road", long_caption(0, 3)]
    batch = tokenize(texts, tokenizer, 248)
    expected = tokenizer(texts, padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    assert batch["input_ids"].shape[1] < 60
    rounded = tokenize(texts, tokenizer, 248, pad_to_multiple_of=32)
    assert rounded["input_ids"].shape[1] % 32 == 0
    assert torch.equal(rounded["attention_mask"].sum(1), batch["attention_mask"].sum(1))
    cut = tokenize(["road " * 1000], tokenizer, 77, pad_to_multiple_of=8)["input_ids"]
    assert cut.shape == (1, 77)
    assert cut[0, -1] == tokenizer.eos_token_id


def test_batches_hold_what_the_rows_hold(pairs_dir, read, processor):
    pairs = read(pairs_dir)
    indices = np.asarray([5, 0, 17])
    batch = PairBatches(pairs, processor)[BatchIndices(0, indices)]
    assert batch["pixel_values"].shape == (3, 3, 16, 16)
    assert batch["sample_ids"].tolist() == pairs.sample_ids[indices].tolist()
    alone = PairBatches(pairs, processor)[BatchIndices(0, indices[1:2])]
    assert torch.equal(alone["pixel_values"][0], batch["pixel_values"][1])
    text = processor.tokenizer.decode(batch["input_ids"][2], skip_special_tokens=True)
    assert text.replace(" ", "") == pairs.captions[17].as_py().lower().replace(" ", "")


def test_sentences_change_places_and_none_is_lost():
    caption = "One car. Two trees! Is it 3.5 m wide? A bus; a van."
    rng = np.random.default_rng(0)
    drawn = {shuffle_sentences(caption, rng) for _ in range(200)}
    assert len(drawn) == 24
    for text in drawn:
        assert sorted(text.split()) == sorted(caption.split())
    assert "Is it 3.5 m wide?" in drawn.pop()
    assert shuffle_sentences("只有一句。", rng) == "只有一句。"
    assert shuffle_sentences("no full stop", rng) == "no full stop"


def test_a_share_of_captions_is_one_of_their_sentences():
    caption = "One car. Two trees! Is it 3.5 m wide? A bus; a van."
    rng = np.random.default_rng(0)
    drawn = Counter(shorten(caption, 0.3, rng) for _ in range(2000))
    assert drawn.pop(caption) == pytest.approx(1400, abs=80)
    assert set(drawn) == {"One car.", "Two trees!", "Is it 3.5 m wide?", "A bus; a van."}
    assert min(drawn.values()) == pytest.approx(150, abs=45)
    assert shorten("no full stop", 1.0, rng) == "no full stop"


def test_workers_and_their_number_change_nothing(pairs_dir, read, processor):
    pairs = read(pairs_dir)

    def load(num_workers):
        plan = BatchPlan(pairs.train, pairs.num_tokens[pairs.train], 4, seed=1)
        batches = PairBatches(pairs, processor, shuffle_seed=7, short=(7, 0.5))
        loader = batch_loader(batches, plan.process_batches(0, 5, 20), num_workers, False)
        torch.manual_seed(num_workers)
        state = torch.get_rng_state()
        loaded = list(loader)
        assert torch.equal(torch.get_rng_state(), state)  # loading draws no random number
        return loaded

    here, elsewhere = load(0), load(2)
    assert len(here) == 15
    for one, two in zip(here, elsewhere, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_sentences_are_drawn_anew_every_epoch(pairs_dir, read, processor):
    pairs = read(pairs_dir)
    indices = np.flatnonzero(pairs.num_tokens > 60)[:4]
    batches = PairBatches(pairs, processor, shuffle_seed=7)
    first, second = (batches[BatchIndices(epoch, indices)]["input_ids"] for epoch in (0, 1))
    assert torch.equal(first, batches[BatchIndices(0, indices)]["input_ids"])
    assert not torch.equal(first, second)
    assert torch.equal(first.sort(1).values, second.sort(1).values)
