"""What came of a run, in numbers: one pass over the candidates, in memory that does not grow."""

import hashlib
import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from .records import Candidate
from .tables import Reject, read_candidates, read_rejects

TOKEN_LIMITS = (248, 77)
"""Positions of the stretched text encoder, and of CLIP's."""
LISTED_FAILURES = 100
"""Images without a caption that the summary names; `without_caption.csv` names all."""
FAILED_SHARE, HARD_SHARE = 0.4, 0.2
"""Of the gallery: images without a caption at most; of each kind of hard image."""

CountTokens = Callable[[str], int]
Why = Literal["failed", "most_dropped_phrases", "lowest_consensus", "sample"]


@dataclass(frozen=True)
class Spread:
    """Count, mean and standard deviation (of the population); None where there is nothing."""

    n: int = 0
    mean: float | None = None
    sd: float | None = None


@dataclass(frozen=True)
class Lengths:
    """How long texts are: quantiles, exact; `over` is the share beyond each of `TOKEN_LIMITS`."""

    n: int = 0
    mean: float | None = None
    minimum: int | None = None
    median: int | None = None
    p95: int | None = None
    maximum: int | None = None
    over: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelSummary:
    """What one model did.

    Attributes:
        model: name in the recipe.
        revisions: what answered under that name.
        candidates: captions asked for.
        kept: those that took part in the consensus.
        dropped: candidates by reason.
        flags: candidates by flag.
        refined: kept candidates whose text is not as first generated.
        phrases: visual elements of its captions and details.
        phrases_asked: those that the detector judged.
        phrases_dropped: those struck out.
        phrase_reasons: phrases by reason, dropped or not asked.
        consensus: of the kept candidates.
        object_f1: mean over them.
        attribute_f1: the same of attributes.
        relation_f1: the same of relations.
        cross_model: CAPTURE against other models' candidates only.
        wins: images whose chosen caption is its.
        win_rate: share of the images that have a caption.
        tokens: CLIP tokens of the kept candidates, start and end included; `over` is the
            truncation rate.
        requests: questions.
        attempts: requests sent, retries included.
        prompt_tokens: counted by the model.
        completion_tokens: the same.
        seconds: of waiting, summed over requests that may have run side by side.
        cost: in the recipe's currency.
    """

    model: str
    revisions: list[str]
    candidates: int
    kept: int
    dropped: dict[str, int]
    flags: dict[str, int]
    refined: int
    phrases: int
    phrases_asked: int
    phrases_dropped: int
    phrase_reasons: dict[str, int]
    consensus: Spread
    object_f1: Spread
    attribute_f1: Spread
    relation_f1: Spread
    cross_model: Spread
    wins: int
    win_rate: float | None
    tokens: Lengths
    requests: int
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    cost: float


@dataclass(frozen=True)
class GalleryChoice:
    """An image that the gallery shows: in which part it is, and why it was taken."""

    image_id: str
    part: int
    why: Why


@dataclass(frozen=True)
class Summary:
    """What came of a run.

    Attributes:
        images: seen, those without any candidate included.
        captioned: those with a chosen caption.
        without_caption: the rest.
        without_caption_first: image id and reasons of the first `LISTED_FAILURES`.
        views: images by view; unreadable ones have none.
        flagged_images: images by flag of any of their candidates, personal data among them.
        flagged_captions: chosen captions by flag.
        words: of the chosen captions.
        tokens: CLIP tokens of the chosen captions, start and end included.
        rejects: by stage and reason, "stage: reason".
        models: by name.
        synthetic: the images or the models are simulated.
    """

    images: int
    captioned: int
    without_caption: int
    without_caption_first: list[tuple[str, str]]
    views: dict[str, int]
    flagged_images: dict[str, int]
    flagged_captions: dict[str, int]
    words: Lengths
    tokens: Lengths
    rejects: dict[str, int]
    models: list[ModelSummary]
    synthetic: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True)
class Findings:
    """A summary, every image without a caption with its reasons, and what to look at."""

    summary: Summary
    failures: list[tuple[str, str]]
    gallery: list[GalleryChoice]


def clip_token_counter() -> CountTokens:
    """Counts CLIP tokens, start and end included, with the vocabulary in open_clip's wheel."""
    from open_clip.tokenizer import SimpleTokenizer

    encode = SimpleTokenizer().encode
    return lambda text: len(encode(text)) + 2


def summarise(
    parts: Sequence[Path],
    count_tokens: CountTokens | None = None,
    rejects: Sequence[Path] = (),
    synthetic: bool = False,
) -> Summary:
    """Count what came of a run; see [`examine`]."""
    return examine(parts, count_tokens, rejects, synthetic, gallery_size=0).summary


def examine(
    parts: Sequence[Path],
    count_tokens: CountTokens | None = None,
    rejects: Sequence[Path] = (),
    synthetic: bool = False,
    gallery_size: int = 50,
    seed: int = 0,
) -> Findings:
    """Go once over the candidates of a run.

    Memory holds counters, the gallery's choice, and the ids of images without a caption.

    Args:
        parts: tables of candidates, the rows of an image together.
        count_tokens: of a text, start and end token included; CLIP's by default.
        rejects: tables of what failed.
        synthetic: the images or the models are simulated.
        gallery_size: images to choose for the gallery.
        seed: of the random part of that choice.
    """
    count = count_tokens or clip_token_counter()
    models: defaultdict[str, _ModelCounter] = defaultdict(_ModelCounter)
    images = _ImageCounter(_GalleryChooser(gallery_size, seed))
    for part, path in enumerate(parts):
        for image_id, candidates in images_of(path):
            tokens = [
                count(one.text) if one.text and not one.drop_reason else 0 for one in candidates
            ]
            for one, length in zip(candidates, tokens, strict=True):
                models[one.model].add(one, length)
            images.add(part, image_id, candidates, tokens)
    reasons: Counter[str] = Counter()
    for reject in read_rejects(list(rejects)):
        reasons[f"{reject.stage}: {reject.reason}"] += 1
        images.add_reject(reject)
    failures = sorted(images.failures.items())
    summary = Summary(
        images=images.total,
        captioned=images.captioned,
        without_caption=len(failures),
        without_caption_first=failures[:LISTED_FAILURES],
        views=_sorted(images.views),
        flagged_images=_sorted(images.flagged_images),
        flagged_captions=_sorted(images.flagged_captions),
        words=_lengths(images.words),
        tokens=_lengths(images.tokens),
        rejects=_sorted(reasons),
        models=[models[name].summary(name, images.captioned) for name in sorted(models)],
        synthetic=synthetic,
    )
    return Findings(summary, failures, images.chooser.choices())


def images_of(path: Path) -> Iterator[tuple[str, list[Candidate]]]:
    """The images of a table of candidates, in stored order."""
    for image_id, group in groupby(read_candidates([path]), key=lambda one: one.image_id):
        yield image_id, list(group)


class _Moments:
    """Mean and spread of a stream; Welford's update, so that large counts lose no digits."""

    def __init__(self) -> None:
        self.n, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, value: float | None) -> None:
        if value is None or not math.isfinite(value):
            return
        self.n += 1
        step = value - self.mean
        self.mean += step / self.n
        self.squares += step * (value - self.mean)

    def spread(self) -> Spread:
        if not self.n:
            return Spread()
        return Spread(self.n, self.mean, math.sqrt(self.squares / self.n))


class _ModelCounter:
    """Adds up the candidates of one model."""

    def __init__(self) -> None:
        self.revisions: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.flags: Counter[str] = Counter()
        self.phrase_reasons: Counter[str] = Counter()
        self.tokens: Counter[int] = Counter()
        self.spreads = [_Moments() for _ in range(5)]
        self.seconds, self.cost = 0.0, 0.0

    def add(self, one: Candidate, num_tokens: int) -> None:
        self.revisions.add(one.model_revision)
        counts, usage, scores = self.counts, one.usage, one.scores
        counts["candidates"] += 1
        counts["wins"] += one.chosen
        if one.drop_reason:
            self.dropped[one.drop_reason] += 1
        else:
            counts["kept"] += 1
            counts["refined"] += one.text != one.generated
            self.tokens[num_tokens] += 1
        self.flags.update(set(one.flags))
        for phrase in one.phrases:
            counts["phrases"] += 1
            counts["phrases_asked"] += phrase.score is not None
            counts["phrases_dropped"] += not phrase.kept
            if phrase.reason:
                self.phrase_reasons[phrase.reason] += 1
        values = (
            scores.score,
            scores.object_f1,
            scores.attribute_f1,
            scores.relation_f1,
            scores.cross_model,
        )
        for moments, value in zip(self.spreads, values, strict=True):
            moments.add(value)
        for name in ("requests", "attempts", "prompt_tokens", "completion_tokens"):
            counts[name] += getattr(usage, name)
        self.seconds += usage.seconds
        self.cost += usage.cost

    def summary(self, model: str, captioned: int) -> ModelSummary:
        counts = self.counts
        return ModelSummary(
            model=model,
            revisions=sorted(self.revisions),
            candidates=counts["candidates"],
            kept=counts["kept"],
            dropped=_sorted(self.dropped),
            flags=_sorted(self.flags),
            refined=counts["refined"],
            phrases=counts["phrases"],
            phrases_asked=counts["phrases_asked"],
            phrases_dropped=counts["phrases_dropped"],
            phrase_reasons=_sorted(self.phrase_reasons),
            consensus=self.spreads[0].spread(),
            object_f1=self.spreads[1].spread(),
            attribute_f1=self.spreads[2].spread(),
            relation_f1=self.spreads[3].spread(),
            cross_model=self.spreads[4].spread(),
            wins=counts["wins"],
            win_rate=counts["wins"] / captioned if captioned else None,
            tokens=_lengths(self.tokens),
            requests=counts["requests"],
            attempts=counts["attempts"],
            prompt_tokens=counts["prompt_tokens"],
            completion_tokens=counts["completion_tokens"],
            seconds=self.seconds,
            cost=self.cost,
        )


class _ImageCounter:
    """Adds up images, and offers each to the gallery."""

    def __init__(self, chooser: "_GalleryChooser") -> None:
        self.chooser = chooser
        self.total, self.captioned = 0, 0
        self.views: Counter[str] = Counter()
        self.flagged_images: Counter[str] = Counter()
        self.flagged_captions: Counter[str] = Counter()
        self.words: Counter[int] = Counter()
        self.tokens: Counter[int] = Counter()
        self.failures: dict[str, str] = {}

    def add(
        self, part: int, image_id: str, candidates: Sequence[Candidate], tokens: Sequence[int]
    ) -> None:
        self.total += 1
        self.views[candidates[0].view] += 1
        self.flagged_images.update({flag for one in candidates for flag in one.flags})
        dropped = sum(not phrase.kept for one in candidates for phrase in one.phrases)
        chosen = [number for number, one in enumerate(candidates) if one.chosen]
        if not chosen:
            reasons = Counter(one.drop_reason or "not_chosen" for one in candidates)
            self.failures[image_id] = _reasons(reasons)
            self.chooser.offer_failure(part, image_id)
            return
        best = candidates[chosen[0]]
        self.captioned += 1
        self.flagged_captions.update(set(best.flags))
        self.words[len(best.text.split())] += 1
        self.tokens[tokens[chosen[0]]] += 1
        self.chooser.offer(part, image_id, dropped, best.scores.score)

    def add_reject(self, reject: Reject) -> None:
        # an image that could not be read has no candidate: only its reject says that it was there
        if reject.stage == "image" and reject.image_id not in self.failures:
            self.total += 1
            self.failures[reject.image_id] = reject.reason
            self.chooser.offer_failure(-1, reject.image_id)


class _Top:
    """The `size` entries of least rank, whatever order they come in."""

    def __init__(self, size: int):
        self.size = size
        self.heap: list[tuple[Any, ...]] = []

    def offer(self, rank: float, tie: bytes, place: tuple[int, str]) -> None:
        if not self.size:
            return
        # a heap has its least entry on top, and the greatest rank has to go first
        entry = (-rank, bytes(255 - byte for byte in tie), place)
        if len(self.heap) < self.size:
            heapq.heappush(self.heap, entry)
        else:
            heapq.heappushpop(self.heap, entry)

    def places(self) -> list[tuple[int, str]]:
        return [entry[2] for entry in sorted(self.heap, reverse=True)]


class _GalleryChooser:
    """Failed and hard images, and a seeded sample of the others, `size` in all."""

    def __init__(self, size: int, seed: int):
        self.size, self.seed = size, seed
        self.failed = _Top(size)
        self.most_dropped, self.lowest, self.sample = _Top(size), _Top(size), _Top(size)

    def offer(self, part: int, image_id: str, dropped: int, score: float | None) -> None:
        place, tie = (part, image_id), self._tie(image_id)
        self.sample.offer(0, tie, place)
        if dropped:
            self.most_dropped.offer(-dropped, tie, place)
        if score is not None:
            self.lowest.offer(score, tie, place)

    def offer_failure(self, part: int, image_id: str) -> None:
        self.failed.offer(0, self._tie(image_id), (part, image_id))

    def choices(self) -> list[GalleryChoice]:
        taken: dict[tuple[int, str], Why] = {}

        def take(places: Iterable[tuple[int, str]], why: Why, limit: int) -> None:
            fresh = [place for place in places if place not in taken]
            for place in fresh[: max(0, min(limit, self.size - len(taken)))]:
                taken[place] = why

        hard = math.ceil(self.size * HARD_SHARE)
        take(self.failed.places(), "failed", math.ceil(self.size * FAILED_SHARE))
        take(self.most_dropped.places(), "most_dropped_phrases", hard)
        take(self.lowest.places(), "lowest_consensus", hard)
        take(self.sample.places(), "sample", self.size)
        take(self.failed.places(), "failed", self.size)
        return [GalleryChoice(image_id, part, why) for (part, image_id), why in taken.items()]

    def _tie(self, image_id: str) -> bytes:
        content = f"{self.seed} {image_id}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(content).digest()[:8]


def _lengths(histogram: Counter[int]) -> Lengths:
    n = histogram.total()
    if not n:
        return Lengths()
    ordered = sorted(histogram)

    def quantile(share: float) -> int:
        """The smallest length that at least this share does not exceed."""
        left = share * n
        for length in ordered:
            left -= histogram[length]
            if left <= 1e-9 * n:
                return length
        return ordered[-1]

    return Lengths(
        n=n,
        mean=sum(length * times for length, times in histogram.items()) / n,
        minimum=ordered[0],
        median=quantile(0.5),
        p95=quantile(0.95),
        maximum=ordered[-1],
        over={
            str(limit): sum(times for length, times in histogram.items() if length > limit) / n
            for limit in TOKEN_LIMITS
        },
    )


def _reasons(reasons: Counter[str]) -> str:
    return ", ".join(f"{name} ({times})" for name, times in sorted(reasons.items()))


def _sorted(counts: Counter[str]) -> dict[str, int]:
    """By count, then name: the same in every run."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


__all__ = [
    "CountTokens",
    "Findings",
    "GalleryChoice",
    "Lengths",
    "ModelSummary",
    "Spread",
    "Summary",
    "Why",
    "clip_token_counter",
    "examine",
    "images_of",
    "summarise",
]
