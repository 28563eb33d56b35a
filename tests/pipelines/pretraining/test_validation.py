import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.pretraining import validation
from pipelines.pretraining.validation import chance_recall, first_hits, retrieval_metrics


def unit(rows):
    rows = np.asarray(rows, dtype=float)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_recall_worked_by_hand():
    # similarities, image by text: [[1, 0, .8], [0, 1, .6], [1, 0, .8]]
    images = unit([[1, 0], [0, 1], [1, 0]])
    texts = unit([[1, 0], [0, 1], [4, 3]])
    metrics = retrieval_metrics(images, texts, ["a", "b", "c"], ks=(1, 2))
    assert metrics["image_to_text_recall_at_1"] == pytest.approx(2 / 3)  # image 2 prefers text 0
    assert metrics["image_to_text_recall_at_2"] == 1
    # text 0: images 0 and 2 tie, and the wrong one goes first; text 2 likewise
    assert metrics["text_to_image_recall_at_1"] == pytest.approx(1 / 3)
    assert metrics["text_to_image_recall_at_2"] == 1
    assert metrics["chance_recall_at_1"] == pytest.approx(1 / 3)
    assert metrics["mean_recall"] == pytest.approx((2 / 3 + 1 + 1 / 3 + 1) / 4)


def test_identical_texts_are_credited():
    images, texts = unit([[1, 0], [0, 1]]), unit([[0, 1], [1, 0]])
    assert retrieval_metrics(images, texts, ["a", "b"])["image_to_text_recall_at_1"] == 0
    same = retrieval_metrics(images, texts, ["a", "a"])
    assert same["image_to_text_recall_at_1"] == same["chance_recall_at_1"] == 1


def test_a_collapsed_model_finds_nothing():
    ones = unit(np.ones((10, 4)))
    metrics = retrieval_metrics(ones, ones, [str(i) for i in range(10)], ks=(1, 5))
    assert metrics["mean_recall"] == 0


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    images, texts = unit(rng.normal(size=(23, 5))), unit(rng.normal(size=(23, 5)))
    groups = rng.integers(0, 12, 23)
    whole = first_hits(images, texts, groups)
    monkeypatch.setattr(validation, "CHUNK", 7)
    assert np.array_equal(first_hits(images, texts, groups), whole)


@given(groups=st.lists(st.integers(0, 4), min_size=2, max_size=12), k=st.integers(1, 6))
def test_chance_is_what_random_orders_give(groups, k):
    groups = np.asarray(groups)
    rng = np.random.default_rng(0)
    top = rng.permuted(np.tile(groups, (2000, 1)), axis=1)[:, :k]
    hits = (groups[None, :, None] == top[:, None]).any(2)
    assert chance_recall(groups, k) == pytest.approx(hits.mean(), abs=0.05)
