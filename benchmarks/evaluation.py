"""Speed and memory of embedding and probing, as ratios within one run.

python -m benchmarks.evaluation                 # all
python -m benchmarks.evaluation throughput      # JPEG input vs. tensors in memory, ViT-B/16
python -m benchmarks.evaluation memory          # 1,000 vs. 10,000 images
python -m benchmarks.evaluation probing         # 20 seeds x 7 tasks, batched vs. in a loop
python -m benchmarks.evaluation city [splits]   # all probes of a city vs. scikit-learn
"""

import io
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from benchmarks.measure import alternate, in_subprocess, peak_mb, timed
from pipelines.common.encoders.transformers_models import ModelEncoder
from pipelines.evaluation.embed.images import EmbedSettings, Source, embed
from pipelines.evaluation.probe.models import (
    MLPSettings,
    RidgeSettings,
    batch_order,
    fit_mlp,
    fit_ridge,
    initial_weights,
    num_batches,
)
from pipelines.evaluation.probe.splits import Task

MODULE = "benchmarks.evaluation"
TINY_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def jpeg(side: int, seed: int) -> bytes:
    """JPEG image with edges and noise, about the file size of a photo."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (8, 8, 3)).repeat(side // 8, 0).repeat(side // 8, 1)
    pixels = (blocks + rng.normal(0, 12, blocks.shape)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def source(num_images: int, num_regions: int, pictures: list[bytes]) -> Source:
    """Street views assigned to regions in turn, generated lazily."""

    def rows(view: str) -> Iterator[dict[str, Any]]:
        for index in range(num_images):
            yield {
                "image_id": f"i{index}",
                "region_id": f"r{index % num_regions}",
                # a fresh copy, as a file would give
                "image": bytes(bytearray(pictures[index % len(pictures)])),
            }

    regions = [f"r{index}" for index in range(num_regions)]
    return Source(regions, {"street_view": num_images, "satellite": 0}, rows, "bench", {})


def stream(encoder: ModelEncoder, images: Source, settings: EmbedSettings) -> None:
    with tempfile.TemporaryDirectory() as folder:
        embed(encoder, images, Path(folder), "bench", settings, log=lambda text: None)


def throughput(num_images: int = 16, batch_size: int = 4) -> None:
    """Images/s from JPEG bytes over images/s of the model on tensors in memory.

    The ratio of CPU times is reported too, as other processes affect it little. Its difference to
    100 % is an upper bound on the share of decoding and other overhead.
    """
    torch.manual_seed(0)
    encoder = ModelEncoder(CLIPModel(CLIPConfig()).eval(), CLIPImageProcessor(), "vit-b16")
    settings = EmbedSettings(batch_size, 512, num_workers=2)
    tensors = torch.stack(
        [encoder.prepare(Image.open(io.BytesIO(jpeg(256, k)))) for k in range(batch_size)]
    )

    def model_only() -> None:
        for _ in range(num_images // batch_size):
            encoder.encode(tensors)

    for side in (256, 512):
        pictures = [jpeg(side, k) for k in range(8)]
        images = source(num_images, 4, pictures)
        runs = alternate(5, total=partial(stream, encoder, images, settings), model=model_only)
        wall, cpu = np.median(runs["model"] / runs["total"], axis=0)
        rates = [num_images / rows[:, 0].min() for rows in runs.values()]
        print(
            f"embedding, {side}-px JPEG: {rates[0]:.2f} images/s, model only {rates[1]:.2f}; "
            f"median ratio of 5 runs: wall time {wall:.1%}, CPU time {cpu:.1%}"
        )


def peak_memory(num_images: int) -> None:
    """Embed small images with a tiny model and print the peak memory in MB (in a subprocess)."""
    vision = {**TINY_TOWER, "image_size": 30, "patch_size": 10}
    config = CLIPConfig(text_config=TINY_TOWER, vision_config=vision, projection_dim=16)
    processor = CLIPImageProcessor(
        size={"height": 30, "width": 30}, do_center_crop=False, crop_size=30
    )
    encoder = ModelEncoder(CLIPModel(config).eval(), processor, "tiny")
    pictures = [jpeg(256, k) for k in range(16)]
    stream(encoder, source(num_images, 100, pictures), EmbedSettings())
    print(json.dumps(peak_mb()))


def memory() -> None:
    few, many = (in_subprocess(MODULE, "peak_memory", count) for count in (1_000, 10_000))
    print(
        f"peak memory: {few:.0f} MB for 1,000 images, {many:.0f} MB for 10,000: {many / few:.3f}x"
    )


def make_tasks(n: int, dim: int, seeds: int, targets: int) -> tuple[np.ndarray, list[Task]]:
    """Random vectors, and one 6:2:2 split per seed for each of the `targets` indicators."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, dim))
    labels = X @ rng.normal(size=(dim, targets)) / dim**0.5 + rng.normal(size=(n, targets))
    tasks = []
    for seed in range(seeds):
        train, validation, test = np.split(rng.permutation(n), [int(0.6 * n), int(0.8 * n)])
        tasks += [Task(labels[:, t], train, train, validation, test, seed) for t in range(targets)]
    return X, tasks


def mlp_in_a_loop(X: np.ndarray, tasks: list[Task], settings: MLPSettings) -> None:
    """Fit the MLP probes one by one: nn.Sequential, AdamW, tensors in memory, no DataLoader."""
    for task in tasks:
        generator = torch.Generator().manual_seed(task.seed)
        drawn = initial_weights(X.shape[1], settings.hidden_sizes, generator)
        layers: list[nn.Module] = []
        for weight, bias in zip(drawn[::2], drawn[1::2], strict=True):
            linear = nn.Linear(*weight.shape)
            linear.weight.data, linear.bias.data = weight.T.contiguous(), bias
            layers += [linear, nn.ReLU()]
        net = nn.Sequential(*layers[:-1])
        mean, std = X[task.fit_rows].mean(0), X[task.fit_rows].std(0)
        x = torch.tensor((X - mean) / std, dtype=torch.float32)
        y = torch.tensor(task.y - task.y[task.train].mean(), dtype=torch.float32)[:, None]
        train, validation = torch.tensor(task.train), torch.tensor(task.validation)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2)
        for _ in range(settings.max_epochs):
            count = num_batches(len(train), settings.batch_size)
            for batch in batch_order(len(train), count, generator):
                optimizer.zero_grad()
                rows = train[batch]
                nn.functional.mse_loss(net(x[rows]), y[rows]).backward()
                optimizer.step()
            with torch.no_grad():
                nn.functional.mse_loss(net(x[validation]), y[validation]).item()


def ridge_in_a_loop(X: np.ndarray, tasks: list[Task], settings: RidgeSettings) -> None:
    """Fit the ridge probes one by one with scikit-learn."""
    for task in tasks:
        x = (X - X[task.fit_rows].mean(0)) / X[task.fit_rows].std(0)
        errors = []
        for alpha in settings.alphas:
            model = Ridge(alpha=alpha).fit(x[task.train], task.y[task.train])
            residual = model.predict(x[task.validation]) - task.y[task.validation]
            errors.append(float(np.square(residual).mean()))
        best = settings.alphas[int(np.argmin(errors))]
        Ridge(alpha=best).fit(x[task.train], task.y[task.train]).predict(x[task.test])


def probing(epochs: int = 5) -> None:
    """Speed-up of batched probes, 20 seeds x 7 tasks; MLPs for a fixed number of epochs."""
    mlp = MLPSettings(weight_decays=(1e-2,), max_epochs=epochs, patience=10**6)
    for n, dim in ((517, 512), (517, 64), (2000, 512)):
        X, tasks = make_tasks(n, dim, seeds=20, targets=7)
        fit_mlp(X, tasks[:7], mlp)  # warm-up
        (batched, _), _ = timed(fit_mlp, X, tasks, mlp)
        (loop, _), _ = timed(mlp_in_a_loop, X, tasks, mlp)
        print(
            f"MLP probes, {n} regions x {dim}: {batched:.1f} s batched, {loop:.1f} s in a loop: "
            f"{loop / batched:.1f}x"
        )
        ridge = RidgeSettings()
        (batched, _), _ = timed(fit_ridge, X, tasks, ridge)
        few = tasks[::20]  # the loop takes minutes: extrapolated from a twentieth
        (loop, _), _ = timed(ridge_in_a_loop, X, few, ridge)
        loop *= len(tasks) / len(few)
        print(
            f"ridge probes, {n} regions x {dim}: {batched:.2f} s batched, {loop:.1f} s in a loop "
            f"(from {len(few)} of {len(tasks)}): {loop / batched:.0f}x"
        )


CITY_SPLITS = 30  # 10 seeds x 3 protocols
SKLEARN_PENALTIES = (1e-4, 1e-1)  # as many values as the grid of weight decays


def city(splits: int = CITY_SPLITS, sample: int = 3) -> None:
    """All probes of a city of 5,000 regions x 512: 7 tasks x 10 seeds x 3 protocols, both grids.

    With fewer `splits`, the time is extrapolated. The baseline is scikit-learn's MLP of the same
    size, batch size and grid length, fitted to `sample` tasks one by one in float32: with default
    settings (until its *training* loss no longer falls), with its early stopping, and with early
    stopping at the probe's patience.
    """
    X, tasks = make_tasks(5000, 512, seeds=splits, targets=7)
    grid = MLPSettings()
    fit_mlp(X, tasks[:2], MLPSettings(max_epochs=1))  # warm-up
    (mlp_wall, mlp), fits = timed(fit_mlp, X, tasks, grid)
    (ridge_wall, ridge), _ = timed(fit_ridge, X, tasks)
    total = (mlp + ridge) * CITY_SPLITS / splits
    print(
        f"{len(tasks)} of {7 * CITY_SPLITS} tasks: MLP {mlp:.0f} s, ridge {ridge:.0f} s of CPU "
        f"time ({mlp_wall + ridge_wall:.0f} s wall time); all tasks {total:.0f} s, on two cores "
        f"{total / 2:.0f} s"
    )
    picked = range(0, len(tasks), max(1, len(tasks) // sample))
    few = [tasks[i] for i in picked]
    ours = float(np.mean([fits[i].validation_mse for i in picked]))
    batches = num_batches(len(tasks[0].train), grid.batch_size)
    ways: dict[str, dict[str, Any]] = {
        "default settings": {},
        "early stopping": {"early_stopping": True},
        "early stopping, same patience": {
            "early_stopping": True,
            "n_iter_no_change": ceil(grid.patience / batches),
        },
    }
    for name, way in ways.items():
        (_, took), errors = timed(sklearn_in_a_loop, X, few, grid, way)
        ratio = (took / len(few)) / (mlp / len(tasks))
        print(
            f"scikit-learn, {name}: {took / len(few):.1f} s per task, ours {mlp / len(tasks):.2f} "
            f"s: {ratio:.1f}x; validation MSE {np.mean(errors):.3f}, ours {ours:.3f}"
        )


def sklearn_in_a_loop(
    X: np.ndarray, tasks: list[Task], settings: MLPSettings, way: dict[str, Any]
) -> list[float]:
    """Validation MSE of scikit-learn's MLP for each task, the best over the grid of penalties."""
    best = []
    for task in tasks:
        mean, std = X[task.fit_rows].mean(0), X[task.fit_rows].std(0)
        x = ((X - mean) / std).astype(np.float32)
        centre, scale = task.y[task.train].mean(), task.y[task.train].std()
        y = ((task.y[task.train] - centre) / scale).astype(np.float32)
        errors = []
        for penalty in SKLEARN_PENALTIES:
            model = MLPRegressor(
                hidden_layer_sizes=settings.hidden_sizes,
                alpha=penalty,
                batch_size=settings.batch_size,
                max_iter=settings.max_epochs,
                random_state=task.seed,
                **way,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(x[task.train], y)
            found = model.predict(x[task.validation]) * scale + centre
            errors.append(float(np.square(found - task.y[task.validation]).mean()))
        best.append(min(errors))
    return best


def main() -> None:
    name, *rest = sys.argv[1:] or [""]
    parts: dict[str, Callable[..., None]] = {
        part.__name__: part for part in (throughput, memory, probing, city)
    }
    if name:
        {**parts, "peak_memory": peak_memory}[name](*map(int, rest))
    else:
        for part in parts.values():
            part()


if __name__ == "__main__":
    main()
