"""What finds things in an image: scikit-image without weights, SAM by either of its packages.

All take an upright RGB image (`dataset_builders.images.decode_image`) and may be called from
several threads; models take one image at a time.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import CaptioningError, MissingDependencyError
from .records import Segmenter

Masks = list[NDArray[np.bool_]]

# of segment-anything's automatic mask generator, as the reference sets them
# (https://github.com/foundation-multimodal-models/CAPTURE, generate_stage2_bbox.py)
SAM_OPTIONS: Mapping[str, Any] = {
    "points_per_side": 8,
    "pred_iou_thresh": 0.66,
    "stability_score_thresh": 0.86,
    "crop_n_layers": 1,
    "crop_n_points_downscale_factor": 2,
    "min_mask_region_area": 100,
}
# the same by the names of transformers' pipeline, which does not clean small regions
MASK_GENERATION_OPTIONS: Mapping[str, Any] = {
    "points_per_crop": 8,
    "pred_iou_thresh": 0.66,
    "stability_score_thresh": 0.86,
    "crops_n_layers": 1,
    "crop_n_points_downscale_factor": 2,
}


def open_segmenter(name: str, **options: Any) -> Segmenter:
    """The segmenter of that name.

    Args:
        name: "felzenszwalb", "sam" or "mask-generation".
        options: of `FelzenszwalbSegmenter`, `SamSegmenter` or `MaskGenerationSegmenter`.

    Raises:
        CaptioningError: there is no segmenter of that name, or it has no such option.
        MissingDependencyError: its packages are not installed.
    """
    classes: dict[str, Callable[..., Segmenter]] = {
        "felzenszwalb": FelzenszwalbSegmenter,
        "sam": SamSegmenter,
        "mask-generation": MaskGenerationSegmenter,
    }
    if name not in classes:
        raise CaptioningError(f"Unknown segmenter {name!r}; use one of {sorted(classes)}.")
    try:
        return classes[name](**options)
    except TypeError as error:
        raise CaptioningError(f"The options of the segmenter {name!r}: {error}.") from error


class FelzenszwalbSegmenter:
    """Regions of even colour by Felzenszwalb and Huttenlocher's graph method; no weights.

    https://doi.org/10.1023/B:VISI.0000022288.19776.77, by scikit-image. The image is made small
    first, so that time does not grow with it and texture (leaves, bricks) is evened out; the masks
    have the image's size again. They do not overlap.

    Args:
        scale: larger prefers larger regions.
        sigma: of the Gaussian that smoothes first, in pixels of the small image.
        min_area: share of the image; smaller regions are merged with a neighbour.
        max_side: long side of the small image.
    """

    def __init__(
        self,
        scale: float = 200.0,
        sigma: float = 0.8,
        min_area: float = 0.003,
        max_side: int = 320,
    ):
        try:
            import skimage
        except ImportError as error:
            raise _missing("scikit-image", "captioning") from error
        self._scale, self._sigma = scale, sigma
        self._min_area, self._max_side = min_area, max_side
        parts = [f"scale={scale:g}", f"sigma={sigma:g}", f"min_area={min_area:g}"]
        self.revision = f"felzenszwalb-1 {' '.join(parts)} max_side={max_side} scikit-image {skimage.__version__}"

    def masks(self, image: Image.Image) -> Masks:
        """The regions, largest first."""
        from skimage.segmentation import felzenszwalb

        small = image.convert("RGB")
        small.thumbnail((self._max_side, self._max_side), Image.Resampling.BOX)
        labels = felzenszwalb(
            np.asarray(small),
            scale=self._scale,
            sigma=self._sigma,
            min_size=max(int(self._min_area * small.width * small.height), 1),
        )
        sizes = np.bincount(labels.ravel())
        order = np.argsort(-sizes, kind="stable")
        full = np.asarray(
            Image.fromarray(labels.astype(np.int32)).resize(image.size, Image.Resampling.NEAREST)
        )
        return [full == number for number in order]


class SamSegmenter:
    """SAM by the package `segment-anything` and one of its checkpoints.

    https://github.com/facebookresearch/segment-anything

    Args:
        checkpoint: file of weights, such as `sam_vit_l_0b3195.pth`.
        model_type: "vit_h", "vit_l" or "vit_b", as the checkpoint is.
        device: "cuda" where there is one, unless said otherwise.
        options: of `SamAutomaticMaskGenerator`; see `SAM_OPTIONS` for what they are otherwise.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        model_type: str = "vit_l",
        device: str | None = None,
        **options: Any,
    ):
        try:
            import segment_anything
        except ImportError as error:
            raise _missing("segment-anything", "sam") from error
        types = sorted(segment_anything.sam_model_registry)
        if model_type not in types:
            raise CaptioningError(f"Unknown SAM model_type {model_type!r}; use one of {types}.")
        self._checkpoint, self._type, self._device = Path(checkpoint), model_type, device
        self._options = {**SAM_OPTIONS, **options}
        self._lock = threading.Lock()
        if not self._checkpoint.is_file():
            raise CaptioningError(
                f"There is no SAM checkpoint {self._checkpoint}; download one as the README of "
                "segment-anything says, or use the segmenter 'felzenszwalb', which needs none."
            )
        self.revision = (
            f"sam-1 {model_type} {_digest([self._checkpoint])} {_as_text(self._options)}"
        )

    def masks(self, image: Image.Image) -> Masks:
        """The masks in the generator's order."""
        with self._lock:
            found = self._generator.generate(np.asarray(image.convert("RGB")))
        return [one["segmentation"].astype(np.bool_, copy=False) for one in found]

    @cached_property
    def _generator(self) -> Any:
        import torch
        from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

        # the package's own loading unpickles whatever the file holds
        weights = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
        model = sam_model_registry[self._type](checkpoint=None)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise CaptioningError(
                f"{self._checkpoint} is no checkpoint of SAM {self._type}: "
                f"{str(error).splitlines()[0]} Set model_type as the file's name says."
            ) from error
        return SamAutomaticMaskGenerator(
            model.eval().to(self._device or _best_device()), **self._options
        )


class MaskGenerationSegmenter:
    """Any checkpoint of transformers' `mask-generation`: SAM, SAM-HQ, SAM 2, ...

    Args:
        checkpoint: folder, or id on the hub.
        revision: branch, tag or commit on the hub.
        device: "cuda" where there is one, unless said otherwise.
        options: of a call of the pipeline; see `MASK_GENERATION_OPTIONS` for what they are
            otherwise.
    """

    def __init__(
        self,
        checkpoint: str | Path = "facebook/sam-vit-large",
        revision: str | None = None,
        device: str | None = None,
        **options: Any,
    ):
        from transformers import AutoConfig

        self._checkpoint, self._revision, self._device = str(checkpoint), revision, device
        self._options = {**MASK_GENERATION_OPTIONS, **options}
        self._lock = threading.Lock()
        try:
            config = AutoConfig.from_pretrained(self._checkpoint, revision=revision)
        except (OSError, ValueError) as error:
            raise CaptioningError(
                f"There is no mask-generation checkpoint {self._checkpoint!r} (revision "
                f"{revision}): {error}"
            ) from error
        folder = Path(self._checkpoint)
        exact = (
            _digest(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
            if folder.is_dir()
            else f"{self._checkpoint}@{config._commit_hash}"
        )
        self.revision = f"mask-generation-1 {exact} {_as_text(self._options)}"

    def masks(self, image: Image.Image) -> Masks:
        """The masks in the pipeline's order."""
        with self._lock:
            found = self._pipeline(image.convert("RGB"), **self._options)["masks"]
        return [np.asarray(one, dtype=np.bool_) for one in found]

    @cached_property
    def _pipeline(self) -> Any:
        from transformers import pipeline

        return pipeline(
            "mask-generation",
            model=self._checkpoint,
            revision=self._revision,
            device=self._device or _best_device(),
        )


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _digest(paths: Iterable[Path]) -> str:
    """Of the names and contents of files."""
    content = hashlib.sha256()
    for path in sorted(paths):
        with path.open("rb") as file:
            content.update(
                f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode()
            )
    return content.hexdigest()[:16]


def _as_text(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True, default=str)


def _missing(package: str, extra: str) -> MissingDependencyError:
    return MissingDependencyError(
        f'{package} is not installed; pip install -e ".[{extra}]", or name another segmenter.'
    )


__all__ = ["FelzenszwalbSegmenter", "MaskGenerationSegmenter", "SamSegmenter", "open_segmenter"]
