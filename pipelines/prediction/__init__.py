"""Predict an indicator where it has no label: photos and polygons to a map with intervals."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Import the work when it is asked for: `--help` needs none of it."""
    if name == "predict_regions":
        from .predict import predict_regions

        return predict_regions
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["predict_regions"]
