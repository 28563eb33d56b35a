"""What captions say, and the CAPTURE score of any two of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType
from typing import Any

from .capture_matching import (
    Cosines,
    Encode,
    Matching,
    Pool,
    Synonyms,
    Triple,
    pool_phrases,
    pool_relations,
    wordnet_synonyms,
)

EPSILON = 1e-6
"""Keeps empty lists from dividing by zero; identical captions score this much less than 1."""


@dataclass(frozen=True)
class ParsedCaption:
    """What a caption says.

    Attributes:
        objects: things.
        attributes: of a thing, the words said of it. The things need not be among `objects`.
        relations: (subject, relation, object).
    """

    objects: frozenset[str] = frozenset()
    attributes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    relations: frozenset[Triple] = frozenset()

    def __post_init__(self) -> None:
        for name, words in [("objects", self.objects), *self.attributes.items()]:
            if isinstance(words, str):
                raise TypeError(f"{name!r} must be a set of words, got the string {words!r}.")
        of_things = {thing: frozenset(words) for thing, words in self.attributes.items()}
        relations: Any = frozenset(map(tuple, self.relations))
        if any(len(relation) != 3 for relation in relations):
            raise ValueError(f"Relations must have three parts, got {sorted(relations)}.")
        object.__setattr__(self, "objects", frozenset(self.objects))
        object.__setattr__(self, "attributes", MappingProxyType(of_things))
        object.__setattr__(self, "relations", relations)

    def __reduce__(self) -> tuple[Any, ...]:
        return ParsedCaption, (self.objects, dict(self.attributes), self.relations)

    def __hash__(self) -> int:
        return hash((self.objects, frozenset(self.attributes.items()), self.relations))

    def __bool__(self) -> bool:
        """Whether it says anything."""
        return bool(self.objects or self.relations or any(self.attributes.values()))

    def attribute_words(self) -> list[str]:
        """All attributes without their things, which CAPTURE does not look at."""
        return [word for _, words in sorted(self.attributes.items()) for word in sorted(words)]


@dataclass(frozen=True)
class CaptureScore:
    """CAPTURE of a candidate against a reference.

    Attributes:
        score: weighted mean of the three F1.
        object_f1: of the objects; precision is the share of the candidate that the reference has,
            recall the share of the reference that the candidate has.
        attribute_f1: of the attributes.
        relation_f1: of the relations.
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


class PairScorer:
    """Scores the pairs of some captions; phrases are embedded and compared at the start.

    Args:
        captions: of which pairs are to be scored.
        encode: phrases to unit vectors; called once.
        weights: of objects, attributes, relations.
        synonyms: whether two words mean the same; WordNet's by default.
        clamp: what is left over adds nothing below 0.
        matching: which synonyms are paired.
    """

    def __init__(
        self,
        captions: Sequence[ParsedCaption],
        encode: Encode,
        weights: Sequence[float],
        synonyms: Synonyms | None,
        clamp: bool,
        matching: Matching,
    ):
        self._weights, self._matching = _checked_weights(weights), matching
        synonyms = synonyms or wordnet_synonyms()
        objects = [sorted(caption.objects) for caption in captions]
        attributes = [caption.attribute_words() for caption in captions]
        relations = [sorted(caption.relations) for caption in captions]
        texts = (" ".join(relation) for caption in relations for relation in caption)
        cosines = Cosines(chain(*objects, *attributes, texts), encode)
        self._pools: tuple[Pool, ...] = (
            pool_phrases(objects, cosines, synonyms, clamp),
            pool_phrases(attributes, cosines, synonyms, clamp),
            pool_relations(relations, cosines, synonyms, clamp),
        )

    def __call__(self, candidate: int, reference: int) -> CaptureScore:
        """The score of two captions, by their numbers."""
        found = [self._compare(pool, candidate, reference) for pool in self._pools]
        f1 = [f1 for f1, _, _ in found]
        score = sum(weight * value for weight, value in zip(self._weights, f1, strict=True))
        return CaptureScore(score, *f1, *chain.from_iterable(rest for _, *rest in found))

    def _compare(self, pool: Pool, candidate: int, reference: int) -> tuple[float, float, float]:
        """F1, precision and recall."""
        in_candidate, in_reference = pool.match(candidate, reference, self._matching)
        precision = in_candidate / (len(pool.lists[candidate]) + EPSILON)
        recall = in_reference / (len(pool.lists[reference]) + EPSILON)
        return 2 * (precision * recall) / (precision + recall + EPSILON), precision, recall


def _checked_weights(weights: Sequence[float]) -> tuple[float, ...]:
    values = tuple(float(weight) for weight in weights)
    total = sum(values)
    if len(values) != 3 or min(values) < 0 or not 0 < total < math.inf:
        raise ValueError(
            "`weights` must be three finite numbers, of objects, attributes and relations, none "
            f"negative and not all 0; got {tuple(weights)}."
        )
    return tuple(value / total for value in values)


__all__ = ["EPSILON", "CaptureScore", "PairScorer", "ParsedCaption"]
