"""What a merge starts from, and what is made of its answer."""

from collections.abc import Sequence
from dataclasses import replace

from .filters import remove_phrases
from .guards import check_caption, tidy_caption
from .records import Candidate, Phrase

MIN_WORDS_OF_A_DETAIL = 3
NO_DETAIL = frozenset({"empty", "injection", "markup", "not_english", "refusal", "template_token"})
"""What a short text can be besides a caption; the other reasons are for long ones."""


def rejected_phrases(one: Candidate) -> tuple[str, ...]:
    """The phrases that the image does not support, of the caption and its details, sorted."""
    return tuple(sorted({phrase.text for phrase in one.phrases if not phrase.kept}))


def plain_removal(one: Candidate) -> str:
    """The caption less what the image does not support, cut by rules."""
    return _less(one.text, [phrase for phrase in one.phrases if not phrase.kept])


def supported_details(one: Candidate) -> tuple[str, ...]:
    """The local captions without what the image does not support; what is left of each, if any.

    Answers that are no captions (refusals, orders) are left out.
    """
    found = []
    for number, detail in enumerate(one.details):
        text, _ = tidy_caption(detail.text)
        if check_caption(text) in NO_DETAIL:
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


def _less(text: str, rejected: Sequence[Phrase]) -> str:
    things = [phrase.text for phrase in rejected if phrase.kind != "attribute"]
    attributes = [phrase.text for phrase in rejected if phrase.kind == "attribute"]
    return remove_phrases(text, things, attributes)


def merge_inputs(one: Candidate) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Caption, supported details and rejected phrases: what the merge prompt holds."""
    return one.text, supported_details(one), rejected_phrases(one)


def needs_merge(one: Candidate) -> bool:
    """There is something to take out or to work in."""
    _, details, rejected = merge_inputs(one)
    return bool(details or rejected)


def apply_merge(one: Candidate, text: str, finish_reason: str = "stop") -> Candidate:
    """The candidate with its refined caption, or, if that is no good, with a plain removal.

    Args:
        one: after the filter.
        text: the model's answer.
        finish_reason: of the answer.
    """
    text, flags = tidy_caption(text, finish_reason)
    rejected = rejected_phrases(one)
    reason = check_caption(
        text,
        finish_reason,
        original=plain_removal(one),
        rejected=rejected,
        kept=[phrase.text for phrase in one.phrases if phrase.kept],
    )
    if reason:
        return fall_back(one, reason)
    return replace(
        one,
        stage="merge",
        text=text,
        finish_reason=finish_reason,
        flags=tuple(sorted({*one.flags, *flags})),
    )


def fall_back(one: Candidate, reason: str) -> Candidate:
    """The candidate whose model gave no usable refined caption: its own, less what was rejected.

    Args:
        one: after the filter.
        reason: why; becomes the flag `merge_<reason>`.
    """
    flags = tuple(sorted({*one.flags, f"merge_{reason}"}))
    text = plain_removal(one)
    dropped = check_caption(text)
    return replace(one, stage="merge", text=text, flags=flags, drop_reason=dropped)


__all__ = [
    "apply_merge",
    "fall_back",
    "merge_inputs",
    "needs_merge",
    "plain_removal",
    "rejected_phrases",
    "supported_details",
]
