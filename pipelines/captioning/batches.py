"""Batches whose shapes do not depend on which items there are.

The output of a network varies in its last digits with the shape of its input. An item's output does
not depend on the others if its batch is padded to a fixed length and filled up with copies.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def batches(
    lengths: Sequence[int], step: int, size: Callable[[int], int]
) -> Iterator[tuple[list[int], int]]:
    """Batches of items of similar length.

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
