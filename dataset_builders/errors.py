"""Errors of building and reading datasets, and what all errors for users have in common."""


class ReportedError(Exception):
    """Raised for what a user can act on; a command prints the message and no traceback.

    Attributes:
        exit_code: Of a command that it ends; 2 where something that was given cannot be used.
    """

    exit_code = 2


class DatasetError(ReportedError, ValueError):
    """Raised when a dataset folder, table, row or setting is invalid."""


class SourceError(ReportedError, ValueError):
    """Raised when a source of data is missing, or not laid out as expected."""


class SplitError(ReportedError, ValueError):
    """Raised when there are too few regions or blocks for a split."""


class InUseError(ReportedError):
    """Raised when another run writes to the same folder."""


class MissingExtraError(ReportedError, ImportError):
    """Raised when a package is missing that is only installed with an extra.

    Args:
        package: Name of the missing package.
        extra: Name of the extra that installs it.
    """

    def __init__(self, package: str, extra: str):
        super().__init__(
            f"This needs the package {package!r}, which is not installed: "
            f'pip install -e ".[{extra}]"'
        )


__all__ = [
    "DatasetError",
    "InUseError",
    "MissingExtraError",
    "ReportedError",
    "SourceError",
    "SplitError",
]
