"""User errors, shared by all pipelines."""

from pipelines.common.errors import InputError

__all__ = ["InputError"]
