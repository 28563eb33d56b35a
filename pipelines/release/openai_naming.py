"""Conversion of OpenAI's parameter names, as used by open_clip, RemoteCLIP and Long-CLIP.

Configurations are read from shapes, except for the number of attention heads and the activation.
"""

import math
import re
from typing import Any, Literal

import torch

from ..common.errors import InputError

HiddenAct = Literal["gelu", "quick_gelu"]
State = dict[str, torch.Tensor]

HEAD_WIDTH = 64
# above this width, the head width varies: 80, 88 and 104 for ViT-H, g and bigG of open_clip
MAX_WIDTH_OF_KNOWN_HEADS = 1024
PRESERVED_POSITIONS = 20
CLIP_VOCABULARY = 49408
RESIDUAL_POSITIONS = "positional_embedding_res"  # Long-CLIP's trained copy of the table
# number of dimensions of the weights that determine the architecture
DIMENSIONS = {
    "visual.conv1.weight": 4,
    "visual.positional_embedding": 2,
    "visual.proj": 2,
    "visual.transformer.resblocks.0.mlp.c_fc.weight": 2,
    "positional_embedding": 2,
    "token_embedding.weight": 2,
    "transformer.resblocks.0.mlp.c_fc.weight": 2,
}
# entries of OpenAI's files that are not weights
METADATA = frozenset({"input_resolution", "context_length", "vocab_size"})

TOWERS = {"visual.": "vision_model.", "": "text_model."}
IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
OUTSIDE_BLOCKS = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
# stored as (in, out)
TRANSPOSED = {
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
}


def read_architecture(
    state: State,
    hidden_act: HiddenAct | None,
    vision_heads: int | None = None,
    text_heads: int | None = None,
) -> dict[str, Any]:
    """Read the fields of a `CLIPConfig` from the shapes of a state dict.

    Args:
        state: State dict with OpenAI's names.
        hidden_act: Activation, "gelu" or "quick_gelu".
        vision_heads: Number of attention heads of the image tower. Defaults to width / 64.
        text_heads: Number of attention heads of the text tower. Defaults to width / 64.

    Raises:
        InputError: If the image tower is not a ViT of CLIP, required weights are missing, or the
            number of heads must be given.
    """
    _check_kind(state)
    if hidden_act not in ("gelu", "quick_gelu"):
        raise InputError(
            f"The weights do not contain their activation: pass --hidden_act gelu or quick_gelu "
            f"(see --help), got {hidden_act!r}."
        )
    missing = [key for key in DIMENSIONS if key not in state]
    if missing:
        raise InputError(
            f"This is not a complete CLIP with OpenAI's names: {', '.join(missing)} missing. It "
            f"starts with {', '.join(sorted(state)[:5])}."
        )
    for key, dimensions in DIMENSIONS.items():
        if state[key].ndim != dimensions:
            raise InputError(
                f"{key} should have {dimensions} dimensions, got shape {tuple(state[key].shape)}."
            )
    width, _, patch, _ = state["visual.conv1.weight"].shape
    patches = state["visual.positional_embedding"].shape[0] - 1
    side = math.isqrt(patches)
    if side * side != patches:
        raise InputError(f"The image tower has {patches} patches, which is not a square number.")
    vocabulary, text_width = state["token_embedding.weight"].shape
    if vocabulary != CLIP_VOCABULARY:
        raise InputError(
            f"The text tower has {vocabulary:,} tokens, CLIP's tokenizer {CLIP_VOCABULARY:,}: "
            "models with another tokenizer, such as MetaCLIP 2 worldwide, cannot be converted."
        )
    vision: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": _num_blocks(state, "visual."),
        "num_attention_heads": vision_heads or _default_heads(width, "vision"),
        "image_size": side * patch,
        "patch_size": patch,
        "hidden_act": hidden_act,
    }
    text: dict[str, Any] = {
        "hidden_size": text_width,
        "intermediate_size": state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": _num_blocks(state, ""),
        "num_attention_heads": text_heads or _default_heads(text_width, "text"),
        "max_position_embeddings": state["positional_embedding"].shape[0],
        "vocab_size": vocabulary,
        "hidden_act": hidden_act,
        # the last two entries of CLIP's vocabulary; padding is by the end token
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
    for name, tower in (("vision", vision), ("text", text)):
        heads = tower["num_attention_heads"]
        if heads < 1 or tower["hidden_size"] % heads:
            raise InputError(
                f"{heads} heads do not divide the {name} tower's width of "
                f"{tower['hidden_size']}: give --{name}_heads."
            )
    return {
        "projection_dim": state["visual.proj"].shape[1],
        "vision_config": vision,
        "text_config": text,
    }


def to_hugging_face(state: State) -> State:
    """Rename weights to those of `transformers`' `CLIPModel`, in float32.

    Long-CLIP's two tables of text positions are merged, see [`merge_positions`].

    Raises:
        InputError: If names are unexpected; the message lists them.
    """
    state = dict(state)
    if RESIDUAL_POSITIONS in state:
        trained = state.pop(RESIDUAL_POSITIONS)
        state["positional_embedding"] = merge_positions(state["positional_embedding"], trained)
    renamed: State = {}
    unexpected = []
    for key, value in state.items():
        if key in METADATA:
            continue
        parts = _rename(key, value)
        if parts is None:
            unexpected.append(key)
        else:
            renamed |= {name: part.float().contiguous() for name, part in parts.items()}
    if unexpected:
        raise InputError(
            f"{len(unexpected)} weights are not of OpenAI's CLIP: {', '.join(sorted(unexpected))}."
            " CLIPModel does not support other text towers, poolers and heads of open_clip."
        )
    return renamed


def _rename(key: str, value: torch.Tensor) -> State | None:
    if key in OUTSIDE_BLOCKS:
        # some checkpoints store a scale of shape (1,)
        return {OUTSIDE_BLOCKS[key]: value.squeeze() if key == "logit_scale" else value}
    if key in TRANSPOSED:
        return {TRANSPOSED[key]: value.T}
    found = re.fullmatch(r"(visual\.|)transformer\.resblocks\.(\d+)\.(.+)", key)
    if not found:
        return None
    tower, number, rest = found.groups()
    block = f"{TOWERS[tower]}encoder.layers.{number}."
    joint = re.fullmatch(r"attn\.in_proj_(weight|bias)", rest)
    if joint:
        parts = zip("qkv", value.chunk(3), strict=False)  # missing parts are reported later
        return {f"{block}self_attn.{letter}_proj.{joint[1]}": part for letter, part in parts}
    name, _, kind = rest.rpartition(".")
    if name not in IN_BLOCK or kind not in ("weight", "bias"):
        return None
    return {f"{block}{IN_BLOCK[name]}.{kind}": value}


def merge_positions(frozen: torch.Tensor, trained: torch.Tensor) -> torch.Tensor:
    """Merge Long-CLIP's two tables of text positions: rows 0 to 19 frozen, the others trained.

    Args:
        frozen: Stretched positions that were not trained, `(num_positions, width)`.
        trained: Trained copy, of the same shape.

    Raises:
        InputError: If the shapes differ.
    """
    if trained.shape != frozen.shape:
        raise InputError(
            f"The two tables of text positions differ in shape: the frozen one is "
            f"{tuple(frozen.shape)}, the trained one {tuple(trained.shape)}."
        )
    return torch.cat([frozen[:PRESERVED_POSITIONS], trained[PRESERVED_POSITIONS:]])


def _check_kind(state: State) -> None:
    kinds = {
        "visual.layer1.": "has a ResNet image tower (such as RN50), which CLIPModel does not "
        "support: use a ViT of the same family, such as ViT-B-32 or ViT-L-14",
        "visual.trunk.": "has a timm image tower, which CLIPModel does not support: use one of "
        "OpenAI's ViTs",
        "text_model.head.": "is a SigLIP, like FG-CLIP 2, which CLIPModel does not support: use it "
        "as frozen encoder by evaluate.py embed --encoder FOLDER_OR_ID (FG-CLIP 2 with "
        "--trust_remote_code)",
        "vision_model.": "is already in Hugging Face format: load it with "
        "AutoModel.from_pretrained",
    }
    for prefix, meaning in kinds.items():
        if any(key.startswith(prefix) for key in state):
            raise InputError(f"This checkpoint {meaning}.")


def _num_blocks(state: State, tower: str) -> int:
    pattern = re.compile(rf"{re.escape(tower)}transformer\.resblocks\.(\d+)\.")
    numbers = {int(found[1]) for key in state if (found := pattern.match(key))}
    return max(numbers) + 1


def _default_heads(width: int, tower: str) -> int:
    if width % HEAD_WIDTH or width > MAX_WIDTH_OF_KNOWN_HEADS:
        raise InputError(
            f"The {tower} tower has width {width}, and its number of attention heads cannot be "
            f"inferred: pass --{tower}_heads (in open_clip: width / head_width)."
        )
    return width // HEAD_WIDTH


__all__ = [
    "CLIP_VOCABULARY",
    "RESIDUAL_POSITIONS",
    "HiddenAct",
    "State",
    "merge_positions",
    "read_architecture",
    "to_hugging_face",
]
