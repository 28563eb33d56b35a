"""Filters on images: near duplicates, and image-text similarity."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from dataset_builders.errors import MissingExtraError
from dataset_builders.files import read_json, write_state
from dataset_builders.images import BadImageError, decode_image

from .errors import CaptioningError
from .records import SourceImage

IMAGES_KEPT = 16
"""Number of cached image embeddings, for images processed concurrently."""


@dataclass(frozen=True)
class RunImages:
    """All images of a run in order, a value that changes with them, and its output folder."""

    open: Callable[[], Iterable[SourceImage]]
    fingerprint: Callable[[], str]
    folder: Path


class NearDuplicate:
    """Drop images that resemble an earlier image of the run (perceptual hash).

    All images are hashed before the first is checked, and the result is stored in the run's folder,
    so it depends neither on shards nor on the processing order.

    Args:
        max_distance: Maximum Hamming distance of the 64-bit hashes of near duplicates.
    """

    def __init__(self, max_distance: int = 4):
        try:
            import imagehash  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("ImageHash", "captioning") from error
        if not 0 <= max_distance < 64:
            raise ValueError(f"`max_distance` must be between 0 and 63, got {max_distance}")
        self._max_distance = max_distance
        self._run: RunImages | None = None
        self._lock = threading.Lock()

    def prepare(self, run: RunImages) -> None:
        """Set the images to compare."""
        self._run = run

    def __call__(self, image: Image.Image, image_id: str) -> str:
        """Message with the earlier image that this one resembles; empty if there is none."""
        with self._lock:
            earlier = self._duplicates.get(image_id)
        return f"looks like {earlier}" if earlier else ""

    @cached_property
    def _duplicates(self) -> dict[str, str]:
        if (run := self._run) is None:
            return {}
        run.folder.mkdir(parents=True, exist_ok=True)
        cache = run.folder / "near_duplicates.json"
        with FileLock(run.folder / ".near_duplicates.lock"):  # shards may start at the same time
            key = f"phash {self._max_distance} {run.fingerprint()}"
            stored = read_json(cache) or {}
            if stored.get("key") != key:
                stored = {"key": key, "duplicates": near_duplicates(run.open(), self._max_distance)}
                write_state(cache, stored)
            return dict(stored["duplicates"])


def near_duplicates(images: Iterable[SourceImage], max_distance: int = 4) -> dict[str, str]:
    """Find images that resemble an earlier one.

    Args:
        images: Images in order; those that cannot be decoded are skipped.
        max_distance: Maximum Hamming distance of the 64-bit perceptual hashes.

    Returns:
        Mapping from the id of each duplicate to the id of the first image that it resembles.
    """
    import imagehash

    hashes, ids, found = np.zeros(1024, np.uint64), list[str](), dict[str, str]()
    for source in tqdm(images, desc="near duplicates", unit="image", disable=None, leave=False):
        try:
            bits = imagehash.phash(decode_image(source.data)).hash
        except BadImageError:
            continue
        own = np.packbits(bits).view(np.uint64)[0]
        alike = np.flatnonzero(np.bitwise_count(hashes[: len(ids)] ^ own) <= max_distance)
        if len(alike):
            found[source.image_id] = ids[alike[0]]
            continue
        if len(ids) == len(hashes):
            hashes = np.concatenate([hashes, np.zeros_like(hashes)])
        hashes[len(ids)] = own
        ids.append(source.image_id)
    return found


class ImageTextScore:
    """Drop captions whose cosine similarity to the image is below `min_score`.

    Args:
        model: Hub id or folder of an image-text model of transformers. Captions are truncated to
            its context length.
        min_score: Lowest cosine similarity that is kept.
        device: Torch device; the first GPU, or the CPU, by default.
    """

    def __init__(self, model: str, min_score: float = 0.2, device: str | None = None):
        self._name, self._min_score, self._device = model, min_score, device
        self._lock = threading.Lock()
        self._recent: dict[int, tuple[Image.Image, Any]] = {}

    def __call__(self, image: Image.Image, text: str) -> bool:
        """Whether the score is below `min_score`."""
        return self.score(image, text) < self._min_score

    def score(self, image: Image.Image, text: str) -> float:
        """Cosine similarity in [-1, 1]."""
        import torch

        with self._lock, torch.inference_mode():
            model, processor = self._loaded
            tokens = processor.tokenizer([text], return_tensors="pt", truncation=True)
            text_embeds = model.get_text_features(**tokens.to(model.device)).pooler_output
            cosine = torch.cosine_similarity(self._image_embeds(image), text_embeds)
            return float(cosine.cpu().item())

    def _image_embeds(self, image: Image.Image) -> Any:
        if id(image) not in self._recent:
            model, processor = self._loaded
            pixels = processor.image_processor(images=image, return_tensors="pt")
            embeds = model.get_image_features(**pixels.to(model.device)).pooler_output
            if len(self._recent) == IMAGES_KEPT:
                del self._recent[next(iter(self._recent))]
            self._recent[id(image)] = image, embeds
        return self._recent[id(image)][1]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModel, AutoProcessor

        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            model = AutoModel.from_pretrained(self._name).to(device).eval()
            return model, AutoProcessor.from_pretrained(self._name)
        except (OSError, ValueError) as error:
            raise CaptioningError(
                f"The filter `image_text_score` cannot load {self._name!r}: {error}"
            ) from error
