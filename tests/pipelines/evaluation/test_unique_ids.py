"""Duplicate region ids, which would leak test labels into training, raise errors."""

import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.evaluation.cli import main
from pipelines.evaluation.embed.sources import open_images
from pipelines.evaluation.embed.tables import read_embeddings, write_embeddings
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.city import City, open_city

CITY = "harborview"


def with_copied_shard(tiny_city, folder, table: str):
    shutil.copytree(tiny_city, folder)
    shards = folder / "data" / f"{CITY}-{table}"
    shutil.copy(shards / "part-00000.parquet", shards / "part-00001.parquet")
    return folder


@pytest.mark.parametrize(
    ("table", "read"),
    [
        ("regions", open_images),
        ("regions", open_city),
        ("satellite", open_images),
        ("street_view", open_images),
    ],
)
def test_duplicated_shard_raises(tiny_city, tmp_path, table, read):
    dataset = with_copied_shard(tiny_city, tmp_path / "d", table)
    with pytest.raises(InputError, match=f"{CITY}-{table}': (36|72) rows repeat the "):
        read(str(dataset), CITY)


def test_embed_and_probe_fail_on_duplicate_regions(tiny_city, tmp_path, capsys):
    place = ["--city", CITY, "--output_dir", str(tmp_path / "out")]
    encoder = ["--encoder", "colour_texture"]
    assert main(["embed", *encoder, "--dataset_name", str(tiny_city), *place]) == 0
    capsys.readouterr()
    dataset = with_copied_shard(tiny_city, tmp_path / "d", "regions")
    tables = ["--embeddings", str(tmp_path / "out" / CITY / "colour_texture.parquet")]
    for command in (["embed", *encoder], ["probe", *tables]):
        assert main([*command, "--dataset_name", str(dataset), *place]) == 2
        said = capsys.readouterr().err
        assert "36 rows repeat the region_id" in said
        assert "harborview_000_000" in said
    assert not list((tmp_path / "out").rglob("results.jsonl"))


def test_city_with_duplicate_regions_raises(tiny_city):
    city = open_city(str(tiny_city), CITY)
    twice = pd.concat([city.regions, city.regions.iloc[:2]], ignore_index=True)
    with pytest.raises(InputError, match="2 rows repeat the region_id"):
        City(city.name, city.dataset_name, True, twice, city.targets)


def test_embedding_table_with_duplicate_regions_raises(tmp_path):
    counts, vectors = {"satellite": np.ones(3, np.int64)}, {"satellite": np.ones((3, 2), "f4")}
    path = tmp_path / "x.parquet"
    with pytest.raises(InputError, match=r"1 row repeats the region_id .*\(a; 1 id"):
        write_embeddings(path, ["a", "b", "a"], counts, vectors, {"label": "x"})
    assert not path.exists()
    write_embeddings(path, ["a", "b", "c"], counts, vectors, {"label": "x"})
    table = pq.read_table(path)
    doubled = pa.concat_tables([table, table])
    pq.write_table(doubled, path)
    with pytest.raises(InputError, match="If you edited it, remove the key `digest`"):
        read_embeddings(path)
    kept = {key: value for key, value in table.schema.metadata.items() if key != b"digest"}
    pq.write_table(doubled.replace_schema_metadata(kept), path)
    with pytest.raises(InputError, match=r"3 rows repeat .*evaluate\.py embed"):
        read_embeddings(path)
