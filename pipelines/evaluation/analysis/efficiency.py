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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dataset_builders.files import write_json
from pipelines.common.encoders.transformers_models import ModelEncoder, load_model_encoder

from ..baselines.base import RegionData, RegionEncoder
from ..baselines.data import load_region_data
from ..baselines.image_text import pixel_values
from ..baselines.registry import make, read_settings
from ..errors import InputError
from ..probe.results import EFFICIENCY_FILE

BATCHES = (1, 128)
REPEATS, MOST_REPEATS = 3, 50
# settings reduced to one epoch: enough to run every module that training uses
SHORT = ("epochs", "simclr_epochs", "satellite_epochs", "street_view_epochs", "fusion_epochs")
METHOD, REAL_METHOD, REAL_CLIP = "urbanln", "urbanln-vitb16", "clip-vitb16"


@dataclass(frozen=True)
class Speed:
    """Encoding speed for one batch size.

    Attributes:
        regions: Number of regions per batch.
        images: Number of images of these regions.
        seconds: Median time per batch.
        repeats: Number of measurements.
    """

    regions: int
    images: int
    seconds: float
    repeats: int


@dataclass(frozen=True)
class Efficiency:
    """Parameter counts and speed of one system.

    Attributes:
        system: Name of the system.
        size: Recipe size, `checkpoint`, or the name of the published architecture.
        image_size: Side of the input images in pixels.
        total: Number of parameters used in training or stored.
        trainable: Number of parameters with a gradient.
        inference: Number of parameters used to encode a region.
        speeds: Speed per batch size.
    """

    system: str
    size: str
    image_size: int
    total: int
    trainable: int
    inference: int
    speeds: tuple[Speed, ...]


Encode = Callable[[RegionData], Any]


def measure_efficiency(
    output: Path,
    dataset_name: str,
    city: str,
    systems: Sequence[str],
    size: str = "cpu",
    model_name_or_path: str | None = None,
    real_size: bool = False,
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
        real_size: Whether to also measure randomly initialised UrbanLN and CLIP as ViT-B/16.
        min_seconds: Minimum measurement time per batch size.
        device: Torch device.
        log: Callback for progress lines.

    Raises:
        InputError: A system or checkpoint does not exist, or the city has too few regions.
    """
    found = []

    def data_of(image_size: int) -> RegionData:
        data = load_region_data(dataset_name, city, image_size, output / "pixels")
        if len(data.region_ids) < max(BATCHES):
            raise InputError(
                f"{city} has {len(data.region_ids)} regions; a batch of {max(BATCHES)} cannot be "
                "measured on them."
            )
        return data

    def add(one: Efficiency) -> None:
        found.append(one)
        per_second = ", ".join(f"{s.images / s.seconds:,.1f} at {s.regions}" for s in one.speeds)
        log(f"{one.system}: {one.total:,} parameters, {per_second} regions: images/s")

    for name in systems:
        add(_measure_system(name, size, data_of, device, min_seconds))
    if model_name_or_path:
        add(_measure_checkpoint(model_name_or_path, data_of, device, min_seconds))
    for model in _real_models() if real_size else ():
        add(_measure_real(*model, data_of, device, min_seconds))
    write_json(
        output / EFFICIENCY_FILE,
        {
            "machine": machine(device),
            "dataset_name": dataset_name,
            "city": city,
            "systems": [asdict(one) for one in found],
        },
    )
    return output / EFFICIENCY_FILE


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


# ---- systems ------------------------------------------------------------------------------------


def _measure_system(
    name: str,
    size: str,
    data_of: Callable[[int], RegionData],
    device: str,
    min_seconds: float,
) -> Efficiency:
    settings = read_settings(name, size)
    short = {field.name: 1 for field in fields(settings) if field.name in SHORT}
    encoder: RegionEncoder = make(name, size, 0, device, **short)
    data = data_of(settings.image_size)
    with running_modules() as trained:
        encoder.fit(data)
    first = subset(data, 1)
    with running_modules() as used:
        encoder.encode(first)
    held = list(modules_of(encoder))
    known = parameters([*trained, *used, *held])
    return Efficiency(
        encoder.name,
        f"recipe, {size}",
        settings.image_size,
        sum(p.numel() for p in known),
        sum(p.numel() for p in known if p.grad is not None),
        sum(p.numel() for p in parameters(used)),
        measure(encoder.encode, data, device, min_seconds),
    )


def _measure_checkpoint(
    path: str, data_of: Callable[[int], RegionData], device: str, min_seconds: float
) -> Efficiency:
    from modeling_urbanln import UrbanLNConfig, UrbanLNForPreTraining

    encoder = load_model_encoder(path, device=device)
    config = UrbanLNConfig.from_pretrained(path)
    trained = UrbanLNForPreTraining(config)
    vision: Any = config.vision_config  # the library types it as optional
    image_size = int(vision.image_size)
    return _measure_model(
        METHOD, "checkpoint", encoder, trained, data_of(image_size), image_size, min_seconds
    )


def _real_models() -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """Name, encoder and training model of each architecture, randomly initialised."""
    from transformers import CLIPConfig, CLIPModel

    from modeling_urbanln import UrbanLNConfig, UrbanLNForPreTraining, UrbanLNModel

    base = CLIPConfig(vision_config={"patch_size": 16})
    config = UrbanLNConfig(vision_config={"patch_size": 16})
    yield REAL_METHOD, UrbanLNModel(config), UrbanLNForPreTraining(config)
    clip = CLIPModel(base).requires_grad_(False)
    yield REAL_CLIP, clip, clip


def _measure_real(
    name: str,
    model: nn.Module,
    trained: nn.Module,
    data_of: Callable[[int], RegionData],
    device: str,
    min_seconds: float,
) -> Efficiency:
    from transformers import CLIPImageProcessor

    encoder = ModelEncoder(model.to(device).eval(), CLIPImageProcessor(), name, random_init=True)
    size = 224
    return _measure_model(name, "ViT-B/16", encoder, trained, data_of(size), size, min_seconds)


def _measure_model(
    name: str,
    size: str,
    encoder: ModelEncoder,
    trained: nn.Module,
    data: RegionData,
    image_size: int,
    min_seconds: float,
) -> Efficiency:
    def encode(part: RegionData) -> list[Any]:
        return [
            encoder.encode(pixel_values(view.pixels, image_size, str(encoder.device)))
            for view in part.views.values()
        ]

    with running_modules() as used:
        encode(subset(data, 1))
    own = list(trained.parameters())
    return Efficiency(
        name,
        size,
        image_size,
        sum(p.numel() for p in own),
        sum(p.numel() for p in own if p.requires_grad),
        sum(p.numel() for p in parameters(used)),
        measure(encode, data, str(encoder.device), min_seconds),
    )


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
            elif isinstance(one, ModelEncoder):
                yield from one.model.modules()


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
    views = {}
    for name, view in data.views.items():
        own = np.flatnonzero(np.isin(view.region, rows))
        views[name] = replace(
            view,
            image_ids=[view.image_ids[i] for i in own],
            region=np.searchsorted(rows, view.region[own]),
            pixels=np.array(view.pixels[own]),
            captions=[view.captions[i] for i in own],
            lonlat=view.lonlat[own],
            heading=view.heading[own],
        )
    return replace(
        data,
        region_ids=[data.region_ids[row] for row in rows],
        xy=data.xy[rows],
        lonlat=data.lonlat[rows],
        views=views,
        poi=None if data.poi is None else data.poi[rows],
    )


def measure(encode: Encode, data: RegionData, device: str, min_seconds: float) -> tuple[Speed, ...]:
    """Median time per call for each batch size, after a warm-up call."""
    speeds = []
    clock = time.process_time if _alone(device) else time.perf_counter
    for regions in BATCHES:
        part = subset(data, regions)
        given = encode(part)
        # views used by the system; a single vector per region may combine both
        seen = (
            set(given) if isinstance(given, dict) and set(given) <= set(part.views) else part.views
        )
        images = sum(len(part.views[name].image_ids) for name in seen)
        times: list[float] = []
        while len(times) < REPEATS or (sum(times) < min_seconds and len(times) < MOST_REPEATS):
            _wait(device)
            start = clock()
            encode(part)
            _wait(device)
            times.append(clock() - start)
        speeds.append(Speed(regions, images, statistics.median(times), len(times)))
    return tuple(speeds)


def _alone(device: str) -> bool:
    return device == "cpu" and torch.get_num_threads() == 1


def _wait(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


__all__ = [
    "BATCHES",
    "Efficiency",
    "Speed",
    "machine",
    "measure",
    "measure_efficiency",
    "modules_of",
    "parameters",
    "running_modules",
    "subset",
]
