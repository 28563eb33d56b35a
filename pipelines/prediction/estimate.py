"""Estimates and prediction intervals, by images and by location only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.analysis.conformal import METHODS
from pipelines.evaluation.probe.controls import coordinate_basis, tree_coordinates
from pipelines.evaluation.probe.reach import unlike

from .cross_fit import Folds, cross_fit, make_folds
from .labels import Indicator
from .models import Floats, Model, NearestNeighbours, Ridge, Trees
from .place import Place

LEVEL = 0.9
FEWEST_ERRORS = 8
"""Minimum number of held-out errors for an interval."""
HELD_OUT, UNLABELLED, NO_IMAGE, UNLIKE = "held_out", "unlabelled", "no_image", "unlike_training"


@dataclass(frozen=True)
class Estimate:
    """Estimate of an indicator for all regions with an image, on the modelled scale.

    Attributes:
        indicator: Estimated indicator.
        folds: Folds of the labelled regions.
        value: Estimates from images, `(N,)`, held out for labelled regions.
        half_width: Half-width of the 90 % intervals, `(N,)`; NaN with too few errors.
        location: Held-out estimates from location only, `(N,)`; NaN without a label.
        both: Held-out estimates from images and location, `(N,)`; NaN without a label.
        location_model: "k-NN" or "trees", whichever has the smaller held-out error.
        guaranteed: Whether there are enough districts for the nominal coverage.
        chosen: Index in the ridge grid for regions without labels.
        width_elsewhere: Half-width of the interval of regions without labels.
    """

    indicator: Indicator
    folds: Folds
    value: Floats
    half_width: Floats
    location: Floats
    both: Floats
    location_model: str
    guaranteed: bool
    chosen: int
    width_elsewhere: float

    @property
    def is_held_out(self) -> NDArray[np.bool_]:
        """Whether each region has a held-out prediction, `(N,)`."""
        return (self.folds.number >= 0) & np.isfinite(self.value)


def estimate(
    X: NDArray[np.floating], place: Place, indicators: Sequence[Indicator]
) -> list[Estimate]:
    """Estimate indicators from the embeddings of regions.

    Indicators with the same labelled regions share all fits.

    Args:
        X: Embeddings of regions with an image, `(N, D)`; NaN for missing views.
        place: Spatial layout of these regions.
        indicators: Indicators with labels in at least [`FEWEST_FOLDS`] districts.
    """
    found: dict[int, Estimate] = {}
    masks = [np.isfinite(indicator.y) for indicator in indicators]
    for mask in {mask.tobytes(): mask for mask in masks}.values():
        members = [k for k, own in enumerate(masks) if np.array_equal(own, mask)]
        shared = [indicators[k] for k in members]
        found.update(zip(members, _estimate_shared(X, place, shared, mask), strict=True))
    return [found[k] for k in range(len(indicators))]


def _estimate_shared(
    X: NDArray[np.floating],
    place: Place,
    indicators: Sequence[Indicator],
    usable: NDArray[np.bool_],
) -> list[Estimate]:
    Y = np.column_stack([indicator.y for indicator in indicators])
    folds = make_folds(usable, place.groups, place.near)
    images = Ridge(X)
    values, chosen = cross_fit(images, Y, folds)
    if len(out := np.flatnonzero(~usable)):
        grid = images(Y, np.flatnonzero(usable), out)
        values[out] = grid[chosen, :, np.arange(Y.shape[1])].T
    basis = coordinate_basis(place.xy)
    together, _ = cross_fit(Ridge(np.column_stack([X, basis]).astype(np.float32)), Y, folds)
    alone: dict[str, Model] = {
        "k-NN": NearestNeighbours(place.xy),
        "trees": Trees(tree_coordinates(place.xy)),
    }
    by_location = {name: cross_fit(model, Y, folds)[0] for name, model in alone.items()}
    estimates = []
    for k, indicator in enumerate(indicators):
        location = {name: fitted[:, k] for name, fitted in by_location.items()}
        best = min(location, key=lambda name: _error(location[name], Y[:, k]))
        widths, guaranteed = _half_widths(values[:, k], Y[:, k], folds, place)
        width = np.array([widths[name] for name in folds.number.tolist()])
        estimates.append(
            Estimate(
                indicator,
                folds,
                values[:, k],
                np.where(np.isfinite(values[:, k]), width, np.nan),
                location[best],
                together[:, k],
                best,
                guaranteed,
                int(chosen[k]),
                widths[-1],
            )
        )
    return estimates


def _half_widths(
    values: Floats, y: Floats, folds: Folds, place: Place
) -> tuple[dict[int, float], bool]:
    """Half-width per fold, and for -1, from the held-out errors of the other folds."""
    errors = np.where(folds.number >= 0, np.abs(values - y), np.nan)
    method = METHODS["block" if place.protocol == "block" else "split"]
    widths = dict.fromkeys((-1, *folds.names), np.nan)
    guaranteed = True
    for name in widths:
        use = np.isfinite(errors) & (folds.number != name)
        if use.sum() >= FEWEST_ERRORS:
            widths[name], enough = method(errors[use], place.districts[use], LEVEL)
            guaranteed &= enough
    return widths, guaranteed


def estimate_new(
    X: NDArray[np.floating], found: Sequence[Estimate], new: NDArray[np.floating]
) -> list[tuple[Floats, NDArray[np.bool_]]]:
    """Estimate other regions by the model of all labelled regions.

    Args:
        X: Embeddings used for the estimates, `(N, D)`.
        found: Estimates.
        new: Embeddings of the other regions, `(M, D)`.

    Returns:
        For each estimate, values on the modelled scale, `(M,)`, and whether each region is unlike
        the labelled regions, `(M,)`, as in [`status`].
    """
    together = np.vstack([X, new])
    rows = np.arange(len(X), len(together))
    elsewhere = np.full(len(new), -1)
    images = Ridge(together)
    estimates = []
    for one in found:
        number = one.folds.number
        grid = images(one.indicator.y[:, None], np.flatnonzero(number >= 0), rows)
        far = unlike(together, np.concatenate([number, elsewhere]), rows)
        estimates.append((grid[one.chosen, :, 0], far))
    return estimates


def _error(predicted: Floats, y: Floats) -> float:
    error = np.square(predicted - y)
    return float(np.nanmean(error)) if np.isfinite(error).any() else np.inf


def status(X: NDArray[np.floating], estimate: Estimate) -> NDArray[np.object_]:
    """Status of each region with an image, `(N,)`.

    "held_out", "unlabelled" or "unlike_training", a region without label outside the area of
    applicability; see [`pipelines.evaluation.probe.reach.unlike`].
    """
    folds = estimate.folds.number
    found = np.where(folds >= 0, HELD_OUT, UNLABELLED).astype(object)
    rows = np.flatnonzero(folds < 0)
    found[rows[unlike(X, folds, rows)]] = UNLIKE
    return found


__all__ = ["LEVEL", "Estimate", "estimate", "estimate_new", "status"]
