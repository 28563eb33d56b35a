"""Command-line arguments of benchmark, ablate and transfer."""

from dataclasses import dataclass
from typing import Literal

from pipelines.common.command_line import argument

EXAMPLES = {
    "benchmark": """\
The synthetic benchmark from end to end: build a city, caption it, train UrbanLN and its variants,
encode with every system, probe, report: OUTPUT_DIR/results/report.md, with a verdict per claim.

  python evaluate.py benchmark --config configs/benchmark/synthetic_fast.yaml \\
      --output_dir runs/benchmark_fast
  python evaluate.py benchmark --config configs/benchmark/synthetic.yaml --dry_run true ...

Rerun the command to resume; a step that fails says why, and the others continue. A step is redone
where its command or a recipe has changed. OUTPUT_DIR/logs holds what each step said and how long it
took. configs/benchmark/systems.yaml compares published systems, and carries UrbanLN from city to
city.
""",
    "ablate": """\
The variants of a benchmark's recipe alone: nothing but city, captions, variants, probe and report.
What a benchmark in OUTPUT_DIR has done is not done again.

  python evaluate.py ablate --config configs/benchmark/synthetic_fast.yaml \\
      --output_dir runs/benchmark_fast
""",
    "transfer": """\
From city to city: an encoder learnt elsewhere with a probe trained at home (city-encoder), and an
encoder and a probe both learnt elsewhere (city): OUTPUT_DIR/CITY/results.jsonl, and
OUTPUT_DIR/transfer.csv, source by target.

  for city in harborview oldgate; do         # an encoder that learnt in harborview sees both cities
    python evaluate.py embed --model_name_or_path runs/harborview --label urbanln --city $city \\
        --dataset_name runs/cities --output_dir runs/from/harborview; done
  python evaluate.py transfer --embeddings runs/from --dataset_name runs/cities \\
      --output_dir runs/transfer

A table's place says who learnt where: EMBEDDINGS/SOURCE/CITY/LABEL.parquet are the vectors of CITY
by an encoder that learnt in SOURCE; several sources are joined by "+". Rows that are there are not
computed again.
""",
}


@dataclass
class BenchmarkArguments:
    """Flags of `evaluate.py benchmark`."""

    config: str = argument("", "YAML recipe, such as configs/benchmark/synthetic.yaml.")
    output_dir: str = argument("", "Everything goes there.")
    dry_run: bool = argument(False, "List the steps and their commands; do nothing.")


@dataclass
class AblateArguments(BenchmarkArguments):
    """Flags of `evaluate.py ablate`."""


@dataclass
class TransferArguments:
    """Flags of `evaluate.py transfer`."""

    embeddings: str = argument("", "Folder of SOURCE/CITY/LABEL.parquet.")
    dataset_name: str = argument("", "Folder or Hub id of the dataset with the cities' indicators.")
    output_dir: str = argument("", "Results go to OUTPUT_DIR/CITY/, by target.")
    sources: list[str] | None = argument(None, "Folders of EMBEDDINGS. Default: all.")
    targets: list[str] | None = argument(
        None, "Cities that are scored. Default: all that have vectors."
    )
    within: Literal["random", "block"] = argument(
        "random", "Split of the target's regions, where the probe is trained at home."
    )
    probes: list[str] = argument(["mlp", "ridge"], "mlp (one hidden layer of 256), ridge.")
    views: list[str] | None = argument(
        None, "street_view, satellite, both. Default: all there are."
    )
    seeds: int | None = argument(
        None, "Splits. Default: 5, or 10 where fewer than 1,000 regions are scored."
    )
    probe_seeds: int = argument(1, "Draws of MLP weights and batches for each split.")
    mlp_learning_rates: list[float] | None = argument(
        None, "Grid of the MLP. Default: that of probe."
    )
    mlp_weight_decays: list[float] | None = argument(
        None, "Grid of the MLP. Default: that of probe."
    )
    mlp_max_epochs: int | None = argument(None, "Upper limit of the MLP's. Default: that of probe.")
    device: str | None = argument(None, "cpu, cuda, cuda:1. Default: what there is.")


StudyArguments = BenchmarkArguments | TransferArguments
COMMANDS: dict[str, type] = {
    "benchmark": BenchmarkArguments,
    "ablate": AblateArguments,
    "transfer": TransferArguments,
}

__all__ = [
    "COMMANDS",
    "EXAMPLES",
    "AblateArguments",
    "BenchmarkArguments",
    "StudyArguments",
    "TransferArguments",
]
