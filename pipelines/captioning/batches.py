"""Batches of fixed shape, which make a model's output for an item independent of the other items.

The output of a network varies in its last digits with the shape of its input. Batches are therefore
padded to a fixed length and filled up with copies.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def batches(
    lengths: Sequence[int], step: int, size: Callable[[int], int]
) -> Iterator[tuple[list[int], int]]:
    """Group items of similar length into batches.

    Args:
        lengths: Length of each item, in tokens.
        step: Lengths are padded to a multiple of this number of tokens.
        size: Batch size as a function of the padded length.

    Yields:
        Indices of the items of a batch, and their padded length in tokens.
    """
    by_length = defaultdict(list)
    for number, length in enumerate(lengths):
        by_length[-(-length // step) * step].append(number)
    for length, numbers in sorted(by_length.items()):
        for start in range(0, len(numbers), size(length)):
            yield numbers[start : start + size(length)], length


def filled(items: Sequence[T], size: int) -> list[T]:
    """Repeat items up to a list of length `size`."""
    return (list(items) * size)[:size]
