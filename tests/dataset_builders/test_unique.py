"""Ids are unique over all files of a table, on writing and on reading."""

import shutil

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builders.publish import publish
from dataset_builders.schema import DatasetMetadata
from dataset_builders.storage import (
    count_rows,
    iter_images,
    read_regions,
    read_table,
)
from dataset_builders.unique import RepeatedIdError, repeats
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
def test_rejects_ids_of_earlier_shards(tmp_path, table, rows, said):
    writer = DatasetWriter(tmp_path, METADATA)
    first = {"regions": regions(0, 5), "satellite": images(0, 5), "captions": captions("a road")}
    writer.write_shard(CITY, table, 0, first[table])
    if table != "regions":  # knows the first shard from disk only
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
        ("satellite", lambda d: list(iter_images(d, CITY, "satellite"))),
        ("captions", lambda d: read_table(d, CITY, "captions")),
    ],
)
def test_copied_shards_are_found_on_reading_and_publishing(dataset, tmp_path, table, read):
    read(dataset)
    folder = dataset / "data" / f"{CITY}-{table}"
    shutil.copy(folder / "part-00000.parquet", folder / "part-00007.parquet")
    rows = 2 if table == "captions" else 5
    with pytest.raises(
        RepeatedIdError, match=rf"'{CITY}-{table}': {rows} rows repeat .*; {rows} ids"
    ):
        read(dataset)
    with pytest.raises(RepeatedIdError, match=f"{rows} rows repeat"):
        publish(dataset, tmp_path / "out")
    with pytest.raises(RepeatedIdError, match=f"{rows} rows repeat"):
        DatasetWriter(dataset, METADATA).finish()


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 40).map(str), max_size=9), max_size=12))
def test_repeats_do_not_depend_on_chunks(parts):
    seen: set[int] = set()
    found = [twice for part in parts for twice in repeats(pd.DataFrame({"id": part}), seen)["id"]]
    whole = pd.DataFrame({"id": [key for part in parts for key in part]}, dtype=object)
    assert found == whole["id"][whole.duplicated()].tolist()
    assert len(seen) == whole["id"].nunique()
