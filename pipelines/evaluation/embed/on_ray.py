"""Embed images on a Ray cluster, one encoder per actor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dataset_builders.errors import ReportedError
from pipelines.common.encoders import Encoder
from pipelines.common.errors import InputError
from pipelines.common.on_ray import map_pieces

from .images import EmbedSettings, Source, embed_parts


class ShareActor:
    """Ray actor that embeds shares of the images.

    Args:
        open_encoder: Loads the encoder on the actor's machine.
        open_source: Opens the images.
        settings: Streaming settings.
        num_shares: Number of shares.
        parts: Folder of the parts.
    """

    def __init__(
        self,
        open_encoder: Callable[[], Encoder],
        open_source: Callable[[], Source],
        settings: EmbedSettings,
        num_shares: int,
        parts: Path,
    ):
        self._work = (open_encoder(), open_source(), parts, settings)
        self._num_shares = num_shares

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embed the shares of a batch; see [`map_pieces`]."""
        return {"error": [self._embed(int(number)) for number in batch["id"]]}

    def _embed(self, number: int) -> str:
        try:
            embed_parts(*self._work, (number, self._num_shares))
            return ""
        except ReportedError as error:
            return str(error)


def embed_parts_on_ray(
    open_encoder: Callable[[], Encoder],
    open_source: Callable[[], Source],
    parts: Path,
    settings: EmbedSettings,
    num_actors: int,
    address: str | None = None,
) -> None:
    """Write all parts of a table on a Ray cluster.

    Args:
        open_encoder: Loads the encoder on the actor's machine.
        open_source: Opens the images; their paths must be valid on all machines.
        parts: Folder of the parts, shared by all machines.
        settings: Streaming settings.
        num_actors: Number of concurrent actors, one share each.
        address: Cluster address. Default: RAY_ADDRESS, else a cluster on this machine.

    Raises:
        InputError: Ray is not installed, the cluster cannot be reached, or a share failed.
    """
    arguments = (open_encoder, open_source, settings, num_actors, parts.resolve())
    if errors := map_pieces(ShareActor, arguments, num_actors, num_actors, 1, address):
        raise InputError("\n".join(errors))


__all__ = ["ShareActor", "embed_parts_on_ray"]
