"""The commands benchmark, ablate and transfer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.common.command_line import argument

EXAMPLES = {
    "benchmark": """\
Run the synthetic benchmark: build a city, caption it, train UrbanLN and its variants, embed with
every system, probe, report. OUTPUT_DIR/results/report.md has a verdict per claim.

  python evaluate.py benchmark --config configs/benchmark/synthetic_fast.yaml \\
      --output_dir runs/benchmark_fast
  python evaluate.py benchmark --config configs/benchmark/synthetic.yaml --dry_run true ...

Rerun the command to resume. If a step fails, independent steps continue. Steps whose command or
recipe has changed are rerun. OUTPUT_DIR/logs holds output and duration of each step.
configs/benchmark/systems.yaml compares published systems, and transfers UrbanLN between cities.
""",
    "ablate": """\
Run only the ablations of a benchmark recipe: city, captions, variants, probe and report. Finished
steps of a benchmark in OUTPUT_DIR are reused.

  python evaluate.py ablate --config configs/benchmark/synthetic_fast.yaml \\
      --output_dir runs/benchmark_fast
""",
    "transfer": """\
Evaluate transfer between cities: OUTPUT_DIR/CITY/results.jsonl, and OUTPUT_DIR/transfer.csv (source
by target). Protocol city-encoder: encoder from the source city, probe trained on the target city;
city: encoder and probe from the source city.

  for city in harborview oldgate; do         # embed both cities with an encoder from harborview
    python evaluate.py embed --model_name_or_path runs/harborview --label urbanln --city $city \\
        --dataset_name runs/cities --output_dir runs/from/harborview; done
  python evaluate.py transfer --embeddings runs/from --dataset_name runs/cities \\
      --output_dir runs/transfer

EMBEDDINGS/SOURCE/CITY/LABEL.parquet holds the vectors of CITY from an encoder trained on SOURCE;
several source cities are joined by "+". Existing rows are not recomputed. The report shows the
matrices if OUTPUT_DIR is the folder `transfer` next to that of the results.
""",
}


@dataclass
class BenchmarkArguments:
    """Flags of `evaluate.py benchmark`."""

    config: str = argument("", "YAML recipe, such as configs/benchmark/synthetic.yaml.")
    output_dir: str = argument("", "Output folder.")
    dry_run: bool = argument(False, "List the steps and their commands without running them.")


@dataclass
class AblateArguments(BenchmarkArguments):
    """Flags of `evaluate.py ablate`."""


@dataclass
class TransferArguments:
    """Flags of `evaluate.py transfer`."""

    embeddings: str = argument("", "Folder with SOURCE/CITY/LABEL.parquet.")
    dataset_name: str = argument("", "Folder or Hub id of the dataset with the indicators.")
    output_dir: str = argument("", "Output folder; results go to OUTPUT_DIR/CITY/ by target city.")
    sources: list[str] | None = argument(None, "Source folders in EMBEDDINGS. Default: all.")
    targets: list[str] | None = argument(None, "Target cities. Default: all with vectors.")
    within: Literal["random", "block"] = argument(
        "random", "Split of the target city for probes that are trained on it."
    )
    probes: list[str] = argument(["mlp", "ridge"], "mlp (one hidden layer of 256), ridge.")
    views: list[str] | None = argument(
        None, "street_view, satellite, both. Default: all available."
    )
    seeds: int | None = argument(
        None, "Number of splits. Default: 5, or 10 for fewer than 1,000 regions."
    )
    probe_seeds: int = argument(1, "MLP trainings per split, from different seeds.")
    mlp_learning_rates: list[float] | None = argument(
        None, "Learning rates of the MLP. Default: as probe."
    )
    mlp_weight_decays: list[float] | None = argument(
        None, "Weight decays of the MLP. Default: as probe."
    )
    mlp_max_epochs: int | None = argument(
        None, "Maximum number of epochs of the MLP. Default: as probe."
    )
    device: str | None = argument(None, "cpu, cuda, cuda:1. Default: an available one.")


StudyArguments = BenchmarkArguments | TransferArguments
COMMANDS: dict[str, type] = {
    "benchmark": BenchmarkArguments,
    "ablate": AblateArguments,
    "transfer": TransferArguments,
}


def run_study(arguments: StudyArguments, device: str) -> None:
    """Run `evaluate.py benchmark`, `ablate` or `transfer`.

    Args:
        arguments: Parsed arguments of the command.
        device: Default device of the probes.
    """
    if isinstance(arguments, TransferArguments):
        _transfer(arguments, device)
        return
    from .steps import run_benchmark

    run_benchmark(
        arguments.config,
        arguments.output_dir,
        whole=not isinstance(arguments, AblateArguments),
        dry_run=arguments.dry_run,
        log=lambda line: print(line, flush=True),
    )


def _transfer(arguments: TransferArguments, device: str) -> None:
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


__all__ = [
    "COMMANDS",
    "EXAMPLES",
    "AblateArguments",
    "BenchmarkArguments",
    "StudyArguments",
    "TransferArguments",
    "run_study",
]
