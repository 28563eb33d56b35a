"""The folder of a city's build: what is kept where."""

from dataclasses import dataclass
from pathlib import Path

from ..download import Store
from ..errors import DatasetError

BUILD_MARKER, LEDGER_FILE = ".urbanln-build", "ledger.sqlite"


@dataclass(frozen=True)
class Workspace:
    """A build's folder.

        <root>/plan/       what it will cost, and a map of what will be asked for
        <root>/cache/      the ledger, what was fetched, roads: never published, never fetched twice
        <root>/dataset/    the dataset, for `load_dataset`
        <root>/report/     coverage, splits, pictures
        <root>/published/  the dataset as it may leave this machine

    Attributes:
        root: of all.
    """

    root: Path

    @property
    def plan(self) -> Path:
        """What it will cost."""
        return self.root / "plan"

    @property
    def cache(self) -> Path:
        """What was fetched."""
        return self.root / "cache"

    @property
    def dataset(self) -> Path:
        """The dataset."""
        return self.root / "dataset"

    @property
    def report(self) -> Path:
        """Pictures and numbers of the finished dataset."""
        return self.root / "report"

    @property
    def published(self) -> Path:
        """What may leave this machine."""
        return self.root / "published"

    def claim(self) -> None:
        """Make the folder a build's, before anything is written.

        Raises:
            DatasetError: it has a folder of a name that a build uses, and no build made it.
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
