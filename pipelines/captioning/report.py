"""Report of a run: counts, drop reasons and cost as Markdown and JSON, and a gallery."""

import base64
import hashlib
import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from dataset_builders.files import atomic_path, write_json
from dataset_builders.images import BadImageError, decode_image, encode_image
from pipelines.common.pages import page_environment

from .inputs import read_shard
from .ledger import finished_shards
from .recipe import Recipe
from .records import Box, Candidate, Phrase, SourceImage
from .tables import read_candidates, read_rejects

REPORT_FOLDER = "report"
SIDE, JPEG_QUALITY = 800, 80  # longest side in pixels
SHOWN_CHARACTERS = 8_000
"""Maximum number of characters shown per text."""
GALLERY_SHARES = {"without a caption": 0.4, "lowest consensus": 0.3, "random sample": 1.0}
"""Maximum share of the gallery by reason for showing an image, in order of priority."""
# an underscore within a word is not markup
MARKUP = re.compile(r"[\\`*\[\]<>|#&!~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


ReadImages = Callable[[frozenset[str]], Iterable[SourceImage]]
"""Function from ids to images; may omit some or yield others."""


@dataclass(frozen=True)
class Example:
    """An image in the gallery, the reason for showing it, and its candidates, best first."""

    image_id: str
    why: str
    candidates: list[Candidate]

    @property
    def boxes(self) -> dict[Box, int]:
        """Salient boxes and their numbers, from 1."""
        found = dict.fromkeys(detail.box for one in self.candidates for detail in one.details)
        return {box: number for number, box in enumerate(found, 1)}


def report_run(recipe: Recipe) -> Path:
    """Write the report of the finished shards of a run.

    Returns:
        Path of report.md.
    """
    finished = finished_shards(recipe)

    def images(wanted: frozenset[str]) -> Iterator[SourceImage]:
        for folder in finished:
            for row in read_shard(folder.shard):
                if isinstance(row, SourceImage) and row.image_id in wanted:
                    yield row

    title = f"Captions of {Path(recipe.dataset_name).name}"
    return write_report(
        Path(recipe.output_dir) / REPORT_FOLDER,
        [folder.candidates for folder in finished],
        [folder.rejects for folder in finished],
        images,
        f"{title} (synthetic)" if recipe.synthetic else title,
        recipe.synthetic,
        recipe.run.gallery_size,
    )


def write_report(
    output_dir: Path,
    parts: Sequence[Path],
    rejects: Sequence[Path],
    images: ReadImages,
    title: str,
    synthetic: bool = False,
    gallery_size: int = 48,
) -> Path:
    """Write report.md, report.json and gallery.html.

    Args:
        output_dir: Folder of the report; created if missing.
        parts: Tables of candidates; the rows of an image are adjacent.
        rejects: Tables of rejects.
        images: Function that yields the images with given ids.
        title: Title of the report.
        synthetic: Whether images or models are simulated; stated in the report and the gallery.
        gallery_size: Number of images in the gallery; 0 for no gallery.

    Returns:
        Path of report.md.
    """
    found, chosen = examine(parts, rejects, gallery_size)
    summary = {"title": title, "synthetic": synthetic, **found}
    if gallery_size:
        examples = _read_examples(parts, chosen)
        write_gallery(output_dir / "gallery.html", examples, images, summary)
    write_json(output_dir / "report.json", summary)
    environment = page_environment(__package__)
    environment.filters["cell"] = _cell
    environment.filters["share"] = lambda n, of: f"{n:,} ({n / of:.1%})" if of else f"{n:,}"
    text = environment.get_template("report.md.j2").render(**summary, gallery=bool(gallery_size))
    path = output_dir / "report.md"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def examine(
    parts: Sequence[Path], rejects: Sequence[Path] = (), gallery_size: int = 48
) -> tuple[dict[str, Any], dict[tuple[int, str], str]]:
    """Summarise a run and choose images for the gallery, in constant memory.

    Args:
        parts: Tables of candidates; the rows of an image are adjacent.
        rejects: Tables of rejects.
        gallery_size: Number of images to choose.

    Returns:
        Statistics of the run and of each model; and images to show, as the index of their table
        and their id, with the reason.
    """
    views, words = Counter[str](), Counter[int]()
    models: defaultdict[str, _ModelTally] = defaultdict(_ModelTally)
    ranked: dict[str, list[_Ranked]] = {why: [] for why in GALLERY_SHARES}
    for part, path in enumerate(parts):
        for image_id, group in _images_of(path):
            views[group[0].view] += 1
            for one in group:
                models[one.model].add(one)
            best = next((one for one in group if one.chosen), None)
            if best is None:
                _offer(ranked["without a caption"], gallery_size, 0.0, part, image_id)
                continue
            words[len(best.text.split())] += 1
            _offer(ranked["random sample"], gallery_size, 0.0, part, image_id)
            if best.scores.score is not None:
                _offer(ranked["lowest consensus"], gallery_size, best.scores.score, part, image_id)
    listed = list(read_rejects(rejects))
    # unusable images have no candidates, only a reject
    unusable = sum(one.stage == "image" and one.reason != "no_caption" for one in listed)
    captioned = words.total()
    summary = {
        "images": views.total() + unusable,
        "captioned": captioned,
        "without_caption": views.total() + unusable - captioned,
        "views": _sorted(views),
        "mean_words": sum(n * times for n, times in words.items()) / max(1, captioned),
        "models": [models[name].summary(name, captioned) for name in sorted(models)],
        "rejects": _sorted(Counter(f"{one.stage}: {one.reason}" for one in listed)),
    }
    return summary, _choices(ranked, gallery_size)


class _ModelTally:
    def __init__(self) -> None:
        self.numbers, self.dropped = Counter[str](), Counter[str]()
        self.revisions: set[str] = set()

    def add(self, one: Candidate) -> None:
        self.revisions.add(one.model_revision)
        self.dropped.update([one.drop_reason] if one.drop_reason else [])
        self.numbers.update(
            {
                "candidates": 1,
                "kept": int(not one.drop_reason),
                "refined": int(not one.drop_reason and one.text != one.generated),
                "phrases": len(one.phrases),
                "phrases_dropped": sum(not phrase.kept for phrase in one.phrases),
                "chosen": int(one.chosen),
                "scored": int(one.scores.score is not None),
                "score": one.scores.score or 0.0,
                **vars(one.usage),
            }
        )

    def summary(self, name: str, captioned: int) -> dict[str, Any]:
        numbers = dict(self.numbers)
        scored, score = numbers.pop("scored"), numbers.pop("score")
        return {
            "model": name,
            "revisions": sorted(self.revisions),
            **numbers,
            "share_of_chosen": numbers["chosen"] / captioned if captioned else None,
            "mean_consensus": score / scored if scored else None,
            "dropped": _sorted(self.dropped),
        }


# ---- the gallery --------------------------------------------------------------------------------

_Ranked = tuple[float, bytes, int, str]  # rank, random order, index of the table, image id


def _offer(ranked: list[_Ranked], size: int, rank: float, part: int, image_id: str) -> None:
    """Keep an image if it is among the `size` images of lowest rank."""
    lot = hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).digest()
    ranked.append((rank, lot, part, image_id))
    if len(ranked) > 2 * size:
        ranked[:] = heapq.nsmallest(size, ranked)


def _choices(ranked: dict[str, list[_Ranked]], size: int) -> dict[tuple[int, str], str]:
    chosen: dict[tuple[int, str], str] = {}
    for why, share in GALLERY_SHARES.items():
        images = [(part, image_id) for *_, part, image_id in sorted(ranked[why])]
        fresh = [image for image in images if image not in chosen]
        room = min(round(size * share), size - len(chosen))
        chosen |= dict.fromkeys(fresh[:room], why)
    return chosen


def _read_examples(parts: Sequence[Path], wanted: dict[tuple[int, str], str]) -> list[Example]:
    found = [
        Example(image_id, wanted[part, image_id], sorted(group, key=_order))
        for part in sorted({part for part, _ in wanted})
        for image_id, group in _images_of(parts[part])
        if (part, image_id) in wanted
    ]
    reasons = list(GALLERY_SHARES)
    return sorted(found, key=lambda one: reasons.index(one.why))


def _order(one: Candidate) -> tuple[bool, bool, float]:
    """Sort key: the chosen caption first, then by score, dropped ones last."""
    return not one.chosen, bool(one.drop_reason), -(one.scores.score or 0.0)


def _images_of(path: Path) -> Iterator[tuple[str, list[Candidate]]]:
    """Ids and candidates of the images in a table, in stored order."""
    for image_id, group in groupby(read_candidates([path]), key=lambda one: one.image_id):
        yield image_id, list(group)


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _cell(text: Any) -> str:
    return MARKUP.sub(lambda match: f"&#{ord(match[0])};", " ".join(str(text).split()))


def write_gallery(
    path: Path, examples: Sequence[Example], images: ReadImages, summary: Mapping[str, Any]
) -> None:
    """Write the HTML page.

    Args:
        path: Path of the HTML file.
        examples: Images to show.
        images: Function that yields the images with given ids.
        summary: Summary of the run, see `report.examine`.
    """
    environment = page_environment(__package__)
    environment.filters["readable"] = lambda code: code.replace("_", " ")
    environment.filters["shown"] = _shown
    page = environment.get_template("gallery.html.j2").render(
        **summary,
        style=(files(__package__) / "templates" / "gallery.css").read_text(encoding="utf-8"),
        examples=examples,
        total=summary["images"],
        thumbnails=_thumbnails(examples, images),
        phrases=_phrases,
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _thumbnails(examples: Iterable[Example], images: ReadImages) -> dict[str, dict[str, Any]]:
    """Reduced copies as data URLs, with the size of the original.

    By image hash, since two tables may use the same id for different images.
    """
    waiting = {one.candidates[0].image_sha256: one.image_id for one in examples}
    found: dict[str, dict[str, Any]] = {}
    for source in images(frozenset(waiting.values())):
        if waiting.pop(source.sha256, None) is None:
            continue
        try:
            image = decode_image(source.data)
        except BadImageError:
            continue
        size = {"width": image.width, "height": image.height}
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        encoded = base64.b64encode(encode_image(image, "JPEG", JPEG_QUALITY)).decode("ascii")
        found[source.sha256] = size | {"address": f"data:image/jpeg;base64,{encoded}"}
        if not waiting:  # do not read the rest of a large dataset
            break
    return found


def _shown(text: str) -> str:
    left = len(text) - SHOWN_CHARACTERS
    return f"{text[:SHOWN_CHARACTERS]} … {left:,} more characters" if left > 0 else text


def _phrases(one: Candidate) -> list[Phrase]:
    """Distinct phrases with a detector score, dropped ones first."""
    asked = [phrase for phrase in one.phrases if phrase.score is not None]
    unique = {(phrase.text, phrase.source): phrase for phrase in asked}
    return sorted(unique.values(), key=lambda phrase: phrase.kept)
