import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from transformers.generation.logits_process import TopPLogitsWarper

from pipelines.captioning.clients.sampling import SeededSampling, gumbel, nucleus
from pipelines.captioning.records import Sampling

CPU = torch.device("cpu")
LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -4.0])


def draws(sampling: Sampling, count: int) -> torch.Tensor:
    """The first token under `count` seeds."""
    tokens = []
    for seed in range(count):
        one = Sampling(sampling.temperature, sampling.top_p, 1, seed)
        scores = SeededSampling([one])(torch.zeros(1, 0), LOGITS[None])
        tokens.append(int(scores.argmax()))
    return torch.bincount(torch.tensor(tokens), minlength=len(LOGITS))


def test_gumbel_noise_has_its_distribution():
    noise = gumbel(3, 5, 200_000, CPU)
    assert kstest(noise.double().numpy(), "gumbel_r").pvalue > 1e-3
    assert noise.isfinite().all()


def test_gumbel_noise_of_seeds_steps_and_tokens_is_independent():
    noise = [gumbel(seed, step, 20_000, CPU) for seed in (0, 1, 2**62, -1) for step in (0, 1)]
    correlations = torch.corrcoef(torch.stack(noise)) - torch.eye(len(noise))
    assert correlations.abs().max() < 0.04  # 5 standard errors
    shifted = torch.corrcoef(torch.stack([noise[0][1:], noise[0][:-1]]))[0, 1]
    assert abs(float(shifted)) < 0.04


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_seeded_sampling_draws_from_the_softmax(temperature):
    counts = draws(Sampling(temperature, 1.0), 4000)
    expected = (LOGITS / temperature).softmax(-1).double() * 4000
    keep = expected > 5
    expected = expected[keep] / expected[keep].sum() * counts[keep].sum()
    assert chisquare(counts[keep].numpy(), expected.numpy()).pvalue > 1e-3


def test_seeded_sampling_stays_in_the_nucleus():
    counts = draws(Sampling(1.0, 0.6), 500)
    allowed = nucleus(LOGITS, 0.6)
    assert counts[~allowed].sum() == 0
    assert (counts[allowed] > 0).all()


@given(st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=20), st.floats(0.01, 0.99))
def test_nucleus_equals_that_of_transformers(values, top_p):
    logits = torch.tensor(values)
    # ties at the edge may be cut in any order: compare what is unique
    if len(set(values)) < len(values):
        logits = logits + torch.arange(len(values)) * 1e-2
    theirs = TopPLogitsWarper(top_p)(torch.zeros(1, 0), logits[None])[0].isfinite()
    ours = nucleus(logits, top_p)
    ordered = logits.softmax(-1).sort(descending=True).values.cumsum(-1)
    if (ordered - top_p).abs().min() > 1e-5:  # else rounding decides
        assert torch.equal(ours, theirs)
    assert ours[logits.argmax()]


def test_seeded_sampling_of_a_row_ignores_the_others():
    torch.manual_seed(0)
    logits = torch.randn(5, 300)
    samplings = [Sampling(0.3 * row, 0.9, 1, 100 + row) for row in range(5)]
    together, alone = SeededSampling(samplings), [SeededSampling([one]) for one in samplings]
    for _ in range(4):
        scores = together(torch.zeros(5, 0), logits)
        expected = [one(torch.zeros(1, 0), logits[row : row + 1]) for row, one in enumerate(alone)]
        assert torch.equal(scores, torch.cat(expected))


def test_seeded_sampling_moves_on_with_the_steps():
    sampler = SeededSampling([Sampling(5.0, 1.0, 1, 0)])
    tokens = {int(sampler(torch.zeros(1, 0), torch.zeros(1, 500)).argmax()) for _ in range(20)}
    assert len(tokens) > 15


def test_seeded_sampling_is_greedy_at_temperature_0():
    scores = SeededSampling([Sampling(0.0, 0.5)])(torch.zeros(1, 0), LOGITS[None])
    assert torch.equal(scores[0], LOGITS)
