import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from modeling_urbanln.losses import (
    momentum_distillation_losses,
    positive_targets,
)


def unit(rows: int, seed: int, width: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator), dim=1)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def equations_3_to_6(v, t, v_m, t_m, v_keys, t_keys, ids, key_ids, offset, tau, mu):
    """The paper's equations as loops; targets are uniform over the positives of equal id."""
    contrastive, distillation = 0.0, 0.0
    for i in range(len(v)):
        for query, teacher, keys in ((v[i], v_m[i], t_keys), (t[i], t_m[i], v_keys)):
            p = softmax(keys @ query / tau)  # (3)
            q = softmax(keys @ teacher / tau)
            positives = {offset + i} | {
                k for k in range(len(keys)) if ids[i] >= 0 and key_ids[k] == ids[i]
            }
            contrastive += -sum(np.log(p[k]) for k in positives) / len(positives)
            distillation += float(np.sum(q * (np.log(q) - np.log(p))))
    contrastive /= 2 * len(v)  # (4)
    distillation /= 2 * len(v)  # (5)
    return contrastive, distillation, (1 - mu) * contrastive + mu * distillation  # (6)


@given(
    batch=st.integers(1, 6),
    others=st.integers(0, 4),
    queue=st.integers(0, 9),
    mu=st.floats(0, 1),
    tau=st.floats(0.02, 1),
    data=st.data(),
)
def test_losses_equal_the_equations(batch, others, queue, mu, tau, data):
    ids = data.draw(st.lists(st.integers(-1, 3), min_size=batch, max_size=batch))
    rest = data.draw(st.lists(st.integers(-1, 3), min_size=others + queue, max_size=others + queue))
    offset = data.draw(st.integers(0, others))
    v, t, v_m, t_m = (unit(batch, seed) for seed in range(4))
    others_v, others_t = unit(others + queue, 5), unit(others + queue, 6)
    v_keys = torch.cat([others_v[:offset], v_m, others_v[offset:]])
    t_keys = torch.cat([others_t[:offset], t_m, others_t[offset:]])
    key_ids = rest[:offset] + ids + rest[offset:]
    targets = positive_targets(len(key_ids), offset, torch.tensor(ids), torch.tensor(key_ids))
    losses = momentum_distillation_losses(
        v, t, v_m, t_m, v_keys, t_keys, targets, torch.tensor(1 / tau)
    )
    arrays = (x.double().numpy() for x in (v, t, v_m, t_m, v_keys, t_keys))
    contrastive, distillation, loss = equations_3_to_6(*arrays, ids, key_ids, offset, tau, mu)
    np.testing.assert_allclose(losses["contrastive_loss"], contrastive, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(losses["distillation_loss"], distillation, rtol=1e-4, atol=1e-4)
    combined = (1 - mu) * losses["contrastive_loss"] + mu * losses["distillation_loss"]
    np.testing.assert_allclose(combined, loss, rtol=1e-4, atol=1e-4)


def test_gradient_is_that_of_the_mixed_target_cross_entropy():
    mu, batch, queue = 0.4, 5, 7
    v, t = unit(batch, 0).requires_grad_(), unit(batch, 1).requires_grad_()
    v_m, t_m = unit(batch, 2), unit(batch, 3)
    v_keys, t_keys = torch.cat([v_m, unit(queue, 4)]), torch.cat([t_m, unit(queue, 5)])
    ids, queue_ids = torch.tensor([0, 1, 1, 2, 3]), torch.tensor([2, 9, 8, 2, -1, 7, 0])
    targets = positive_targets(batch + queue, 0, ids, torch.cat([ids, queue_ids]))
    scale = torch.tensor(12.0, requires_grad=True)
    losses = momentum_distillation_losses(v, t, v_m, t_m, v_keys, t_keys, targets, scale)
    loss = (1 - mu) * losses["contrastive_loss"] + mu * losses["distillation_loss"]
    got = torch.autograd.grad(loss, (v, t, scale))

    def mixed(query, teacher, keys):
        q = (scale.detach() * teacher @ keys.T).softmax(dim=1)
        return F.cross_entropy(scale * query @ keys.T, (1 - mu) * targets + mu * q)

    expected = torch.autograd.grad(
        (mixed(v, v_m, t_keys) + mixed(t, t_m, v_keys)) / 2, (v, t, scale)
    )
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_targets_are_uniform_over_equal_known_ids():
    targets = positive_targets(6, 1, torch.tensor([7, -1]), torch.tensor([7, 7, -1, -1, 7, 3]))
    third = 1 / 3
    expected = torch.tensor([[third, third, 0, 0, third, 0], [0, 0, 1, 0, 0, 0]])
    torch.testing.assert_close(targets, expected)
