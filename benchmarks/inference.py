"""Speed of the region pipeline, of the int8 export and of exact search, as ratios within one run.

export OMP_NUM_THREADS=1
python -m benchmarks.inference pipeline        # vs. calling the model, and vs. single images
python -m benchmarks.inference small           # the same with the model of the quickstart
python -m benchmarks.inference int8 FOLDER     # on 16 images of a folder
python -m benchmarks.inference search          # 1,000,000 x 512 float32, memory-mapped (2 GB)

Models are randomly initialised, ViT-B/16 except for `small`. Seconds are minimum CPU time.
"""

import sys
import tempfile
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.lib.format import open_memmap
from PIL import Image
from transformers import pipeline as make_pipeline

from benchmarks.measure import alternate, cpu_seconds
from modeling_urbanln import UrbanLNConfig, UrbanLNModel, UrbanLNProcessor
from pipelines.common.tokenizer import clip_tokenizer
from pipelines.evaluation.search.nearest import Keys, plain_keys, top_k, unit
from pipelines.release.convert import image_processor
from pipelines.release.export import export

RECIPE = Path(__file__).resolve().parents[1] / "configs" / "base_synthetic.yaml"
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16}
BATCH = 16


def save_model(folder: Path, small: bool) -> str:
    torch.manual_seed(0)
    fields: dict[str, Any] = {"vision_config": BASE}
    if small:
        overrides = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["config_overrides"]
        fields = {key: overrides[key] for key in ("text_config", "vision_config", "projection_dim")}
    model = UrbanLNModel(UrbanLNConfig(**fields))
    vision: Any = model.config.vision_config
    model.save_pretrained(folder)
    processor = UrbanLNProcessor(image_processor(vision.image_size), clip_tokenizer(248))
    processor.save_pretrained(folder)
    return str(folder)


def pipeline(folder: Path, small: bool = False) -> None:
    """Time the region pipeline, direct model calls and a single-image pipeline."""
    count = 64 if small else 16
    model_dir = save_model(folder / "model", small)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 256, 256, 3), dtype=np.uint8)
    images = [Image.fromarray(one) for one in pixels]
    make: Any = make_pipeline  # its overloads only list the library's own tasks
    task = "urban-region-feature-extraction"
    regions = make(task, model=model_dir, trust_remote_code=True)
    single = make("image-feature-extraction", model=model_dir, trust_remote_code=True)
    rows = [
        {"satellite": images[k], "street_view": images[k + 1 : k + 4]} for k in range(0, count, 4)
    ]

    @torch.inference_mode()
    def by_hand() -> None:
        for start in range(0, count, BATCH):
            batch = regions.image_processor(images[start : start + BATCH], return_tensors="pt")
            regions.model.get_image_features(**batch).pooler_output.numpy()

    seconds = cpu_seconds(
        10 if small else 2,
        regions=lambda: regions(rows, batch_size=BATCH),
        by_hand=by_hand,
        single=lambda: [single(one) for one in images],
    )
    ours = seconds["regions"]
    print(
        f"region pipeline: {count / ours:.2f} images/s; over direct calls "
        f"{seconds['by_hand'] / ours:.3f}, over single images {seconds['single'] / ours:.3f}"
    )


def int8(folder: Path, pictures: str, count: int = 16) -> None:
    """Compare the int8 image tower with torch float32 on real images."""
    import onnxruntime

    found = (p for p in Path(pictures).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    paths = sorted(found)
    chosen = [paths[k * len(paths) // count] for k in range(count)]
    model_dir = save_model(folder / "model", small=False)
    export(model_dir, folder / "export", ("onnx", "int8"), chosen)
    model = UrbanLNModel.from_pretrained(model_dir).eval()
    processor = UrbanLNProcessor.from_pretrained(model_dir).image_processor
    images = [Image.open(path).convert("RGB") for path in chosen]
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    file = str(folder / "export" / "onnx" / "vision_model_int8.onnx")
    session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])

    def quantised() -> Any:
        return session.run(["image_embeds"], {"pixel_values": pixels.numpy()})[0]

    @torch.inference_mode()
    def in_torch() -> Any:
        return unit(model.get_image_features(pixels).pooler_output.numpy())

    cosine = (quantised() * in_torch()).sum(1).min()
    seconds = cpu_seconds(2, int8=quantised, torch=in_torch)
    print(f"int8: {seconds['torch'] / seconds['int8']:.2f}x torch, minimum cosine {cosine:.5f}")


def search(folder: Path, num_keys: int = 1_000_000, dim: int = 512) -> None:
    """Time and working memory of finding the ten nearest images and regions of eight images."""
    rng = np.random.default_rng(0)
    query = unit(rng.normal(size=(1, dim)))
    for count in (num_keys // 10, num_keys):
        path = folder / f"{count}.npy"
        vectors = open_memmap(path, mode="w+", dtype=np.float32, shape=(count, dim))
        for start in range(0, count, 50_000):
            part = vectors[start : start + 50_000]
            part[:] = unit(rng.standard_normal(part.shape, dtype=np.float32))
        starts = np.append(np.arange(0, count, 8), count)
        for name, keys in (("images", plain_keys(vectors)), ("regions", Keys(vectors, starts))):
            wall, cpu = alternate(5, find=partial(top_k, query, keys, 10))["find"].T
            tracemalloc.start()
            top_k(query, keys, 10)
            peak = tracemalloc.get_traced_memory()[1] / 1e6
            tracemalloc.stop()
            print(
                f"{count:,} x {dim}, nearest {name}: {np.median(wall):.3f} s (minimum CPU time "
                f"{cpu.min():.3f}), working memory {peak:.1f} MB"
            )


def main() -> None:
    name, *rest = sys.argv[1:] or ["pipeline"]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if name == "int8":
            int8(folder, rest[0])
        elif name == "search":
            search(folder)
        else:
            pipeline(folder, small=name == "small")


if __name__ == "__main__":
    main()
