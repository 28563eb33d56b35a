"""User-facing exceptions of all packages."""


class ReportedError(Exception):
    """Base of errors that users can fix; commands print the message without a traceback.

    Attributes:
        exit_code: Exit code of the command; 2 for invalid input.
    """

    exit_code = 2


class DatasetError(ReportedError, ValueError):
    """Raised when a dataset folder, table, row or setting is invalid."""


class SourceError(ReportedError, ValueError):
    """Raised when a data source is missing, or has an unexpected layout."""


class SplitError(ReportedError, ValueError):
    """Raised when there are too few regions or blocks for a split."""


class InUseError(ReportedError):
    """Raised when another run writes to the same folder."""


class MissingExtraError(ReportedError, ImportError):
    """Raised when a package of an optional extra is not installed.

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
