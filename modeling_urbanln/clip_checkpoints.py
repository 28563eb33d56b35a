"""Loading of CLIP checkpoints, which refuses any that would leave weights at random."""

import os

from transformers import CLIPConfig, CLIPModel, PreTrainedConfig

from .configuration_urbanln import UrbanLNConfig

LEGACY_EOS_TOKEN_ID, CLIP_EOS_TOKEN_ID, CLIP_VOCAB_SIZE = 2, 49407, 49408


def load_clip(name_or_path: str | os.PathLike, **kwargs) -> CLIPModel:
    """Load a CLIP checkpoint, and refuse one that would leave any weight at random.

    `CLIPModel.from_pretrained` takes the folder of any model, and initialises at random what it
    does not find there.

    Args:
        name_or_path: Hub id or local folder of a `CLIPModel`.
        **kwargs: further arguments of `CLIPModel.from_pretrained`, such as `dtype`.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: the checkpoint is of another architecture, or some of its weights are missing,
            unexpected or of another shape.
    """
    config, _ = PreTrainedConfig.get_config_dict(name_or_path)
    model_type = config.get("model_type")
    if model_type != CLIPConfig.model_type:
        raise ValueError(
            f"{str(name_or_path)!r} is not a CLIP checkpoint: its config.json has model_type "
            f"{model_type!r} and architectures {config.get('architectures')}, where "
            f"{CLIPConfig.model_type!r} and ['CLIPModel'] are needed. "
            f"{remedy(is_stretched=model_type == UrbanLNConfig.model_type)}"
        )
    clip, report = CLIPModel.from_pretrained(
        name_or_path, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
    )
    faults = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
        "of another shape": sorted(key for key, *_ in report["mismatched_keys"]),
    }
    if any(faults.values()):
        found = "; ".join(f"{what}: {_first(keys)}" for what, keys in faults.items() if keys)
        raise ValueError(
            f"The weights of {str(name_or_path)!r} (architectures {config.get('architectures')}) "
            f"do not make a complete CLIPModel ({found}). Use a checkpoint saved by "
            "`CLIPModel.save_pretrained`."
        )
    return clip


def remedy(is_stretched: bool) -> str:
    """What to do with a checkpoint that is not a `CLIPModel`'s."""
    if is_stretched:
        return (
            "UrbanLN's positions are stretched already: load it with "
            "`UrbanLNModel.from_pretrained`."
        )
    return (
        "Use the checkpoint of a whole CLIPModel, such as 'openai/clip-vit-base-patch16'; convert "
        "OpenCLIP's weights to CLIP's Hugging Face form first."
    )


def _first(keys: list[str], most: int = 5) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


def true_eos_token_id(text_config: dict) -> int | None:
    """The end token; OpenAI's checkpoints name token 2, and pooling needs the true one."""
    given = text_config.get("eos_token_id")
    legacy = given == LEGACY_EOS_TOKEN_ID and text_config.get("vocab_size") == CLIP_VOCAB_SIZE
    return CLIP_EOS_TOKEN_ID if legacy else given


__all__ = ["load_clip", "remedy", "true_eos_token_id"]
