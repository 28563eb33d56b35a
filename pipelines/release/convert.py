"""Conversion of CLIP checkpoints of other projects to Hugging Face folders."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from modeling_urbanln import UrbanLNConfig, UrbanLNModel, UrbanLNProcessor

from ..common.errors import InputError
from ..common.tokenizer import clip_tokenizer
from .fg_clip import is_fg_clip, long_text_config, to_long_text
from .openai_naming import (
    RESIDUAL_POSITIONS,
    HiddenAct,
    State,
    read_architecture,
    to_hugging_face,
)
from .state_dicts import read_config, read_state_dict


def convert_state_dict(
    state: State,
    hidden_act: HiddenAct | None,
    vision_heads: int | None = None,
    text_heads: int | None = None,
) -> CLIPModel:
    """Build the model of a state dict with OpenAI's names.

    Args:
        state: State dict, see [`read_architecture`].
        hidden_act: "quick_gelu" for OpenAI's weights, Long-CLIP, DGTRS-CLIP (LRSCLIP) and
            open_clip's models whose name ends in -quickgelu; "gelu" for RemoteCLIP and the other
            models of open_clip. The wrong activation silently gives worse embeddings
            (https://github.com/mlfoundations/open_clip/issues/771).
        vision_heads: Number of attention heads of the image tower. Defaults to width / 64.
        text_heads: Number of attention heads of the text tower. Defaults to width / 64.

    Returns:
        [`UrbanLNModel`] for Long-CLIP and DGTRS-CLIP, otherwise `CLIPModel`; float32, in evaluation
        mode.

    Raises:
        InputError: If weights are missing or unexpected, or of another architecture.
    """
    config = read_architecture(state, hidden_act, vision_heads, text_heads)
    weights = to_hugging_face(state)
    if RESIDUAL_POSITIONS in state:  # Long-CLIP
        return _filled(UrbanLNModel(UrbanLNConfig(**config)), weights)
    return _filled(CLIPModel(CLIPConfig(**config)), weights)


def _filled(model: Any, weights: State) -> Any:
    missing = sorted(set(model.state_dict()) - set(weights))
    if missing:
        raise InputError(f"{len(missing)} weights of CLIPModel are missing: {', '.join(missing)}.")
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise InputError(f"The weights of this checkpoint are inconsistent: {error}") from error
    return model.eval()


def convert_checkpoint(
    path: str | Path,
    output_dir: str | Path,
    *,
    hidden_act: HiddenAct | None = None,
    vision_heads: int | None = None,
    text_heads: int | None = None,
) -> CLIPModel:
    """Convert a weight file to a folder for `AutoModel` and `AutoProcessor`.

    As in open_clip, the image processor resizes the shorter side to the image size (bicubic), crops
    the centre and normalises by OpenAI's mean and standard deviation.

    Args:
        path: Weight file, see [`read_state_dict`]; FG-CLIP also needs its `config.json`.
        output_dir: New or empty folder, written atomically.
        hidden_act: See [`convert_state_dict`]; not for FG-CLIP, whose config.json contains it and
            the numbers of heads.
        vision_heads: See [`convert_state_dict`].
        text_heads: See [`convert_state_dict`].

    Raises:
        InputError: If the file or folder is invalid.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise InputError(f"{output_dir} is not empty: give a new folder (--output_dir).")
    state = read_state_dict(path)
    if not is_fg_clip(state):
        model = convert_state_dict(state, hidden_act, vision_heads, text_heads)
    elif hidden_act or vision_heads or text_heads:
        raise InputError(
            "FG-CLIP's config.json contains its activation and heads: omit --hidden_act, "
            "--vision_heads and --text_heads."
        )
    else:
        weights = to_long_text(state)
        positions = weights["text_model.embeddings.position_embedding.weight"]
        config = long_text_config(read_config(path), len(positions))
        model = _filled(UrbanLNModel(config), weights)
    # Any: the library types these as optional
    text: Any = model.config.text_config
    vision: Any = model.config.vision_config
    processor_class = UrbanLNProcessor if isinstance(model, UrbanLNModel) else CLIPProcessor
    tokenizer = clip_tokenizer(text.max_position_embeddings)
    processor = processor_class(image_processor(vision.image_size), tokenizer)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}.") as name:
        folder = Path(name) / "folder"
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        if output_dir.exists():
            output_dir.rmdir()
        shutil.move(folder, output_dir)
    return model


def image_processor(size: int) -> CLIPImageProcessor:
    """CLIP's image processor for square images of `size` pixels."""
    return CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )


__all__ = ["convert_checkpoint", "convert_state_dict", "image_processor"]
