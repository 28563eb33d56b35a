"""Momentum update of the teacher and queue of its embeddings."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import distributed, nn

UNKNOWN_ID = -1
NOT_STARTED = -1


@torch.no_grad()
def update_momentum_(
    student: Iterable[torch.Tensor], teacher: Iterable[torch.Tensor], momentum: float
) -> None:
    """Update in place: `teacher = momentum * teacher + (1 - momentum) * student`.

    Args:
        student: Parameters of the student, in the teacher's order.
        teacher: Parameters of the teacher, updated in place.
        momentum: Coefficient m in [0, 1]; 0 copies the student, 1 keeps the teacher.
    """
    teacher, student = list(teacher), list(student)
    if momentum == 0:  # lerp would round
        torch._foreach_copy_(teacher, student)
    else:
        torch._foreach_lerp_(teacher, student, 1 - momentum)


def gather_without_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """Concatenate a tensor over all processes along dimension 0, in rank order."""
    if not is_distributed():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def is_distributed() -> bool:
    """Whether training runs in more than one process."""
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


@dataclass(frozen=True)
class MomentumKeys:
    """Teacher embeddings of a batch over all processes.

    Attributes:
        image: Image embeddings of shape `(M, D)`, L2-normalised.
        text: Text embeddings of shape `(M, D)`, L2-normalised.
        ids: Sample ids of shape `(M,)`, int64; `UNKNOWN_ID` matches nothing.
    """

    image: torch.Tensor
    text: torch.Tensor
    ids: torch.Tensor

    @staticmethod
    def concatenate(parts: "Iterable[MomentumKeys]") -> "MomentumKeys":
        """Concatenate the keys of several micro-batches."""
        parts = list(parts)
        return MomentumKeys(
            image=torch.cat([part.image for part in parts]),
            text=torch.cat([part.text for part in parts]),
            ids=torch.cat([part.ids for part in parts]),
        )


class EmbeddingQueue(nn.Module):
    """Ring buffer of the last `size` image and text embeddings of the teacher, with sample ids.

    The buffers are persistent, so training checkpoints contain them.

    Args:
        size: Capacity K.
        dim: Embedding dimension D.
    """

    image_queue: torch.Tensor
    text_queue: torch.Tensor
    id_queue: torch.Tensor
    queue_ptr: torch.Tensor
    queue_fill: torch.Tensor

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.size = size
        self._is_full = False  # cached to avoid a device synchronisation per step
        self.register_buffer("image_queue", torch.zeros(size, dim))
        self.register_buffer("text_queue", torch.zeros(size, dim))
        self.register_buffer("id_queue", torch.full((size,), UNKNOWN_ID, dtype=torch.int64))
        self.register_buffer("queue_ptr", torch.zeros((), dtype=torch.int64))
        self.register_buffer("queue_fill", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        if self._is_full:
            return self.size
        filled = max(0, int(self.queue_fill))
        self._is_full = 0 < self.size == filled
        return filled

    def _load_from_state_dict(self, *args) -> None:
        self._is_full = False
        super()._load_from_state_dict(*args)

    @property
    def started(self) -> bool:
        """Whether the checkpoint contained training state or training has begun."""
        return int(self.queue_fill) != NOT_STARTED

    @torch.no_grad()
    def clear(self) -> None:
        """Remove all entries."""
        self._is_full = False
        self.queue_ptr.zero_()
        self.queue_fill.zero_()

    @torch.no_grad()
    def enqueue(self, keys: MomentumKeys) -> None:
        """Add keys of any batch size, oldest first, replacing the oldest entries."""
        if self.size == 0:
            return
        start = max(0, keys.ids.shape[0] - self.size)
        count = keys.ids.shape[0] - start
        places = (self.queue_ptr + torch.arange(count, device=self.queue_ptr.device)) % self.size
        self.image_queue[places] = keys.image[start:].to(self.image_queue)
        self.text_queue[places] = keys.text[start:].to(self.text_queue)
        self.id_queue[places] = keys.ids[start:].to(self.id_queue)
        self.queue_ptr.copy_((self.queue_ptr + count) % self.size)
        self.queue_fill.copy_((self.queue_fill + count).clamp(max=self.size))

    def keys(self) -> MomentumKeys:
        """Filled entries as views, in buffer order."""
        filled = len(self)
        return MomentumKeys(
            image=self.image_queue[:filled],
            text=self.text_queue[:filled],
            ids=self.id_queue[:filled],
        )


__all__ = [
    "NOT_STARTED",
    "UNKNOWN_ID",
    "EmbeddingQueue",
    "MomentumKeys",
    "gather_without_gradient",
    "is_distributed",
    "update_momentum_",
]
