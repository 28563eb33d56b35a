"""Batches of tokens and pixels; images stay on disk until they are needed."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from dataset_builders.images import decode_image, stored_bytes
from modeling_urbanln import UrbanLNProcessor, clean_text

from .data import PairTable
from .sampling import BatchIndices

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*")
# distinct from the streams of the order (seed, epoch) and of the sentences (seed, epoch, pair)
SHORT_STREAM = 2


def split_sentences(caption: str) -> list[str]:
    """The sentences of a caption, which always has one."""
    return [part for part in SENTENCE_END.split(caption) if part]


def shuffle_sentences(caption: str, rng: np.random.Generator) -> str:
    """The caption with its sentences in another order."""
    sentences = split_sentences(caption)
    return " ".join(sentences[index] for index in rng.permutation(len(sentences)))


def shorten(caption: str, probability: float, rng: np.random.Generator) -> str:
    """With this probability one of the caption's sentences in its place."""
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
    """Token ids padded to the longest of the batch, `(batch, longest)`; never past `max_length`.

    Args:
        texts: the batch.
        tokenizer: CLIP's.
        max_length: texts are cut there; the end token stays.
        pad_to_multiple_of: round the length up, within `max_length`.
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
    """Ready batches by their indices: one item is one whole batch.

    Args:
        pairs: where the images and captions are.
        processor: image processor and tokenizer.
        pad_to_multiple_of: see [`tokenize`].
        shuffle_seed: draw the order of the sentences anew from this seed and the epoch; None
            leaves it.
        draw_seed: draw one of each image's candidates anew from this seed and the epoch; None
            takes the image's own caption.
        short: seed and probability of [`shorten`]; None leaves captions as they are.
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
        """Seeded by the pair, not by the worker: any number of workers draws the same."""
        return np.random.default_rng((seed, batch.epoch, *stream))


def batch_loader(
    batches: PairBatches, plan: Iterable[BatchIndices], num_workers: int, pin_memory: bool
) -> DataLoader:
    """Load the batches of a plan, in its order.

    Args:
        batches: Makes the batches.
        plan: Indices of each batch.
        num_workers: Processes that load ahead of time; 0 loads in this process, on demand.
        pin_memory: Pin the memory for copies to an accelerator.
    """
    return DataLoader(
        batches,
        sampler=_Plan(plan),
        batch_size=None,
        collate_fn=_as_is,
        num_workers=num_workers,
        pin_memory=pin_memory,
        # of its own, so that starting workers draws nothing from the state a checkpoint holds
        generator=torch.Generator(),
    )


class _Plan(Sampler):
    def __init__(self, plan: Iterable[BatchIndices]):
        self.plan = plan

    def __iter__(self) -> Iterator[BatchIndices]:
        return iter(self.plan)


def _as_is(batch: Any) -> Any:
    return batch


__all__ = ["PairBatches", "batch_loader", "shorten", "shuffle_sentences", "tokenize"]
