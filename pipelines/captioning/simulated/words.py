"""Statements of the simulated captioners and their wordings.

The parsers of the pipeline are not used, since the simulation tests them.
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
"""Increased when the comparison of words changes; part of revisions."""
Statements = Sequence[tuple[frozenset[str], str]]
"""Content words and subject of each statement."""

WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")
_COMMON = (
    "a an and are as at be by for from in into is it its of on one or out over so that the their "
    "there these this those to two which while with"
)
_FUNCTION_WORDS = frozenset(_COMMON.split())

# attributes of the city's objects that its facts do not name
_ATTRIBUTES = (
    "bare black blue bright corrugated golden green grey leafy marked orange patched red silver "
    "tall walking weathered well-kept white wooden"
)


def stem(word: str) -> str:
    """Singular of a noun; other words are returned unchanged."""
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
    """Stems of the words of a text, without function words."""
    words = WORD.findall(text.lower())
    return frozenset(stem(word) for word in words if word not in _FUNCTION_WORDS)


@cache
def padding_stems() -> frozenset[str]:
    """Stems of openings, closings, phrases and amounts, which describe no object."""
    texts = [text for one in CAPTIONERS for text in (one.opening, one.closing, *one.joints)]
    amounts = [words for _, words in (*QUANTITIES, *SHARES)]
    others = "ground number lot row side left right end corner piece"
    return stems(" ".join([*texts, *DETAILS, *amounts, "a great many", others]))


def padding_sentences() -> Iterator[frozenset[str]]:
    """Stems of each sentence of the captioners' openings and closings."""
    for captioner in CAPTIONERS:
        for text in (captioner.opening, captioner.closing):
            yield from (stems(sentence) for sentence in re.split(r"(?<=[.!?])\s+", text))


def telling_stems(text: str) -> frozenset[str]:
    """Stems of the content words of a text, which can be true or false of an image."""
    return stems(text) - padding_stems()


def wordings(fact: Fact, view: str) -> list[str]:
    """Distinct wordings of a fact: the plain one and those of all captioners."""
    plain = phrase(fact, view)
    return list(dict.fromkeys([plain, *(reword(plain, one) for one in CAPTIONERS)]))


@cache
def possible_facts(view: str) -> tuple[Fact, ...]:
    """All facts that captioners can state about a view, true or invented, with any amount."""
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
    """Content words and subject of each possible fact in each wording."""
    return tuple(_statements(possible_facts(view), view))


@cache
def vocabulary(view: str) -> frozenset[str]:
    """Stems of words that can be true or false of a view."""
    words = frozenset().union(*(words for words, _ in possible_statements(view)))
    return words | telling_stems(_ATTRIBUTES) if view == "street_view" else words


def true_statements(truth: ImageTruth) -> Statements:
    """Content words and subject of all true statements about an image, facts first."""
    # includes the attributes of all objects, where facts only name the most common one
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
