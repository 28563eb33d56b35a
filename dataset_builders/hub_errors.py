"""What the Hub refuses, and files that are refused when they came from it, in sentences."""

from collections.abc import Iterator

ADVICE = {
    401: "The token is missing or wrong: `hf auth login`, or set HF_TOKEN.",
    403: "The token may not do that: take one with access to the organisation.",
    404: "There is no such repository or file, or the token may not see it: check the name.",
    429: "The Hub asks to slow down: try again in some minutes.",
}
UNREACHABLE = {"HTTPError", "TransportError", "LocalEntryNotFoundError", "ConnectionError"}
PICKLE = "it may run code and is refused. Ask for safetensors."
AGAIN = "Try the same command again; what was sent or fetched is not asked for twice."


def explain(error: BaseException, name: str | None = None) -> str | None:
    """What the Hub or the way to it refused, in a sentence that says what to do.

    The libraries that load wrap such errors several times, and lose the status code on the way.

    Args:
        error: that was caught.
        name: of the repository that was asked for, where it is known.

    Returns:
        None where neither the Hub nor a file of weights has a part in it.
    """
    chain = list(_causes(error))
    names = {base.__name__ for one in chain for base in type(one).__mro__}
    codes = [getattr(getattr(one, "response", None), "status_code", None) for one in chain]
    code = next((one for one in codes if one is not None), None)
    what = f" for {name}" if name else ""
    if "HFValidationError" in names:
        return f"{name or 'What was given'!r} is no name of a repository: give org/name."
    if "LocalTokenNotFoundError" in names:
        return ADVICE[401]
    if "OfflineModeIsEnabled" in names:
        return f"HF_HUB_OFFLINE forbids to ask the Hub{what}, and it is not in the cache."
    if code is not None:
        return f"The Hub answered {code}{what}. {ADVICE.get(code, AGAIN)}"
    if "DatasetNotFoundError" in names:
        return f"The Hub has no dataset{what}. {ADVICE[404]}"
    if "UnpicklingError" in names:
        return f"The weights{what} are a pickle that holds more than tensors: {PICKLE}"
    if "SafetensorError" in names:
        return f"The weights{what} are no whole safetensors file: fetch or copy them again."
    if names & UNREACHABLE and "BrokenPipeError" not in names:
        return f"The Hub could not be reached{what}. {AGAIN}"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


__all__ = ["explain"]
