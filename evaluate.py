"""Predict indicators from images, and evaluate region representations.

    python evaluate.py predict --images photos --regions tracts.gpkg --region_id tract ...
    python evaluate.py embed  --model_name_or_path M --dataset_name DIR --city C --output_dir OUT
    python evaluate.py probe  --embeddings OUT/C/*.parquet --dataset_name DIR --city C ...
    python evaluate.py report --output_dir OUT

This file shadows the Hugging Face library `evaluate` if the repository root comes first on
`sys.path`, as with `accelerate launch` and pytest. Imported under the name `evaluate`, it therefore
loads the library in its place.
"""

import sys

if __name__ == "evaluate":
    import importlib.util
    from importlib.machinery import PathFinder
    from pathlib import Path

    _root = Path(__file__).resolve().parent
    _elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != _root]
    _spec = PathFinder.find_spec(__name__, _elsewhere)
    if _spec is None or _spec.loader is None:
        raise ModuleNotFoundError(
            "The Hugging Face library `evaluate` is not installed: pip install evaluate. "
            f"({__file__} is the command line of the same name.)",
            name=__name__,
        )
    _library = importlib.util.module_from_spec(_spec)
    # `import` returns the entry of sys.modules
    sys.modules[__name__] = _library
    _spec.loader.exec_module(_library)

if __name__ == "__main__":
    if sys.argv[1:2] == ["predict"]:
        from pipelines.prediction.cli import main
    else:
        from pipelines.evaluation.cli import main

    sys.exit(main())
