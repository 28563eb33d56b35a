"""Batches of token ids and pixel values; images are decoded on demand."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dataset_builders.images import decode_image, stored_bytes
from modeling_urbanln import UrbanLNProcessor, clean_text

from .data import PairTable
from .sampling import BatchIndices

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*")
# distinct from the streams of the batch order (seed, epoch) and the sentences (seed, epoch, pair)
SHORT_STREAM = 2


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
    """Dataset of complete batches, indexed by [`BatchIndices`].

    Args:
        pairs: Images and captions.
        processor: Image processor and tokenizer.
        pad_to_multiple_of: See [`tokenize`].
        shuffle_seed: Seed to shuffle the sentences of a caption every epoch. If None, keep their
            order.
        draw_seed: Seed to sample a caption candidate of each image every epoch. If None, use the
            caption of the image.
        short: Seed and probability of [`shorten`]. If None, keep the captions.
    """

    def __init__(
        self,
        pairs: PairTable,
        processor: UrbanLNProcessor,
        pad_to_multiple_of: int | None = None,
        shuffle_seed: int | None = None,
        draw_seed: int | None = None,
        short: tuple[int, float] | None = None,
    ):
        self.pairs = pairs
        self.processor = processor
        self.pad_to_multiple_of = pad_to_multiple_of
        self.shuffle_seed = shuffle_seed
        self.draw_seed = draw_seed
        self.short = short

    def __getitem__(self, batch: BatchIndices) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask`, `pixel_values` and `sample_ids` of a batch."""
        tokens = tokenize(
            self._captions(batch),
            self.processor.tokenizer,
            self.pairs.max_length,
            self.pad_to_multiple_of,
        )
        stored = self.pairs.images[self.pairs.rows[batch.indices].tolist()]["image"]
        decoded = [decode_image(stored_bytes(image) or b"") for image in stored]
        pixels = self.processor.image_processor(decoded, return_tensors="pt")["pixel_values"]
        sample_ids = torch.from_numpy(self.pairs.sample_ids[batch.indices])
        return {**tokens, "pixel_values": pixels, "sample_ids": sample_ids}

    def _captions(self, batch: BatchIndices) -> list[str]:
        captions = [self.pairs.captions[index].as_py() for index in batch.indices.tolist()]
        candidates = self.pairs.candidates
        if candidates is not None and self.draw_seed is not None:
            drawn = candidates.draw(self.draw_seed, batch.epoch)[batch.indices]
            places = np.flatnonzero(drawn >= 0)
            for place, text in zip(places.tolist(), candidates.texts(drawn[places]), strict=True):
                captions[place] = text
        pairs = list(zip(batch.indices.tolist(), captions, strict=True))
        if self.shuffle_seed is not None:
            pairs = [
                (index, shuffle_sentences(text, self._rng(self.shuffle_seed, batch, index)))
                for index, text in pairs
            ]
        if self.short is not None:
            seed, probability = self.short
            pairs = [
                (index, shorten(text, probability, self._rng(seed, batch, index, SHORT_STREAM)))
                for index, text in pairs
            ]
        return [text for _, text in pairs]

    @staticmethod
    def _rng(seed: int, batch: BatchIndices, *stream: int) -> np.random.Generator:
        """Seeded by the pair, so that results do not depend on the number of workers."""
        return np.random.default_rng((seed, batch.epoch, *stream))


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


__all__ = ["PairBatches", "batch_loader", "shorten", "shuffle_sentences", "tokenize"]
