"""The user error of this pipeline, shared with the others."""

from pipelines.common.errors import InputError

__all__ = ["InputError"]
