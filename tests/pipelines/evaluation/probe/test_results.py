import math
import re
import subprocess
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.results import ResultRow, ResultStore, code_revision, read_rows
from tests.damage import altered

ROW = ResultRow(
    system="clip",
    view="both",
    city="toytown",
    source_city="",
    indicator="population",
    unit="people",
    transform="ln1p",
    protocol="block",
    probe="ridge",
    split_seed=0,
    probe_seed=0,
    n_train=60,
    n_validation=20,
    n_test=20,
    r2=0.5,
    rmse=0.7,
    mae=0.6,
    spearman=math.nan,
    label_sd_test=1.0,
    hyperparameters={"alpha": 10.0},
    table_hash="a" * 16,
    embedding_hash="b" * 16,
    config_hash="c" * 16,
    code_revision="0123456789ab",
    uses=["satellite", "street_view"],
    seconds=0.25,
    synthetic=True,
)
ROWS = [replace(ROW, split_seed=seed) for seed in range(4)]


def test_rows_round_trip(tmp_path):
    path = tmp_path / "city" / "results.jsonl"
    ResultStore(path).append(ROWS)
    back = list(read_rows(path))
    assert [replace(row, spearman=0.0) for row in back] == [replace(r, spearman=0.0) for r in ROWS]
    assert all(math.isnan(row.spearman) for row in back)
    assert "NaN" not in path.read_text()


def test_incomplete_last_line_is_recomputed(tmp_path):
    path = tmp_path / "results.jsonl"
    ResultStore(path).append(ROWS)
    whole = path.read_bytes()
    for cut in range(1, len(whole) // len(ROWS)):  # every byte of the last line
        path.write_bytes(whole[:-cut])
        assert [row.split_seed for row in read_rows(path)] == [0, 1, 2]
        store = ResultStore(path)
        assert ROWS[3].key not in store.keys
        assert ROWS[2].key in store.keys
        store.append(ROWS[3:])
        assert path.read_bytes() == whole


def test_duplicate_key_raises(tmp_path):
    store = ResultStore(tmp_path / "results.jsonl")
    store.append(ROWS[:1])
    with pytest.raises(ValueError, match="already"):
        ResultStore(store.path).append(ROWS)
    with pytest.raises(ValueError, match="already"):
        store.append([ROWS[1], ROWS[1]])


def test_damaged_line_raises_and_is_set_aside(tmp_path):
    path = tmp_path / "results.jsonl"
    ResultStore(path).append(ROWS)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:40], *lines[2:]]) + "\n")
    with pytest.raises(InputError, match="line 2 is not a result row"):
        list(read_rows(path))
    assert ResultStore(path).keys == {row.key for row in ROWS} - {ROWS[1].key}
    assert len(list(tmp_path.glob("results.jsonl.damaged-*"))) == 1


def test_altered_rows_are_not_read(tmp_path):
    path = tmp_path / "results.jsonl"
    ResultStore(path).append(ROWS[:2])
    whole = path.read_bytes()
    for content in altered(whole, only=b"0123456789abcdefr_"):
        path.write_bytes(content)
        store = ResultStore(path)
        assert ROWS[0].key in store.keys or ROWS[1].key in store.keys
        if len(store.keys) < 2:
            store.append(row for row in ROWS[:2] if row.key not in store.keys)
        assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_rows_of_another_format_raise(tmp_path):
    path = tmp_path / "results.jsonl"
    ResultStore(path).append(ROWS)
    text = re.sub(', "digest": "[0-9a-f]+"', "", path.read_text())  # absent in older formats
    newer = text.replace('"format_version": 3', '"format_version": 4')
    older = text.replace(', "format_version": 3', "")
    for text, found in ((newer, 4), (older, 1)):
        path.write_text(text)
        with pytest.raises(InputError, match=f"rows of format {found}, .* format 3.*--output_dir"):
            ResultStore(path)


def test_code_revision_is_the_commit_without_a_path():
    revision = code_revision()
    root = Path(__file__).resolve().parents[3]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        head = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert head.startswith(revision.removesuffix("+changed"))
    assert revision
    assert "/" not in revision


def test_code_revision_outside_a_checkout_is_the_version(monkeypatch):
    def no_git(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert code_revision.__wrapped__() == metadata.version("urbanln")


def test_missing_file_has_no_rows(tmp_path):
    assert list(read_rows(tmp_path / "none.jsonl")) == []
