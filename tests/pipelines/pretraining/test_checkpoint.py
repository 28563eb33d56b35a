import json
import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from dataset_builders.files import atomic_path, locked
from pipelines.common.errors import InputError
from pipelines.pretraining import checkpoint as ckpt
from pipelines.pretraining.arguments import parse_arguments
from pipelines.pretraining.log import RunLog
from pipelines.pretraining.loop import pretrain

STATE = ckpt.TrainingState(step=4, best_step=2, best_metric=0.5, seconds=1.0, identity={"seed": 0})


def make_checkpoint(output_dir, step, complete=True):
    folder = ckpt.checkpoint_folder(output_dir, step)
    folder.mkdir()
    (folder / "optimizer.pt").write_bytes(b"x")
    if complete:
        ckpt.save_state(folder, STATE)
    return folder


def test_only_whole_checkpoints_are_found_latest_last(tmp_path):
    make_checkpoint(tmp_path, 9)
    make_checkpoint(tmp_path, 10)
    make_checkpoint(tmp_path, 11, complete=False)
    (tmp_path / ".tmp-checkpoint-12").mkdir()
    ckpt.save_state(tmp_path / ".tmp-checkpoint-12", STATE)
    assert [path.name for path in ckpt.find_checkpoints(tmp_path)] == [
        "checkpoint-9",
        "checkpoint-10",
    ]
    ckpt.remove_unfinished(tmp_path)
    assert not (tmp_path / ".tmp-checkpoint-12").exists()
    with pytest.raises(InputError, match="not a complete training checkpoint"):
        ckpt.load_state(tmp_path / "checkpoint-11")


def test_removing_a_run_leaves_the_files_of_others(tmp_path):
    make_checkpoint(tmp_path, 2)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "logs" / "urbanln").mkdir(parents=True)
    (tmp_path / "logs" / "job.out").write_text("of the queue")
    ckpt.remove_run(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"notes.txt", "logs", "logs/job.out"}


@pytest.mark.parametrize("flags", [[], ["--overwrite_output_dir"]])
def test_a_folder_of_something_else_is_no_place_for_a_run(tiny_flags, tmp_path, flags):
    out = tmp_path / "out"
    (out / "last").mkdir(parents=True)
    for name in ("model.safetensors", "last/chapter.txt", ".tmp-mine"):
        (out / name).write_text("mine")
    with pytest.raises(InputError, match=r"is not empty and contains no run of train\.py"):
        pretrain(parse_arguments(tiny_flags(*flags)))
    for name in ("model.safetensors", "last/chapter.txt", ".tmp-mine"):
        assert (out / name).read_text() == "mine"


def test_what_a_kill_left_before_the_arguments_were_written_is_no_obstacle(tmp_path):
    ckpt.check_output_dir(tmp_path / "new")
    with locked(tmp_path), atomic_path(tmp_path / ckpt.ARGUMENTS_FILE) as temporary:
        temporary.touch()
        ckpt.check_output_dir(tmp_path)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "last"

    def write(text, fail):
        with ckpt.folder_written_atomically(target) as folder:
            (folder / "weights").write_text(text)
            assert not target.exists() or (target / "weights").read_text() == "old"
            if fail:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write("old", fail=True)
    assert not target.exists()
    write("old", fail=False)
    write("new", fail=False)
    assert (target / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_run_of_other_settings_is_refused_with_every_difference(tmp_path):
    saved = {"seed": 0, "learning_rate": 0.1, "views": ["satellite"]}
    ckpt.check_identity(saved, {**saved, "views": ("satellite",)}, tmp_path)
    with pytest.raises(InputError, match=r"learning_rate was 0.1 and is 0.2; seed was 0 and is 1"):
        ckpt.check_identity(saved, {**saved, "seed": 1, "learning_rate": 0.2}, tmp_path)


def test_random_states_come_back(tmp_path):
    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    ckpt.save_process_state(tmp_path, 0, {"loss": torch.tensor(2.5)})
    expected = draw()
    draw()
    sums = ckpt.load_process_state(tmp_path, 0)
    assert draw() == expected
    assert sums == {"loss": torch.tensor(2.5)}


def test_the_log_drops_later_rows_and_an_unfinished_line(tmp_path):
    log = RunLog(Accelerator(cpu=True), tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        log.record({"step": step, "loss": 0.1 * step})
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    log.keep_until(2)
    assert [row["step"] for row in log.rows()] == [1, 2]
    log.record({"step": 3})
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 2, 3]
    log.keep_until(-1)
    assert log.rows() == []


def test_checkpoints_are_read_without_pickle(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    torch.save(Evil(), tmp_path / "process-0.pt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        ckpt.load_process_state(tmp_path, 0)
