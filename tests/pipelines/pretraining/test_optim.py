import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from modeling_urbanln import UrbanLNForPreTraining
from pipelines.pretraining.optim import (
    adamw,
    learning_rate_at,
    parameter_groups,
)


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    return UrbanLNForPreTraining(tiny_config)


def test_biases_norms_positions_class_embedding_and_temperature_do_not_decay(model):
    decayed, others = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {id(p): n for n, p in model.named_parameters()}
    exempt = {names[id(p)] for p in others["params"]}
    for name, parameter in model.named_parameters():
        if name.startswith("momentum_encoder."):
            continue
        special = ("bias", "norm", "layrnorm", "position_embedding", "class_emb", "logit_scale")
        assert (name in exempt) == any(part in name for part in special), name
        assert name in exempt or parameter.ndim >= 2


def test_steps_leave_the_preserved_positions_as_they_were(model):
    table = model.text_model.embeddings.position_embedding.weight
    before = table.detach().clone()
    optimizer = adamw(model, 1e-2, weight_decay=0.5)
    for _ in range(3):
        input_ids = torch.randint(0, 400, (4, 40))
        input_ids[:, -1] = 49407
        batch = {"input_ids": input_ids, "pixel_values": torch.randn(4, 3, 30, 30)}
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(table[:20], before[:20])
    assert ((table[20:40] - before[20:40]).abs().amax(dim=1) > 1e-3).all()
    assert torch.equal(table[40:], before[40:])  # no text was that long


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)],
)
def test_schedules_after_the_warmup_are_those_of_transformers(schedule, reference):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    scheduler = reference(optimizer, num_warmup_steps=7, num_training_steps=50)
    for step in range(50):
        got = learning_rate_at(step, peak=0.3, max_steps=50, warmup_steps=7, schedule=schedule)
        if step >= 7:
            assert got == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_the_warmup_rises_evenly_from_above_zero_to_the_peak():
    rates = [learning_rate_at(s, peak=1.0, max_steps=100, warmup_steps=4) for s in range(6)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] < 1.0
    constant = learning_rate_at(99, peak=1.0, max_steps=100, schedule="constant")
    assert constant == 1.0
    with pytest.raises(ValueError, match="got 'stairs'"):
        learning_rate_at(0, peak=1.0, max_steps=1, schedule="stairs")
