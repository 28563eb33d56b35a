"""Error messages for the Hugging Face Hub and downloaded weights."""

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ReportedError

ADVICE = {
    401: "The token is missing or wrong: `hf auth login`, or set HF_TOKEN.",
    403: "The token lacks permission: use one with access to the organisation.",
    404: "There is no such repository or file, or the token cannot see it: check the name.",
    429: "Too many requests: try again in a few minutes.",
}
UNREACHABLE = {"HTTPError", "TransportError", "LocalEntryNotFoundError", "ConnectionError"}
AGAIN = "Run the same command again; what was sent or downloaded is kept."


def explain(error: BaseException, name: str | None = None) -> str | None:
    """Explain an error of the Hub, of the connection to it, or of a weights file.

    Libraries wrap such errors several times, and lose the status code.

    Args:
        error: The caught exception.
        name: Name of the requested repository, if known.

    Returns:
        Cause and remedy; None if the error has another cause.
    """
    chain = list(causes(error))
    bases = {base for one in chain for base in type(one).__mro__}
    # a built-in ConnectionError may concern any host
    names = {base.__name__ for base in bases if base.__module__ != "builtins"}
    codes = [getattr(getattr(one, "response", None), "status_code", None) for one in chain]
    code = next((one for one in codes if one is not None), None)
    what = f" for {name}" if name else ""
    if "HFValidationError" in names:
        return f"{name or 'The name'!r} is not a repository name: give org/name."
    if "LocalTokenNotFoundError" in names:
        return ADVICE[401]
    if "OfflineModeIsEnabled" in names:
        return f"HF_HUB_OFFLINE is set, and the cache does not have the files{what}."
    if code is not None:
        return f"The Hub answered {code}{what}. {ADVICE.get(code, AGAIN)}"
    if "DatasetNotFoundError" in names:
        return f"The Hub has no dataset{what}. {ADVICE[404]}"
    if "UnpicklingError" in names:
        return (
            f"The weights{what} are a pickle with objects other than tensors, which may run code, "
            "and are not loaded. Use weights in safetensors."
        )
    if "SafetensorError" in names and "I/O error" not in str(chain):  # disk full
        return (
            f"The weights{what} are not a complete safetensors file: download or copy them again."
        )
    if names & UNREACHABLE:
        return f"The Hub could not be reached{what}. {AGAIN}"
    return None


@contextmanager
def explained(name: str, kind: type[ReportedError]) -> Iterator[None]:
    """Raise errors of the Hub as errors of a kind, with the exit code of a command.

    Args:
        name: Name of the requested repository.
        kind: Class of the raised error.
    """
    try:
        yield
    except Exception as error:
        if (said := explain(error, name)) is None:
            raise
        failure = kind(said)
        failure.exit_code = 1 if said.endswith(AGAIN) else 2
        raise failure from error


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and the exceptions that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


__all__ = ["AGAIN", "causes", "explain", "explained"]
