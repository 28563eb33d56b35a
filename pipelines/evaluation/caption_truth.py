"""What a caption of the simulated world names, and whether it is there: found by its words alone.

The world's captioners have a closed vocabulary, so that a thing is found by the words for it, in
the plural or not, and in each captioner's own. Openings and closings state nothing. How much or
where something is said to be is not judged, only whether it is there.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import pyarrow.parquet as pq

from dataset_builders.synthetic.captioners import (
    CAPTIONERS,
    COVER_PHRASES,
    OPENINGS,
    SATELLITE_FANCIES,
    SIDE_PHRASES,
    STREET_FANCIES,
    Fact,
)

SIDES = ("left side", "right side")  # facts that are about what stands there
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
ARTICLES = re.compile(r"^(?:a|an|the) ")


@dataclass(frozen=True)
class Mention:
    """A thing that a caption names.

    Attributes:
        start: of its words in the text.
        end: after them.
        thing: what is named.
        true: whether it is there.
    """

    start: int
    end: int
    thing: str
    true: bool


@dataclass(frozen=True)
class Truths:
    """What is on the images of a simulated city.

    Attributes:
        things: image_id -> what is there.
    """

    things: Mapping[str, frozenset[str]]

    def mentions(self, text: str, image_id: str) -> list[Mention]:
        """The things that a caption of an image names, in the order of the text."""
        there = self.things[image_id]
        found = []
        for start, end in _statements(text):
            for match in self._pattern.finditer(text, start, end):
                thing = self._named[" ".join(match.group().lower().split())]
                # the trees of a park are there where the park is
                part = any(re.search(rf"\b{re.escape(thing)}\b", other) for other in there)
                found.append(Mention(match.start(), match.end(), thing, thing in there or part))
        return found

    def missed(self, text: str, image_id: str) -> list[str]:
        """What is there and not named."""
        named = {mention.thing for mention in self.mentions(text, image_id)}
        return sorted(self.things[image_id] - named)

    @cached_property
    def _named(self) -> dict[str, str]:
        """Words in lower case -> the thing."""
        fancies = [_thing(fact) for fact in (*STREET_FANCIES, *SATELLITE_FANCIES)]
        phrases = map(_bare, (*SIDE_PHRASES.values(), *COVER_PHRASES.values()))
        known = {*fancies, *phrases, *(t for things in self.things.values() for t in things)}
        return {words: thing for thing in sorted(known) for words in _wordings(thing)}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """The longest of all words that fit."""
        longest = sorted(self._named, key=lambda words: (-len(words), words))
        options = (r"\s+".join(map(re.escape, one.split())) for one in longest)
        return re.compile(rf"\b(?:{'|'.join(options)})\b", re.IGNORECASE)


def read_truths(folder: Path, city: str) -> Truths | None:
    """The truth beside a synthetic dataset; None where there is none."""
    paths = sorted((folder / "truth" / city).glob("part-*.parquet"))
    if not paths:
        return None
    things = {}
    for path in paths:
        for row in pq.read_table(path, columns=["image_id", "statements"]).to_pylist():
            facts = (Fact(**one) for one in row["statements"])
            things[row["image_id"]] = frozenset(map(_thing, facts))
    return Truths(things)


def _thing(fact: Fact) -> str:
    return _bare(fact.value if fact.key in SIDES else fact.key)


def _bare(words: str) -> str:
    return ARTICLES.sub("", words)


def _wordings(thing: str) -> Iterable[str]:
    """In either number, and as each captioner says it."""
    for form in _forms(thing):
        yield form
        for captioner in CAPTIONERS:
            yield " ".join(captioner.words.get(word, word) for word in form.split())


def _forms(words: str) -> Iterable[str]:
    """With each plural in it also in the singular, and the last word in either number."""
    *others, last = [_numbers(word) for word in words.lower().split()]
    if len(last) == 1:
        # a plural of "bench" may be written "benchs": the captioners are simple
        last = (*last, f"{last[0]}s", f"{last[0]}es")
    return map(" ".join, product(*others, last))


def _numbers(word: str) -> tuple[str, ...]:
    """A plural and its singular; any other word alone."""
    if re.search(r"(?:ch|sh|ss)es$", word):
        return word, word[:-2]
    return (word, word[:-1]) if re.search(r"[^su]s$", word) else (word,)


def _statements(text: str) -> Iterable[tuple[int, int]]:
    """Where the sentences lie that state something."""
    start = 0
    for end in [*(m.end() for m in SENTENCE_END.finditer(text)), len(text)]:
        if text[start:end].strip() not in PADDING:
            yield start, end
        start = end


PADDING = frozenset(
    sentence
    for words in (
        *OPENINGS.values(),
        *(one.opening for one in CAPTIONERS),
        *(one.closing for one in CAPTIONERS),
    )
    for sentence in SENTENCE_END.split(words)
)

__all__ = ["Mention", "Truths", "read_truths"]
