"""The error for what a user gave and can mend."""


class ReleaseError(ValueError):
    """A checkpoint or an argument that cannot be used; the message says what to do."""


__all__ = ["ReleaseError"]
