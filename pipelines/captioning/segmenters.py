"""Segmenters: scikit-image without weights, and SAM and its successors by transformers.

All take an upright RGB image (`dataset_builders.images.decode_image`) and may be called from
several threads; models take one image at a time.
"""

import hashlib
import json
import threading
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .components import open_component
from .errors import CaptioningError, MissingDependencyError
from .records import Segmenter

Masks = list[NDArray[np.bool_]]
MODEL_SUFFIXES = (".json", ".safetensors", ".bin")


def open_segmenter(name: str, **options: Any) -> Segmenter:
    """The segmenter of that name.

    Args:
        name: "felzenszwalb" or "mask-generation".
        options: Options of `FelzenszwalbSegmenter` or `MaskGenerationSegmenter`.

    Raises:
        CaptioningError: There is no segmenter of that name, or it has no such option.
        MissingDependencyError: Its packages are not installed.
    """
    segmenters = {
        "felzenszwalb": FelzenszwalbSegmenter,
        "mask-generation": MaskGenerationSegmenter,
    }
    return open_component("segmenter", segmenters, name, options)  # type: ignore[no-any-return]


class FelzenszwalbSegmenter:
    """Regions of even colour by Felzenszwalb and Huttenlocher's graph method; no weights.

    https://doi.org/10.1023/B:VISI.0000022288.19776.77, by scikit-image. The image is reduced first,
    so that time does not grow with it and texture (leaves, bricks) is smoothed; the masks have the
    image's size again. They do not overlap.

    Args:
        scale: Larger values give larger regions.
        sigma: Of the Gaussian that smooths the image, in pixels of the reduced image.
        min_area: Share of the image below which regions are merged with a neighbour.
        max_side: Long side of the reduced image.
        max_masks: Maximum number of masks, the largest; limits memory.
    """

    def __init__(
        self,
        scale: float = 200.0,
        sigma: float = 0.8,
        min_area: float = 0.003,
        max_side: int = 320,
        max_masks: int = 64,
    ):
        try:
            import skimage.segmentation  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError(
                'scikit-image is not installed; pip install -e ".[captioning]", or name another '
                "segmenter."
            ) from error
        self._options: dict[str, Any] = {
            "scale": float(scale),
            "sigma": float(sigma),
            "min_area": float(min_area),
            "max_side": int(max_side),
            "max_masks": int(max_masks),
        }
        rules = f"felzenszwalb-1 scikit-image-{version('scikit-image')}"
        self.revision = f"{rules} {json.dumps(self._options, sort_keys=True)}"

    def masks(self, image: Image.Image) -> Masks:
        """The regions, largest first."""
        from skimage.segmentation import felzenszwalb

        options, small = self._options, image.convert("RGB")
        small.thumbnail((options["max_side"],) * 2, Image.Resampling.BOX)
        labels = felzenszwalb(
            np.asarray(small),
            scale=options["scale"],
            sigma=options["sigma"],
            min_size=max(int(options["min_area"] * small.width * small.height), 1),
        )
        order = np.argsort(-np.bincount(labels.ravel()), kind="stable")
        full = np.asarray(
            Image.fromarray(labels.astype(np.int32)).resize(image.size, Image.Resampling.NEAREST)
        )
        return [full == number for number in order[: options["max_masks"]]]


class MaskGenerationSegmenter:
    """Any checkpoint of transformers' `mask-generation`: SAM, SAM-HQ, SAM 2, ...

    Defaults are those of the reference
    (https://github.com/foundation-multimodal-models/CAPTURE, generate_stage2_bbox.py).

    Args:
        checkpoint: Folder, or id on the Hub.
        revision: Branch, tag or commit on the Hub.
        device: "cuda" where there is one, by default.
        points_per_side: Points along each side of the image.
        pred_iou_thresh: Lowest quality of a mask by the model's own estimate, in [0, 1].
        stability_score_thresh: Lowest IoU of a mask with itself under a shifted cutoff.
        crop_n_layers: Layers of crops that are searched again; layer i has 4**i crops.
        points_per_batch: Points per forward pass; limits memory.

    Raises:
        CaptioningError: There is no such checkpoint.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        revision: str | None = None,
        device: str | None = None,
        points_per_side: int = 8,
        pred_iou_thresh: float = 0.66,
        stability_score_thresh: float = 0.86,
        crop_n_layers: int = 1,
        points_per_batch: int = 64,
    ):
        self._checkpoint, self._revision, self._device = str(checkpoint), revision, device
        self._options = {
            "points_per_crop": points_per_side,
            "pred_iou_thresh": pred_iou_thresh,
            "stability_score_thresh": stability_score_thresh,
            "crops_n_layers": crop_n_layers,
            "points_per_batch": points_per_batch,
        }
        self._lock = threading.Lock()
        options = json.dumps(self._options, sort_keys=True)
        self.revision = f"mask-generation-1 {self._weights()} {options}"

    def masks(self, image: Image.Image) -> Masks:
        """The masks in the pipeline's order."""
        picture = image.convert("RGB")
        with self._lock:
            if square := self._square:
                picture = picture.resize(square, Image.Resampling.BILINEAR)
            found = self._pipeline(picture, **self._options)["masks"]
        masks = [np.asarray(one, dtype=np.bool_) for one in found]
        if square:
            masks = [np.asarray(Image.fromarray(one).resize(image.size)) for one in masks]
        return masks

    @property
    def _square(self) -> tuple[int, int] | None:
        """The size to which the model's processor stretches any image, if it does.

        SAM 2's does, yet places the points as if it kept the proportions: of an image twice as wide
        as high, the lower half would get none (transformers 5.23). An image that is stretched
        beforehand gets them everywhere.
        """
        size = self._pipeline.image_processor.size
        return None if size.get("longest_edge") else (size["width"], size["height"])

    def _weights(self) -> str:
        """Exact version of the weights: the Hub's commit, or a digest of the files of a folder."""
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(self._checkpoint, revision=self._revision)
        except (OSError, ValueError) as error:
            raise CaptioningError(
                f"There is no mask-generation checkpoint {self._checkpoint!r} (revision "
                f"{self._revision}): {error}"
            ) from error
        folder = Path(self._checkpoint)
        return _folder_digest(folder) if folder.is_dir() else f"{folder}@{config._commit_hash}"

    @cached_property
    def _pipeline(self) -> Any:
        import torch
        from transformers import pipeline

        return pipeline(
            "mask-generation",
            model=self._checkpoint,
            revision=self._revision,
            device=self._device or ("cuda" if torch.cuda.is_available() else "cpu"),
        )


def _folder_digest(folder: Path) -> str:
    """Digest of configuration and weights."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in MODEL_SUFFIXES:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
            digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()[:16]


__all__ = ["FelzenszwalbSegmenter", "MaskGenerationSegmenter", "open_segmenter"]
