"""What can go wrong while images are captioned."""


class CaptioningError(ValueError):
    """A recipe or an input that cannot be used; the message says what to change."""


class RequestFailedError(Exception):
    """A model gave no usable answer, after all retries.

    Attributes:
        reason: a short code, such as "timeout", "http_500", "invalid_json", "empty".
        attempts: how often it was asked.
    """

    def __init__(self, reason: str, detail: str = "", attempts: int = 1):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.attempts = attempts


class ModelUnavailableError(Exception):
    """A model cannot be asked at all: key refused, no such model, weights that do not load.

    Every further request would fail, so the run stops; what has been done is kept.
    """


class MissingDependencyError(ImportError):
    """A package or data file of an extra is not there; the message says how to get it."""


__all__ = [
    "CaptioningError",
    "MissingDependencyError",
    "ModelUnavailableError",
    "RequestFailedError",
]
