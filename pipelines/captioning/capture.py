"""CAPTURE of two captions, and the consensus of many: which caption the others agree with.

CAPTURE (https://arxiv.org/abs/2405.19092) compares what captions say, as scene graphs: objects,
attributes and relations are matched exactly, then by synonyms, then by the similarity of their
embeddings; an F1 of each, and their weighted mean. The numbers equal those of the reference
implementation (`capture_metric` 0.1.13) with its lists in sorted order; without an order the
reference gives other scores from one run to the next.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import fields
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .capture_matching import Encode, Matching, Synonyms
from .capture_pairs import CaptureScore, PairScorer, ParsedCaption
from .records import Candidate, Scores

REVISION = "capture-2"
"""Goes up with every change of a score; part of the ledger's keys."""
WEIGHTS = (5.0, 5.0, 2.0)
"""alpha, beta, gamma: of objects, attributes, relations."""
EQUAL = CaptureScore(*[1.0] * len(fields(CaptureScore)))
"""Of a caption and its equal."""

Vote = tuple[Hashable, int]  # who votes, and for which of the distinct captions


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

    Candidates that say nothing (None, or empty) take no part. Equal candidates agree with score 1,
    except within a group: there copies count as one, so that a model gains nothing by repeating
    itself.

    Args:
        candidates: of one image.
        encode: phrases to unit vectors; called once.
        groups: of each candidate, such as its model; pairs of one group are left out. By default
            every candidate is independent of the others.
        weights: as in `capture_score`.
        synonyms: as in `capture_score`.
        clamp: as in `capture_score`.
        matching: as in `capture_score`.

    Returns:
        `(candidates,)`; NaN for those that take no part or have no other to be compared with.
    """
    ballot = _Ballot(candidates, candidates, range(len(candidates)) if groups is None else groups)
    scores = _pair_scores(ballot.captions, encode, weights, synonyms, clamp, matching)
    means = [
        _mean(scores[pair].score for pair in ballot.pairs(index, other_groups=True))
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

    Equal captions of different models agree with score 1; copies by one model count as one.

    Args:
        candidates: of one image; None for those that failed.
        encode: phrases to unit vectors; called once.
        models: of each candidate.
        texts: of each candidate; those with the same text are equal. By default those with the
            same parse.
        weights: as in `capture_score`.
        same_model_pairs: let captions of one model vote for one another. `Scores.cross_model` is
            the mean without them in any case.

    Returns:
        One for each candidate; all None where there is nothing to compare.
    """
    ballot = _Ballot(candidates, texts or candidates, models)
    scores = _pair_scores(ballot.captions, encode, weights, None, True, "first")
    found = []
    for index in range(len(candidates)):
        across = [scores[pair] for pair in ballot.pairs(index, other_groups=True)]
        counted = [scores[pair] for pair in ballot.pairs(index, other_groups=not same_model_pairs)]
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
    """Who is compared with whom: each distinct caption of each group has one vote.

    Args:
        candidates: of an image; those that say nothing take no part.
        keys: of each candidate; candidates with equal keys are equal captions.
        groups: of each candidate, such as its model.

    Attributes:
        captions: the distinct captions; votes name them by their number.
    """

    def __init__(
        self,
        candidates: Sequence[ParsedCaption | None],
        keys: Sequence[Hashable],
        groups: Sequence[Hashable],
    ):
        if not len(candidates) == len(keys) == len(groups):
            raise ValueError(
                f"There are {len(candidates)} candidates, but {len(groups)} groups or models and "
                f"{len(keys)} texts; each needs one."
            )
        distinct: dict[Hashable, ParsedCaption] = {}
        for one, key in zip(candidates, keys, strict=True):
            if one:
                distinct.setdefault(key, one)
        numbers = {key: number for number, key in enumerate(distinct)}
        self.captions = list(distinct.values())
        self._own: list[Vote | None] = [
            (group, numbers[key]) if one else None
            for one, key, group in zip(candidates, keys, groups, strict=True)
        ]
        self._votes = list(dict.fromkeys(vote for vote in self._own if vote))

    def pairs(self, index: int, other_groups: bool) -> list[tuple[int, int]]:
        """The pairs of captions that a candidate's mean is over.

        Args:
            index: of the candidate.
            other_groups: leave out the votes of its own group.
        """
        own = self._own[index]
        if own is None:
            return []
        group, number = own
        return [
            (number, other)
            for voter, other in self._votes
            if (voter, other) != own and not (other_groups and voter == group)
        ]


def _pair_scores(
    captions: Sequence[ParsedCaption],
    encode: Encode,
    weights: Sequence[float],
    synonyms: Synonyms | None,
    clamp: bool,
    matching: Matching,
) -> dict[tuple[int, int], CaptureScore]:
    """Of every pair both ways, each computed once: score and F1 are symmetric.

    A caption agrees with its equal entirely. CAPTURE itself stays below 1 there, by 2 / 12 where
    the caption has no relation.
    """
    scores = {(number, number): EQUAL for number in range(len(captions))}
    if len(captions) < 2:
        return scores
    match = PairScorer(captions, encode, weights, synonyms, clamp, matching)
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
