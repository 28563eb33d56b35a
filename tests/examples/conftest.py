"""Small synthetic city of the captioning tests."""

from tests.pipelines.captioning.conftest import city_with_truth, truth

__all__ = ["city_with_truth", "truth"]
