"""Answers that are no captions: found, named, and kept out.

`tidy_caption` mends what can be mended (headings, bullets, an opening remark, a half sentence at
the end); `check_caption` says why what is left cannot be used. Simple rules that can be read, since
what they do has to be explained in a report.
"""

import re
from collections.abc import Collection, Sequence

from dataset_builders.captions import has_template_token, strip_template, visible_text

REASONS = {
    "empty": "There is no text.",
    "template_token": "A token of a chat template, such as <|im_end|>, stands within the text.",
    "refusal": "The model says that it cannot or will not.",
    "too_short": "Fewer than 8 words.",
    "markup": "Code or JSON in place of prose.",
    "truncated": "The text ends within a sentence, and no whole sentence comes before.",
    "repeating": "A quarter of the text has been said before, word for word.",
    "not_english": "Not English.",
    "echo": "The prompt comes back.",
    "injection": "The text speaks of instructions or prompts, or holds marks of a prompt.",
    "shorter": "A refined caption with fewer than 70 % of the words that it started from.",
    "restored": "A refined caption that names again what the image does not support.",
}
"""Why a caption is dropped, or a refined one not taken."""

FLAGS = {
    "cut_to_sentence": "A half sentence at the end was cut off.",
    "markup_removed": "Headings, bullets or emphasis were taken out.",
    "preamble_removed": "An opening remark to the user was taken out.",
    "speculation": "The text guesses: suggesting, gives a sense of, ...",
    "template_removed": "Tokens of a chat template around the text were taken out.",
}
"""What is worth knowing of a caption that is kept."""

MIN_WORDS = 8
MIN_SHARE = 0.7
NGRAM, MAX_REPEATED = 6, 0.25
ECHO_WORDS = 10
MIN_FUNCTION_WORDS, MIN_CLEAR_WORDS = 0.12, 0.04
MIN_ASCII, MIN_WORDS_TO_TELL = 0.85, 15

_ES = re.compile(r"(?:ss|sh|ch|x|zz)es$|^buses$")
_IRREGULAR = {
    "children": "child",
    "leaves": "leaf",
    "men": "man",
    "shelves": "shelf",
    "women": "woman",
}
_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s|$)")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
# a run of white space is never gone through from each of its places: linear time
_FENCE = re.compile(r"^\s*```\w*\s*|```\s*$")
_HEADING = re.compile(
    r"^[^\S\n]{0,3}#{1,6}\s[^\n]*\n?|^[^\S\n]*\*\*[^*\n]{1,60}\*\*:?[^\S\n]*$\n?", re.MULTILINE
)
_BULLET = re.compile(r"^[^\S\n]*(?:[-*•]|\d{1,2}[.)])\s+", re.MULTILINE)
_LABEL = re.compile(r"\*\*([^*\n]{1,60})\*\*")
_PREAMBLE = re.compile(
    r"^\s*(?:(?:sure|certainly|of course|okay|ok)\b[^.:!\n]{0,80}[.:!]\s*)?"
    r"(?:(?:here(?:'s| is| are)|below is|the following is)\b[^.:\n]{0,80}"
    r"\b(?:captions?|descriptions?|paragraph|summary|version)\b[^.:\n]{0,80}:\s*"
    r"|(?:refined |final |new |long )?(?:caption|description)\s*:\s*)?",
    re.IGNORECASE,
)
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
_SPECULATION = re.compile(
    r"\b(?:suggest(?:s|ing)|gives? (?:a|the) (?:sense|impression|feeling)|testament to|"
    r"it is likely|likely to be|possibly|perhaps|might be|may be|could be|appears? to be|"
    r"seems? to be|indicating)\b",
    re.IGNORECASE,
)
_COMMON = (
    "a an the this that these those of in on at to from by with without for and or but as is "
    "are was were be been being has have had it its they their there which who what where "
    "while also both some several many few more most other one two into through along over "
    "under between around near not no can"
)
_FUNCTION_WORDS = frozenset(_COMMON.split())
# other languages have the rest too: Portuguese "as", "no", German "in", "was", Italian "a"
_CLEAR = "the and of with is are there which this that from by their its"
_CLEAR_WORDS = frozenset(_CLEAR.split())


def tidy_caption(text: str, finish_reason: str = "stop") -> tuple[str, tuple[str, ...]]:
    """A model's answer as one paragraph of plain sentences, with what was mended.

    An answer with a token of a chat template within it is not cut: [`check_caption`] names it.

    Args:
        text: the answer.
        finish_reason: "length" says that the answer was cut.

    Returns:
        The text, and flags of [`FLAGS`], sorted.
    """
    flags = set()
    bare = strip_template(text)
    if bare != visible_text(text).strip():
        flags.add("template_removed")
    plain = _HEADING.sub("", _FENCE.sub("", _THOUGHT.sub("", bare)))
    plain = _LABEL.sub(r"\1", _BULLET.sub("", plain))
    if plain.strip() != bare:
        flags.add("markup_removed")
    shorter = _PREAMBLE.sub("", plain, count=1)
    if len(shorter) < len(plain.lstrip()):
        flags.add("preamble_removed")
    plain = " ".join(shorter.split())
    if len(plain) > 1 and plain[0] in "\"“'" and plain[-1] in "\"”'":
        plain = plain[1:-1].strip()
    whole = "" if has_template_token(plain) else _whole_sentences(plain)
    if whole and whole != plain:
        plain = whole
        flags.add("cut_to_sentence")
    if _SPECULATION.search(plain):
        flags.add("speculation")
    return plain, tuple(sorted(flags))


def check_caption(
    text: str,
    finish_reason: str = "stop",
    *,
    prompt: str = "",
    original: str | None = None,
    rejected: Collection[str] = (),
    kept: Collection[str] = (),
) -> str:
    """Why a tidied caption cannot be used.

    Args:
        text: from [`tidy_caption`].
        finish_reason: of the answer.
        prompt: that was asked; its own words must not come back.
        original: the caption a refined one started from, without what was rejected.
        rejected: phrases a refined caption must not name.
        kept: phrases the image supports; a rejected one within one of them does no harm.

    Returns:
        A code of [`REASONS`], or "" if it can be used.
    """
    words = _words(text)
    if not text.strip():
        return "empty"
    if has_template_token(text):
        return "template_token"
    if _REFUSAL.search(text):
        return "refusal"
    if _INJECTION.search(text):
        return "injection"
    if text.lstrip()[0] in "{[" or "```" in text:
        return "markup"
    if not _is_english(text, words):
        return "not_english"
    if len(words) < MIN_WORDS:
        return "too_short"
    if not _SENTENCE_END.search(text) and finish_reason == "length":
        return "truncated"
    if _is_repeating(words):
        return "repeating"
    if prompt and _shares_run(words, _words(prompt)):
        return "echo"
    if original is not None and len(words) < MIN_SHARE * len(_words(original)):
        return "shorter"
    if names_any(text, rejected, kept):
        return "restored"
    return ""


def names_any(text: str, phrases: Collection[str], within: Collection[str] = ()) -> bool:
    """Whether a text names one of the phrases, word by word, outside of the longer ones `within`.

    Case and plural endings do not matter.
    """
    folded = f" {' '.join(_stem(word) for word in _words(text))} "
    wanted = {_folded(phrase) for phrase in phrases} - {"  "}
    shields = {_folded(phrase) for phrase in within} - wanted
    for shield in sorted(shields, key=lambda one: (-len(one), one)):
        if any(phrase in shield for phrase in wanted):
            folded = folded.replace(shield, " · ")
    return any(phrase in folded for phrase in wanted)


def _folded(phrase: str) -> str:
    return f" {' '.join(_stem(word) for word in _words(phrase))} "


def _stem(word: str) -> str:
    """The word without its plural ending, or with another that all its forms share."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 3 or not word.endswith("s") or word.endswith("ss"):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[: -2 if _ES.search(word) else -1]


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _whole_sentences(text: str) -> str:
    """The text up to the end of its last whole sentence; empty if there is none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]].rstrip() if ends else ""


def _is_english(text: str, words: Sequence[str]) -> bool:
    letters = [char for char in text if char.isalpha()]
    if not letters or sum(char.isascii() for char in letters) < MIN_ASCII * len(letters):
        return False
    if len(words) < MIN_WORDS_TO_TELL:
        return True
    known = sum(word in _FUNCTION_WORDS for word in words)
    clear = sum(word in _CLEAR_WORDS for word in words)
    return known >= MIN_FUNCTION_WORDS * len(words) and clear >= MIN_CLEAR_WORDS * len(words)


def _is_repeating(words: Sequence[str]) -> bool:
    """A quarter of the runs of six words have come before."""
    runs = [tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)]
    return len(runs) - len(set(runs)) >= max(1, MAX_REPEATED * len(words))


def _shares_run(words: Sequence[str], others: Sequence[str]) -> bool:
    """Ten words of one in a row are in the other."""
    runs = {tuple(others[i : i + ECHO_WORDS]) for i in range(len(others) - ECHO_WORDS + 1)}
    return any(tuple(words[i : i + ECHO_WORDS]) in runs for i in range(len(words) - ECHO_WORDS + 1))


__all__ = ["FLAGS", "REASONS", "check_caption", "names_any", "tidy_caption"]
