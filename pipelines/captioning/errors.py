"""Exceptions of the captioning pipeline, and import of callables named in recipes."""

import pkgutil
from collections.abc import Callable
from typing import Any

from dataset_builders.errors import DatasetError, ReportedError


class CaptioningError(DatasetError):
    """Raised for an invalid recipe or input; the message says what to change."""


class RequestFailedError(Exception):
    """Raised when a model gave no usable answer after all retries.

    Attributes:
        reason: Short code, such as "timeout", "http_500", "invalid_json", "empty".
        attempts: Number of requests sent.
    """

    def __init__(self, reason: str, detail: str = "", attempts: int = 1):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.attempts = attempts


class ModelUnavailableError(ReportedError):
    """Raised when retrying is pointless, such as for a rejected key or an unknown model.

    The run stops; finished units are kept.
    """

    exit_code = 1


class MissingDependencyError(ReportedError, ImportError):
    """Raised for missing language data; the message says how to install it."""


def load_callable(name: str, field: str) -> Callable[..., Any]:
    """Import a function or class named in a recipe.

    Args:
        name: "package.module:callable".
        field: Field of the recipe, for the error message.

    Raises:
        CaptioningError: It cannot be imported or is not callable.
    """
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CaptioningError(
            f"`{field}`: {name!r} cannot be imported as package.module:callable: {error}."
        ) from error
    if ":" not in name or not callable(found):
        raise CaptioningError(f"`{field}`: {name!r} is not a callable, package.module:callable.")
    return found  # type: ignore[no-any-return]
