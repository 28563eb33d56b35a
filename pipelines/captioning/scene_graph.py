"""Scene graphs out of text: sentences, FACTUAL's graph strings, and which parser to open.

A parser reads sentences and gives `records.SceneGraph`s. "factual" is the published one (a
flan-T5 checkpoint), "spacy" reads the grammar by rules and downloads nothing.
"""

import re
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, TypeVar

from .errors import CaptioningError
from .records import SceneGraph, SceneGraphParser

SENTENCE_RULES = "sentences-1"
"""Version of `split_sentences`; part of the parsers' revisions."""

_LIST_MARKER = re.compile(r"\s*(?:#+\s+|[-*•]\s+|\(?\d{1,2}[.)]\s+)?")
# a mark that may end a sentence, with the quotes and brackets that close over it
_END_MARK = re.compile(r"[.!?]+[\"'”’)\]*]*")
_LAST_WORD = re.compile(r"[A-Za-z.]+$")
_GLUED_WORD = re.compile(r"[a-z]{3,}$")
_ABBREVIATION = re.compile(
    r"approx|ave?|bldg|blvd|ca|cf|dept|dr|e\.?g|fig|ft|hwy|i\.?e|inc|jr|ltd|mr|mrs|ms|mt|nr|prof|rd"
    r"|sr|st|u\.k|u\.s|vs|[A-Z]",
)
_Item = TypeVar("_Item")
_FACT_END = re.compile(r"\)\s*,")


def split_sentences(text: str) -> list[str]:
    """The sentences of a caption, in their order.

    A sentence ends at a line's end, or at `.`, `!` or `?` before white space, unless an
    abbreviation or an initial stands there. Models forget the space after a full stop, so
    `charm.A train` is cut too. Marks of lists and headings are not part of a sentence.

    Args:
        text: any text.

    Returns:
        Pieces of the text as they stand in it, without white space at their ends, never empty.
    """
    return [text[start:end] for start, end in sentence_spans(text)]


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where the sentences of `split_sentences` start and end in the text."""
    return list(chain.from_iterable(_line_spans(text, *line) for line in _lines(text)))


def parse_graph_string(text: str) -> SceneGraph:
    """Read what FACTUAL's model writes, such as `( car , is , red ) , ( car , on , road )`.

    Facts are separated by `) ,` and have three parts separated by commas. `X is red` is an
    attribute; `X is 2` is a number, of which only the object is kept; anything else is a relation.
    A fact with another number of parts is left out, but if it is the only one, its first part is an
    object (as the reference reads it: FactualSceneGraph, github.com/zhuang-li/FactualSceneGraph).

    Args:
        text: any string; what cannot be read is left out.

    Returns:
        Objects, attributes and relations in the order in which they are first named, once each.
    """
    facts = [_parts(fact) for fact in _FACT_END.split(text)]
    objects: list[str] = []
    attributes: list[tuple[str, str]] = []
    relations: list[tuple[str, str, str]] = []
    if len(facts) == 1 and len(facts[0]) != 3:
        objects.append(facts[0][0])
    for fact in facts:
        if len(fact) != 3 or not all(fact):
            continue
        subject, predicate, value = fact
        objects.append(subject)
        if predicate != "is":
            objects.append(value)
            relations.append((subject, predicate, value))
        elif not value.isdigit():
            attributes.append((subject, value))
    return SceneGraph(_unique(filter(None, objects)), _unique(attributes), _unique(relations))


def merge_graphs(graphs: Iterable[SceneGraph]) -> SceneGraph:
    """All that several sentences say, in their order, once each."""
    graphs = list(graphs)
    return SceneGraph(
        _unique(chain.from_iterable(graph.objects for graph in graphs)),
        _unique(chain.from_iterable(graph.attributes for graph in graphs)),
        _unique(chain.from_iterable(graph.relations for graph in graphs)),
    )


def open_parser(name: str, **options: Any) -> SceneGraphParser:
    """The parser of that name.

    Args:
        name: "factual" or "spacy".
        options: of `factual_parser.open_factual_parser` (such as `checkpoint`, `device`) or
            `spacy_parser.SpacyParser` (`batch_size`).

    Raises:
        CaptioningError: there is no parser of that name.
        MissingDependencyError: its packages are not installed.
    """
    openers: dict[str, Callable[..., SceneGraphParser]] = {
        "factual": _open_factual,
        "spacy": _open_spacy,
    }
    if name not in openers:
        raise CaptioningError(f"Unknown parser {name!r}; use one of {sorted(openers)}.")
    return openers[name](**options)


def _open_factual(**options: Any) -> SceneGraphParser:
    from .factual_parser import open_factual_parser

    return open_factual_parser(**options)


def _open_spacy(**options: Any) -> SceneGraphParser:
    from .spacy_parser import SpacyParser

    return SpacyParser(**options)


def _lines(text: str) -> list[tuple[int, int]]:
    spans, start = [], 0
    for line in text.splitlines(keepends=True):
        spans.append((start, start + len(line)))
        start += len(line)
    return spans


def _line_spans(text: str, start: int, end: int) -> list[tuple[int, int]]:
    marker = _LIST_MARKER.match(text, start, end)
    start = marker.end() if marker else start
    ends = [mark.end() for mark in _END_MARK.finditer(text, start, end) if _ends(text, mark, end)]
    spans = zip([start, *ends], [*ends, end], strict=True)
    return [span for span in (_trimmed(text, *span) for span in spans) if span[0] < span[1]]


def _ends(text: str, mark: re.Match[str], line_end: int) -> bool:
    """Whether a sentence ends at this mark."""
    if mark.end() >= line_end:
        return True
    before, after = text[: mark.start()], text[mark.end()]
    if not after.isspace():  # a forgotten space: "its charm.A train track"
        return mark[0] == "." and after.isupper() and bool(_GLUED_WORD.search(before))
    if mark[0] != ".":
        return True
    word = _LAST_WORD.search(before[-20:])
    if word is None:
        return True
    # an initial is a capital; the others are written either way
    return not any(_ABBREVIATION.fullmatch(form) for form in (word[0], word[0].lower()))


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())


def _parts(fact: str) -> list[str]:
    return [part.strip() for part in fact.strip().strip("()").split(",")]


def _unique(items: Iterable[_Item]) -> tuple[_Item, ...]:
    return tuple(dict.fromkeys(items))


__all__ = [
    "SENTENCE_RULES",
    "merge_graphs",
    "open_parser",
    "parse_graph_string",
    "sentence_spans",
    "split_sentences",
]
