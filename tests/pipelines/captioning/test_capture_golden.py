import json

import numpy as np
import pytest

from pipelines.captioning.capture import ParsedCaption, capture_score, consensus
from pipelines.captioning.encoder import PhraseCache, sentence_encoder

NOT_IN_SORTED_ORDER = (193, 198)  # synonyms in another order; a list with a duplicate
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def golden(shared_data):
    pairs = json.loads((shared_data / "capture" / "capture_golden.json").read_text())["pairs"]
    return [pair for pair in pairs if pair["id"] not in NOT_IN_SORTED_ORDER]


@pytest.fixture(scope="module")
def encode(golden):
    cache = PhraseCache(sentence_encoder())
    graphs = [parsed(pair[side]) for pair in golden for side in ("gt", "cand")]
    cache(sorted({phrase for graph in graphs for phrase in phrases_of(graph)}))
    return cache


def parsed(graph):
    return ParsedCaption(
        frozenset(graph["objects"]),
        {thing: frozenset(words) for thing, words in graph["attributes"].items()},
        frozenset(map(tuple, graph["relations"])),
    )


def phrases_of(graph):
    relations = (" ".join(relation) for relation in graph.relations)
    return {*graph.objects, *graph.attribute_words(), *relations}


def unrelated(phrases):
    return np.eye(len(phrases))


def off(golden, field, encode, **options):
    """Pairs and outputs that differ from the reference's by more than the tolerance."""
    found = []
    for pair in golden:
        score = capture_score(parsed(pair["cand"]), parsed(pair["gt"]), encode, **options)
        for name, expected in pair[field].items():
            got = getattr(score, "score" if name == "capture" else name)
            if not abs(got - expected) <= TOLERANCE:
                found.append((pair["id"], name, got, expected))
    return found


def test_capture_score_equals_the_reference(golden, encode):
    assert len(golden) == 198
    assert off(golden, "scores", encode) == []


def test_capture_score_equals_the_reference_without_clamp(golden, encode):
    assert off(golden, "scores", encode, clamp=False) == []


def test_capture_score_equals_the_reference_without_soft_matching(golden):
    assert off(golden, "scores_nosoft", unrelated) == []


def test_capture_score_equals_the_reference_with_exact_matching_only(golden):
    def equal(one, other):
        return one == other

    assert off(golden, "scores_exact_only", unrelated, synonyms=equal) == []


def test_capture_score_is_symmetric_on_real_captions(golden, encode):
    for pair in golden:
        one, other = parsed(pair["cand"]), parsed(pair["gt"])
        there, back = capture_score(one, other, encode), capture_score(other, one, encode)
        assert there.score == back.score
        assert there.attribute_precision == back.attribute_recall


def test_consensus_equals_the_mean_of_the_scores_to_the_last_bit(golden, encode):
    # vectors on a grid have exact cosines, so even the size of the matrix does not matter
    pool = [parsed(pair["cand"]) for pair in golden[:15]]
    scores = [
        [capture_score(one, other, encode).score for other in pool if other != one] for one in pool
    ]
    np.testing.assert_allclose(consensus(pool, encode), np.mean(scores, axis=1), rtol=1e-15)
