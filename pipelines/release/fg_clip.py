"""Conversion of FG-CLIP version 1 to its long-text model.

Its weights have the names of `CLIPModel` and two sets of text weights. Short texts use
`position_embedding` (77 rows) and `text_projection`; texts of up to 248 tokens use the first 20
rows of `position_embedding_ori`, the other rows of `position_embedding_res`, and
`text_filip_projection`. See https://huggingface.co/qihoo360/fg-clip-base (arXiv 2505.05071) and
`fgclip/model/clip_strc` of https://github.com/360CVGroup/FG-CLIP.
"""

import logging
from typing import Any

from transformers import CLIPConfig

from modeling_urbanln import UrbanLNConfig

from ..common.errors import InputError
from .openai_naming import CLIP_VOCABULARY, State, merge_positions

logger = logging.getLogger(__name__)

POSITIONS = "text_model.embeddings.position_embedding"
LONG_PROJECTION = "text_filip_projection.weight"
LONG_POSITIONS = (f"{POSITIONS}_ori.weight", f"{POSITIONS}_res.weight")
SHORT_TEXTS = (f"{POSITIONS}.weight", "text_projection.weight")
FINE_GRAINED_SCALES = ("logit_scale_finegraind", "logit_scale_hardneg")


def is_fg_clip(state: State) -> bool:
    """Whether a state dict is of FG-CLIP version 1."""
    return LONG_PROJECTION in state


def to_long_text(state: State) -> State:
    """FG-CLIP's weights for long texts in float32, with the names of `CLIPModel`.

    Weights of short texts and of the fine-grained losses are dropped, which is logged.

    Raises:
        InputError: If a table of long positions is missing, or the two differ in shape.
    """
    missing = [name for name in LONG_POSITIONS if name not in state]
    if missing:
        raise InputError(f"This FG-CLIP has no {' and no '.join(missing)}: it is incomplete.")
    not_taken = {*SHORT_TEXTS, *FINE_GRAINED_SCALES, *LONG_POSITIONS, LONG_PROJECTION}
    weights = {
        name: value.float()
        for name, value in state.items()
        if name not in not_taken and not name.endswith(".position_ids")
    }
    weights[f"{POSITIONS}.weight"] = merge_positions(*(state[n].float() for n in LONG_POSITIONS))
    weights["text_projection.weight"] = state[LONG_PROJECTION].float()
    logger.warning(
        "FG-CLIP for long texts: ignoring %s of short texts, and %s of the fine-grained losses.",
        " and ".join(SHORT_TEXTS),
        " and ".join(FINE_GRAINED_SCALES),
    )
    return weights


def long_text_config(config: dict[str, Any], positions: int) -> UrbanLNConfig:
    """Configuration for the weights of [`to_long_text`].

    Args:
        config: FG-CLIP's `config.json`.
        positions: Number of text positions.

    Raises:
        InputError: If the vocabulary is not that of CLIP.
    """
    clip: Any = CLIPConfig.from_dict(config)
    if clip.text_config.vocab_size != CLIP_VOCABULARY:
        raise InputError(
            f"The text tower has {clip.text_config.vocab_size:,} tokens, CLIP's tokenizer "
            f"{CLIP_VOCABULARY:,}: models with another tokenizer cannot be converted."
        )
    text = {
        **clip.text_config.to_dict(),
        "max_position_embeddings": positions,
        # FG-CLIP's code overrides its config.json
        "bos_token_id": CLIP_VOCABULARY - 2,
        "eos_token_id": CLIP_VOCABULARY - 1,
        "pad_token_id": CLIP_VOCABULARY - 1,
    }
    return UrbanLNConfig(
        projection_dim=clip.projection_dim,
        text_config=text,
        vision_config=clip.vision_config.to_dict(),
    )


__all__ = ["is_fg_clip", "long_text_config", "to_long_text"]
