"""CAPTURE of two captions, and the consensus of many: which caption the others agree with.

CAPTURE (https://arxiv.org/abs/2405.19092) compares what captions say, as scene graphs: objects,
attributes and relations are matched exactly, then by synonyms, then by the similarity of their
embeddings; an F1 of each, and their weighted mean. The numbers equal those of the reference
implementation (`capture_metric` 0.1.13) with its lists in sorted order; without an order the
reference gives other scores from one run to the next.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .capture_matching import Encode, Matching, Synonyms
from .capture_pairs import CaptureScore, PairScorer, ParsedCaption
from .records import Candidate, Scores

REVISION = "capture-1"
"""Goes up with every change of a score; part of the ledger's keys."""
WEIGHTS = (5.0, 5.0, 2.0)
"""alpha, beta, gamma: of objects, attributes, relations."""


def capture_score(
    candidate: ParsedCaption,
    reference: ParsedCaption,
    encode: Encode,
    *,
    weights: Sequence[float] = WEIGHTS,
    synonyms: Synonyms | None = None,
    clamp: bool = True,
    matching: Matching = "first",
) -> CaptureScore:
    """How well two captions agree.

    Exactly symmetric: exchanging them exchanges precision and recall and nothing else.

    Args:
        candidate: a caption.
        reference: another.
        encode: phrases to unit vectors, `(phrases, dim)`.
        weights: of objects, attributes, relations; any that are not negative, normalised.
        synonyms: whether two words mean the same. By default WordNet's, as in the reference.
        clamp: what is softly matched adds nothing below 0 to precision and recall. Without it, as
            in the reference, they can be negative, and an F1 of such is beyond all bounds. Single
            negative cosines count: real captions have them, and the reference's numbers with them.
        matching: which synonyms are paired: "first" free in sorted order (the reference's way), or
            "optimal": as many pairs as possible.

    Raises:
        ValueError: bad weights, or vectors that are none.
        MissingDependencyError: WordNet is needed and not there.
    """
    match = PairScorer([candidate, reference], encode, weights, synonyms, clamp, matching)
    return match(0, 1)


def consensus(
    candidates: Sequence[ParsedCaption | None],
    encode: Encode,
    *,
    groups: Sequence[Hashable] | None = None,
    weights: Sequence[float] = WEIGHTS,
    synonyms: Synonyms | None = None,
    clamp: bool = True,
    matching: Matching = "first",
) -> NDArray[np.float64]:
    """The mean CAPTURE of every candidate against all others.

    Candidates that say nothing (None, or empty) take no part. Equal ones count as one, or else a
    model that repeats itself would vote for itself.

    Args:
        candidates: of one image.
        encode: phrases to unit vectors; called once.
        groups: of each candidate, such as its model; pairs of one group are left out.
        weights: as in `capture_score`.
        synonyms: as in `capture_score`.
        clamp: as in `capture_score`.
        matching: as in `capture_score`.

    Returns:
        `(candidates,)`; NaN for those that take no part or have no other to be compared with.
    """
    ballot = _Ballot(candidates, candidates, groups)
    scores = _pair_scores(ballot.distinct, encode, weights, synonyms, clamp, matching)
    means = [
        _mean(scores[pair].score for pair in ballot.pairs(index, groups is not None))
        for index in range(len(candidates))
    ]
    return np.array([math.nan if mean is None else mean for mean in means])


def consensus_scores(
    candidates: Sequence[ParsedCaption | None],
    encode: Encode,
    *,
    models: Sequence[str],
    texts: Sequence[str] | None = None,
    weights: Sequence[float] = WEIGHTS,
    same_model_pairs: bool = True,
) -> list[Scores]:
    """The consensus with all its parts, as it is kept with each candidate.

    Args:
        candidates: of one image; None for those that failed.
        encode: phrases to unit vectors; called once.
        models: of each candidate.
        texts: of each candidate; those with the same text count as one. By default those with the
            same parse.
        weights: as in `capture_score`.
        same_model_pairs: let captions of one model vote for one another. `Scores.cross_model` is
            the mean without them in any case.

    Returns:
        One for each candidate; all None where there is nothing to compare.
    """
    ballot = _Ballot(candidates, texts or candidates, models)
    scores = _pair_scores(ballot.distinct, encode, weights, None, True, "first")
    found = []
    for index in range(len(candidates)):
        across = [scores[pair] for pair in ballot.pairs(index, True)]
        counted = [scores[pair] for pair in ballot.pairs(index, False)]
        counted = counted if same_model_pairs else across
        names = ("score", "object_f1", "attribute_f1", "relation_f1")
        means = {name: _mean(getattr(score, name) for score in counted) for name in names}
        found.append(Scores(**means, cross_model=_mean(score.score for score in across)))
    return found


def choose(candidates: Sequence[Candidate], model_priority: Sequence[str]) -> int | None:
    """The best candidate of an image.

    The greatest score; of equals the model that comes first in `model_priority`, then the lowest
    index. A candidate without a score comes after all that have one: if it is alone it is kept.

    Returns:
        Its number in `candidates`; None if all have been dropped.
    """
    priority = {model: rank for rank, model in enumerate(model_priority)}

    def rank(number: int) -> tuple[float, int, str, int]:
        one = candidates[number]
        score = -math.inf if one.scores.score is None else one.scores.score
        return -score, priority.get(one.model, len(priority)), one.model, one.index

    alive = [number for number, one in enumerate(candidates) if not one.drop_reason]
    return min(alive, key=rank, default=None)


class _Ballot:
    """Who is compared with whom.

    Args:
        candidates: of an image; those that say nothing take no part.
        keys: candidates with equal keys count as one.
        groups: of each candidate.
    """

    def __init__(
        self,
        candidates: Sequence[ParsedCaption | None],
        keys: Sequence[Hashable],
        groups: Sequence[Hashable] | None,
    ):
        groups = [None] * len(candidates) if groups is None else groups
        if not len(candidates) == len(keys) == len(groups):
            raise ValueError(
                f"There are {len(candidates)} candidates, but {len(groups)} groups or models and "
                f"{len(keys)} texts; each needs one."
            )
        numbers: dict[Hashable, int] = {}
        self.distinct: list[ParsedCaption] = []
        self._holders: list[set[Hashable]] = []
        self._number: list[int | None] = []
        self._groups = groups
        for one, key, group in zip(candidates, keys, groups, strict=True):
            if not one:
                self._number.append(None)
                continue
            if key not in numbers:
                numbers[key] = len(numbers)
                self.distinct.append(one)
                self._holders.append(set())
            self._number.append(numbers[key])
            self._holders[numbers[key]].add(group)

    def pairs(self, index: int, other_groups: bool) -> list[tuple[int, int]]:
        """The pairs of distinct captions that a candidate's mean is over."""
        own = self._number[index]
        if own is None:
            return []
        group = {self._groups[index]}
        return [
            (own, other)
            for other, holders in enumerate(self._holders)
            if other != own and not (other_groups and holders <= group)
        ]


def _pair_scores(
    captions: Sequence[ParsedCaption],
    encode: Encode,
    weights: Sequence[float],
    synonyms: Synonyms | None,
    clamp: bool,
    matching: Matching,
) -> dict[tuple[int, int], CaptureScore]:
    """Of every pair both ways, each computed once: score and F1 are symmetric."""
    if len(captions) < 2:
        return {}
    match = PairScorer(captions, encode, weights, synonyms, clamp, matching)
    scores = {}
    for pair in combinations(range(len(captions)), 2):
        scores[pair] = scores[pair[::-1]] = match(*pair)
    return scores


def _mean(values: Iterable[float]) -> float | None:
    """The mean, rounded once, so that the order does not matter; None if there are no values."""
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else None


__all__ = [
    "REVISION",
    "WEIGHTS",
    "CaptureScore",
    "ParsedCaption",
    "capture_score",
    "choose",
    "consensus",
    "consensus_scores",
]
