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
    *("clip", "both", "toytown", "", "population", "people", "ln1p", "block", "ridge"),
    *(0, 0, 60, 20, 20, 0.5, 0.7, 0.6, math.nan, 1.0, {"alpha": 10.0}),
    *("a" * 16, "b" * 16, "c" * 16, "0123456789ab", ["satellite"], 0.25, True),
)
ROWS = [replace(ROW, split_seed=seed) for seed in range(3)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "city" / "results.jsonl"
    ResultStore(path).append(ROWS)
    return path


def test_rows_round_trip(path):
    back = list(read_rows(path))
    assert [replace(row, spearman=0.0) for row in back] == [replace(r, spearman=0.0) for r in ROWS]
    assert all(math.isnan(row.spearman) for row in back)
    assert "NaN" not in path.read_text()
    assert list(read_rows(path.with_name("none.jsonl"))) == []
    with pytest.raises(ValueError, match="already"):
        ResultStore(path).append(ROWS)
    other = replace(ROW, split_seed=7)
    with pytest.raises(ValueError, match="already"):
        ResultStore(path).append([other, other])


def test_incomplete_last_line_is_recomputed(path):
    whole = path.read_bytes()
    for cut in (1, 2, 100, len(whole.splitlines()[-1])):
        path.write_bytes(whole[:-cut])
        assert [row.split_seed for row in read_rows(path)] == [0, 1]
        store = ResultStore(path)
        assert store.keys == {ROWS[0].key, ROWS[1].key}
        store.append(ROWS[2:])
        assert path.read_bytes() == whole


def test_damaged_line_raises_and_is_set_aside(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:40], lines[2]]) + "\n")
    with pytest.raises(InputError, match="line 2 is not a result row"):
        list(read_rows(path))
    assert ResultStore(path).keys == {ROWS[0].key, ROWS[2].key}
    assert len(list(path.parent.glob("results.jsonl.damaged-*"))) == 1


def test_altered_rows_are_not_read(path):
    whole = path.read_bytes()
    for content in list(altered(whole, only=b"0123456789abcdefr_"))[::20]:
        path.write_bytes(content)
        store = ResultStore(path)
        assert len(store.keys) >= 2
        store.append(row for row in ROWS if row.key not in store.keys)
        assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_rows_of_another_format_raise(path):
    text = re.sub(', "digest": "[0-9a-f]+"', "", path.read_text())  # absent in older formats
    newer = text.replace('"format_version": 3', '"format_version": 4')
    older = text.replace(', "format_version": 3', "")
    for text, found in ((newer, 4), (older, 1)):
        path.write_text(text)
        with pytest.raises(InputError, match=f"rows of format {found}, .* format 3.*--output_dir"):
            ResultStore(path)


def test_code_revision_is_the_commit_or_the_version(monkeypatch):
    root = Path(__file__).resolve().parents[4]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        head = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert head.startswith(code_revision().removesuffix("+changed"))

    def no_git(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert code_revision.__wrapped__() == metadata.version("urbanln")
