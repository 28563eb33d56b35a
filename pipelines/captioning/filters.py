"""Filters that drop images and captions.

A filter is a function that returns a true value for an image or caption to drop; its name becomes
the drop reason. There are three kinds, with one table each:

* `TEXT_FILTERS`, called with an `Answer`, check the text of each answer;
* `IMAGE_FILTERS`, called with an image and its id, check images before any model is called;
* `CAPTION_FILTERS`, called with an image and a text, check the final caption of each candidate.

To add a filter, write the function and add it to a table; keyword arguments become options in the
recipe. A function outside this package is named as "package.module:function" and is a caption
filter. The phrase filter, which rewrites captions instead of dropping them, is in `phrases`.
"""

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from PIL import Image

from dataset_builders.captions import has_template_token

from .errors import CaptioningError, load_callable
from .image_filters import ImageTextScore, NearDuplicate, RunImages
from .text import SENTENCE_END, names_any, words_of

MIN_SHARE = 0.7
NGRAM, MAX_REPEATED = 6, 0.25
ECHO_WORDS = 10
MIN_FUNCTION_WORDS, MIN_CLEAR_WORDS = 0.12, 0.04
MIN_ASCII, MIN_WORDS_TO_TELL = 0.85, 15
PHRASES = "phrases"
"""Name of the phrase filter in a recipe."""

_REFUSAL = re.compile(
    r"\b(?:as an ai\b|as a language model|i(?:'m| am) (?:sorry|unable|not able)|i (?:cannot|can't|"
    r"can not|won't) (?:assist|help|describe|see|view|provide|process|comply|identify|analy[sz]e)|"
    r"(?:no|without an?) image (?:was |has been |is )?(?:provided|attached|uploaded)|"
    r"unable to (?:view|see|process|analy[sz]e) (?:the |this )?image)",
    re.IGNORECASE,
)
_INJECTION = re.compile(
    r"<<<|>>>|\b(?:ignore|disregard|forget) (?:(?:all|any|of|the|your|my|these) ){0,4}"
    r"(?:(?:previous|prior|above|earlier)\b|(?<=all )instructions\b|(?<=your )instructions\b)"
    r"|\bsystem prompt\b|\bmy instructions\b",
    re.IGNORECASE,
)
_COMMON = (
    "a an the this that these those of in on at to from by with without for and or but as is "
    "are was were be been being has have had it its they their there which who what where "
    "while also both some several many few more most other one two into through along over "
    "under between around near not no can"
)
_FUNCTION_WORDS = frozenset(_COMMON.split())
# function words that other languages lack, unlike "as", "no" (Portuguese) or "in", "was" (German)
_CLEAR = "the and of with is are there which this that from by their its"
_CLEAR_WORDS = frozenset(_CLEAR.split())


@dataclass(frozen=True)
class Answer:
    """Cleaned text of a model's answer, and its request.

    Attributes:
        finish_reason: "length" if the answer was truncated.
        prompt: Prompt, which the answer must not repeat.
        original: For a refined caption: the original caption without the rejected phrases.
        rejected: For a refined caption: phrases that it must not mention.
        kept: For a refined caption: phrases in which rejected ones are allowed.
    """

    text: str
    finish_reason: str = "stop"
    prompt: str = ""
    original: str | None = None
    rejected: Collection[str] = ()
    kept: Collection[str] = ()

    @cached_property
    def words(self) -> list[str]:
        """Words of the text in lower case."""
        return words_of(self.text)


# ---- text filters -------------------------------------------------------------------------------


def template_token(answer: Answer) -> bool:
    """The text contains a chat template token, such as <|im_end|>."""
    return has_template_token(answer.text)


def refusal(answer: Answer) -> bool:
    """The model says that it cannot or will not describe the image."""
    return bool(_REFUSAL.search(answer.text))


def injection(answer: Answer) -> bool:
    """The text mentions instructions or prompts, or contains prompt delimiters."""
    return bool(_INJECTION.search(answer.text))


def markup(answer: Answer) -> bool:
    """The text is code or JSON."""
    return answer.text.lstrip()[:1] in ("{", "[") or "```" in answer.text


def not_english(answer: Answer) -> bool:
    """The text is not in English."""
    letters, words = [char for char in answer.text if char.isalpha()], answer.words
    if not letters or sum(char.isascii() for char in letters) < MIN_ASCII * len(letters):
        return True
    if len(words) < MIN_WORDS_TO_TELL:
        return False
    known = sum(word in _FUNCTION_WORDS for word in words)
    clear = sum(word in _CLEAR_WORDS for word in words)
    return known < MIN_FUNCTION_WORDS * len(words) or clear < MIN_CLEAR_WORDS * len(words)


def too_short(answer: Answer, min_words: int = 8) -> bool:
    """The text has fewer than `min_words` words."""
    return len(answer.words) < min_words


def truncated(answer: Answer) -> bool:
    """The answer was truncated within its first sentence."""
    return answer.finish_reason == "length" and not SENTENCE_END.search(answer.text)


def repeating(answer: Answer) -> bool:
    """At least a quarter of the text repeats earlier text verbatim."""
    runs = _runs(answer.words, NGRAM)
    return len(runs) - len(set(runs)) >= max(1, MAX_REPEATED * len(answer.words))


def echo(answer: Answer) -> bool:
    """The text repeats ten consecutive words of the prompt."""
    prompt = _runs(words_of(answer.prompt), ECHO_WORDS)
    return not set(prompt).isdisjoint(_runs(answer.words, ECHO_WORDS))


def shorter(answer: Answer) -> bool:
    """A refined caption has fewer than 70 % of the words of the original."""
    original = answer.original
    return original is not None and len(answer.words) < MIN_SHARE * len(words_of(original))


def restored(answer: Answer) -> bool:
    """A refined caption mentions a rejected phrase again."""
    return names_any(answer.text, answer.rejected, answer.kept)


def _runs(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]


# ---- the list -----------------------------------------------------------------------------------

Table = dict[str, Callable[..., Any]]
TEXT_FILTERS: Table = {
    "template_token": template_token,
    "refusal": refusal,
    "injection": injection,
    "markup": markup,
    "not_english": not_english,
    "too_short": too_short,
    "truncated": truncated,
    "repeating": repeating,
    "echo": echo,
}
IMAGE_FILTERS: Table = {"near_duplicate": NearDuplicate}
CAPTION_FILTERS: Table = {"image_text_score": ImageTextScore}
REFINED_FILTERS: Table = {"shorter": shorter, "restored": restored}
"""Always applied to refined captions; the fallback is the original without rejected phrases."""

DEFAULT = (*TEXT_FILTERS, PHRASES)
"""The filters that "default" in a recipe stands for."""
Entry = str | Mapping[str, Mapping[str, Any]]


class Filters:
    """Filters of a recipe, in order.

    Args:
        entries: Names, or `{name: options}`; "default" stands for `DEFAULT`. Empty answers are
            always dropped.
        run: All images of the run, for filters that compare images.

    Raises:
        CaptioningError: Unknown filter or option.

    Attributes:
        phrases: Whether the phrase filter is enabled.
    """

    def __init__(self, entries: Iterable[Entry] = DEFAULT, run: RunImages | None = None):
        self.phrases = False
        self._image: Table = {}
        self._text: Table = {}
        self._caption: Table = {}
        for name, options in _expanded(entries):
            if name == PHRASES:
                self.phrases = True
            elif name in IMAGE_FILTERS:
                self._image[name] = _made(name, IMAGE_FILTERS[name], options)
            elif name in TEXT_FILTERS:
                self._text[name] = _made(name, TEXT_FILTERS[name], options)
            else:
                function = CAPTION_FILTERS.get(name) or _resolved(name)
                self._caption[name.rpartition(":")[2]] = _made(name, function, options)
        for one in self._image.values():
            if run is not None and hasattr(one, "prepare"):
                one.prepare(run)

    def image_reason(self, image: Image.Image, image_id: str) -> tuple[str, str]:
        """Reason and detail for dropping an image; empty strings if it is kept."""
        return _first(self._image, image, image_id)

    def text_reason(self, answer: Answer, only: Collection[str] | None = None) -> str:
        """Reason for dropping an answer; empty if it is kept.

        Args:
            answer: Cleaned answer; for a refined caption with its `original`.
            only: Names of the filters to apply; all by default.
        """
        if not answer.text.strip():
            return "empty"
        table = self._text if answer.original is None else self._text | REFINED_FILTERS
        if only is not None:
            table = {name: one for name, one in table.items() if name in only}
        return _first(table, answer)[0]

    def caption_reason(self, image: Image.Image, text: str) -> str:
        """Reason for dropping a final caption; empty if it is kept."""
        return _first(self._caption, image, text)[0]


def _first(table: Table, *subject: Any) -> tuple[str, str]:
    """Name and message of the first filter that applies."""
    for name, one in table.items():
        if said := one(*subject):
            return name, said if isinstance(said, str) else ""
    return "", ""


def _expanded(entries: Iterable[Entry]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for entry in entries:
        if entry == "default":
            yield from ((name, {}) for name in DEFAULT)
        elif isinstance(entry, str):
            yield entry, {}
        elif isinstance(entry, Mapping) and len(entry) == 1:
            name, options = next(iter(entry.items()))
            yield str(name), options or {}
        else:
            raise CaptioningError(
                f"An entry of `filters` must be a name or {{name: options}}, got {entry}."
            )


def _made(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Bind options to a function, or instantiate a class with them."""
    try:
        if isinstance(function, type):
            return function(**options)
        inspect.signature(function).bind_partial(**options)
    except (TypeError, ValueError) as error:
        raise CaptioningError(f"Invalid options of the filter {name!r}: {error}.") from error
    return partial(function, **options)


def _resolved(name: str) -> Callable[..., Any]:
    if ":" in name:
        return load_callable(name, "filters")
    known = ", ".join([*DEFAULT, *IMAGE_FILTERS, *CAPTION_FILTERS])
    raise CaptioningError(
        f"Unknown filter {name!r}; use {known}, or your own function, package.module:function."
    )
