"""CLIP's image tower, frozen: as published, after Long-CLIP's training, or with drawn weights.

Radford et al. 2021 (https://arxiv.org/abs/2103.00020) and Zhang et al. 2024
(https://arxiv.org/abs/2403.15378). Stretching positions changes the text tower alone: the images'
vectors of a stretched CLIP differ from CLIP's only by the training that followed, so
`clip-stretched` needs Long-CLIP's weights. Drawn weights (`clip-random`) are a control: what the
architecture alone sees.
"""

from dataclasses import asdict, dataclass
from typing import Literal

from dataset_builders.files import digest
from pipelines.common.encoders.transformers_models import ModelEncoder

from ..errors import InputError
from . import remoteclip
from .base import Provenance
from .image_text import checkpoint_fingerprint
from .remoteclip import RemoteCLIP

SOURCES = {
    "clip": "Radford et al. 2021 (arXiv 2103.00020)",
    "clip-stretched": "Zhang et al. 2024 (arXiv 2403.15378)",
}
REMEDIES = {
    "clip": "Without a network, give a folder with CLIP's weights: --settings "
    "model_name_or_path=FOLDER, or measure --system clip-random.",
    "clip-stretched": "Long-CLIP publishes a .pt file: python -m pipelines.release convert "
    "longclip-B.pt --output_dir FOLDER, then --settings model_name_or_path=FOLDER.",
}


@dataclass(frozen=True)
class Settings(remoteclip.Settings):
    """Of [`FrozenCLIP`]; what is not here is in RemoteCLIP's, whose frozen tower it shares.

    Attributes:
        variant: whose weights `model_name_or_path` names.
    """

    variant: Literal["clip", "clip-stretched"] = "clip"


class FrozenCLIP(RemoteCLIP):
    """A frozen image tower; a region is the mean of its images, of each view by itself.

    Args:
        settings: see [`Settings`].
        seed: of drawn weights.
        device: where it runs.
    """

    settings: Settings

    def __init__(self, settings: Settings, seed: int, device: str):
        super().__init__(settings, seed, device)
        drawn = settings.model_name_or_path is None
        self.name = "clip-random" if drawn else settings.variant
        weights = seed if drawn else checkpoint_fingerprint(settings.model_name_or_path)
        self.fingerprint = digest("clip-1", asdict(settings), weights)
        control = "A control: drawn weights, which have learnt nothing."
        self.provenance = Provenance(
            source=SOURCES[settings.variant],
            differs=(control,) if drawn else (),
            uses=frozenset({"satellite", "street_view"}),
            pretrained=settings.model_name_or_path,
        )

    def _load(self) -> ModelEncoder:
        try:
            return super()._load()
        except InputError as error:
            if error.__cause__ is None:  # there is a checkpoint, but the recipe does not fit it
                raise
            raise InputError(f"{error} {REMEDIES[self.settings.variant]}") from error


SYSTEM = FrozenCLIP

__all__ = ["SYSTEM", "FrozenCLIP", "Settings"]
