"""Operation counts of the plan, compared with real tensors and with closed formulas."""

import json

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from benchmarks import plan
from pipelines.pretraining.arguments import parse_arguments

WIDTH, MLP, LAYERS, SIDE, PATCH, DIM = 32, 64, 2, 32, 16, 16
PAIRS, TOKENS, QUEUE = 8, 40, 64
TOWER = {
    "hidden_size": WIDTH,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
}
SHAPE = {
    "text_config": TOWER,
    "vision_config": {**TOWER, "image_size": SIDE, "patch_size": PATCH},
    "projection_dim": DIM,
}
FLAGS = [
    *("--dataset_name", "-", "--output_dir", "-", "--config_overrides", json.dumps(SHAPE)),
    *("--queue_size", str(QUEUE), "--per_device_train_batch_size", str(PAIRS)),
]
PATCHES = (SIDE // PATCH) ** 2
PATCHING = 2 * PATCHES * 3 * PATCH**2 * WIDTH


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """The accelerate state is shared within a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def tower(tokens):
    """Operations of a tower's parts per sample: linear layers, attention, last linear layers."""
    linear = 2 * tokens * LAYERS * (4 * WIDTH**2 + 2 * WIDTH * MLP)
    return linear, LAYERS * 4 * tokens**2 * WIDTH, LAYERS * 2 * tokens * WIDTH * MLP


def step_by_hand():
    """Operations of the student's passes, the teacher's forward pass and the loss, per pair."""
    total = 3 * PATCHING  # the pixels need no gradient
    for tokens in (PATCHES + 1, TOKENS):
        linear, attention, last = tower(tokens)
        total += 4 * linear + 4 * 2 * WIDTH * DIM
        total += (2 + 5 / 2) * attention  # the backward kernel recomputes the scores
        total += linear + attention - last  # recomputes a layer except for its last product
    keys = PAIRS + QUEUE
    return total + 2 * PAIRS * DIM + 2 * 3 * 2 * keys * DIM


def test_counts_equal_a_real_step_and_the_formula():
    args = parse_arguments([*FLAGS, "--gradient_checkpointing", "true"])
    counts = plan.count(args, TOKENS)
    assert counts.image == PATCHING + sum(tower(PATCHES + 1)[:2]) + 2 * WIDTH * DIM
    assert counts.caption == sum(tower(TOKENS)[:2]) + 2 * WIDTH * DIM
    assert counts.step == step_by_hand()
    model = plan.make_model(args)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    flops, [memory] = plan.count_step(accelerator, model, plan.make_batch(model, PAIRS, TOKENS))
    assert counts.step * PAIRS == flops
    assert counts.memory == pytest.approx(memory, rel=0.01)


def test_plan_of_a_gpu(monkeypatch, capsys):
    counts = plan.Counts(image=1e9, caption=1e9, step=1e12, memory=3.6e9, memory_per_pair=1e8)
    monkeypatch.setattr(plan, "count", lambda *_: counts)
    asked = ["--images", "5200", "--gpu", "t4", "--utilisation", "0.5"]
    assert plan.main(asked) == 0
    *_, row = capsys.readouterr().out.splitlines()
    # 20 epochs of 20 steps of 256 pairs at half of 65 TFLOP/s; 256 pairs more than 3.6 of 14.4 GB
    assert row.split()[:5] == ["t4", "65.0", "16", "360", "0.88"]
    for refused in (["--mixed_precision", "no"], ["--per_device_train_batch_size", "6000"]):
        assert plan.main([*asked, *refused]) == 2
