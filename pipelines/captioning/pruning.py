"""Attributes taken out of a sentence, so that what is left can be read.

Which words say an attribute of which noun is a matter of grammar: in "a fence and green trees" the
fence is not green, in "large and green trees" the trees are large.
"""

import re
from collections.abc import Collection, Iterable

from .grammar import Attribute, attributes_of, first_of_word, object_name, read_documents
from .guards import names_any

_ARTICLE = re.compile(r"\b(an?)$", re.IGNORECASE)
_VOWEL = re.compile(r"(?!uni|use|usu|eu|one)[aeiou]", re.IGNORECASE)
_WORD = re.compile(r"[\w'’-]+")
_JOINED = re.compile(r"(?:,|\b(?:and|or))\s+$", re.IGNORECASE)
_JOINERS = (",", "and", "or")


def attribute_mentions(
    sentence: str, phrases: Collection[str]
) -> tuple[list[tuple[int, int]], list[int]]:
    """Where a sentence says one of the phrases.

    Args:
        sentence: one sentence.
        phrases: of an attribute and its thing, such as "red car".

    Returns:
        Spans of characters that can go without loss ("red" of "a red car"), and places of
        attributes that are what their clause says ("the car is red").
    """
    wanted = {phrase.lower() for phrase in phrases}
    (document,) = read_documents([sentence])
    everything = attributes_of(document)
    spans, places = set(), set()
    for found in everything:
        names = (object_name(found.noun), found.noun.lemma_.lower())
        if not wanted & {f"{found.text} {name}" for name in names}:
            continue
        if span := _span(found, {one.token.i for one in everything if one.noun == found.noun}):
            spans.add((document[span[0]].idx, document[span[1] - 1 : span[1]].end_char))
        else:
            places.add(found.token.idx)
    return sorted(spans), sorted(places)


def literal_mentions(sentence: str, phrases: Iterable[str]) -> list[tuple[int, int]]:
    """Where the first word of a phrase stands right before the others, joined to none before it."""
    words = list(_WORD.finditer(sentence))
    found = set()
    for attribute, *head in filter(None, (phrase.lower().split() for phrase in phrases)):
        for number, word in enumerate(words):
            following = words[number + 1 : number + 1 + len(head)]
            if not following or word[0].lower() != attribute:
                continue
            rest = sentence[following[0].start() : following[-1].end()]
            between = sentence[word.end() : following[0].start()]
            joined = _JOINED.search(sentence[: word.start()])
            if between.isspace() and not joined and names_any(rest, [" ".join(head)]):
                found.add(word.span())
    return sorted(found)


def cut(sentence: str, spans: Collection[tuple[int, int]]) -> str:
    """The sentence without these characters, articles and capital put right.

    "An old building", less "old", is "A building".
    """
    if not spans:
        return sentence
    left = sentence
    for start, end in reversed(_united(spans)):
        left = _join(left[:start].rstrip(), left[end:].lstrip())
    return left[:1].upper() + left[1:] if sentence[:1].isupper() else left


def _united(spans: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that overlap become one, as in "old and new", less both."""
    united: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if united and start <= united[-1][1]:
            united[-1] = (united[-1][0], max(end, united[-1][1]))
        else:
            united.append((start, end))
    return united


def _join(before: str, after: str) -> str:
    article = _ARTICLE.search(before)
    if article and after[:1].isalpha():
        before = before[: article.end() - len(article[1]) + 1]
        before += "n" if _VOWEL.match(after) else ""
    space = before and before[-1] not in '("“-' and after[:1] not in ',.;:!?)"”'
    return f"{before} {after}" if space else before + after


def _span(found: Attribute, attributes: Collection[int]) -> tuple[int, int] | None:
    """The tokens to leave out, with the comma or the "and" that joined them to another."""
    token, noun, document = found.token, found.noun, found.token.doc
    start, end = first_of_word(token).i, token.i + 1
    while start > 0 and document[start - 1].dep_ == "advmod" and document[start - 1].head == token:
        start -= 1
    if token.i > noun.i:  # "a train visible in the distance"
        return (start, end) if start == noun.i + 1 and token.dep_ in ("acl", "amod") else None
    after = end
    while after < noun.i and document[after].lower_ in _JOINERS:
        after += 1
    if after > end:  # "tall and green trees", less "tall"
        return start, after
    before = start
    while before > 0 and document[before - 1].lower_ in _JOINERS:
        before -= 1
    joined = before < start and before > 0 and document[before - 1].i in attributes
    return (before, end) if joined else (start, end)


__all__ = ["attribute_mentions", "cut"]
