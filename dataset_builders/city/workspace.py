"""The folder of a city's build: what is kept where."""

from pathlib import Path

from ..download import Store
from ..errors import DatasetError

BUILD_MARKER, LEDGER_FILE = ".urbanln-build", "ledger.sqlite"


class Workspace:
    """A build's folder.

    Attributes:
        root: Folder of all the others.
        plan: What the build will cost, and a map of what will be requested.
        cache: The ledger, what was fetched, roads: never published, never fetched twice.
        dataset: The dataset, for `load_dataset`.
        report: Coverage, splits, images.
        published: The dataset as it may leave this machine.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.plan, self.cache, self.dataset, self.report, self.published = (
            self.root / name for name in ("plan", "cache", "dataset", "report", "published")
        )

    def claim(self) -> None:
        """Mark the folder as a build's, before anything is written.

        Raises:
            DatasetError: It has a folder of a name that a build uses, and no build made it.
        """
        own = (self.plan, self.cache, self.dataset, self.report, self.published)
        marks = (self.root / BUILD_MARKER, self.cache / LEDGER_FILE)
        taken = [path.name for path in own if path.exists()]
        if taken and not any(mark.exists() for mark in marks):
            raise DatasetError(
                f"{self.root} has {', '.join(taken)}, which a build would write into and none has "
                "made: give another --output_dir."
            )
        self.root.mkdir(parents=True, exist_ok=True)
        marks[0].touch()

    def open_store(self) -> Store:
        """The ledger and the contents."""
        return Store(self.cache)


__all__ = ["Workspace"]
