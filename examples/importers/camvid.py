"""CamVid: video frames from a driving car, with semantic segmentation masks.

Layout: `images/` and `masks/` (8-bit PNGs of class numbers, one per image, same name). A frame is
a region without a location. Indicators are the shares of the classes among the labelled pixels.
Captions are generated from the masks by [`caption_from_mask`], not by annotators or a model.

Frames of a drive are one second apart. The block split holds out intervals of 24 seconds with a
buffer of 4 seconds.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import shapely
from scipy import ndimage

from dataset_builders.errors import SourceError, SplitError
from dataset_builders.images import BadImageError, open_image
from dataset_builders.importers.base import Imported, SplitColumns, require
from dataset_builders.importers.image_folder import plan_from_frame
from dataset_builders.photos import list_images
from dataset_builders.schema import DatasetMetadata, Indicator, config_name
from dataset_builders.splits import Neighbourhood, block_split, random_split, whole_numbers

SUMMARY = "367 street scenes of Cambridge with masks of 11 classes (CamVid)"
CITY = "cambridge"
LAYOUT = "images/ and masks/ with the same names"
SOURCE = "CamVid (Brostow et al. 2009) by way of the SegNet tutorial"
CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
)  # fmt: skip
UNLABELLED = 11
UNIT = "share of labelled pixels"
INDICATORS = tuple(
    Indicator(f"share_{name}", UNIT, "share", f"Share of {name}.", "identity") for name in CLASSES
)
FRAMES_PER_SECOND = 30
BLOCK_SECONDS, BUFFER_SECONDS = 24.0, 4.0
# offset between drives, so that no block or buffer spans two of them
DRIVE_GAP_SECONDS = 1e6
FRAME_NAME = re.compile(r"(?P<drive>[^_]+)_f?(?P<frame>\d+)")


METADATA = DatasetMetadata(
    title="CamVid: street scenes with shares of 11 classes",
    description=(
        "Video frames from a car in Cambridge, with the shares of 11 classes in the masks as "
        "targets, and long captions generated from the masks."
    ),
    source=SOURCE,
    licence="cc-by-nc-4.0",
    indicators=INDICATORS,
    parameters={"importer": "camvid"},
    notes=(
        "Captions are generated from the masks by a program, ordered by position in the image; a "
        "connected component counts as one object.",
        "Shares are relative to the labelled pixels and sum to 1.",
        "A frame is a region without a location. `split_block` holds out intervals of 24 seconds "
        "with a buffer of 4 seconds, since consecutive frames are one second apart.",
    ),
    citation="Brostow, Fauqueur, Cipolla: Semantic Object Classes in Video. Pattern "
    "Recognition Letters 30(2), 2009.",
)


def read(source: Path) -> Imported:
    """Read CamVid."""
    require(source, "images", "masks", layout=LAYOUT)
    rows, rejects = [], []
    for path in list_images(source / "images"):
        row: dict[str, Any] = {"file": f"images/{path.name}", "image_id": path.stem}
        try:
            mask = read_mask(source / "masks" / f"{path.stem}.png")
        except SourceError as error:
            rejects.append((config_name(CITY, "regions"), path.stem, "bad_mask", str(error)))
        else:
            row |= {"caption": caption_from_mask(mask, path.stem), **class_shares(mask)}
        rows.append({**row, "region_id": path.stem})
    frame = pd.DataFrame(
        rows, columns=["file", "image_id", "region_id", "caption", *(i.name for i in INDICATORS)]
    )
    plan = plan_from_frame(
        frame.assign(caption_model="written from the mask", source=SOURCE),
        source,
        city=CITY,
        view="street_view",
        indicators=INDICATORS,
        rejects=rejects,
        sources={one.name: "CamVid's mask" for one in INDICATORS},
        splits=lambda regions, seed: drive_splits(regions["region_id"], seed),
    )
    return [plan], METADATA


def read_mask(path: Path) -> np.ndarray:
    """Read a mask of class numbers 0 to 11, `(height, width)`.

    Raises:
        SourceError: The file is missing, not an image, or has other values.
    """
    try:
        mask = np.asarray(open_image(path))
    except (BadImageError, OSError, SyntaxError) as error:
        raise SourceError(f"masks/{path.name} cannot be read: {error}") from error
    if mask.ndim != 2 or mask.max() > UNLABELLED:
        raise SourceError(
            f"masks/{path.name} must contain class numbers 0-{UNLABELLED} in one channel; it has "
            f"shape {mask.shape} and values up to {mask.max()}."
        )
    return mask


def class_shares(mask: np.ndarray) -> dict[str, float]:
    """Share of each class among the labelled pixels; NaN if no pixel is labelled."""
    counts = np.bincount(mask.ravel(), minlength=UNLABELLED + 1)[:UNLABELLED]
    total = counts.sum()
    return {
        one.name: float(count / total) if total else float("nan")
        for one, count in zip(INDICATORS, counts, strict=True)
    }


def drive_splits(region_ids: Sequence[str], seed: int) -> SplitColumns:
    """Random split of frames, and block split of drives into intervals of time.

    Args:
        region_ids: Frame names, "<drive>_<number>".
        seed: Split seed.
    """
    n = len(region_ids)
    columns = {
        name: np.full(n, None, dtype=object)
        for name in ("split_random", "split_block", "fold_block")
    }
    problems = []
    try:
        columns["split_random"] = random_split(n, seed)
        seconds = frame_seconds(region_ids)
        moments = shapely.points(seconds, 0.0)  # frames on a line, 1 m per second
        near = Neighbourhood(moments, cell_m=0.0, buffer_m=BUFFER_SECONDS)
        split, folds = block_split(seconds, np.zeros(n), BLOCK_SECONDS, seed, neighbourhood=near)
        columns["split_block"] = split
        columns["fold_block"] = whole_numbers(folds)
    except SplitError as error:
        problems.append(f"A split could not be made: {error}")
    return columns, problems


def frame_seconds(names: Sequence[str]) -> np.ndarray:
    """Time of each frame in seconds, with gaps between drives; NaN for other names."""
    found = [FRAME_NAME.fullmatch(name) for name in names]
    drives = sorted({match["drive"] for match in found if match})
    return np.array(
        [
            drives.index(match["drive"]) * DRIVE_GAP_SECONDS
            + int(match["frame"]) / FRAMES_PER_SECOND
            if match
            else np.nan
            for match in found
        ]
    )


# minimum share of the image of a connected component that counts as an object
MIN_AREA = {"car": 6e-4, "pedestrian": 4e-4, "bicyclist": 4e-4, "sign": 7e-4, "pole": 9e-4}
MOVERS = ("car", "pedestrian", "bicyclist")
NAMES = {
    "car": ("a car", "cars"), "pedestrian": ("a pedestrian", "pedestrians"),
    "bicyclist": ("a cyclist", "cyclists"), "sign": ("a traffic sign", "traffic signs"),
    "pole": ("a pole", "poles"),
}  # fmt: skip
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FULL_WORDS = 200
FRACTIONS = (
    (0.04, "a sliver"), (0.09, "a small part"), (0.16, "about an eighth"), (0.22, "about a fifth"),
    (0.29, "about a quarter"), (0.41, "about a third"), (0.6, "about half"), (1.01, "most"),
)  # fmt: skip
DISTANCES = {"near": "close by", "midway": "further down the street", "far": "in the distance"}
PLACES = {
    "left": ("On the left", "To the left", "At the left side"),
    "centre": ("In the centre", "In the middle", "Straight ahead"),
    "right": ("On the right", "To the right", "At the right side"),
}
SURFACES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "building": {
        "large": ("a tall wall of facades", "buildings that fill this side"),
        "broad": ("a row of buildings", "several facades"),
        "small": ("a glimpse of a building", "a bit of facade"),
    },
    "tree": {
        "large": ("dense foliage", "a mass of trees"),
        "broad": ("a stand of trees", "some leafy trees"),
        "small": ("a little greenery", "a few branches"),
    },
    "fence": {
        "large": ("a long fence",),
        "broad": ("a fence", "a wall or fence"),
        "small": ("a bit of fence", "a low fence"),
    },
    "pavement": {
        "large": ("a wide expanse of pavement",),
        "broad": ("a broad pavement", "a wide sidewalk"),
        "small": ("a narrow pavement", "a strip of sidewalk"),
    },
}
OPENINGS = {
    "built": ("a built-up street", "a town street lined with buildings", "an urban street"),
    "leafy": ("a leafy street", "a street with much greenery", "a tree-lined road"),
    "open": ("an open road", "a wide, open road", "a road with little beside it"),
    "mixed": ("a mixed street of buildings and trees", "a suburban road", "a town road"),
}


class Thing(NamedTuple):
    """Connected component of a class: third of the image, distance, and share of the image."""

    name: str
    third: str
    distance: str
    area: float


def caption_from_mask(mask: np.ndarray, name: str, seed: int = 0) -> str | None:
    """Write a long caption of a street scene: left, centre, right, then near and far.

    All facts come from the mask; a connected component counts as one object. The wording is random
    by name and seed, so it varies between frames and is reproducible.

    Args:
        mask: Class numbers, `(height, width)`.
        name: Name of the frame.
        seed: Seed of the wording.

    Returns:
        A caption of at most 200 words; None if no pixel is labelled.
    """
    if not (mask < UNLABELLED).any():
        return None
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    shares = {key.removeprefix("share_"): value for key, value in class_shares(mask).items()}
    things = _things(mask)
    sentences = [_opening(shares, rng), _ground(shares, rng)]
    for third, part in zip(PLACES, np.array_split(mask, 3, axis=1), strict=True):
        sentences += _third(third, part, [one for one in things if one.third == third], rng)
    sentences += [_nearest(things, rng), _counts(things, rng), _sides(mask, rng)]
    kept: list[str] = []
    for sentence in sentences:
        if len(" ".join([*kept, sentence]).split()) <= FULL_WORDS:
            kept.append(sentence)
    return " ".join(kept)


def _things(mask: np.ndarray) -> list[Thing]:
    height, width = mask.shape
    found = []
    for name, least in MIN_AREA.items():
        labels, count = ndimage.label(mask == CLASSES.index(name), np.ones((3, 3)))
        areas = np.bincount(labels.ravel(), minlength=count + 1)
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            if areas[label] < least * mask.size:
                continue
            middle = (box[1].start + box[1].stop) / 2 / width
            bottom = box[0].stop / height
            distance = "near" if bottom > 0.72 else "far" if bottom < 0.56 else "midway"
            third = list(PLACES)[min(2, int(middle * 3))]
            found.append(Thing(name, third, distance, areas[label] / mask.size))
    return found


def _pick(rng: np.random.Generator, *options: str) -> str:
    return options[rng.integers(len(options))]


def _fraction(share: float) -> str:
    return next(words for top, words in FRACTIONS if share < top)


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _opening(shares: dict[str, float], rng: np.random.Generator) -> str:
    built, green = shares["building"], shares["tree"]
    bare = "open" if built + green < 0.15 else "mixed"
    kind = _pick(rng, *OPENINGS["built" if built > 0.3 else "leafy" if green > 0.2 else bare])
    view = _pick(rng, "seen from a driving car", "seen by a driver", "filmed from a moving car")
    start = _pick(rng, "The picture shows", "This is", "The scene is", "The camera looks along")
    return f"{start} {kind} {view}."


def _ground(shares: dict[str, float], rng: np.random.Generator) -> str:
    road, sky, walls = (_fraction(shares[key]) for key in ("road", "sky", "building"))
    above = _pick(rng, "above it", "overhead", "at the top")
    parts = [f"the roadway takes up {road} of the view", f"the sky {sky} {above}"]
    if shares["building"] > 0.04:
        parts.append(f"buildings fill {walls}")
    if shares["tree"] > 0.04:
        parts.append(f"trees cover {_fraction(shares['tree'])}")
    text = _join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _third(
    third: str, part: np.ndarray, things: list[Thing], rng: np.random.Generator
) -> list[str]:
    place = {name: _pick(rng, *words) for name, words in PLACES.items()}[third]
    share = {name: float((part == CLASSES.index(name)).mean()) for name in SURFACES}
    surfaces = sorted((name for name in SURFACES if share[name] > 0.02), key=lambda n: -share[n])
    phrases = [_surface(name, share[name], rng) for name in surfaces]
    sentences = []
    if phrases:
        verb = _pick(rng, "one sees", "the view meets", "the eye falls on")
        sentences.append(f"{place} {verb} {_join(phrases)}.")
    objects = [
        f"{_join(counted)} {words}"
        for distance, words in DISTANCES.items()
        if (counted := _counted([one for one in things if one.distance == distance]))
    ]
    if objects:
        also = _pick(rng, "Also there:", "This part also has", "It also holds")
        sentences.append(f"{also if phrases else f'{place} one sees'} {_join(objects)}.")
    return sentences or [f"{place} the view is clear of buildings, trees and traffic."]


def _surface(name: str, share: float, rng: np.random.Generator) -> str:
    # draw words for all surfaces, so that the presence of one does not change those of others
    drawn = {
        (surface, size): _pick(rng, *words)
        for surface, sizes in SURFACES.items()
        for size, words in sizes.items()
    }
    return drawn[name, "large" if share > 0.35 else "broad" if share > 0.15 else "small"]


def _counted(things: Sequence[Thing]) -> list[str]:
    names = [one.name for one in things]
    found = []
    for name, (one, several) in NAMES.items():
        count = names.count(name)
        number = NUMBERS[count] if count < len(NUMBERS) else "many"
        found += [one if count == 1 else f"{number} {several}"] * bool(count)
    return found


def _nearest(things: list[Thing], rng: np.random.Generator) -> str:
    movers = [one for one in things if one.name in MOVERS]
    if not movers:
        return _pick(rng, "Hardly anything is on the move here.", "The street lies almost empty.")
    largest = max(movers, key=lambda one: (one.area, one.name))
    side = "in the centre" if largest.third == "centre" else f"on the {largest.third}"
    verb = _pick(rng, "The largest of those on the move or parked is", "What stands out most is")
    name, area = NAMES[largest.name][0], _fraction(largest.area)
    return f"{verb} {name} {side}, taking {area} of the frame."


def _counts(things: list[Thing], rng: np.random.Generator) -> str:
    present = {one.name for one in things}
    absent = " or ".join(NAMES[name][1] for name in MOVERS if name not in present)
    if not things:
        return f"There are no {absent} to speak of."
    start = _pick(rng, "the scene has", "the view has", "one counts")
    but = f", but no {absent} to speak of" if absent else ""
    return f"In all {start} {_join(_counted(things))}{but}."


def _sides(mask: np.ndarray, rng: np.random.Generator) -> str:
    halves = np.array_split(mask, 2, axis=1)
    gains: dict[str, list[str]] = {"left": [], "right": []}
    for name, words in (("building", "built up"), ("tree", "green"), ("pavement", "paved")):
        left, right = (float((half == CLASSES.index(name)).mean()) for half in halves)
        if max(left, right) < 0.02 or left == right:
            continue
        much = "much more" if max(left, right) > 2 * min(left, right) else "slightly more"
        gains["left" if left > right else "right"].append(f"{much} {words}")
    parts = [f"the {side} side is {_join(more)}" for side, more in gains.items() if more]
    if not parts:
        return "Neither side stands out against the other."
    return f"{_pick(rng, 'Of the two sides,', 'Comparing both sides,')} {' while '.join(parts)}."
