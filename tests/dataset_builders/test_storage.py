import json
from functools import partial
from pathlib import Path

import datasets
import geopandas as gpd
import huggingface_hub
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from huggingface_hub.errors import LocalEntryNotFoundError

from dataset_builders import parquet
from dataset_builders.card import write_card
from dataset_builders.errors import DatasetError
from dataset_builders.schema import DatasetMetadata, Indicator
from dataset_builders.storage import (
    count_rows,
    iter_images,
    list_cities,
    read_indicators,
    read_metadata,
    read_regions,
    read_rejects,
    read_table,
)
from dataset_builders.writer import DatasetWriter

from .helpers import assert_same_dataset, encoded, picture

INDICATORS = (
    Indicator("population", "people", "count", "People."),
    Indicator("ndvi", "1", "intensity", "Green.", "identity"),
)
METADATA = DatasetMetadata(
    title="Test", description="A test.", source="nowhere", licence="mit", indicators=INDICATORS,
    parameters={"seed": 0, "cities": ["gotham"]},
)  # fmt: skip
SQUARES = [shapely.box(10 + i, 50, 11 + i, 51) for i in range(4)]


def regions() -> list[dict]:
    rows = [
        {"region_id": f"r{i}", "city": "gotham", "geometry": square, "lon": 10.5 + i, "lat": 50.5,
         "population": 100.0 * i, "ndvi": np.nan, "split_random": "train", "fold_block": i}
        for i, square in enumerate(SQUARES)
    ]  # fmt: skip
    return [*rows, {"region_id": "nowhere", "city": "gotham"}]


def images(count: int, start: int = 0):
    for i in range(start, start + count):
        data = encoded(picture(i))
        yield {
            "image": {"bytes": data, "path": f"{i}.png"}, "image_id": f"i{i}",
            "region_id": f"r{i % 4}", "caption": f"picture {i}", "heading": float(i),
        }  # fmt: skip


def build(root: Path, count: int = 250, metadata: DatasetMetadata = METADATA) -> Path:
    writer = DatasetWriter(root, metadata)
    writer.write_shard("gotham", "regions", 0, regions())
    writer.write_shard("gotham", "street_view", 0, images(count))
    writer.write_shard("gotham", "street_view", 1, images(5, start=count))
    writer.finish()
    write_card(root)
    return root


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("data") / "dataset")


def test_load_dataset_and_geopandas_read_all_columns(dataset, tmp_path):
    load = partial(datasets.load_dataset, str(dataset), split="train", cache_dir=str(tmp_path))
    for streaming in (False, True):
        rows = list(load("gotham-street_view", streaming=streaming))
        assert [row["image_id"] for row in rows] == [f"i{i}" for i in range(255)]
        for index in (0, 101, 254):
            np.testing.assert_array_equal(np.asarray(rows[index]["image"]), picture(index))
        assert (rows[3]["caption"], rows[3]["caption_score"]) == ("picture 3", None)
    frame = gpd.read_parquet(dataset / "data/gotham-regions/part-00000.parquet")
    assert frame.crs.to_epsg() == 4326
    assert frame.geometry[:4].geom_equals(gpd.GeoSeries(SQUARES, crs=4326)).all()
    loaded = load("gotham-regions")
    assert loaded.features["population"] == datasets.Value("float64")
    assert shapely.from_wkb(loaded[2]["geometry"]).equals(SQUARES[2])
    assert loaded[4]["geometry"] is loaded[0]["ndvi"] is None


def test_writes_geoparquet_metadata_and_small_row_groups(dataset, monkeypatch):
    table = pq.read_table(dataset / "data/gotham-regions/part-00000.parquet")
    metadata = table.schema.metadata
    geo = json.loads(metadata[b"geo"])
    column = geo["columns"][geo["primary_column"]]
    assert (geo["version"], column["encoding"]) == ("1.1.0", "WKB")
    assert column["geometry_types"] == ["Polygon"]
    assert column["bbox"] == [10.0, 50.0, 14.0, 51.0]
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 4326}
    assert b"huggingface" in metadata
    monkeypatch.setattr(parquet, "SHAPES_AT_ONCE", 2)
    assert parquet.geo_metadata(table) == metadata[b"geo"]
    file = pq.read_metadata(dataset / "data/gotham-street_view/part-00000.parquet")
    assert [file.row_group(i).num_rows for i in range(file.num_row_groups)] == [100, 100, 50]
    columns = [file.row_group(0).column(i) for i in range(file.num_columns)]
    assert {c.path_in_schema: c.compression for c in columns}["image.bytes"] == "UNCOMPRESSED"
    assert all(column.has_offset_index for column in columns)


def test_reads_tables_regions_and_images(dataset):
    rejects = read_rejects(dataset)
    assert (list(rejects), len(rejects)) == (["table", "item", "reason", "detail"], 0)
    table = read_table(dataset, "gotham", "street_view")
    assert "image" not in table
    assert len(table) == count_rows(dataset, "gotham", "street_view") == 255
    columns = ["caption", "image_id"]
    assert list(read_table(dataset, "gotham", "street_view", columns)) == columns
    frame = read_regions(dataset, "gotham")
    assert frame.crs.to_epsg() == 4326
    assert frame.geometry.isna().tolist() == [False] * 4 + [True]
    assert list_cities(dataset) == ["gotham"]
    assert read_metadata(dataset, "gotham") == METADATA
    assert read_indicators(dataset, "gotham") == {one.name: one for one in INDICATORS}
    rows = list(iter_images(dataset, "gotham", "street_view", ("image_id", "heading")))
    assert [row["image_id"] for row in rows] == [f"i{i}" for i in range(255)]
    assert rows[7] == {"image": encoded(picture(7)), "image_id": "i7", "heading": 7.0}


def test_errors_name_what_is_missing_and_what_exists(dataset):
    for call, message in (
        (lambda: read_table(dataset, "metropolis", "regions"), "no table 'metropolis-regions'"),
        (lambda: read_table(dataset, "gotham", "satellite"), "it has gotham-regions, gotham-str"),
        (lambda: read_table(dataset, "gotham", "roads"), "A table is one of"),
        (lambda: read_table(dataset, "gotham", "regions", ["gdp"]), "has no column gdp; it has"),
        (lambda: list_cities(dataset / "data"), "contains no table"),
        (lambda: read_rejects(dataset / "data"), "the build did not finish"),
    ):
        with pytest.raises(DatasetError, match=message):
            call()


def test_fetches_a_dataset_of_the_hub_by_table(dataset, monkeypatch):
    asked = []

    def snapshot(repo_id, repo_type, allow_patterns):
        asked.append((repo_id, repo_type, allow_patterns))
        if repo_id == "org/nothing":
            raise LocalEntryNotFoundError("not in the cache, and the Hub is not reached")
        return str(dataset)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert count_rows("org/cities", "gotham", "regions") == 5
    assert asked == [("org/cities", "dataset", ["data/gotham-regions/*.parquet"])]
    with pytest.raises(DatasetError, match="it is not a folder"):
        list_cities("org/nothing")
    with pytest.raises(DatasetError, match="there is no such folder"):
        list_cities("/no/where")


def test_invalid_rows_leave_no_shard(tmp_path):
    writer = DatasetWriter(tmp_path, METADATA)
    for row, message in (
        ({"region_id": "a", "city": "g", "gpd": 1.0}, "has no column gpd; it has"),
        ({"region_id": None, "city": "g"}, "'region_id' of the table 'regions' can"),
    ):
        with pytest.raises(DatasetError, match=message):
            writer.write_shard("gotham", "regions", 0, [row])
        assert not writer.has_shard("gotham", "regions", 0)


def test_empty_tables_load(tmp_path):
    writer = DatasetWriter(tmp_path, METADATA)
    for table in ("regions", "street_view", "captions"):
        writer.write_shard("gotham", table, 0, [])
    writer.finish()
    write_card(tmp_path)
    for table in ("street_view", "captions"):
        assert count_rows(tmp_path, "gotham", table) == 0
        name = f"gotham-{table}"
        assert not list(datasets.load_dataset(str(tmp_path), name, split="train", streaming=True))


def test_finished_shards_are_not_written_again(tmp_path):
    path = DatasetWriter(tmp_path, METADATA).write_shard("gotham", "street_view", 0, images(3))
    before = path.stat().st_mtime_ns
    rows = images(3)
    again = DatasetWriter(tmp_path, METADATA)
    assert again.write_shard("gotham", "street_view", 0, rows) == path
    assert path.stat().st_mtime_ns == before
    assert len(list(rows)) == 3  # not consumed


def test_rejects_other_parameters_and_folders_of_other_files(tmp_path):
    build(tmp_path / "d", count=3)
    other = DatasetMetadata(**{**METADATA.__dict__, "parameters": {"seed": 1}})
    with pytest.raises(DatasetError, match=r"was built with .*'seed': 0.*'seed': 1"):
        DatasetWriter(tmp_path / "d", other).has_shard("gotham", "street_view", 0)
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(DatasetError, match="is not empty and contains no dataset"):
        DatasetWriter(tmp_path, METADATA)


def test_resumed_build_equals_an_uninterrupted_one(tmp_path):
    def rows(writer, fail_at=None, prefix=""):
        for i, row in enumerate(images(30)):
            if i == fail_at:
                raise KeyboardInterrupt
            if i % 7 == 3:
                writer.reject("gotham-street_view", row["image_id"], "truncated", f"row {i}")
            else:
                yield row | {"image_id": f"{prefix}{i}"}

    def run(root, fail_at=None):
        for city in ("gotham", "metropolis"):  # keeps the rejects of the first
            writer = DatasetWriter(root, METADATA)
            writer.reject("listing.csv", f"{city} row 9", "no_file")
            writer.write_shard(city, "regions", 0, regions())
            writer.write_shard(city, "street_view", 0, rows(writer))
            writer.write_shard(city, "street_view", 1, rows(writer, fail_at, "b"))
            writer.finish()
        write_card(root)

    run(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", 12)
    run(tmp_path / "broken")
    run(tmp_path / "broken")  # adds no duplicates
    assert_same_dataset(tmp_path / "straight", tmp_path / "broken")
    rejects = read_rejects(tmp_path / "broken")
    assert rejects["reason"].value_counts().to_dict() == {"truncated": 16, "no_file": 2}
