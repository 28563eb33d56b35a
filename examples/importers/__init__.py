"""Importers of published collections of real images; each is documented in its module.

python -m examples.importers NAME --source DIR --output_dir DIR
"""

NAMES = ("camvid", "king_county", "rsicd", "streetview_nyc")
