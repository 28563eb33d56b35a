"""Open-vocabulary detection with OWLv2 (https://arxiv.org/abs/2306.09683).

The image encoder runs once per image and the text encoder once per phrase; their outputs are
combined by dot products.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dataset_builders.images import decode_image

from .batches import filled
from .encoder import PhraseCache
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
        self._embed = PhraseCache(self._text_embeds, MAX_PHRASES)
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
        if not phrases:
            return scores
        embeds = self._embed(list(phrases))
        scored = ~np.isnan(embeds[:, 0])
        if scored.any():
            queries = torch.from_numpy(embeds[scored]).to(patches)
            logits, _ = self._model.class_predictor(patches, queries[None])
            scores[scored] = torch.sigmoid(logits[0].float()).amax(dim=0).cpu().numpy()
        return scores

    def _text_embeds(self, phrases: list[str]) -> NDArray[np.float32]:
        """Text embedding of each phrase; NaN for phrases that are too long."""
        tokenizer, config = self._processor.tokenizer, self._model.config
        embeds = np.full((len(phrases), config.projection_dim), np.nan, dtype=np.float32)
        lengths = [len(ids) for ids in tokenizer(phrases)["input_ids"]]
        short = [number for number, length in enumerate(lengths) if length <= MAX_TOKENS]
        for start in range(0, len(short), PHRASES_AT_A_TIME):
            numbers = short[start : start + PHRASES_AT_A_TIME]
            inputs = tokenizer(
                filled([phrases[number] for number in numbers], PHRASES_AT_A_TIME),
                padding="max_length",
                max_length=MAX_TOKENS,
                return_tensors="pt",
            )
            output = self._model.owlv2.get_text_features(
                input_ids=inputs["input_ids"].to(self._device),
                attention_mask=inputs["attention_mask"].to(self._device),
            )
            vectors = getattr(output, "pooler_output", output)
            embeds[numbers] = vectors[: len(numbers)].float().cpu().numpy()
        return embeds
