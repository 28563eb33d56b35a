"""Accelerator, output folder lock and SIGTERM handling."""

import contextlib
import importlib.util
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from dataset_builders.files import locked

from ..common.errors import InputError
from .arguments import PretrainingArguments
from .checkpoint import check_output_dir


def make_accelerator(args: PretrainingArguments) -> Accelerator:
    """Create the accelerator.

    Raises:
        InputError: If a tracker is not installed.
    """
    trackers = [name for name in args.run.report_to if name != "none"]
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"--report_to {name} is not installed: pip install {name}.")
    return Accelerator(
        mixed_precision=args.optimization.mixed_precision,
        cpu=args.run.use_cpu or not torch.accelerator.is_available(),
        log_with=cast(Any, trackers) or None,
        project_dir=str(Path(args.run.output_dir) / "logs"),
        # enqueue() keeps the buffers equal in all processes
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def device_name(device: torch.device) -> str:
    """Product name of a GPU; "cpu" for a processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextlib.contextmanager
def only_run(output_dir: Path) -> Iterator[None]:
    """Lock the output folder; the first process of a run holds the lock.

    Raises:
        InputError: If the folder contains files other than a run.
        InUseError: If another run writes to it.
    """
    check_output_dir(output_dir)
    with locked(output_dir) if os.environ.get("RANK", "0") == "0" else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def on_sigterm(handler: Callable[..., None]) -> Iterator[None]:
    """Call the handler on SIGTERM within the block, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


__all__ = ["device_name", "make_accelerator", "on_sigterm", "only_run"]
