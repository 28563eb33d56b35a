import asyncio
import collections
import json
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dataset_builders.errors import InUseError
from pipelines.captioning.__main__ import main
from pipelines.captioning.inputs import list_shards, read_shard
from pipelines.captioning.kit import open_kit
from pipelines.captioning.ledger import Ledger, ShardFolder
from pipelines.captioning.recipe import make_recipe
from pipelines.captioning.run import SHARDS_AT_ONCE, Worker, run, state
from pipelines.captioning.simulated import SimulatedCaptionModel
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


@pytest.fixture(scope="module")
def few(city, tmp_path_factory):
    """Table of an uninterrupted run on few images, without refinement."""
    output = tmp_path_factory.mktemp("few")
    assert run(make_recipe(recipe_values(city, output, **FEW))).finished
    return table(output)


def test_every_image_has_candidates_and_one_is_chosen(whole):
    rows = table(whole)
    assert rejects(whole) == []
    by_image = collections.defaultdict(list)
    for row in rows:
        by_image[row["image_id"]].append(row)
    assert len(by_image) == 4
    expected = [(model, index) for model in MODELS for index in range(2)]
    for several in by_image.values():
        assert [(one["model"], one["candidate"]) for one in several] == expected
        (best,) = [one for one in several if one["chosen"]]
        assert best["score"] == max(one["score"] for one in several if one["kept"])
        assert {one["stage"] for one in several if one["kept"]} == {"consensus"}
    phrases = [phrase for row in rows for phrase in json.loads(row["phrases"])]
    assert {"", "relation", "below_threshold"} <= {phrase["reason"] for phrase in phrases}
    assert all(json.loads(row["details"]) for row in rows)


def test_shards_complete_a_run_without_refinement(city, whole, tmp_path):
    recipe = make_recipe(recipe_values(city, tmp_path, refine=False))
    assert not run(recipe, shard=(0, 2)).finished
    assert run(recipe, shard=(1, 2)).finished
    rows = table(tmp_path)
    assert [row["generated"] for row in rows] == [row["generated"] for row in table(whole)]
    assert all(row["details"] == row["phrases"] == "[]" for row in rows)
    assert all(row["usage"]["requests"] == 1 for row in rows)
    assert all(row["kept"] and row["text"] == row["generated"] and row["score"] for row in rows)
    assert sum(row["chosen"] for row in rows) == 4


def test_reads_few_images_ahead(city, tmp_path, monkeypatch):
    read, done, ahead = [], [], []

    def counted(shard):
        for row in read_shard(shard):
            read.append(row)
            ahead.append(len(read) - len(done))
            yield row

    monkeypatch.setattr("pipelines.captioning.run.read_shard", counted)
    pace = {"images_per_shard": 3, "images_in_flight": 1}
    recipe = make_recipe(recipe_values(city, tmp_path, refine=False, max_images=3, run=pace))
    with open_kit(recipe) as kit:
        asyncio.run(Worker(kit, lambda: done.append(1)).run(list_shards(recipe)))
    assert len(done) == 6
    assert max(ahead) <= 1 + SHARDS_AT_ONCE  # each shard reads one image ahead


def test_recomputes_damaged_tables_and_ledgers(city, few, tmp_path):
    recipe = make_recipe(recipe_values(city, tmp_path, **FEW))
    assert run(recipe).finished
    damage(next(tmp_path.glob("shards/*/candidates.parquet")), "flip")
    assert run(recipe).finished
    assert table(tmp_path) == few
    damage(next(tmp_path.glob("shards/*/units.sqlite")), "zero")
    next(tmp_path.glob("shards/*/done.json")).unlink()
    assert run(recipe).finished
    assert table(tmp_path) == few
    assert len(list(tmp_path.glob("shards/*/*.damaged-*"))) == 2


KILL = """
import os, signal, sys
from pipelines.captioning.__main__ import main
from pipelines.captioning.ledger import Ledger
put, units = Ledger.put, []

def put_and_kill(self, unit):
    put(self, unit)
    units.append(unit)
    if len(units) == 60:
        os.kill(os.getpid(), signal.SIGKILL)

Ledger.put = put_and_kill
main(["run", sys.argv[1]])
"""


def test_resumes_after_sigkill(city, whole, tmp_path):
    values = recipe_values(city, tmp_path / "out")
    killed = run_python("-c", KILL, write_recipe(tmp_path / "recipe.yaml", values))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not state(make_recipe(values)).finished
    assert run(make_recipe(values)).finished
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


def test_reports_a_full_disk_and_resumes(city, few, tmp_path, monkeypatch, capsys):
    recipe = write_recipe(tmp_path / "r.yaml", recipe_values(city, tmp_path / "out", **FEW))
    opened = Ledger.__init__

    def open_small(self, path):
        opened(self, path)
        self._database.execute("PRAGMA max_page_count = 8")  # 32 kB

    with monkeypatch.context() as full:
        full.setattr(Ledger, "__init__", open_small)
        assert main(["run", str(recipe)]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.match(r"error: .*full.*rerun the command to resume", said)
    assert main(["run", str(recipe)]) == 0
    assert table(tmp_path / "out") == few


def units(output: Path) -> dict[str, str]:
    found = {}
    for path in output.glob("shards/*/units.sqlite"):
        with Ledger(path) as ledger:
            found |= {unit.key: f"{unit.stage} {unit.model}".strip() for unit in ledger.units()}
    return found


def test_a_changed_prompt_recomputes_only_what_depends_on_it(city, tmp_path):
    values = recipe_values(city, tmp_path, max_images=1, views=["satellite"])
    assert run(make_recipe(values)).finished
    before = units(tmp_path)
    prompts = {"describe": {"satellite": "Describe this satellite image."}}
    assert run(make_recipe(values | {"prompts": prompts})).finished
    new = collections.Counter(stage for key, stage in units(tmp_path).items() if key not in before)
    assert new["describe synthetic-amber"] == 2
    assert not {stage for stage in new if stage.split()[0] in ("segment", "local")}


UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def leaking(text, model, task):
    """Add control characters and template tokens, as servers with a wrong template do."""
    noisy = f"\u202e{text[:5]}\x00{text[5:]}\x07"
    if model == MODELS[0]:
        return f"<|im_start|>assistant\n{noisy}<|im_end|>"
    if model == MODELS[1] or task == "local":
        return f"{noisy}<|endoftext|> {text}"
    return noisy


def test_removes_template_tokens_and_control_characters(city, whole, tmp_path, monkeypatch):
    answer = SimulatedCaptionModel.complete

    async def complete(self, request):
        reply = await answer(self, request)
        return replace(reply, text=leaking(reply.text, self.name, request.task))

    monkeypatch.setattr(SimulatedCaptionModel, "complete", complete)
    names = (*MODELS, "synthetic-basalt")
    values = recipe_values(city, tmp_path, max_images=1, views=["street_view"])
    values["models"] = [{"name": name, "client": "simulated"} for name in names]
    values["generate"] = {"captions_per_model": 1}
    assert run(make_recipe(values)).finished
    bare, inner, other = rows = table(tmp_path)
    clean = next(row for row in table(whole) if row["image_id"] == bare["image_id"])
    assert "template_removed" in json.loads(bare["flags"])
    assert (bare["text"], bare["details"]) == (clean["text"], clean["details"])
    assert inner["drop_reason"] == "template_token"
    assert "<|endoftext|>" in inner["generated"]  # shows why the caption was dropped
    assert other["kept"]
    details = [(one["text"], one["reason"]) for one in json.loads(other["details"])]
    assert set(details) == {("", "template_token")}
    failed = rejects(tmp_path)
    counted = [one["model"] for one in failed if one["reason"] == "template_token"]
    assert counted.count(names[2]) == len(details)
    texts = [value for row in (*rows, *failed) for value in row.values() if isinstance(value, str)]
    texts += [one["text"] for row in rows for one in json.loads(row["details"])]
    assert not [text for text in texts if UNSEEN.search(text)]


def test_command_line_prints_results_and_errors(city, whole, tmp_path, capsys):
    recipe = write_recipe(tmp_path / "recipe.yaml", recipe_values(city, whole))
    files = {path: path.stat().st_mtime_ns for path in whole.rglob("*.parquet")}

    def call(command, *options):
        code = main([command, str(recipe), *options])
        return code, "".join(capsys.readouterr())

    assert "4 images, 0 rejects. Report:" in call("run")[1]
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.parquet")} == files
    assert "4 of 4 images done" in call("status")[1]
    _, shown = call("inspect", "--image_id", table(whole)[0]["image_id"])
    assert shown.count("[CHOSEN]") == 1
    assert "dropped:" in shown
    assert "0 rejects" in call("inspect", "--failed")[1]
    code, said = call("inspect", "--image_id", "nowhere")
    assert (code, said[:26]) == (2, "error: No image 'nowhere' ")
    with pytest.raises(SystemExit):
        call("run", "--backend", "ray", "--num_actors", "-2")
    assert "--num_actors must be at least 1, got -2" in capsys.readouterr().err
    (tmp_path / "file").write_text("notes")
    code, said = call("run", "--output_dir", str(tmp_path / "file"))
    assert code == 2
    assert str(tmp_path / "file") in said.splitlines()[-1]
