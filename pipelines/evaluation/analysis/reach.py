"""Reliability of a map: spatial autocorrelation of errors, distribution shift, image coverage.

Moran's I of the residuals shows whether entire neighbourhoods are over- or underestimated, the area
of applicability which regions are outside the training distribution, and the coverage by decile of
the label whether, say, regions with few residents have images as often as others.
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
"""Moran's I from which errors are shared by neighbourhoods, not only by adjacent regions."""


@dataclass(frozen=True)
class Moran:
    """Spatial autocorrelation of residuals.

    Attributes:
        value: Moran's I; about 0 for scattered errors, towards 1 for clustered errors.
        p: One-sided p value by permutation.
        residual: `(N,)` standardised residuals.
        neighbours: `(N,)` mean standardised residual of the nearest regions.
    """

    value: float
    p: float
    residual: Floats
    neighbours: Floats


@dataclass(frozen=True)
class Reach:
    """Reliability of the map of one indicator.

    Attributes:
        indicator: Predicted indicator.
        moran: Autocorrelation of the held-out residuals; None for fewer than
            [`FEWEST_RESIDUALS`].
        predicted: Number of predicted regions outside the training set.
        unlike: Number of these outside the training distribution.
        covered: Share of labelled regions with an image per decile of the label, lowest first;
            NaN for deciles left empty by ties.
        asked: Description of the regions counted by `predicted`.
    """

    indicator: str
    moran: Moran | None
    predicted: int
    unlike: int
    covered: tuple[float, ...]
    asked: str = "regions without a label"

    @property
    def lines(self) -> list[str]:
        """Findings, one sentence each."""
        found = []
        if self.moran is not None:
            alike = self.moran.p < CHANCE and self.moran.value > 0
            strong = alike and self.moran.value >= STRONG
            clustered = "clustered" if alike else "not significantly clustered"
            found.append(
                f"Errors are spatially {clustered}: Moran's I {self.moran.value:.2f} "
                f"(p = {self.moran.p:.3f}, {PERMUTATIONS} permutations)."
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
        """JSON-serialisable summary without the residuals."""
        moran = self.moran and {"value": self.moran.value, "p": self.moran.p}
        covered = [None if np.isnan(share) else share for share in self.covered]
        return {**asdict(self), "moran": moran, "covered": covered, "lines": self.lines}


def morans_i(
    xy: Floats,
    residual: Floats,
    *,
    neighbours: int = NEIGHBOURS,
) -> Moran | None:
    """Moran's I with row-standardised nearest-neighbour weights and a one-sided permutation test.

    I = z'Wz / z'z for centred residuals z and weights W (Moran 1950, doi:10.2307/2332142).

    Args:
        xy: `(N, 2)` positions in metres.
        residual: `(N,)` residuals; non-finite rows are dropped.
        neighbours: Number of nearest neighbours, with equal weights.

    Returns:
        None for fewer than [`FEWEST_RESIDUALS`] residuals, or constant residuals.
    """
    from scipy.spatial import cKDTree

    known = np.isfinite(residual)
    xy, z = xy[known], residual[known] - residual[known].mean() if known.any() else residual[known]
    if len(z) < max(FEWEST_RESIDUALS, neighbours + 1) or not np.ptp(z) > 0:
        return None
    # coincident points may come in any order, so exclude each region by its index
    _, nearest = cKDTree(xy).query(xy, k=neighbours + 1)
    own = nearest == np.arange(len(z))[:, None]
    own[~own.any(1), -1] = True
    nearest = nearest[~own].reshape(len(z), neighbours)
    z = z / z.std()
    lag = z[nearest].mean(1)
    value = float(z @ lag / len(z))
    rng = np.random.default_rng(0)
    larger = 0
    for _ in range(PERMUTATIONS):
        drawn = rng.permutation(z)
        larger += float(drawn @ drawn[nearest].mean(1)) / len(z) >= value
    return Moran(value, (larger + 1) / (PERMUTATIONS + 1), z, lag)


def draw_reach(reach: Reach) -> bytes:
    """PNG with the image coverage per decile and a Moran scatter plot of the residuals."""
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
