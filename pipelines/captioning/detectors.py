"""Open-vocabulary detection: OWLv2 (https://arxiv.org/abs/2306.09683) by transformers.

The image tower runs once per image and the text tower once per phrase, however many captions name
it; a pair of the two is a product of vectors.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dataset_builders.images import decode_image

from .components import filled, open_component
from .errors import CaptioningError
from .records import Detection, PhraseDetector, SourceImage

OWLV2 = "google/owlv2-large-patch14-ensemble"
RULES_VERSION = "owlv2-2"
MAX_TOKENS = 16
"""Limit of OWLv2's text tower; longer phrases are not scored, rather than cut silently."""
PHRASES_AT_A_TIME = 16
"""Batches of the text tower are filled up with copies to this size: the last digits of a phrase's
vector then do not depend on which phrases were new together."""


class Owlv2Detector:
    """Scores of phrases in images. The weights load when first needed.

    Args:
        model: Hub id, or a folder.
        revision: Of the weights.
        device: As torch names it; the first accelerator, or the CPU, by default.
        dtype: Of the weights.
        max_phrases: Number of phrases whose embeddings are kept.

    Attributes:
        revision: Of model and rules.
    """

    def __init__(
        self,
        model: str = OWLV2,
        revision: str = "main",
        device: str | None = None,
        dtype: str = "float32",
        max_phrases: int = 100_000,
    ):
        if not hasattr(torch, dtype):
            raise CaptioningError(f"There is no torch dtype {dtype!r}.")
        self._name, self._revision = model, revision
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = getattr(torch, dtype)
        self._max_phrases = max_phrases
        self._queries: OrderedDict[str, torch.Tensor | None] = OrderedDict()
        self.revision = f"{RULES_VERSION}/{model}@{revision}/{dtype}"

    @cached_property
    def _model(self) -> Any:
        from transformers import Owlv2ForObjectDetection

        model: Any = Owlv2ForObjectDetection.from_pretrained(
            self._name, revision=self._revision, dtype=self._dtype
        )
        return model.to(self._device).eval()

    @cached_property
    def _processor(self) -> Any:
        from transformers import Owlv2Processor

        return Owlv2Processor.from_pretrained(self._name, revision=self._revision)

    @torch.no_grad()
    def detect(self, source: SourceImage, phrases: Sequence[str]) -> Detection:
        """Score of each phrase at each patch, and the patches' boxes.

        Args:
            source: The image.
            phrases: Queries, used as they are.

        Returns:
            Scores `(patches, phrases)`, NaN in the column of a phrase of more than 16 tokens, and
            boxes `(patches, 4)`.
        """
        image = decode_image(source.data)
        pixels = self._processor.image_processor(images=image, return_tensors="pt")["pixel_values"]
        feature_map, _ = self._model.image_embedder(pixels.to(self._device, self._dtype))
        patches = feature_map.reshape(1, -1, feature_map.shape[-1])
        boxes = self._model.box_predictor(patches, feature_map)[0].float().cpu().numpy()
        scores = np.full((patches.shape[1], len(phrases)), np.nan, dtype=np.float32)
        queries = self._embed(phrases)
        asked = [number for number, query in enumerate(queries) if query is not None]
        if asked:
            stacked = torch.stack([queries[number] for number in asked])[None]  # type: ignore[misc]
            logits, _ = self._model.class_predictor(patches, stacked)
            scores[:, asked] = torch.sigmoid(logits[0].float()).cpu().numpy()
        return Detection(scores, _corners(boxes, max(image.size)))

    def _embed(self, phrases: Sequence[str]) -> list[torch.Tensor | None]:
        """The text tower's output of each phrase; None for one that is too long."""
        unknown = sorted(set(phrases) - self._queries.keys())
        for start in range(0, len(unknown), PHRASES_AT_A_TIME):
            self._read(unknown[start : start + PHRASES_AT_A_TIME])
        found = [self._queries[phrase] for phrase in phrases]
        for phrase in dict.fromkeys(phrases):
            self._queries.move_to_end(phrase)
        while len(self._queries) > self._max_phrases:
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


def _corners(boxes: np.ndarray, long_side: int) -> np.ndarray:
    """Centre and size, as shares of the image padded to a square, to xyxy in pixels."""
    centre, size = boxes[:, :2], boxes[:, 2:]
    corners = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    return np.asarray(corners * long_side, dtype=np.float32)


def open_detector(name: str, **options: Any) -> PhraseDetector:
    """The detector of that name.

    Args:
        name: "owlv2".
        options: Options of `Owlv2Detector`.

    Raises:
        CaptioningError: There is no such detector, or no such option.
    """
    return open_component("detector", {"owlv2": Owlv2Detector}, name, options)  # type: ignore[no-any-return]


__all__ = ["MAX_TOKENS", "OWLV2", "Owlv2Detector", "open_detector"]
