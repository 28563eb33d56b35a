"""What evaluate.py can be told."""

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
Encode every image of a city and average the vectors by region: OUTPUT_DIR/CITY/LABEL.parquet.

  python evaluate.py embed --encoder runs/quickstart/model \\
      --dataset_name runs/quickstart/dataset --city harborview --output_dir runs/embeddings
  python evaluate.py embed --encoder runs/quickstart/model --random_init ...
  python evaluate.py embed --encoder openai/clip-vit-base-patch16 --label clip-b16 ...
  python evaluate.py embed --encoder facebook/dinov2-base ...
  python evaluate.py embed --encoder colour_texture ...
  python evaluate.py embed --encoder raster --raster alphaearth/*.tiff --label alphaearth ...

The encoder is the Hub id or folder of any vision or image-text model of the transformers library
(UrbanLN, CLIP, SigLIP 2, ViT, DINOv2, DINOv3, ConvNeXt, timm's...), or built in:

{_BUILT_IN}

`raster` reads precomputed Earth embeddings (AlphaEarth, TESSERA, any many-band GeoTIFF) and
averages them over each region by area; see docs/tutorials/earth_embeddings.md. `geoclip` encodes
the place of each region by GeoCLIP's location encoder, a control that sees no image.

A vector is the model's own pooled output (image features; else its trained pooler; else the CLS
token; else the mean over positions); `pooling` in the table's metadata says which.

Rerun the command to resume. `--shard I/N` and `--backend ray` use several machines, see
docs/scaling.md. Images that cannot be used are listed with the reason in
LABEL.rejects.parquet.
""",
    "baseline": """\
Fit a published system on a city, without its labels, and write a vector a region:
OUTPUT_DIR/CITY/LABEL.parquet, which `evaluate.py probe` takes beside those of embed.

  python evaluate.py baseline --system tile2vec --dataset_name runs/quickstart/dataset \\
      --city harborview --output_dir runs/embeddings
  python evaluate.py baseline --system tile2vec --size paper ...
  for system in tile2vec simclr-adjacency pg-simclr; do
    python evaluate.py baseline --system $system ...; done         pixels are decoded once for all

Systems are the files of configs/baselines/. Each has two sizes: `paper`, the hyper-parameters of
its own code or paper, and `cpu`, small and from random weights, a minute or two on one core. The
table says what differs from the published system and what it has seen of a city. A table that is
there is not computed again. Frozen encoders have no recipe: `clip`, `clip-random`,
`clip-stretched`, `remoteclip`, `resnet18` are `evaluate.py embed` by Hub id, or by the folder of
--settings model_name_or_path=FOLDER.
""",
    "probe": """\
Predict every indicator from every embedding table, beside the controls (mean of the training
labels; nearest neighbours by coordinates): OUTPUT_DIR/CITY/results.jsonl.

  python evaluate.py probe --embeddings runs/embeddings/harborview/*.parquet \\
      --dataset_name runs/quickstart/dataset --city harborview --output_dir runs/results
  python evaluate.py probe ... --views satellite --protocols block --seeds 10
  python evaluate.py probe ... --beside alphaearth poi_counts --controls geoclip

Every table is also probed beside the coordinates, and with --beside next to another table: the
report begins with what it adds to each. All columns are standardised on the training regions and
the ridge probe penalises them alike. Regions that any table lacks are left out for all tables, and
counted.

Rows that are there are not computed again: add tables or seeds and run it once more.
""",
    "report": """\
Tables, scatter plots and maps from the results of all cities in OUTPUT_DIR: OUTPUT_DIR/report.md.

  python evaluate.py report --output_dir runs/results
""",
    "efficiency": """\
Count the parameters of systems and measure how fast they encode, on this machine:
OUTPUT_DIR/efficiency.json, which report shows when it lies beside the results.

  python evaluate.py efficiency --dataset_name runs/captioned --city harborview \\
      --model_name_or_path runs/quickstart/model --output_dir runs
  python evaluate.py efficiency --systems pg-simclr tile2vec --real_size true ...
""",
    **language.EXAMPLES,
    **study.EXAMPLES,
}
OVERVIEW = """\
Measure region representations, beside controls, under splits named by their use.

  python evaluate.py predict --help   photos and polygons -> a map of predictions
  python evaluate.py embed  --help    images -> one vector a region
  python evaluate.py baseline --help  the same, by a published system fitted on the city
  python evaluate.py probe  --help    vectors -> scores of every indicator
  python evaluate.py report --help    scores -> Markdown and pictures
  python evaluate.py efficiency --help  parameters and speed of the systems
  python evaluate.py embed_captions --help   captions alone -> one vector a region
  python evaluate.py retrieve  --help  images and texts find each other; search regions by words
  python evaluate.py zero_shot --help  regions scored by prompts, without labels
  python evaluate.py transfer  --help  from city to city: an encoder, or an encoder and its probe
  python evaluate.py ablate    --help  UrbanLN with one thing taken away at a time
  python evaluate.py benchmark --help  all of it, on synthetic cities, by a recipe
"""

LABEL_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass
class EmbedArguments:
    """Flags of `evaluate.py embed`."""

    dataset_name: str = argument("", "Folder or Hub id of a dataset.")
    city: str = argument("", "City of the dataset.")
    output_dir: str = argument("", "The table goes to OUTPUT_DIR/CITY/LABEL.parquet.")
    encoder: str = argument(
        "",
        "Name of a built-in encoder, folder or Hub id of a model (a folder with the name of a "
        "built-in encoder is given as ./NAME), raster, or geoclip.",
    )
    model_name_or_path: str = argument("", "The same as --encoder.")
    raster: list[str] = argument([], "Files of --encoder raster, of which every cell is a vector.")
    raster_layout: Literal["auto", "plain", "alphaearth", "tessera"] = argument(
        "auto", "How the files store vectors; auto tells it from the files."
    )
    raster_nodata: float | None = argument(
        None, "Value of cells without data, where the files do not say."
    )
    min_coverage: float = argument(0.1, "Share of a region that --raster must cover.")
    label: str | None = argument(
        None, "Name of the system in tables and plots. Default: the encoder's name."
    )
    training: str | None = argument(
        None,
        "JSON: of which system this is one training, such as "
        '\'{"group": "urbanln", "seed": 1}\'. The trainings of a group are one row of the report.',
    )
    random_init: bool = argument(
        False, "Initialise the weights randomly instead of loading them: an untrained control."
    )
    seed: int = argument(0, "Seed of the weights of --random_init and of the patches of mosaiks.")
    batch_size: int = argument(32, "Images the encoder takes at a time.")
    chunk_size: int = argument(
        512, "Images between two points from which an interrupted run resumes."
    )
    num_workers: int | None = argument(
        None, "Threads that decode images. Default: as many as cores, 8 at most."
    )
    shard: str = argument("1/1", "I/N: embed the I-th of N shares only, as one job of N.")
    backend: Literal["local", "ray"] = argument("local", "Embed in this process, or by Ray actors.")
    num_actors: int = argument(1, "Ray actors, each with a GPU if the cluster has any.")
    ray_address: str | None = argument(
        None, "Ray cluster. Default: that of RAY_ADDRESS, else this machine."
    )
    device: str | None = argument(None, "cpu, cuda, cuda:1, mps. Default: what there is.")
    mixed_precision: Literal["no", "bf16", "fp16"] = argument("no", "Precision of the encoder.")
    trust_remote_code: bool = argument(False, "Run code that comes with the checkpoint.")


@dataclass
class BaselineArguments:
    """Flags of `evaluate.py baseline`."""

    system: str = argument("", f"One of {', '.join([*SYSTEMS, *FROZEN])}.")
    size: Literal["cpu", "paper"] = argument("cpu", "Of its recipe: small, or as published.")
    dataset_name: str = argument("", "Folder or Hub id of a dataset.")
    city: str = argument("", "City of the dataset.")
    output_dir: str = argument("", "The table goes to OUTPUT_DIR/CITY/LABEL.parquet.")
    label: str | None = argument(
        None, "Name of the system in tables and plots. Default: the system's, with its variant."
    )
    training: str | None = argument(
        None,
        "JSON: of which system this is one training (its seed is --seed), such as "
        '\'{"group": "tile2vec"}\'. The trainings of a group are one row of the report.',
    )
    seed: int = argument(0, "Of weights, pairs and batches.")
    settings: list[str] = argument(
        [], "key=value ..., which stand above the recipe's. Default: none."
    )
    cache_dir: str | None = argument(
        None, "Where decoded pixels lie, for all systems. Default: OUTPUT_DIR/pixels."
    )
    device: str | None = argument(None, "cpu, cuda, cuda:1, mps. Default: what there is.")


@dataclass
class ProbeArguments:
    """Flags of `evaluate.py probe`."""

    embeddings: list[str] = argument(
        [], "Embedding tables; rejects tables among them are passed by."
    )
    dataset_name: str = argument("", "Folder or Hub id of the dataset with the indicators.")
    city: str = argument("", "City of the dataset.")
    output_dir: str = argument("", "Results go to OUTPUT_DIR/CITY/.")
    protocols: list[str] = argument(
        ["random", "block"],
        "random: regions at random, an interpolation; block: whole districts held out.",
    )
    probes: list[str] = argument(["mlp", "ridge"], "mlp (one hidden layer of 256), ridge.")
    views: list[str] | None = argument(
        None,
        "street_view, satellite, both. A system takes part in those it has; all are "
        "compared on the regions that have them all. Default: all three.",
    )
    beside: list[str] = argument(
        [],
        "What each table is put next to, besides the coordinates: labels of tables of "
        "--embeddings, poi_counts (the dataset's columns poi_<category>), or a control of "
        "--controls. Default: coordinates alone.",
    )
    controls: list[str] = argument(
        [],
        "More controls. geoclip: the regions' places, encoded by GeoCLIP's location "
        "encoder; it needs the extra `geoclip`. Default: none.",
    )
    seeds: int | None = argument(
        None,
        "Splits: number 0 is the dataset's own, others are drawn. Default: 5, or 10 where fewer "
        "than 1,000 regions are compared.",
    )
    probe_seeds: int = argument(1, "Draws of MLP weights and batches for each split.")
    mlp_learning_rates: list[float] = argument([1e-3], "Grid of the MLP, chosen on validation.")
    mlp_weight_decays: list[float] = argument([1e-2, 1.0], "Grid of the MLP, chosen on validation.")
    mlp_max_epochs: int = argument(200, "Upper limit of the MLP's training.")
    mlp_patience: int = argument(48, "Steps without better validation until the MLP stops.")
    mlp_batch_size: int = argument(128, "Largest batch of the MLP.")
    device: str | None = argument(None, "cpu, cuda, cuda:1. Default: what there is.")


@dataclass
class ReportArguments:
    """Flags of `evaluate.py report`."""

    output_dir: str = argument("", "The --output_dir that was given to probe.")


@dataclass
class EfficiencyArguments:
    """Flags of `evaluate.py efficiency`."""

    dataset_name: str = argument(
        "", "Folder or Hub id of a dataset; with captions for some systems."
    )
    city: str = argument("", "City of the dataset, of 128 regions or more.")
    output_dir: str = argument("", "efficiency.json goes there.")
    model_name_or_path: str | None = argument(None, "An UrbanLN checkpoint, measured too.")
    systems: list[str] = argument(
        ["tile2vec", "urbanclip-full", "urbanvlp"], f"Some of {', '.join(SYSTEMS)}."
    )
    size: Literal["cpu", "paper"] = argument("cpu", "Of their recipes.")
    real_size: bool = argument(False, "Also UrbanLN and CLIP as ViT-B/16, with drawn weights.")
    min_seconds: float = argument(2.0, "That each batch size is measured for, at least.")
    device: str | None = argument(None, "cpu, cuda, cuda:1. Default: what there is.")


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


def parse_arguments(
    argv: Sequence[str],
) -> Arguments:
    """Read the command line without the program's name.

    Raises:
        InputError: no or an unknown command, an unknown flag, or an impossible value.
        SystemExit: help was asked for.
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


def _check(
    arguments: Arguments,
) -> None:
    for name in ("config", "dataset_name", "city", "output_dir", "results"):
        if not getattr(arguments, name, "absent"):
            raise InputError(f"--{name} is missing.")
    if isinstance(arguments, EmbedArguments):
        _check_embed(arguments)
    elif isinstance(arguments, BaselineArguments):
        _check_baseline(arguments)
    elif isinstance(arguments, ProbeArguments):
        _check_probe(arguments)
    elif isinstance(arguments, EfficiencyArguments):
        _choices(arguments, systems=tuple(SYSTEMS))
    elif isinstance(arguments, language.LanguageArguments):
        _check_language(arguments)
    elif isinstance(arguments, study.StudyArguments):
        _check_study(arguments)


def _check_embed(arguments: EmbedArguments) -> None:
    if bool(arguments.encoder) == bool(arguments.model_name_or_path):
        got = "both" if arguments.encoder else "neither"
        raise InputError(
            "Give either --encoder or --model_name_or_path, which mean the same; got "
            f"{got}. It is the folder or Hub id of a vision or image-text model, or built in:\n"
            f"{_BUILT_IN}"
        )
    arguments.encoder = arguments.encoder or arguments.model_name_or_path
    _check_raster(arguments)
    _check_label(arguments.label)
    _at_least(arguments, batch_size=1, chunk_size=1, num_workers=1, num_actors=1, seed=0)
    share = re.fullmatch(r"(\d+)/(\d+)", arguments.shard)
    if not share or not 1 <= int(share[1]) <= int(share[2]):
        raise InputError(f"--shard must be I/N, I from 1 to N, such as 2/8; got {arguments.shard}.")
    if arguments.backend == "ray" and arguments.shard != "1/1":
        raise InputError("--shard is for independent jobs; --backend ray divides the work itself.")


def _check_raster(arguments: EmbedArguments) -> None:
    if (arguments.encoder == "raster") != bool(arguments.raster):
        raise InputError(
            "--encoder raster and --raster FILES belong together: the files of which every cell "
            "is a vector."
        )
    divided = arguments.shard != "1/1" or arguments.backend != "local"
    if divided and arguments.encoder in ("raster", "geoclip"):
        raise InputError(f"--shard and --backend divide images; {arguments.encoder} reads none.")
    if arguments.random_init and arguments.encoder == "geoclip":
        raise InputError("--random_init is for encoders of images, not for geoclip.")
    if not 0 <= arguments.min_coverage <= 1:
        raise InputError(f"--min_coverage lies in [0, 1], got {arguments.min_coverage}.")


def _check_baseline(arguments: BaselineArguments) -> None:
    if not arguments.system:
        raise InputError(f"--system is missing: one of {', '.join([*SYSTEMS, *FROZEN])}.")
    _check_label(arguments.label)
    for setting in arguments.settings:
        if "=" not in setting:
            raise InputError(f"--settings takes key=value, got {setting!r}.")
    _at_least(arguments, seed=0)


def _check_language(arguments: language.LanguageArguments) -> None:
    language.check_model(arguments)
    _check_label(arguments.label)
    names = ("batch_size", "top", "num_workers")
    _at_least(arguments, **{name: 1 for name in names if hasattr(arguments, name)})


def _check_study(arguments: study.StudyArguments) -> None:
    if not isinstance(arguments, study.TransferArguments):
        return
    if not arguments.embeddings:
        raise InputError("--embeddings is missing: a folder of SOURCE/CITY/LABEL.parquet.")
    _choices(arguments, probes=("mlp", "ridge"), views=("street_view", "satellite", "both"))
    _at_least(arguments, **dict.fromkeys(("seeds", "probe_seeds", "mlp_max_epochs"), 1))


def _check_label(label: str | None) -> None:
    if label is not None and not LABEL_PATTERN.fullmatch(label):
        raise InputError(
            f"--label must be made of letters, digits, '.', '_' and '-', got {label!r}."
        )


def _check_probe(arguments: ProbeArguments) -> None:
    if not arguments.embeddings:
        raise InputError("--embeddings is missing: the tables that `evaluate.py embed` wrote.")
    _choices(arguments, protocols=("random", "block"), probes=("mlp", "ridge"))
    _choices(arguments, views=("street_view", "satellite", "both"))
    if arguments.controls:
        _choices(arguments, controls=("geoclip",))
    names = ("seeds", "probe_seeds", "mlp_max_epochs", "mlp_patience", "mlp_batch_size")
    _at_least(arguments, **dict.fromkeys(names, 1))
    for name in ("mlp_learning_rates", "mlp_weight_decays"):
        values = getattr(arguments, name)
        if not values or min(values) < 0:
            raise InputError(f"--{name} needs numbers of 0 or more, got {values}.")


def _at_least(arguments: Any, **limits: int) -> None:
    for name, least in limits.items():
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise InputError(f"--{name} must be at least {least}, got {value}.")


def _choices(arguments: Any, **known: tuple[str, ...]) -> None:
    for name, choices in known.items():
        values = getattr(arguments, name)
        if values is None:
            continue
        unknown = [value for value in values if value not in choices]
        if unknown or not values or len(set(values)) < len(values):
            raise InputError(
                f"--{name} takes some of {', '.join(choices)}, each once; got {values}."
            )


__all__ = ["EmbedArguments", "ProbeArguments", "ReportArguments", "parse_arguments"]
