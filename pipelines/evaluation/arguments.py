"""What evaluate.py can be told."""

import difflib
import re
from argparse import ArgumentDefaultsHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast

from transformers import HfArgumentParser

from pipelines.common.encoders import BUILT_IN

from .baselines.registry import SYSTEMS
from .bench import arguments as study
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
averages them over each region by area; see docs/tutorials/earth_embeddings.md.

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
  python evaluate.py baseline --system resnet18 --size paper ...   weights by name, from the Hub
  python evaluate.py baseline --system clip --settings model_name_or_path=FOLDER ...
  for system in tile2vec simclr-adjacency resnet18; do
    python evaluate.py baseline --system $system ...; done         pixels are decoded once for all

Systems are the files of configs/baselines/. Each has two sizes: `paper`, the hyper-parameters of
its own code or paper, and `cpu`, small and from random weights, a minute or two on one core. The
table says what differs from the published system and what it has seen of a city. A table that is
there is not computed again.
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

  python evaluate.py efficiency --dataset_name runs/captioned --city harborview \
      --model_name_or_path runs/quickstart/model --output_dir runs
  python evaluate.py efficiency --systems resnet18 tile2vec --real_size true ...
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


def _help(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class EmbedArguments:
    """Flags of `evaluate.py embed`."""

    dataset_name: str = _help("", "Folder or Hub id of a dataset.")
    city: str = _help("", "City of the dataset.")
    output_dir: str = _help("", "The table goes to OUTPUT_DIR/CITY/LABEL.parquet.")
    encoder: str = _help(
        "",
        "Name of a built-in encoder, folder or Hub id of a model (a folder with the name of a "
        "built-in encoder is given as ./NAME), or raster.",
    )
    model_name_or_path: str = _help("", "The same as --encoder.")
    raster: list[str] = field(
        default_factory=lambda: [],
        metadata={"help": "Files of --encoder raster, of which every cell is a vector."},
    )
    raster_layout: Literal["auto", "plain", "alphaearth", "tessera"] = _help(
        "auto", "How the files store vectors; auto tells it from the files."
    )
    raster_nodata: float | None = _help(
        None, "Value of cells without data, where the files do not say."
    )
    min_coverage: float = _help(0.1, "Share of a region that --raster must cover.")
    label: str | None = _help(
        None, "Name of the system in tables and plots. Default: the encoder's name."
    )
    training: str | None = _help(
        None,
        "JSON: of which system this is one training, such as "
        '\'{"group": "urbanln", "seed": 1}\'. The trainings of a group are one row of the report.',
    )
    random_init: bool = _help(
        False, "Initialise the weights randomly instead of loading them: an untrained control."
    )
    seed: int = _help(0, "Seed of the weights of --random_init and of the patches of mosaiks.")
    batch_size: int = _help(32, "Images the encoder takes at a time.")
    chunk_size: int = _help(512, "Images between two points from which an interrupted run resumes.")
    num_workers: int | None = _help(
        None, "Threads that decode images. Default: as many as cores, 8 at most."
    )
    shard: str = _help("1/1", "I/N: embed the I-th of N shares only, as one job of N.")
    backend: Literal["local", "ray"] = _help("local", "Embed in this process, or by Ray actors.")
    num_actors: int = _help(1, "Ray actors, each with a GPU if the cluster has any.")
    ray_address: str | None = _help(
        None, "Ray cluster. Default: that of RAY_ADDRESS, else this machine."
    )
    device: str | None = _help(None, "cpu, cuda, cuda:1, mps. Default: what there is.")
    mixed_precision: Literal["no", "bf16", "fp16"] = _help("no", "Precision of the encoder.")
    trust_remote_code: bool = _help(False, "Run code that comes with the checkpoint.")


@dataclass
class BaselineArguments:
    """Flags of `evaluate.py baseline`."""

    system: str = _help("", f"One of {', '.join(SYSTEMS)}.")
    size: Literal["cpu", "paper"] = _help("cpu", "Of its recipe: small, or as published.")
    dataset_name: str = _help("", "Folder or Hub id of a dataset.")
    city: str = _help("", "City of the dataset.")
    output_dir: str = _help("", "The table goes to OUTPUT_DIR/CITY/LABEL.parquet.")
    label: str | None = _help(
        None, "Name of the system in tables and plots. Default: the system's, with its variant."
    )
    training: str | None = _help(
        None,
        "JSON: of which system this is one training (its seed is --seed), such as "
        '\'{"group": "tile2vec"}\'. The trainings of a group are one row of the report.',
    )
    seed: int = _help(0, "Of weights, pairs and batches.")
    settings: list[str] = field(
        default_factory=lambda: [],
        metadata={"help": "key=value ..., which stand above the recipe's. Default: none."},
    )
    cache_dir: str | None = _help(
        None, "Where decoded pixels lie, for all systems. Default: OUTPUT_DIR/pixels."
    )
    device: str | None = _help(None, "cpu, cuda, cuda:1, mps. Default: what there is.")


@dataclass
class ProbeArguments:
    """Flags of `evaluate.py probe`."""

    embeddings: list[str] = field(
        default_factory=lambda: [],
        metadata={"help": "Embedding tables; rejects tables among them are passed by."},
    )
    dataset_name: str = _help("", "Folder or Hub id of the dataset with the indicators.")
    city: str = _help("", "City of the dataset.")
    output_dir: str = _help("", "Results go to OUTPUT_DIR/CITY/.")
    protocols: list[str] = field(
        default_factory=lambda: ["random", "block"],
        metadata={
            "help": "random: regions at random, an interpolation; block: whole districts held out."
        },
    )
    probes: list[str] = field(
        default_factory=lambda: ["mlp", "ridge"],
        metadata={"help": "mlp (one hidden layer of 256), ridge."},
    )
    views: list[str] | None = field(
        default=None,
        metadata={
            "help": "street_view, satellite, both. A system takes part in those it has; all are "
            "compared on the regions that have them all. Default: all three."
        },
    )
    beside: list[str] = field(
        default_factory=lambda: [],
        metadata={
            "help": "What each table is put next to, besides the coordinates: labels of tables of "
            "--embeddings, poi_counts (the dataset's columns poi_<category>), or a control of "
            "--controls. Default: coordinates alone."
        },
    )
    controls: list[str] = field(
        default_factory=lambda: [],
        metadata={
            "help": "More controls. geoclip: the regions' places, encoded by GeoCLIP's location "
            "encoder; it needs the extra `geoclip`. Default: none."
        },
    )
    seeds: int | None = _help(
        None,
        "Splits: number 0 is the dataset's own, others are drawn. Default: 5, or 10 where fewer "
        "than 1,000 regions are compared.",
    )
    probe_seeds: int = _help(1, "Draws of MLP weights and batches for each split.")
    mlp_learning_rates: list[float] = field(
        default_factory=lambda: [1e-3], metadata={"help": "Grid of the MLP, chosen on validation."}
    )
    mlp_weight_decays: list[float] = field(
        default_factory=lambda: [1e-2, 1.0],
        metadata={"help": "Grid of the MLP, chosen on validation."},
    )
    mlp_max_epochs: int = _help(200, "Upper limit of the MLP's training.")
    mlp_patience: int = _help(48, "Steps without better validation until the MLP stops.")
    mlp_batch_size: int = _help(128, "Largest batch of the MLP.")
    device: str | None = _help(None, "cpu, cuda, cuda:1. Default: what there is.")


@dataclass
class ReportArguments:
    """Flags of `evaluate.py report`."""

    output_dir: str = _help("", "The --output_dir that was given to probe.")


@dataclass
class EfficiencyArguments:
    """Flags of `evaluate.py efficiency`."""

    dataset_name: str = _help("", "Folder or Hub id of a dataset; with captions for some systems.")
    city: str = _help("", "City of the dataset, of 128 regions or more.")
    output_dir: str = _help("", "efficiency.json goes there.")
    model_name_or_path: str | None = _help(None, "An UrbanLN checkpoint, measured too.")
    systems: list[str] = field(
        default_factory=lambda: ["resnet18", "tile2vec", "urbanclip-full", "urbanvlp"],
        metadata={"help": f"Some of {', '.join(SYSTEMS)}."},
    )
    size: Literal["cpu", "paper"] = _help("cpu", "Of their recipes.")
    real_size: bool = _help(False, "Also UrbanLN and CLIP as ViT-B/16, with drawn weights.")
    min_seconds: float = _help(2.0, "That each batch size is measured for, at least.")
    device: str | None = _help(None, "cpu, cuda, cuda:1. Default: what there is.")


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


class _HelpFormatter(ArgumentDefaultsHelpFormatter):
    """Examples as written; defaults only where they say something."""

    def _get_help_string(self, action: Any) -> str | None:
        if action.default in (None, "", False) or "efault" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)

    def _format_action_invocation(self, action: Any) -> str:
        # the parser also takes hyphens for underscores: one spelling is enough to read
        known, action.option_strings = action.option_strings, action.option_strings[:1]
        try:
            return super()._format_action_invocation(action)
        finally:
            action.option_strings = known

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


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
    parser = HfArgumentParser(
        cast(Any, COMMANDS[command]),
        prog=f"evaluate.py {command}",
        description=EXAMPLES[command],
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.error = _raise_input_error(command)  # type: ignore[method-assign, assignment]
    arguments, unknown = parser.parse_args_into_dataclasses(
        rest, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        raise InputError(f"Unknown argument {unknown[0]!r}.{_nearest(command, unknown[0])}")
    _check(arguments)
    return arguments


def _nearest(command: str, name: str) -> str:
    names = [field.name for field in fields(COMMANDS[command])]
    close = difflib.get_close_matches(name.lstrip("-").replace("-", "_"), names, n=1, cutoff=0.6)
    hint = f" `python evaluate.py {command} --help` lists all."
    return f" Did you mean '--{close[0]}'?" if close else hint


def _raise_input_error(command: str) -> Any:
    def error(message: str) -> None:
        hint = f" `python evaluate.py {command} --help` lists all."
        raise InputError(message[0].upper() + message[1:] + "." + hint)

    return error


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
    if arguments.raster and (arguments.shard != "1/1" or arguments.backend != "local"):
        raise InputError("--shard and --backend divide images; rasters are read by one process.")
    if not 0 <= arguments.min_coverage <= 1:
        raise InputError(f"--min_coverage lies in [0, 1], got {arguments.min_coverage}.")


def _check_baseline(arguments: BaselineArguments) -> None:
    if not arguments.system:
        raise InputError(f"--system is missing: one of {', '.join(SYSTEMS)}.")
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
