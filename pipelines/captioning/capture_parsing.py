"""From the scene graphs of a caption's sentences to what CAPTURE compares.

Heads and attributes are reduced to their base forms, and what the text does not back is left out: a
parser may invent things, but their words are not among the nouns of the text. The reference finds
nouns with NLTK's tagger; here spaCy does. The two disagree on few words.
"""

import ast
import importlib.util
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from .capture import ParsedCaption
from .errors import CaptioningError, MissingDependencyError
from .grammar import language_revision, tag_documents
from .records import SceneGraph
from .wordnet import ADJECTIVE, open_wordnet

RULES_VERSION = "parsed-1"
"""Changes whenever the rules change; part of `parsing_revision`."""

StopWords = Literal["urban", "reference", "none"]

# Words about the picture and speech about it; impressions; parts and amounts. What a city consists
# of stays, however abstract: facade, intersection, traffic, infrastructure, neighborhood, layout.
_URBAN = """
    angle aspect backdrop background camera caption center centre closeup composition contrast
    corner depiction description detail display distance edge element end example exposure feature
    focus foreground frame front glimpse hue illustration image impression item lens middle
    moment object overview part perspective photo photograph photography picture piece point
    portion position presence representation scene screenshot section setting shade shot side
    snapshot someone something subject text thing tone top version viewer viewpoint visual

    appearance atmosphere balance beauty calm calmness character charm coexistence comfort
    combination complexity contribution convenience diversity dynamic emphasis energy essence
    experience feel feeling function harmony hint hustle idea importance indication influence
    interest interplay life lifestyle mood nature need opportunity possibility potential purpose
    reason result sense serenity spirit style theme time touch tranquility use variation vibe
    vibrancy way

    abundance amount array bit couple dozen group handful kind level lot majority mix mixture
    multitude number pair plenty plethora range series set sort type variety
"""
URBAN_STOP_WORDS = frozenset(_URBAN.split())


def parsed_caption(
    sentences: Sequence[str], graphs: Sequence[SceneGraph], stop_words: StopWords = "urban"
) -> ParsedCaption:
    """The content of a caption, as CAPTURE compares it.

    Objects are kept if they, or each of their words, are nouns of the text and no stop words;
    attributes and relations if the things they refer to are nouns of the text. Unlike in the
    reference, case does not matter and of a phrase the last word is brought to its base form:
    "Cars" is "car" and "parking lots" is "parking lot".

    Args:
        sentences: Sentences of the caption.
        graphs: One graph per sentence.
        stop_words: Name of a list, see `stop_words_of`.

    Raises:
        MissingDependencyError: WordNet or the tagger is missing.
        CaptioningError: There is no such list of stop words.
    """
    nouns = set(map(_thing, nouns_of(sentences)))
    ignored = stop_words_of(stop_words)

    def backed(thing: str) -> bool:
        return thing in nouns or all(word in nouns for word in thing.split(" "))

    objects = {_thing(head) for graph in graphs for head in graph.objects}
    relations = {
        (_thing(subject), " ".join(words.lower().split()), _thing(other))
        for graph in graphs
        for subject, words, other in graph.relations
    }
    attributes: dict[str, set[str]] = defaultdict(set)
    for head, word in (fact for graph in graphs for fact in graph.attributes):
        thing = _thing(head)
        attribute = open_wordnet().lemma(" ".join(word.lower().split()), ADJECTIVE)
        if " of" not in attribute and backed(thing):
            attributes[thing].add(attribute)
    return ParsedCaption(
        frozenset(one for one in objects if one not in ignored and backed(one)),
        {thing: frozenset(words) for thing, words in attributes.items()},
        frozenset(one for one in relations if backed(one[0]) and backed(one[2])),
    )


def parsing_revision() -> str:
    """What a parse depends on besides the scene graphs: the tagger and these rules."""
    return f"{RULES_VERSION}/{language_revision()}"


def nouns_of(texts: Iterable[str]) -> list[str]:
    """The nouns (common and proper, singular and plural) as written."""
    documents = tag_documents(texts)
    return [token.text for text in documents for token in text if token.tag_.startswith("NN")]


@lru_cache(maxsize=3)
def stop_words_of(name: StopWords) -> frozenset[str]:
    """A list of words that are no objects of a caption.

    Args:
        name: "urban" (ours, for captions of cities), "reference" (that of CAPTURE's reference
            implementation, read from its package without importing it; it also removes *facade,
            intersection, traffic, infrastructure*, ...) or "none".

    Raises:
        MissingDependencyError: The reference's package is not installed.
        CaptioningError: There is no list of that name.
    """
    if name == "urban":
        return URBAN_STOP_WORDS
    if name == "none":
        return frozenset()
    if name != "reference":
        raise CaptioningError(f'Unknown stop words {name!r}; use "urban", "reference" or "none".')
    package = importlib.util.find_spec("capture_metric")
    if package is None or package.origin is None:
        raise MissingDependencyError(
            "The reference's stop words are those of its own package: "
            '`pip install --no-deps capture-metric==0.1.13`. Or use the stop words "urban".'
        )
    source = (Path(package.origin).parent / "stop_words.py").read_text(encoding="utf-8")
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign):
            return frozenset(ast.literal_eval(statement.value))
    raise CaptioningError(f"{package.origin} is an unknown version of capture-metric: no words.")


def _thing(head: str) -> str:
    *before, last = head.lower().split() or [""]
    return " ".join([*before, open_wordnet().singular(last)])


__all__ = ["URBAN_STOP_WORDS", "nouns_of", "parsed_caption", "parsing_revision", "stop_words_of"]
