"""Error for invalid user input."""

from dataset_builders.errors import ReportedError


class InputError(ReportedError, ValueError):
    """Invalid argument, table or checkpoint; the message states the remedy."""


__all__ = ["InputError"]
