"""Model of the demo: an image encoder and, if the checkpoint has one, a text tower."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image

from pipelines.common.encoders import BUILT_IN, Encoder, load_encoder
from pipelines.evaluation.embed.text_tower import TextTower, load_text_tower
from pipelines.evaluation.errors import InputError

WEIGHTS = "*.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
NEEDED = ("config.json", "preprocessor_config.json|processor_config.json", WEIGHTS)
PAIRS_FILE = "pairs.parquet"
TRAIN = "train"
BATCH = 8


@dataclass(frozen=True)
class Towers:
    """Image and text encoders of one checkpoint.

    Attributes:
        encoder: Image encoder.
        tower: Text encoder, or None if the checkpoint has none.
        folder: Folder of the checkpoint; None for a built-in encoder.
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
        path = None if self.folder is None else self.folder / PAIRS_FILE
        if path is None or not path.is_file():
            return None
        filters = [("table", "==", table), ("split", "==", TRAIN)]
        seen = pq.read_table(path, columns=["image_id"], filters=filters)
        return set(image_ids) - set(seen["image_id"].to_pylist())


def load_towers(encoder: str) -> Towers:
    """Load an encoder; checkpoints must use safetensors.

    Args:
        encoder: Name of a built-in encoder, or folder or Hub id of a vision or image-text model.

    Raises:
        InputError: Files are missing, the weights are pickled, or the model takes no images.
    """
    if encoder in BUILT_IN:
        return Towers(load_encoder(encoder))
    folder = _folder(encoder)
    check_model_folder(folder)
    images = load_encoder(str(folder))
    has_text = hasattr(getattr(images, "model", None), "get_text_features")
    return Towers(images, load_text_tower(str(folder)) if has_text else None, folder)


def check_model_folder(folder: Path) -> None:
    """Check that a model folder is complete and holds no pickled weights.

    Raises:
        InputError: Files are missing or weights are pickled.
    """
    if not folder.is_dir():
        raise InputError(
            f"There is no model folder {folder} (--encoder). Built-in encoders are "
            f"{', '.join(BUILT_IN)}."
        )
    pickles = sorted(path.name for form in PICKLES for path in folder.glob(form))
    if pickles:
        raise InputError(
            f"{folder} holds {', '.join(pickles)}: loading a pickle can run arbitrary code. Save "
            "the model with safetensors (`model.save_pretrained`) and remove these files."
        )
    missing = [
        form.replace("|", " or ")
        for form in NEEDED
        if not any(True for name in form.split("|") for _ in folder.glob(name))
    ]
    if missing:
        raise InputError(
            f"{folder} is not a complete model: it lacks {', '.join(missing)}. Give an output "
            "folder of train.py, or of `save_pretrained` of model and processor (--encoder)."
        )


def _folder(encoder: str) -> Path:
    path = Path(encoder)
    if path.is_dir() or encoder.count("/") != 1 or path.is_absolute():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # neither code nor pickles
        found = snapshot_download(encoder, allow_patterns=["*.json", "*.txt", "*.model", WEIGHTS])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"No model {encoder!r}: there is no such folder, and it cannot be downloaded from the "
            f"Hub ({type(error).__name__}). Check the name, the connection and HF_TOKEN."
        ) from error
    return Path(found)


__all__ = ["Towers", "check_model_folder", "load_towers"]
