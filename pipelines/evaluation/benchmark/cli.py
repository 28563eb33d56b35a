"""The commands benchmark, ablate and transfer."""

from pathlib import Path
from typing import Any

from .arguments import AblateArguments, StudyArguments, TransferArguments


def run_study(arguments: StudyArguments, device: str) -> Path | None:
    """Run `evaluate.py benchmark`, `ablate` or `transfer`.

    Args:
        arguments: Parsed arguments of the command.
        device: Default device of the probes.

    Returns:
        Path of the table of a transfer, else None.
    """
    if isinstance(arguments, TransferArguments):
        return _transfer(arguments, device)
    from .steps import run_benchmark

    run_benchmark(
        arguments.config,
        arguments.output_dir,
        whole=not isinstance(arguments, AblateArguments),
        dry_run=arguments.dry_run,
        log=lambda line: print(line, flush=True),
    )
    return None


def _transfer(arguments: TransferArguments, device: str) -> Path:
    from ..probe.models import MLPSettings
    from ..probe.run import ProbeSettings
    from ..probe.transfer import transfer_matrix

    given: dict[str, Any] = {
        "learning_rates": arguments.mlp_learning_rates and tuple(arguments.mlp_learning_rates),
        "weight_decays": arguments.mlp_weight_decays and tuple(arguments.mlp_weight_decays),
        "max_epochs": arguments.mlp_max_epochs,
    }
    settings = ProbeSettings(
        probes=tuple(arguments.probes),
        seeds=arguments.seeds,
        probe_seeds=arguments.probe_seeds,
        views=None if arguments.views is None else tuple(arguments.views),
        mlp=MLPSettings(**{name: value for name, value in given.items() if value}),
        device=arguments.device or device,
    )
    path = transfer_matrix(
        Path(arguments.embeddings),
        arguments.dataset_name,
        Path(arguments.output_dir),
        arguments.sources,
        arguments.targets,
        arguments.within,
        settings,
    )
    print(f"Table: {path}")
    return path


__all__ = ["run_study"]
