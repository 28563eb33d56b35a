"""What the synthetic city's captioners can say of an image, and in which words.

No parser of the pipeline is used: what is simulated must not depend on what it tests.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from dataset_builders.synthetic.captioners import (
    CAPTIONERS,
    COVER_PHRASES,
    CROWDING,
    DETAILS,
    MESHES,
    PLURAL_QUANTITIES,
    QUANTITIES,
    ROADS,
    SATELLITE_FANCIES,
    SHARES,
    SIDE_PHRASES,
    SKIES,
    STATES,
    STOREYS,
    STREET_FANCIES,
    Fact,
    phrase,
    reword,
)
from dataset_builders.synthetic.scene import OBJECT_CLASSES
from dataset_builders.synthetic.street_view import SEASONS

from .truth import SIDES, ImageTruth, thing_of

WORDING_VERSION = "wording-1"
"""Raised when other words count as the same; part of revisions."""
Statements = Sequence[tuple[frozenset[str], str]]
"""Telling words of a statement, and what it is about."""

WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")
_COMMON = (
    "a an and are as at be by for from in into is it its of on one or out over so that the their "
    "there these this those to two which while with"
)
_FUNCTION_WORDS = frozenset(_COMMON.split())

# what the city's objects are, beside what its facts say
_ATTRIBUTES = (
    "bare black blue bright corrugated golden green grey leafy marked orange patched red silver "
    "tall walking weathered well-kept white wooden"
)


def stem(word: str) -> str:
    """A noun without its plural; other words as they are."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ses", "shes", "ches", "xes")) and not word.endswith(("uses", "ases")):
        return word[:-2]
    if word == "buses":
        return "bus"
    if word.endswith("rys"):
        return word[:-1]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us")) else word


def stems(text: str) -> frozenset[str]:
    """The words of a text without plurals, function words left out."""
    words = WORD.findall(text.lower())
    return frozenset(stem(word) for word in words if word not in _FUNCTION_WORDS)


@cache
def padding_stems() -> frozenset[str]:
    """Words of openings, closings, turns of phrase and amounts: they show nothing."""
    texts = [text for one in CAPTIONERS for text in (one.opening, one.closing, *one.joints)]
    amounts = [words for _, words in (*QUANTITIES, *SHARES)]
    others = "ground number lot row side left right end corner piece"
    return stems(" ".join([*texts, *DETAILS, *amounts, "a great many", others]))


def padding_sentences() -> Iterator[frozenset[str]]:
    """The stems of each sentence of the captioners' openings and closings."""
    for captioner in CAPTIONERS:
        for text in (captioner.opening, captioner.closing):
            yield from (stems(sentence) for sentence in re.split(r"(?<=[.!?])\s+", text))


def telling_stems(text: str) -> frozenset[str]:
    """The words of a text that can be true or false of an image."""
    return stems(text) - padding_stems()


def wordings(fact: Fact, view: str) -> list[str]:
    """How each of the captioners, and a plain one, tells a fact."""
    plain = phrase(fact, view)
    return list(dict.fromkeys([plain, *(reword(plain, one) for one in CAPTIONERS)]))


@cache
def possible_facts(view: str) -> tuple[Fact, ...]:
    """All that captioners can tell of a view, true or made up; amounts do not matter."""
    if view == "satellite":
        share, some = SHARES[0][1], PLURAL_QUANTITIES[0][1]
        return (
            *(Fact(words, share) for words in COVER_PHRASES.values()),
            *(Fact("roofs", words) for _, words in CROWDING),
            *(Fact("street network", words) for _, words in MESHES),
            Fact("railway line", "crossing the square"),
            Fact("swimming pools", some),
            Fact("round storage tanks", some),
            *SATELLITE_FANCIES,
        )
    return (
        *(Fact(side, words) for side in SIDES for words in SIDE_PHRASES.values()),
        *(Fact("carriageway", words) for words in ROADS.values()),
        *(Fact("season", season) for season in SEASONS),
        *(Fact("sky", words) for words in SKIES.values()),
        *(Fact("height", words) for _, words in STOREYS),
        *(Fact("facades", words) for _, words in STATES),
        *(Fact(name, some) for name in OBJECT_CLASSES for some in ("a single", "several")),
        *STREET_FANCIES,
    )


@cache
def possible_statements(view: str) -> Statements:
    """The telling words of each possible fact in each wording, and what it is about."""
    return tuple(_statements(possible_facts(view), view))


@cache
def vocabulary(view: str) -> frozenset[str]:
    """The words that can be true or false of a view."""
    words = frozenset().union(*(words for words, _ in possible_statements(view)))
    return words | telling_stems(_ATTRIBUTES) if view == "street_view" else words


def true_statements(truth: ImageTruth) -> Statements:
    """The telling words of all that is true of an image, and what it is about; facts first."""
    # the attribute of each object is true, not only the commonest
    objects = {(one.name, one.attribute) for one in truth.objects}
    facts = [
        Fact(name, f"{some} {word}".strip())
        for name, word in sorted(objects)
        for some in ("a single", "several")
    ]
    return list(_statements([*truth.facts, *facts], truth.view))


def _statements(facts: Iterable[Fact], view: str) -> Iterator[tuple[frozenset[str], str]]:
    for fact in facts:
        for words in wordings(fact, view):
            yield telling_stems(words), thing_of(fact)
