from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.common.errors import InputError
from pipelines.pretraining.arguments import DataArguments, parse_arguments
from pipelines.pretraining.batches import PairBatches, batch_loader
from pipelines.pretraining.data import read_pairs
from pipelines.pretraining.loop import pretrain
from pipelines.pretraining.sampling import BatchIndices, BatchPlan

from .conftest import SCORES, candidate_rows, image_rows, write_candidates, write_dataset
from .test_train import rows


def read(root: Path, tokenizer, **settings):
    settings = {"validation_split_percentage": 25.0, "caption_sampling": "score", **settings}
    return read_pairs(DataArguments(dataset_name=str(root), **settings), tokenizer, 248, 0)


def drawn_texts(pairs, epoch: int, seed: int = 5) -> list[str]:
    drawn = pairs.candidates.draw(seed, epoch)
    return pairs.candidates.texts(drawn[drawn >= 0])


def test_best_is_the_default_and_reads_no_candidates(candidates_dir, tokenizer):
    pairs = read(candidates_dir, tokenizer, caption_sampling="best")
    assert DataArguments().caption_sampling == "best"
    assert pairs.candidates is None


def test_candidates_are_drawn_in_proportion_to_their_scores(candidates_dir, tokenizer):
    pairs = read(candidates_dir, tokenizer)
    counts = Counter(text[:11] for epoch in range(400) for text in drawn_texts(pairs, epoch))
    assert counts.total() == 400 * len(pairs.train)
    assert set(counts) == {f"Candidate {k}" for k in range(3)}  # none that is not kept
    for k, share in enumerate(SCORES):
        sd = np.sqrt(share * (1 - share) / counts.total())
        assert counts[f"Candidate {k}"] / counts.total() == pytest.approx(share, abs=5 * sd)


def test_every_training_image_draws_one_of_its_own(candidates_dir, tokenizer):
    pairs = read(candidates_dir, tokenizer)
    own = [pairs.listing["image_id"][index] for index in pairs.train]
    for epoch in range(20):
        named = [text.split("image ")[1].split(".")[0] for text in drawn_texts(pairs, epoch)]
        assert [f"image-{int(number):04d}" for number in named] == own
    assert (pairs.candidates.draw(5, 0)[pairs.validation] == -1).all()


@pytest.mark.parametrize(
    ("scores", "shares"),
    [
        ((None, None, None), (1 / 3, 1 / 3, 1 / 3)),
        ((0.0, 0.0, 0.0), (1 / 3, 1 / 3, 1 / 3)),
        ((0.6, None, 0.2), (0.5, 1 / 3, 1 / 6)),  # the mean where there is none
        ((0.0, 1.0, 0.0), (0, 1, 0)),
        ((float("nan"), -0.5, 0.5), (1 / 3, 0, 2 / 3)),
    ],
    ids=["null", "zero", "some-null", "one", "nan-negative"],
)
def test_chances_of_unusual_scores(tmp_path, tokenizer, scores, shares):
    made = [{**row, "score": scores[i % 4 % 3]} for i, row in enumerate(candidate_rows(24))]
    root = write_candidates(write_dataset(tmp_path, image_rows(24)), made)
    pairs = read(root, tokenizer, validation_split_percentage=0)
    cumulative = pairs.candidates.cumulative.reshape(-1, 3)
    np.testing.assert_allclose(cumulative, [np.cumsum(shares)] * 24, atol=1e-9)
    seen = {text[:11] for epoch in range(60) for text in drawn_texts(pairs, epoch)}
    assert seen == {f"Candidate {k}" for k in range(3) if shares[k]}


def test_draws_are_a_function_of_seed_epoch_and_pair(candidates_dir, tokenizer):
    one, two = read(candidates_dir, tokenizer), read(candidates_dir, tokenizer)
    far = [one.candidates.draw(5, epoch) for epoch in range(8)][7]
    np.testing.assert_array_equal(far, two.candidates.draw(5, 7))
    assert (far != one.candidates.draw(5, 6)).any()
    assert (far != one.candidates.draw(6, 7)).any()


def test_an_image_without_candidates_keeps_its_caption(tmp_path, tokenizer, processor, caplog):
    made = [row for row in candidate_rows(24) if row["image_id"] > "image-0003"]
    for number, row in enumerate(made[:4]):  # empty after cleaning
        row["text"] = " \u200b" + "\n" * number if row["kept"] else row["text"]
    made[0]["text"] = "A park.<|im_end|> What else?"
    root = write_candidates(write_dataset(tmp_path, image_rows(24)), made)
    pairs = read(root, tokenizer, validation_split_percentage=0)
    assert next(one for one in caplog.messages if "are ignored" in one).startswith("3 kept ")
    drawn = pairs.candidates.draw(5, 0)
    assert (drawn[:5] == -1).all()
    assert (drawn[5:] >= 0).all()
    batches = PairBatches(pairs, processor, draw_seed=5)
    plain = PairBatches(pairs, processor)
    batch = BatchIndices(0, np.arange(5))
    assert torch.equal(batches[batch]["input_ids"], plain[batch]["input_ids"])
    lengths = pairs.candidates.epoch_num_tokens(5, 0)
    np.testing.assert_array_equal(lengths[:5], pairs.num_tokens[:5])


def test_batches_hold_the_drawn_captions_and_no_seed_the_images_own(
    candidates_dir, tokenizer, processor
):
    pairs = read(candidates_dir, tokenizer)
    batch = BatchIndices(3, pairs.train[[4, 0, 7]])
    got = PairBatches(pairs, processor, draw_seed=5)[batch]
    drawn = pairs.candidates.draw(5, 3)[batch.indices]
    assert [
        tokenizer.decode(row[: mask.sum()], skip_special_tokens=True).replace(" ", "")
        for row, mask in zip(got["input_ids"], got["attention_mask"], strict=True)
    ] == [text.lower().replace(" ", "") for text in pairs.candidates.texts(drawn)]
    own = PairBatches(pairs, processor)[batch]["input_ids"]
    best = read(candidates_dir, tokenizer, caption_sampling="best")
    assert torch.equal(own, PairBatches(best, processor)[batch]["input_ids"])


def test_batches_are_grouped_by_the_length_of_what_is_drawn(candidates_dir, tokenizer, processor):
    pairs = read(candidates_dir, tokenizer)

    def lengths(epoch: int) -> np.ndarray:
        return pairs.candidates.epoch_num_tokens(5, epoch)[pairs.train]

    own = pairs.num_tokens[pairs.train]
    plan = BatchPlan(pairs.train, own, 2, epoch_num_tokens=lengths)
    batches = PairBatches(pairs, processor, draw_seed=5)
    spread, by_own = [], []
    for one in plan.process_batches(0, 0, 60):
        real = batches[one]["attention_mask"].sum(1).numpy()
        where = np.searchsorted(pairs.train, one.indices)
        np.testing.assert_array_equal(real, lengths(one.epoch)[where])
        spread.append(np.ptp(real))
    for one in BatchPlan(pairs.train, own, 2).process_batches(0, 0, 60):
        by_own.append(np.ptp(lengths(one.epoch)[np.searchsorted(pairs.train, one.indices)]))
    assert np.mean(spread) < 0.7 * np.mean(by_own)


def test_workers_draw_the_same(candidates_dir, tokenizer, processor):
    pairs = read(candidates_dir, tokenizer)

    def load(num_workers):
        plan = BatchPlan(pairs.train, pairs.num_tokens[pairs.train], 4, seed=1)
        batches = PairBatches(pairs, processor, shuffle_seed=7, draw_seed=7)
        return list(batch_loader(batches, plan.process_batches(0, 5, 12), num_workers, False))

    for one, two in zip(load(0), load(2), strict=True):
        assert torch.equal(one["input_ids"], two["input_ids"])


def test_views_that_share_an_id_have_candidates_of_their_own(tmp_path, tokenizer):
    for view in ("street_view", "satellite"):
        write_dataset(tmp_path, image_rows(24), table=f"harborview-{view}")
    made = [
        {**row, "view": view, "text": f"{view} {row['text']}"}
        for view in ("satellite", "street_view")
        for row in candidate_rows(24)
    ]
    pairs = read(write_candidates(tmp_path, made), tokenizer, validation_split_percentage=0)
    tables = pairs.listing["table"].str.partition("-")[2].tolist()
    assert [text.split()[0] for text in drawn_texts(pairs, 0)] == tables
    assert np.diff(pairs.candidates.offsets).tolist() == [3] * 48


def test_several_cities_draw_from_their_own_tables(tmp_path, tokenizer):
    for city in ("harborview", "oldgate"):
        write_dataset(tmp_path, image_rows(24), table=f"{city}-street_view")
        made = [{**row, "text": f"{city} {row['text']}"} for row in candidate_rows(24)]
        write_candidates(tmp_path, made, city)
    pairs = read(tmp_path, tokenizer, validation_split_percentage=0)
    cities = pairs.listing["table"].str.partition("-")[0].tolist()
    assert [text.split()[0] for text in drawn_texts(pairs, 0)] == cities


def test_what_cannot_be_drawn_from_is_refused(tmp_path, tokenizer):
    root = write_dataset(tmp_path / "a", image_rows(24))
    with pytest.raises(InputError, match=r"'harborview-captions', which is missing or has no rows"):
        read(root, tokenizer)
    write_candidates(root, [{**row, "kept": False} for row in candidate_rows(24)])
    with pytest.raises(InputError, match="no kept caption of any training image"):
        read(root, tokenizer)
    write_candidates(root, [{"image_id": "a", "text": "b"}])
    with pytest.raises(InputError, match=r"lacks the column\(s\) score, kept"):
        read(root, tokenizer)
    with pytest.raises(InputError, match="caption_sampling"):
        parse_arguments(["--dataset_name", "a", "--output_dir", "b", "--caption_sampling", "worst"])


def test_validation_uses_the_best_caption_and_training_the_drawn(
    candidates_dir, tiny_flags, tmp_path
):
    flags = ["--max_train_steps", "2"]
    logs = {}
    for sampling in ("best", "score"):
        folder = tmp_path / sampling
        more = [*flags, "--caption_sampling", sampling]
        pretrain(parse_arguments(tiny_flags(*more, dataset=candidates_dir, output_dir=folder)))
        logs[sampling] = rows(folder)
    assert logs["best"][0] == logs["score"][0]
    assert "image_to_text_recall_at_1" in logs["best"][0]
    assert logs["best"][1]["loss"] != logs["score"][1]["loss"]


def test_a_run_of_other_candidates_is_refused(tiny_flags, tmp_path):
    root = write_dataset(tmp_path / "data", image_rows(48))
    write_candidates(root, candidate_rows(48))
    flags = ["--max_train_steps", "2", "--caption_sampling", "score"]
    pretrain(parse_arguments(tiny_flags(*flags, dataset=root)))
    with pytest.raises(InputError, match="another run: pairs was"):
        pretrain(parse_arguments(tiny_flags("--max_train_steps", "2", dataset=root)))
    changed = [{**row, "score": 0.5} for row in candidate_rows(48)]
    write_candidates(root, changed)
    with pytest.raises(InputError, match="another run: pairs was"):
        pretrain(parse_arguments(tiny_flags(*flags, dataset=root)))


def test_random_draws_once_of_all_kept_candidates_also_for_validation(candidates_dir, tokenizer):
    pairs = read(candidates_dir, tokenizer, caption_sampling="random")
    assert pairs.candidates is None
    captions = pairs.captions.to_pylist()
    drawn = Counter(text.split()[1] for text in captions)
    # uniform: 13 of 40 expected
    assert set(drawn) == {"0", "1", "2"}
    assert min(drawn.values()) >= 5
    for text, image_id in zip(captions, pairs.listing["image_id"], strict=True):
        assert f"of image {int(image_id[-4:])}." in text
    assert len(pairs.validation) == 10
    assert {captions[i].split()[1] for i in pairs.validation} != {"0"}


def test_random_keeps_the_own_caption_of_an_image_without_candidates(tmp_path, tokenizer):
    root = write_candidates(
        write_dataset(tmp_path, image_rows(8)),
        [row for row in candidate_rows(8) if row["image_id"] != "image-0003"],
    )
    pairs = read(root, tokenizer, caption_sampling="random")
    best = read(root, tokenizer, caption_sampling="best")
    assert pairs.captions[3].as_py() == best.captions[3].as_py()
    assert pairs.captions[4].as_py() != best.captions[4].as_py()
