"""How much of one list of phrases is found in another: exactly, by synonyms, then softly.

The three stages of CAPTURE (https://arxiv.org/abs/2405.19092, reference implementation
`capture_metric` 0.1.13) for a whole pool of captions at once: each unique phrase is numbered and
embedded once, synonyms and similarities are matrices, and a pair of captions is a matter of
looking up. Phrases are numbered in sorted order, so nothing depends on the order of a set.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from .wordnet import open_wordnet

Encode = Callable[[list[str]], NDArray[Any]]
"""Phrases to vectors of length 1, `(phrases, dim)`."""
Synonyms = Callable[[str, str], bool]
"""Whether two words or phrases mean the same; symmetric, and true of a word and itself."""
Matching = Literal["first", "optimal"]

Triple = tuple[str, str, str]
Item = TypeVar("Item", bound=Hashable)

_NOT_UNIT = 1e-5  # vectors further from length 1 than this are brought to it


@dataclass(frozen=True)
class Pool:
    """The phrases of one kind (objects, attributes or relations) of several captions.

    Attributes:
        lists: of each caption, the numbers of its phrases, in the order in which they are matched.
        synonymous: `(phrases, phrases)`, symmetric.
        similarity: `(phrases, phrases)` cosines, symmetric.
        clamp: what is left over adds nothing below 0.
    """

    lists: tuple[tuple[int, ...], ...]
    synonymous: NDArray[np.bool_]
    similarity: NDArray[np.float64]
    clamp: bool

    def match(self, one: int, other: int, matching: Matching) -> tuple[float, float]:
        """How much of a caption is found in another, and of the other in it.

        The synonyms stage takes the first unmatched phrase, as the reference does, or with
        "optimal" as many pairs as there can be and of these the most similar, which depends on no
        order.

        Returns:
            Two sums over phrases, each 1 for a phrase that is matched exactly or by a synonym and
            else its greatest cosine to what the other has left. Exchanged if the captions are.
        """
        first, second = self.lists[one], self.lists[other]
        common = Counter(first) & Counter(second)
        left, right = _without(first, common), _without(second, common)
        matched = len(first) - len(left)
        if not left.size or not right.size:
            return float(matched), float(matched)
        synonymous = self.synonymous[left[:, None], right]
        if synonymous.any():
            similarity = self.similarity[left[:, None], right]
            pairs = _MATCHINGS[matching](synonymous, similarity)
            left = np.delete(left, [pair[0] for pair in pairs])
            right = np.delete(right, [pair[1] for pair in pairs])
            matched += len(pairs)
            if not left.size or not right.size:
                return float(matched), float(matched)
        similarity = self.similarity[left[:, None], right]
        soft = [float(similarity.max(axis=axis).sum()) for axis in (1, 0)]
        if self.clamp:
            soft = [max(total, 0.0) for total in soft]
        return matched + soft[0], matched + soft[1]


class Cosines:
    """Cosines of phrases with one another, exactly symmetric.

    Args:
        phrases: to embed, at once, each once, in sorted order.
        encode: embeds them.

    Raises:
        ValueError: `encode` gives not one finite vector for each phrase.
    """

    def __init__(self, phrases: Iterable[str], encode: Encode):
        unique = sorted(set(phrases))
        self._rows = {phrase: row for row, phrase in enumerate(unique)}
        vectors = _unit_vectors(unique, encode) if unique else np.zeros((0, 1))
        products = vectors @ vectors.T
        # not every matrix product is symmetric to the last bit
        self._matrix: NDArray[np.float64] = np.maximum(products, products.T)

    def among(self, phrases: Iterable[str]) -> NDArray[np.float64]:
        """Of these phrases with one another, `(phrases, phrases)`."""
        rows = [self._rows[phrase] for phrase in phrases]
        return self._matrix[np.ix_(rows, rows)]


def pool_phrases(
    captions: Sequence[Sequence[str]],
    cosines: Cosines,
    synonyms: Synonyms,
    clamp: bool,
) -> Pool:
    """A pool of objects or attributes.

    Args:
        captions: the phrases of each caption, in the order in which they are to be matched.
        cosines: of all these phrases, and maybe others.
        synonyms: of two phrases.
        clamp: see `Pool`.
    """
    phrases, lists = _numbered(captions)
    return Pool(lists, _synonym_matrix(phrases, synonyms), cosines.among(phrases), clamp)


def pool_relations(
    captions: Sequence[Sequence[Triple]],
    cosines: Cosines,
    synonyms: Synonyms,
    clamp: bool,
) -> Pool:
    """A pool of relations: synonymous if all three parts are, similar as phrases."""
    relations, lists = _numbered(captions)
    synonymous = np.ones((len(relations),) * 2, dtype=bool)
    for part in range(3):
        words, numbers = _numbered([[relation[part]] for relation in relations])
        of_relation = [number for (number,) in numbers]
        synonymous &= _synonym_matrix(words, synonyms)[np.ix_(of_relation, of_relation)]
    return Pool(lists, synonymous, cosines.among(map(" ".join, relations)), clamp)


@lru_cache(maxsize=1)
def wordnet_synonyms() -> Synonyms:
    """The reference's notion of synonyms, and a loose one.

    Two words are synonyms if one contains the other ("car", "carpet"), or if a synset of one and a
    synset of the other, of any part of speech, have a word in common.

    Raises:
        MissingDependencyError: WordNet is not there; the message says how to get it.
    """
    names = open_wordnet().synonyms

    def synonyms(one: str, other: str) -> bool:
        return one in other or other in one or not names(one).isdisjoint(names(other))

    return synonyms


def _unit_vectors(phrases: list[str], encode: Encode) -> NDArray[np.float64]:
    vectors = np.array(encode(phrases), dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != len(phrases) or not np.isfinite(vectors).all():
        raise ValueError(
            f"`encode` must return a finite vector for each of {len(phrases)} phrases; it returned "
            f"an array of shape {vectors.shape} with {np.isnan(vectors).sum()} NaN."
        )
    norms = np.linalg.norm(vectors, axis=1)
    # unit vectors stay as they are, to the last bit: products of rounded ones are exact
    off = (np.abs(norms - 1) > _NOT_UNIT) & (norms > 0)
    vectors[off] /= norms[off, None]
    return vectors


def _numbered(
    lists: Iterable[Iterable[Item]],
) -> tuple[list[Item], tuple[tuple[int, ...], ...]]:
    """The unique items, sorted, and the lists as numbers of them."""
    lists = [list(items) for items in lists]
    unique: list[Any] = sorted({item for items in lists for item in items})
    numbers = {item: number for number, item in enumerate(unique)}
    return unique, tuple(tuple(numbers[item] for item in items) for items in lists)


def _synonym_matrix(words: Sequence[str], synonyms: Synonyms) -> NDArray[np.bool_]:
    matrix = np.eye(len(words), dtype=bool)
    for (row, one), (column, other) in combinations(enumerate(words), 2):
        if synonyms(one, other):
            matrix[row, column] = matrix[column, row] = True
    return matrix


def _without(numbers: Sequence[int], taken: Mapping[int, int]) -> NDArray[np.intp]:
    """The numbers without those taken; of several equal ones the first go."""
    if not taken:
        return np.array(numbers, dtype=np.intp)
    budget, rest = dict(taken), []
    for number in numbers:
        if budget.get(number, 0):
            budget[number] -= 1
        else:
            rest.append(number)
    return np.array(rest, dtype=np.intp)


def _first_match(synonymous: NDArray[np.bool_], _: Any) -> list[tuple[int, int]]:
    """Each row takes the first column that is still free.

    Taken from either side, the pairs are the same: the first row that has a partner is also the
    first choice of that partner, and so on with the rest. So scores are exactly symmetric.
    """
    free = dict.fromkeys(range(synonymous.shape[1]))
    pairs = []
    for row in np.flatnonzero(synonymous.any(axis=1)).tolist():
        column = next((column for column in free if synonymous[row, column]), None)
        if column is not None:
            del free[column]
            pairs.append((row, column))
    return pairs


def _optimal_match(
    synonymous: NDArray[np.bool_], similarity: NDArray[np.float64]
) -> list[tuple[int, int]]:
    """As many pairs as possible, and of all such choices the one of the greatest similarity."""
    # cosines lie in [-1, 1]: one pair more outweighs whatever the others lose
    weight = np.where(synonymous, 2 * sum(synonymous.shape) + similarity, 0.0)
    rows, columns = linear_sum_assignment(weight, maximize=True)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [pair for pair in pairs if synonymous[pair]]


_MATCHINGS: dict[str, Callable[[NDArray[np.bool_], NDArray[np.float64]], list[tuple[int, int]]]] = {
    "first": _first_match,
    "optimal": _optimal_match,
}

__all__ = [
    "Cosines",
    "Encode",
    "Matching",
    "Pool",
    "Synonyms",
    "Triple",
    "pool_phrases",
    "pool_relations",
    "wordnet_synonyms",
]
