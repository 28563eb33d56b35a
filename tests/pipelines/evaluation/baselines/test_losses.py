"""Losses against manual computation; invariants of augmentations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipelines.evaluation.baselines.musecl import Fusion
from pipelines.evaluation.baselines.pg_simclr import nt_xent
from pipelines.evaluation.baselines.tile2vec import triplet_loss
from pipelines.evaluation.baselines.training import crop_and_flip, num_steps, train, turn_and_flip
from pipelines.evaluation.errors import InputError


def test_triplet_loss_is_worked_by_hand():
    anchor = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    near = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    far = torch.tensor([[6.0, 8.0], [0.0, 24.0]])
    # distances: near 5 and 0, far 10 and sqrt(9 + 400)
    hinge = (max(0, 5 - 10 + 10) + max(0, 0 - math.sqrt(409) + 10)) / 2
    norms = (0 + 5) / 2 + (5 + 5) / 2 + (10 + 24) / 2
    loss = triplet_loss(anchor, near, far, margin=10.0, l2=0.01)
    assert loss.item() == pytest.approx(hinge + 0.01 * norms, abs=1e-4)


@given(st.integers(0, 30), st.integers(2, 5), st.sampled_from([0.1, 0.5, 1.0]))
def test_nt_xent_is_the_sum_over_all_pairs(seed, batch, temperature):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, batch, 6, generator=generator, dtype=torch.float64)
    vectors = [*first, *second]

    def similarity(i: int, j: int) -> float:
        one, other = vectors[i], vectors[j]
        return float(one @ other / (one.norm() * other.norm())) / temperature

    total = 0.0
    for i in range(2 * batch):
        partner = (i + batch) % (2 * batch)
        others = sum(math.exp(similarity(i, k)) for k in range(2 * batch) if k != i)
        total -= math.log(math.exp(similarity(i, partner)) / others)
    assert nt_xent(first, second, temperature).item() == pytest.approx(total / (2 * batch))


def test_fusion_of_one_view_is_that_view_and_of_two_lies_between():
    torch.manual_seed(0)
    fusion = Fusion(dim=3, attention_dim=4, num_targets=2)
    vectors = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 0.0, 9.0]]] * 3)
    present = torch.tensor([[True, False], [False, True], [True, True]])
    fused = fusion.fuse(vectors, present)
    torch.testing.assert_close(fused[0], vectors[0, 0])
    torch.testing.assert_close(fused[1], vectors[0, 1])
    scores = [fusion.weight(torch.tanh(fusion.inner(vectors[2, view]))).item() for view in (0, 1)]
    share = math.exp(scores[0]) / (math.exp(scores[0]) + math.exp(scores[1]))
    torch.testing.assert_close(fused[2], share * vectors[2, 0] + (1 - share) * vectors[2, 1])


def test_turn_and_flip_gives_all_eight_symmetries_and_nothing_else():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    turned = turn_and_flip(image.expand(400, 1, 3, 3), np.random.default_rng(0))
    expected = {
        tuple(way.flatten().tolist())
        for turn in range(4)
        for way in (
            torch.rot90(image[0, 0], turn),
            torch.rot90(image[0, 0], turn).flip(1),
        )
    }
    assert len(expected) == 8
    assert {tuple(one.flatten().tolist()) for one in turned} == expected


def test_crops_show_a_part_of_the_image_at_full_size():
    # brightness grows from left to right and top to bottom
    ramp = torch.linspace(0, 1, 32)
    image = torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32)])
    crops = crop_and_flip(image.expand(300, 2, 32, 32), np.random.default_rng(0))
    assert crops.shape == (300, 2, 32, 32)
    assert crops.min() >= -1e-5
    assert crops.max() <= 1 + 1e-5
    spans = (crops[:, 0, :, -1] - crops[:, 0, :, 0]).mean(dim=1)  # signed width of the crop
    heights = (crops[:, 1, -1] - crops[:, 1, 0]).mean(dim=1)
    assert (heights > 0).all()  # never upside down
    assert 0.35 < (spans < 0).float().mean() < 0.65
    areas = spans.abs() * heights
    assert areas.min() > 0.04
    assert areas.max() <= 1.01
    assert areas.mean() == pytest.approx(0.54, abs=0.07)


def test_train_takes_the_steps_and_lowers_the_rate():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 3.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    losses = train(layer, lambda step: layer.weight.square().sum(), optimizer, 4, "toy", scheduler)
    assert losses == pytest.approx([9.0, 9 * 0.8**2, 9 * 0.8**4, 9 * 0.8**4 * 0.9**2])
    assert not layer.training


def test_train_stops_when_the_loss_is_no_number():
    layer = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)

    def loss(step: int) -> torch.Tensor:
        return layer.weight.sum() * (math.nan if step == 2 else 1.0)

    with pytest.raises(InputError, match="loss of toy became nan at step 2: lower learning_rate"):
        train(layer, loss, optimizer, 5, "toy")


@pytest.mark.parametrize(
    ("regions", "epochs", "batch", "steps"), [(900, 15, 50, 270), (5, 3, 50, 3), (100, 1, 32, 3)]
)
def test_num_steps_counts_passes(regions, epochs, batch, steps):
    assert num_steps(regions, epochs, batch) == steps
