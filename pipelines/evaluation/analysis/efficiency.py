"""Parameter counts and encoding speed of the systems.

Parameters are those used in training or stored (`total`), those with a gradient (`trainable`), and
those used to encode a region (`inference`). Speed is measured from decoded pixels to embeddings,
since reading and decoding images is the same for all systems. On a single CPU thread, processor
time is measured, so that other processes do not count. Batches consist of regions with all their
images; a system may split them further.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dataset_builders.files import write_json
from pipelines.common.encoders.transformers_models import load_model_encoder

from ..baselines.base import RegionData
from ..baselines.data import load_region_data
from ..baselines.registry import make, read_settings
from ..baselines.training import pixel_values
from ..errors import InputError
from ..probe.results import EFFICIENCY_FILE

BATCHES = (1, 128)
REPEATS, MOST_REPEATS = 3, 50
# settings reduced to one epoch: enough to run every module that training uses
SHORT = ("epochs", "simclr_epochs", "satellite_epochs", "street_view_epochs", "fusion_epochs")
METHOD = "urbanln"

Encode = Callable[[RegionData], Any]


def measure_efficiency(
    output: Path,
    dataset_name: str,
    city: str,
    systems: Sequence[str],
    size: str = "cpu",
    model_name_or_path: str | None = None,
    min_seconds: float = 2.0,
    device: str = "cpu",
    log: Callable[[str], None] = print,
) -> Path:
    """Measure parameters and speed of systems, and write `<output>/efficiency.json`.

    Args:
        output: Output folder, also used to cache decoded pixels.
        dataset_name: Dataset folder or Hub id; with captions, which some systems need in training.
        city: City whose images are encoded; needs as many regions as the largest batch.
        systems: Baselines of `evaluate.py baseline`.
        size: Size of their recipes.
        model_name_or_path: UrbanLN checkpoint to measure as well.
        min_seconds: Minimum measurement time per batch size.
        device: Torch device.
        log: Callback for progress lines.

    Raises:
        InputError: A system or checkpoint does not exist, or the city has too few regions.
    """
    found: list[dict[str, Any]] = []

    @cache
    def data_of(image_size: int) -> RegionData:
        data = load_region_data(dataset_name, city, image_size, output / "pixels")
        if len(data.region_ids) < max(BATCHES):
            raise InputError(
                f"{city} has {len(data.region_ids)} regions; a batch of {max(BATCHES)} cannot be "
                "measured on them."
            )
        return data

    def add(
        system: str, size: str, image_size: int, known: Iterable[nn.Parameter],
        trainable: Iterable[nn.Parameter], encode: Encode,
    ) -> None:  # fmt: skip
        data = data_of(image_size)
        with running_modules() as used:
            encode(subset(data, 1))
        counts = {"total": known, "trainable": trainable, "inference": parameters(used)}
        speeds = measure(encode, data, device, min_seconds)
        total = {name: sum(p.numel() for p in own) for name, own in counts.items()}
        row = {"system": system, "size": size, "image_size": image_size, **total, "speeds": speeds}
        found.append(row)
        per_second = ", ".join(
            f"{s['images'] / s['seconds']:,.1f} at {s['regions']}" for s in speeds
        )
        log(f"{system}: {total['total']:,} parameters, {per_second} regions: images/s")

    for name in systems:
        settings = read_settings(name, size)
        short = {field.name: 1 for field in fields(settings) if field.name in SHORT}
        encoder = make(name, size, 0, device, **short)
        data = data_of(settings.image_size)
        with running_modules() as ran:
            encoder.fit(data)
            encoder.encode(subset(data, 1))
        known = parameters([*ran, *modules_of(encoder)])
        trainable = [p for p in known if p.grad is not None]
        where = f"recipe, {size}", settings.image_size
        add(encoder.name, *where, known, trainable, encoder.encode)
    if model_name_or_path:
        add(METHOD, "checkpoint", *_checkpoint(model_name_or_path, device))
    measured = {"machine": machine(device), "dataset_name": dataset_name, "city": city}
    write_json(output / EFFICIENCY_FILE, {**measured, "systems": found})
    return output / EFFICIENCY_FILE


def _checkpoint(
    path: str, device: str
) -> tuple[int, list[nn.Parameter], list[nn.Parameter], Encode]:
    """Image size, parameters, those that pretraining trains, and encoding of a checkpoint."""
    from modeling_urbanln import UrbanLNConfig, UrbanLNForPreTraining

    encoder = load_model_encoder(path, device=device)
    config = UrbanLNConfig.from_pretrained(path)
    vision: Any = config.vision_config  # the library types it as optional
    size = int(vision.image_size)
    known = list(UrbanLNForPreTraining(config).parameters())

    def encode(part: RegionData) -> list[Any]:
        return [
            encoder.encode(pixel_values(view.pixels, size, str(encoder.device)))
            for view in part.views.values()
        ]

    return size, known, [p for p in known if p.requires_grad], encode


def machine(device: str) -> dict[str, Any]:
    """Hardware and software of the measurement."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else model
    name = name if device.startswith(("cpu", "cuda")) else f"{name} ({device})"
    return {
        "device": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": "processor time" if _alone(device) else "wall clock",
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "precision": "float32",
    }


# ---- counting and timing ------------------------------------------------------------------------


@contextmanager
def running_modules() -> Iterator[list[nn.Module]]:
    """Record the modules whose forward pass runs in the context, each once."""
    seen: dict[int, nn.Module] = {}

    def note(module: nn.Module, _: Any) -> None:
        seen[id(module)] = module
        if isinstance(module, nn.MultiheadAttention):  # bypasses the forward of its submodules
            seen.update({id(part): part for part in module.modules()})

    found: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield found
    finally:
        handle.remove()
        found += seen.values()


def parameters(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """Direct parameters of the modules, each once, without those of submodules."""
    found = {id(p): p for module in modules for p in module.parameters(recurse=False)}
    return list(found.values())


def modules_of(holder: Any) -> Iterator[nn.Module]:
    """Modules in an object's attributes, including lists and dicts of modules."""
    for value in vars(holder).values():
        held = value.values() if isinstance(value, dict) else value
        for one in held if isinstance(value, (dict, list, tuple)) else [value]:
            if isinstance(one, nn.Module):
                yield from one.modules()


def subset(data: RegionData, regions: int) -> RegionData:
    """First regions with images of every view, and only their images."""
    have = np.logical_and.reduce(
        [np.isin(np.arange(len(data.region_ids)), view.region) for view in data.views.values()]
    )
    rows = np.flatnonzero(have)[:regions]
    if len(rows) < regions:
        raise InputError(
            f"{data.city} has {len(rows)} regions with images of every view; {regions} are needed."
        )
    own = {
        name: view.take(np.flatnonzero(np.isin(view.region, rows)))
        for name, view in data.views.items()
    }
    return replace(
        data,
        region_ids=[data.region_ids[row] for row in rows],
        xy=data.xy[rows],
        lonlat=data.lonlat[rows],
        views={n: replace(v, region=np.searchsorted(rows, v.region)) for n, v in own.items()},
        poi=None if data.poi is None else data.poi[rows],
    )


def measure(
    encode: Encode, data: RegionData, device: str, min_seconds: float
) -> list[dict[str, Any]]:
    """Median time per call for each batch size, after a warm-up call.

    Returns:
        Regions, images, seconds and repeats per batch size.
    """
    speeds = []
    clock = time.process_time if _alone(device) else time.perf_counter
    for regions in BATCHES:
        part = subset(data, regions)
        given = encode(part)
        # views used by the system; a single vector per region may combine both
        seen = (
            set(given) if isinstance(given, dict) and set(given) <= set(part.views) else part.views
        )
        images = sum(len(part.views[name]) for name in seen)
        times: list[float] = []
        while len(times) < REPEATS or (sum(times) < min_seconds and len(times) < MOST_REPEATS):
            _wait(device)
            start = clock()
            encode(part)
            _wait(device)
            times.append(clock() - start)
        seconds, repeats = statistics.median(times), len(times)
        speeds.append(
            {"regions": regions, "images": images, "seconds": seconds, "repeats": repeats}
        )
    return speeds


def _alone(device: str) -> bool:
    return device == "cpu" and torch.get_num_threads() == 1


def _wait(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


__all__ = [
    "BATCHES",
    "machine",
    "measure",
    "measure_efficiency",
    "modules_of",
    "parameters",
    "running_modules",
    "subset",
]
