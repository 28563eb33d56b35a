"""train.py end to end: outputs, resuming, several processes."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

import train
from dataset_builders.errors import InUseError
from dataset_builders.files import locked
from modeling_urbanln import UrbanLNModel
from pipelines.common.errors import InputError
from pipelines.pretraining.arguments import parse_arguments
from pipelines.pretraining.checkpoint import STATE_FILE, find_damage, load_state
from pipelines.pretraining.loop import Pretrainer, pretrain
from tests.damage import altered, damage
from tests.processes import run_python, start_python

from .conftest import image_rows, write_dataset

ROOT = Path(__file__).resolve().parents[3]
KILLED_AT_STEP_5 = """
import os, signal, sys, train
from pipelines.pretraining.loop import Pretrainer
due = Pretrainer._due
def due_or_kill(self, every):
    if self.state.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return due(self, every)
Pretrainer._due = due_or_kill
sys.exit(train.main(sys.argv[1:]))
"""


def run(flags):
    return pretrain(parse_arguments(flags))


def rows(output_dir):
    found = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    for row in found:
        row.pop("images_per_second", None)
    return found


def assert_same_run(got: Path, expected: Path, checkpoint: str):
    """Equal weights, teacher, queues, optimizer, published models and metrics."""
    for name in (
        "model.safetensors",
        "last/model.safetensors",
        f"{checkpoint}/training_model.safetensors",
    ):
        ours, theirs = load_file(got / name), load_file(expected / name)
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert torch.equal(ours[key], theirs[key]), f"{name}: {key}"
    ours, theirs = (
        torch.load(folder / checkpoint / "optimizer.pt", weights_only=True)["state"]
        for folder in (got, expected)
    )
    for index in theirs:
        for key, value in theirs[index].items():
            assert torch.equal(ours[index][key], value)
    assert rows(got) == rows(expected)
    summaries = [json.loads((d / "training_summary.json").read_text()) for d in (got, expected)]
    for summary in summaries:
        del summary["seconds"]
    assert summaries[0] == summaries[1]


@pytest.fixture(scope="module")
def flags(tiny_flags_factory):
    """Flags of a run of 6 steps, with 2 steps per epoch and a checkpoint every 2 steps."""
    more = ["--num_train_epochs", "3", "--checkpointing_steps", "2", "--save_total_limit", "9"]
    return lambda output_dir, *other: tiny_flags_factory(output_dir, more=[*more, *other])


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory):
    """Output folder of a complete run; not to be changed."""
    output_dir = tmp_path_factory.mktemp("finished")
    run(flags(output_dir, "--report_to", "tensorboard"))
    return output_dir


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "out"))


def test_resumes_after_sigkill(flags, finished, tmp_path):
    killed = run_python("-c", KILLED_AT_STEP_5, *flags(tmp_path))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
    ]
    unfinished = tmp_path / ".tmp-checkpoint-6"
    unfinished.mkdir()
    (unfinished / "training_model.safetensors").write_bytes(b"half")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')

    assert run(flags(tmp_path))["completed"]
    assert not unfinished.exists()
    assert_same_run(tmp_path, finished, "checkpoint-6")


def test_saves_on_sigterm_and_resumes(flags, finished, tmp_path, monkeypatch, capsys):
    due = Pretrainer._due

    def due_or_terminate(self, every):
        if self.state.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return due(self, every)

    with monkeypatch.context() as patch:
        patch.setattr(Pretrainer, "_due", due_or_terminate)
        assert train.main(flags(tmp_path)) == 0
    assert "Stopped by SIGTERM" in capsys.readouterr().err
    summary = json.loads((tmp_path / "training_summary.json").read_text())
    assert (summary["completed"], summary["steps"]) == (False, 3)
    assert (tmp_path / "last" / "model.safetensors").exists()
    run(flags(tmp_path))
    assert (tmp_path / "checkpoint-3" / STATE_FILE).exists()
    assert_same_run(tmp_path, finished, "checkpoint-6")


def test_finished_run_is_not_repeated_unless_overwritten(flags, finished, copy):
    summary = json.loads((finished / "training_summary.json").read_text())
    with ThreadPoolExecutor(1) as pool:  # also outside the main thread
        assert pool.submit(run, flags(copy)).result() == summary
    assert (copy / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    run(flags(copy, "--overwrite_output_dir", "--max_train_steps", "1"))
    assert [row["step"] for row in rows(copy)] == [0, 1, 1]
    assert not (copy / "checkpoint-6").exists()


def test_published_models_and_records(flags, finished):
    for folder in (finished, finished / "last"):
        model = AutoModel.from_pretrained(folder)
        processor = AutoProcessor.from_pretrained(folder)
        assert isinstance(model, UrbanLNModel)
        inputs = processor(text=["a park", "a wide road " * 200], return_tensors="pt")
        assert inputs["input_ids"].shape == (2, 248)
        assert model(**inputs).text_embeds.shape == (2, 16)
        weights = load_file(folder / "model.safetensors")
        assert not any(name.startswith(("momentum_encoder", "queue")) for name in weights)
        assert (folder / "modeling_urbanln.py").exists()
    last = load_file(finished / "checkpoint-6" / "training_model.safetensors")
    assert all(torch.equal(last[name], value) for name, value in weights.items())

    metrics, summary = rows(finished), json.loads((finished / "training_summary.json").read_text())
    evaluated = {row["step"]: row["mean_recall"] for row in metrics if "mean_recall" in row}
    assert sorted(evaluated) == [0, 2, 4, 6]
    del evaluated[0]
    assert summary["best_mean_recall"] == max(evaluated.values())
    assert evaluated[summary["best_step"]] == summary["best_mean_recall"]
    steps = [row for row in metrics if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 7))
    assert {"contrastive_loss", "distillation_loss", "target_entropy", "grad_norm"} <= set(steps[0])
    assert {"logit_scale", "learning_rate", "epoch"} <= set(steps[0])
    listing = pd.read_parquet(finished / "pairs.parquet")
    assert listing["split"].value_counts().to_dict() == {"train": 38, "validation": 10}
    assert len(pd.read_parquet(finished / "rejects.parquet")) == 0
    assert list((finished / "logs").rglob("events.out.tfevents.*"))

    recipe = ["--config", str(finished / "train_arguments.yaml")]
    again = parse_arguments(recipe).to_dict()
    given = parse_arguments(flags(finished, "--report_to", "tensorboard")).to_dict()
    assert {**again, "config": None} == given


def test_restores_damaged_files(flags, finished, copy):
    for name in ("metrics.jsonl", "model.safetensors", "losses.py"):
        damage(copy / name, "flip")
    run(flags(copy))
    for path in finished.glob("*.*"):
        same = (copy / path.name).read_bytes() == path.read_bytes()
        assert same or path.name in ("train_arguments.yaml", "training_summary.json"), path.name

    damage(copy / "checkpoint-4" / "training_model.safetensors", "zero")
    damage(copy / "checkpoint-6" / STATE_FILE, "truncate")
    run(flags(copy))
    assert (copy / "damaged-checkpoint-4").is_dir()
    assert (copy / "damaged-checkpoint-6").is_dir()
    assert_same_run(copy, finished, "checkpoint-6")


def test_damaged_best_model_without_its_checkpoint_is_an_error(flags, finished, copy):
    best = json.loads((finished / "training_summary.json").read_text())["best_step"]
    assert best < 6
    shutil.rmtree(copy / f"checkpoint-{best}")
    damage(copy / "model.safetensors", "flip")
    with pytest.raises(InputError, match=r"model.safetensors of the best model .* is damaged"):
        run(flags(copy))


def test_detects_any_altered_byte_of_the_state(finished, tmp_path):
    shutil.copytree(finished / "checkpoint-6", tmp_path / "checkpoint-6")
    path = tmp_path / "checkpoint-6" / STATE_FILE
    whole = load_state(path.parent)
    for content in altered(path.read_bytes(), only=b"0123456789estx_"):
        path.write_bytes(content)
        damaged = find_damage(path.parent)
        assert damaged.startswith(STATE_FILE) or (not damaged and load_state(path.parent) == whole)


def test_rejects_other_settings_data_and_concurrent_runs(
    flags, tiny_flags_factory, finished, tmp_path, capsys
):
    other = write_dataset(tmp_path / "data", image_rows(48, seed=7))
    for more, message in (
        (["--learning_rate", "0.01"], "another run: learning_rate was 0.001 and is 0.01"),
        (["--dataset_name", str(other)], "another run: pairs was"),
        (["--resume_from_checkpoint", str(tmp_path)], "not a complete training checkpoint"),
        (["--report_to", "nosuchtracker"], "--report_to nosuchtracker is not"),
    ):
        with pytest.raises(InputError, match=message):
            run(flags(finished, *more))
    with locked(tmp_path / "out"), pytest.raises(InUseError, match=r"writes to .*out \(host"):
        run(flags(tmp_path / "out"))

    capsys.readouterr()
    assert train.main(["--learning_rat", "1"]) == 2
    assert train.main(flags(tmp_path / "out", "--per_device_train_batch_size", "40")) == 2
    lines = capsys.readouterr().err.splitlines()
    first, second = [line for line in lines if line.startswith("train.py: error: ")]
    assert "Did you mean 'learning_rate'?" in first
    assert "A step needs 80 pairs" in second
    assert "there are only 38" in second


def test_stops_if_the_loss_is_not_finite(flags, tmp_path, capsys):
    more = ["--learning_rate", "1e30", "--max_grad_norm", "0", "--lr_scheduler_type", "constant"]
    assert train.main(flags(tmp_path / "out", *more)) == 1
    assert "train.py: error: The loss is nan at step" in capsys.readouterr().err


def test_overfits_eight_pairs(tiny_flags, tmp_path):
    dataset = write_dataset(tmp_path / "data", image_rows(8))
    more = ["--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1"]
    more += ["--validation_split_percentage", "0", "--max_train_steps", "60"]
    more += ["--checkpointing_steps", "60"]
    run(tiny_flags(*more, "--queue_size", "0", "--learning_rate", "3e-3", dataset=dataset))
    losses = [row["contrastive_loss"] for row in rows(tmp_path / "out") if "loss" in row]
    assert losses[0] > math.log(8)
    assert losses[-1] < 0.6


OPTIONS = {
    "caching, candidates, last block, fp16": [
        *("--gradient_caching", "--mixed_precision", "fp16", "--train_last_k_blocks", "1"),
        *("--caption_sampling", "score", "--shuffle_sentences", "--dataloader_num_workers", "2"),
        *("--short_caption_probability", "0.5"),
    ],
    "lora, both keys, bf16": [
        *("--lora_rank", "2", "--mixed_precision", "bf16", "--gradient_checkpointing"),
        *("--contrastive_keys", "both", "--distillation_warmup_steps", "4"),
        *("--positives", "region", "--split_column", "split_block"),
    ],
    "siglip, lora, caching": ["siglip", "--lora_rank", "2", "--gradient_caching"],
}


@pytest.mark.parametrize("more", OPTIONS.values(), ids=OPTIONS)
def test_options_resume_exactly(candidates_dir, tiny_siglip_dir, tiny_flags, tmp_path, more):
    """Resume in the second epoch, with losses not logged yet."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    if more[0] == "siglip":
        start = ["--model_name_or_path", str(tiny_siglip_dir), "--config_overrides", "{}"]
        more = [*start, *more[1:]]
    more = [*more, "--max_train_steps", "5", "--logging_steps", "2"]
    run(tiny_flags(*more, dataset=candidates_dir, output_dir=whole))
    shutil.copytree(whole, resumed)
    for folder in ("last", "checkpoint-5"):
        shutil.rmtree(resumed / folder)
    run(tiny_flags(*more, dataset=candidates_dir, output_dir=resumed))
    assert (resumed / "checkpoint-3").is_dir()
    assert_same_run(resumed, whole, "checkpoint-5")
    AutoModel.from_pretrained(resumed)


@pytest.mark.slow
def test_compiled_towers_take_the_same_steps(tiny_flags, tmp_path):
    run(tiny_flags("--max_train_steps", "2", output_dir=tmp_path / "plain"))
    more = ["--max_train_steps", "2", "--torch_compile"]
    run(tiny_flags(*more, output_dir=tmp_path / "compiled"))
    plain, compiled = (load_file(tmp_path / n / "model.safetensors") for n in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    assert all(torch.allclose(plain[k], compiled[k], atol=2e-3) for k in plain)


@pytest.mark.parametrize(
    "kind", ["clip", *(pytest.param(k, marks=pytest.mark.slow) for k in ("caching", "siglip"))]
)
def test_two_processes_equal_one(kind, tiny_siglip_dir, tiny_flags, tmp_path):
    """Equal global batches: 2 x 4 pairs in two processes, 8 in one."""
    more = ["--max_train_steps", "3", "--learning_rate", "0.1", "--weight_decay", "0"]
    more += ["--adam_epsilon", "1"]  # makes updates about proportional to the gradients
    more += ["--gradient_caching"] if kind == "caching" else []
    if kind == "siglip":
        more += ["--model_name_or_path", str(tiny_siglip_dir), "--config_overrides", "{}"]
    run(tiny_flags(*more, output_dir=tmp_path / "one"))
    more += ["--per_device_train_batch_size", "4"]
    module = ("-m", "tests.pipelines.pretraining.two_processes", tmp_path / "meeting")
    flags = tiny_flags(*more, output_dir=tmp_path / "two")
    processes = [
        start_python(*module, rank, *flags, output=tmp_path / f"rank-{rank}") for rank in range(2)
    ]
    try:
        for rank, process in enumerate(processes):
            process.join()
            assert process.exitcode == 0, (tmp_path / f"rank-{rank}.err").read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()

    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two)
    for ours, theirs in zip(two, one, strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name
    theirs, ours = (
        load_file(tmp_path / name / "checkpoint-3" / "training_model.safetensors")
        for name in ("one", "two")
    )
    for name, value in theirs.items():  # student, teacher and queues
        assert torch.allclose(ours[name].float(), value.float(), atol=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [["accelerate", "launch", "--cpu"], ["torchrun", "--standalone", "--nproc_per_node", "2"]],
)
def test_launchers(tiny_flags, tmp_path, launcher):
    name, *options = launcher
    command = [Path(sys.executable).with_name(name), *options, "train.py"]
    more = ["--max_train_steps", "2", "--per_device_train_batch_size", "4"]
    subprocess.run([*command, *tiny_flags(*more)], check=True, cwd=ROOT, capture_output=True)
    assert (tmp_path / "out" / "last" / "model.safetensors").exists()
