"""Optimizer and schedules."""

import math

import torch
from torch import nn

NO_DECAY_NAMES = ("position_embedding", "class_embedding", "probe", "logit_scale")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Trainable parameters in two groups, with and without weight decay.

    Biases, norms, the temperature, position embeddings and pooling tokens (CLIP's class embedding,
    SigLIP's probe) have none. Decay would also change the frozen position rows.
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = parameter.ndim < 2 or any(part in name for part in NO_DECAY_NAMES)
        (others if exempt else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def adamw(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, fused where supported."""
    groups = parameter_groups(model, weight_decay)
    device = groups[0]["params"][0].device.type
    fused = device in ("cpu", "cuda", "xpu")
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

    Raises:
        ValueError: If the schedule is unknown.
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if schedule == "linear":
        return peak * max(0.0, 1 - progress)
    if schedule == "constant":
        return peak
    raise ValueError(f"`schedule` must be cosine, linear or constant, got {schedule!r}.")


def distillation_weight_at(step: int, *, weight: float, warmup_steps: int = 0) -> float:
    """Weight mu at a step (from 0), which rises linearly from 0 over `warmup_steps`."""
    return weight if step >= warmup_steps else weight * step / warmup_steps


__all__ = ["adamw", "distillation_weight_at", "learning_rate_at", "parameter_groups"]
