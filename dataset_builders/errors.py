"""What can go wrong while a dataset is built or read."""


class DatasetError(ValueError):
    """A dataset folder, table or row is not what it should be."""


class SourceError(ValueError):
    """What is to be imported is not laid out as the importer expects."""


class SplitError(ValueError):
    """There are too few regions or blocks for the split that was asked for."""


__all__ = ["DatasetError", "SourceError", "SplitError"]
