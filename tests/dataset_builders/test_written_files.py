"""Only files written by this program are replaced or deleted."""

import hashlib
import json

import pytest

from dataset_builders.card import write_card
from dataset_builders.errors import DatasetError
from dataset_builders.files import ForeignFileError, WrittenFiles
from dataset_builders.publish import publish
from dataset_builders.writer import DatasetWriter

from .test_storage import METADATA, build


def put(files: WrittenFiles, **content: str) -> None:
    for name, text in content.items():
        with files.writing(name) as temporary:
            temporary.write_text(text)


def found(root) -> set[str]:
    return {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".urbanln-")
    }


def test_own_files_are_replaced_and_deleted_and_foreign_ones_kept(tmp_path):
    files = WrittenFiles(tmp_path, "test")
    put(files, own="1", edited="1", target="mine")
    put(files, own="2")
    assert (tmp_path / "own").read_text() == "2"
    files.delete(["own", "never there"])
    assert not (tmp_path / "own").exists()
    put(WrittenFiles(tmp_path, "other"), other="mine")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "folder").mkdir()
    for name in ("edited", "unlisted", "folder/mine"):
        (tmp_path / name).write_text("mine")
    before = found(tmp_path)
    for name in ("edited", "unlisted", "other", "link", "folder"):
        with pytest.raises(
            ForeignFileError, match=rf"not written by this command.*: {name}\. They"
        ):
            put(files, **{name: "2"})
        with pytest.raises(ForeignFileError, match=f": {name}"):
            files.delete([name])
        with pytest.raises(ForeignFileError, match=f": {name}"), files.staging() as staged:
            put(WrittenFiles(staged, "test"), **{name: "2", "new": "2"})
    assert found(tmp_path) == before
    assert all((tmp_path / name).read_text() == "mine" for name in before)


def test_list_cannot_name_files_outside_its_folder(tmp_path):
    outside, root = tmp_path / "thesis.txt", tmp_path / "downloaded"
    outside.write_text("dear")
    root.mkdir()
    for name in ("../thesis.txt", str(outside)):
        entry = {"name": name, "sha256": hashlib.sha256(b"dear").hexdigest()}
        (root / ".urbanln-test.jsonl").write_text(json.dumps(entry) + "\n")
        files = WrittenFiles(root, "test")
        assert files.names() == [name]
        with pytest.raises(ForeignFileError, match=r"thesis\.txt"):
            files.delete(files.names())
    assert outside.read_text() == "dear"


def test_truncated_list_loses_at_most_its_last_entry(tmp_path):
    for cut in range(0, 200, 30):
        files = WrittenFiles(tmp_path / str(cut), "test")
        put(files, a="1", b="1")
        listed = files.root / ".urbanln-test.jsonl"
        listed.write_bytes(listed.read_bytes()[: len(listed.read_bytes()) - cut])
        put(files, c="1")
        assert set(files.names()) >= {"c"} | ({"a"} if cut < 90 else set())


def test_staging_replaces_earlier_files_and_keeps_others(tmp_path):
    root = tmp_path / "out"
    files = WrittenFiles(root, "test")
    with files.staging(whole=True) as staged:
        put(WrittenFiles(staged, "x"), **{"data/old/a": "1", "data/b": "1"})
    (root / "notes.txt").write_text("mine")
    with pytest.raises(RuntimeError), files.staging(whole=True):
        raise RuntimeError("half way")
    assert found(root) == {"data/old/a", "data/b", "notes.txt"}
    with files.staging(whole=True) as staged:
        put(WrittenFiles(staged, "x"), **{"data/b": "2"})
    assert found(root) == {"data/b", "notes.txt"}
    assert not (root / "data" / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_writer_keeps_foreign_readmes_rejects_and_edited_cards(tmp_path):
    (tmp_path / "checkout" / "data").mkdir(parents=True)
    (tmp_path / "checkout" / "README.md").write_text("my project")
    with pytest.raises(DatasetError, match=r"README\.md"):
        build(tmp_path / "checkout", count=1)
    assert found(tmp_path / "checkout") == {"README.md"}
    root = build(tmp_path / "d", count=1)
    write_card(root)
    (root / "README.md").write_text("My own words.")
    for again in (lambda: write_card(root), lambda: build(root, count=1)):
        with pytest.raises(ForeignFileError, match=r"README\.md"):
            again()
    root = build(tmp_path / "e", count=1)
    (root / "rejects.parquet").write_bytes(b"mine")
    with pytest.raises(ForeignFileError, match=r"rejects\.parquet"):
        DatasetWriter(root, METADATA).finish()
    assert (root / "rejects.parquet").read_bytes() == b"mine"


def test_changed_shards_are_not_removed(tmp_path):
    build(tmp_path, count=3)
    path = tmp_path / "data" / "gotham-street_view" / "part-00000.parquet"
    path.write_bytes(path.read_bytes() + b"mine")
    writer = DatasetWriter(tmp_path, METADATA)
    with pytest.raises(ForeignFileError, match=r"part-00000\.parquet"):
        writer.remove_shard("gotham", "street_view", 0)
    writer.remove_shard("gotham", "street_view", 1)
    assert path.exists()
    assert not path.with_name("part-00001.parquet").exists()


def test_publishing_again_keeps_foreign_files(tmp_path):
    source, target = build(tmp_path / "in", count=3), tmp_path / "out"
    publish(source, target)
    before = found(target)
    for name in ("figures/mine.png", "data/gotham-x/a.csv"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("mine")
    publish(source, target, target_bytes=1)
    (target / "README.md").write_text("my words")
    with pytest.raises(ForeignFileError, match=r"README\.md"):
        publish(source, target)
    assert (target / "README.md").read_text() == "my words"
    assert before | {"figures/mine.png", "data/gotham-x/a.csv"} <= found(target)
