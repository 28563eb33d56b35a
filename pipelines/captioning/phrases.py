"""Phrases of a caption: extraction, scoring against the image, and removal from the text."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .capture_parsing import URBAN_STOP_WORDS
from .grammar import Attribute, attributes_of, first_of_word, object_name, read_documents
from .records import Phrase, PhraseSource, SceneGraph
from .scene_graph import split_sentences
from .text import names_any

RULES_VERSION = "filter-1"
"""Changed whenever other phrases are scored or kept; part of the ledger's keys."""
THRESHOLD = 0.01
# A detector cannot find a "scene" or a "sense of calm"; rejecting these words would remove
# sentences such as "The scene shows a street".
_MORE = """
    access activity addition contrast day density depth design direction environment flow height
    interconnectedness location motion openness overview proximity purpose scale size surroundings
    vastness view
"""
_NOT_VISUAL = URBAN_STOP_WORDS | frozenset(_MORE.split())
# amounts, which are not visible in a single object
_AMOUNTS = frozenset(
    ("different", "diverse", "few", "many", "multiple", "numerous", "overall", "several", "various")
)


# ---- extraction ---------------------------------------------------------------------------------


def phrases_of(
    sentences: Sequence[str],
    graphs: Sequence[SceneGraph],
    local_captions: Sequence[str] = (),
    local_graphs: Sequence[Sequence[SceneGraph]] = (),
) -> tuple[Phrase, ...]:
    """Extract the phrases of a caption and its local captions, without scores.

    Phrases are objects, and attributes with their object ("red car"). Relations, non-visual nouns
    ("scene", "atmosphere") and amounts ("several car") are listed and always kept, since an object
    detector cannot score them.

    Args:
        sentences: Sentences of the caption.
        graphs: One scene graph per sentence.
        local_captions: Captions of the salient boxes.
        local_graphs: Scene graphs of each local caption, one per sentence.
    """
    found: list[Phrase] = []
    for number, (_, graph) in enumerate(zip(sentences, graphs, strict=True)):
        found += _phrases(graph, "caption", number)
    for number, (_, several) in enumerate(zip(local_captions, local_graphs, strict=True)):
        for graph in several:
            found += _phrases(graph, "local", number)
    return tuple(dict.fromkeys(found))


def _phrases(graph: SceneGraph, source: PhraseSource, sentence: int) -> Iterator[Phrase]:
    for head in graph.objects:
        yield Phrase(head, "object", source, sentence, reason=_why_not_asked(head))
    for head, attribute in graph.attributes:
        reason = "not_visual" if attribute.lower() in _AMOUNTS else _why_not_asked(head)
        yield Phrase(f"{attribute} {head}", "attribute", source, sentence, reason=reason)
    for relation in graph.relations:
        yield Phrase(" ".join(relation), "relation", source, sentence, reason="relation")


def _why_not_asked(head: str) -> str:
    return "not_visual" if head.lower().rpartition(" ")[2] in _NOT_VISUAL else ""


def texts_to_ask(phrases: Collection[Phrase]) -> list[str]:
    """Distinct texts to score with the detector, sorted."""
    return sorted({phrase.text for phrase in phrases if not phrase.reason})


# ---- scoring ------------------------------------------------------------------------------------


def score_phrases(
    phrases: Sequence[Phrase],
    texts: Sequence[str],
    scores: NDArray[np.float32],
    threshold: float = THRESHOLD,
) -> tuple[Phrase, ...]:
    """Add detector scores to phrases; those below the threshold are not kept.

    Args:
        phrases: Phrases from `phrases_of`.
        texts: Scored texts, including all of `texts_to_ask(phrases)`.
        scores: Detector score of each text, `(texts,)`; NaN for texts that are too long.
        threshold: Lowest score that is kept.
    """
    threshold = float(np.float32(threshold))  # the precision of the scores
    score_of = dict(zip(texts, scores.tolist(), strict=True))
    scored = []
    for one in phrases:
        if one.reason:
            scored.append(one)
        elif np.isnan(score := score_of[one.text]):
            scored.append(replace(one, reason="too_long"))
        else:
            kept = score >= threshold
            reason = "" if kept else "below_threshold"
            scored.append(replace(one, score=score, kept=kept, reason=reason))
    return tuple(scored)


# ---- removal ------------------------------------------------------------------------------------

# clause boundaries
_CLAUSE = re.compile(r"(?:\s*[;,]\s*(?:and\s+|or\s+|while\s+|as well as\s+)?|\s+(?:and|while)\s+)")
_END = re.compile(r"[.!?][\"'”’)\]]*$")
_ARTICLE = re.compile(r"\b(an?)$", re.IGNORECASE)
_VOWEL = re.compile(r"(?!uni|use|usu|eu|one)[aeiou]", re.IGNORECASE)
_WORD = re.compile(r"[\w'’-]+")
_JOINED = re.compile(r"(?:,|\b(?:and|or))\s+$", re.IGNORECASE)
_JOINERS = (",", "and", "or")

Span = tuple[int, int]


def remove_phrases(text: str, things: Collection[str], attributes: Collection[str] = ()) -> str:
    """Remove rejected phrases from a caption.

    A clause that names a rejected object is removed; if it is the first clause, the sentence is.
    If only an attribute is rejected, such as "red car" without "car", only the attribute is
    removed. Words are never split.

    Args:
        text: Caption.
        things: Rejected objects, such as "construction site".
        attributes: Rejected phrases of an attribute and its object, such as "red car".
    """
    words = sorted({phrase for phrase in things if phrase.strip()})
    said = [phrase for phrase in attributes if not names_any(phrase, words)]
    kept = [
        _pruned(_without_attributes(sentence, said), words) for sentence in split_sentences(text)
    ]
    return " ".join(sentence for sentence in kept if sentence)


def _pruned(sentence: str, rejected: Sequence[str], places: Collection[int] = ()) -> str:
    """Remove clauses that name a phrase or contain one of the character positions."""
    end = _END.search(sentence)
    body = sentence[: end.start()] if end else sentence
    cuts = [match.start() for match in _CLAUSE.finditer(body)]
    spans = list(zip([0, *cuts], [*cuts, len(body)], strict=True))
    goes = [
        names_any(body[start:stop], rejected) or any(start <= place < stop for place in places)
        for start, stop in spans
    ]
    if not any(goes) and not names_any(sentence, rejected):
        return sentence
    if goes[0] or not any(goes):
        return ""
    left = "".join(body[slice(*span)] for span, gone in zip(spans, goes, strict=True) if not gone)
    return left.rstrip(" ,;") + (end[0] if end else ".")


def _without_attributes(sentence: str, phrases: Sequence[str]) -> str:
    # parsing is slow
    if not names_any(sentence, [phrase.rpartition(" ")[2] for phrase in phrases]):
        return sentence
    _, places = attribute_mentions(sentence, phrases)
    if places:
        sentence = _pruned(sentence, (), places)
    spans, _ = attribute_mentions(sentence, phrases) if sentence else ((), ())
    # mentions that the parser missed are matched literally, or removed with their clause
    sentence = cut(sentence, spans)
    return _pruned(cut(sentence, literal_mentions(sentence, phrases)), phrases)


def attribute_mentions(sentence: str, phrases: Collection[str]) -> tuple[list[Span], list[int]]:
    """Locate attributes in a sentence by its syntax.

    In "a fence and green trees" the fence is not green; in "large and green trees" the trees are
    large.

    Args:
        sentence: One sentence.
        phrases: Phrases of an attribute and its object, such as "red car".

    Returns:
        Character spans of attributes that can be removed ("red" of "a red car"), and positions of
        those whose clause has to be removed ("the car is red").
    """
    wanted = {phrase.lower() for phrase in phrases}
    (document,) = read_documents([sentence])
    everything = attributes_of(document)
    spans, places = set(), set()
    for found in everything:
        names = (object_name(found.noun), found.noun.lemma_.lower())
        if not wanted & {f"{found.text} {name}" for name in names}:
            continue
        if span := _tokens(found, {one.token.i for one in everything if one.noun == found.noun}):
            spans.add((document[span[0]].idx, document[span[1] - 1 : span[1]].end_char))
        else:
            places.add(found.token.idx)
    return sorted(spans), sorted(places)


def _tokens(found: Attribute, attributes: Collection[int]) -> Span | None:
    """Tokens to remove, with the comma or "and" that joins them to another attribute."""
    token, noun, document = found.token, found.noun, found.token.doc
    start, end = first_of_word(token).i, token.i + 1
    while start > 0 and document[start - 1].dep_ == "advmod" and document[start - 1].head == token:
        start -= 1
    if token.i > noun.i:  # "a train visible in the distance"
        return (start, end) if start == noun.i + 1 and token.dep_ in ("acl", "amod") else None
    after = end
    while after < noun.i and document[after].lower_ in _JOINERS:
        after += 1
    if after > end:  # "tall" of "tall and green trees"
        return start, after
    before = start
    while before > 0 and document[before - 1].lower_ in _JOINERS:
        before -= 1
    joined = before < start and before > 0 and document[before - 1].i in attributes
    return (before, end) if joined else (start, end)


def literal_mentions(sentence: str, phrases: Iterable[str]) -> list[Span]:
    """Spans of attributes directly before their noun, without a preceding "and" or comma."""
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


def cut(sentence: str, spans: Collection[Span]) -> str:
    """Remove spans of characters, and correct articles and capitalisation.

    "An old building" without "old" becomes "A building".
    """
    if not spans:
        return sentence
    left = sentence
    for start, end in reversed(_united(spans)):
        left = _join(left[:start].rstrip(), left[end:].lstrip())
    return left[:1].upper() + left[1:] if sentence[:1].isupper() else left


def _united(spans: Collection[Span]) -> list[Span]:
    """Merge overlapping spans, as of "old" and "new" in "old and new"."""
    united: list[Span] = []
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
