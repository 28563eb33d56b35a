"""Prediction of indicators for regions without labels, from photos."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Import lazily, so that `--help` is fast."""
    if name == "predict_regions":
        from .predict import predict_regions

        return predict_regions
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["predict_regions"]
