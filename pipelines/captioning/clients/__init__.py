"""Clients for captioning models, selected by `client` in a recipe.

To add one, write a module with a function `open_model(config, dataset_name)` that returns a
`records.CaptionModel`, and add the module to `CLIENTS`.
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
    """Create a model from its fields in a recipe, without connecting to it or loading it.

    Args:
        config: `name`; `client`, a key of `CLIENTS` ("openai" by default); and the client's own
            fields, see `openai_compatible.ChatSettings` and `simulated`.
        dataset_name: Dataset of the run; only used by simulated models.

    Raises:
        DatasetError: Unknown client, unknown or missing field, or invalid value.
    """
    values = dict(config)
    client = values.pop("client", "openai")
    if str(client) not in CLIENTS:
        raise CaptioningError(
            f"Model {values.get('name', '?')!r} has client {client!r}; available: "
            f"{', '.join(CLIENTS)}."
        )
    module = importlib.import_module(CLIENTS[client])
    model: CaptionModel = module.open_model(values, dataset_name)
    return model


__all__ = ["CLIENTS", "open_model"]
