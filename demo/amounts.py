"""Number formatting of indicator values and intervals."""

from dataclasses import dataclass

import numpy as np

from pipelines.prediction.labels import Indicator

MEASURED_DIGITS, ESTIMATED_DIGITS = 3, 2


@dataclass(frozen=True)
class Amounts:
    """Number format of an indicator.

    Attributes:
        finest: Smallest rounding step: 1 for counts, otherwise a thousandth of the order of
            magnitude of the city's large values.
    """

    finest: float

    def measured(self, value: float) -> str:
        """Format a measured value with three significant digits."""
        return rounded(value, MEASURED_DIGITS, self.finest)

    def estimated(self, value: float) -> str:
        """Format an estimate with two significant digits."""
        return rounded(value, ESTIMATED_DIGITS, self.finest)

    def between(self, low: float, high: float) -> str:
        """Describe an interval in words; empty if it is unknown."""
        if not np.isfinite([low, high]).all():
            return ""
        least, most = self.estimated(low), self.estimated(high)
        if least == most:
            return f"about {most}"
        return f"up to {most}" if least == "0" else f"between {least} and {most}"


def amounts_of(indicator: Indicator) -> Amounts:
    """Choose the number format of an indicator from its labels."""
    known = indicator.raw[np.isfinite(indicator.raw)]
    if len(known) and (known == np.round(known)).all():
        return Amounts(1.0)
    large = float(np.quantile(np.abs(known), 0.95)) if len(known) else 0.0
    return Amounts(10.0 ** (np.floor(np.log10(large)) - 3) if large > 0 else 1e-6)


def rounded(value: float, digits: int, finest: float = 1e-9) -> str:
    """Round to significant digits, with thousands separators; a dash for a missing value."""
    if not np.isfinite(value):
        return "–"
    if abs(value) < finest / 2:
        return "0"
    exponent = np.floor(np.log10(abs(value))) - digits + 1
    step = max(finest, 10.0**exponent)
    decimals = max(0, -int(np.floor(np.log10(step) + 1e-9)))
    return f"{round(value / step) * step:,.{decimals}f}"


__all__ = ["Amounts", "amounts_of", "rounded"]
