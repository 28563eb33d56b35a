from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.common.errors import InputError
from pipelines.pretraining.arguments import DataArguments
from pipelines.pretraining.batches import (
    BatchIndices,
    BatchPlan,
    PairBatches,
    batch_loader,
    shorten,
    shuffle_sentences,
    tokenize,
)
from pipelines.pretraining.data import read_pairs

from .conftest import long_caption

CAPTION = "One car. Two trees! Is it 3.5 m wide? A bus; a van."


def make_plan(n=100, batch_size=4, **settings):
    lengths = np.random.default_rng(0).integers(5, 249, n)
    return BatchPlan(np.arange(n) + 1000, lengths, batch_size, **settings)


@pytest.fixture(scope="module")
def pairs(candidates_dir, tokenizer):
    args = DataArguments(dataset_name=str(candidates_dir), caption_sampling="score")
    return read_pairs(args, tokenizer, 248, 0)


SETTINGS = {
    "world_size": st.integers(1, 3),
    "accumulation": st.integers(1, 3),
    "seed": st.integers(0, 5),
    "group_by_length": st.booleans(),
}


@given(n=st.integers(1, 200), size=st.integers(1, 9), settings=st.fixed_dictionaries(SETTINGS))
def test_epoch_has_complete_steps_without_repetition(n, size, settings):
    world_size, per_step = settings["world_size"], size * settings["accumulation"]
    per_step *= world_size
    if n < per_step:
        with pytest.raises(InputError, match=f"A step needs {per_step} pairs"):
            make_plan(n, size, **settings)
        return
    plan = make_plan(n, size, **settings)
    steps = plan.steps_per_epoch
    assert steps == n // per_step
    seen = [b.indices for r in range(world_size) for b in plan.process_batches(r, 0, steps)]
    assert all(len(indices) == size for indices in seen)
    seen = np.concatenate(seen)
    assert len(seen) == steps * per_step == len(np.unique(seen))
    assert seen.min() >= 1000
    assert seen.max() < 1000 + n


@given(start=st.integers(0, 60), group=st.booleans())
def test_plan_can_start_at_any_step(start, group):
    whole = list(make_plan(group_by_length=group, accumulation=2).process_batches(0, 0, 60))
    rest = list(make_plan(group_by_length=group, accumulation=2).process_batches(0, start, 60))
    assert len(rest) == 2 * (60 - start)
    for expected, got in zip(whole[2 * start :], rest, strict=True):
        assert expected.epoch == got.epoch
        assert np.array_equal(expected.indices, got.indices)


def test_processes_share_the_batches_of_one():
    one = list(make_plan(batch_size=8).process_batches(0, 0, 30))
    two = [list(make_plan(batch_size=4, world_size=2).process_batches(r, 0, 30)) for r in (0, 1)]
    for whole, first, second in zip(one, *two, strict=True):
        assert np.array_equal(whole.indices, np.concatenate([first.indices, second.indices]))


def test_grouping_by_length_reduces_padding_and_still_mixes():
    def padding(plan):
        lengths = [plan.num_tokens[b.indices - 1000] for b in plan.process_batches(0, 0, 60)]
        return sum((one.max() - one).sum() for one in lengths)

    grouped = make_plan(2000, 16, group_by_length=True)
    assert padding(grouped) < 0.3 * padding(make_plan(2000, 16, group_by_length=False))
    met = [
        {frozenset((a, b)) for batch in grouped.process_batches(0, first, first + 125)
         for a in batch.indices for b in batch.indices if a < b}
        for first in (0, 125)
    ]  # fmt: skip
    assert len(met[0] & met[1]) < 0.1 * len(met[0])


def test_batches_are_grouped_by_the_length_of_sampled_captions(pairs, processor):
    def lengths(epoch: int) -> np.ndarray:
        return pairs.candidates.epoch_num_tokens(5, epoch)[pairs.train]

    own = pairs.num_tokens[pairs.train]
    plan = BatchPlan(pairs.train, own, 2, epoch_num_tokens=lengths)
    batches = PairBatches(pairs, processor, seed=5)
    spread, by_own = [], []
    for one in plan.process_batches(0, 0, 30):
        real = batches[one]["attention_mask"].sum(1).numpy()
        where = np.searchsorted(pairs.train, one.indices)
        np.testing.assert_array_equal(real, lengths(one.epoch)[where])
        spread.append(np.ptp(real))
    for one in BatchPlan(pairs.train, own, 2).process_batches(0, 0, 30):
        by_own.append(np.ptp(lengths(one.epoch)[np.searchsorted(pairs.train, one.indices)]))
    assert np.mean(spread) < 0.7 * np.mean(by_own)


def test_texts_are_padded_to_the_longest(tokenizer):
    texts = ["a road", long_caption(0, 3)]
    batch = tokenize(texts, tokenizer, 248)
    expected = tokenizer(texts, padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    rounded = tokenize(texts, tokenizer, 248, pad_to_multiple_of=32)
    assert rounded["input_ids"].shape[1] % 32 == 0
    assert torch.equal(rounded["attention_mask"].sum(1), batch["attention_mask"].sum(1))
    cut = tokenize(["road " * 1000], tokenizer, 77, pad_to_multiple_of=8)["input_ids"]
    assert cut.shape == (1, 77)
    assert cut[0, -1] == tokenizer.eos_token_id


def test_batch_has_the_images_ids_and_captions_of_its_pairs(pairs, processor):
    batch = BatchIndices(3, pairs.train[[4, 0, 7]])
    plain, sampled = PairBatches(pairs, processor)[batch], PairBatches(pairs, processor, seed=5)
    assert plain["pixel_values"].shape == (3, 3, 16, 16)
    assert plain["sample_ids"].tolist() == pairs.sample_ids[batch.indices].tolist()
    alone = PairBatches(pairs, processor)[BatchIndices(0, batch.indices[1:2])]
    assert torch.equal(alone["pixel_values"][0], plain["pixel_values"][1])
    own = pairs.captions.take(batch.indices).to_pylist()
    drawn = pairs.candidates.texts(pairs.candidates.draw(5, 3)[batch.indices])
    for tokens, captions in ((plain, own), (sampled[batch], drawn)):
        texts = processor.tokenizer.batch_decode(tokens["input_ids"], skip_special_tokens=True)
        assert [text.replace(" ", "") for text in texts] == [
            caption.lower().replace(" ", "") for caption in captions
        ]


def test_shuffling_keeps_all_sentences():
    rng = np.random.default_rng(0)
    drawn = {shuffle_sentences(CAPTION, rng) for _ in range(200)}
    assert len(drawn) == 24
    for text in drawn:
        assert sorted(text.split()) == sorted(CAPTION.split())
    assert "Is it 3.5 m wide?" in drawn.pop()
    assert shuffle_sentences("只有一句。", rng) == "只有一句。"
    assert shuffle_sentences("no full stop", rng) == "no full stop"


def test_shortening_replaces_a_share_of_captions_by_one_sentence():
    rng = np.random.default_rng(0)
    drawn = Counter(shorten(CAPTION, 0.3, rng) for _ in range(2000))
    assert drawn.pop(CAPTION) == pytest.approx(1400, abs=80)
    assert set(drawn) == {"One car.", "Two trees!", "Is it 3.5 m wide?", "A bus; a van."}
    assert min(drawn.values()) == pytest.approx(150, abs=45)
    assert shorten("no full stop", 1.0, rng) == "no full stop"


def test_captions_vary_by_epoch_and_not_by_number_of_workers(pairs, processor):
    def load(num_workers):
        plan = BatchPlan(pairs.train, pairs.num_tokens[pairs.train], 4, seed=1)
        batches = PairBatches(pairs, processor, seed=7, shuffle=True, short_probability=0.5)
        loader = batch_loader(batches, plan.process_batches(0, 5, 12), num_workers, False)
        torch.manual_seed(num_workers)
        state = torch.get_rng_state()
        loaded = list(loader)
        assert torch.equal(torch.get_rng_state(), state)  # loading draws no random number
        return loaded

    for one, two in zip(load(0), load(2), strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)

    indices = pairs.train[pairs.num_tokens[pairs.train] > 60][:4]
    batches = PairBatches(pairs, processor, seed=7, shuffle=True)
    first, second = (batches[BatchIndices(epoch, indices)]["input_ids"] for epoch in (0, 1))
    assert torch.equal(first, batches[BatchIndices(0, indices)]["input_ids"])
    assert first.shape != second.shape or not torch.equal(first, second)
