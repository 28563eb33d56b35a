"""Which pairs meet in which step: a pure function of seed and step, so a run resumes anywhere."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ..common.errors import InputError

BUCKET_BATCHES = 8  # batches sorted by length together: more saves padding, fewer mixes better


@dataclass(frozen=True)
class BatchIndices:
    """The pairs of one batch of one process, and the epoch they are drawn for."""

    epoch: int
    indices: np.ndarray


@dataclass
class BatchPlan:
    """The order of the training pairs.

    An epoch is a seeded permutation, cut into batches that all processes share between them, with
    captions of like length together; `accumulation` of them make a step. What does not fill a
    step is left out, other pairs in every epoch.

    Args:
        indices: the pairs to draw from, `(N,)`.
        num_tokens: length of each one's caption, `(N,)`.
        batch_size: pairs of one process in one batch.
        world_size: processes.
        accumulation: batches to a step.
        seed: of the order.
        group_by_length: False leaves the permutation as it is.
        epoch_num_tokens: the same lengths in an epoch, where captions change with it.

    Raises:
        InputError: there are fewer pairs than one step takes.
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
                f"One step takes {self.global_batch_size * self.accumulation} pairs "
                f"(--per_device_train_batch_size {self.batch_size} x {self.world_size} processes x "
                f"--gradient_accumulation_steps {self.accumulation}), but there are only "
                f"{len(self.num_tokens)} to train on. Take smaller ones."
            )

    @property
    def global_batch_size(self) -> int:
        """Pairs of all processes in one batch."""
        return self.batch_size * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in a pass over the pairs."""
        return len(self.num_tokens) // (self.global_batch_size * self.accumulation)

    def epoch_of(self, step: int) -> int:
        """The epoch that step `step` (from 0) belongs to."""
        return step // self.steps_per_epoch

    def step_batches(self, step: int) -> np.ndarray:
        """Places in `indices` that step `step` (from 0) takes: `(accumulation, global batch)`."""
        batches = self._epoch_batches(self.epoch_of(step))
        first = step % self.steps_per_epoch * self.accumulation
        return batches[first : first + self.accumulation]

    def process_batches(self, rank: int, start: int, stop: int) -> Iterator[BatchIndices]:
        """All batches of one process in the steps `start` to `stop` (exclusive), in order."""
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
        # sorting too large a part of the epoch would bring the same pairs together every time
        bucket = min(BUCKET_BATCHES, max(1, num_batches // 4)) * self.global_batch_size
        for start in range(0, len(order), bucket):
            part = order[start : start + bucket]
            part[:] = part[np.argsort(num_tokens[part], kind="stable")]
        return order.reshape(num_batches, -1)[rng.permutation(num_batches)]


__all__ = ["BatchIndices", "BatchPlan"]
