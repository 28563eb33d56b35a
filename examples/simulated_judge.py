"""Compare captions of the synthetic city with its ground truth.

The comparison is exact, as captions are written from facts by templates with known words for each
object. It is used by no model and independent of the pipeline's parsers.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from dataset_builders.synthetic.captioners import CAPTIONERS, reword
from dataset_builders.synthetic.street_view import SEASONS
from pipelines.captioning.simulated.truth import HOUSE_THINGS, ImageTruth, thing_of
from pipelines.captioning.simulated.words import (
    padding_sentences,
    possible_facts,
    stem,
    stems,
    wordings,
)

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_SAME_SENTENCE = 0.8  # minimum share of words shared with an opening or closing sentence


@dataclass(frozen=True)
class Judgement:
    """Objects of a caption compared with the ground truth.

    Attributes:
        true: Objects named that are in the image.
        false: Objects named that are not in the image.
        missed: Objects in the image that are not named.
    """

    true: frozenset[str]
    false: frozenset[str]
    missed: frozenset[str]

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        right = 2 * len(self.true)
        return right / max(1, right + len(self.false) + len(self.missed))


def judge(text: str, truth: ImageTruth) -> Judgement:
    """Compare a caption with the ground truth.

    Opening and closing sentences of the captioning models are ignored. Parts of an object in the
    image (the trees of a park) count neither as false nor as missed.
    """
    things = truth.things
    stated = frozenset(
        thing
        for sentence in _SENTENCE_END.split(text)
        if not _is_padding(stems(sentence))
        for thing in named_things(sentence, truth.view)
    )
    return Judgement(stated & things, stated - things - _parts(truth), things - stated)


def _parts(truth: ImageTruth) -> frozenset[str]:
    """Objects that are part of true ones, named in the wording of a fact."""
    told = [words for fact in truth.facts for words in wordings(fact, truth.view)]
    # split before each part: "factory sheds | behind fences"
    pieces = [piece for words in told for piece in re.split(r" (?:with|behind|and|of|in) ", words)]
    return frozenset(thing for piece in pieces for thing in named_things(piece, truth.view))


@cache
def _padding() -> tuple[frozenset[str], ...]:
    return tuple(words for words in padding_sentences() if len(words) > 2)


def _is_padding(words: Iterable[str]) -> bool:
    found = frozenset(words)
    return any(len(found & one) >= _SAME_SENTENCE * len(found) for one in _padding())


# names of objects that are shorter than in their facts
_OF_BOTH_VIEWS = {
    "open fields": ("field",),
    "detached houses with gardens": ("detached house",),
    "terraced houses in unbroken rows": ("terraced house",),
    "apartment blocks of middling height": ("apartment block",),
    "a park with lawns and trees": ("park",),
}
_SHORT_NAMES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "street_view": {
        **_OF_BOTH_VIEWS,
        "a dense wall of towers": ("wall of towers", "tower"),
        "a sports ground": ("sports ground",),
        "an open car park": ("car park",),
        "carriageway": ("avenue", "narrow street", "lane each way", "several lanes"),
        "season": SEASONS,
        "sky": ("sky",),
        "height": ("storey",),
        "facades": ("facade",),
        "river": ("river",),
    },
    "satellite": {
        **_OF_BOTH_VIEWS,
        "dense towers with long shadows": ("dense tower", "tower"),
        "large factory sheds and storage tanks": ("factory shed",),
        "sports fields with running tracks": ("sports field", "running track"),
        "car parks filled with parked cars": ("car park",),
        "open water": ("water",),
        "roofs": ("roof",),
        "street network": ("street network",),
        "railway line": ("railway",),
        "swimming pools": ("pool",),
    },
}


@cache
def names_of_things(view: str) -> dict[str, str]:
    """Map lower-case names to the objects that they name."""
    names: dict[str, str] = {}
    for fact in possible_facts(view):
        thing = thing_of(fact)
        if view == "street_view" and thing in HOUSE_THINGS:
            continue  # named with the sides of the street
        short = _SHORT_NAMES[view].get(thing, ())
        full = () if thing in ("carriageway", "season", "height", "facades") else (thing,)
        for plain in (*full, *short):
            for words in _numbers(plain):
                for form in (words, *(reword(words, one) for one in CAPTIONERS)):
                    names.setdefault(form, thing)
    return names


def _numbers(name: str) -> set[str]:
    """Singular and plural of a name, including the plural that the captioning models form."""
    last = name.split()[-1]
    singular = name.removesuffix(last) + stem(last)
    irregular = {"sky": "skies", "lorry": "lorries", "bus": "buses", "bench": "benches"}
    plural = name.removesuffix(last) + irregular.get(stem(last), f"{stem(last)}s")
    forms = {name, singular, plural, f"{singular}s"}
    return forms - {"buss"}


@cache
def _pattern(view: str) -> re.Pattern[str]:
    names = sorted(names_of_things(view), key=lambda name: (-len(name), name))
    return re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, names)) + r")(?![\w-])")


def named_things(text: str, view: str) -> list[str]:
    """Objects named in a text, in order; the longest of nested names counts."""
    names = names_of_things(view)
    return [names[match[0]] for match in _pattern(view).finditer(" ".join(text.lower().split()))]


__all__ = ["Judgement", "judge", "named_things"]
