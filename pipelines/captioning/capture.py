"""CAPTURE of two captions, and the consensus of many: which caption the others agree with.

CAPTURE (https://arxiv.org/abs/2405.19092) compares captions as scene graphs. Objects, attributes
and relations are matched exactly, then by synonyms, then by the similarity of their embeddings; the
score is a weighted mean of the three F1. The numbers equal those of the reference implementation
(`capture_metric` 0.1.13) with its lists in sorted order; without an order, its scores vary from run
to run.

All captions of an image are scored together: each unique phrase is numbered and embedded once,
synonyms and similarities are matrices, and a pair of captions is a matter of looking up.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain, combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .records import Candidate, Scores
from .wordnet import wordnet_synonyms

REVISION = "capture-2"
"""Changes whenever scores change; part of the ledger's keys."""
WEIGHTS = (5.0, 5.0, 2.0)
"""alpha, beta, gamma: the weights of objects, attributes and relations."""
EPSILON = 1e-6
"""Avoids division by zero for empty lists; identical captions score this much less than 1."""

Encode = Callable[[list[str]], NDArray[Any]]
"""Phrases to vectors of length 1, `(phrases, dim)`."""
Synonyms = Callable[[str, str], bool]
"""Whether two words or phrases mean the same; symmetric."""
Triple = tuple[str, str, str]
Parts = tuple[str, ...]


@dataclass(frozen=True)
class ParsedCaption:
    """The content of a caption.

    Attributes:
        objects: Things.
        attributes: Per thing, its attributes. The things need not be among `objects`.
        relations: Triples of subject, relation and object.
    """

    objects: frozenset[str] = frozenset()
    attributes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    relations: frozenset[Triple] = frozenset()

    def __post_init__(self) -> None:
        for name, words in [("objects", self.objects), *self.attributes.items()]:
            if isinstance(words, str):
                raise TypeError(f"{name!r} must be a set of words, got the string {words!r}.")
        relations: Any = frozenset(map(tuple, self.relations))
        if any(len(relation) != 3 for relation in relations):
            raise ValueError(f"Relations must have three parts, got {sorted(relations)}.")
        attributes = {thing: frozenset(words) for thing, words in self.attributes.items()}
        object.__setattr__(self, "objects", frozenset(self.objects))
        object.__setattr__(self, "attributes", attributes)
        object.__setattr__(self, "relations", relations)

    def __hash__(self) -> int:
        return hash((self.objects, frozenset(self.attributes.items()), self.relations))

    def __bool__(self) -> bool:
        """Whether the caption has any content."""
        return bool(self.objects or self.relations or any(self.attributes.values()))

    def attribute_words(self) -> list[str]:
        """All attributes without their things, which CAPTURE ignores."""
        return [word for _, words in sorted(self.attributes.items()) for word in sorted(words)]


@dataclass(frozen=True)
class CaptureScore:
    """CAPTURE of a candidate against a reference.

    Attributes:
        score: Weighted mean of the three F1.
        object_f1: F1 of the objects; precision is the share of the candidate's objects that the
            reference has, recall the share of the reference's objects that the candidate has.
        attribute_f1: The same of the attributes.
        relation_f1: The same of the relations.
    """

    score: float
    object_f1: float
    attribute_f1: float
    relation_f1: float
    object_precision: float
    object_recall: float
    attribute_precision: float
    attribute_recall: float
    relation_precision: float
    relation_recall: float


_EQUAL = CaptureScore(*[1.0] * len(fields(CaptureScore)))


def capture_score(
    candidate: ParsedCaption,
    reference: ParsedCaption,
    encode: Encode,
    *,
    weights: Sequence[float] = WEIGHTS,
    synonyms: Synonyms | None = None,
) -> CaptureScore:
    """How well two captions agree.

    Exactly symmetric: exchanging the captions exchanges precision and recall and nothing else.

    Args:
        candidate: A caption.
        reference: Another caption.
        encode: Phrases to unit vectors, `(phrases, dim)`.
        weights: Weights of objects, attributes and relations; non-negative, normalised.
        synonyms: Whether two words mean the same. By default WordNet's, as in the reference.

    Raises:
        ValueError: Invalid weights, or vectors that are not finite or of the wrong shape.
        MissingDependencyError: WordNet is needed and missing.
    """
    return _Pairs([candidate, reference], encode, weights, synonyms).score(0, 1)


def consensus(
    candidates: Sequence[ParsedCaption | None],
    encode: Encode,
    *,
    groups: Sequence[Hashable] | None = None,
    weights: Sequence[float] = WEIGHTS,
    synonyms: Synonyms | None = None,
) -> NDArray[np.float64]:
    """The mean CAPTURE of every candidate against all others.

    Candidates without content (None, or empty) take no part. Equal candidates agree with score 1,
    except within a group: there copies count as one, so that a model gains nothing by repeating
    itself.

    Args:
        candidates: Captions of one image.
        encode: Phrases to unit vectors; called once.
        groups: Group of each candidate, such as its model; pairs within a group are left out. By
            default every candidate is independent of the others.
        weights: As in `capture_score`.
        synonyms: As in `capture_score`.

    Returns:
        `(candidates,)`; NaN for those that take no part or have nothing to be compared with.
    """
    models = range(len(candidates)) if groups is None else groups
    scores = consensus_scores(candidates, encode, models=models, weights=weights, synonyms=synonyms)
    means = [one.cross_model for one in scores]
    return np.array([math.nan if mean is None else mean for mean in means])


def consensus_scores(
    candidates: Sequence[ParsedCaption | None],
    encode: Encode,
    *,
    models: Sequence[Hashable],
    texts: Sequence[str] | None = None,
    weights: Sequence[float] = WEIGHTS,
    synonyms: Synonyms | None = None,
) -> list[Scores]:
    """The consensus with its parts, as stored with each candidate.

    Equal captions of different models agree with score 1; copies by one model count as one.

    Args:
        candidates: Captions of one image; None for those that failed.
        encode: Phrases to unit vectors; called once.
        models: Model of each candidate.
        texts: Text of each candidate; those with the same text are equal. By default those with the
            same content.
        weights: As in `capture_score`.
        synonyms: As in `capture_score`.

    Returns:
        One per candidate; all None where there is nothing to compare.
    """
    keys: Sequence[Hashable] = texts or candidates
    if not len(candidates) == len(keys) == len(models):
        raise ValueError(
            f"There are {len(candidates)} candidates, but {len(models)} groups or models and "
            f"{len(keys)} texts; each candidate needs one."
        )
    distinct: dict[Hashable, ParsedCaption] = {}
    for caption, key in zip(candidates, keys, strict=True):
        if caption:
            distinct.setdefault(key, caption)
    numbers = {key: number for number, key in enumerate(distinct)}
    # each distinct caption of each model has one vote
    votes = [
        (model, numbers[key]) if caption else None
        for caption, model, key in zip(candidates, models, keys, strict=True)
    ]
    voters = [vote for vote in dict.fromkeys(votes) if vote]
    pairs = _all_pairs(list(distinct.values()), encode, weights, synonyms)
    found = []
    for own in votes:
        if own is None:
            found.append(Scores())
            continue
        model, number = own
        across = [pairs[number, other] for voter, other in voters if voter != model]
        counted = [pairs[number, vote[1]] for vote in voters if vote != own]
        names = ("score", "object_f1", "attribute_f1", "relation_f1")
        means = {name: _mean(getattr(score, name) for score in counted) for name in names}
        found.append(Scores(**means, cross_model=_mean(score.score for score in across)))
    return found


def choose(candidates: Sequence[Candidate], model_priority: Sequence[str]) -> int | None:
    """The best candidate of an image.

    The highest score; of equals the model that comes first in `model_priority`, then the lowest
    index. A candidate without a score comes after all that have one.

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


def _all_pairs(
    captions: Sequence[ParsedCaption],
    encode: Encode,
    weights: Sequence[float],
    synonyms: Synonyms | None,
) -> dict[tuple[int, int], CaptureScore]:
    """Scores of all pairs in both directions, each computed once: score and F1 are symmetric.

    A caption agrees with its equal entirely; CAPTURE itself stays below 1 there, by 2 / 12 where
    the caption has no relation.
    """
    scores = {(number, number): _EQUAL for number in range(len(captions))}
    if len(captions) > 1:
        pairs = _Pairs(captions, encode, weights, synonyms)
        for one, other in combinations(range(len(captions)), 2):
            scores[one, other] = scores[other, one] = pairs.score(one, other)
    return scores


def _mean(values: Iterable[float]) -> float | None:
    """The mean, rounded once, so that the order does not matter; None if there are no values."""
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else None


class _Pairs:
    """Scores pairs of some captions, whose phrases are embedded and compared at the start."""

    def __init__(
        self,
        captions: Sequence[ParsedCaption],
        encode: Encode,
        weights: Sequence[float],
        synonyms: Synonyms | None,
    ):
        self._weights = _normalised(weights)
        synonyms = synonyms or wordnet_synonyms()
        kinds: list[list[list[Parts]]] = [
            [[(word,) for word in sorted(one.objects)] for one in captions],
            [[(word,) for word in one.attribute_words()] for one in captions],
            [[*sorted(one.relations)] for one in captions],
        ]
        items = chain.from_iterable(chain.from_iterable(kinds))
        cosines = _Cosines({" ".join(item) for item in items}, encode)
        self._kinds = [_Phrases(lists, cosines, synonyms) for lists in kinds]

    def score(self, candidate: int, reference: int) -> CaptureScore:
        """The score of two captions, by their numbers."""
        f1s, rest = [], []
        for phrases in self._kinds:
            in_reference, in_candidate = phrases.match(candidate, reference)
            precision = in_reference / (len(phrases.lists[candidate]) + EPSILON)
            recall = in_candidate / (len(phrases.lists[reference]) + EPSILON)
            f1s.append(2 * (precision * recall) / (precision + recall + EPSILON))
            rest += [precision, recall]
        score = sum(weight * f1 for weight, f1 in zip(self._weights, f1s, strict=True))
        return CaptureScore(score, *f1s, *rest)


class _Phrases:
    """The phrases of one kind (objects, attributes or relations) of several captions.

    Args:
        lists: Per caption, its phrases as tuples of words, in the order in which they are matched.
        cosines: Of all these phrases, and maybe others.
        synonyms: Of two words; phrases are synonymous if all their parts are.
    """

    def __init__(self, lists: list[list[Parts]], cosines: "_Cosines", synonyms: Synonyms):
        unique = sorted(set(chain.from_iterable(lists)))
        numbers = {item: number for number, item in enumerate(unique)}
        self.lists = [[numbers[item] for item in items] for items in lists]
        self._synonymous = np.ones((len(unique),) * 2, dtype=bool)
        for words in zip(*unique, strict=True):
            self._synonymous &= _synonymous(words, synonyms)
        self._similarity = cosines.among([" ".join(item) for item in unique])

    def match(self, one: int, other: int) -> tuple[float, float]:
        """How much of a caption is found in another, and of the other in the first.

        Returns:
            Two sums over phrases: 1 for a phrase matched exactly or by a synonym, otherwise its
            highest cosine to what the other caption has left. A sum of the latter is never
            negative.
        """
        first, second = self.lists[one], self.lists[other]
        common = Counter(first) & Counter(second)
        left, right = _without(first, common), _without(second, common)
        pairs = _first_match(self._synonymous[left[:, None], right])
        left = np.delete(left, [row for row, _ in pairs])
        right = np.delete(right, [column for _, column in pairs])
        matched = float(len(first) - len(left))
        if not left.size or not right.size:
            return matched, matched
        similarity = self._similarity[left[:, None], right]
        soft = [max(float(similarity.max(axis=axis).sum()), 0.0) for axis in (1, 0)]
        return matched + soft[0], matched + soft[1]


class _Cosines:
    """Cosines of phrases with one another, exactly symmetric; each phrase is embedded once."""

    def __init__(self, phrases: Iterable[str], encode: Encode):
        unique = sorted(phrases)
        self._rows = {phrase: row for row, phrase in enumerate(unique)}
        vectors = _unit_vectors(unique, encode) if unique else np.zeros((0, 1))
        products = vectors @ vectors.T
        # not every matrix product is symmetric to the last bit
        self._matrix: NDArray[np.float64] = np.maximum(products, products.T)

    def among(self, phrases: Iterable[str]) -> NDArray[np.float64]:
        """The cosines of these phrases, `(phrases, phrases)`."""
        rows = [self._rows[phrase] for phrase in phrases]
        return self._matrix[np.ix_(rows, rows)]


def _synonymous(words: Sequence[str], synonyms: Synonyms) -> NDArray[np.bool_]:
    """Which words are equal or synonyms, `(words, words)`; each pair is asked once."""
    unique = {word: number for number, word in enumerate(sorted(set(words)))}
    matrix = np.eye(len(unique), dtype=bool)
    for (one, row), (other, column) in combinations(unique.items(), 2):
        matrix[row, column] = matrix[column, row] = synonyms(one, other)
    rows = [unique[word] for word in words]
    return matrix[np.ix_(rows, rows)]


def _first_match(synonymous: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pairs of rows and columns: each row takes the first column that is still free.

    Taken from either side, the pairs are the same: the first row that has a partner is also the
    first choice of that partner, and so on with the rest. So scores are exactly symmetric.
    """
    free, pairs = dict.fromkeys(range(synonymous.shape[1])), []
    for row in np.flatnonzero(synonymous.any(axis=1)).tolist():
        column = next((column for column in free if synonymous[row, column]), None)
        if column is not None:
            del free[column]
            pairs.append((row, column))
    return pairs


def _without(numbers: Sequence[int], taken: Mapping[int, int]) -> NDArray[np.intp]:
    """The numbers without those taken; of several equal ones the first are removed."""
    budget, rest = dict(taken), []
    for number in numbers:
        if budget.get(number, 0):
            budget[number] -= 1
        else:
            rest.append(number)
    return np.array(rest, dtype=np.intp)


def _unit_vectors(phrases: list[str], encode: Encode) -> NDArray[np.float64]:
    vectors = np.array(encode(phrases), dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != len(phrases) or not np.isfinite(vectors).all():
        raise ValueError(
            f"`encode` must return a finite vector for each of {len(phrases)} phrases; it returned "
            f"an array of shape {vectors.shape} with {np.isnan(vectors).sum()} NaN."
        )
    norms = np.linalg.norm(vectors, axis=1)
    # unit vectors stay as they are, to the last bit: products of rounded ones are exact
    off = (np.abs(norms - 1) > 1e-5) & (norms > 0)
    vectors[off] /= norms[off, None]
    return vectors


def _normalised(weights: Sequence[float]) -> list[float]:
    values = [float(weight) for weight in weights]
    total = sum(values)
    if len(values) != 3 or min(values) < 0 or not 0 < total < math.inf:
        raise ValueError(
            "`weights` must be three finite numbers, of objects, attributes and relations, none "
            f"negative and not all 0; got {tuple(weights)}."
        )
    return [value / total for value in values]
