"""The numbers of a run: one pass over its candidates, in memory that does not grow with them."""

import hashlib
import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from .records import Candidate, Scores
from .tables import read_candidates, read_rejects

TOKEN_LIMITS = (248, 77)
"""Positions of the stretched text encoder, and of CLIP's."""
LISTED_FAILURES = 100
"""Images without a caption that the summary names; `without_caption.csv` names all."""
GALLERY_SHARES = {
    "failed": 0.4,
    "most_dropped_phrases": 0.2,
    "lowest_consensus": 0.2,
    "sample": 1.0,
}
"""Largest share of the gallery that each reason to show an image may take, in this order."""
COUNTS = ("candidates", "kept", "refined", "phrases", "phrases_asked", "phrases_dropped", "wins")
USAGE = ("requests", "attempts", "prompt_tokens", "completion_tokens", "seconds", "cost")

CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class GalleryChoice:
    """An image that the gallery shows.

    Attributes:
        image_id: Id of the image.
        part: Number of the table of candidates that has it; -1 where none has.
        why: Key of `GALLERY_SHARES`.
    """

    image_id: str
    part: int
    why: str


@dataclass(frozen=True)
class Findings:
    """What came of a run.

    Attributes:
        summary: Contents of report.json: numbers of images, and of each model in `models`.
        failures: Id and reasons of every image without a caption.
        gallery: Images to look at.
    """

    summary: dict[str, Any]
    failures: dict[str, str]
    gallery: list[GalleryChoice]


def clip_token_counter() -> CountTokens:
    """Counts CLIP tokens, start and end included, with the vocabulary in open_clip's wheel."""
    from open_clip.tokenizer import SimpleTokenizer

    encode = SimpleTokenizer().encode
    return lambda text: len(encode(text)) + 2


def examine(
    parts: Sequence[Path],
    rejects: Sequence[Path] = (),
    count_tokens: CountTokens | None = None,
    synthetic: bool = False,
    gallery_size: int = 50,
    seed: int = 0,
) -> Findings:
    """Count what came of a run, and choose images to look at.

    Args:
        parts: Tables of candidates; the rows of an image are adjacent.
        rejects: Tables of rejects.
        count_tokens: Number of tokens of a text; CLIP's, start and end included, by default.
        synthetic: Whether images or models are simulated.
        gallery_size: Number of images to choose.
        seed: Seed of the random part of the choice.
    """
    tally = _Tally(count_tokens or clip_token_counter())
    chooser = _Chooser(gallery_size, seed)
    for part, path in enumerate(parts):
        for image_id, group in images_of(path):
            tally.add(group)
            best = next((one for one in group if one.chosen), None)
            if best is None:
                chooser.offer("failed", 0, part, image_id)
                continue
            chooser.offer("sample", 0, part, image_id)
            if dropped := sum(not phrase.kept for one in group for phrase in one.phrases):
                chooser.offer("most_dropped_phrases", -dropped, part, image_id)
            if best.scores.score is not None:
                chooser.offer("lowest_consensus", best.scores.score, part, image_id)
    for reject in read_rejects(list(rejects)):
        tally.reasons["rejects"][f"{reject.stage}: {reject.reason}"] += 1
        # an image that could not be read has no candidate: only its reject tells of it
        if reject.stage == "image" and reject.image_id not in tally.failures:
            tally.images += 1
            tally.failures[reject.image_id] = reject.reason
            chooser.offer("failed", 0, -1, reject.image_id)
    summary = tally.summary() | {"synthetic": synthetic}
    return Findings(summary, dict(sorted(tally.failures.items())), chooser.choices())


def images_of(path: Path) -> Iterator[tuple[str, list[Candidate]]]:
    """Ids and candidates of the images of a table, in stored order."""
    for image_id, group in groupby(read_candidates([path]), key=lambda one: one.image_id):
        yield image_id, list(group)


class _Tally:
    """Adds up candidates: numbers by model, reasons and lengths as histograms."""

    def __init__(self, count_tokens: CountTokens):
        self.count_tokens = count_tokens
        self.images = 0
        self.failures: dict[str, str] = {}
        self.numbers: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by model
        self.revisions: defaultdict[str, set[str]] = defaultdict(set)  # by model
        # by kind, or by kind and model
        self.reasons: defaultdict[Any, Counter[str]] = defaultdict(Counter)
        self.lengths: defaultdict[Any, Counter[int]] = defaultdict(Counter)

    def add(self, group: Sequence[Candidate]) -> None:
        """Count all candidates of an image."""
        self.images += 1
        self.reasons["views"][group[0].view] += 1
        self.reasons["flagged_images"].update({flag for one in group for flag in one.flags})
        for one in group:
            self._add_candidate(one)
        if not any(one.chosen for one in group):
            reasons = Counter(one.drop_reason or "not_chosen" for one in group)
            text = ", ".join(f"{reason} ({times})" for reason, times in sorted(reasons.items()))
            self.failures[group[0].image_id] = text

    def _add_candidate(self, one: Candidate) -> None:
        self.numbers[one.model].update(_numbers(one))
        self.revisions[one.model].add(one.model_revision)
        self.reasons["flags", one.model].update(set(one.flags))
        reasons = [phrase.reason for phrase in one.phrases if phrase.reason]
        self.reasons["phrase_reasons", one.model].update(reasons)
        if one.drop_reason:
            self.reasons["dropped", one.model][one.drop_reason] += 1
        else:
            self.lengths["tokens", one.model][self.count_tokens(one.text) if one.text else 0] += 1
        if one.chosen:
            self.reasons["flagged_captions"].update(set(one.flags))
            self.lengths["words"][len(one.text.split())] += 1
            self.lengths["tokens"][self.count_tokens(one.text)] += 1

    def summary(self) -> dict[str, Any]:
        counts = ("views", "flagged_images", "flagged_captions", "rejects")
        return {
            "images": self.images,
            "captioned": self.lengths["words"].total(),
            "without_caption": len(self.failures),
            "without_caption_first": sorted(self.failures.items())[:LISTED_FAILURES],
            **{name: _sorted(self.reasons[name]) for name in counts},
            **{name: _lengths(self.lengths[name]) for name in ("words", "tokens")},
            "models": [self._model(name) for name in sorted(self.numbers)],
        }

    def _model(self, name: str) -> dict[str, Any]:
        numbers, captioned = self.numbers[name], self.lengths["words"].total()
        reasons = ("dropped", "flags", "phrase_reasons")
        return {
            "model": name,
            "revisions": sorted(self.revisions[name]),
            **{key: numbers[key] for key in (*COUNTS, *USAGE)},
            **{kind: _sorted(self.reasons[kind, name]) for kind in reasons},
            **{"consensus" if key == "score" else key: _spread(numbers, key) for key in _SCORES},
            "win_rate": numbers["wins"] / captioned if captioned else None,
            "tokens": _lengths(self.lengths["tokens", name]),
        }


_SCORES = tuple(vars(Scores()))


def _numbers(one: Candidate) -> dict[str, float]:
    """Everything about a candidate that adds up."""
    scores = {
        name: value
        for name, value in vars(one.scores).items()
        if value is not None and math.isfinite(value)
    }
    return {
        "candidates": 1,
        "kept": int(not one.drop_reason),
        "refined": int(not one.drop_reason and one.text != one.generated),
        "phrases": len(one.phrases),
        "phrases_asked": sum(phrase.score is not None for phrase in one.phrases),
        "phrases_dropped": sum(not phrase.kept for phrase in one.phrases),
        "wins": int(one.chosen),
        **vars(one.usage),
        **{f"{name} n": 1 for name in scores},
        **{f"{name} sum": value for name, value in scores.items()},
        **{f"{name} squares": value**2 for name, value in scores.items()},
    }


class _Chooser:
    """Chooses images without a caption, hard ones, and a seeded sample of the rest."""

    def __init__(self, size: int, seed: int):
        self.size, self.seed = size, seed
        self.ranked: dict[str, list[tuple[float, bytes, int, str]]] = {
            why: [] for why in GALLERY_SHARES
        }

    def offer(self, why: str, rank: float, part: int, image_id: str) -> None:
        """Remember an image if it is among the `size` of least rank."""
        text = f"{self.seed} {image_id}".encode("utf-8", "surrogatepass")
        self.ranked[why].append((rank, hashlib.sha256(text).digest(), part, image_id))
        if len(self.ranked[why]) > 2 * self.size:
            self.ranked[why] = heapq.nsmallest(self.size, self.ranked[why])

    def choices(self) -> list[GalleryChoice]:
        taken: dict[tuple[int, str], str] = {}
        # what is left is filled up with images without a caption
        for why, share in (*GALLERY_SHARES.items(), ("failed", 1.0)):
            best = heapq.nsmallest(self.size, self.ranked[why])
            fresh = [(part, name) for *_, part, name in best if (part, name) not in taken]
            room = min(math.ceil(self.size * share), self.size - len(taken))
            taken |= dict.fromkeys(fresh[:room], why)
        return [GalleryChoice(image_id, part, why) for (part, image_id), why in taken.items()]


def _spread(numbers: Mapping[str, float], name: str) -> dict[str, Any]:
    """Count, mean and standard deviation (of the population) of a score."""
    n = numbers[f"{name} n"]
    if not n:
        return {"n": 0, "mean": None, "sd": None}
    mean = numbers[f"{name} sum"] / n
    return {"n": n, "mean": mean, "sd": max(0.0, numbers[f"{name} squares"] / n - mean**2) ** 0.5}


def _lengths(histogram: Mapping[int, int]) -> dict[str, Any]:
    """Exact statistics of lengths; `over` is the share beyond each of `TOKEN_LIMITS`."""
    empty = dict.fromkeys(("mean", "minimum", "median", "p95", "maximum"))
    if not histogram:
        return {"n": 0, **empty, "over": {}}
    values, times = (np.array(column) for column in zip(*sorted(histogram.items()), strict=True))
    n = int(times.sum())
    median, p95 = np.quantile(values, (0.5, 0.95), weights=times, method="inverted_cdf")
    return {
        "n": n,
        "mean": float(values @ times) / n,
        "minimum": int(values[0]),
        "median": int(median),
        "p95": int(p95),
        "maximum": int(values[-1]),
        "over": {str(limit): float(times[values > limit].sum()) / n for limit in TOKEN_LIMITS},
    }


def _sorted(counts: Counter[str]) -> dict[str, int]:
    """Counts, largest first, ties by name: the same in every run."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


__all__ = ["CountTokens", "Findings", "GalleryChoice", "clip_token_counter", "examine", "images_of"]
