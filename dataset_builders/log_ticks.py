"""Ticks in raw units for axes of ln(y + 1)."""

import math

import numpy as np

MOST, FEWEST = 5, 3
ROUNDING = 1e-9
STEPS = ((1,), (1, 3), (1, 2, 5))
"""Multiples of powers of ten, sparsest first; the first with enough ticks is used."""


def raw_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Tick positions on a scale of ln(y + 1), and labels in raw units.

    Args:
        low: Lower end of the axis, in ln(y + 1).
        high: Upper end of the axis.

    Returns:
        Positions in ln(y + 1), and labels of y.
    """
    bottom, top = max(math.expm1(low), 0.0) * (1 - ROUNDING), math.expm1(high) * (1 + ROUNDING)
    last = math.floor(math.log10(top)) if top > 0 else 0
    powers = [10.0**power for power in range(last - 12, last + 1)]
    for steps in STEPS:
        found = [0.0, *(step * power for power in powers for step in steps)]
        values = _spaced([value for value in found if bottom <= value <= top], low, high)
        if len(values) >= FEWEST:
            break
    else:
        from matplotlib.ticker import MaxNLocator

        even = MaxNLocator(MOST - 1).tick_values(bottom, max(top, bottom + 1e-12))
        values = [value for value in np.round(even, 12).tolist() if bottom <= value <= top]
    return [math.log1p(value) for value in values], [compact(value) for value in values]


def compact(value: float) -> str:
    """Short form of a number: 2500, 25k, 2.5M."""
    for least, size, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"


def _spaced(values: list[float], low: float, high: float) -> list[float]:
    """Thin out values to a minimum distance, from the top; 0 is always kept."""
    least = (high - low) / (MOST + 1)
    kept: list[float] = []
    for value in reversed(values):
        crowds_zero = values[0] == 0 < value and math.log1p(value) < least
        if not crowds_zero and (not kept or math.log1p(kept[-1]) - math.log1p(value) >= least):
            kept.append(value)
    return kept[::-1]


__all__ = ["compact", "raw_ticks"]
