"""Errors in the image tables of a city."""

import shutil

import pytest

from dataset_builders.unique import RepeatedIdError
from demo.cities import _open_pictures

CITY = "harborview"


def test_a_view_with_an_image_in_two_rows_is_told_and_a_missing_view_is_not(tiny_city, tmp_path):
    root = tmp_path / "d"
    shutil.copytree(tiny_city, root)
    shutil.rmtree(root / "data" / f"{CITY}-street_view")
    assert [view for view, _ in _open_pictures(str(root), CITY)] == ["satellite"]
    shards = root / "data" / f"{CITY}-satellite"
    shutil.copy(shards / "part-00000.parquet", shards / "part-00001.parquet")
    with pytest.raises(RepeatedIdError, match="36 rows repeat the image_id"):
        list(_open_pictures(str(root), CITY))
