"""Errors of captioning, and names that cannot be imported."""

import pkgutil
from collections.abc import Callable
from typing import Any

from dataset_builders.errors import ReportedError


class CaptioningError(ReportedError, ValueError):
    """A recipe or an input that cannot be used; the message says what to change."""


class RequestFailedError(Exception):
    """A model gave no usable answer, after all retries.

    Attributes:
        reason: Short code, such as "timeout", "http_500", "invalid_json", "empty".
        attempts: Requests made.
    """

    def __init__(self, reason: str, detail: str = "", attempts: int = 1):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.attempts = attempts


class ModelUnavailableError(ReportedError):
    """Raised when retrying is pointless: key refused, no such model, weights that do not load.

    The run stops; finished units are kept.
    """

    exit_code = 1


class MissingDependencyError(ReportedError, ImportError):
    """A package or data file of an extra is missing; the message says how to install it."""


def load_callable(name: str, field: str) -> Callable[..., Any]:
    """A function or class that a recipe names.

    Args:
        name: "package.module:callable".
        field: The recipe's field, for the error.

    Raises:
        CaptioningError: There is no such callable.
    """
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CaptioningError(
            f"`{field}`: {name!r} cannot be imported as package.module:callable: {error}."
        ) from error
    if ":" not in name or not callable(found):
        raise CaptioningError(f"`{field}`: {name!r} is no callable, package.module:callable.")
    return found  # type: ignore[no-any-return]
