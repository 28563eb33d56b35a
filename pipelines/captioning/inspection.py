"""All that is known of one image, or of what failed, as text."""

import textwrap
from collections import Counter

from .errors import CaptioningError
from .inputs import list_shards
from .recipe import Recipe
from .records import Candidate, Phrase
from .shards import ShardFolder
from .tables import read_candidates, read_rejects

WIDTH = 100


def describe_image(recipe: Recipe, image_id: str) -> str:
    """The candidates of an image with scores, dropped phrases and reasons; the chosen one first.

    Raises:
        CaptioningError: the image is not in what is finished of the run.
    """
    found: list[Candidate] = []
    failures = []
    for folder in _finished(recipe):
        found += [one for one in read_candidates([folder.candidates]) if one.image_id == image_id]
        failures += [one for one in read_rejects([folder.rejects]) if one.image_id == image_id]
    if not found and not failures:
        raise CaptioningError(
            f"No image {image_id!r} in what is finished of {recipe.output_dir}. "
            "See `status` for how far it is."
        )
    ranked = sorted(found, key=lambda one: (not one.chosen, -(one.scores.score or 0)))
    lines = [f"{image_id}: {len(found)} candidates, {len(failures)} failures"]
    for one in ranked:
        lines += _describe(one)
    lines += [
        f"failed: {one.stage} {one.model}: {one.reason} after {one.attempts} attempts {one.detail}"
        for one in failures
    ]
    return "\n".join(lines)


def describe_failures(recipe: Recipe) -> str:
    """What failed: counts by stage, model and reason, then every one."""
    rejects = [one for folder in _finished(recipe) for one in read_rejects([folder.rejects])]
    counts = Counter((one.stage, one.model, one.reason) for one in rejects)
    lines = [f"{len(rejects)} rejects"]
    lines += [f"  {n:>7}  {' '.join(filter(None, key))}" for key, n in sorted(counts.items())]
    lines += [
        f"{one.image_id}: {one.stage} {one.model} {one.reason} {one.detail}" for one in rejects
    ]
    return "\n".join(lines)


def _finished(recipe: Recipe) -> list[ShardFolder]:
    folders = [ShardFolder(recipe.output_dir, shard) for shard in list_shards(recipe)]
    return [folder for folder in folders if folder.candidates.exists()]


def _describe(one: Candidate) -> list[str]:
    score = "" if one.scores.score is None else f" consensus {one.scores.score:.3f}"
    state = "CHOSEN" if one.chosen else one.drop_reason or "kept"
    lines = ["", f"{one.candidate_id} [{state}]{score} {one.prompt_version} {one.model_revision}"]
    lines += textwrap.wrap(one.text, WIDTH, initial_indent="  ", subsequent_indent="  ")
    if one.generated != one.text:
        lines.append("  as generated:")
        lines += textwrap.wrap(
            one.generated, WIDTH, initial_indent="    ", subsequent_indent="    "
        )
    lines += [f"  dropped: {_phrase(phrase)}" for phrase in one.phrases if not phrase.kept]
    if one.flags:
        lines.append(f"  flags: {', '.join(one.flags)}")
    return lines


def _phrase(phrase: Phrase) -> str:
    score = "" if phrase.score is None else f" {phrase.score:.4f}"
    return f"{phrase.text!r} ({phrase.source}){score} {phrase.reason}"


__all__ = ["describe_failures", "describe_image"]
