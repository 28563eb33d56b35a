"""The models that caption: behind servers, or in this process."""

from collections.abc import Mapping
from typing import Any

from ..errors import CaptioningError
from ..records import CaptionModel
from .presets import PRESETS, find_preset
from .settings import InProcessSettings, OpenAISettings, read_settings

CLIENTS = ("openai", "in_process")


def open_model(config: Mapping[str, Any]) -> CaptionModel:
    """A model from what a recipe says of it; nothing is connected or loaded yet.

    Args:
        config: `name`; `client`, "openai" (default) or "in_process"; `model` or `preset`, a name in
            `PRESETS`; and the fields of `settings.OpenAISettings` or `settings.InProcessSettings`.

    Raises:
        CaptioningError: an unknown or missing field, a value of the wrong kind, or a model that
            cannot run in this process.
    """
    values = dict(config)
    client, preset_name = values.pop("client", "openai"), values.pop("preset", None)
    if client not in CLIENTS:
        raise CaptioningError(
            f"Model {values.get('name', '?')!r} has client {client!r}; there are "
            f"{' and '.join(CLIENTS)}."
        )
    preset = find_preset(preset_name) if preset_name is not None else None
    if preset is not None:
        values.setdefault("model", preset.served_model if client == "openai" else preset.model)
        values.setdefault("revision", preset.revision)
    if client == "openai":
        from .openai_compatible import OpenAICompatibleModel

        return OpenAICompatibleModel(read_settings(OpenAISettings, values))
    if preset is not None and not preset.transformers_class and values["model"] == preset.model:
        raise CaptioningError(
            f"transformers has no class for {preset.model}: it cannot run in this process. "
            f"Serve it and use client openai:\n{preset.serve_command}"
        )
    from .in_process import InProcessModel

    return InProcessModel(read_settings(InProcessSettings, values))


__all__ = ["CLIENTS", "PRESETS", "open_model"]
