"""Batch order as a function of seed and step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ..common.errors import InputError

BUCKET_BATCHES = 8  # batches sorted by length together; more save padding but mix less


@dataclass(frozen=True)
class BatchIndices:
    """Pairs of a batch of one process, and the epoch."""

    epoch: int
    indices: np.ndarray


@dataclass
class BatchPlan:
    """Order of the training pairs.

    An epoch is a seeded permutation, split into batches that the processes share, grouping captions
    of similar length; a step takes `accumulation` batches. Pairs that do not fill a step are
    dropped, different ones in every epoch.

    Args:
        indices: Indices of the training pairs, `(N,)`.
        num_tokens: Number of tokens of their captions, `(N,)`.
        batch_size: Number of pairs per batch and process.
        world_size: Number of processes.
        accumulation: Number of batches per step.
        seed: Random seed.
        group_by_length: Whether to group captions by length.
        epoch_num_tokens: Function from an epoch to `num_tokens`, if captions change by epoch.

    Raises:
        InputError: If there are fewer pairs than one step takes.
    """

    indices: np.ndarray
    num_tokens: np.ndarray
    batch_size: int
    world_size: int = 1
    accumulation: int = 1
    seed: int = 0
    group_by_length: bool = True
    epoch_num_tokens: Callable[[int], np.ndarray] | None = None
    _cached: tuple[int, np.ndarray] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.steps_per_epoch == 0:
            raise InputError(
                f"A step needs {self.global_batch_size * self.accumulation} pairs "
                f"(--per_device_train_batch_size {self.batch_size} x {self.world_size} processes x "
                f"--gradient_accumulation_steps {self.accumulation}), but there are only "
                f"{len(self.num_tokens)} training pairs. Use smaller values."
            )

    @property
    def global_batch_size(self) -> int:
        """Number of pairs per batch over all processes."""
        return self.batch_size * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps per epoch."""
        return len(self.num_tokens) // (self.global_batch_size * self.accumulation)

    def epoch_of(self, step: int) -> int:
        """Epoch of a step (from 0)."""
        return step // self.steps_per_epoch

    def step_batches(self, step: int) -> np.ndarray:
        """Positions in `indices` of a step (from 0), `(accumulation, global_batch_size)`."""
        batches = self._epoch_batches(self.epoch_of(step))
        first = step % self.steps_per_epoch * self.accumulation
        return batches[first : first + self.accumulation]

    def process_batches(self, rank: int, start: int, stop: int) -> Iterator[BatchIndices]:
        """Yield the batches of a process in the steps `start` to `stop` (exclusive)."""
        own = slice(rank * self.batch_size, (rank + 1) * self.batch_size)
        for step in range(start, stop):
            for batch in self.step_batches(step):
                yield BatchIndices(self.epoch_of(step), self.indices[batch[own]])

    def _epoch_batches(self, epoch: int) -> np.ndarray:
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, self._draw_epoch(epoch))
        return self._cached[1]

    def _draw_epoch(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        num_batches = self.steps_per_epoch * self.accumulation
        order = rng.permutation(len(self.num_tokens))[: num_batches * self.global_batch_size]
        if not self.group_by_length:
            return order.reshape(num_batches, -1)
        num_tokens = self.epoch_num_tokens(epoch) if self.epoch_num_tokens else self.num_tokens
        # sorting a large part of the epoch would group the same pairs every time
        bucket = min(BUCKET_BATCHES, max(1, num_batches // 4)) * self.global_batch_size
        for start in range(0, len(order), bucket):
            part = order[start : start + bucket]
            part[:] = part[np.argsort(num_tokens[part], kind="stable")]
        return order.reshape(num_batches, -1)[rng.permutation(num_batches)]


__all__ = ["BatchIndices", "BatchPlan"]
