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

from .errors import MissingDependencyError

Masks = list[NDArray[np.bool_]]
REFERENCE_OPTIONS: dict[str, float] = {
    "points_per_crop": 8,
    "pred_iou_thresh": 0.66,
    "stability_score_thresh": 0.86,
    "crops_n_layers": 1,
    "points_per_batch": 64,
}


class FelzenszwalbSegmenter:
    """Graph-based segmentation by Felzenszwalb and Huttenlocher, without weights.

    https://doi.org/10.1023/B:VISI.0000022288.19776.77, as in scikit-image. The image is reduced
    first, which bounds the time and smooths texture (leaves, bricks). The masks have the size of
    the image and do not overlap.

    Args:
        scale: Larger values give larger regions.
        sigma: Standard deviation of the Gaussian smoothing, in pixels of the reduced image.
        min_area: Minimum area of a region as a share of the image; smaller ones are merged.
        max_side: Long side of the reduced image in pixels.
        max_masks: Maximum number of masks, largest first; limits memory.
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
                'scikit-image is not installed; pip install -e ".[captioning]", or choose another '
                "segmenter."
            ) from error
        self._options = {"scale": scale, "sigma": sigma, "min_area": min_area}
        self._max_side, self._max_masks = max_side, max_masks
        options = {**self._options, "max_side": max_side, "max_masks": max_masks}
        rules = f"felzenszwalb-1 scikit-image-{version('scikit-image')}"
        self.revision = f"{rules} {json.dumps(options, sort_keys=True)}"

    def masks(self, image: Image.Image) -> Masks:
        """Masks `(H, W)`, largest first."""
        from skimage.segmentation import felzenszwalb

        options, small = self._options, image.convert("RGB")
        small.thumbnail((self._max_side,) * 2, Image.Resampling.BOX)
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
        return [full == number for number in order[: self._max_masks]]


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
