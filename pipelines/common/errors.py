"""The error for input that a user can correct."""

from dataset_builders.errors import ReportedError


class InputError(ReportedError, ValueError):
    """An argument, a table or a checkpoint that cannot be used; the message says what to do."""


__all__ = ["InputError"]
