"""Differences between variants and their references, resampling blocks and training seeds.

Trainings are paired by seed. Each bootstrap draw resamples blocks, as in [`bootstrap`], and seeds,
both with replacement. The variance of the mean of S resampled seeds is too small by a factor of
(S - 1)/S, so deviations between seeds are multiplied by the square root of S/(S - 1). With few
seeds the tails are still too light: where trainings vary much more than blocks, intervals cover
less often than their level, so the differences of the single seeds are reported as well.
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
    """Difference of R2 between a variant and its reference.

    Attributes:
        system: Name of the variant.
        reference: Name of the system it is a variant of.
        view: View of both.
        probe: Probe of both.
        protocol: Protocol of the splits.
        indicator: Predicted indicator; `mean` is the mean over all indicators.
        seeds: Difference for each training seed.
        difference: Mean difference, with its interval over blocks and seeds.
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
    """Bootstrap mean over training seeds, resampled in each draw of blocks.

    Args:
        drawn: `(S, 1 + draws)` differences of S training seeds under shared draws of blocks; column
            0 is the sample, see [`bootstrap.DrawnScores.less`].
        seed: Random seed.

    Returns:
        `(1 + draws,)` mean differences; for one seed, its differences unchanged.
    """
    mean, number = drawn.mean(0), len(drawn)
    if number > 1:
        taken = np.random.default_rng(seed).integers(number, size=(number, drawn.shape[1] - 1))
        resampled = np.take_along_axis(drawn[:, 1:], taken, axis=0).mean(0)
        mean[1:] += np.sqrt(number / (number - 1)) * (resampled - mean[1:])
    return mean


def variant_differences(folder: Path, replicates: int = REPLICATES) -> list[VariantDifference]:
    """Differences of all variants of a results folder, per indicator and for their mean.

    Args:
        folder: Results folder of one city.
        replicates: Number of bootstrap replicates.
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
    cells = drawn_cells(folder, replicates, lambda _, __, name: name[0] in known, True)
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
    """`(1 + draws,)` differences for each training seed of both systems."""
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
