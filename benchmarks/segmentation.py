"""Purity, class recall and speed of training-free salient boxes on CamVid street scenes.

    python -m benchmarks.segmentation FOLDER

The CamVid folder holds `images/*.jpg` and `masks/*.png` of the same names. Mask values are the 11
classes of the SegNet tutorial and 11 for unlabelled pixels.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataset_builders.images import decode_image
from pipelines.captioning.records import Box
from pipelines.captioning.segment import salient_boxes
from pipelines.captioning.segmenters import FelzenszwalbSegmenter

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist", "unlabelled",
)  # fmt: skip
UNLABELLED = CLASSES.index("unlabelled")
# classes that cover less of a scene are not expected to get a box
MIN_CLASS_SHARE = 0.01

Truth = NDArray[np.uint8]


def camvid_scenes(folder: Path) -> Iterator[tuple[Image.Image, Truth]]:
    for path in sorted((folder / "images").glob("*.jpg")):
        truth = np.asarray(Image.open(folder / "masks" / f"{path.stem}.png"))
        yield decode_image(path), truth


def purity(truth: Truth, box: Box) -> float:
    """Share of the most common class in a box."""
    return float(_class_counts(truth, box).max() / (box.height * box.width))


def random_box(box: Box, shape: tuple[int, int], rng: np.random.Generator) -> Box:
    top = rng.integers(0, shape[0] - box.height + 1)
    left = rng.integers(0, shape[1] - box.width + 1)
    return Box(int(top), int(left), box.height, box.width)


def benchmark_camvid(folder: Path) -> None:
    """Print purity and class recall of salient and random boxes, and the time per scene."""
    segmenter, rng = FelzenszwalbSegmenter(), np.random.default_rng(0)
    numbers, areas, found, drawn, seconds = [], [], [], [], []
    there, shown, by_chance = np.zeros((3, len(CLASSES)), int)
    for image, truth in camvid_scenes(folder):
        start = time.process_time()
        boxes = salient_boxes(segmenter.masks(image), truth.shape)
        seconds.append(time.process_time() - start)
        _check_disjoint(boxes, truth.shape)
        others = [random_box(box, truth.shape, rng) for box in boxes]
        found.append(np.mean([purity(truth, box) for box in boxes]))
        drawn.append(np.mean([purity(truth, box) for box in others]))
        numbers.append(len(boxes))
        areas.append(sum(box.height * box.width for box in boxes) / truth.size)
        present = np.bincount(truth.ravel(), minlength=len(CLASSES)) >= MIN_CLASS_SHARE * truth.size
        there += present
        shown += present & _shown(truth, boxes)
        by_chance += present & _shown(truth, others)
    print(f"CamVid, {len(found)} scenes, {segmenter.revision}")
    print(f"boxes per scene         {np.mean(numbers):.1f}, {np.mean(areas):.1%} of the pixels")
    gain = np.array(found) - drawn
    print(f"purity                  {np.mean(found):.3f}, random boxes {np.mean(drawn):.3f}")
    print(
        f"difference per scene    {gain.mean():.3f} "
        f"+- {1.96 * gain.std(ddof=1) / np.sqrt(len(gain)):.3f} (95 %)"
    )
    labelled = slice(0, UNLABELLED)
    print(
        f"class recall            {shown[labelled].sum() / there[labelled].sum():.1%}, random "
        f"boxes {by_chance[labelled].sum() / there[labelled].sum():.1%}, of "
        f"{there[labelled].sum()} that cover at least {MIN_CLASS_SHARE:.0%} of a scene"
    )
    for number in range(UNLABELLED):
        if there[number]:
            share, chance = shown[number] / there[number], by_chance[number] / there[number]
            print(f"  {CLASSES[number]:12} {share:6.1%}  random {chance:6.1%}  of {there[number]}")
    print(f"CPU time                {np.mean(seconds) * 1e3:.0f} ms per scene")


def _shown(truth: Truth, boxes: Iterable[Box]) -> NDArray[np.bool_]:
    """Classes that cover more than half of a box."""
    shown = np.zeros(len(CLASSES), bool)
    for box in boxes:
        counts = _class_counts(truth, box)
        shown |= counts > box.height * box.width / 2
    return shown


def _class_counts(truth: Truth, box: Box) -> NDArray[np.int64]:
    inside = truth[box.top : box.top + box.height, box.left : box.left + box.width]
    return np.bincount(inside.ravel(), minlength=len(CLASSES))


def _check_disjoint(boxes: Iterable[Box], shape: tuple[int, int]) -> None:
    covered = np.zeros(shape, int)
    for box in boxes:
        covered[box.top : box.top + box.height, box.left : box.left + box.width] += 1
    if covered.max(initial=0) > 1:
        raise AssertionError("Boxes overlap.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="CamVid's images/*.jpg and masks/*.png")
    benchmark_camvid(parser.parse_args().folder)


if __name__ == "__main__":
    main()
