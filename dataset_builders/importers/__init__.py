"""Importers of images with captions and indicators; `python -m dataset_builders.importers --help`.

An importer is a module with `SUMMARY`, `read` (see [`base.import_dataset`]) and, if it has flags of
its own, `add_arguments`.
"""

NAMES = ("image_folder", "urbanclip", "urbanvlp")

__all__ = ["NAMES"]
