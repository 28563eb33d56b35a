"""Clients for the models that caption, by the name that a recipe gives in `client`.

To add one, write a module with a function `open_model(config, dataset_name)` that returns a
`records.CaptionModel`, and name the module in `CLIENTS`.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from ..errors import CaptioningError
from ..records import CaptionModel

CLIENTS = {
    "openai": "pipelines.captioning.clients.openai_compatible",
    "simulated": "pipelines.captioning.simulated",
}


def open_model(config: Mapping[str, Any], dataset_name: str = "") -> CaptionModel:
    """Open the model that a recipe describes; nothing is connected or loaded yet.

    Args:
        config: `name`; `client`, a name in `CLIENTS` ("openai" by default); the other fields are
            the client's, see `openai_compatible.ChatSettings` and `simulated`.
        dataset_name: Dataset of the run; only simulated models use it.

    Raises:
        CaptioningError: Unknown client, unknown or missing field, or invalid value.
    """
    values = dict(config)
    client = values.pop("client", "openai")
    if client not in CLIENTS:
        raise CaptioningError(
            f"Model {values.get('name', '?')!r} has client {client!r}; available: "
            f"{', '.join(CLIENTS)}."
        )
    module = importlib.import_module(CLIENTS[client])
    model: CaptionModel = module.open_model(values, dataset_name)
    return model


__all__ = ["CLIENTS", "open_model"]
