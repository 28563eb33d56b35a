"""Default encoder."""

import os
from collections.abc import Callable

from pipelines.common.errors import InputError

OFFLINE_ENCODER = "efficientnet_lite0"
HUB_TIMEOUT_S = 3.0
RECOMMENDED = {
    "facebook/dinov2-base": "self-supervised vision model",
    "openai/clip-vit-base-patch16": "image-text model, the base of UrbanLN",
}


def default_encoder(log: Callable[[str], None]) -> str:
    """Return the built-in encoder if the Hub cannot be reached.

    Raises:
        InputError: If the Hub can be reached; the message recommends encoders.
    """
    if hub_is_reachable():
        choices = "\n".join(f"  --encoder {name}   {why}" for name, why in RECOMMENDED.items())
        raise InputError(
            f"Choose an encoder, such as one of these, or a vision model of the Hub:\n{choices}\n"
            f"  --encoder {OFFLINE_ENCODER}   small ImageNet model, no download"
        )
    log(
        f"No --encoder given and the Hub cannot be reached: using {OFFLINE_ENCODER} (ImageNet "
        f"weights). With the Hub, `--encoder {next(iter(RECOMMENDED))}` is usually better."
    )
    return OFFLINE_ENCODER


def hub_is_reachable() -> bool:
    """Whether the Hugging Face Hub responds; False in offline mode."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE") == "1":
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
    except Exception:
        return False
    return True


__all__ = ["OFFLINE_ENCODER", "default_encoder", "hub_is_reachable"]
