"""Everything about one image of a run, or about its failures, as text."""

import textwrap
from collections import Counter

from .errors import CaptioningError
from .recipe import Recipe
from .records import Candidate
from .shards import finished_shards
from .tables import read_candidates, read_rejects

WIDTH = 100


def describe_image(recipe: Recipe, image_id: str) -> str:
    """The candidates of an image with scores, dropped phrases and reasons; the chosen one first.

    Raises:
        CaptioningError: No finished shard has the image.
    """
    folders = finished_shards(recipe)
    candidates = read_candidates([folder.candidates for folder in folders])
    found = [one for one in candidates if one.image_id == image_id]
    rejects = read_rejects([folder.rejects for folder in folders])
    failures = [one for one in rejects if one.image_id == image_id]
    if not found and not failures:
        raise CaptioningError(
            f"No image {image_id!r} in the finished shards of {recipe.output_dir}. "
            "See `status` for the progress."
        )
    lines = [f"{image_id}: {len(found)} candidates, {len(failures)} failures"]
    for one in sorted(found, key=lambda one: (not one.chosen, -(one.scores.score or 0))):
        lines += _describe(one)
    lines += [
        f"failed: {one.stage} {one.model}: {one.reason} after {one.attempts} attempts {one.detail}"
        for one in failures
    ]
    return "\n".join(lines)


def describe_failures(recipe: Recipe) -> str:
    """Failures: counts by stage, model and reason, then every one."""
    rejects = list(read_rejects([folder.rejects for folder in finished_shards(recipe)]))
    counts = Counter((one.stage, one.model, one.reason) for one in rejects)
    lines = [f"{len(rejects)} rejects"]
    lines += [f"  {n:>7}  {' '.join(filter(None, key))}" for key, n in sorted(counts.items())]
    lines += [
        f"{one.image_id}: {one.stage} {one.model} {one.reason} {one.detail}" for one in rejects
    ]
    return "\n".join(lines)


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
    for phrase in one.phrases:
        if not phrase.kept:
            score = "" if phrase.score is None else f" {phrase.score:.4f}"
            lines.append(f"  dropped: {phrase.text!r} ({phrase.source}){score} {phrase.reason}")
    if one.flags:
        lines.append(f"  flags: {', '.join(one.flags)}")
    return lines


__all__ = ["describe_failures", "describe_image"]
