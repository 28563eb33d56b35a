"""Cleaning of answers, and search for phrases in captions."""

import re
from collections.abc import Collection

from dataset_builders.captions import has_template_token, strip_template, visible_text

# linear time: no pattern scans a run of white space from each of its positions
SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s|$)")
_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
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
_SPECULATION = re.compile(
    r"\b(?:suggest(?:s|ing)|gives? (?:a|the) (?:sense|impression|feeling)|testament to|"
    r"it is likely|likely to be|possibly|perhaps|might be|may be|could be|appears? to be|"
    r"seems? to be|indicating)\b",
    re.IGNORECASE,
)
_ES = re.compile(r"(?:ss|sh|ch|x|zz)es$|^buses$")
_IRREGULAR = {
    "children": "child",
    "leaves": "leaf",
    "men": "man",
    "shelves": "shelf",
    "women": "woman",
}


def tidy_caption(text: str) -> tuple[str, tuple[str, ...]]:
    """Clean a model's answer into one paragraph of plain sentences.

    Answers with a chat template token within the text are not shortened, since the filter
    `template_token` drops them.

    Returns:
        The text, and sorted flags: "cut_to_sentence" (incomplete last sentence removed),
        "markup_removed" (headings, bullets, emphasis), "preamble_removed" (remark to the user),
        "speculation" (not removed: "suggesting", "gives a sense of"), "template_removed".
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
    ends = [] if has_template_token(plain) else [end.end() for end in SENTENCE_END.finditer(plain)]
    if ends and ends[-1] < len(plain):
        plain = plain[: ends[-1]]
        flags.add("cut_to_sentence")
    if _SPECULATION.search(plain):
        flags.add("speculation")
    return plain, tuple(sorted(flags))


def words_of(text: str) -> list[str]:
    """Words of a text in lower case, without numbers and punctuation."""
    return [word.lower() for word in _WORD.findall(text)]


def names_any(text: str, phrases: Collection[str], within: Collection[str] = ()) -> bool:
    """Whether a text contains one of the phrases as whole words, ignoring case and plural endings.

    Args:
        text: Any text.
        phrases: Phrases to search for.
        within: Longer phrases in which occurrences are ignored.
    """
    folded = _folded(text)
    wanted = {_folded(phrase) for phrase in phrases} - {"  "}
    shields = {_folded(phrase) for phrase in within} - wanted
    for shield in sorted(shields, key=lambda one: (-len(one), one)):
        if any(phrase in shield for phrase in wanted):
            folded = folded.replace(shield, " · ")
    return any(phrase in folded for phrase in wanted)


def _folded(text: str) -> str:
    return f" {' '.join(map(_stem, words_of(text)))} "


def _stem(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 3 or not word.endswith("s") or word.endswith("ss"):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[: -2 if _ES.search(word) else -1]
