"""ResNet-18 with ImageNet weights, frozen (He et al. 2016, https://arxiv.org/abs/1512.03385).

The vector of an image is what its global average pooling gives; no label of a city is seen.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dataset_builders.files import digest

from .base import Provenance, RegionData
from .image_text import checkpoint_fingerprint
from .trunk import Trunk, TrunkSettings, encode_regions, size_differences


@dataclass(frozen=True)
class Settings(TrunkSettings):
    """Of [`ResNet18`]: those of its network, no other."""


class ResNet18:
    """A frozen ResNet; a region is the mean of its images, of each view by itself.

    Args:
        settings: see [`Settings`].
        seed: of drawn weights.
        device: where it runs.
    """

    def __init__(self, settings: Settings, seed: int, device: str):
        drawn = settings.model_name_or_path is None
        self.settings, self.seed, self.device = settings, seed, device
        self.name = "resnet18-random-weights" if drawn else "resnet18"
        weights = seed if drawn else checkpoint_fingerprint(settings.model_name_or_path)
        self.fingerprint = digest("resnet-1", asdict(settings), weights)
        differs = ["Street views are seen as well, averaged by region."]
        if drawn:
            differs.append("Random weights, which have learnt nothing, in place of ImageNet's.")
        self.provenance = Provenance(
            source="He et al. 2016 (arXiv 1512.03385), global average pooling",
            differs=(*differs, *size_differences(settings)),
            uses=frozenset({"satellite", "street_view"}),
            pretrained=settings.model_name_or_path,
        )
        self._trunk: Trunk | None = None

    def fit(self, data: RegionData) -> None:
        """Nothing: its weights are frozen."""

    def encode(self, data: RegionData) -> dict[str, NDArray[np.float32]]:
        """Mean pooled features of a region's images, of each view.

        Raises:
            InputError: there is no such checkpoint.
        """
        if self._trunk is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                self._trunk = Trunk(self.settings).to(self.device)
        size = self.settings.image_size
        return {
            view: encode_regions(self._trunk, data, view, size)
            for view in sorted(data.views)
            if len(data.views[view])
        }


SYSTEM = ResNet18

__all__ = ["SYSTEM", "ResNet18", "Settings"]
