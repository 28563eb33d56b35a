"""Variants against what they are variants of, over blocks of regions and training seeds together.

Trainings from the same seed are compared with one another. A draw takes blocks with replacement, as
in [`bootstrap`], and seeds with replacement; both count at once. The mean of S drawn seeds varies
by (S - 1)/S of what it should, so deviations of seeds are stretched by the root of S/(S - 1): the
variance of the draws is then that of the estimate, even for three seeds. Three seeds have light
tails all the same: where training varies much more than blocks do, the interval holds the truth
less often than it says, and the differences of the single seeds are to be read beside it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..embed.trainings import training_of
from ..probe.predictions import read_summary
from .bootstrap import MEAN, REPLICATES, Array, DrawnCell, Interval, drawn_cells, interval


@dataclass(frozen=True)
class VariantDifference:
    """R2 of a variant less that of the system it is a variant of.

    Attributes:
        system: The variant.
        reference: What it is a variant of.
        view: Of both.
        probe: Of both.
        protocol: Protocol of the splits.
        indicator: What is predicted; `mean`: over all indicators.
        seeds: Difference of each training seed.
        difference: Their mean, with its interval over blocks and seeds.
    """

    system: str
    reference: str
    view: str
    probe: str
    protocol: str
    indicator: str
    seeds: tuple[float, ...]
    difference: Interval


def draw_trainings(drawn: Array, seed: int = 0) -> Array:
    """Mean over trainings, of which each draw of blocks takes as many with replacement.

    Args:
        drawn: `(S, 1 + draws)` differences of S training seeds under the same draws of blocks, the
            first of which is the sample; see [`bootstrap.DrawnScores.less`].
        seed: Seed of the draws.

    Returns:
        `(1 + draws,)`; of one training its own differences.
    """
    mean, number = drawn.mean(0), len(drawn)
    if number > 1:
        taken = np.random.default_rng(seed).integers(number, size=(number, drawn.shape[1] - 1))
        resampled = np.take_along_axis(drawn[:, 1:], taken, axis=0).mean(0)
        mean[1:] += np.sqrt(number / (number - 1)) * (resampled - mean[1:])
    return mean


def variant_differences(folder: Path, replicates: int = REPLICATES) -> list[VariantDifference]:
    """Every variant of a results folder, indicator by indicator and on the mean over them.

    Args:
        folder: Results of one city.
        replicates: Draws of the bootstrap.
    """
    systems = read_summary(folder)["systems"]
    trainings = {label: one for label, own in systems.items() if (one := training_of(own))}
    references = {one.group: one.variant_of for one in trainings.values() if one.variant_of}
    compared = {*references, *references.values()}
    labels = {
        (one.group, one.seed): label
        for label, one in trainings.items()
        if one.group in compared
    }  # fmt: skip
    if not references:
        return []
    known = set(labels.values())
    cells = drawn_cells(folder, replicates, 0, lambda _, __, name: name[0] in known, True)
    found: list[VariantDifference] = []
    drawn: dict[tuple[str, str, str, str, str], list[Array]] = {}
    for cell in cells:
        for group, reference in references.items():
            for view, probe in dict.fromkeys(name[1:] for name in cell.systems):
                pairs = list(_pairs(cell, labels, group, reference, view, probe))
                if pairs:
                    key = group, reference, view, probe, cell.protocol
                    drawn.setdefault(key, []).append(np.stack(pairs))
                    found.append(_difference(*key, cell.indicator, drawn[key][-1]))
    for key, parts in drawn.items():
        found.append(_difference(*key, MEAN, np.mean(parts, axis=0)))
    return found


def _pairs(
    cell: DrawnCell,
    labels: dict[tuple[str, int], str],
    group: str,
    reference: str,
    view: str,
    probe: str,
) -> Iterator[Array]:
    """`(1 + draws,)` differences of each seed that both are trained from."""
    for own, seed in labels:
        other = labels.get((reference, seed))
        if own == group and other:
            pair = (labels[own, seed], view, probe), (other, view, probe)
            if all(name in cell.systems for name in pair):
                yield cell.systems[pair[0]].less(cell.systems[pair[1]], "r2")


def _difference(
    group: str, reference: str, view: str, probe: str, protocol: str, indicator: str, drawn: Array
) -> VariantDifference:
    seeds = tuple(drawn[:, 0].tolist())
    found = interval(draw_trainings(drawn))
    return VariantDifference(group, reference, view, probe, protocol, indicator, seeds, found)


__all__ = ["VariantDifference", "draw_trainings", "variant_differences"]
