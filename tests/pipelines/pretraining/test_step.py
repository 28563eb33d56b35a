import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from modeling_urbanln import UrbanLNForPreTraining
from pipelines.pretraining.optim import adamw
from pipelines.pretraining.step import Student, accumulate_gradients, train_step

from . import two_processes


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


def test_student_keys_train_by_clips_own_loss_without_a_teacher(accelerator, tiny_config):
    tiny_config.queue_size, tiny_config.distillation_weight = 0, 0.0
    tiny_config.contrastive_keys = "student"
    batch = {**make_batch(6), "sample_ids": torch.arange(6)}
    model = make_model(tiny_config, filled_queue=False)
    model.momentum_encoder = None
    losses = accumulate_gradients(accelerator, Student(model, model), [batch], 0.0)
    assert set(losses) == {"loss", "contrastive_loss"}
    clip = make_model(tiny_config, filled_queue=False).to_base()
    clip.train()
    inputs = {name: value for name, value in batch.items() if name != "sample_ids"}
    expected = clip(**inputs, return_loss=True).loss
    expected.backward()
    assert losses["loss"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(gradients(model), gradients(clip))


def test_keys_of_both_are_clips_own_loss_where_the_queue_is_empty(accelerator, tiny_config):
    tiny_config.contrastive_keys = "both"
    batch = {**make_batch(6), "sample_ids": torch.arange(6)}
    model = make_model(tiny_config, filled_queue=False)
    clip = make_model(tiny_config, filled_queue=False).to_base()
    with torch.no_grad():
        for parameter in model.momentum_encoder.parameters():
            parameter.mul_(0.7)
    losses = accumulate_gradients(accelerator, Student(model, model), [batch], 0.0)
    clip.train()
    inputs = {name: value for name, value in batch.items() if name != "sample_ids"}
    expected = clip(**inputs, return_loss=True).loss
    expected.backward()
    assert losses["loss"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(gradients(model), gradients(clip))


def test_keys_of_both_are_the_students_batch_and_the_teachers_queue(tiny_config):
    tiny_config.contrastive_keys = "both"
    batch, model = make_batch(5), make_model(tiny_config)
    with torch.no_grad():
        for parameter in model.momentum_encoder.parameters():
            parameter.mul_(0.7)
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


@pytest.mark.parametrize("count", [2, 4])
def test_gradient_caching_gives_the_gradient_of_one_large_batch(accelerator, tiny_config, count):
    batch = make_batch(12)
    whole, cached = make_model(tiny_config), make_model(tiny_config)
    whole.train()
    output = whole(**batch)
    output.loss.backward()
    whole.enqueue(output.image_embeds_m, output.text_embeds_m, batch["sample_ids"])
    losses = accumulate_gradients(
        accelerator, Student(cached, cached), parts(batch, count), 0.5, gradient_caching=True
    )
    assert_same_gradients(gradients(cached), gradients(whole))
    assert losses["loss"].item() == pytest.approx(output.loss.item(), abs=1e-5)
    for ours, theirs in zip(cached.queue.buffers(), whole.queue.buffers(), strict=True):
        assert torch.allclose(ours.float(), theirs.float(), atol=1e-6)


def test_a_step_does_every_part_once(accelerator, tiny_config):
    model = make_model(tiny_config, filled_queue=False)
    teacher = {n: p.clone() for n, p in model.momentum_encoder.named_parameters()}
    with torch.no_grad():
        model.logit_scale.fill_(4.7)  # beyond the limit, log 100
    optimizer = accelerator.prepare(adamw(model, 1.0, 0.0))
    metrics = train_step(
        accelerator,
        Student(model, model),
        optimizer,
        parts(make_batch(8), 2),
        learning_rate=1e-3,
        distillation_weight=0.25,
        max_grad_norm=0.5,
    )
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}
    expected = 0.75 * metrics["contrastive_loss"] + 0.25 * metrics["distillation_loss"]
    assert metrics["loss"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert metrics["grad_norm"] > 0.5
    assert all(p.grad is None for p in model.parameters())
    assert len(model.queue) == 8
    assert model.logit_scale.exp() <= 100.0001
    for name, parameter in model.momentum_encoder.named_parameters():
        student = dict(model.named_parameters())[name]
        blend = 0.995 * teacher[name] + 0.005 * student
        assert torch.allclose(parameter, blend, atol=1e-6)


def test_clipping_bounds_the_gradient_and_zero_does_not_clip(accelerator, tiny_config):
    seen = {}

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            gradients = [p.grad.norm() for g in self.param_groups for p in g["params"]]
            seen["norm"] = torch.stack(gradients).norm().item()

    for limit in (0.01, 0.0):
        model = make_model(tiny_config)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = accelerator.prepare(Spy(trained, lr=0.1))
        metrics = train_step(
            accelerator,
            Student(model, model),
            optimizer,
            [make_batch(6)],
            learning_rate=0.1,
            distillation_weight=0.5,
            max_grad_norm=limit,
        )
        before = metrics["grad_norm"].item()
        assert before > 0.05
        assert seen["norm"] == pytest.approx(limit or before, rel=1e-3)


@pytest.mark.slow
def test_two_processes_take_the_step_of_one(tiny_config, tmp_path):
    make_model(tiny_config).save_pretrained(tmp_path / "model")
    batches = [make_batch(8, seed=seed) for seed in range(two_processes.NUM_BATCHES)]
    stacked = {name: torch.stack([batch[name] for batch in batches]) for name in batches[0]}
    save_file(stacked, tmp_path / "batches")
    two_processes.run_two(tmp_path, "step", tmp_path / "model", tmp_path / "batches", tmp_path)
    for caching in (False, True):
        one = two_processes.step(tmp_path / "model", tmp_path / "batches", caching)
        two = load_file(tmp_path / f"caching-{caching}.safetensors")
        assert one.keys() == two.keys()
        assert any(name.startswith("grad/text_model") for name in one)
        for name, value in one.items():
            assert torch.allclose(two[name].float(), value.float(), atol=1e-5), name
