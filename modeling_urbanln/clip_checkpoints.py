"""Strict loading of CLIP and SigLIP checkpoints."""

import os
from typing import Any

from transformers import CLIPModel, PreTrainedConfig

LEGACY_EOS_TOKEN_ID, CLIP_EOS_TOKEN_ID, CLIP_VOCAB_SIZE = 2, 49407, 49408
GEMMA_VOCAB_SIZE = 256_000
STRETCHED = "UrbanLN's positions are already stretched: load it with `{}.from_pretrained`."
REMEDIES = {
    "urbanln": STRETCHED.format("UrbanLNModel"),
    "urbanln_sig": STRETCHED.format("UrbanLNSiglipModel"),
    "siglip2": "SigLIP 2 NaFlex is not supported: use a checkpoint of fixed resolution, such as "
    "'google/siglip2-base-patch16-224', with UrbanLNSiglipModel.",
}


def load_clip(name_or_path: str | os.PathLike, *, model_class: Any = CLIPModel, **kwargs) -> Any:
    """Load a CLIP checkpoint and raise an error if any weight would be randomly initialised.

    `CLIPModel.from_pretrained` accepts the folder of any model and randomly initialises the
    weights that it does not find there.

    Args:
        name_or_path: Hub id or local folder of a `model_class` checkpoint.
        model_class: `CLIPModel`, or another dual encoder such as `SiglipModel`.
        **kwargs: Further arguments of `from_pretrained`, such as `dtype`.

    Raises:
        OSError: If there is no such checkpoint.
        ValueError: If the checkpoint has another architecture, or missing, unexpected or
            mismatched weights.
    """
    config, _ = PreTrainedConfig.get_config_dict(name_or_path)
    model_type, needed = config.get("model_type"), model_class.config_class.model_type
    if model_type != needed:
        raise ValueError(
            f"{str(name_or_path)!r} is not a {model_class.__name__} checkpoint: its config.json "
            f"has model_type {model_type!r} and architectures {config.get('architectures')}, "
            f"expected {needed!r} and {[model_class.__name__]}. {remedy(model_type)}"
        )
    model, report = model_class.from_pretrained(
        name_or_path, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
    )
    faults = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
        "of another shape": sorted(key for key, *_ in report["mismatched_keys"]),
    }
    if any(faults.values()):
        found = "; ".join(
            f"{k}: {', '.join(v[:5])}{', ...' * (len(v) > 5)}" for k, v in faults.items() if v
        )
        raise ValueError(
            f"The weights of {str(name_or_path)!r} (architectures {config.get('architectures')}) "
            f"are not those of a complete {model_class.__name__} ({found}). Use a checkpoint saved "
            f"by `{model_class.__name__}.save_pretrained`."
        )
    return model


def remedy(model_type: str | None) -> str:
    """Advice on a checkpoint of the wrong `model_type`, for error messages."""
    return REMEDIES.get(
        str(model_type),
        "Use the checkpoint of a complete CLIPModel, such as 'openai/clip-vit-base-patch16', with "
        "UrbanLNModel, or of a SiglipModel, such as 'google/siglip2-base-patch16-224', with "
        "UrbanLNSiglipModel. Convert OpenCLIP weights to the Hugging Face format first.",
    )


def true_special_tokens(text_config: dict) -> dict[str, int]:
    """Special tokens used in training, where the checkpoint's configuration states others.

    The configurations of OpenAI's CLIP name token 2 as end of text, but pooling needs the real
    end token. Those of SigLIP 2 keep the token ids of SigLIP's vocabulary instead of Gemma's.
    """
    vocab_size = text_config.get("vocab_size")
    if vocab_size == GEMMA_VOCAB_SIZE:
        return {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    if vocab_size == CLIP_VOCAB_SIZE and text_config.get("eos_token_id") == LEGACY_EOS_TOKEN_ID:
        return {"eos_token_id": CLIP_EOS_TOKEN_ID}
    return {}


__all__ = ["load_clip", "remedy", "true_special_tokens"]
