"""Values of environment variables are found in all kinds of published files."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_builders.errors import DatasetError
from dataset_builders.leaks import check_leaks

SECRET = "k3y/with+signs="


def as_address(path):
    path.write_text("https://example.com/?k=k3y%2Fwith%2Bsigns%3D")


def as_bytes(path):
    path.write_bytes(b"\xff\xd8\x00" + SECRET.encode() + b"\x00")


def as_cell(path):
    # in a compressed page, as a back-reference to its beginning
    rows = [f"k3y/wit{n}h+signs=" for n in range(1000)] + [SECRET]
    options = {"compression": "ZSTD", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table({"detail": rows}), path, **options)
    assert SECRET.encode() not in path.read_bytes()


def as_nested_cell(path):
    images = [{"bytes": b"x" * 200, "path": f"{SECRET}.jpg" * 3}]
    pq.write_table(pa.table({"image": images}), path, compression="ZSTD")


def as_metadata(path):
    table = pa.table({"a": [1]}).replace_schema_metadata({"urbanln": SECRET})
    pq.write_table(table, path)


@pytest.mark.parametrize("write", [as_address, as_bytes, as_cell, as_nested_cell, as_metadata])
def test_finds_keys_in_all_kinds_of_files(tmp_path, monkeypatch, write):
    monkeypatch.setenv("MY_KEY", SECRET)
    tables = (as_cell, as_nested_cell, as_metadata)
    name = "part.parquet" if write in tables else "file.bin"
    write(tmp_path / name)
    (tmp_path / "empty").touch()
    with pytest.raises(DatasetError, match=rf"{name} \(MY_KEY\)") as refused:
        check_leaks(tmp_path, ["empty", name], {"MY_KEY", "NOT_SET"})
    assert SECRET not in str(refused.value)
    monkeypatch.setenv("MY_KEY", "another key")
    check_leaks(tmp_path, ["empty", name], {"MY_KEY"})
