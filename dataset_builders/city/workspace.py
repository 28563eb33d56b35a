"""Folder layout of a city's build."""

from pathlib import Path

from ..errors import DatasetError

BUILD_MARKER, LEDGER_FILE = ".urbanln-build", "ledger.sqlite"


class Workspace:
    """Folders of a build.

    Attributes:
        root: Folder of the build.
        plan: Cost estimate and maps of the regions and sampling points.
        cache: Ledger, downloads and roads; never published.
        dataset: Dataset, readable by `load_dataset`.
        report: Maps of coverage and splits, and contact sheets.
        published: Dataset without images that may not be redistributed.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.plan, self.cache, self.dataset, self.report, self.published = (
            self.root / name for name in ("plan", "cache", "dataset", "report", "published")
        )

    def claim(self) -> None:
        """Mark the folder as a build's, before anything is written.

        Raises:
            DatasetError: A subfolder with a name used by builds was not made by a build.
        """
        own = (self.plan, self.cache, self.dataset, self.report, self.published)
        marks = (self.root / BUILD_MARKER, self.cache / LEDGER_FILE)
        taken = [path.name for path in own if path.exists()]
        if taken and not any(mark.exists() for mark in marks):
            raise DatasetError(
                f"{self.root} contains {', '.join(taken)}, not made by a build: use another "
                "--output_dir."
            )
        self.root.mkdir(parents=True, exist_ok=True)
        marks[0].touch()


__all__ = ["Workspace"]
