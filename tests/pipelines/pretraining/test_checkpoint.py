import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from dataset_builders.files import atomic_path, locked
from pipelines.common.errors import InputError
from pipelines.pretraining import checkpoint as ckpt
from pipelines.pretraining.arguments import parse_arguments
from pipelines.pretraining.loop import pretrain


@pytest.fixture
def save(tmp_path):
    accelerator, model = Accelerator(cpu=True), torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters())

    def run(step, limit=9):
        state = ckpt.TrainingState(step, 2, 0.5, 1.0, {"seed": 0})
        ckpt.save_checkpoint(tmp_path, state, accelerator, model, optimizer, {}, limit)
        return tmp_path / f"checkpoint-{step}"

    return run


def test_finds_complete_checkpoints_and_keeps_the_latest(save, tmp_path):
    for step in (8, 9, 10):
        save(step, limit=2)
    (save(11) / ckpt.STATE_FILE).unlink()
    save(12).rename(tmp_path / ".tmp-checkpoint-12")
    found = ckpt.find_checkpoints(tmp_path)
    assert [path.name for path in found] == ["checkpoint-9", "checkpoint-10"]
    assert ckpt.load_state(found[1]).step == 10
    ckpt.remove_unfinished(tmp_path)
    assert not (tmp_path / ".tmp-checkpoint-12").exists()
    with pytest.raises(InputError, match="not a complete training checkpoint"):
        ckpt.load_state(tmp_path / "checkpoint-11")


def test_removing_a_run_keeps_other_files(save, tmp_path):
    save(2)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "logs" / "urbanln").mkdir(parents=True)
    (tmp_path / "logs" / "job.out").write_text("of the queue")
    ckpt.remove_run(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"notes.txt", "logs", "logs/job.out"}


@pytest.mark.parametrize("flags", [[], ["--overwrite_output_dir"]])
def test_rejects_output_folder_with_other_files(tiny_flags, tmp_path, flags):
    out = tmp_path / "out"
    (out / "last").mkdir(parents=True)
    for name in ("model.safetensors", "last/chapter.txt", ".tmp-mine"):
        (out / name).write_text("mine")
    with pytest.raises(InputError, match=r"is not empty and contains no run of train\.py"):
        pretrain(parse_arguments(tiny_flags(*flags)))
    for name in ("model.safetensors", "last/chapter.txt", ".tmp-mine"):
        assert (out / name).read_text() == "mine"


def test_accepts_output_folder_of_a_run_killed_at_its_start(tmp_path):
    ckpt.check_output_dir(tmp_path / "new")
    with locked(tmp_path), atomic_path(tmp_path / ckpt.ARGUMENTS_FILE) as temporary:
        temporary.touch()
        ckpt.check_output_dir(tmp_path)


def test_lists_all_differences_of_settings(tmp_path):
    saved = {"seed": 0, "learning_rate": 0.1, "views": ["satellite"]}
    ckpt.check_identity(saved, {**saved, "views": ("satellite",)}, tmp_path)
    with pytest.raises(InputError, match=r"learning_rate was 0.1 and is 0.2; seed was 0 and is 1"):
        ckpt.check_identity(saved, {**saved, "seed": 1, "learning_rate": 0.2}, tmp_path)


def test_restores_random_states_and_sums(tmp_path):
    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    ckpt.save_process_state(tmp_path, 0, {"loss": torch.tensor(2.5)})
    expected = draw()
    draw()
    sums = ckpt.load_process_state(tmp_path, 0)
    assert draw() == expected
    assert sums == {"loss": torch.tensor(2.5)}


def test_pickles_in_checkpoints_are_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    torch.save(Evil(), tmp_path / "process-0.pt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        ckpt.load_process_state(tmp_path, 0)
