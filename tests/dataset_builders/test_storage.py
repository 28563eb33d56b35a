import json
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
from dataset_builders.parquet import ROW_GROUP_SIZE
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


@pytest.fixture
def cache(tmp_path) -> str:
    return str(tmp_path / "cache")


@pytest.mark.parametrize("streaming", [False, True])
def test_load_dataset_reads_images_and_columns(dataset, cache, streaming):
    loaded = datasets.load_dataset(
        str(dataset), "gotham-street_view", split="train", streaming=streaming, cache_dir=cache
    )
    rows = list(loaded)
    assert len(rows) == 255
    assert [row["image_id"] for row in rows] == [f"i{i}" for i in range(255)]
    for index in (0, 101, 254):
        np.testing.assert_array_equal(np.asarray(rows[index]["image"]), np.asarray(picture(index)))
    assert rows[3]["caption"] == "picture 3"
    assert rows[3]["caption_score"] is None


def test_load_dataset_and_geopandas_read_regions(dataset, cache):
    frame = gpd.read_parquet(dataset / "data/gotham-regions/part-00000.parquet")
    assert frame.crs.to_epsg() == 4326
    assert frame.geometry[:4].geom_equals(gpd.GeoSeries(SQUARES, crs=4326)).all()
    assert frame.geometry[4] is None
    loaded = datasets.load_dataset(str(dataset), "gotham-regions", split="train", cache_dir=cache)
    assert loaded.features["population"] == datasets.Value("float64")
    assert shapely.from_wkb(loaded[2]["geometry"]).equals(SQUARES[2])
    assert loaded[4]["geometry"] is None
    assert loaded[0]["ndvi"] is None


def test_the_schema_carries_all_keys_and_valid_geoparquet(dataset):
    metadata = pq.read_schema(dataset / "data/gotham-regions/part-00000.parquet").metadata
    geo = json.loads(metadata[b"geo"])
    column = geo["columns"][geo["primary_column"]]
    assert geo["version"] == "1.1.0"
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["Polygon"]
    assert column["bbox"] == [10.0, 50.0, 14.0, 51.0]
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 4326}
    assert "huggingface" in {key.decode() for key in metadata}
    assert json.loads(metadata[b"urbanln"])["indicators"]["ndvi"]["transform"] == "identity"
    images = pq.read_schema(dataset / "data/gotham-street_view/part-00000.parquet").metadata
    assert b"geo" not in images
    assert b"urbanln" in images


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_geo_metadata_does_not_depend_on_how_much_is_read_at_once(dataset, monkeypatch, at_once):
    table = pq.read_table(dataset / "data/gotham-regions/part-00000.parquet")
    monkeypatch.setattr(parquet, "SHAPES_AT_ONCE", at_once)
    assert parquet.geo_metadata(table) == table.schema.metadata[b"geo"]


def test_row_groups_are_small_and_pages_are_indexed(dataset):
    file = pq.read_metadata(dataset / "data/gotham-street_view/part-00000.parquet")
    rows = [file.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert rows == [100, 100, 50]
    assert max(rows) <= ROW_GROUP_SIZE
    columns = [file.row_group(0).column(i) for i in range(file.num_columns)]
    assert {c.path_in_schema: c.compression for c in columns}["image.bytes"] == "UNCOMPRESSED"
    assert all(column.has_offset_index for column in columns)


def test_reading_a_table(dataset):
    rejects = read_rejects(dataset)
    assert (list(rejects), len(rejects)) == (["table", "item", "reason", "detail"], 0)
    table = read_table(dataset, "gotham", "street_view")
    assert "image" not in table
    assert len(table) == count_rows(dataset, "gotham", "street_view") == 255
    assert list(read_table(dataset, "gotham", "street_view", ["caption", "image_id"])) == [
        "caption", "image_id",
    ]  # fmt: skip


def test_reading_regions(dataset):
    frame = read_regions(dataset, "gotham")
    assert list(frame.index) == list(range(5))
    assert frame.crs.to_epsg() == 4326
    assert frame.geometry.isna().tolist() == [False] * 4 + [True]
    assert list_cities(dataset) == ["gotham"]
    assert read_metadata(dataset, "gotham") == METADATA
    assert read_indicators(dataset, "gotham") == {one.name: one for one in INDICATORS}


def test_images_are_streamed_in_order_and_not_decoded(dataset):
    rows = list(iter_images(dataset, "gotham", "street_view", ("image_id", "heading")))
    assert [row["image_id"] for row in rows] == [f"i{i}" for i in range(255)]
    assert rows[7] == {"image": encoded(picture(7)), "image_id": "i7", "heading": 7.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: read_table(d, "metropolis", "regions"), "has no table 'metropolis-regions'"),
        (lambda d: read_table(d, "gotham", "satellite"), "it has gotham-regions, gotham-street_v"),
        (lambda d: read_table(d, "gotham", "roads"), "A table is one of"),
        (lambda d: read_table(d, "gotham", "regions", ["gdp"]), "has no column gdp; it has"),
        (lambda d: list(iter_images(d, "gotham", "captions")), "A view is one of"),
        (
            lambda d: list(iter_images(d, "gotham", "street_view", ("tile_z",))),
            "has no column tile_z",
        ),
        (lambda d: list_cities(d / "data"), "contains no table"),
        (lambda d: list_cities(d / "no"), "there is no such folder"),
        (lambda d: read_rejects(d / "data"), "the build did not finish"),
    ],
)
def test_what_is_not_there_is_an_error_that_says_what_is(dataset, call, message):
    with pytest.raises(DatasetError, match=message):
        call(dataset)


def test_a_shard_that_lost_its_metadata_is_an_error(tmp_path, dataset):
    folder = tmp_path / "data/gotham-regions"
    folder.mkdir(parents=True)
    table = pq.read_table(dataset / "data/gotham-regions/part-00000.parquet")
    pq.write_table(table.replace_schema_metadata(None), folder / "part-00000.parquet")
    with pytest.raises(DatasetError, match="lacks the schema metadata 'urbanln'"):
        read_indicators(tmp_path, "gotham")


def test_a_dataset_on_the_hub_is_fetched_by_table(dataset, monkeypatch):
    asked = []

    def snapshot(repo_id, repo_type, allow_patterns):
        asked.append((repo_id, repo_type, allow_patterns))
        return str(dataset)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert count_rows("org/cities", "gotham", "regions") == 5
    assert list_cities("org/cities") == ["gotham"]
    assert asked == [
        ("org/cities", "dataset", ["data/gotham-regions/*.parquet"]),
        ("org/cities", "dataset", ["data/*-regions/*.parquet"]),
    ]


def test_a_dataset_that_is_nowhere_is_an_error(monkeypatch):
    def snapshot(*args, **kwargs):
        raise LocalEntryNotFoundError("not in the cache, and the Hub is not reached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(DatasetError, match="it is not a folder"):
        list_cities("org/nothing")
    with pytest.raises(DatasetError, match="there is no such folder"):
        list_cities("/no/where")


@pytest.mark.parametrize(
    ("table", "rows", "message"),
    [
        ("regions", [{"region_id": "a", "city": "g", "gpd": 1.0}], "has no column gpd; it has"),
        ("regions", [{"region_id": None, "city": "g"}], "'region_id' of the table 'regions' can"),
        ("regions", [{"region_id": "a", "city": "g"}] * 2, r"1 row repeats the region_id .*\(a; 1"),
        ("satellite", [{"image_id": "a", "region_id": "b"}], "'image' of the table 'satellite'"),
    ],
)
def test_impossible_rows_are_errors_and_leave_no_shard(tmp_path, table, rows, message):
    writer = DatasetWriter(tmp_path, METADATA)
    with pytest.raises(DatasetError, match=message):
        writer.write_shard("gotham", table, 0, rows)
    assert not writer.has_shard("gotham", table, 0)


@pytest.mark.parametrize("table", ["regions", "street_view", "satellite", "captions"])
def test_a_table_of_no_rows_loads(tmp_path, cache, table):
    writer = DatasetWriter(tmp_path / "d", METADATA)
    writer.write_shard("gotham", "regions", 0, [])
    writer.write_shard("gotham", table, 0, [])
    writer.finish()
    write_card(tmp_path / "d")
    assert count_rows(tmp_path / "d", "gotham", table) == 0
    loaded = datasets.load_dataset(
        str(tmp_path / "d"), f"gotham-{table}", split="train", streaming=True
    )
    assert list(loaded) == []


def test_a_finished_shard_is_never_read_for_again(tmp_path):
    writer = DatasetWriter(tmp_path, METADATA)
    path = writer.write_shard("gotham", "street_view", 0, images(3))
    before = path.stat()

    def explode():
        raise AssertionError("a finished shard was asked for again")
        yield

    again = DatasetWriter(tmp_path, METADATA)
    assert again.write_shard("gotham", "street_view", 0, explode()) == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_other_parameters_do_not_continue_a_build(tmp_path):
    build(tmp_path, count=3)
    other = DatasetMetadata(**{**METADATA.__dict__, "parameters": {"seed": 1}})
    with pytest.raises(DatasetError, match=r"was built with .*'seed': 0.*'seed': 1"):
        DatasetWriter(tmp_path, other).has_shard("gotham", "street_view", 0)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(DatasetError, match="is not empty and contains no dataset"):
        DatasetWriter(tmp_path, METADATA)


def test_a_build_that_failed_in_a_shard_ends_like_one_that_did_not(tmp_path):
    def rows(writer, fail_at):
        for i, row in enumerate(images(30)):
            if i == fail_at:
                raise KeyboardInterrupt
            if i % 7 == 3:
                writer.reject("gotham-street_view", row["image_id"], "truncated", f"row {i}")
            else:
                yield row

    def run(root, fail_at):
        writer = DatasetWriter(root, METADATA)
        writer.reject("listing.csv", "row 9", "no_file")
        writer.reject("listing.csv", "row 9", "no_file")
        writer.write_shard("gotham", "regions", 0, regions())
        writer.write_shard("gotham", "street_view", 0, rows(writer, None))
        writer.write_shard("gotham", "satellite", 0, [])
        writer.write_shard(
            "gotham", "street_view", 1,
            ({**row, "image_id": f"b{row['image_id']}"} for row in rows(writer, fail_at)),
        )  # fmt: skip
        writer.finish()
        write_card(root)

    run(tmp_path / "straight", None)
    for fail_at in (0, 12, 29):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", fail_at)
    run(tmp_path / "broken", None)
    # another run adds no duplicates
    run(tmp_path / "broken", None)
    assert_same_dataset(tmp_path / "straight", tmp_path / "broken")
    rejects = read_rejects(tmp_path / "broken")
    assert rejects["reason"].value_counts().to_dict() == {"truncated": 8, "no_file": 2}


def test_a_second_city_keeps_what_the_first_left_out(tmp_path):
    first = DatasetWriter(tmp_path, METADATA)
    first.reject("gotham.csv", "row 1", "no_file")
    first.write_shard("gotham", "regions", 0, regions())
    first.finish()
    second = DatasetWriter(tmp_path, METADATA)
    second.write_shard("metropolis", "regions", 0, regions())
    second.reject("metropolis.csv", "row 2", "no_file")
    second.finish()
    assert sorted(read_rejects(tmp_path)["item"]) == ["row 1", "row 2"]
    assert list_cities(tmp_path) == ["gotham", "metropolis"]
