"""Full disks and unusable output folders: one error line, exit code, and a rerun that resumes."""

import resource

import pytest

from pipelines.captioning import worker as worker_module
from pipelines.captioning.__main__ import main
from pipelines.captioning.ledger import Ledger
from pipelines.captioning.recipe import make_recipe
from pipelines.captioning.run import run

from .runs import FEW, recipe_values, table, write_recipe


@pytest.fixture(scope="module")
def undisturbed(city_with_truth, tmp_path_factory):
    """Table of a run without storage errors."""
    output = tmp_path_factory.mktemp("undisturbed")
    assert run(make_recipe(recipe_values(city_with_truth, output, **FEW))).finished
    return table(output)


@pytest.fixture
def recipe(city_with_truth, tmp_path):
    values = recipe_values(city_with_truth, tmp_path / "out", **FEW)
    return write_recipe(tmp_path / "recipe.yaml", values)


def check_full(recipe, capsys):
    assert main(["run", str(recipe)]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert "full" in said or "too large" in said
    assert said.endswith("Free some space there or give another folder, then rerun the command to "
                         "resume.")  # fmt: skip


def test_a_full_disk_is_reported_and_the_rerun_resumes(
    recipe, undisturbed, tmp_path, monkeypatch, capsys
):
    opened = Ledger.__init__

    def open_small(self, path):
        opened(self, path)
        self._database.execute("PRAGMA max_page_count = 8")  # 32 kB

    with monkeypatch.context() as small:
        small.setattr(Ledger, "__init__", open_small)
        check_full(recipe, capsys)
        assert list(tmp_path.glob("out/shards/*/units.sqlite"))
    main(["run", str(recipe)])
    assert table(tmp_path / "out") == undisturbed


def test_a_table_that_cannot_be_written_stops_the_run(
    recipe, undisturbed, tmp_path, monkeypatch, capsys
):
    write = worker_module.write_candidates

    def write_small(path, candidates):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            write(path, candidates)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with monkeypatch.context() as small:
        small.setattr(worker_module, "write_candidates", write_small)
        check_full(recipe, capsys)
        assert not list(tmp_path.glob("out/shards/*/candidates.parquet"))
    main(["run", str(recipe)])
    assert table(tmp_path / "out") == undisturbed


def test_an_output_dir_that_is_a_file_is_named(recipe, tmp_path, capsys):
    (tmp_path / "out").write_text("notes")
    assert main(["run", str(recipe)]) == 2
    assert str(tmp_path / "out") in capsys.readouterr().err.splitlines()[-1]
