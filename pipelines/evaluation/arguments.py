"""Command-line arguments of evaluate.py."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.common.command_line import argument, parse_dataclasses
from pipelines.common.encoders import BUILT_IN

from .baselines.registry import FROZEN, SYSTEMS
from .benchmark import arguments as study
from .errors import InputError
from .search import arguments as language

_BUILT_IN = "\n".join(f"  {name:<20}{one.summary}" for name, one in BUILT_IN.items())
EXAMPLES = {
    "embed": f"""\
Embed the images of a city and average the vectors by region: OUTPUT_DIR/CITY/LABEL.parquet.

  python evaluate.py embed --encoder runs/quickstart/model \\
      --dataset_name runs/quickstart/dataset --city harborview --output_dir runs/embeddings
  python evaluate.py embed --encoder runs/quickstart/model --random_init ...
  python evaluate.py embed --encoder openai/clip-vit-base-patch16 --label clip-b16 ...
  python evaluate.py embed --encoder facebook/dinov2-base ...
  python evaluate.py embed --encoder colour_texture ...
  python evaluate.py embed --encoder raster --raster alphaearth/*.tiff --label alphaearth ...

The encoder is the Hub id or folder of any vision or image-text model of the transformers library
(UrbanLN, CLIP, SigLIP 2, ViT, DINOv2, DINOv3, ConvNeXt, timm...), or a built-in encoder:

{_BUILT_IN}

`raster` averages precomputed Earth embeddings (AlphaEarth, TESSERA, any multi-band GeoTIFF) over
the area of each region; see docs/tutorials/earth_embeddings.md. `geoclip` embeds the location of
each region with GeoCLIP's location encoder, a control without images.

Vectors are the pooled output of the model: image features, else the trained pooler, else the CLS
token, else the mean over tokens; `pooling` in the table's metadata says which.

Rerun the command to resume. `--shard I/N` and `--backend ray` distribute the work, see
docs/scaling.md. Unusable images are listed with the reason in LABEL.rejects.parquet.
""",
    "baseline": """\
Fit a published system on a city without labels, and write one vector per region to
OUTPUT_DIR/CITY/LABEL.parquet, for `evaluate.py probe`.

  python evaluate.py baseline --system tile2vec --dataset_name runs/quickstart/dataset \\
      --city harborview --output_dir runs/embeddings
  python evaluate.py baseline --system tile2vec --size paper ...
  for system in tile2vec simclr-adjacency pg-simclr; do
    python evaluate.py baseline --system $system ...; done         decoded pixels are shared

Systems have recipes in configs/baselines/, each in two sizes: `paper`, the published
hyper-parameters, and `cpu`, a small randomly initialised model that trains in a minute or two on
one core. The metadata of a table lists differences from the published system and the inputs used.
Existing tables are not recomputed. The frozen encoders `clip`, `clip-random`, `clip-stretched`,
`remoteclip` and `resnet18` have no recipe: they run `evaluate.py embed` with a Hub id, or with the
folder of --settings model_name_or_path=FOLDER.
""",
    "probe": """\
Predict every indicator from every embedding table and from controls (mean of the training labels;
nearest neighbours by coordinates): OUTPUT_DIR/CITY/results.jsonl.

  python evaluate.py probe --embeddings runs/embeddings/harborview/*.parquet \\
      --dataset_name runs/quickstart/dataset --city harborview --output_dir runs/results
  python evaluate.py probe ... --views satellite --protocols block --seeds 10
  python evaluate.py probe ... --beside alphaearth poi_counts --controls geoclip

Every table is also probed together with the coordinates, and with the tables of --beside, to
measure what it adds to them. All columns are standardised on the training regions and share one
ridge penalty. All tables are compared on the regions that they have in common.

Existing rows are not recomputed: rerun the command to add tables or seeds.
""",
    "report": """\
Tables, scatter plots and maps from the results of all cities in OUTPUT_DIR: OUTPUT_DIR/report.md.

  python evaluate.py report --output_dir runs/results
""",
    "efficiency": """\
Count parameters and measure encoding speed on this machine: OUTPUT_DIR/efficiency.json. The report
shows it if OUTPUT_DIR contains the folder of the results.

  python evaluate.py efficiency --dataset_name runs/captioned --city harborview \\
      --model_name_or_path runs/quickstart/model --output_dir runs
""",
    **language.EXAMPLES,
    **study.EXAMPLES,
}
OVERVIEW = """\
Evaluate region representations against controls, under random and spatial splits.

  python evaluate.py predict --help    photos and polygons -> map of predictions
  python evaluate.py embed --help      images -> one vector per region
  python evaluate.py baseline --help   published systems, fitted on a city -> one vector per region
  python evaluate.py embed_captions --help  captions only -> one vector per region
  python evaluate.py probe --help      vectors -> scores of every indicator
  python evaluate.py report --help     scores -> Markdown and figures
  python evaluate.py efficiency --help parameters and speed of systems
  python evaluate.py retrieve --help   image-text retrieval; search of regions by text
  python evaluate.py zero_shot --help  zero-shot classification of regions by prompts
  python evaluate.py transfer --help   transfer of encoders and probes between cities
  python evaluate.py ablate --help     ablations of UrbanLN
  python evaluate.py benchmark --help  complete benchmark on synthetic cities
"""

LABEL_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
POSITIVE = ("batch_size", "chunk_size", "num_workers", "num_actors", "top", "seeds", "probe_seeds",
            "mlp_max_epochs")  # fmt: skip
CHOICES = {
    "protocols": ("random", "block"),
    "probes": ("mlp", "ridge"),
    "views": ("street_view", "satellite", "both"),
    "controls": ("geoclip",),
    "systems": tuple(SYSTEMS),
}


@dataclass
class EmbedArguments:
    """Flags of `evaluate.py embed`."""

    dataset_name: str = argument("", "Folder or Hub id of a dataset.")
    city: str = argument("", "City of the dataset.")
    output_dir: str = argument("", "Output folder; the table is OUTPUT_DIR/CITY/LABEL.parquet.")
    encoder: str = argument(
        "",
        "Built-in encoder, folder or Hub id of a model, raster, or geoclip. Use ./NAME for a "
        "folder with the name of a built-in encoder.",
    )
    model_name_or_path: str = argument("", "Alias of --encoder.")
    raster: list[str] = argument([], "Raster files of --encoder raster, one vector per cell.")
    raster_layout: Literal["auto", "plain", "alphaearth", "tessera"] = argument(
        "auto", "Storage layout of the vectors; auto detects it from the files."
    )
    raster_nodata: float | None = argument(
        None, "Value of cells without data, if missing in the files."
    )
    min_coverage: float = argument(
        0.1, "Minimum share of a region's area with valid cells of --raster."
    )
    label: str | None = argument(
        None, "Name of the system in tables and plots. Default: name of the encoder."
    )
    training: str | None = argument(
        None,
        "JSON with system and seed of this training, such as "
        '\'{"group": "urbanln", "seed": 1}\'. The report has one row per group.',
    )
    random_init: bool = argument(
        False, "Initialise the weights randomly instead of loading them: an untrained control."
    )
    seed: int = argument(0, "Seed of the weights of --random_init and of the patches of mosaiks.")
    batch_size: int = argument(32, "Images per encoder batch.")
    chunk_size: int = argument(512, "Images per part file, from which interrupted runs resume.")
    num_workers: int | None = argument(
        None, "Image decoding threads. Default: number of cores, at most 8."
    )
    shard: str = argument("1/1", "I/N: embed only the I-th of N shares.")
    backend: Literal["local", "ray"] = argument("local", "Embed in this process or in Ray actors.")
    num_actors: int = argument(1, "Number of Ray actors, each with a GPU if the cluster has any.")
    ray_address: str | None = argument(
        None, "Address of the Ray cluster. Default: RAY_ADDRESS, else this machine."
    )
    device: str | None = argument(None, "cpu, cuda, cuda:1, mps. Default: an available one.")
    mixed_precision: Literal["no", "bf16", "fp16"] = argument("no", "Precision of the encoder.")
    trust_remote_code: bool = argument(False, "Allow code from the checkpoint.")


@dataclass
class BaselineArguments:
    """Flags of `evaluate.py baseline`."""

    system: str = argument("", f"One of {', '.join([*SYSTEMS, *FROZEN])}.")
    size: Literal["cpu", "paper"] = argument("cpu", "Size of the recipe: small, or as published.")
    dataset_name: str = argument("", "Folder or Hub id of a dataset.")
    city: str = argument("", "City of the dataset.")
    output_dir: str = argument("", "Output folder; the table is OUTPUT_DIR/CITY/LABEL.parquet.")
    label: str | None = argument(
        None, "Name of the system in tables and plots. Default: name and variant of the system."
    )
    training: str | None = argument(
        None,
        "JSON with the system of this training, such as "
        '\'{"group": "tile2vec"}\'. The report has one row per group.',
    )
    seed: int = argument(0, "Seed of weights, pairs and batches.")
    settings: list[str] = argument(
        [], "Settings key=value ... that override the recipe. Default: none."
    )
    cache_dir: str | None = argument(
        None, "Folder of decoded pixels, shared by all systems. Default: OUTPUT_DIR/pixels."
    )
    device: str | None = argument(None, "cpu, cuda, cuda:1, mps. Default: an available one.")


@dataclass
class ProbeArguments:
    """Flags of `evaluate.py probe`."""

    embeddings: list[str] = argument([], "Embedding tables; tables of rejects are ignored.")
    dataset_name: str = argument("", "Folder or Hub id of the dataset with the indicators.")
    city: str = argument("", "City of the dataset.")
    output_dir: str = argument("", "Output folder; results go to OUTPUT_DIR/CITY/.")
    protocols: list[str] = argument(
        ["random", "block"],
        "Splits. random: random regions (interpolation); block: held-out districts.",
    )
    probes: list[str] = argument(["mlp", "ridge"], "mlp (one hidden layer of 256), ridge.")
    views: list[str] | None = argument(
        None,
        "street_view, satellite, both. A system is probed on the views it has; all systems are "
        "compared on the regions that have every view. Default: all three.",
    )
    beside: list[str] = argument(
        [],
        "Inputs to combine with each table, in addition to the coordinates: labels of tables of "
        "--embeddings, poi_counts (the dataset's columns poi_<category>), or a control of "
        "--controls. Default: coordinates only.",
    )
    controls: list[str] = argument(
        [],
        "Additional controls. geoclip: GeoCLIP embeddings of region locations (extra `geoclip`). "
        "Default: none.",
    )
    seeds: int | None = argument(
        None,
        "Number of splits; split 0 is the dataset's own, the others are random. Default: 5, or 10 "
        "for fewer than 1,000 regions.",
    )
    probe_seeds: int = argument(1, "MLP trainings per split, from different seeds.")
    mlp_learning_rates: list[float] = argument(
        [1e-3], "Learning rates of the MLP, selected on the validation set."
    )
    mlp_weight_decays: list[float] = argument(
        [1e-2, 1.0], "Weight decays of the MLP, selected on the validation set."
    )
    mlp_max_epochs: int = argument(200, "Maximum number of epochs of the MLP.")
    device: str | None = argument(None, "cpu, cuda, cuda:1. Default: an available one.")


@dataclass
class ReportArguments:
    """Flags of `evaluate.py report`."""

    output_dir: str = argument("", "The --output_dir of probe.")


@dataclass
class EfficiencyArguments:
    """Flags of `evaluate.py efficiency`."""

    dataset_name: str = argument("", "Folder or Hub id of a dataset; some systems need captions.")
    city: str = argument("", "City of the dataset, with at least 128 regions.")
    output_dir: str = argument("", "Output folder of efficiency.json.")
    model_name_or_path: str | None = argument(None, "UrbanLN checkpoint to measure as well.")
    systems: list[str] = argument(
        ["tile2vec", "urbanclip-full", "urbanvlp"], f"Some of {', '.join(SYSTEMS)}."
    )
    size: Literal["cpu", "paper"] = argument("cpu", "Size of the recipes.")
    min_seconds: float = argument(2.0, "Minimum measuring time per batch size, in seconds.")
    device: str | None = argument(None, "cpu, cuda, cuda:1. Default: an available one.")


Arguments = (
    EmbedArguments
    | BaselineArguments
    | ProbeArguments
    | ReportArguments
    | EfficiencyArguments
    | language.LanguageArguments
    | study.StudyArguments
)
COMMANDS: dict[str, type] = {
    "embed": EmbedArguments,
    "baseline": BaselineArguments,
    "probe": ProbeArguments,
    "report": ReportArguments,
    "efficiency": EfficiencyArguments,
    **language.COMMANDS,
    **study.COMMANDS,
}


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Parse the command line without the program name.

    Raises:
        InputError: Unknown command or flag, or an invalid value.
        SystemExit: Help is requested, or there is no command.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(OVERVIEW)
        raise SystemExit(0 if argv else 2)
    command, *rest = argv
    if command not in COMMANDS:
        raise InputError(f"Unknown command {command!r}; known are {', '.join(COMMANDS)}.")
    (arguments,) = parse_dataclasses(
        rest,
        {"arguments": COMMANDS[command]},
        program=f"evaluate.py {command}",
        description=EXAMPLES[command],
    )
    _check(arguments)
    return arguments


def _check(arguments: Any) -> None:
    for name in ("config", "dataset_name", "city", "output_dir", "results", "embeddings"):
        if not getattr(arguments, name, "absent"):
            hints = {
                ProbeArguments: ": the tables written by `evaluate.py embed`",
                study.TransferArguments: ": the folder with SOURCE/CITY/LABEL.parquet",
            }
            hint = hints.get(type(arguments), "") if name == "embeddings" else ""
            raise InputError(f"--{name} is missing{hint}.")
    label = getattr(arguments, "label", None)
    if label is not None and not LABEL_PATTERN.fullmatch(label):
        raise InputError(
            f"--label must be made of letters, digits, '.', '_' and '-', got {label!r}."
        )
    for name in (*POSITIVE, "seed"):
        value, least = getattr(arguments, name, None), int(name != "seed")
        if value is not None and value < least:
            raise InputError(f"--{name} must be at least {least}, got {value}.")
    for name, choices in CHOICES.items():
        values = getattr(arguments, name, None)
        if values is None or (name == "controls" and not values):
            continue
        if not values or not set(values) <= set(choices) or len(set(values)) < len(values):
            raise InputError(
                f"--{name} takes some of {', '.join(choices)}, each once; got {values}."
            )
    for name in ("mlp_learning_rates", "mlp_weight_decays"):
        values = getattr(arguments, name, None)
        if values is not None and (not values or min(values) < 0):
            raise InputError(f"--{name} must be 0 or more, got {values}.")
    if isinstance(arguments, EmbedArguments):
        _check_embed(arguments)
    elif isinstance(arguments, BaselineArguments):
        if not arguments.system:
            raise InputError(f"--system is missing: one of {', '.join([*SYSTEMS, *FROZEN])}.")
        for setting in arguments.settings:
            if "=" not in setting:
                raise InputError(f"--settings takes key=value, got {setting!r}.")
    elif isinstance(arguments, language.LanguageArguments):
        language.check_model(arguments)


def _check_embed(arguments: EmbedArguments) -> None:
    if bool(arguments.encoder) == bool(arguments.model_name_or_path):
        got = "both" if arguments.encoder else "neither"
        raise InputError(
            f"Give either --encoder or its alias --model_name_or_path; got {got}. It is the folder "
            f"or Hub id of a vision or image-text model, or a built-in encoder:\n{_BUILT_IN}"
        )
    arguments.encoder = arguments.encoder or arguments.model_name_or_path
    _check_raster(arguments)
    share = re.fullmatch(r"(\d+)/(\d+)", arguments.shard)
    if not share or not 1 <= int(share[1]) <= int(share[2]):
        raise InputError(f"--shard must be I/N, I from 1 to N, such as 2/8; got {arguments.shard}.")
    if arguments.backend == "ray" and arguments.shard != "1/1":
        raise InputError("--shard cannot be used with --backend ray, which distributes the images.")


def _check_raster(arguments: EmbedArguments) -> None:
    if (arguments.encoder == "raster") != bool(arguments.raster):
        raise InputError(
            "--encoder raster and --raster FILES (rasters with one vector per cell) must be used "
            "together."
        )
    divided = arguments.shard != "1/1" or arguments.backend != "local"
    if divided and arguments.encoder in ("raster", "geoclip"):
        raise InputError(
            f"--shard and --backend distribute images; --encoder {arguments.encoder} has none."
        )
    if arguments.random_init and arguments.encoder == "geoclip":
        raise InputError("--random_init is for image encoders, not for geoclip.")
    if not 0 <= arguments.min_coverage <= 1:
        raise InputError(f"--min_coverage must be in [0, 1], got {arguments.min_coverage}.")


__all__ = ["EmbedArguments", "ProbeArguments", "ReportArguments", "parse_arguments"]
