"""What can go wrong while a dataset is built or read."""


class DatasetError(ValueError):
    """A dataset folder, table or row is not what it should be."""


class SourceError(ValueError):
    """What is to be imported is not laid out as the importer expects."""


class SplitError(ValueError):
    """There are too few regions or blocks for the split that was asked for."""


class MissingExtraError(ImportError):
    """A package that is only installed with an extra.

    Args:
        package: that is missing.
        extra: that brings it.
    """

    def __init__(self, package: str, extra: str):
        super().__init__(
            f"This needs the package {package!r}, which is not installed: "
            f'pip install -e ".[{extra}]"'
        )


__all__ = ["DatasetError", "MissingExtraError", "SourceError", "SplitError"]
