import asyncio
import collections
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dataset_builders.storage import count_rows, iter_images, read_rejects, read_table
from dataset_builders.synthetic import build_dataset
from pipelines.captioning.export import export_dataset
from pipelines.captioning.ledger import Ledger
from pipelines.captioning.phrases import REASONS
from pipelines.captioning.recipe import make_recipe
from pipelines.captioning.report_run import report_run
from pipelines.captioning.run import run, state
from tests.processes import ROOT, run_python

from .runs import MODELS, recipe_values, rejects, table, write_recipe


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioned_city")
    build_dataset(folder, grid_size=3, street_views=1, with_masks=True, num_workers=1)
    return folder


@pytest.fixture(scope="module")
def whole(city, tmp_path_factory):
    """A run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole")
    assert run(make_recipe(recipe_values(city, output))).finished
    return output


def test_every_image_has_its_candidates_and_one_of_them_is_chosen(whole):
    rows = table(whole)
    assert rejects(whole) == []
    by_image = collections.defaultdict(list)
    for row in rows:
        by_image[row["image_id"]].append(row)
    assert len(by_image) == 12
    for several in by_image.values():
        assert [(one["model"], one["candidate"]) for one in several] == [
            (model, index) for model in MODELS for index in range(2)
        ]
        (best,) = [one for one in several if one["chosen"]]
        assert best["score"] == max(one["score"] for one in several if one["kept"])
        assert {one["stage"] for one in several if one["kept"]} == {"consensus"}
    phrases = [phrase for row in rows for phrase in json.loads(row["phrases"])]
    reasons = {phrase["reason"] for phrase in phrases}
    assert {"", "relation", "below_threshold"} <= reasons <= {"", *REASONS}
    assert all(json.loads(row["details"]) for row in rows)


def test_without_refinement_the_consensus_is_that_of_the_captions_as_first_written(
    city, whole, tmp_path
):
    assert run(make_recipe(recipe_values(city, tmp_path, refine=False))).finished
    rows = table(tmp_path)
    assert [row["generated"] for row in rows] == [row["generated"] for row in table(whole)]
    assert all(row["details"] == row["phrases"] == "[]" for row in rows)
    assert all(row["usage"]["requests"] == 1 for row in rows)
    assert [row["text"] for row in rows] != [row["text"] for row in table(whole)]
    kept = [row for row in rows if row["kept"]]
    assert all(row["text"] == row["generated"] and row["score"] > 0 for row in kept)
    assert sum(row["chosen"] for row in rows) == 12


def test_the_same_run_again_asks_nobody_and_changes_nothing(city, whole):
    files = {path: path.stat().st_mtime_ns for path in whole.rglob("*.parquet")}
    assert run(make_recipe(recipe_values(city, whole))).finished
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.parquet")} == files


def run_until(number: int, units: int, recipe: Path):
    """The command in a process of its own, which gets a signal after so many units."""
    return run_python("-m", "tests.pipelines.captioning.kill_run", int(number), units, recipe)


@pytest.mark.parametrize("units", [1, 120])
def test_sigkill_and_resume_end_with_the_same_table(city, whole, tmp_path, units):
    recipe = write_recipe(tmp_path / "recipe.yaml", recipe_values(city, tmp_path / "out"))
    killed = run_until(signal.SIGKILL, units, recipe)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not state(make_recipe(recipe_values(city, tmp_path / "out"))).finished
    assert run(make_recipe(recipe_values(city, tmp_path / "out"))).finished
    assert table(tmp_path / "out") == table(whole)


def test_sigterm_gives_the_shards_back(city, whole, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.yaml", recipe_values(city, tmp_path / "out"))
    stopped = run_until(signal.SIGTERM, 30, recipe)
    assert stopped.returncode > 0
    assert "Traceback" not in stopped.stderr
    assert not list((tmp_path / "out").glob("shards/*/lease"))
    assert not state(make_recipe(recipe_values(city, tmp_path / "out"))).finished


def test_several_processes_make_the_same_table(city, whole, tmp_path):
    assert run(make_recipe(recipe_values(city, tmp_path)), num_workers=2).finished
    assert table(tmp_path) == table(whole)


def test_shares_without_a_look_aside_make_the_same_table(city, whole, tmp_path):
    recipe = make_recipe(recipe_values(city, tmp_path))
    assert not run(recipe, shard=(0, 2)).finished
    assert run(recipe, shard=(1, 2)).finished
    assert table(tmp_path) == table(whole)


def test_one_model_at_a_time_makes_the_same_table(city, whole, tmp_path, monkeypatch):
    from pipelines.captioning.simulated import SimulatedCaptionModel

    monkeypatch.setattr(SimulatedCaptionModel, "in_process", True, raising=False)
    recipe = make_recipe(recipe_values(city, tmp_path))
    assert list(run(recipe).done) == [
        *(f"describe-{model}" for model in MODELS),
        "filter",
        *(f"merge-{model}" for model in MODELS),
        "consensus",
    ]
    assert table(tmp_path) == table(whole)


@pytest.mark.slow
def test_a_ray_cluster_makes_the_same_table(city, whole, tmp_path):
    pytest.importorskip("ray", reason="Ray is in the extra `ray`")
    recipe = write_recipe(tmp_path / "recipe.yaml", recipe_values(city, tmp_path / "out"))
    command = [sys.executable, "-m", "pipelines.captioning", "run", str(recipe)]
    done = subprocess.run(
        [*command, "--backend", "ray", "--num_workers", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert table(tmp_path / "out") == table(whole)


def units(output: Path) -> dict[str, str]:
    found = {}
    for path in output.glob("shards/*/units.sqlite"):
        with Ledger(path) as ledger:
            found |= {unit.key: f"{unit.stage} {unit.model}".strip() for unit in ledger.units()}
    return found


def test_a_changed_prompt_redoes_what_depends_on_it_and_nothing_else(city, tmp_path):
    values = recipe_values(city, tmp_path, max_images=2)
    assert run(make_recipe(values)).finished
    before = units(tmp_path)
    prompts = {"describe": {"satellite": "Describe this satellite image."}}
    assert run(make_recipe(values | {"prompts": prompts})).finished
    new = collections.Counter(stage for key, stage in units(tmp_path).items() if key not in before)
    assert new["describe synthetic-amber"] == 2 * 2  # two captions of two satellite images
    assert not {stage for stage in new if stage.split()[0] in ("image", "segment", "local")}
    assert run(make_recipe(values)).finished
    assert (
        not set(units(tmp_path))
        - set(before)
        - {key for key, stage in units(tmp_path).items() if key not in before}
    )


def test_images_that_cannot_be_used_are_listed_and_the_run_goes_on(tmp_path, city):
    folder = tmp_path / "photos"
    folder.mkdir()
    row = next(iter(iter_images(city, "harborview", "street_view")))
    (folder / "whole.jpg").write_bytes(row["image"])
    (folder / "torn.jpg").write_bytes(row["image"][:2000])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"<html>no picture</html>")
    values = recipe_values(folder, tmp_path / "out", views=["street_view"], max_images=None)
    truth = {"dataset_name": str(city)}
    values["models"] = [model | truth for model in values["models"]]
    values["filter"] = {"detector": {"name": "simulated", "options": truth}}
    assert run(make_recipe(values)).finished
    listed = {one["image_id"]: one["reason"] for one in rejects(tmp_path / "out")}
    assert listed.pop("torn.jpg") == "truncated"
    assert listed.pop("empty.jpg") == "missing"
    assert listed.pop("text.jpg") == "unreadable"
    # the models know the city's images by their ids, and this one has another
    assert set(listed) == {"whole.jpg"}


def test_the_report_and_the_export_hold_what_was_found(city, whole, tmp_path):
    recipe = make_recipe(recipe_values(city, whole))
    report = report_run(recipe)
    text = report.read_text()
    assert "synthetic" in text
    assert all(model in text for model in MODELS)
    gallery = (report.parent / "gallery.html").read_text()
    assert "data:image/jpeg;base64" in gallery
    root = export_dataset(recipe, tmp_path / "exported")
    captions = read_table(root, "harborview", "captions")
    assert len(captions) == len(table(whole))
    best = captions[captions["chosen"]].set_index("image_id")
    for view in ("street_view", "satellite"):
        images = read_table(root, "harborview", view)
        assert len(images) == count_rows(city, "harborview", view)
        for image in images.itertuples():
            if image.image_id in best.index:
                assert image.caption == best.loc[image.image_id, "text"]
                assert image.caption_score == best.loc[image.image_id, "score"]
    assert len(read_rejects(root)) == 0
    assert "synthetic" in (root / "README.md").read_text()
    assert export_dataset(recipe, tmp_path / "exported") == root  # an export goes on, too


def test_the_command_line_tells_and_refuses(city, whole, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.yaml", recipe_values(city, whole))

    def call(*arguments):
        command, *options = arguments
        return run_python("-m", "pipelines.captioning", command, recipe, *options)

    status = call("status", "--json")
    assert json.loads(status.stdout.splitlines()[-1])["finished"] is True
    image_id = table(whole)[0]["image_id"]
    shown = call("inspect", "--image_id", image_id).stdout
    assert shown.count("[CHOSEN]") == 1
    assert "dropped:" in shown
    assert "0 rejects" in call("inspect", "--failed").stdout
    dry = call("run", "--dry_run").stdout
    assert "12 images" in dry
    unknown = call("inspect", "--image_id", "nowhere")
    assert unknown.returncode != 0
    assert "No image 'nowhere'" in unknown.stderr
    recipe.write_text(recipe.read_text().replace("synthetic: true", "sinthetic: true"))
    wrong = call("run")
    assert "Did you mean 'synthetic'?" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_memory_of_a_run_is_bounded_by_what_is_in_flight(city):
    from pipelines.captioning import worker

    # the reader waits for a free place: it is never more than one image ahead
    seen = {"read": 0, "done": 0, "ahead": 0}

    async def main():
        gate = asyncio.Semaphore(3)

        async def one():
            await asyncio.sleep(0.001)
            seen["done"] += 1
            gate.release()

        tasks = []
        async for _ in worker._read_ahead(iter(range(100))):
            await gate.acquire()
            seen["read"] += 1
            seen["ahead"] = max(seen["ahead"], seen["read"] - seen["done"])
            tasks.append(asyncio.create_task(one()))
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert seen["ahead"] <= 4
