"""How far a map reaches: where its errors cluster, where it is out of its depth, whom images miss.

Three numbers beside a score. Moran's I of the residuals tells whether errors resemble those of
the neighbours, so that whole quarters are over- or underestimated. The area of applicability tells
which regions look like none that was learnt from. The coverage by decile tells whether regions with
few people, or little light, have images as often as the others.
"""

import io
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..probe.reach import DECILES

Floats = NDArray[np.float64]
NEIGHBOURS, PERMUTATIONS = 8, 999
FEWEST_RESIDUALS = 30
CHANCE = 0.05
STRONG = 0.3
"""Moran's I from which whole quarters, not single neighbours, err together."""


@dataclass(frozen=True)
class Moran:
    """Spatial autocorrelation of residuals.

    Attributes:
        value: Moran's I; about 0 where errors are scattered, towards 1 where they cluster.
        p: share of permutations with an I at least as large.
        residual: `(N,)` standardised residuals.
        neighbours: `(N,)` mean standardised residual of the nearest regions.
    """

    value: float
    p: float
    residual: Floats
    neighbours: Floats


@dataclass(frozen=True)
class Reach:
    """How far the map of an indicator reaches.

    Attributes:
        indicator: what is predicted.
        moran: of the held-out residuals; None for fewer than [`FEWEST_RESIDUALS`].
        predicted: regions that were predicted and not learnt from.
        unlike: those whose vectors are unlike all that were learnt from.
        covered: shares of the labelled regions that have an image, by decile of the label from the
            lowest; NaN for a decile that ties leave empty.
        asked: which regions `predicted` counts.
    """

    indicator: str
    moran: Moran | None
    predicted: int
    unlike: int
    covered: tuple[float, ...]
    asked: str = "regions without a label"

    @property
    def lines(self) -> list[str]:
        """A sentence for each."""
        found = []
        if self.moran is not None:
            alike = self.moran.p < CHANCE and self.moran.value > 0
            strong = alike and self.moran.value >= STRONG
            clustered = "clustered" if alike else "not significantly clustered"
            p = max(self.moran.p, 1 / (PERMUTATIONS + 1))
            found.append(
                f"Errors are spatially {clustered}: Moran's I {self.moran.value:.2f} "
                f"(p = {p:.3f}, {PERMUTATIONS} permutations)."
                + (" Entire neighbourhoods are over- or underestimated." if strong else "")
            )
        if self.predicted:
            found.append(
                f"{self.unlike:,} of {self.predicted:,} {self.asked} "
                f"({self.unlike / self.predicted:.0%}) are outside the training distribution."
            )
        lowest, highest = self.covered[0], self.covered[-1]
        if np.isfinite(lowest) and np.isfinite(highest):
            found.append(
                f"Images cover {lowest:.0%} of the labelled regions in the lowest tenth of "
                f"{self.indicator} and {highest:.0%} in the highest."
            )
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the residuals."""
        moran = self.moran and {"value": self.moran.value, "p": self.moran.p}
        covered = [None if np.isnan(share) else share for share in self.covered]
        return {**asdict(self), "moran": moran, "covered": covered, "lines": self.lines}


def morans_i(
    xy: Floats,
    residual: Floats,
    *,
    neighbours: int = NEIGHBOURS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Moran | None:
    """Moran's I with row-standardised weights of the nearest neighbours.

    With z the centred residuals and W the weights, I = z'Wz / z'z (Moran 1950,
    doi:10.2307/2332142); significance by permutation, one-sided.

    Args:
        xy: `(N, 2)` positions in metres.
        residual: `(N,)`; rows that are not finite are left out.
        neighbours: Number of nearest regions that have equal weights.
        permutations: Number of permutations.
        seed: Seed of the permutations.

    Returns:
        None for fewer than [`FEWEST_RESIDUALS`] residuals, or residuals that do not vary.
    """
    from scipy.spatial import cKDTree

    known = np.isfinite(residual)
    xy, z = xy[known], residual[known] - residual[known].mean() if known.any() else residual[known]
    if len(z) < max(FEWEST_RESIDUALS, neighbours + 1) or not np.ptp(z) > 0:
        return None
    # of places that coincide any may come first, so a region is taken out by its number
    _, nearest = cKDTree(xy).query(xy, k=neighbours + 1)
    own = nearest == np.arange(len(z))[:, None]
    own[~own.any(1), -1] = True
    nearest = nearest[~own].reshape(len(z), neighbours)
    z = z / z.std()
    lag = z[nearest].mean(1)
    value = float(z @ lag / len(z))
    rng = np.random.default_rng(seed)
    larger = 0
    for _ in range(permutations):
        drawn = rng.permutation(z)
        larger += float(drawn @ drawn[nearest].mean(1)) / len(z) >= value
    return Moran(value, (larger + 1) / (permutations + 1), z, lag)


def draw_reach(reach: Reach) -> bytes:
    """Coverage by decile, and residuals against those of the neighbours, as a small PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.bar(np.arange(1, DECILES + 1), reach.covered, color="#4c78a8")
    for empty in np.flatnonzero(np.isnan(reach.covered)):
        left.text(empty + 1, 0.02, "–", ha="center")  # not a share of 0
    left.set(ylim=(0, 1), xlabel="decile of the label", ylabel="share with an image")
    left.set_xticks([1, 5, 10])
    if reach.moran is not None:
        right.scatter(reach.moran.residual, reach.moran.neighbours, s=4, alpha=0.4, linewidths=0)
        right.axline((0, 0), slope=reach.moran.value, color="#e45756", linewidth=1)
    right.set(xlabel="residual (SD)", ylabel="mean of its neighbours")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


__all__ = ["Moran", "Reach", "draw_reach", "morans_i"]
