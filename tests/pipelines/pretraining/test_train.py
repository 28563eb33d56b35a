"""train.py end to end: outputs, resuming, several processes."""

import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

import train
from dataset_builders.errors import InUseError
from modeling_urbanln import UrbanLNModel, UrbanLNSiglipModel
from pipelines.common.errors import InputError
from pipelines.pretraining.arguments import parse_arguments
from pipelines.pretraining.checkpoint import STATE_FILE, find_damage, load_state
from pipelines.pretraining.loop import Pretrainer, pretrain
from pipelines.pretraining.process import only_run
from tests.damage import altered, damage
from tests.processes import run_python

from .conftest import image_rows, write_dataset
from .two_processes import run_two

ROOT = Path(__file__).resolve().parents[3]
TIMES = ("images_per_second",)
SUMMARY = "training_summary.json"


def run(flags):
    return pretrain(parse_arguments(flags))


def rows(output_dir):
    lines = (output_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


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


def interrupt(*_):
    raise KeyboardInterrupt


def run_until_step(step, flags):
    """Stop a run in this process after a step, as SIGTERM does, and return its summary."""
    trainer = Pretrainer(parse_arguments(flags))
    due = trainer._due

    def due_or_stop(every):
        trainer.stop_signal = trainer.state.step >= step
        return due(every)

    trainer._due = due_or_stop
    return trainer.run()


def run_until(number, step, flags):
    """Run train.py in a subprocess that receives a signal after a step."""
    return run_python("-m", "tests.pipelines.pretraining.kill_train", int(number), step, *flags)


@pytest.fixture(scope="module")
def long_flags(tiny_flags_factory):
    """Flags of a run to interrupt: 2 steps per epoch, a checkpoint every 5 steps."""
    return lambda output_dir: tiny_flags_factory(
        output_dir=output_dir, more=["--num_train_epochs", "20", "--checkpointing_steps", "5"]
    )


@pytest.fixture(scope="module")
def uninterrupted(long_flags, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("uninterrupted")
    run(long_flags(output_dir))
    return output_dir


def test_a_killed_run_goes_on_to_the_same_end(long_flags, uninterrupted, tmp_path):
    killed = run_until(signal.SIGKILL, 8, long_flags(tmp_path))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-5"]
    # an incomplete checkpoint
    half = tmp_path / ".tmp-checkpoint-35"
    half.mkdir(exist_ok=True)
    (half / "training_model.safetensors").write_bytes(b"half")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 39, "lo')

    summary = run(long_flags(tmp_path))
    assert summary["completed"]
    assert not half.exists()
    assert_same_run(tmp_path, uninterrupted, "checkpoint-40")


def test_a_run_killed_before_its_first_step_is_begun_again(tiny_flags, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Pretrainer, "_write_inputs", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tiny_flags("--max_train_steps", "1"))
    assert run(tiny_flags("--max_train_steps", "1"))["completed"]


def test_sigterm_saves_and_stops_and_the_same_command_goes_on(long_flags, uninterrupted, tmp_path):
    stopped = run_until(signal.SIGTERM, 6, long_flags(tmp_path))
    assert stopped.returncode == 0, stopped.stderr
    assert "Stopped by SIGTERM" in stopped.stderr
    summary = json.loads((tmp_path / "training_summary.json").read_text())
    assert not summary["completed"]
    assert summary["steps"] == 6
    assert (tmp_path / "checkpoint-6" / "trainer_state.json").exists()
    assert (tmp_path / "last" / "model.safetensors").exists()
    run(long_flags(tmp_path))
    assert_same_run(tmp_path, uninterrupted, "checkpoint-40")


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_the_same(long_flags, uninterrupted, tmp_path):
    for step in (3, 7, 11, 12, 18, 26, 33):
        killed = run_until(signal.SIGKILL, step, long_flags(tmp_path))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    run(long_flags(tmp_path))
    assert_same_run(tmp_path, uninterrupted, "checkpoint-40")


def test_an_altered_state_is_told(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted / "checkpoint-40", tmp_path / "checkpoint-40")
    path = tmp_path / "checkpoint-40" / STATE_FILE
    whole = load_state(path.parent)
    for content in altered(path.read_bytes(), only=b"0123456789estx_"):
        path.write_bytes(content)
        damaged = find_damage(path.parent)
        assert damaged.startswith(STATE_FILE) or (not damaged and load_state(path.parent) == whole)


def test_altered_metrics_are_restored_from_the_checkpoint(long_flags, uninterrupted, tmp_path):
    output_dir = tmp_path / "out"
    shutil.copytree(uninterrupted, output_dir)
    path = output_dir / "metrics.jsonl"
    before = path.read_bytes()
    damage(path, "flip")
    assert path.read_bytes() != before
    run(long_flags(output_dir))
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["training_model.safetensors", STATE_FILE])
def test_a_damaged_checkpoint_is_set_aside_and_an_older_one_resumed(
    long_flags, uninterrupted, tmp_path, name
):
    output_dir = tmp_path / "out"
    shutil.copytree(uninterrupted, output_dir)
    damaged = output_dir / "checkpoint-40" / name
    content = bytearray(damaged.read_bytes())
    if name == STATE_FILE:
        del content[len(content) // 2 :]
    else:
        content[-512:] = bytes(512)
    damaged.write_bytes(content)
    assert run(long_flags(output_dir))["completed"]
    assert (output_dir / "damaged-checkpoint-40").is_dir()
    assert_same_run(output_dir, uninterrupted, "checkpoint-40")


def test_damaged_files_of_a_finished_run_are_mended_or_told(tiny_flags, tmp_path):
    out, flags = tmp_path / "out", ["--checkpointing_steps", "2", "--save_total_limit", "9"]
    best = run(tiny_flags(*flags))["best_step"]
    before = {path: path.read_bytes() for path in out.glob("*.*") if path.name != SUMMARY}
    damage(out / "model.safetensors", "flip")
    damage(out / "losses.py", "gone")
    damage(out / "metrics.jsonl", "empty")
    run(tiny_flags(*flags))
    assert {path: path.read_bytes() for path in before} == before
    shutil.rmtree(out / f"checkpoint-{best}")
    run(tiny_flags(*flags))
    damage(out / "model.safetensors", "flip")
    assert best < 8
    with pytest.raises(InputError, match=r"model.safetensors of the best model .* is damaged"):
        run(tiny_flags(*flags))


def test_a_finished_run_is_not_done_again(tiny_flags, tmp_path):
    first = run(tiny_flags())
    before = (tmp_path / "out" / "metrics.jsonl").read_text()
    again = run(tiny_flags())
    assert again == first
    assert (tmp_path / "out" / "metrics.jsonl").read_text() == before
    run(tiny_flags("--overwrite_output_dir", "--max_train_steps", "2"))
    assert [row["step"] for row in rows(tmp_path / "out")] == [0, 1, 2, 2]


def test_what_is_published_loads_by_the_auto_classes(tiny_flags, tmp_path):
    summary = run(tiny_flags())
    out = tmp_path / "out"
    for folder in (out, out / "last"):
        model = AutoModel.from_pretrained(folder)
        processor = AutoProcessor.from_pretrained(folder)
        assert isinstance(model, UrbanLNModel)
        inputs = processor(text=["a park", "a wide road " * 200], return_tensors="pt")
        assert inputs["input_ids"].shape == (2, 248)
        assert model(**inputs).text_embeds.shape == (2, 16)
        weights = load_file(folder / "model.safetensors")
        assert not any(name.startswith(("momentum_encoder", "queue")) for name in weights)
        assert (folder / "modeling_urbanln.py").exists()
    last = load_file(out / "checkpoint-8" / "training_model.safetensors")
    published = load_file(out / "last" / "model.safetensors")
    assert all(torch.equal(last[name], value) for name, value in published.items())

    metrics = rows(out)
    evaluated = {row["step"]: row["mean_recall"] for row in metrics if "mean_recall" in row}
    assert sorted(evaluated) == [0, 2, 4, 6, 8]
    del evaluated[0]
    assert summary["best_mean_recall"] == max(evaluated.values())
    assert evaluated[summary["best_step"]] == summary["best_mean_recall"]
    steps = [row for row in metrics if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 9))
    assert {"contrastive_loss", "distillation_loss", "target_entropy", "grad_norm"} <= set(steps[0])
    assert {"logit_scale", "learning_rate", "epoch"} <= set(steps[0])
    listing = pd.read_parquet(out / "pairs.parquet")
    assert listing["split"].value_counts().to_dict() == {"train": 38, "validation": 10}
    assert len(pd.read_parquet(out / "rejects.parquet")) == 0


def test_training_learns_to_retrieve_what_it_has_seen(tiny_flags, tmp_path):
    """Overfit eight pairs."""
    dataset = write_dataset(tmp_path / "data", image_rows(8))
    flags = ["--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1"]
    flags += ["--validation_split_percentage", "0", "--max_train_steps", "60"]
    run(tiny_flags(*flags, "--queue_size", "0", "--learning_rate", "3e-3", dataset=dataset))
    losses = [row["contrastive_loss"] for row in rows(tmp_path / "out") if "loss" in row]
    assert losses[0] > math.log(8)
    assert losses[-1] < 0.6


@pytest.mark.parametrize(
    "more",
    [
        ["--gradient_caching", "--shuffle_sentences", "--dataloader_num_workers", "2"],
        [
            "--caption_sampling",
            "score",
            "--shuffle_sentences",
            "--short_caption_probability",
            "0.5",
        ],
        ["--lora_rank", "2", "--mixed_precision", "bf16", "--gradient_checkpointing"],
        ["--train_last_k_blocks", "1", "--positives", "region", "--split_column", "split_block"],
        ["--contrastive_keys", "both", "--distillation_warmup_steps", "3"],
        ["--mixed_precision", "fp16", "--logging_steps", "3"],
    ],
    ids=["caching", "candidates", "lora-bf16", "last-block", "no-validation", "fp16"],
)
def test_options_run_and_resume_exactly(candidates_dir, tiny_flags, tmp_path, more):
    def flags(name):
        return tiny_flags(
            *more, "--max_train_steps", "8", dataset=candidates_dir, output_dir=tmp_path / name
        )

    run(flags("whole"))
    stopped = run_until_step(5, flags("parts"))
    assert not stopped["completed"]
    assert stopped["steps"] == 5
    assert run(flags("parts"))["completed"]
    assert_same_run(tmp_path / "parts", tmp_path / "whole", "checkpoint-8")
    AutoModel.from_pretrained(tmp_path / "parts")


@pytest.mark.parametrize(
    "more", [["--gradient_caching"], ["--lora_rank", "2"]], ids=["caching", "lora"]
)
def test_a_siglip_checkpoint_trains_and_resumes_exactly(
    tiny_siglip_dir, tiny_flags, tmp_path, more
):
    start = ["--model_name_or_path", str(tiny_siglip_dir), "--config_overrides", "{}"]

    def flags(name):
        return tiny_flags(*start, *more, "--max_train_steps", "6", output_dir=tmp_path / name)

    run(flags("whole"))
    assert not run_until_step(4, flags("parts"))["completed"]
    assert run(flags("parts"))["completed"]
    assert_same_run(tmp_path / "parts", tmp_path / "whole", "checkpoint-6")
    published = AutoModel.from_pretrained(tmp_path / "parts")
    assert isinstance(published, UrbanLNSiglipModel)
    inputs = AutoProcessor.from_pretrained(tmp_path / "parts")(text="the road " * 50)
    assert len(inputs["input_ids"]) == 196
    start = ["--model_name_or_path", str(tmp_path / "parts"), "--config_overrides", "{}"]
    assert run(flags("further"))["completed"]


@pytest.mark.slow
def test_compiled_towers_take_the_same_steps(tiny_flags, tmp_path):
    run(tiny_flags("--max_train_steps", "2", output_dir=tmp_path / "plain"))
    flags = ["--max_train_steps", "2", "--torch_compile"]
    run(tiny_flags(*flags, output_dir=tmp_path / "compiled"))
    plain, compiled = (load_file(tmp_path / n / "model.safetensors") for n in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    assert all(torch.allclose(plain[k], compiled[k], atol=2e-3) for k in plain)


@pytest.mark.parametrize("kind", ["clip", pytest.param("siglip", marks=pytest.mark.slow)])
def test_two_processes_train_as_one(kind, tiny_siglip_dir, tiny_flags, tmp_path):
    """Equal global batches: 2 x 4 pairs in two processes, 8 in one."""
    start = ["--model_name_or_path", str(tiny_siglip_dir), "--config_overrides", "{}"]
    start = start if kind == "siglip" else []
    run(tiny_flags(*start, output_dir=tmp_path / "one"))
    flags = tiny_flags(*start, "--per_device_train_batch_size", "4", output_dir=tmp_path / "two")
    run_two(tmp_path, "train", *flags)
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two)
    for ours, theirs in zip(two, one, strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-4), name
    states = (
        load_file(tmp_path / name / "checkpoint-8" / "training_model.safetensors")
        for name in ("one", "two")
    )
    theirs, ours = states
    assert torch.equal(ours["queue.id_queue"], theirs["queue.id_queue"])
    assert torch.allclose(ours["queue.text_queue"], theirs["queue.text_queue"], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [["accelerate", "launch", "--cpu"], ["torchrun", "--standalone", "--nproc_per_node", "2"]],
)
def test_the_launchers_run_it(tiny_flags, tmp_path, launcher):
    name, *options = launcher
    command = [Path(sys.executable).with_name(name), *options, "train.py"]
    flags = tiny_flags("--max_train_steps", "2", "--per_device_train_batch_size", "4")
    subprocess.run([*command, *flags], check=True, cwd=ROOT, capture_output=True)
    assert (tmp_path / "out" / "last" / "model.safetensors").exists()


def test_a_run_of_other_settings_or_data_is_refused(tiny_flags, tmp_path):
    dataset = write_dataset(tmp_path / "data", image_rows(48))
    run(tiny_flags("--max_train_steps", "2", dataset=dataset))
    with pytest.raises(InputError, match=r"another run: learning_rate was 0.001 and is 0.01"):
        run(tiny_flags("--max_train_steps", "2", "--learning_rate", "0.01", dataset=dataset))
    write_dataset(dataset, image_rows(48, seed=7))
    with pytest.raises(InputError, match="another run: pairs was"):
        run(tiny_flags("--max_train_steps", "2", dataset=dataset))
    with pytest.raises(InputError, match="not a complete training checkpoint"):
        run(tiny_flags("--resume_from_checkpoint", str(tmp_path)))


def test_a_loss_that_is_no_number_stops_the_run(tiny_flags, capsys):
    flags = ["--learning_rate", "1e30", "--max_grad_norm", "0", "--lr_scheduler_type", "constant"]
    assert train.main(tiny_flags(*flags)) == 1
    assert "train.py: error: The loss is nan at step" in capsys.readouterr().err


def test_the_recipe_left_behind_repeats_the_run(tiny_flags, tmp_path):
    run(tiny_flags("--max_train_steps", "2"))
    recipe = str(tmp_path / "out" / "train_arguments.yaml")
    run(["--config", recipe, "--output_dir", str(tmp_path / "again")])
    assert_same_run(tmp_path / "again", tmp_path / "out", "checkpoint-2")


def test_trackers_get_the_metrics_and_unknown_ones_are_refused(tiny_flags, tmp_path):
    run(tiny_flags("--max_train_steps", "2", "--report_to", "tensorboard"))
    assert list((tmp_path / "out" / "logs").rglob("events.out.tfevents.*"))
    with pytest.raises(InputError, match=r"--report_to nosuchtracker is not"):
        run(tiny_flags("--report_to", "nosuchtracker"))


def test_the_command_line_says_what_is_wrong_in_one_line(tiny_flags, capsys):
    assert train.main(["--learning_rat", "1"]) == 2
    assert train.main(tiny_flags("--per_device_train_batch_size", "40")) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("train.py: error: ")]
    assert len(errors) == 2
    assert "Did you mean 'learning_rate'?" in errors[0]
    assert "A step needs 80 pairs" in errors[1]
    assert "there are only 38" in errors[1]


def test_a_second_run_in_the_same_folder_is_refused(tiny_flags, tmp_path):
    with (
        only_run(tmp_path / "out"),
        pytest.raises(InUseError, match=r"Another run writes to .*out \(host"),
    ):
        run(tiny_flags())
    run(tiny_flags("--max_train_steps", "2"))
