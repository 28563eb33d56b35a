"""What the parts of a run share: opening one by its name, and batches of fixed shape."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from .errors import CaptioningError

T = TypeVar("T")


def open_component(kind: str, classes: Mapping[str, Any], name: str, options: Any) -> Any:
    """An instance of the class of that name.

    Args:
        kind: What it is, for errors: "segmenter", ...
        classes: The known ones.
        name: One of `classes`.
        options: Keyword arguments.

    Raises:
        CaptioningError: There is no such class, or it has no such option.
    """
    if name not in classes:
        raise CaptioningError(f"Unknown {kind} {name!r}; use one of {sorted(classes)}.")
    try:
        return classes[name](**options)
    except TypeError as error:
        raise CaptioningError(f"Options of the {kind} {name!r}: {error}.") from error


def batches(
    lengths: Sequence[int], step: int, size: Callable[[int], int]
) -> Iterator[tuple[list[int], int]]:
    """Batches of items of similar length, whose shapes do not depend on which items there are.

    The output of a network varies in its last digits with the shape of its input. An item's output
    does not depend on the others if its batch is padded to the length given here and filled up with
    copies (`filled`).

    Args:
        lengths: Length of each item, in tokens.
        step: Items are padded to a multiple of so many tokens.
        size: Number of items in a batch of items of that length.

    Yields:
        The numbers of the items of a batch, and the length to which they are padded.
    """
    by_length = defaultdict(list)
    for number, length in enumerate(lengths):
        by_length[-(-length // step) * step].append(number)
    for length, numbers in sorted(by_length.items()):
        for start in range(0, len(numbers), size(length)):
            yield numbers[start : start + size(length)], length


def filled(items: Sequence[T], size: int) -> list[T]:
    """The items, repeated until there are `size`."""
    return (list(items) * size)[:size]


__all__ = ["batches", "filled", "open_component"]
