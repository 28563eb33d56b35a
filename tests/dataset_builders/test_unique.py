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


IMAGE = {"bytes": encoded(picture()), "path": None}
ROWS = {
    "regions": [{"region_id": f"r{n}", "city": CITY} for n in range(10)],
    "satellite": [{"image": IMAGE, "image_id": f"i{n}", "region_id": "r0"} for n in range(10)],
    "captions": [{"image_id": "i0", "model": "m", "text": f"a road {n}"} for n in range(10)],
}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("regions", "2 rows repeat the region_id of an earlier row .r3, r4; 2 ids"),
        ("satellite", "2 rows repeat the image_id of an earlier row .i3, i4; 2 ids"),
        ("captions", "2 rows repeat the image_id . model .* text"),
    ],
)
def test_rejects_ids_of_earlier_shards(tmp_path, table, said):
    DatasetWriter(tmp_path, METADATA).write_shard(CITY, table, 0, ROWS[table][:5])
    writer = DatasetWriter(tmp_path, METADATA)  # knows the first shard from disk only
    with pytest.raises(RepeatedIdError, match=said):
        writer.write_shard(CITY, table, 1, ROWS[table][3:8])
    assert not writer.has_shard(CITY, table, 1)
    writer.write_shard(CITY, table, 1, ROWS[table][6:])  # rejected rows leave no keys behind
    assert count_rows(tmp_path, CITY, table) == 9
    # an image belongs to one region: the same id in another region is a duplicate
    if table == "satellite":
        with pytest.raises(RepeatedIdError, match="1 row repeats the image_id"):
            writer.write_shard(CITY, table, 2, [ROWS[table][0] | {"region_id": "r1"}])


def test_copied_shards_are_found_on_reading_and_publishing(tmp_path):
    writer, root = DatasetWriter(tmp_path / "d", METADATA), tmp_path / "d"
    for table, rows in ROWS.items():
        writer.write_shard(CITY, table, 0, rows)
    writer.finish()
    for table, read in (
        ("regions", lambda: read_regions(root, CITY)),
        ("satellite", lambda: list(iter_images(root, CITY, "satellite"))),
        ("captions", lambda: read_table(root, CITY, "captions")),
    ):
        read()
        first = root / "data" / f"{CITY}-{table}" / "part-00000.parquet"
        copy = shutil.copy(first, first.with_name("part-00007.parquet"))
        for use in (read, lambda: publish(root, tmp_path / "out"), writer.finish):
            with pytest.raises(RepeatedIdError, match=r"10 rows repeat .*; 10 ids in all"):
                use()
        copy.unlink()


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 40).map(str), max_size=9), max_size=12))
def test_repeats_do_not_depend_on_chunks(parts):
    seen: set[int] = set()
    found = [twice for part in parts for twice in repeats(pd.DataFrame({"id": part}), seen)["id"]]
    whole = pd.DataFrame({"id": [key for part in parts for key in part]}, dtype=object)
    assert found == whole["id"][whole.duplicated()].tolist()
    assert len(seen) == whole["id"].nunique()
