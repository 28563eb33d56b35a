"""Distribution of numbered work items on a Ray cluster by Ray Data; needs the extra `ray`.

Ray replaces actors that die. The work is resumable because each item stores its results on a
shared file system.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from .errors import InputError

CPUS_PER_ACTOR = 0.5
"""Below 1, because Ray Data hangs if actors reserve all CPUs and none is left for reading."""


class Actor(Protocol):
    """Processes one work item per call."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Map `{"id": [number]}` to `{"error": [message]}`, empty on success.

        User errors are returned, because Ray would wrap an exception and stop the other actors.
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
    """Process all work items by actors.

    Args:
        actor: Actor class, defined at module level.
        arguments: Arguments of its constructor.
        num_pieces: Number of work items, numbered from 0.
        num_actors: Number of concurrent actors.
        gpus_per_actor: GPUs, or fraction of one, per actor; ignored on a cluster without GPUs.
        address: Address of the cluster. Defaults to RAY_ADDRESS, else a local cluster is started.
        progress: Whether to show Ray's progress bars and the actors' output.

    Returns:
        Distinct error messages.

    Raises:
        InputError: If Ray is not installed or the cluster cannot be reached.
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
