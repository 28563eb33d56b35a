"""What a merge prompt contains, and what becomes of its answer."""

from collections.abc import Sequence
from dataclasses import replace

from .filters import Answer, Filters
from .phrases import remove_phrases
from .records import Candidate, Phrase
from .text import tidy_caption

MIN_WORDS_OF_A_DETAIL = 3
NO_DETAIL = frozenset({"injection", "markup", "not_english", "refusal", "template_token"})
"""Text filters that apply to local captions; the others are meant for long captions."""


def rejected_phrases(one: Candidate) -> tuple[str, ...]:
    """The phrases of the caption and its details that the image does not support, sorted."""
    return tuple(sorted({phrase.text for phrase in one.phrases if not phrase.kept}))


def plain_removal(one: Candidate) -> str:
    """The caption less the phrases that the image does not support, cut by rules."""
    return _less(one.text, [phrase for phrase in one.phrases if not phrase.kept])


def supported_details(one: Candidate, filters: Filters) -> tuple[str, ...]:
    """The local captions less what the image does not support.

    Answers that are no captions, such as refusals, are left out.
    """
    found = []
    for number, detail in enumerate(one.details):
        text, _ = tidy_caption(detail.text)
        if filters.text_reason(Answer(text), only=NO_DETAIL):
            continue
        rejected = [
            phrase
            for phrase in one.phrases
            if phrase.source == "local" and phrase.sentence == number and not phrase.kept
        ]
        text = _less(text, rejected) if rejected else text
        if len(text.split()) >= MIN_WORDS_OF_A_DETAIL:
            found.append(text)
    return tuple(dict.fromkeys(found))


def apply_merge(
    one: Candidate, text: str, filters: Filters, finish_reason: str = "stop"
) -> Candidate:
    """The candidate with its refined caption, or with a plain removal if that is unusable.

    Args:
        one: The candidate after the phrase filter.
        text: The model's answer.
        filters: The filters of the recipe.
        finish_reason: Of the answer.
    """
    text, flags = tidy_caption(text)
    answer = Answer(
        text,
        finish_reason,
        original=plain_removal(one),
        rejected=rejected_phrases(one),
        kept=[phrase.text for phrase in one.phrases if phrase.kept],
    )
    if reason := filters.text_reason(answer):
        return fall_back(one, reason, filters)
    flags = tuple(sorted({*one.flags, *flags}))
    return replace(one, stage="merge", text=text, finish_reason=finish_reason, flags=flags)


def fall_back(one: Candidate, reason: str, filters: Filters) -> Candidate:
    """The candidate whose model gave no usable refined caption: its own, less what was rejected.

    Args:
        one: The candidate after the phrase filter.
        reason: Why; becomes the flag `merge_<reason>`.
        filters: The filters of the recipe.
    """
    flags = tuple(sorted({*one.flags, f"merge_{reason}"}))
    text = plain_removal(one)
    dropped = filters.text_reason(Answer(text))
    return replace(one, stage="merge", text=text, flags=flags, drop_reason=dropped)


def _less(text: str, rejected: Sequence[Phrase]) -> str:
    things = [phrase.text for phrase in rejected if phrase.kind != "attribute"]
    attributes = [phrase.text for phrase in rejected if phrase.kind == "attribute"]
    return remove_phrases(text, things, attributes)
