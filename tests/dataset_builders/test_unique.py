"""Ids are unique over all files of a table, on writing and on reading."""

import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_builders.publish import publish
from dataset_builders.schema import DatasetMetadata, key_columns
from dataset_builders.storage import (
    count_rows,
    iter_images,
    read_regions,
    read_table,
    table_shards,
)
from dataset_builders.unique import RepeatedIdError, repeats, require_unique
from dataset_builders.writer import DatasetWriter

from .helpers import encoded, picture

METADATA = DatasetMetadata("t", "d", "s", "l", indicators=())
CITY = "gotham"


def regions(start: int, stop: int):
    return [{"region_id": f"r{i}", "city": CITY} for i in range(start, stop)]


def images(start: int, stop: int, region: str = "r0"):
    image = {"bytes": encoded(picture()), "path": None}
    return [{"image": image, "image_id": f"i{n}", "region_id": region} for n in range(start, stop)]


def captions(*texts: str):
    return [{"image_id": "i0", "model": "m", "text": text, "kept": True} for text in texts]


@pytest.fixture
def dataset(tmp_path):
    writer = DatasetWriter(tmp_path / "d", METADATA)
    for index in range(2):
        writer.write_shard(CITY, "regions", index, regions(5 * index, 5 * index + 5))
        writer.write_shard(CITY, "satellite", index, images(5 * index, 5 * index + 5))
    writer.write_shard(CITY, "captions", 0, captions("a park", "a road"))
    writer.finish()
    return tmp_path / "d"


def copy_shard(dataset, table: str, to: int):
    folder = dataset / "data" / f"{CITY}-{table}"
    shutil.copy(folder / "part-00000.parquet", folder / f"part-{to:05d}.parquet")


@pytest.mark.parametrize(
    ("table", "rows", "said"),
    [
        ("regions", regions(4, 8), "1 row repeats the region_id of an earlier row .r4; 1 id"),
        ("satellite", images(3, 8), "2 rows repeat the image_id of an earlier row .i3, i4; 2 ids"),
        # an image belongs to one region: the same id in another region is a duplicate
        ("satellite", images(0, 1, "r1"), "1 row repeats the image_id of an earlier row .i0"),
        ("captions", captions("a road", "a lake"), "1 row repeats the image_id . model"),
    ],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_an_id_of_an_earlier_shard_is_refused(tmp_path, table, rows, said, resumed):
    writer = DatasetWriter(tmp_path, METADATA)
    first = {"regions": regions(0, 5), "satellite": images(0, 5), "captions": captions("a road")}
    writer.write_shard(CITY, table, 0, first[table])
    if resumed:  # knows the first shard from disk only
        writer = DatasetWriter(tmp_path, METADATA)
    with pytest.raises(RepeatedIdError, match=said):
        writer.write_shard(CITY, table, 1, rows)
    assert not writer.has_shard(CITY, table, 1)
    # the rejected rows leave no keys behind
    last = {"regions": regions(6, 8), "satellite": images(6, 8), "captions": captions("a lake")}
    writer.write_shard(CITY, table, 1, last[table])
    assert count_rows(tmp_path, CITY, table) == len(first[table]) + len(last[table])


@pytest.mark.parametrize(
    ("table", "read"),
    [
        ("regions", lambda d: read_regions(d, CITY)),
        ("regions", lambda d: read_table(d, CITY, "regions", ["city"])),
        ("satellite", lambda d: list(iter_images(d, CITY, "satellite"))),
        ("satellite", lambda d: table_shards(d, CITY, "satellite")),
        ("captions", lambda d: read_table(d, CITY, "captions")),
    ],
)
def test_a_copied_shard_is_found_on_reading(dataset, table, read):
    read(dataset)
    copy_shard(dataset, table, 7)
    rows = 2 if table == "captions" else 5
    said = rf"table '{CITY}-{table}': {rows} rows repeat the .*; {rows} ids in all"
    with pytest.raises(RepeatedIdError, match=said):
        read(dataset)
    (dataset / "data" / f"{CITY}-{table}" / "part-00007.parquet").unlink()
    read(dataset)


def test_a_copied_shard_is_not_published_and_no_build_ends_with_it(dataset, tmp_path):
    copy_shard(dataset, "regions", 2)
    with pytest.raises(RepeatedIdError, match="5 rows repeat the region_id"):
        publish(dataset, tmp_path / "out")
    with pytest.raises(RepeatedIdError, match="5 rows repeat the region_id"):
        DatasetWriter(dataset, METADATA).finish()


def test_a_shard_that_is_remade_is_not_compared_with_later_ones(dataset):
    path = dataset / "data" / f"{CITY}-regions" / "part-00000.parquet"
    path.unlink()
    writer = DatasetWriter(dataset, METADATA)
    # the next shard is left from an earlier build, and will be rewritten, too
    writer.write_shard(CITY, "regions", 0, regions(0, 7))
    with pytest.raises(RepeatedIdError, match="2 rows repeat"):
        read_regions(dataset, CITY)


def test_captions_are_told_apart_by_their_number_where_they_have_one():
    assert "text" in key_columns("captions", ["image_id", "model", "text"])
    assert "text" not in key_columns("captions", ["image_id", "model", "text", "candidate"])
    assert key_columns("satellite", ["region_id", "text"]) == []


@given(st.lists(st.lists(st.integers(0, 40).map(str), max_size=9), max_size=12))
def test_keys_in_parts_are_judged_as_the_whole_is(parts):
    seen: set[int] = set()
    found = [twice for part in parts for twice in repeats(pd.DataFrame({"id": part}), seen)["id"]]
    whole = pd.DataFrame({"id": [key for part in parts for key in part]}, dtype=object)
    assert found == whole["id"][whole.duplicated()].tolist()
    assert len(seen) == whole["id"].nunique()


def test_the_message_names_table_number_examples_and_remedy():
    keys = pd.DataFrame({"region_id": [f"r{n}" for n in np.repeat(range(5), 3)]})
    said = (
        r"^here: 10 rows repeat the region_id of an earlier row "
        r"\(r0, r1, r2, \.\.\.; 5 ids in all\)\. "
        r"Each must be unique in the whole table\. Do this\.$"
    )
    with pytest.raises(RepeatedIdError, match=said):
        require_unique([keys], "here", "Do this.")
