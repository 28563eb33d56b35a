"""Open-vocabulary detection with OWLv2 (https://arxiv.org/abs/2306.09683).

The image encoder runs once per image and the text encoder once per phrase; their outputs are
combined by dot products.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dataset_builders.images import decode_image

from .batches import filled
from .records import SourceImage

OWLV2 = "google/owlv2-large-patch14-ensemble"
RULES_VERSION = "owlv2-2"
MAX_TOKENS = 16
"""Context length of OWLv2's text encoder; longer phrases are not scored, rather than truncated."""
MAX_PHRASES = 100_000
"""Maximum number of cached phrase embeddings."""
PHRASES_AT_A_TIME = 16
"""Batch size of the text encoder; smaller batches are filled up with copies (see `batches`)."""


class Owlv2Detector:
    """Phrase detector by OWLv2, loaded on first use.

    Args:
        model: Hub id or folder.
        revision: Revision of the weights.
        device: Torch device; the first GPU, or the CPU, by default.
    """

    def __init__(self, model: str = OWLV2, revision: str = "main", device: str | None = None):
        self._name, self._revision = model, revision
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._queries: OrderedDict[str, torch.Tensor | None] = OrderedDict()
        self.revision = f"{RULES_VERSION}/{model}@{revision}"

    @cached_property
    def _model(self) -> Any:
        from transformers import Owlv2ForObjectDetection

        model: Any = Owlv2ForObjectDetection.from_pretrained(self._name, revision=self._revision)
        return model.to(self._device).eval()

    @cached_property
    def _processor(self) -> Any:
        from transformers import Owlv2Processor

        return Owlv2Processor.from_pretrained(self._name, revision=self._revision)

    @torch.no_grad()
    def detect(self, source: SourceImage, phrases: Sequence[str]) -> NDArray[np.float32]:
        """Highest score of each phrase over all patches of the image.

        Args:
            source: Image.
            phrases: Queries, used verbatim.

        Returns:
            Scores `(phrases,)` in [0, 1]; NaN for phrases of more than 16 tokens.
        """
        image = decode_image(source.data)
        pixels = self._processor.image_processor(images=image, return_tensors="pt")["pixel_values"]
        feature_map, _ = self._model.image_embedder(pixels.to(self._device))
        patches = feature_map.reshape(1, -1, feature_map.shape[-1])
        scores = np.full(len(phrases), np.nan, dtype=np.float32)
        queries = {
            number: one for number, one in enumerate(self._embed(phrases)) if one is not None
        }
        if queries:
            logits, _ = self._model.class_predictor(patches, torch.stack([*queries.values()])[None])
            scores[[*queries]] = torch.sigmoid(logits[0].float()).amax(dim=0).cpu().numpy()
        return scores

    def _embed(self, phrases: Sequence[str]) -> list[torch.Tensor | None]:
        """Text embedding of each phrase; None for phrases that are too long."""
        unknown = sorted(set(phrases) - self._queries.keys())
        for start in range(0, len(unknown), PHRASES_AT_A_TIME):
            self._read(unknown[start : start + PHRASES_AT_A_TIME])
        found = [self._queries[phrase] for phrase in phrases]
        for phrase in dict.fromkeys(phrases):
            self._queries.move_to_end(phrase)
        while len(self._queries) > MAX_PHRASES:
            self._queries.popitem(last=False)
        return found

    def _read(self, phrases: list[str]) -> None:
        tokenizer = self._processor.tokenizer
        lengths = [len(ids) for ids in tokenizer(phrases)["input_ids"]]
        short = [p for p, n in zip(phrases, lengths, strict=True) if n <= MAX_TOKENS]
        self._queries.update(dict.fromkeys(phrases))
        if not short:
            return
        inputs = tokenizer(
            filled(short, PHRASES_AT_A_TIME),
            padding="max_length",
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        output = self._model.owlv2.get_text_features(
            input_ids=inputs["input_ids"].to(self._device),
            attention_mask=inputs["attention_mask"].to(self._device),
        )
        vectors = getattr(output, "pooler_output", output)
        self._queries.update(zip(short, vectors[: len(short)].clone(), strict=True))
