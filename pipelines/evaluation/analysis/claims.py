"""Differences between variants and their references, resampling blocks and training seeds.

Trainings are paired by seed. Each bootstrap draw resamples blocks, as in [`bootstrap`], and seeds,
both with replacement. The variance of the mean of S resampled seeds is too small by a factor of
(S - 1)/S, so deviations between seeds are multiplied by the square root of S/(S - 1). With few
seeds the tails are still too light: where trainings vary much more than blocks, intervals cover
less often than their level, so the differences of the single seeds are reported as well.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..embed.trainings import training_of
from ..probe.predictions import read_summary
from .bootstrap import MEAN, REPLICATES, Array, Interval, drawn_cells, interval


@dataclass(frozen=True)
class VariantDifference:
    """Difference of R2 between a variant and its reference.

    Attributes:
        system: Name of the variant.
        reference: Name of the system it is a variant of.
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
    drawn: dict[tuple[str, str, str, str, str], dict[str, Array]] = {}
    for cell in cells:
        for group, reference in references.items():
            for view, probe in dict.fromkeys(name[1:] for name in cell.systems):
                pairs = [
                    cell.systems[mine].less(cell.systems[other], "r2")
                    for own, seed in labels
                    if own == group and (reference, seed) in labels
                    for mine in [(labels[own, seed], view, probe)]
                    for other in [(labels[reference, seed], view, probe)]
                    if {mine, other} <= set(cell.systems)
                ]
                if pairs:
                    key = group, reference, view, probe, cell.protocol
                    drawn.setdefault(key, {})[cell.indicator] = np.stack(pairs)
    return [
        VariantDifference(
            *key, indicator, tuple(values[:, 0].tolist()), interval(draw_trainings(values))
        )
        for key, own in drawn.items()
        for indicator, values in {**own, MEAN: np.mean(list(own.values()), axis=0)}.items()
    ]


__all__ = ["VariantDifference", "draw_trainings", "variant_differences"]
