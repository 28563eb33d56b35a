"""Batches of token ids and pixel values, in an order determined by seed and step."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dataset_builders.images import decode_image, stored_bytes
from modeling_urbanln import UrbanLNProcessor, clean_text

from ..common.errors import InputError
from .data import PairTable

BUCKET_BATCHES = 8  # batches sorted by length together; more save padding but mix less
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*")
# distinct from the streams of the batch order (seed, epoch) and the sentences (seed, epoch, pair)
SHORT_STREAM = 2


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

    def __post_init__(self) -> None:
        if self.steps_per_epoch == 0:
            raise InputError(
                f"A step needs {self.step_size} pairs (--per_device_train_batch_size "
                f"{self.batch_size} x {self.world_size} processes x --gradient_accumulation_steps "
                f"{self.accumulation}), but there are only {len(self.num_tokens)} training pairs. "
                "Use smaller values."
            )

    @property
    def step_size(self) -> int:
        """Number of pairs per optimizer step over all processes."""
        return self.batch_size * self.world_size * self.accumulation

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps per epoch."""
        return len(self.num_tokens) // self.step_size

    def process_batches(self, rank: int, start: int, stop: int) -> Iterator[BatchIndices]:
        """Yield the batches of a process in the steps `start` to `stop` (exclusive)."""
        own = slice(rank * self.batch_size, (rank + 1) * self.batch_size)
        drawn, batches = -1, np.empty(0)
        for step in range(start, stop):
            epoch, place = divmod(step, self.steps_per_epoch)
            if epoch != drawn:
                drawn, batches = epoch, self._draw_epoch(epoch)
            for batch in batches[place * self.accumulation : (place + 1) * self.accumulation]:
                yield BatchIndices(epoch, self.indices[batch[own]])

    def _draw_epoch(self, epoch: int) -> np.ndarray:
        """Positions in `indices`, `(number of batches, pairs per batch of all processes)`."""
        rng = np.random.default_rng((self.seed, epoch))
        num_batches = self.steps_per_epoch * self.accumulation
        size = self.batch_size * self.world_size
        order = rng.permutation(len(self.num_tokens))[: num_batches * size]
        if not self.group_by_length:
            return order.reshape(num_batches, size)
        num_tokens = self.epoch_num_tokens(epoch) if self.epoch_num_tokens else self.num_tokens
        # sorting a large part of the epoch would group the same pairs every time
        bucket = min(BUCKET_BATCHES, max(1, num_batches // 4)) * size
        for start in range(0, len(order), bucket):
            part = order[start : start + bucket]
            part[:] = part[np.argsort(num_tokens[part], kind="stable")]
        return order.reshape(num_batches, size)[rng.permutation(num_batches)]


def split_sentences(caption: str) -> list[str]:
    """Split a caption into sentences."""
    return [part for part in SENTENCE_END.split(caption) if part]


def shuffle_sentences(caption: str, rng: np.random.Generator) -> str:
    """Shuffle the sentences of a caption."""
    sentences = split_sentences(caption)
    return " ".join(sentences[index] for index in rng.permutation(len(sentences)))


def shorten(caption: str, probability: float, rng: np.random.Generator) -> str:
    """With the given probability, replace the caption by one of its sentences."""
    if rng.random() >= probability:
        return caption
    sentences = split_sentences(caption)
    return sentences[int(rng.integers(len(sentences)))]


def tokenize(
    texts: Sequence[str],
    tokenizer: Any,
    max_length: int,
    pad_to_multiple_of: int | None = None,
) -> dict[str, torch.Tensor]:
    """Tokenize texts and pad them to the longest: `input_ids` and `attention_mask`.

    Args:
        texts: Texts of a batch.
        tokenizer: Tokenizer with a padding token.
        max_length: Limit at which texts are truncated, keeping the end token.
        pad_to_multiple_of: Round the length up, within `max_length`.
    """
    rows = tokenizer([clean_text(one) for one in texts], truncation=True, max_length=max_length)[
        "input_ids"
    ]
    length = max(len(row) for row in rows)
    if pad_to_multiple_of:
        length = min(max_length, -(-length // pad_to_multiple_of) * pad_to_multiple_of)
    input_ids = torch.full((len(rows), length), tokenizer.pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.tensor(row)
        attention_mask[index, : len(row)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


class PairBatches(Dataset):
    """Dataset of complete batches, indexed by [`BatchIndices`]; decodes images on demand.

    Args:
        pairs: Images and captions.
        processor: Image processor and tokenizer.
        pad_to_multiple_of: See [`tokenize`].
        seed: Seed of what changes every epoch: the caption candidate of each image and the two
            settings below. If None, use the captions of the images unchanged.
        shuffle: Whether to shuffle the sentences of a caption.
        short_probability: Probability to replace a caption by one of its sentences.
    """

    def __init__(
        self,
        pairs: PairTable,
        processor: UrbanLNProcessor,
        pad_to_multiple_of: int | None = None,
        seed: int | None = None,
        shuffle: bool = False,
        short_probability: float = 0.0,
    ):
        self.pairs, self.processor = pairs, processor
        self.pad_to_multiple_of = pad_to_multiple_of
        self.seed, self.shuffle, self.short_probability = seed, shuffle, short_probability

    def __getitem__(self, batch: BatchIndices) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask`, `pixel_values` and `sample_ids` of a batch."""
        captions = [self.pairs.captions[index].as_py() for index in batch.indices.tolist()]
        if self.seed is not None:
            captions = self._vary(captions, batch, self.seed)
        tokens = tokenize(
            captions, self.processor.tokenizer, self.pairs.max_length, self.pad_to_multiple_of
        )
        stored = self.pairs.images[self.pairs.rows[batch.indices].tolist()]["image"]
        decoded = [decode_image(stored_bytes(image) or b"") for image in stored]
        pixels = self.processor.image_processor(decoded, return_tensors="pt")["pixel_values"]
        sample_ids = torch.from_numpy(self.pairs.sample_ids[batch.indices])
        return {**tokens, "pixel_values": pixels, "sample_ids": sample_ids}

    def _vary(self, captions: list[str], batch: BatchIndices, seed: int) -> list[str]:
        if candidates := self.pairs.candidates:
            drawn = candidates.draw(seed, batch.epoch)[batch.indices]
            places = np.flatnonzero(drawn >= 0)
            for place, text in zip(places.tolist(), candidates.texts(drawn[places]), strict=True):
                captions[place] = text
        varied = []
        for index, text in zip(batch.indices.tolist(), captions, strict=True):
            # seeded by the pair, so that results do not depend on the number of workers
            stream = (seed, batch.epoch, index)
            if self.shuffle:
                text = shuffle_sentences(text, np.random.default_rng(stream))
            rng = np.random.default_rng((*stream, SHORT_STREAM))
            varied.append(shorten(text, self.short_probability, rng))
        return varied


def batch_loader(
    batches: PairBatches, plan: Iterable[BatchIndices], num_workers: int, pin_memory: bool
) -> DataLoader:
    """Data loader of the batches of a plan, in its order.

    Args:
        batches: Dataset of batches.
        plan: Indices of each batch.
        num_workers: Number of loading processes; 0 loads in this process on demand.
        pin_memory: Whether to pin the memory for copies to an accelerator.
    """
    return DataLoader(
        batches,
        sampler=plan,
        batch_size=None,
        num_workers=num_workers,
        pin_memory=pin_memory,
        # a separate generator, so that starting workers does not advance the checkpointed state
        generator=torch.Generator(),
    )


__all__ = [
    "BatchIndices",
    "BatchPlan",
    "PairBatches",
    "batch_loader",
    "shorten",
    "shuffle_sentences",
    "tokenize",
]
