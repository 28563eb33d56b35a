from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.common.errors import InputError
from pipelines.pretraining.arguments import DataArguments
from pipelines.pretraining.batches import BatchIndices, PairBatches
from pipelines.pretraining.data import read_pairs

from .conftest import SCORES, candidate_rows, image_rows, write_candidates, write_dataset


def read(root: Path, tokenizer, **settings):
    settings = {"validation_split_percentage": 25.0, "caption_sampling": "score", **settings}
    return read_pairs(DataArguments(dataset_name=str(root), **settings), tokenizer, 248, 0)


@pytest.fixture(scope="module")
def scored(candidates_dir, tokenizer):
    return read(candidates_dir, tokenizer)


def drawn_texts(pairs, epoch: int, seed: int = 5) -> list[str]:
    drawn = pairs.candidates.draw(seed, epoch)
    return pairs.candidates.texts(drawn[drawn >= 0])


def test_samples_own_candidates_in_proportion_to_their_scores(scored):
    own, counts = [scored.listing["image_id"][index] for index in scored.train], Counter()
    for epoch in range(200):
        texts = drawn_texts(scored, epoch)
        numbers = [int(text.split("image ")[1].split(".")[0]) for text in texts]
        assert [f"image-{number:04d}" for number in numbers] == own
        counts.update(text[:11] for text in texts)
    assert set(counts) == {f"Candidate {k}" for k in range(3)}  # none that is not kept
    for k, share in enumerate(SCORES):
        sd = np.sqrt(share * (1 - share) / counts.total())
        assert counts[f"Candidate {k}"] / counts.total() == pytest.approx(share, abs=5 * sd)
    assert (scored.candidates.draw(5, 0)[scored.validation] == -1).all()


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
def test_probabilities_of_unusual_scores(tmp_path, tokenizer, scores, shares):
    made = [{**row, "score": scores[i % 4 % 3]} for i, row in enumerate(candidate_rows(24))]
    root = write_candidates(write_dataset(tmp_path, image_rows(24)), made)
    pairs = read(root, tokenizer, validation_split_percentage=0)
    cumulative = pairs.candidates.cumulative.reshape(-1, 3)
    np.testing.assert_allclose(cumulative, [np.cumsum(shares)] * 24, atol=1e-9)
    seen = {text[:11] for epoch in range(30) for text in drawn_texts(pairs, epoch)}
    assert seen == {f"Candidate {k}" for k in range(3) if shares[k]}


def test_samples_are_determined_by_seed_and_epoch(candidates_dir, scored, tokenizer):
    far = [scored.candidates.draw(5, epoch) for epoch in range(8)][7]
    again = read(candidates_dir, tokenizer).candidates
    np.testing.assert_array_equal(far, again.draw(5, 7))
    assert (far != again.draw(5, 6)).any()
    assert (far != again.draw(6, 7)).any()


def test_image_without_candidates_keeps_its_caption(tmp_path, tokenizer, processor, caplog):
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
    batch = BatchIndices(0, np.arange(5))
    sampled, plain = PairBatches(pairs, processor, seed=5), PairBatches(pairs, processor)
    assert torch.equal(sampled[batch]["input_ids"], plain[batch]["input_ids"])
    lengths = pairs.candidates.epoch_num_tokens(5, 0)
    np.testing.assert_array_equal(lengths[:5], pairs.num_tokens[:5])

    best = read(root, tokenizer, caption_sampling="best").captions.to_pylist()
    random = read(root, tokenizer, caption_sampling="random").captions.to_pylist()
    assert random[:5] == best[:5]
    assert not set(random[5:]) & set(best[5:])


def test_views_and_cities_have_candidates_of_their_own(tmp_path, tokenizer):
    made = [
        {**row, "view": view, "text": f"{view} {row['text']}"}
        for view in ("satellite", "street_view")
        for row in candidate_rows(8)
    ]
    for city in ("harborview", "oldgate"):
        for view in ("street_view", "satellite"):
            write_dataset(tmp_path, image_rows(8), table=f"{city}-{view}")
        write_candidates(tmp_path, [{**row, "text": f"{city} {row['text']}"} for row in made], city)
    pairs = read(tmp_path, tokenizer, validation_split_percentage=0)
    tables = [table.split("-") for table in pairs.listing["table"]]
    assert [text.split()[:2] for text in drawn_texts(pairs, 0)] == tables
    assert np.diff(pairs.candidates.offsets).tolist() == [3] * 32


def test_rejects_missing_or_unusable_candidates(tmp_path, tokenizer):
    root = write_dataset(tmp_path / "a", image_rows(24))
    with pytest.raises(InputError, match=r"'harborview-captions', which is missing or has no rows"):
        read(root, tokenizer)
    write_candidates(root, [{**row, "kept": False} for row in candidate_rows(24)])
    with pytest.raises(InputError, match="no kept caption of any training image"):
        read(root, tokenizer)
    write_candidates(root, [{"image_id": "a", "text": "b"}])
    with pytest.raises(InputError, match=r"lacks the column\(s\) score, kept"):
        read(root, tokenizer)


def test_only_training_captions_are_sampled_and_fingerprinted(tmp_path, tokenizer, scored):
    root = write_candidates(write_dataset(tmp_path, image_rows(40)), candidate_rows(40))
    best = read(root, tokenizer, caption_sampling="best")
    assert best.candidates is None
    assert best.captions.equals(scored.captions)
    prints = {best.fingerprint(), scored.fingerprint(), read(root, tokenizer).fingerprint()}
    assert len(prints) == 2
    write_candidates(root, [{**row, "score": 0.5} for row in candidate_rows(40)])
    assert read(root, tokenizer).fingerprint() not in prints


def test_random_samples_once_from_all_kept_candidates_also_for_validation(
    candidates_dir, tokenizer
):
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
