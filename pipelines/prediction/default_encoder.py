"""Default encoder."""

import os
from collections.abc import Callable

from pipelines.common.errors import InputError

OFFLINE_ENCODER = "efficientnet_lite0"
HUB_TIMEOUT_S = 3.0
RECOMMENDED = {
    "facebook/dinov2-base": "self-supervised vision model, strong on places",
    "openai/clip-vit-base-patch16": "image-text model, as UrbanLN starts from",
}


def default_encoder(log: Callable[[str], None]) -> str:
    """Return the built-in encoder if the Hub cannot be reached.

    Raises:
        InputError: If the Hub can be reached; the message recommends encoders.
    """
    if hub_is_reachable():
        choices = "\n".join(f"  --encoder {name}   {why}" for name, why in RECOMMENDED.items())
        raise InputError(
            f"Choose an encoder; any vision model of the Hub will do:\n{choices}\n"
            f"  --encoder {OFFLINE_ENCODER}   small ImageNet model, needs no download"
        )
    log(
        f"No --encoder is given and no Hub can be reached: {OFFLINE_ENCODER} is used (ImageNet "
        f"weights). With a Hub, `--encoder {next(iter(RECOMMENDED))}` usually sees more."
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
