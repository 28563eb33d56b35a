"""Open-vocabulary detection: OWLv2 (https://arxiv.org/abs/2306.09683) by transformers.

The image tower runs once for an image, the text tower once for a phrase, however many captions
name it: what is left for each pair is a product of vectors.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dataset_builders.images import decode_image

from .errors import CaptioningError
from .records import Detection, PhraseDetector, SourceImage

OWLV2 = "google/owlv2-large-patch14-ensemble"
RULES_VERSION = "owlv2-2"
MAX_TOKENS = 16
"""OWLv2's text tower reads no more; longer phrases are not cut in silence but not asked."""
PHRASES_AT_A_TIME = 16
"""Batches of the text tower always have this size, filled up with copies: a phrase's vector then
does not depend, in its last digits, on which phrases happened to be new together."""


class Owlv2Detector:
    """Scores of phrases in images. The weights are loaded when it is first asked.

    Args:
        model: id on the Hub, or a folder.
        revision: of the weights.
        device: as torch names it; the first accelerator, or the CPU, by default.
        dtype: of the weights.
        max_phrases: embeddings of phrases that are kept.

    Attributes:
        revision: of model and rules.
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
            source: the image.
            phrases: asked as they are.

        Returns:
            NaN in the column of a phrase of more than 16 tokens.
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
        filled = (short * PHRASES_AT_A_TIME)[:PHRASES_AT_A_TIME]
        inputs = tokenizer(filled, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")
        output = self._model.owlv2.get_text_features(
            input_ids=inputs["input_ids"].to(self._device),
            attention_mask=inputs["attention_mask"].to(self._device),
        )
        vectors = getattr(output, "pooler_output", output)
        self._queries.update(zip(short, vectors[: len(short)].clone(), strict=True))


def _corners(boxes: np.ndarray, long_side: int) -> np.ndarray:
    """Centre and size in shares of the padded square to xyxy in pixels.

    The image was padded to a square at its right and lower side, so both axes scale by its long
    side.
    """
    centre, size = boxes[:, :2], boxes[:, 2:]
    corners = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    return np.asarray(corners * long_side, dtype=np.float32)


def open_detector(name: str, **options: Any) -> PhraseDetector:
    """The detector of that name.

    Args:
        name: "owlv2".
        options: of [`Owlv2Detector`].

    Raises:
        CaptioningError: no such detector, or an unknown option.
    """
    openers: dict[str, Callable[..., PhraseDetector]] = {"owlv2": Owlv2Detector}
    if name not in openers:
        raise CaptioningError(f"Unknown detector {name!r}; use one of {sorted(openers)}.")
    try:
        return openers[name](**options)
    except TypeError as error:
        raise CaptioningError(
            f"The detector {name!r} does not take these options: {error}"
        ) from error


__all__ = ["MAX_TOKENS", "OWLV2", "Owlv2Detector", "open_detector"]
