"""Segmenters: Felzenszwalb's method (scikit-image), and SAM and its successors (transformers).

Input images are upright RGB (`dataset_builders.images.decode_image`). All segmenters are
thread-safe; models process one image at a time.
"""

import json
import threading
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataset_builders.errors import MissingExtraError

Masks = list[NDArray[np.bool_]]
REFERENCE_OPTIONS: dict[str, float] = {
    "points_per_crop": 8,
    "pred_iou_thresh": 0.66,
    "stability_score_thresh": 0.86,
    "crops_n_layers": 1,
    "points_per_batch": 64,
}

FELZENSZWALB = {"scale": 200.0, "sigma": 0.8, "min_area": 0.003, "max_side": 320, "max_masks": 64}
"""Scale and smoothing in pixels of the reduced image; minimum area as a share of the image; longest
side of the reduced image in pixels; maximum number of masks, which limits memory."""


class FelzenszwalbSegmenter:
    """Graph-based segmentation by Felzenszwalb and Huttenlocher, without weights.

    https://doi.org/10.1023/B:VISI.0000022288.19776.77, as in scikit-image. The image is reduced
    first, which bounds the time and smooths texture (leaves, bricks). The masks have the size of
    the image and do not overlap.
    """

    def __init__(self) -> None:
        try:
            import skimage.segmentation  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("scikit-image", "captioning") from error
        rules = f"felzenszwalb-1 scikit-image-{version('scikit-image')}"
        self.revision = f"{rules} {json.dumps(FELZENSZWALB, sort_keys=True)}"

    def masks(self, image: Image.Image) -> Masks:
        """Masks `(H, W)`, largest first."""
        from skimage.segmentation import felzenszwalb

        small = image.convert("RGB")
        small.thumbnail((int(FELZENSZWALB["max_side"]),) * 2, Image.Resampling.BOX)
        labels = felzenszwalb(
            np.asarray(small),
            scale=FELZENSZWALB["scale"],
            sigma=FELZENSZWALB["sigma"],
            min_size=max(int(FELZENSZWALB["min_area"] * small.width * small.height), 1),
        )
        order = np.argsort(-np.bincount(labels.ravel()), kind="stable")
        full = np.asarray(
            Image.fromarray(labels.astype(np.int32)).resize(image.size, Image.Resampling.NEAREST)
        )
        return [full == number for number in order[: int(FELZENSZWALB["max_masks"])]]


class MaskGenerationSegmenter:
    """The `mask-generation` pipeline of transformers: SAM, SAM-HQ, SAM 2, ...

    Args:
        checkpoint: Hub id or folder.
        revision: Revision of the weights.
        device: Torch device; the first GPU, or the CPU, by default.
        options: Options of the pipeline call, which override those of the reference
            (https://github.com/foundation-multimodal-models/CAPTURE, generate_stage2_bbox.py).
    """

    def __init__(
        self,
        checkpoint: str,
        revision: str = "main",
        device: str | None = None,
        **options: float,
    ):
        self._checkpoint, self._commit, self._device = checkpoint, revision, device
        self._options = REFERENCE_OPTIONS | options
        self._lock = threading.Lock()
        used = json.dumps(self._options, sort_keys=True)
        self.revision = f"mask-generation-2 {checkpoint}@{revision} {used}"

    def masks(self, image: Image.Image) -> Masks:
        """Masks `(H, W)` in the order of the pipeline."""
        resized = image.convert("RGB")
        with self._lock:
            if square := self._square:
                resized = resized.resize(square, Image.Resampling.BILINEAR)
            found = self._pipeline(resized, **self._options)["masks"]
        masks = [np.asarray(one, dtype=np.bool_) for one in found]
        if square:
            masks = [np.asarray(Image.fromarray(one).resize(image.size)) for one in masks]
        return masks

    @property
    def _square(self) -> tuple[int, int] | None:
        """Fixed size to which the model's processor stretches images, if any.

        SAM 2's processor stretches, but places the points as if the aspect ratio were kept: in an
        image twice as wide as high, the lower half gets none (transformers 5.23). Stretching the
        image beforehand avoids this.
        """
        size = self._pipeline.image_processor.size
        return None if size.get("longest_edge") else (size["width"], size["height"])

    @cached_property
    def _pipeline(self) -> Any:
        import torch
        from transformers import pipeline

        return pipeline(
            "mask-generation",
            model=self._checkpoint,
            revision=self._commit,
            device=self._device or ("cuda" if torch.cuda.is_available() else "cpu"),
        )
