"""The commands of evaluate.py."""

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from dataset_builders.commands import run_command
from dataset_builders.files import locked

from .arguments import (
    BaselineArguments,
    EfficiencyArguments,
    EmbedArguments,
    ProbeArguments,
    ReportArguments,
    parse_arguments,
)
from .baselines.registry import FROZEN, RANDOM
from .benchmark.arguments import StudyArguments
from .errors import InputError
from .search.arguments import LanguageArguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code, see [`run_command`]."""

    def work() -> None:
        arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
        next(run for kind, run in COMMANDS if isinstance(arguments, kind))(arguments)

    return run_command(work, "evaluate.py")


def run_embed(arguments: EmbedArguments) -> Path:
    """Run `evaluate.py embed` and return the path of the embedding table."""
    if arguments.encoder in ("raster", "geoclip"):
        return _embed_regions(arguments)
    from pipelines.common.encoders import load_encoder

    from .embed.images import EmbedSettings, decoding_threads, embed
    from .embed.sources import open_images
    from .embed.trainings import parse_training

    open_source = partial(open_images, arguments.dataset_name, arguments.city)
    open_encoder = partial(
        load_encoder,
        arguments.encoder,
        random_init=arguments.random_init,
        seed=arguments.seed,
        device=arguments.device or default_device(),
        precision=arguments.mixed_precision,
        trust_remote_code=arguments.trust_remote_code,
    )
    label = Path(arguments.encoder).resolve().name
    label += "-random-init" if arguments.random_init else ""
    workers = decoding_threads(arguments.num_workers)
    settings = EmbedSettings(arguments.batch_size, arguments.chunk_size, workers)
    output = Path(arguments.output_dir) / arguments.city
    training = parse_training(arguments.training, seed=arguments.seed)
    name = arguments.label or label
    write_parts = None
    if arguments.backend == "ray":
        from .embed.on_ray import embed_parts_on_ray

        write_parts = partial(
            embed_parts_on_ray,
            open_encoder,
            open_source,
            settings=settings,
            num_actors=arguments.num_actors,
            address=arguments.ray_address,
        )
    number, total = (int(part) for part in arguments.shard.split("/"))
    # shares lock their parts instead
    with locked(output, f".{name}.lock") if total == 1 else nullcontext():
        return embed(
            open_encoder(),
            open_source(),
            output,
            name,
            settings,
            training=training,
            share=(number - 1, total),
            write_parts=write_parts,
        )


def _embed_regions(arguments: EmbedArguments) -> Path:
    """Embed rasters, or locations of regions, instead of images."""
    from .embed.places import embed_places
    from .embed.raster import RasterSettings, embed_raster
    from .embed.sources import open_regions
    from .embed.trainings import parse_training

    output = Path(arguments.output_dir) / arguments.city
    label = arguments.label or arguments.encoder
    training = parse_training(arguments.training)
    is_raster = arguments.encoder == "raster"
    regions, about = open_regions(arguments.dataset_name, arguments.city, shapes=is_raster)
    with locked(output, f".{label}.lock"):
        if not is_raster:
            device = arguments.device or default_device()
            return embed_places(regions, output, label, about, training, device)
        settings = RasterSettings(
            arguments.raster_layout, arguments.raster_nodata, arguments.min_coverage
        )
        return embed_raster(
            arguments.raster, regions, output, label, about, settings, training=training
        )


def run_baseline(arguments: BaselineArguments) -> Path:
    """Run `evaluate.py baseline` and return the path of the embedding table."""
    if arguments.system in FROZEN:
        return run_embed(_frozen(arguments))
    import yaml

    from .baselines.run import run_baseline
    from .embed.trainings import parse_training

    # YAML, as in recipes
    pairs = (setting.split("=", 1) for setting in arguments.settings)
    overrides = {key.strip(): yaml.safe_load(value) for key, value in pairs}
    folder = Path(arguments.output_dir) / arguments.city
    with locked(folder, f".{arguments.label or arguments.system}.lock"):
        return run_baseline(
            arguments.system,
            arguments.size,
            arguments.dataset_name,
            arguments.city,
            arguments.output_dir,
            label=arguments.label,
            training=parse_training(arguments.training, seed=arguments.seed),
            seed=arguments.seed,
            device=arguments.device or default_device(),
            cache_dir=arguments.cache_dir,
            overrides=overrides,
        )


def _frozen(arguments: BaselineArguments) -> EmbedArguments:
    """Arguments of `evaluate.py embed` for a frozen encoder."""
    settings = dict(setting.split("=", 1) for setting in arguments.settings)
    encoder = settings.pop("model_name_or_path", FROZEN[arguments.system])
    if settings:
        raise InputError(
            f"The only setting of the frozen encoder {arguments.system} is model_name_or_path (a "
            f"folder or Hub id); got {', '.join(settings)}."
        )
    return EmbedArguments(
        dataset_name=arguments.dataset_name,
        city=arguments.city,
        output_dir=arguments.output_dir,
        encoder=encoder,
        label=arguments.label or arguments.system,
        training=arguments.training,
        random_init=arguments.system.endswith(RANDOM),
        seed=arguments.seed,
        device=arguments.device,
    )


def run_probe(arguments: ProbeArguments) -> Path:
    """Run `evaluate.py probe` and return the path of results.jsonl."""
    from .embed.tables import read_embeddings
    from .probe.city import open_city
    from .probe.models import MLPSettings
    from .probe.run import ProbeSettings, compared_regions, probe

    # a glob also matches tables of rejects
    paths = [Path(name) for name in arguments.embeddings if not name.endswith(".rejects.parquet")]
    tables = [read_embeddings(path) for path in dict.fromkeys(paths)]
    city = open_city(arguments.dataset_name, arguments.city)
    settings = ProbeSettings(
        protocols=tuple(arguments.protocols),
        probes=tuple(arguments.probes),
        seeds=arguments.seeds,
        probe_seeds=arguments.probe_seeds,
        views=None if arguments.views is None else tuple(arguments.views),
        mlp=MLPSettings(
            learning_rates=tuple(arguments.mlp_learning_rates),
            weight_decays=tuple(arguments.mlp_weight_decays),
            max_epochs=arguments.mlp_max_epochs,
        ),
        device=arguments.device or default_device(),
        beside=tuple(arguments.beside),
        controls=tuple(arguments.controls),
    )
    output = Path(arguments.output_dir) / arguments.city
    with locked(output):
        path = probe(city, tables, output, settings)
    print(compared_regions(output))
    print(f"Results: {path}\nNext: python evaluate.py report --output_dir {arguments.output_dir}")
    return path


def run_report(arguments: ReportArguments) -> Path:
    """Run `evaluate.py report` and return the path of report.md."""
    from .report.report import write_report

    report = write_report(Path(arguments.output_dir))
    print(f"Report: {report}")
    return report


def run_efficiency(arguments: EfficiencyArguments) -> Path:
    """Run `evaluate.py efficiency` and return the path of efficiency.json."""
    from .analysis.efficiency import measure_efficiency

    path = measure_efficiency(
        Path(arguments.output_dir),
        arguments.dataset_name,
        arguments.city,
        arguments.systems,
        arguments.size,
        arguments.model_name_or_path,
        arguments.min_seconds,
        arguments.device or default_device(),
    )
    print(f"Wrote {path}")
    return path


def run_language(arguments: LanguageArguments) -> Path:
    """Run `evaluate.py embed_captions`, `retrieve` or `zero_shot`; return the path written."""
    from .search.commands import run

    return run(arguments, arguments.device or default_device())


def run_study(arguments: StudyArguments) -> None:
    """Run `evaluate.py benchmark`, `ablate` or `transfer`."""
    from .benchmark.arguments import run_study

    run_study(arguments, default_device())


def default_device() -> str:
    """The available accelerator, else the CPU."""
    import torch

    if not torch.accelerator.is_available():
        return "cpu"
    return str(torch.accelerator.current_accelerator())


COMMANDS: list[tuple[Any, Callable[[Any], object]]] = [
    (EmbedArguments, run_embed),
    (BaselineArguments, run_baseline),
    (ProbeArguments, run_probe),
    (ReportArguments, run_report),
    (EfficiencyArguments, run_efficiency),
    (LanguageArguments, run_language),
    (StudyArguments, run_study),
]

__all__ = [
    "main",
    "run_baseline",
    "run_efficiency",
    "run_embed",
    "run_language",
    "run_probe",
    "run_report",
]
