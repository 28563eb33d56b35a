"""Normalisation of scene graphs into the parsed captions that CAPTURE compares.

Heads and attributes are reduced to base forms. Elements whose words are not among the nouns of the
text are dropped, since parsers may invent objects. The reference tags nouns with NLTK, this module
with spaCy; they differ on few words.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence

from .capture import ParsedCaption
from .grammar import language_revision, tag_documents
from .records import SceneGraph
from .wordnet import ADJECTIVE, open_wordnet

RULES_VERSION = "parsed-1"
"""Changed whenever the rules change; part of `parsing_revision`."""

# Words for the image and its description, for impressions, and for amounts. Terms for the built
# environment are kept, however abstract: facade, traffic, infrastructure, neighborhood, layout.
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
    sentences: Sequence[str],
    graphs: Sequence[SceneGraph],
    stop_words: Collection[str] = URBAN_STOP_WORDS,
) -> ParsedCaption:
    """Merge and normalise the scene graphs of a caption's sentences.

    Objects are kept if they, or each of their words, are nouns of the text and not stop words;
    attributes and relations if their objects are nouns of the text. Unlike in the reference, case
    is ignored and the last word of a phrase is reduced to its base form: "Cars" becomes "car" and
    "parking lots" becomes "parking lot".

    Args:
        sentences: Sentences of the caption.
        graphs: One scene graph per sentence.
        stop_words: Objects to leave out.

    Raises:
        MissingDependencyError: WordNet or the tagger is missing.
    """
    tokens = (token for text in tag_documents(sentences) for token in text)
    nouns = {_thing(token.text) for token in tokens if token.tag_.startswith("NN")}

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
        frozenset(one for one in objects if one not in stop_words and backed(one)),
        {thing: frozenset(words) for thing, words in attributes.items()},
        frozenset(one for one in relations if backed(one[0]) and backed(one[2])),
    )


def parsing_revision() -> str:
    """Version of the tagger and of these rules."""
    return f"{RULES_VERSION}/{language_revision()}"


def _thing(head: str) -> str:
    *before, last = head.lower().split() or [""]
    return " ".join([*before, open_wordnet().singular(last)])
