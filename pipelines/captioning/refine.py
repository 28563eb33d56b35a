"""Inputs of a merge prompt, and handling of its answer."""

from collections.abc import Sequence
from dataclasses import replace

from .filters import Answer, Filters
from .phrases import remove_phrases
from .records import Candidate, Phrase
from .text import tidy_caption

MIN_WORDS_OF_A_DETAIL = 3
NO_DETAIL = frozenset({"injection", "markup", "not_english", "refusal", "template_token"})
"""Text filters for local captions; the others are meant for long captions."""


def rejected_phrases(one: Candidate) -> tuple[str, ...]:
    """Unsupported phrases of the caption and its local captions, sorted."""
    return tuple(sorted({phrase.text for phrase in one.phrases if not phrase.kept}))


def plain_removal(one: Candidate) -> str:
    """Caption without unsupported phrases, removed by rules."""
    return _less(one.text, [phrase for phrase in one.phrases if not phrase.kept])


def supported_details(one: Candidate, filters: Filters) -> tuple[str, ...]:
    """Local captions without unsupported phrases, leaving out refusals and similar answers."""
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
    """Candidate with its refined caption, or the result of `fall_back` if that is unusable.

    Args:
        one: Candidate after the phrase filter.
        text: Answer of the model.
        filters: Filters of the recipe.
        finish_reason: Finish reason of the answer.
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
    """Candidate with `plain_removal`, for models that gave no usable refined caption.

    Args:
        one: Candidate after the phrase filter.
        reason: Reason of the failure; stored as the flag `merge_<reason>`.
        filters: Filters of the recipe.
    """
    flags = tuple(sorted({*one.flags, f"merge_{reason}"}))
    text = plain_removal(one)
    dropped = filters.text_reason(Answer(text))
    return replace(one, stage="merge", text=text, flags=flags, drop_reason=dropped)


def _less(text: str, rejected: Sequence[Phrase]) -> str:
    things = [phrase.text for phrase in rejected if phrase.kind != "attribute"]
    attributes = [phrase.text for phrase in rejected if phrase.kind == "attribute"]
    return remove_phrases(text, things, attributes)
