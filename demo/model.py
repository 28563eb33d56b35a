"""The model behind the page: checked before it is loaded, its two towers side by side."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.common.encoders.transformers_models import ModelEncoder, load_model_encoder
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.text_tower import TextTower, load_text_tower

WEIGHTS = "*.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
NEEDED = (
    "config.json",
    "preprocessor_config.json|processor_config.json",
    "tokenizer.json|vocab.json",
)


@dataclass(frozen=True)
class Towers:
    """The image and the text side of one checkpoint."""

    encoder: ModelEncoder
    tower: TextTower

    @property
    def name(self) -> str:
        """Of the checkpoint."""
        return self.encoder.name


def load_towers(model_name_or_path: str) -> Towers:
    """Load a model whose weights are safetensors, and nothing else.

    Raises:
        InputError: files are missing, the weights are pickled, or it is no image-text model.
    """
    folder = _folder(model_name_or_path)
    check_model_folder(folder)
    return Towers(load_model_encoder(str(folder)), load_text_tower(str(folder)))


def check_model_folder(folder: Path) -> None:
    """Refuse a folder that lacks files or holds pickled weights.

    Raises:
        InputError: says which.
    """
    if not folder.is_dir():
        raise InputError(f"There is no model folder {folder} (--model_name_or_path).")
    pickles = sorted(path.name for form in PICKLES for path in folder.glob(form))
    if pickles:
        raise InputError(
            f"{folder} holds {', '.join(pickles)}: a pickle runs code when it is opened, so such a "
            "folder is refused. Save the model with safetensors (`model.save_pretrained`) and "
            "leave the other files out."
        )
    missing = [
        form.replace("|", " or ")
        for form in (*NEEDED, WEIGHTS)
        if not any(True for name in form.split("|") for _ in folder.glob(name))
    ]
    if missing:
        raise InputError(
            f"{folder} is no whole model: it lacks {', '.join(missing)}. Give the folder that "
            "train.py or `save_pretrained` of model and processor wrote (--model_name_or_path)."
        )


def _folder(model_name_or_path: str) -> Path:
    path = Path(model_name_or_path)
    if path.is_dir() or model_name_or_path.count("/") != 1 or path.is_absolute():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # no code and no pickle comes down
        found = snapshot_download(model_name_or_path, allow_patterns=["*.json", "*.txt", WEIGHTS])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"No model {model_name_or_path!r}: there is no such folder, and the Hub does not give "
            f"it ({type(error).__name__}). Check the name, the connection and HF_TOKEN."
        ) from error
    return Path(found)


__all__ = ["Towers", "check_model_folder", "load_towers"]
