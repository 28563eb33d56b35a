"""Visual elements of a caption: which it names, which the image supports, the text without others.

The reference runs every phrase in a competition within its sentence; the paper speaks of each
phrase's own score. Both are here, by their names.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .guards import names_any
from .pruning import attribute_mentions, cut, literal_mentions
from .records import Detection, Phrase, PhraseSource, SceneGraph
from .scene_graph import split_sentences
from .stop_words import URBAN_STOP_WORDS

RULES_VERSION = "filter-1"
"""Goes up with every change of what is asked or kept; part of the ledger's keys."""
THRESHOLD = 0.01
NMS_IOU = 0.1
Mode = Literal["independent", "reference"]
RELATION, NOT_VISUAL, TOO_LONG = "relation", "not_visual", "too_long"
BELOW_THRESHOLD, NOT_ARG_MAX = "below_threshold", "not_arg_max"
REASONS = {
    RELATION: "Relations are not asked of the detector.",
    NOT_VISUAL: "It names nothing that has a shape: the picture, an impression, an amount.",
    TOO_LONG: "The phrase has more tokens than the detector reads.",
    BELOW_THRESHOLD: "Its score is below the threshold: the image does not support it.",
    NOT_ARG_MAX: "Wherever it is seen, another phrase of its sentence is seen better.",
}
"""Why a phrase was dropped, or has no score."""

# A detector finds no "scene" and no "sense of calm": asked of it, they would strike out "The scene
# shows a street". So heads that are no objects of a caption are not asked, nor are these:
_MORE = """
    access activity addition contrast day density depth design direction environment flow height
    interconnectedness location motion openness overview proximity purpose scale size surroundings
    vastness view
"""
_NOT_VISUAL = URBAN_STOP_WORDS | frozenset(_MORE.split())
# said of many things, and not to be seen at any one of them
_AMOUNTS = frozenset(
    ("different", "diverse", "few", "many", "multiple", "numerous", "overall", "several", "various")
)
# where a sentence can be cut and both sides still be read
_CLAUSE = re.compile(r"(?:\s*[;,]\s*(?:and\s+|or\s+|while\s+|as well as\s+)?|\s+(?:and|while)\s+)")
_END = re.compile(r"[.!?][\"'”’)\]]*$")


def phrases_of(
    sentences: Sequence[str],
    graphs: Sequence[SceneGraph],
    local_captions: Sequence[str] = (),
    local_graphs: Sequence[Sequence[SceneGraph]] = (),
) -> tuple[Phrase, ...]:
    """Every visual element of a caption and of its local captions, not yet scored.

    Objects by their heads, and each attribute with its head as they would be said ("red car").
    Relations are listed and kept: a detector of things cannot tell them. So are names of what has
    no shape ("scene", "atmosphere") and amounts ("several car").

    Args:
        sentences: of the caption.
        graphs: of the sentences.
        local_captions: of the salient boxes.
        local_graphs: of each local caption, a graph for each of its sentences.
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
        reason = NOT_VISUAL if attribute.lower() in _AMOUNTS else _why_not_asked(head)
        yield Phrase(f"{attribute} {head}", "attribute", source, sentence, reason=reason)
    for relation in graph.relations:
        yield Phrase(" ".join(relation), "relation", source, sentence, reason=RELATION)


def _why_not_asked(head: str) -> str:
    return NOT_VISUAL if head.lower().rpartition(" ")[2] in _NOT_VISUAL else ""


def texts_to_ask(phrases: Collection[Phrase]) -> list[str]:
    """What is to be asked of the detector, each text once, sorted."""
    return sorted({phrase.text for phrase in phrases if not phrase.reason})


def score_phrases(
    phrases: Sequence[Phrase],
    detection: Detection,
    texts: Sequence[str],
    mode: Mode = "independent",
    threshold: float = THRESHOLD,
) -> tuple[Phrase, ...]:
    """The phrases with their scores, and whether they are kept.

    Args:
        phrases: from [`phrases_of`].
        detection: of `texts`.
        texts: the columns of the detection; all of [`texts_to_ask`] among them.
        mode: "independent": a phrase's score is its greatest over the patches; below the threshold
            it is dropped (the paper). "reference": the greatest over the patches where it is the
            best of its sentence's phrases, after class-agnostic suppression of overlapping boxes.
            A thing with attributes takes part by these alone, as there ("red car", not "car"), and
            fares as the best of them.
        threshold: of the score.
    """
    threshold = float(np.float32(threshold))  # as exact as the scores are
    column = {text: number for number, text in enumerate(texts)}
    with np.errstate(invalid="ignore"):
        own = detection.scores.max(axis=0) if len(detection.scores) else np.zeros(len(texts))
    asked = [one for one in phrases if not one.reason and not np.isnan(own[column[one.text]])]
    best = {one: float(own[column[one.text]]) for one in asked}
    if mode == "reference":
        best = _competition(asked, detection, column, threshold)
    scored = []
    for one in phrases:
        if one.reason:
            scored.append(one)
        elif one not in best:
            scored.append(replace(one, reason=TOO_LONG))
        else:
            score = best[one]
            reason = "" if score >= threshold else BELOW_THRESHOLD
            if reason and own[column[one.text]] >= threshold:
                reason = NOT_ARG_MAX
            scored.append(replace(one, score=score, kept=not reason, reason=reason))
    return tuple(scored)


def _competition(
    phrases: Sequence[Phrase], detection: Detection, column: dict[str, int], threshold: float
) -> dict[Phrase, float]:
    """The score of each phrase where it is the best of its sentence; 0 where it is nowhere."""
    groups: dict[tuple[PhraseSource, int], list[Phrase]] = defaultdict(list)
    for one in phrases:
        groups[one.source, one.sentence].append(one)
    best: dict[Phrase, float] = {}
    for group in groups.values():
        said = _attributes(group)
        rivals = [one for one in group if one not in said]
        scores = detection.scores[:, [column[one.text] for one in rivals]]
        top, winner = scores.max(axis=1), scores.argmax(axis=1)
        patches = _suppress(detection.boxes, top, threshold)
        for number, one in enumerate(rivals):
            won = patches[winner[patches] == number]
            best[one] = float(top[won].max()) if len(won) else 0.0
        for one, attributes in said.items():
            best[one] = max(best[attribute] for attribute in attributes)
    return best


def _attributes(group: Sequence[Phrase]) -> dict[Phrase, list[Phrase]]:
    """The objects that have attributes, with their attributes' phrases."""
    objects = sorted((one for one in group if one.kind == "object"), key=lambda one: -len(one.text))
    said: dict[Phrase, list[Phrase]] = defaultdict(list)
    for one in group:
        if one.kind == "attribute":  # a "red traffic light" is no "light"
            heads = (head for head in objects if one.text.endswith(f" {head.text}"))
            if (head := next(heads, None)) is not None:
                said[head].append(one)
    return dict(said)


def _suppress(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], threshold: float
) -> NDArray[np.int64]:
    """The patches over the threshold that overlap no better one."""
    import torch
    from torchvision.ops import nms

    over = np.flatnonzero(scores >= threshold)
    kept = nms(torch.from_numpy(boxes[over]), torch.from_numpy(scores[over]), NMS_IOU)
    return np.asarray(over[kept.numpy()])


def remove_phrases(text: str, things: Collection[str], attributes: Collection[str] = ()) -> str:
    """The text without what is rejected, cut where it can be cut.

    The clause goes that names a rejected thing; with its first clause the whole sentence goes. Of
    "a red car", with "red car" a rejected attribute and "car" no rejected thing, only "red" goes.
    Words are never cut.

    Args:
        text: a caption.
        things: rejected phrases; "construction site" is one thing.
        attributes: rejected phrases of an attribute and its thing.
    """
    words = sorted({phrase for phrase in things if phrase.strip()})
    said = [phrase for phrase in attributes if not names_any(phrase, words)]
    kept = [
        _pruned(_without_attributes(sentence, said), words) for sentence in split_sentences(text)
    ]
    return " ".join(sentence for sentence in kept if sentence)


def _pruned(sentence: str, rejected: Sequence[str], places: Collection[int] = ()) -> str:
    """What is left of a sentence without clauses that name a phrase or hold one of the places."""
    end = _END.search(sentence)
    body = sentence[: end.start()] if end else sentence
    cuts = list(_CLAUSE.finditer(body))
    starts = [0, *(cut.start() for cut in cuts)]
    stops = [*(cut.start() for cut in cuts), len(body)]
    clauses = [body[start:stop] for start, stop in zip(starts, stops, strict=True)]
    goes = [
        names_any(clause, rejected) or any(start <= place < stop for place in places)
        for clause, start, stop in zip(clauses, starts, stops, strict=True)
    ]
    if not any(goes) and not names_any(sentence, rejected):
        return sentence
    if goes[0] or not any(goes):
        return ""
    left = "".join(clause for clause, gone in zip(clauses, goes, strict=True) if not gone)
    return left.rstrip(" ,;") + (end[0] if end else ".")


def _without_attributes(sentence: str, phrases: Sequence[str]) -> str:
    # the grammar is asked only where it matters
    heads = [phrase.rpartition(" ")[2] for phrase in phrases]
    if not names_any(sentence, heads):
        return sentence
    _, places = attribute_mentions(sentence, phrases)
    if places:
        sentence = _pruned(sentence, (), places)
    spans, _ = attribute_mentions(sentence, phrases) if sentence else ((), ())
    # what the grammar does not see goes by its words, or else with its clause
    sentence = cut(sentence, spans)
    return _pruned(cut(sentence, literal_mentions(sentence, phrases)), phrases)


__all__ = [
    "NMS_IOU",
    "REASONS",
    "RULES_VERSION",
    "THRESHOLD",
    "phrases_of",
    "remove_phrases",
    "score_phrases",
    "texts_to_ask",
]
