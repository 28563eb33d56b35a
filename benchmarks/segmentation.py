"""Salient boxes: speed of the largest rectangle, and what boxes without weights show.

    export OMP_NUM_THREADS=1
    python -m benchmarks.segmentation rectangle             # against a pure-Python stack
    python -m benchmarks.segmentation camvid FOLDER         # boxes of scenes with true masks

The CamVid folder holds `images/*.jpg` and `masks/*.png` of the same names, a mask's values being
the 11 classes of the SegNet tutorial and 11 for what is not labelled.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataset_builders.images import decode_image
from pipelines.captioning.records import Box
from pipelines.captioning.segment import largest_rectangle, open_segmenter, salient_boxes

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist", "unlabelled",
)  # fmt: skip
UNLABELLED = CLASSES.index("unlabelled")
# a class that takes less of a scene is not expected to get a box
MIN_CLASS_SHARE = 0.01

Truth = NDArray[np.uint8]
T = TypeVar("T")


def python_stack(mask: list[list[bool]]) -> int:
    """Area of the largest rectangle by a stack of histograms, plain Python over lists."""
    width = len(mask[0])
    heights, best = [0] * width, 0
    for row in mask:
        stack: list[tuple[int, int]] = []
        for column in range(width):
            height = heights[column] = heights[column] + 1 if row[column] else 0
            start = column
            while stack and stack[-1][1] >= height:
                start, tallest = stack.pop()
                if tallest * (column - start) > best:
                    best = tallest * (column - start)
            stack.append((start, height))
        for start, tallest in stack:
            if tallest * (width - start) > best:
                best = tallest * (width - start)
    return best


def rectangle_masks(side: int) -> dict[str, NDArray[np.bool_]]:
    """Square masks of several kinds, synthetic."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((side, side))
    holes = np.ones((side, side), bool)
    for top, left in rng.integers(0, side * 7 // 8, (12, 2)):
        holes[top : top + rng.integers(20, 120), left : left + rng.integers(20, 120)] = False
    blob = np.hypot(rows - side / 2, columns - side / 2) < side * (
        0.35 + 0.08 * np.sin(7 * np.arctan2(rows - side / 2, columns - side / 2))
    )
    return {
        "12 holes": holes,
        "blob": blob,
        "all set": np.ones((side, side), bool),
        "90 % at random": rng.random((side, side)) < 0.9,
        "50 % at random": rng.random((side, side)) < 0.5,
    }


def benchmark_rectangle(side: int, repeats: int) -> None:
    """Prints, for each kind of mask, both times and their ratio."""
    print(f"largest rectangle of ones, {side}x{side}, ms of processor time, least of {repeats}")
    for name, mask in rectangle_masks(side).items():
        lists = mask.tolist()
        ours, python = [], []
        for _ in range(repeats):
            seconds, (_, _, height, width) = _timed(partial(largest_rectangle, mask))
            ours.append(seconds)
            seconds, area = _timed(partial(python_stack, lists))
            python.append(seconds)
            if area != height * width:
                raise AssertionError(f"{name}: areas {height * width} and {area} differ.")
        ratio = min(python) / min(ours)
        print(f"{name:16} {min(ours) * 1e3:7.2f}  Python {min(python) * 1e3:7.1f}  {ratio:5.1f}x")


def camvid_scenes(folder: Path) -> Iterator[tuple[Image.Image, Truth]]:
    """Upright images and their true classes `(H, W)`, by name."""
    for path in sorted((folder / "images").glob("*.jpg")):
        truth = np.asarray(Image.open(folder / "masks" / f"{path.stem}.png"))
        yield decode_image(path), truth


def purity(truth: Truth, box: Box) -> float:
    """Share of the commonest class in a box."""
    return float(_class_counts(truth, box).max() / (box.height * box.width))


def random_box(box: Box, shape: tuple[int, int], rng: np.random.Generator) -> Box:
    """A box of the same size elsewhere."""
    top = rng.integers(0, shape[0] - box.height + 1)
    left = rng.integers(0, shape[1] - box.width + 1)
    return Box(int(top), int(left), box.height, box.width)


def benchmark_camvid(folder: Path) -> None:
    """Prints purity of boxes and of random ones, classes shown, and time."""
    segmenter, rng = open_segmenter("felzenszwalb"), np.random.default_rng(0)
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
    print(f"boxes a scene           {np.mean(numbers):.1f}, {np.mean(areas):.1%} of the pixels")
    gain = np.array(found) - drawn
    print(f"purity                  {np.mean(found):.3f}, random boxes {np.mean(drawn):.3f}")
    print(
        f"difference by scene     {gain.mean():.3f} "
        f"+- {1.96 * gain.std(ddof=1) / np.sqrt(len(gain)):.3f} (95 %)"
    )
    labelled = slice(0, UNLABELLED)
    print(
        f"classes shown           {shown[labelled].sum() / there[labelled].sum():.1%}, by random "
        f"boxes {by_chance[labelled].sum() / there[labelled].sum():.1%}, of "
        f"{there[labelled].sum()} that take {MIN_CLASS_SHARE:.0%} of a scene or more"
    )
    for number in range(UNLABELLED):
        if there[number]:
            share, chance = shown[number] / there[number], by_chance[number] / there[number]
            print(f"  {CLASSES[number]:12} {share:6.1%}  random {chance:6.1%}  of {there[number]}")
    print(f"processor time          {np.mean(seconds) * 1e3:.0f} ms a scene")


def _shown(truth: Truth, boxes: Iterable[Box]) -> NDArray[np.bool_]:
    """Classes that take more than half of a box."""
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


def _timed(function: Callable[[], T]) -> tuple[float, T]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    rectangle = parts.add_parser("rectangle")
    rectangle.add_argument("--side", type=int, default=1024)
    rectangle.add_argument("--repeats", type=int, default=9)
    camvid = parts.add_parser("camvid")
    camvid.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.part == "rectangle":
        benchmark_rectangle(arguments.side, arguments.repeats)
    else:
        benchmark_camvid(arguments.folder)


if __name__ == "__main__":
    main()
