"""Sampling that depends on a request alone, not on who shares its batch."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from ..records import Sampling

_STEP, _TOKEN = 0x632BE59BD9B4E019, 0x9E3779B97F4A7C15  # odd, from splitmix64's family


class SeededSampling(LogitsProcessor):
    """Draws the next token of every row by that row's own seed; decode greedily behind it.

    Gumbel-max: the arg-max of `logits / temperature + noise` is a draw from the softmax if the
    noise is Gumbel's (https://arxiv.org/abs/1411.0030). The noise is a hash of seed, step and
    token, so that neither the other rows nor the device nor what was drawn before moves it; and a
    small change of a logit, as padding makes, changes a draw only where two tokens all but tie.

    Args:
        samplings: of the rows; temperature 0 is greedy.
    """

    def __init__(self, samplings: Sequence[Sampling]):
        self._samplings = tuple(samplings)
        self._step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `(rows, vocabulary)` whose arg-max is the draw."""
        rows = [
            _row(logits, sampling, self._step)
            for logits, sampling in zip(scores, self._samplings, strict=True)
        ]
        self._step += 1
        return torch.stack(rows)


def _row(logits: Tensor, sampling: Sampling, step: int) -> Tensor:
    logits = logits.float()
    if sampling.temperature == 0:
        return logits
    logits = logits / sampling.temperature
    if sampling.top_p < 1:
        logits = logits.masked_fill(~nucleus(logits, sampling.top_p), -torch.inf)
    return logits + gumbel(sampling.seed, step, len(logits), logits.device)


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """The smallest set of most probable tokens that holds at least `top_p`; a mask `(tokens,)`."""
    probabilities = logits.softmax(-1)
    ordered, order = probabilities.sort(descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered  # of those more probable
    # the most probable is always in
    keep = torch.zeros_like(order, dtype=torch.bool).scatter(0, order, before < top_p)
    return keep.index_fill(0, order[:1], True)


def gumbel(seed: int, step: int, tokens: int, device: torch.device) -> Tensor:
    """Noise `(tokens,)` float32, the same on every device."""
    token = torch.arange(tokens, dtype=torch.int64, device=device)
    mixed = _hash(seed) ^ _wrap(step * _STEP)
    bits = _mix(_mix(token * _wrap(_TOKEN) + _wrap(mixed)) + _wrap(_TOKEN))
    high, low = _shift(bits, 40).float(), (_shift(bits, 16) & 0xFFFFFF).float()
    # 48 bits, and all of a float's precision near 0, where the largest noise comes from
    uniform = high * 2.0**-24 + (low + 0.5) * 2.0**-48
    exponential = -torch.log1p(-uniform.clamp(max=1 - 2.0**-24))
    return -exponential.log()


def _hash(seed: int) -> int:
    return int(_mix(torch.tensor(_wrap(seed), dtype=torch.int64)))


def _wrap(value: int) -> int:
    """As a signed integer of 64 bits."""
    return (value + 2**63) % 2**64 - 2**63


def _shift(bits: Tensor, by: int) -> Tensor:
    """To the right, zeros in."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """Splitmix64's finaliser (https://prng.di.unimi.it/splitmix64.c); products wrap."""
    bits = (bits ^ _shift(bits, 30)) * _wrap(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift(bits, 27)) * _wrap(0x94D049BB133111EB)
    return bits ^ _shift(bits, 31)


__all__ = ["SeededSampling", "gumbel", "nucleus"]
