"""Only files written by this program are replaced or deleted."""

import hashlib
import json
import os

import pytest

from dataset_builders.card import write_card
from dataset_builders.city.workspace import Workspace
from dataset_builders.errors import DatasetError
from dataset_builders.files import ForeignFileError, WrittenFiles
from dataset_builders.publish import publish
from dataset_builders.storage import read_metadata
from dataset_builders.synthetic import build_dataset
from dataset_builders.writer import DatasetWriter

from .test_storage import METADATA, build


def put(files: WrittenFiles, **content: str) -> None:
    for name, text in content.items():
        with files.writing(name) as temporary:
            temporary.write_text(text)


def stage(files: WrittenFiles, *names: str) -> None:
    with files.staging() as staged:
        for name in names:
            (staged / name).write_text("2")


def found(root) -> set[str]:
    return {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".urbanln-")
    }


def test_own_files_are_replaced_and_deleted(tmp_path):
    files = WrittenFiles(tmp_path, "test")
    put(files, a="1")
    put(files, a="2")
    assert (tmp_path / "a").read_text() == "2"
    WrittenFiles(tmp_path, "test").delete(["a", "never there"])
    assert found(tmp_path) == set()


@pytest.mark.parametrize("case", ["unlisted", "edited", "another kind", "link", "folder"])
def test_what_somebody_else_wrote_stays(tmp_path, case):
    files = WrittenFiles(tmp_path, "test")
    mine = tmp_path / "a"
    if case == "edited":
        put(files, a="1")
    if case == "another kind":
        put(WrittenFiles(tmp_path, "other"), a="mine")
    elif case == "link":
        put(files, b="1")
        mine.symlink_to("b")
    elif case == "folder":
        mine.mkdir()
    else:
        mine.write_text("mine")
    with pytest.raises(ForeignFileError, match=r"not written by this command.*: a\. They would"):
        put(files, a="2")
    with pytest.raises(ForeignFileError, match=": a"):
        files.delete(["a"])
    with pytest.raises(ForeignFileError, match=": a"):
        stage(files, "a", "c")
    assert os.path.lexists(mine)
    assert not (tmp_path / "c").exists()
    assert mine.is_dir() or mine.read_text() == ("1" if case == "link" else "mine")


def test_a_list_cannot_name_files_outside_its_folder(tmp_path):
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


@pytest.mark.parametrize("cut", range(0, 200, 7))
def test_a_list_that_a_kill_cut_off_loses_at_most_its_last_file(tmp_path, cut):
    files = WrittenFiles(tmp_path, "test")
    put(files, a="1", b="1")
    listed = tmp_path / ".urbanln-test.jsonl"
    listed.write_bytes(listed.read_bytes()[:-1][: len(listed.read_bytes()) - cut])
    put(files, c="1")
    assert set(files.names()) >= {"c"} | ({"a"} if cut < 90 else set())
    put(files, c="2")


def test_staged_files_take_the_place_of_all_earlier_ones_and_leave_the_rest(tmp_path):
    root = tmp_path / "out"
    files = WrittenFiles(root, "test")
    with files.staging(whole=True) as staged:
        for name in ("data/old/a", "data/b"):
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_text("1")
    (root / "notes.txt").write_text("mine")
    with pytest.raises(RuntimeError), files.staging(whole=True) as staged:
        raise RuntimeError("half way")
    assert found(root) == {"data/old/a", "data/b", "notes.txt"}
    with files.staging(whole=True) as staged:
        (staged / "data").mkdir()
        (staged / "data" / "b").write_text("2")
    assert found(root) == {"data/b", "notes.txt"}
    assert not (root / "data" / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# ---- datasets -----------------------------------------------------------------------------------


def test_a_checkout_that_has_a_folder_of_data_keeps_its_readme(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("my project")
    with pytest.raises(DatasetError, match=r"README\.md"):
        DatasetWriter(tmp_path, METADATA)
    with pytest.raises(DatasetError, match=r"README\.md"):
        build(tmp_path, count=1)
    assert (tmp_path / "README.md").read_text() == "my project"
    assert found(tmp_path) == {"README.md"}


def test_a_card_that_was_edited_is_not_written_over(tmp_path):
    card = build(tmp_path, count=1) / "README.md"
    write_card(tmp_path)
    card.write_text(card.read_text() + "My own words.")
    for again in (lambda: write_card(tmp_path), lambda: build(tmp_path, count=1)):
        with pytest.raises(ForeignFileError, match=r"README\.md"):
            again()
    assert card.read_text().endswith("My own words.")


def test_a_shard_that_was_changed_is_not_remade(tmp_path):
    build(tmp_path, count=3)
    path = tmp_path / "data" / "gotham-street_view" / "part-00000.parquet"
    path.write_bytes(path.read_bytes() + b"mine")
    writer = DatasetWriter(tmp_path, METADATA)
    with pytest.raises(ForeignFileError, match=r"part-00000\.parquet"):
        writer.remove_shard("gotham", "street_view", 0)
    writer.remove_shard("gotham", "street_view", 1)
    assert path.exists()
    assert not path.with_name("part-00001.parquet").exists()


@pytest.mark.parametrize("name", ["figures/mine.png", "data/notes.txt", "data/gotham-x/a.csv"])
def test_publishing_again_leaves_what_it_did_not_write(tmp_path, name):
    source, target = build(tmp_path / "in", count=3), tmp_path / "out"
    publish(source, target)
    before = found(target)
    mine = target / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    publish(source, target, target_bytes=1)
    assert mine.read_text() == "mine"
    assert before | {name} <= found(target)
    (target / "README.md").write_text("my words")
    with pytest.raises(ForeignFileError, match=r"README\.md"):
        publish(source, target)
    assert (target / "README.md").read_text() == "my words"
    assert before | {name} <= found(target)


def test_rejects_of_somebody_else_are_not_merged_into(tmp_path):
    build(tmp_path, count=1)
    (tmp_path / "rejects.parquet").write_bytes(b"mine")
    with pytest.raises(ForeignFileError, match=r"rejects\.parquet"):
        DatasetWriter(tmp_path, METADATA).finish()
    assert (tmp_path / "rejects.parquet").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["report", "cache", "plan", "published", "dataset"])
def test_a_build_goes_into_no_folder_of_something_else(tmp_path, name):
    (tmp_path / "src").mkdir()
    Workspace(tmp_path).claim()
    Workspace(tmp_path).claim()
    other = tmp_path / "other"
    (other / name).mkdir(parents=True)
    (other / name / "mine.html").write_text("mine")
    with pytest.raises(DatasetError, match=f"contains {name}, not made by a build"):
        Workspace(other).claim()
    assert found(other) == {f"{name}/mine.html"}


def test_the_synthetic_city_replaces_no_truth_of_somebody_else(tmp_path):
    build_dataset(tmp_path, grid_size=3, street_views=0, num_workers=1)
    truth = tmp_path / "truth" / "harborview" / "part-00000.parquet"
    truth.write_bytes(b"mine")
    DatasetWriter(tmp_path, read_metadata(tmp_path, "harborview")).remove_shard(
        "harborview", "satellite", 0
    )
    with pytest.raises(ForeignFileError, match="truth/harborview/part-00000"):
        build_dataset(tmp_path, grid_size=3, street_views=0, num_workers=1)
    assert truth.read_bytes() == b"mine"
