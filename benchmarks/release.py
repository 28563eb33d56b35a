"""Speed of the region pipeline and of the int8 export, as ratios within one run.

python -m benchmarks.release                    # the default, pipeline
python -m benchmarks.release pipeline           # vs. calling the model, and vs. single images
python -m benchmarks.release pipeline --small   # the model of configs/quickstart.yaml
python -m benchmarks.release int8 FOLDER        # on the images of a folder

The model is a randomly initialised ViT-B/16. Times are the minimum CPU time on one thread
(OMP_NUM_THREADS=1) over several alternating runs.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from transformers import pipeline as make_pipeline

from modeling_urbanln import UrbanLNConfig, UrbanLNModel, UrbanLNProcessor
from pipelines.common.tokenizer import clip_tokenizer
from pipelines.release.convert import image_processor
from pipelines.release.export import export

RECIPE = Path(__file__).resolve().parents[1] / "configs" / "base_synthetic.yaml"
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16}
ARCHITECTURE = ("text_config", "vision_config", "projection_dim")
TASK = "urban-region-feature-extraction"
BATCH = 16
VIEWS_A_REGION = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", nargs="?", choices=("pipeline", "int8"), default="pipeline")
    parser.add_argument("folder", nargs="?", type=Path, help="folder of images, for int8")
    parser.add_argument("--small", action="store_true", help="the model of the quickstart")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = save_model(Path(name) / "model", small=options.small)
        if options.which == "pipeline":
            region_pipeline(folder, options.images, options.repeats)
        elif options.folder is None:
            parser.error("int8 needs a folder of images")
        else:
            int8(folder, Path(name) / "export", options.folder, options.images, options.repeats)


def save_model(folder: Path, small: bool) -> Path:
    torch.manual_seed(0)
    fields: dict[str, Any] = {"vision_config": BASE}
    if small:
        overrides = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["config_overrides"]
        fields = {name: overrides[name] for name in ARCHITECTURE}
    model = UrbanLNModel(UrbanLNConfig(**fields))
    vision: Any = model.config.vision_config
    model.save_pretrained(folder)
    UrbanLNProcessor(image_processor(vision.image_size), clip_tokenizer(248)).save_pretrained(
        folder
    )
    return folder


def region_pipeline(folder: Path, count: int, repeats: int) -> None:
    """Time the region pipeline, direct model calls and a single-image pipeline."""
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)) for _ in range(count)
    ]
    make: Any = make_pipeline  # its overloads only list the library's own tasks
    regions = make(TASK, model=str(folder), trust_remote_code=True)
    single = make("image-feature-extraction", model=str(folder), trust_remote_code=True)
    model, processor = regions.model, regions.image_processor
    size = VIEWS_A_REGION + 1
    rows = [
        {"street_view": pictures[k + 1 : k + size], "satellite": pictures[k]}
        for k in range(0, count, size)
    ]

    @torch.inference_mode()
    def by_hand() -> None:
        for start in range(0, count, BATCH):
            inputs = processor(images=pictures[start : start + BATCH], return_tensors="pt")
            model.get_image_features(**inputs).pooler_output.numpy()

    def one_by_one() -> None:
        for picture in pictures:
            single(picture)

    found = in_turns(
        {
            "region pipeline": lambda: regions(rows, batch_size=BATCH),
            "model by hand": by_hand,
            "image by image": one_by_one,
        },
        repeats,
    )
    ours = found.pop("region pipeline")
    print(f"region pipeline: {count / ours:.2f} images/s ({count} images, batches of {BATCH})")
    for name, seconds in found.items():
        print(f"  over {name}, {count / seconds:.2f} images/s: {seconds / ours:.3f}")


def int8(folder: Path, output: Path, pictures: Path, count: int, repeats: int) -> None:
    """Compare the int8 image tower with torch float32 on batches of real images."""
    import onnxruntime

    paths = sorted(p for p in pictures.rglob("*") if p.suffix.lower() in (".jpg", ".png", ".jpeg"))
    chosen = [paths[k * len(paths) // count] for k in range(count)]
    checks = export(str(folder), output, ("onnx", "int8"), chosen)
    model = UrbanLNModel.from_pretrained(folder).eval()
    images = [Image.open(path).convert("RGB") for path in chosen]
    pixels = UrbanLNProcessor.from_pretrained(folder).image_processor(
        images=images, return_tensors="pt"
    )["pixel_values"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    small, exact = (
        onnxruntime.InferenceSession(
            str(output / "onnx" / f"vision_model{end}.onnx"), options, ["CPUExecutionProvider"]
        )
        for end in ("_int8", "")
    )

    def run(session: Any) -> Any:
        batches = (pixels[k : k + BATCH].numpy() for k in range(0, count, BATCH))
        return np.concatenate(
            [session.run(["image_embeds"], {"pixel_values": one})[0] for one in batches]
        )

    @torch.inference_mode()
    def in_torch() -> Any:
        features = [model.get_image_features(p).pooler_output for p in pixels.split(BATCH)]
        return torch.nn.functional.normalize(torch.cat(features), dim=-1).numpy()

    ours, theirs = run(small), in_torch()
    centred = [unit(one - theirs.mean(axis=0)) for one in (ours, theirs)]
    print(
        f"int8 vs. torch on {count} images: minimum cosine {(ours * theirs).sum(1).min():.5f}, "
        f"after subtracting the mean vector {(centred[0] * centred[1]).sum(1).min():.5f}"
    )
    for one in checks:
        print(f"  {one.file}: minimum cosine {one.min_cosine:.6f}, on {one.on}")
    found = in_turns(
        {"int8": lambda: run(small), "torch": in_torch, "onnx float32": lambda: run(exact)},
        repeats,
    )
    print(
        f"int8: {count / found['int8']:.2f} images/s; torch float32 "
        f"{count / found['torch']:.2f}: {found['torch'] / found['int8']:.2f}x; ONNX float32 "
        f"{count / found['onnx float32']:.2f}: {found['onnx float32'] / found['int8']:.2f}x"
    )


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def in_turns(work: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Minimum CPU time of each function over alternating runs, after a warm-up run."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(repeats + 1):
        for name, run in work.items():
            start = time.process_time()
            run()
            if turn:
                times[name].append(time.process_time() - start)
    return {name: min(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
