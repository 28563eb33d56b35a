"""Numbered pieces of work on a Ray cluster, through Ray Data; needs the extra `ray`.

Ray decides which actor takes which piece and replaces actors that die. The pieces themselves store
what they finish on a file system that all machines see, so the work is resumable.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from .errors import InputError

CPUS_PER_ACTOR = 0.5
"""Below one: actors that take every CPU would leave none to read with, and Ray Data would hang."""


class Actor(Protocol):
    """Does pieces of work, one at a time."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`{"id": [number]}` -> `{"error": [message]}`, empty where the piece is finished.

        Errors of the user are returned and not raised: Ray would wrap them and stop the others.
        """
        ...


def map_pieces(
    actor: type[Actor],
    arguments: Sequence[Any],
    num_pieces: int,
    num_actors: int,
    gpus_per_actor: float,
    address: str | None = None,
    progress: bool = False,
) -> list[str]:
    """Have actors do all pieces of work.

    Args:
        actor: Its class; a module-level one.
        arguments: Of its constructor.
        num_pieces: Pieces are numbered from 0.
        num_actors: Actors that run at the same time.
        gpus_per_actor: GPUs that each reserves, or a fraction of one; if the cluster has any.
        address: Of the cluster; by default that of RAY_ADDRESS, else a cluster on this machine.
        progress: Show Ray's own bars and the actors' output.

    Returns:
        The different errors.

    Raises:
        InputError: Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError('--backend ray needs Ray Data: pip install -e ".[ray]"') from error
    try:
        ray.init(address, log_to_driver=progress, ignore_reinit_error=True)
    except ConnectionError as error:
        raise InputError(f"No Ray cluster at {address}: {error}. Start one first.") from error
    ray.data.DataContext.get_current().enable_progress_bars = progress
    pieces = ray.data.range(num_pieces, override_num_blocks=num_pieces).map_batches(
        actor,
        fn_constructor_args=tuple(arguments),
        batch_size=1,
        num_cpus=CPUS_PER_ACTOR,
        num_gpus=gpus_per_actor if "GPU" in ray.cluster_resources() else 0,
        concurrency=num_actors,
    )
    return sorted({row["error"] for row in pieces.take_all() if row["error"]})


__all__ = ["Actor", "map_pieces"]
