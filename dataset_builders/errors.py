"""Errors of building and reading datasets."""


class DatasetError(ValueError):
    """Raised when a dataset folder, table, row or setting is invalid."""


class SourceError(ValueError):
    """Raised when a source of data is missing, or not laid out as expected."""


class SplitError(ValueError):
    """Raised when there are too few regions or blocks for a split."""


class MissingExtraError(ImportError):
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


__all__ = ["DatasetError", "MissingExtraError", "SourceError", "SplitError"]
