"""Sampling, losses, augmentation and the training loop."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from pipelines.evaluation.baselines.base import RegionData
from pipelines.evaluation.baselines.image_text import ImageTextSettings, train_pairs
from pipelines.evaluation.baselines.musecl import Fusion, draw_others
from pipelines.evaluation.baselines.pg_simclr import nt_xent
from pipelines.evaluation.baselines.sampling import Neighbourhood, Shuffled, most_alike
from pipelines.evaluation.baselines.tile2vec import triplet_loss
from pipelines.evaluation.baselines.training import train
from pipelines.evaluation.baselines.trunk import crop_and_flip, turn_and_flip
from pipelines.evaluation.errors import InputError


def _grid(columns: int, rows: int, cell: float) -> RegionData:
    y, x = np.divmod(np.arange(columns * rows), columns)
    xy = cell * np.stack([x, y], axis=1).astype(float)
    return RegionData("grid", [str(i) for i in range(len(xy))], xy + 17.0, xy, cell, {})


# ------------------------------------------------------------------------ sampling


@given(
    columns=st.integers(1, 9),
    rows=st.integers(2, 9),
    cell=st.floats(10, 5000),
    seed=st.integers(0, 99),
)
def test_near_regions_are_neighbours_and_far_regions_lie_beyond_the_rings(
    columns, rows, cell, seed
):
    data = _grid(columns, rows, cell)
    everyone = np.arange(columns * rows)
    rng = np.random.default_rng(seed)
    place = Neighbourhood(data, everyone)
    grid = np.stack([everyone % columns, everyone // columns], axis=1)
    rings = np.abs(grid[:, None] - grid[None]).max(axis=2)
    near, far = place.near(everyone, rng), place.far(everyone, rng)
    assert (rings[everyone, near] == 1).all()
    beyond = (rings > 3).any(axis=1)
    assert (rings[everyone, far][beyond] > 3).all()
    assert (rings[everyone, far] == rings.max(axis=1))[~beyond].all()


def test_neighbours_are_drawn_uniformly_and_need_coordinates():
    data = _grid(3, 3, 800.0)
    rng = np.random.default_rng(0)
    counts = np.bincount(Neighbourhood(data, np.arange(9)).near(np.full(8000, 4), rng), minlength=9)
    assert counts[4] == 0
    assert np.delete(counts, 4) == pytest.approx(np.full(8, 1000), abs=150)
    data.xy[5] = np.nan
    assert 5 not in Neighbourhood(data, np.arange(9)).candidates
    lone = Neighbourhood(_grid(5, 1, 1000.0), np.array([0, 3, 4]))
    assert lone.near(np.array([0]), rng).tolist() == [3]
    assert lone.far(np.array([3]), rng).tolist() == [0]


@given(
    vectors=arrays(np.float64, (9, 3), elements=st.integers(0, 4).map(float)),
    seed=st.integers(0, 9),
)
def test_most_alike_is_the_nearest_other_candidate(vectors, seed):
    candidates = np.array([0, 2, 3, 5, 6, 8])
    of = np.array([2, 8, 1])  # the last is no candidate
    found = most_alike(vectors, candidates, np.random.default_rng(seed), of=of)
    for region, other in zip(of, found, strict=True):
        distances = np.linalg.norm(vectors[region] - vectors, axis=1)
        others = candidates[candidates != region]
        assert other in others
        assert distances[other] == pytest.approx(distances[others].min())


@given(seed=st.integers(0, 50), batch=st.integers(1, 9))
def test_shuffled_takes_every_row_once_per_epoch(seed, batch):
    rows = np.array([3, 1, 4, 15, 9, 2])
    batches = Shuffled(rows, batch, np.random.default_rng(seed))
    whole = len(rows) // batches.batch_size
    drawn = np.concatenate([batches.take() for _ in range(whole)])
    assert len(set(drawn.tolist())) == len(drawn) == whole * batches.batch_size
    assert set(drawn.tolist()) <= set(rows.tolist())


@given(st.integers(0, 200))
def test_negatives_are_neither_anchor_nor_positive(seed):
    anchors, positives = np.array([0, 1, 2, 0]), np.array([1, 2, 0, 2])
    drawn = draw_others(np.arange(3), anchors, positives, np.random.default_rng(seed))
    assert drawn.tolist() == [2, 0, 1, 1]


# ------------------------------------------------------------------------ losses


def test_triplet_loss_by_hand():
    anchor = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    near = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    far = torch.tensor([[6.0, 8.0], [0.0, 24.0]])
    # distances: near 5 and 0, far 10 and sqrt(9 + 400)
    hinge = (max(0, 5 - 10 + 10) + max(0, 0 - math.sqrt(409) + 10)) / 2
    norms = (0 + 5) / 2 + (5 + 5) / 2 + (10 + 24) / 2
    loss = triplet_loss(anchor, near, far, margin=10.0, l2=0.01)
    assert loss.item() == pytest.approx(hinge + 0.01 * norms, abs=1e-4)


@given(st.integers(0, 30), st.integers(2, 5), st.sampled_from([0.1, 0.5, 1.0]))
def test_nt_xent_equals_a_loop_over_pairs(seed, batch, temperature):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, batch, 6, generator=generator, dtype=torch.float64)
    vectors = nn.functional.normalize(torch.cat([first, second]))
    total = 0.0
    for i in range(2 * batch):
        exponents = ((vectors[i] @ vectors.T) / temperature).exp()
        others = exponents.sum() - exponents[i]
        total -= math.log(exponents[(i + batch) % (2 * batch)] / others)
    assert nt_xent(first, second, temperature).item() == pytest.approx(total / (2 * batch))


def test_fusion_weighs_the_available_views():
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


# ------------------------------------------------------------------------ augmentation, training


def test_turn_and_flip_gives_the_eight_symmetries():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    turned = turn_and_flip(image.expand(400, 1, 3, 3), np.random.default_rng(0))
    turns = [torch.rot90(image[0, 0], turn) for turn in range(4)]
    expected = {tuple(way.flatten().tolist()) for one in turns for way in (one, one.flip(1))}
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


def test_train_follows_the_scheduler_and_rejects_a_diverging_loss():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 3.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    losses = train(layer, lambda step: layer.weight.square().sum(), optimizer, 4, "toy", scheduler)
    assert losses == pytest.approx([9.0, 9 * 0.8**2, 9 * 0.8**4, 9 * 0.8**4 * 0.9**2])
    assert not layer.training

    def loss(step: int) -> torch.Tensor:
        return layer.weight.sum() * (math.nan if step == 2 else 1.0)

    with pytest.raises(InputError, match="loss of toy became nan at step 2: lower learning_rate"):
        train(layer, loss, optimizer, 5, "toy")


def test_train_pairs_shuffles_all_pairs_and_clamps_the_temperature():
    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.logit_scale = nn.Parameter(torch.tensor(4.0))
            self.other = nn.Parameter(torch.tensor(4.0))

    settings = ImageTextSettings(batch_size=8, learning_rate=1.0, epochs=3)
    for sign, bound in ((-1, np.log(100)), (1, 0)):
        model, taken = Scales(), []

        def loss(rows, model=model, sign=sign, taken=taken):
            taken.append(rows.tolist())
            return sign * (model.logit_scale + model.other)

        assert len(train_pairs(model, loss, 17, settings, 0, "toy")) == 3
        assert model.logit_scale.item() == pytest.approx(bound)
        assert abs(model.other.item() - 4) > 4
        assert [len(rows) for rows in taken] == [8] * 6  # a single pair has no negatives
        assert taken[:2] != taken[2:4]
        assert len({*taken[0], *taken[1]}) == 16
