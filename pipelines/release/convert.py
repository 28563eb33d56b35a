"""Weights of CLIP models of other projects to a Hugging Face folder."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from modeling_urbanln import UrbanLNConfig, UrbanLNModel, UrbanLNProcessor

from ..common.errors import InputError
from ..common.tokenizer import clip_tokenizer
from .fg_clip import is_fg_clip, long_text_config, to_long_text
from .openai_naming import HiddenAct, State, read_architecture, to_hugging_face
from .state_dicts import read_config, read_state_dict


def convert_state_dict(
    state: State,
    hidden_act: HiddenAct | None,
    vision_heads: int | None = None,
    text_heads: int | None = None,
) -> CLIPModel:
    """Build the model of a state dict with OpenAI's names.

    Args:
        state: see [`read_architecture`].
        hidden_act: "quick_gelu" for OpenAI's weights, Long-CLIP, DGTRS-CLIP (LRSCLIP) and
            open_clip's models whose name ends in -quickgelu; "gelu" for the others of open_clip
            and for RemoteCLIP, whose README loads it so. The wrong one is no error, only silently
            another model
            (https://github.com/mlfoundations/open_clip/issues/771).
        vision_heads: attention heads of the image tower; one for 64 of its width if not given.
        text_heads: attention heads of the text tower, likewise.

    Returns:
        A [`UrbanLNModel`] for Long-CLIP and DGTRS-CLIP, else a `CLIPModel`; float32, in eval mode.

    Raises:
        InputError: missing or unexpected weights, which are listed, or another architecture.
    """
    architecture = read_architecture(state, hidden_act, vision_heads, text_heads)
    weights = to_hugging_face(state)
    model: CLIPModel
    if architecture.long_text:
        model = UrbanLNModel(UrbanLNConfig(**architecture.config))
    else:
        model = CLIPModel(CLIPConfig(**architecture.config))
    return _filled(model, weights)


def convert_fg_clip(state: State, config: dict[str, Any]) -> UrbanLNModel:
    """Build the model of long texts from FG-CLIP's weights.

    Args:
        state: FG-CLIP's of the first version; see [`to_long_text`].
        config: its `config.json`.

    Returns:
        The model in float32, in eval mode.

    Raises:
        InputError: missing or unexpected weights, which are listed.
    """
    weights = to_long_text(state)
    positions = weights["text_model.embeddings.position_embedding.weight"]
    model = UrbanLNModel(long_text_config(config, len(positions)))
    return _filled(model, weights)


def _filled(model: Any, weights: State) -> Any:
    missing = sorted(set(model.state_dict()) - set(weights))
    if missing:
        raise InputError(
            f"{len(missing)} weights are missing, by the names of CLIPModel: {', '.join(missing)}."
        )
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise InputError(f"Weights of this checkpoint do not fit one another: {error}") from error
    return model.eval()


def convert_checkpoint(
    path: str | Path,
    output_dir: str | Path,
    *,
    hidden_act: HiddenAct | None = None,
    tokenizer: str | None = None,
    vision_heads: int | None = None,
    text_heads: int | None = None,
) -> CLIPModel:
    """Convert a weight file to a folder that `AutoModel` and `AutoProcessor` load.

    The image processor resizes the shorter side to the model's image size, bicubic, crops the
    centre and takes OpenAI's mean and deviation, as open_clip does for these models.

    Args:
        path: see [`read_state_dict`]; FG-CLIP's with its `config.json` beside it.
        output_dir: a new or empty folder; it appears whole or not at all.
        hidden_act: see [`convert_state_dict`]; not for FG-CLIP, whose config.json tells it, and
            the heads.
        tokenizer: folder or Hub id; CLIP's own, out of the open_clip wheel, if not given.
        vision_heads: see [`convert_state_dict`].
        text_heads: see [`convert_state_dict`].

    Raises:
        InputError: the file, the folder or the tokenizer cannot be used.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise InputError(f"{output_dir} is not empty: give a new folder (--output_dir).")
    state = read_state_dict(path)
    if not is_fg_clip(state):
        model = convert_state_dict(state, hidden_act, vision_heads, text_heads)
    elif hidden_act or vision_heads or text_heads:
        raise InputError(
            "FG-CLIP's config.json tells its activation and heads: leave out --hidden_act, "
            "--vision_heads and --text_heads."
        )
    else:
        model = convert_fg_clip(state, read_config(path))
    # Any: the library types these as optional
    text: Any = model.config.text_config
    vision: Any = model.config.vision_config
    entries = _load_tokenizer(tokenizer, text.max_position_embeddings)
    if len(entries) != text.vocab_size:
        raise InputError(
            f"The tokenizer has {len(entries)} entries and the model {text.vocab_size}: give the "
            "model's own by --tokenizer FOLDER_OR_ID."
        )
    processor_class = UrbanLNProcessor if isinstance(model, UrbanLNModel) else CLIPProcessor
    processor = processor_class(image_processor(vision.image_size), entries)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}.") as name:
        folder = Path(name) / "folder"
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        if output_dir.exists():
            output_dir.rmdir()
        shutil.move(folder, output_dir)
    return model


def _load_tokenizer(name_or_path: str | None, max_length: int) -> CLIPTokenizer:
    if name_or_path is None:
        return clip_tokenizer(max_length)
    try:
        return CLIPTokenizer.from_pretrained(name_or_path, model_max_length=max_length)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No usable tokenizer at {name_or_path!r} (--tokenizer): {error}"
        ) from error


def image_processor(size: int) -> CLIPImageProcessor:
    """CLIP's image processor for square images of `size` pixels."""
    return CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )


__all__ = ["convert_checkpoint", "convert_fg_clip", "convert_state_dict", "image_processor"]
