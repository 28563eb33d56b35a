"""Importers of published layouts; `python -m dataset_builders.importers --help` lists them."""

from importlib import import_module
from types import ModuleType

NAMES = (
    "camvid",
    "image_folder",
    "king_county",
    "rsicd",
    "streetview_nyc",
    "urbanclip",
    "urbanvlp",
)


def importer(name: str) -> ModuleType:
    """The module of an importer: `SUMMARY`, `add_arguments`, `import_dataset`.

    Raises:
        ValueError: no such importer; the message lists them.
    """
    if name not in NAMES:
        raise ValueError(f"There is no importer {name!r}; there are {', '.join(NAMES)}.")
    return import_module(f"{__name__}.{name}")


__all__ = ["NAMES", "importer"]
