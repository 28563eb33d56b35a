"""Model of the demo: an image encoder and, if the checkpoint has one, a text tower."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image

from pipelines.common.encoders import Encoder, load_encoder
from pipelines.evaluation.embed.text_tower import TextTower, load_text_tower
from pipelines.evaluation.errors import InputError

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
PAIRS_FILE = "pairs.parquet"
TRAIN = "train"
BATCH = 8


@dataclass(frozen=True)
class Towers:
    """Image and text encoders of one checkpoint.

    Attributes:
        encoder: Image encoder.
        tower: Text encoder, or None if the checkpoint has none.
        folder: Folder of the checkpoint, if it is local.
    """

    encoder: Encoder
    tower: TextTower | None = None
    folder: Path | None = None

    @property
    def name(self) -> str:
        """Name of the checkpoint."""
        return self.encoder.name

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Embed RGB images as an array `(N, D)`."""
        batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        prepared = (torch.stack([self.encoder.prepare(one) for one in batch]) for batch in batches)
        return np.concatenate([self.encoder.encode(batch) for batch in prepared])

    def unseen(self, table: str, image_ids: Collection[str]) -> set[str] | None:
        """Ids of the images that the model was not trained on; None if that is not recorded.

        Args:
            table: Name of the image table, `<city>-<view>`.
            image_ids: Ids of all images of the table.
        """
        if self.folder is None or not (self.folder / PAIRS_FILE).is_file():
            return None
        filters = [("table", "==", table), ("split", "==", TRAIN)]
        seen = pq.read_table(self.folder / PAIRS_FILE, columns=["image_id"], filters=filters)
        return set(image_ids) - set(seen["image_id"].to_pylist())


def load_towers(encoder: str) -> Towers:
    """Load an encoder; folders must not contain pickled weights.

    Args:
        encoder: Name of a built-in encoder, or folder or Hub id of a vision or image-text model.

    Raises:
        InputError: The weights are pickled, or there is no such encoder of images.
    """
    folder = Path(encoder)
    if pickles := sorted(path.name for form in PICKLES for path in folder.glob(form)):
        raise InputError(
            f"{folder} holds {', '.join(pickles)}: loading a pickle can run arbitrary code. Save "
            "the model with safetensors (`model.save_pretrained`) and remove these files."
        )
    images = load_encoder(encoder)
    has_text = hasattr(getattr(images, "model", None), "get_text_features")
    return Towers(images, load_text_tower(encoder) if has_text else None, folder)


__all__ = ["Towers", "load_towers"]
