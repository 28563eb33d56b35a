import pytest
import torch
from accelerate import Accelerator
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from modeling_urbanln import UrbanLNForPreTraining
from pipelines.pretraining.step import (
    Student,
    accumulate_gradients,
    adamw,
    distillation_weight_at,
    learning_rate_at,
    train_step,
)


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def make_model(config, filled_queue=True):
    torch.manual_seed(0)
    model = UrbanLNForPreTraining(config)
    with torch.no_grad():  # teacher differs from the student
        for parameter in model.momentum_encoder.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        model.logit_scale.fill_(3.0)
    if filled_queue:
        keys = torch.nn.functional.normalize(torch.randn(2, 10, config.projection_dim), dim=-1)
        model.enqueue(*keys, torch.arange(10))
    return model


def make_batch(size, length=30, seed=1):
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(0, 400, (size, length), generator=generator)
    input_ids[:, -1] = 49407
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values": torch.randn(size, 3, 30, 30, generator=generator),
        "sample_ids": torch.randint(-1, 14, (size,), generator=generator),
    }


def parts(batch, count):
    chunks = {name: value.chunk(count) for name, value in batch.items()}
    return [{name: chunks[name][i] for name in batch} for i in range(count)]


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(got[name], value, atol=1e-5, rtol=1e-4), name


@pytest.mark.parametrize("keys", ["student", "both"])
def test_student_keys_without_queue_give_clips_loss(accelerator, tiny_config, keys):
    tiny_config.contrastive_keys = keys
    if keys == "student":
        tiny_config.queue_size, tiny_config.distillation_weight = 0, 0.0
    batch = {**make_batch(6), "sample_ids": torch.arange(6)}
    model = make_model(tiny_config, filled_queue=False)
    if keys == "student":
        model.momentum_encoder = None
    losses = accumulate_gradients(accelerator, Student(model, model), [batch], 0.0)
    assert ("distillation_loss" in losses) == (keys == "both")
    clip = make_model(tiny_config, filled_queue=False).to_base()
    clip.train()
    inputs = {name: value for name, value in batch.items() if name != "sample_ids"}
    expected = clip(**inputs, return_loss=True).loss
    expected.backward()
    assert losses["loss"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(gradients(model), gradients(clip))


def test_both_keys_are_the_students_batch_and_the_teachers_queue(tiny_config):
    tiny_config.contrastive_keys = "both"
    batch, model = make_batch(5), make_model(tiny_config)
    output = model(**batch)
    image, text, scale = output.image_embeds, output.text_embeds, model.logit_scale.exp()
    queue, ids = model.queue.keys(), batch["sample_ids"]
    key_ids = torch.cat([ids, queue.ids])
    hard = (ids[:, None] == key_ids) & (ids[:, None] >= 0)
    hard |= torch.eye(5, len(key_ids), dtype=torch.bool)
    hard = hard / hard.sum(dim=1, keepdim=True)
    contrastive = distillation = 0.0
    for query, own, other, teacher, teacher_own in (
        (image, text, queue.text, output.image_embeds_m, output.text_embeds_m),
        (text, image, queue.image, output.text_embeds_m, output.image_embeds_m),
    ):
        log_p = (scale * query @ torch.cat([own, other]).T).log_softmax(dim=1)
        q = (scale * teacher @ torch.cat([teacher_own, other]).T).softmax(dim=1)
        contrastive -= (hard * log_p).sum(dim=1).mean() / 2
        distillation += (q * (q.log() - log_p)).sum(dim=1).mean() / 2
    assert output.contrastive_loss.item() == pytest.approx(contrastive.item(), abs=1e-4)
    assert output.distillation_loss.item() == pytest.approx(distillation.item(), abs=1e-4)


def test_gradient_caching_gives_the_gradient_of_one_large_batch(accelerator, tiny_config):
    batch = make_batch(12)
    whole, cached = make_model(tiny_config), make_model(tiny_config)
    whole.train()
    output = whole(**batch)
    output.loss.backward()
    whole.enqueue(output.image_embeds_m, output.text_embeds_m, batch["sample_ids"])
    losses = accumulate_gradients(
        accelerator, Student(cached, cached), parts(batch, 3), 0.5, gradient_caching=True
    )
    assert_same_gradients(gradients(cached), gradients(whole))
    assert losses["loss"].item() == pytest.approx(output.loss.item(), abs=1e-5)
    for ours, theirs in zip(cached.queue.buffers(), whole.queue.buffers(), strict=True):
        assert torch.allclose(ours.float(), theirs.float(), atol=1e-6)


@pytest.mark.parametrize("max_grad_norm", [0.01, 0.0])
def test_step_clips_updates_and_moves_the_teacher(
    accelerator, tiny_config, max_grad_norm, monkeypatch
):
    model = make_model(tiny_config, filled_queue=False)
    teacher = {n: p.clone() for n, p in model.momentum_encoder.named_parameters()}
    with torch.no_grad():
        model.logit_scale.fill_(4.7)  # beyond the limit, log 100
    optimizer, norms = adamw(model, 1.0, 0.0), []

    def record_norm(optimizer, *_):
        grads = [p.grad.norm() for g in optimizer.param_groups for p in g["params"]]
        norms.append(torch.stack(grads).norm().item())

    optimizer.register_step_pre_hook(record_norm)
    optimizer = accelerator.prepare(optimizer)
    metrics = train_step(
        accelerator,
        Student(model, model),
        optimizer,
        parts(make_batch(8), 2),
        learning_rate=1e-3,
        distillation_weight=0.25,
        max_grad_norm=max_grad_norm,
    )
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}
    expected = 0.75 * metrics["contrastive_loss"] + 0.25 * metrics["distillation_loss"]
    assert metrics["loss"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert metrics["grad_norm"] > 0.5  # before clipping
    assert norms == [pytest.approx(max_grad_norm or metrics["grad_norm"].item(), rel=1e-3)]
    assert all(p.grad is None for p in model.parameters())
    assert len(model.queue) == 8
    assert model.logit_scale.exp() <= 100.0001
    student = dict(model.named_parameters())
    for name, parameter in model.momentum_encoder.named_parameters():
        assert torch.allclose(parameter, 0.995 * teacher[name] + 0.005 * student[name], atol=1e-6)


def test_weight_decay_exempts_biases_norms_positions_class_embedding_and_temperature(tiny_config):
    model = UrbanLNForPreTraining(tiny_config)
    decayed, others = adamw(model, 1e-3, 0.1).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {id(p): n for n, p in model.named_parameters()}
    exempt = {names[id(p)] for p in others["params"]}
    assert len(exempt) + len(decayed["params"]) == sum(p.requires_grad for p in model.parameters())
    for parameter in (*decayed["params"], *others["params"]):
        name = names[id(parameter)]
        special = ("bias", "norm", "layrnorm", "position_embedding", "class_emb", "logit_scale")
        assert (name in exempt) == any(part in name for part in special), name


def test_preserved_positions_are_not_trained(tiny_config):
    model = UrbanLNForPreTraining(tiny_config)
    table = model.text_model.embeddings.position_embedding.weight
    before = table.detach().clone()
    optimizer = adamw(model, 1e-2, weight_decay=0.5)
    for seed in range(2):
        batch = make_batch(4, length=40, seed=seed)
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
def test_schedules_after_the_warmup_equal_transformers(schedule, reference):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = reference(optimizer, num_warmup_steps=7, num_training_steps=50)
    for step in range(50):
        got = learning_rate_at(step, peak=0.3, max_steps=50, warmup_steps=7, schedule=schedule)
        if step >= 7:
            assert got == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_warmups_are_linear():
    rates = [learning_rate_at(s, peak=1.0, max_steps=100, warmup_steps=4) for s in range(6)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] < 1.0
    weights = [distillation_weight_at(s, weight=0.5, warmup_steps=2) for s in range(4)]
    assert weights == pytest.approx([0.0, 0.25, 0.5, 0.5])
