"""Importers of images with captions and indicators: `python -m dataset_builders.importers --help`.

An importer is a module with `SUMMARY`, a function `read` (see [`base.import_dataset`]) and, if it
has flags, a function `add_arguments`.
"""

NAMES = ("image_folder", "urbanclip", "urbanvlp")

__all__ = ["NAMES"]
