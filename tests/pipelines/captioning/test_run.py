import asyncio
import collections
import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from dataset_builders.errors import InUseError
from dataset_builders.storage import iter_images
from pipelines.captioning import worker as worker_module
from pipelines.captioning.__main__ import main
from pipelines.captioning.inputs import list_shards, read_shard
from pipelines.captioning.kit import open_kit
from pipelines.captioning.ledger import Ledger, ShardFolder
from pipelines.captioning.recipe import make_recipe
from pipelines.captioning.run import run, state
from tests.damage import damage
from tests.processes import run_python, start_python

from .runs import FEW, MODELS, recipe_values, rejects, table, write_recipe


@pytest.fixture(scope="module")
def city(city_with_truth):
    return city_with_truth


@pytest.fixture(scope="module")
def whole(city, tmp_path_factory):
    """Output folder of an uninterrupted run."""
    output = tmp_path_factory.mktemp("whole")
    assert run(make_recipe(recipe_values(city, output))).finished
    return output


def test_every_image_has_candidates_and_one_is_chosen(whole):
    rows = table(whole)
    assert rejects(whole) == []
    by_image = collections.defaultdict(list)
    for row in rows:
        by_image[row["image_id"]].append(row)
    assert len(by_image) == 6
    for several in by_image.values():
        assert [(one["model"], one["candidate"]) for one in several] == [
            (model, index) for model in MODELS for index in range(2)
        ]
        (best,) = [one for one in several if one["chosen"]]
        assert best["score"] == max(one["score"] for one in several if one["kept"])
        assert {one["stage"] for one in several if one["kept"]} == {"consensus"}
    phrases = [phrase for row in rows for phrase in json.loads(row["phrases"])]
    reasons = {phrase["reason"] for phrase in phrases}
    assert {"", "relation", "below_threshold"} <= reasons
    assert all(json.loads(row["details"]) for row in rows)


def test_without_refinement_the_consensus_uses_the_generated_captions(city, whole, tmp_path):
    assert run(make_recipe(recipe_values(city, tmp_path, refine=False))).finished
    rows = table(tmp_path)
    assert [row["generated"] for row in rows] == [row["generated"] for row in table(whole)]
    assert all(row["details"] == row["phrases"] == "[]" for row in rows)
    assert all(row["usage"]["requests"] == 1 for row in rows)
    assert [row["text"] for row in rows] != [row["text"] for row in table(whole)]
    kept = [row for row in rows if row["kept"]]
    assert all(row["text"] == row["generated"] and row["score"] > 0 for row in kept)
    assert sum(row["chosen"] for row in rows) == 6


def test_rerunning_a_finished_run_changes_nothing(city, whole):
    files = {path: path.stat().st_mtime_ns for path in whole.rglob("*.parquet")}
    assert run(make_recipe(recipe_values(city, whole))).finished
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.parquet")} == files


def test_damaged_tables_and_ledgers_are_recomputed(city, tmp_path):
    recipe = make_recipe(recipe_values(city, tmp_path, **FEW))
    assert run(recipe).finished
    before = table(tmp_path)
    for name, how in (("candidates", "flip"), ("rejects", "truncate"), ("candidates", "gone")):
        damage(next(tmp_path.glob(f"shards/*/{name}.parquet")), how)
        assert run(recipe).finished
        assert table(tmp_path) == before
    damage(next(tmp_path.glob("shards/*/units.sqlite")), "zero")
    next(tmp_path.glob("shards/*/done.json")).unlink()
    assert run(recipe).finished
    assert table(tmp_path) == before
    assert len(list(tmp_path.glob("shards/*/*.damaged-*"))) == 3


def run_until(number: int, units: int, recipe: Path):
    """Run the command in a subprocess that receives a signal after a number of units."""
    return run_python("-m", "tests.pipelines.captioning.kill_run", int(number), units, recipe)


def test_a_run_killed_by_sigkill_resumes_to_the_same_table(city, whole, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.yaml", recipe_values(city, tmp_path / "out"))
    killed = run_until(signal.SIGKILL, 60, recipe)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not state(make_recipe(recipe_values(city, tmp_path / "out"))).finished
    assert run(make_recipe(recipe_values(city, tmp_path / "out"))).finished
    assert table(tmp_path / "out") == table(whole)


HOLD = """
import sys, time
from pathlib import Path
from pipelines.captioning.ledger import Ledger
with Ledger(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_processes_cannot_work_on_the_same_shard(city, tmp_path):
    recipe = make_recipe(recipe_values(city, tmp_path / "out", **FEW))
    path = ShardFolder(tmp_path / "out", list_shards(recipe)[0]).ledger
    holder = start_python("-c", HOLD, path, output=tmp_path / "held")
    try:
        while not (tmp_path / "held.out").exists() or not (tmp_path / "held.out").read_text():
            assert holder.is_alive()
            time.sleep(0.01)
        with pytest.raises(InUseError, match=r"Another run .*--shard I/N"):
            run(recipe)
    finally:
        holder.kill()
        holder.join()
    assert run(recipe).finished


def test_shares_complete_the_run(city, tmp_path):
    recipe = make_recipe(recipe_values(city, tmp_path, refine=False, max_images=3))
    assert not run(recipe, shard=(0, 2)).finished
    assert run(recipe, shard=(1, 2)).finished
    assert [row["kept"] for row in table(tmp_path)] == [True] * 2 * 3 * 4


def units(output: Path) -> dict[str, str]:
    found = {}
    for path in output.glob("shards/*/units.sqlite"):
        with Ledger(path) as ledger:
            found |= {unit.key: f"{unit.stage} {unit.model}".strip() for unit in ledger.units()}
    return found


def test_a_changed_prompt_recomputes_only_what_depends_on_it(city, tmp_path):
    values = recipe_values(city, tmp_path, max_images=1)
    assert run(make_recipe(values)).finished
    before = units(tmp_path)
    prompts = {"describe": {"satellite": "Describe this satellite image."}}
    assert run(make_recipe(values | {"prompts": prompts})).finished
    new = collections.Counter(stage for key, stage in units(tmp_path).items() if key not in before)
    assert new["describe synthetic-amber"] == 2  # for the satellite image
    assert not {stage for stage in new if stage.split()[0] in ("segment", "local")}


def test_unusable_images_are_rejected_and_the_run_continues(tmp_path, city):
    folder = tmp_path / "photos"
    shutil.copytree(city / "truth", folder / "truth")  # for the simulated models
    row = next(iter(iter_images(city, "harborview", "street_view")))
    (folder / "whole.jpg").write_bytes(row["image"])
    (folder / "torn.jpg").write_bytes(row["image"][:2000])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"<html>no picture</html>")
    values = recipe_values(folder, tmp_path / "out", views=["street_view"], max_images=None)
    assert run(make_recipe(values)).finished
    listed = {one["image_id"]: one["reason"] for one in rejects(tmp_path / "out")}
    assert listed.pop("torn.jpg") == "truncated"
    assert listed.pop("empty.jpg") == "missing"
    assert listed.pop("text.jpg") == "unreadable"
    # the ground truth has another id for this image
    assert set(listed) == {"whole.jpg"}


def test_the_command_line_prints_results_and_errors(city, whole, tmp_path, capsys):
    recipe = write_recipe(tmp_path / "recipe.yaml", recipe_values(city, whole))

    def call(command, *options):
        main([command, str(recipe), *options])
        return capsys.readouterr().out

    assert json.loads(call("status", "--json").splitlines()[-1])["finished"] is True
    shown = call("inspect", "--image_id", table(whole)[0]["image_id"])
    assert shown.count("[CHOSEN]") == 1
    assert "dropped:" in shown
    assert "0 rejects" in call("inspect", "--failed")
    assert "6 images" in call("run", "--dry_run")
    assert main(["inspect", str(recipe), "--image_id", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: No image 'nowhere'")
    recipe.write_text(recipe.read_text().replace("synthetic: true", "sinthetic: true"))
    assert main(["run", str(recipe)]) == 2
    assert "Did you mean 'synthetic'" in capsys.readouterr().err


def test_images_read_ahead_are_bounded(city, tmp_path, monkeypatch):
    counts = {"read": 0, "done": 0, "ahead": 0}

    def count_done(rejects):
        counts["done"] += 1

    def counted(shard):
        for row in read_shard(shard):
            counts["read"] += 1
            counts["ahead"] = max(counts["ahead"], counts["read"] - counts["done"])
            yield row

    monkeypatch.setattr(worker_module, "read_shard", counted)
    pace = {"images_per_shard": 3, "images_in_flight": 1}
    recipe = make_recipe(recipe_values(city, tmp_path, refine=False, run=pace))
    with open_kit(recipe) as kit:
        asyncio.run(worker_module.Worker(kit, count_done).run(list_shards(recipe)))
    assert counts["done"] == 6
    assert counts["ahead"] <= 1 + worker_module.SHARDS_AT_ONCE  # each shard reads one image ahead
