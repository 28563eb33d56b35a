"""CAPTURE score of two captions, and consensus among several captions of an image.

CAPTURE (https://arxiv.org/abs/2405.19092) compares captions as scene graphs. Objects, attributes
and relations are matched exactly, then by synonyms, then by the similarity of their embeddings; the
score is a weighted mean of the three F1 scores. Scores equal those of the reference implementation
(`capture_metric` 0.1.13) on sorted phrase lists; on unsorted lists its scores vary between runs.

All captions of an image are scored together: each distinct phrase is embedded once, and pairs of
captions share the matrices of synonyms and similarities.
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
"""Changed whenever scores change; part of the ledger's keys."""
WEIGHTS = (5.0, 5.0, 2.0)
"""Alpha, beta and gamma: weights of objects, attributes and relations."""
EPSILON = 1e-6
"""Avoids division by zero for empty lists, as in the reference."""

Encode = Callable[[list[str]], NDArray[Any]]
"""Function from phrases to unit vectors, `(phrases, dim)`."""
Synonyms = Callable[[str, str], bool]
"""Symmetric function: whether two words or phrases are synonyms."""
Triple = tuple[str, str, str]
Parts = tuple[str, ...]


@dataclass(frozen=True)
class ParsedCaption:
    """Scene graph of a caption.

    Attributes:
        objects: Objects.
        attributes: Attributes by object; the keys need not be in `objects`.
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
        return bool(self.objects or self.relations or any(self.attributes.values()))

    def attribute_words(self) -> list[str]:
        """All attributes without their objects, which CAPTURE ignores."""
        return [word for _, words in sorted(self.attributes.items()) for word in sorted(words)]


@dataclass(frozen=True)
class CaptureScore:
    """CAPTURE score of a candidate against a reference.

    Attributes:
        score: Weighted mean of the three F1 scores.
        object_f1: F1 score of the objects; precision is the matched share of the candidate's
            objects, recall that of the reference's.
        attribute_f1: F1 score of the attributes.
        relation_f1: F1 score of the relations.
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
    """CAPTURE score of a candidate caption against a reference caption.

    Exactly symmetric: exchanging the captions only exchanges precision and recall.

    Args:
        candidate: Candidate caption.
        reference: Reference caption.
        encode: Function from phrases to unit vectors, `(phrases, dim)`.
        weights: Non-negative weights of objects, attributes and relations, normalised to sum to 1.
        synonyms: Whether two words are synonyms; by WordNet by default, as in the reference
            implementation.

    Raises:
        ValueError: Invalid weights, or vectors that are not finite or of the wrong shape.
        MissingDependencyError: WordNet is required but missing.
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
    """Mean CAPTURE score of each candidate against the other candidates.

    Candidates without content (None or empty) are excluded. Equal candidates score 1 against each
    other; within a group, copies count once, so a model gains nothing by repeating itself.

    Args:
        candidates: Parsed captions of one image.
        encode: Function from phrases to unit vectors; called once.
        groups: Group of each candidate, such as its model; pairs within a group are left out. By
            default, each candidate is a group.
        weights: As in `capture_score`.
        synonyms: As in `capture_score`.

    Returns:
        Scores `(candidates,)`; NaN for candidates that are excluded or have no counterpart.
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
    """Consensus scores with their components, as stored with each candidate.

    Equal captions of different models score 1 against each other; copies by one model count once.

    Args:
        candidates: Parsed captions of one image; None for failed candidates.
        encode: Function from phrases to unit vectors; called once.
        models: Model of each candidate.
        texts: Text of each candidate; captions with equal text are equal. By default, captions with
            equal content are.
        weights: As in `capture_score`.
        synonyms: As in `capture_score`.

    Returns:
        Scores of each candidate; all fields are None if there is no counterpart.
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
    # equal captions score 1 (CAPTURE itself: 10 / 12 without relations)
    pairs = {(number, number): _EQUAL for number in range(len(distinct))}
    if len(distinct) > 1:
        scorer = _Pairs(list(distinct.values()), encode, weights, synonyms)
        for one, other in combinations(range(len(distinct)), 2):
            pairs[one, other] = pairs[other, one] = scorer.score(one, other)
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
    """Choose the candidate with the highest consensus score.

    Ties are broken by `model_priority`, then by the lowest index. Candidates without a score rank
    last; dropped candidates are excluded.

    Returns:
        Index in `candidates`; None if all were dropped.
    """
    priority = {model: rank for rank, model in enumerate(model_priority)}

    def rank(number: int) -> tuple[float, int, str, int]:
        one = candidates[number]
        score = -math.inf if one.scores.score is None else one.scores.score
        return -score, priority.get(one.model, len(priority)), one.model, one.index

    alive = [number for number, one in enumerate(candidates) if not one.drop_reason]
    return min(alive, key=rank, default=None)


def _mean(values: Iterable[float]) -> float | None:
    """Mean that does not depend on the order of the values; None if there are none."""
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else None


class _Pairs:
    """Pairwise scores of captions, whose phrase similarities are computed once."""

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
        unique = sorted({" ".join(item) for lists in kinds for item in chain.from_iterable(lists)})
        vectors = _unit_vectors(unique, encode) if unique else np.zeros((0, 1))
        products = vectors @ vectors.T
        # matrix products may be asymmetric in the last bit
        cosines: NDArray[np.float64] = np.maximum(products, products.T)
        rows = {phrase: row for row, phrase in enumerate(unique)}
        self._kinds = [_Phrases(lists, rows, cosines, synonyms) for lists in kinds]

    def score(self, candidate: int, reference: int) -> CaptureScore:
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
    """Phrases of one kind (objects, attributes or relations) of several captions.

    Args:
        lists: Phrases of each caption as tuples of words, in matching order.
        rows: Row of each phrase in `cosines`.
        cosines: Exactly symmetric cosine similarities.
        synonyms: Whether two words are synonyms; phrases are if all their words are.
    """

    def __init__(
        self,
        lists: list[list[Parts]],
        rows: Mapping[str, int],
        cosines: NDArray[np.float64],
        synonyms: Synonyms,
    ):
        unique = sorted(set(chain.from_iterable(lists)))
        numbers = {item: number for number, item in enumerate(unique)}
        self.lists = [[numbers[item] for item in items] for items in lists]
        self._synonymous = np.ones((len(unique),) * 2, dtype=bool)
        for words in zip(*unique, strict=True):
            self._synonymous &= _synonymous(words, synonyms)
        own = [rows[" ".join(item)] for item in unique]
        self._similarity = cosines[np.ix_(own, own)]

    def match(self, one: int, other: int) -> tuple[float, float]:
        """Matches of caption `one` in caption `other`, and of `other` in `one`.

        Returns:
            Two sums over phrases: 1 for an exact or synonym match, otherwise the highest cosine
            similarity to the unmatched phrases of the other caption. Sums of cosines are clipped
            at 0.
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


def _synonymous(words: Sequence[str], synonyms: Synonyms) -> NDArray[np.bool_]:
    """Which words are equal or synonyms, `(words, words)`; each pair is looked up once."""
    unique = {word: number for number, word in enumerate(sorted(set(words)))}
    matrix = np.eye(len(unique), dtype=bool)
    for (one, row), (other, column) in combinations(unique.items(), 2):
        matrix[row, column] = matrix[column, row] = synonyms(one, other)
    rows = [unique[word] for word in words]
    return matrix[np.ix_(rows, rows)]


def _first_match(synonymous: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Greedy matching: each row takes the first free column.

    The transposed matrix gives the same pairs, which makes scores exactly symmetric: the first row
    with a partner is also the first choice of that partner, and so on.
    """
    free, pairs = dict.fromkeys(range(synonymous.shape[1])), []
    for row in np.flatnonzero(synonymous.any(axis=1)).tolist():
        column = next((column for column in free if synonymous[row, column]), None)
        if column is not None:
            del free[column]
            pairs.append((row, column))
    return pairs


def _without(numbers: Sequence[int], taken: Mapping[int, int]) -> NDArray[np.intp]:
    """Remove the given counts of numbers, first occurrences first."""
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
    # unit vectors are left unchanged, since products of rounded vectors are exact
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
