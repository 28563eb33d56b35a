"""What finds things in an image: scikit-image without weights, SAM by either of its packages.

All take an upright RGB image (`dataset_builders.images.decode_image`) and may be called from
several threads; models take one image at a time.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import CaptioningError, MissingDependencyError
from .records import Segmenter

Masks = list[NDArray[np.bool_]]
MODEL_SUFFIXES = (".json", ".safetensors", ".bin")


@dataclass(frozen=True)
class PointGrid:
    """Where SAM is asked, and which of its answers count; the same for both packages.

    Defaults are the reference's
    (https://github.com/foundation-multimodal-models/CAPTURE, generate_stage2_bbox.py).

    Attributes:
        points_per_side: points along each side of the image.
        pred_iou_thresh: the model's own estimate of a mask's quality is at least this, in [0, 1].
        stability_score_thresh: a mask's IoU with itself under a shifted cutoff is at least this.
        crop_n_layers: layers of crops that are gone through again; layer i has 4**i crops.
        points_per_batch: how many are asked at once; bounds memory.
    """

    points_per_side: int = 8
    pred_iou_thresh: float = 0.66
    stability_score_thresh: float = 0.86
    crop_n_layers: int = 1
    points_per_batch: int = 64


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
        raise CaptioningError(f"Options of the segmenter {name!r}: {error}.") from error


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
        max_masks: only so many are given, the largest; bounds memory.
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
            raise _missing("scikit-image", "captioning") from error
        self._options = {
            "scale": float(scale),
            "sigma": float(sigma),
            "min_area": float(min_area),
            "max_side": int(max_side),
            "max_masks": int(max_masks),
        }
        rules = f"felzenszwalb-1 scikit-image-{version('scikit-image')}"
        self.revision = _revision(rules, "", self._options)

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
        sizes = np.bincount(labels.ravel())
        order = np.argsort(-sizes, kind="stable")
        full = np.asarray(
            Image.fromarray(labels.astype(np.int32)).resize(image.size, Image.Resampling.NEAREST)
        )
        return [full == number for number in order[: options["max_masks"]]]


class SamSegmenter:
    """SAM by the package `segment-anything` and one of its checkpoints.

    https://github.com/facebookresearch/segment-anything

    Args:
        checkpoint: file of weights, such as `sam_vit_l_0b3195.pth`.
        model_type: "vit_h", "vit_l" or "vit_b", as the checkpoint is.
        device: "cuda" where there is one, unless said otherwise.
        crop_n_points_downscale_factor: by which points_per_side is divided in each layer of crops.
        min_mask_region_area: in pixels; smaller holes are filled and smaller islands removed.
        grid: of `PointGrid`.

    Raises:
        CaptioningError: there is no such file or type; on first use, they do not fit each other.
        MissingDependencyError: the package is not installed.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        model_type: str = "vit_l",
        device: str | None = None,
        crop_n_points_downscale_factor: int = 2,
        min_mask_region_area: int = 100,
        **grid: Any,
    ):
        try:
            import segment_anything
        except ImportError as error:
            raise _missing("segment-anything", "captioning,sam") from error
        types = sorted(segment_anything.sam_model_registry)
        if model_type not in types:
            raise CaptioningError(f"Unknown SAM model_type {model_type!r}; use one of {types}.")
        self._checkpoint, self._type, self._device = Path(checkpoint), model_type, device
        if not self._checkpoint.is_file():
            raise CaptioningError(
                f"There is no SAM checkpoint {self._checkpoint}; download one as the README of "
                "segment-anything says, or use the segmenter 'felzenszwalb', which needs none."
            )
        self._options = {
            **asdict(PointGrid(**grid)),
            "crop_n_points_downscale_factor": crop_n_points_downscale_factor,
            "min_mask_region_area": min_mask_region_area,
        }
        self._lock = threading.Lock()
        self.revision = _revision(
            "sam-1", f"{model_type} {_digest(self._checkpoint)}", self._options
        )

    def masks(self, image: Image.Image) -> Masks:
        """The masks in the generator's order."""
        with self._lock:
            try:
                found = self._generator.generate(np.asarray(image.convert("RGB")))
            except IndexError:
                # so it ends if there are crops and no mask passes in any of them
                if self._generator.passed:
                    raise
                found = []
        return [one["segmentation"].astype(np.bool_, copy=False) for one in found]

    @cached_property
    def _generator(self) -> Any:
        import torch
        from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

        class Generator(SamAutomaticMaskGenerator):
            """Counts the masks that pass the thresholds in an image."""

            passed = 0

            def generate(self, image: np.ndarray) -> list[dict[str, Any]]:
                self.passed = 0
                return super().generate(image)

            def _process_crop(self, *args: Any) -> Any:
                data = super()._process_crop(*args)
                self.passed += len(data["boxes"])
                return data

        model = sam_model_registry[self._type](checkpoint=None)
        try:
            # the package's own loading unpickles whatever the file holds
            weights = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
            model.load_state_dict(weights)
        except (RuntimeError, TypeError, EOFError, UnpicklingError) as error:
            raise CaptioningError(
                f"{self._checkpoint} is no checkpoint of SAM {self._type}; set model_type as the "
                f"file's name says. {error}"
            ) from error
        model = model.eval().to(self._device or _best_device())
        return Generator(model, **self._options)


class MaskGenerationSegmenter:
    """Any checkpoint of transformers' `mask-generation`: SAM, SAM-HQ, SAM 2, ...

    Args:
        checkpoint: folder, or id on the hub.
        revision: branch, tag or commit on the hub.
        device: "cuda" where there is one, unless said otherwise.
        grid: of `PointGrid`.

    Raises:
        CaptioningError: there is no such checkpoint.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        revision: str | None = None,
        device: str | None = None,
        **grid: Any,
    ):
        self._checkpoint, self._revision, self._device = str(checkpoint), revision, device
        settings = PointGrid(**grid)
        self._options = {
            "points_per_crop": settings.points_per_side,
            "pred_iou_thresh": settings.pred_iou_thresh,
            "stability_score_thresh": settings.stability_score_thresh,
            "crops_n_layers": settings.crop_n_layers,
            "points_per_batch": settings.points_per_batch,
        }
        self._lock = threading.Lock()
        self.revision = _revision("mask-generation-1", self._exact(), self._options)

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
        """The size to which the model's processor squeezes any image, if it does.

        SAM 2's does, yet places the points as if it kept the proportions: of an image that is
        twice as wide as high, the lower half would get none (transformers 5.23). An image that is
        squeezed beforehand gets them everywhere.
        """
        size = self._pipeline.image_processor.size
        return None if size.get("longest_edge") else (size["width"], size["height"])

    def _exact(self) -> str:
        """Which weights: the commit on the hub, or a digest of the files of a folder."""
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


def _revision(rules: str, weights: str, options: Mapping[str, Any]) -> str:
    return f"{rules} {weights} {json.dumps(options, sort_keys=True)}".replace("  ", " ")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _folder_digest(folder: Path) -> str:
    """Of settings and weights."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in MODEL_SUFFIXES)
    lines = [f"{name} {_digest(folder / name)}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _missing(package: str, extra: str) -> MissingDependencyError:
    return MissingDependencyError(
        f'{package} is not installed; pip install -e ".[{extra}]", or name another segmenter.'
    )


__all__ = [
    "FelzenszwalbSegmenter",
    "MaskGenerationSegmenter",
    "PointGrid",
    "SamSegmenter",
    "open_segmenter",
]
