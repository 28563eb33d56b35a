import io
import json
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataset_builders.images import BadImageError, decode_image, stored_bytes
from dataset_builders.schema import DatasetMetadata
from dataset_builders.storage import (
    iter_images,
    read_metadata,
    read_regions,
    read_table,
    table_shards,
)
from dataset_builders.writer import DatasetWriter
from pipelines.evaluation.embed.tables import read_embeddings, write_embeddings

from ..dataset_builders.helpers import encoded, picture
from .harness import ODD, altered, damaged, inputs, knock

METADATA = DatasetMetadata("Town", "A test.", "tests", "mit", synthetic=True)
FIELDS = json.loads(METADATA.to_json())
REGIONS = [
    {"region_id": f"r{n}", "city": "town", "lon": n, "lat": n, "population": n} for n in (1.0, 2.0)
]
IMAGE = {"bytes": encoded(picture()), "path": None}
VIEWS = [{"image": IMAGE, "image_id": f"i{n}", "region_id": "r1.0"} for n in (1, 2)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    writer = DatasetWriter(folder, METADATA)
    writer.write_shard("town", "regions", 0, iter(REGIONS))
    writer.write_shard("town", "street_view", 0, iter(VIEWS))
    writer.finish()
    return folder


@pytest.fixture(scope="module")
def shards(dataset):
    names = ("regions", "street_view")
    paths = {name: dataset / f"data/town-{name}/part-00000.parquet" for name in names}
    return {path: path.read_bytes() for path in paths.values()}


def read_all(dataset):
    """Read all parts of a dataset that embedding, training and rehydration use."""
    knock("Parquet of datasets", lambda: read_metadata(dataset, "town"))
    knock("Parquet of datasets", lambda: read_regions(dataset, "town"))
    knock("Parquet of datasets", lambda: read_table(dataset, "town", "street_view"))
    rows = knock("Parquet of datasets", lambda: list(iter_images(dataset, "town", "street_view")))
    for row in rows or []:
        knock("images in rows", lambda row=row: decode_image(row["image"] or b""), BadImageError)


VALUES = (
    st.none()
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
    | st.binary(max_size=12)
    | st.floats()
    | st.integers(-(2**63), 2**63 - 1)
    | st.lists(st.integers(0, 9), max_size=2)
    | st.fixed_dictionaries(
        {"bytes": st.none() | st.binary(max_size=9) | st.just(IMAGE["bytes"])},
        optional={"path": st.sampled_from(("/etc/passwd", "../x", "http://x/y", "part", "\x00"))},
    )
)


@st.composite
def columns(draw):
    one = draw(VALUES)
    try:
        return pa.array([one, one if draw(st.booleans()) else None])
    except (pa.ArrowException, OverflowError):
        return pa.nulls(2)


@st.composite
def rewritten(draw, whole, metadata):
    """A Parquet file with damaged bytes, or with other columns and metadata."""
    if draw(st.booleans()):
        return draw(damaged(whole))
    table = pq.read_table(io.BytesIO(whole))
    for _ in range(draw(st.integers(0, 2))):
        where = draw(st.integers(0, table.num_columns - 1))
        name = table.column_names[where]
        if draw(st.integers(0, 4)) == 0 and table.num_columns > 1:
            table = table.drop_columns([name])
        else:
            table = table.set_column(where, name, draw(columns()))
    fields = json.dumps(draw(altered(metadata)))
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"urbanln": fields}), buffer)
    return buffer.getvalue()


@inputs(25)
@given(data=st.data())
def test_datasets(dataset, shards, data):
    for path, whole in shards.items():
        path.write_bytes(data.draw(rewritten(whole, FIELDS)))
    read_all(dataset)
    door = "Parquet of datasets"
    for path in knock(door, lambda: table_shards(dataset, "town", "street_view")) or []:
        try:
            rows = pq.read_table(path).to_pylist()
        except (pa.ArrowException, OSError, ValueError):
            continue
        for row in rows:
            image = row.get("image")
            if isinstance(image, dict) and isinstance(image.get("bytes"), bytes | None):
                read = partial(stored_bytes, image, dataset)
                found = knock("images in rows", read, BadImageError)
                assert found is None or not found.startswith(b"root:")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors") / "urbanln.parquet"
    values = {"satellite": np.ones((2, 4)), "street_view": np.full((2, 4), np.nan)}
    counts = {"satellite": np.array([1, 1])}
    write_embeddings(path, ["a", "b"], counts, values, {"label": "urbanln", "dim": 4})
    return path, path.read_bytes()


@inputs(25)
@given(data=st.data())
def test_embeddings(vectors, data):
    path, whole = vectors
    metadata = json.loads(pq.read_schema(io.BytesIO(whole)).metadata[b"urbanln"])
    path.write_bytes(data.draw(rewritten(whole, metadata)))
    table = knock("Parquet of vectors", lambda: read_embeddings(path))
    if table is not None:
        assert table.label is not None
        assert table.views == [view for view in table.views if view in table.vectors]
        assert all(len(one) == len(table.region_ids) for one in table.vectors.values())
        assert isinstance(table.uses, list)


@inputs(20)
@given(altered(FIELDS) | ODD)
@example({"indicators": {"x": {"kind": "count"}}})
@example({"indicators": []})
def test_metadata(fields):
    knock("metadata of datasets", lambda: DatasetMetadata.from_json(json.dumps(fields)))
