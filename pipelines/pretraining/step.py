"""Optimizer step: AdamW, schedules, accumulated gradients, teacher and queue."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from modeling_urbanln import MomentumKeys, UrbanLNForPreTraining

Batch = dict[str, torch.Tensor]
LOSS_NAMES = ("loss", "contrastive_loss", "distillation_loss", "target_entropy")
NO_DECAY_NAMES = ("position_embedding", "class_embedding", "probe", "logit_scale")


@dataclass(frozen=True)
class Student:
    """The trained model.

    Attributes:
        wrapped: Model returned by `accelerator.prepare`, whose forward synchronises gradients.
        model: Unwrapped model.
    """

    wrapped: nn.Module
    model: UrbanLNForPreTraining


def adamw(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, fused where supported.

    Biases, norms, the temperature, position embeddings and pooling tokens (CLIP's class embedding,
    SigLIP's probe) have no weight decay. Decay would also change the frozen position rows.
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim < 2 or any(part in name for part in NO_DECAY_NAMES)
            (others if exempt else decayed).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((decayed, weight_decay), (others, 0.0))
        if parameters
    ]
    fused = next(model.parameters()).device.type in ("cpu", "cuda", "xpu")
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=epsilon, fused=fused)


def learning_rate_at(
    step: int, *, peak: float, max_steps: int, warmup_steps: int = 0, schedule: str = "cosine"
) -> float:
    """Learning rate at a step.

    Args:
        step: Step, from 0.
        peak: Maximum learning rate.
        max_steps: Number of steps of the run, at which the rate would reach 0.
        warmup_steps: Number of steps of the linear warm-up.
        schedule: "cosine", "linear" or "constant".
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    factors = {
        "cosine": 0.5 * (1 + math.cos(math.pi * min(1.0, progress))),
        "linear": max(0.0, 1 - progress),
        "constant": 1.0,
    }
    return peak * factors[schedule]


def distillation_weight_at(step: int, *, weight: float, warmup_steps: int = 0) -> float:
    """Weight mu at a step (from 0), which rises linearly from 0 over `warmup_steps`."""
    return weight if step >= warmup_steps else weight * step / warmup_steps


def train_step(
    accelerator: Accelerator,
    student: Student,
    optimizer: Any,
    batches: Sequence[Batch],
    *,
    learning_rate: float,
    distillation_weight: float,
    max_grad_norm: float = 1.0,
    gradient_caching: bool = False,
) -> dict[str, torch.Tensor]:
    """Gradients, clipping, update, temperature clamp and teacher update.

    Args:
        accelerator: See [`accumulate_gradients`].
        student: See [`accumulate_gradients`].
        optimizer: Optimizer returned by `accelerator.prepare`.
        batches: See [`accumulate_gradients`].
        learning_rate: Learning rate of this step.
        distillation_weight: Weight mu of this step.
        max_grad_norm: Maximum gradient norm; 0 disables clipping.
        gradient_caching: See [`accumulate_gradients`].

    Returns:
        Result of [`accumulate_gradients`] and `grad_norm` before clipping, on the device.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    metrics = accumulate_gradients(
        accelerator, student, batches, distillation_weight, gradient_caching
    )
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    grad_norm = accelerator.clip_grad_norm_(trained, max_grad_norm or float("inf"))
    assert grad_norm is not None
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if not optimizer.step_was_skipped:  # float16 overflow
        student.model.clamp_logit_scale_()
        if student.model.config.contrastive_keys != "student":
            student.model.update_momentum_encoder()
    return {**metrics, "grad_norm": grad_norm.detach().float()}


def accumulate_gradients(
    accelerator: Accelerator,
    student: Student,
    batches: Sequence[Batch],
    distillation_weight: float,
    gradient_caching: bool = False,
) -> dict[str, torch.Tensor]:
    """Accumulate the gradients of the mean loss of several batches, and enqueue the teacher's keys.

    Args:
        accelerator: Accelerator.
        student: Model whose gradients are accumulated.
        batches: Batches of this process, on its device; equally many in every process.
        distillation_weight: Weight mu.
        gradient_caching: Whether each batch uses the keys of all batches, so that the gradient
            equals that of one large batch.

    Returns:
        Means over the batches of this process, on its device: `loss`, `contrastive_loss` and, with
        a teacher, `distillation_loss` and `target_entropy`.
    """
    keys: MomentumKeys | None = None
    offsets: list[int | None] = [None] * len(batches)
    if gradient_caching:
        keys, offsets = _joint_keys(accelerator, student.model, batches)
    sums: dict[str, torch.Tensor] = {}
    for index, batch in enumerate(batches):
        last = index == len(batches) - 1
        with nullcontext() if last else accelerator.no_sync(student.wrapped):
            output = student.wrapped(
                **batch,
                momentum_keys=keys,
                key_offset=offsets[index],
                distillation_weight=distillation_weight,
            )
            losses = {name: output[name] for name in LOSS_NAMES if name in output}
            accelerator.backward(losses["loss"] / len(batches))
        if keys is None and output.image_embeds_m is not None:
            student.model.enqueue(output.image_embeds_m, output.text_embeds_m, batch["sample_ids"])
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0) + loss.detach().float() / len(batches)
    if keys is not None:
        student.model.queue.enqueue(keys)  # gathered already
    return sums


def _joint_keys(
    accelerator: Accelerator, model: UrbanLNForPreTraining, batches: Sequence[Batch]
) -> tuple[MomentumKeys, list[int | None]]:
    """Teacher keys of all batches and processes, and the offset of this process per batch."""
    parts: list[MomentumKeys] = []
    offsets: list[int | None] = []
    total = 0
    for batch in batches:
        with accelerator.autocast():
            part = model.encode_momentum_keys(**batch)
        offsets.append(total + accelerator.process_index * batch["sample_ids"].shape[0])
        total += part.ids.shape[0]
        parts.append(part)
    return MomentumKeys.concatenate(parts), offsets


__all__ = [
    "Batch",
    "Student",
    "accumulate_gradients",
    "adamw",
    "distillation_weight_at",
    "learning_rate_at",
    "train_step",
]
