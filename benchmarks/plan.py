"""Estimated memory and duration of pretraining on different GPUs.

    python -m benchmarks.plan --images 30000                  # all GPUs
    python -m benchmarks.plan --images 30000 --gpu a10 l4 --per_device_train_batch_size 128

Further flags are those of train.py. Training steps run on fake tensors, which have no values:
torch's FlopCounterMode counts their floating-point operations, PeakMemory their bytes. Hours are
operations divided by the GPU's peak throughput times the utilisation.
"""

import argparse
import json
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from modeling_urbanln import UrbanLNForPreTraining
from pipelines.common.errors import InputError
from pipelines.pretraining.arguments import PretrainingArguments, parse_arguments
from pipelines.pretraining.model import build_model, enable_checkpointing
from pipelines.pretraining.step import Batch, Student, adamw, train_step

# dense bfloat16 TFLOP/s (data sheets print twice that, "with sparsity") and memory in GB, from
# https://www.nvidia.com/en-us/data-center/{h200,h100,a100,l4,tesla-t4}/ and .../products/a10-gpu/;
# rtx4090: https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf.
# h100 is the SXM card (PCIe: 756); t4 has float16 and no bfloat16.
GPUS = {
    "h200": (989.5, 141), "h100": (989.5, 80), "a100-80": (312, 80), "a100-40": (312, 40),
    "rtx4090": (165.2, 24), "a10": (125, 24), "l4": (121, 24), "t4": (65, 16),
}  # fmt: skip
# Shares of the peak. NVIDIA's CLIP ViT-g/14 trains 559 images/s on 8 A100 and 935 on 8 H100
# (https://docs.nvidia.com/nemo-framework/user-guide/latest/multimodalmodels/clip/perf.html); at
# three forward passes of 581 GFLOP, as open_clip counts them, that is .39 and .21.
LOW, UTILISATION, HIGH = 0.2, 0.3, 0.4
USABLE = 0.9  # share of the memory; the rest is for the CUDA context and fragmentation
CAPTION_TOKENS = 160  # mean length of batches grouped by length, see benchmarks/README.md
# JPEGs per second decoded and preprocessed by one AVX2 core; the only measured values here
DECODED = {"256x256": 618, "1024x512": 84}
# the supported checkpoint and its differences from CLIPConfig's defaults
VITB16, SHAPE = "openai/clip-vit-base-patch16", {"vision_config": {"patch_size": 16}}
ATTENTION: dict[Any, Any] = {  # the counter has attention formulas for GPU kernels only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda *shapes, **_: flop_counter.sdpa_flop_count(*shapes[:3])
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda *shapes, **_: flop_counter.sdpa_backward_flop_count(*shapes[:4])
    ),
}


@dataclass(frozen=True)
class Counts:
    """Operations per pair of the towers' forward passes and of a step; peak bytes of a step."""

    image: float
    caption: float
    step: float
    memory: float
    memory_per_pair: float


class PeakMemory(TorchDispatchMode):
    """Tracks the bytes of live tensors; `peak` is their maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def add(self, tensor: torch.Tensor) -> None:
        """Count the storage of a tensor until it is freed."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes()
            self.peak = max(self.peak, sum(self.sizes.values()))
            weakref.finalize(storage, self.sizes.pop, storage._cdata)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count its outputs."""
        made = func(*args, **kwargs or {})
        tree_map_only(torch.Tensor, self.add, made)
        return made


def count_flops(function: Callable[[], object]) -> int:
    """Floating-point operations of a call; a multiply-add counts as two."""
    with flop_counter.FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        function()
    return counter.get_total_flops()


def count_step(
    accelerator: Accelerator, model: UrbanLNForPreTraining, *batches: Batch
) -> tuple[int, list[int]]:
    """Operations of a training step on the first batch, and peak bytes of a step on each batch."""
    student = Student(accelerator.prepare_model(model, device_placement=False), model)
    optimizer = accelerator.prepare(adamw(model, 1e-6, 0.01))
    model.queue.queue_fill = torch.tensor(model.queue.size)  # full, as for most of a run

    def step(batch: Batch) -> None:
        train_step(
            accelerator, student, optimizer, [batch], learning_rate=1e-6, distillation_weight=0.5
        )

    flops = count_flops(lambda: step(batches[0]))  # also allocates the moments of AdamW
    peaks = []
    for batch in batches:
        with PeakMemory() as memory:
            held = (model.state_dict(), optimizer.state_dict(), batch)
            tree_map_only(torch.Tensor, memory.add, held)
            step(batch)
        peaks.append(memory.peak)
    return flops, peaks


def make_model(args: PretrainingArguments) -> UrbanLNForPreTraining:
    """Build the recipe's model in the architecture of its checkpoint, without weights."""
    model_args, name = args.model, args.model.model_name_or_path
    if name not in (None, VITB16):
        raise InputError(f"--model_name_or_path must be {VITB16}, got {name}.")
    if name == VITB16:
        shape = json.dumps(SHAPE)
        model_args = replace(model_args, model_name_or_path=None, config_overrides=shape)
    model: Any = build_model(model_args)[0]
    if args.optimization.gradient_checkpointing:
        enable_checkpointing(model)
    trained: UrbanLNForPreTraining = model.train()
    return trained


def make_batch(model: UrbanLNForPreTraining, pairs: int, caption_tokens: int) -> Batch:
    """All-zero batch in the model's input shapes."""
    config: Any = model.config
    side = config.vision_config.image_size
    input_ids = torch.zeros(pairs, caption_tokens, dtype=torch.int64)
    mask, pixels = torch.ones_like(input_ids), torch.zeros(pairs, 3, side, side)
    names = ("input_ids", "attention_mask", "pixel_values", "sample_ids")
    return dict(zip(names, (input_ids, mask, pixels, input_ids[:, 0]), strict=True))


def count(args: PretrainingArguments, caption_tokens: int) -> Counts:
    """Count the operations and memory of the recipe's step, and the memory per further pair."""
    pairs = args.optimization.per_device_train_batch_size
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")  # as many bytes as fp16
    with torch.device("meta"):
        model = make_model(args)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        batch, double = (make_batch(model, size, caption_tokens) for size in (pairs, 2 * pairs))
        with torch.no_grad():
            image = count_flops(lambda: model.get_image_features(batch["pixel_values"]))
            caption = count_flops(lambda: model.get_text_features(batch["input_ids"]))
        step, (memory, twice) = count_step(accelerator, model, batch, double)
    return Counts(image / pairs, caption / pairs, step / pairs, memory, (twice - memory) / pairs)


def tabulate(counts: Counts, batch: int, pairs: int, images: int, use: float) -> pd.DataFrame:
    """One row per GPU: time to train on `pairs` and embed `images` at utilisation `use`."""
    table = pd.DataFrame.from_dict(GPUS, orient="index", columns=["TFLOP/s", "GB"])
    speed = table["TFLOP/s"] * 1e12 * use
    more = (USABLE * table["GB"] * 1e9 - counts.memory) / counts.memory_per_pair
    table["largest batch"] = ((batch + more) // 8 * 8).clip(lower=0).astype(int)
    table["training, h"] = pairs * counts.step / speed / 3600
    for share in (HIGH, LOW):
        table[f"h at {share}"] = table["training, h"] * use / share
    table["embedding, min"] = images * counts.image / speed / 60
    table["pairs/s"] = (speed / counts.step).astype(int)
    for size, rate in DECODED.items():
        table[f"cores, {size}"] = np.ceil(table["pairs/s"] / rate).astype(int)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan and return the exit code (2 for invalid arguments)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, required=True, help="number of training images")
    parser.add_argument("--gpu", nargs="+", choices=GPUS, default=list(GPUS), help="default: all")
    parser.add_argument("--config", default="configs/vitb16.yaml", help="recipe of train.py")
    parser.add_argument(
        "--caption_tokens", type=int, default=CAPTION_TOKENS, help="mean length of a batch"
    )
    parser.add_argument(
        "--utilisation", type=float, default=UTILISATION, help="share of the peak that is reached"
    )
    options, flags = parser.parse_known_args(argv)
    needed = ["--config", options.config, "--dataset_name", "-", "--output_dir", "-"]
    try:
        args = parse_arguments([*needed, *flags])
        if args.optimization.mixed_precision == "no":
            raise InputError("--mixed_precision must be bf16 or fp16, got no.")
        chosen = args.optimization
        batch = chosen.per_device_train_batch_size
        window = batch * chosen.gradient_accumulation_steps
        if options.images < window:
            raise InputError(f"One step needs {window} pairs, got --images {options.images}.")
        counts = count(args, options.caption_tokens)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    steps = chosen.max_train_steps or options.images // window * chosen.num_train_epochs
    table = tabulate(counts, batch, steps * window, options.images, options.utilisation)
    print(
        f"Computed, not measured: {options.config}, {options.images:,} images, captions of "
        f"{options.caption_tokens} tokens\n"
        f"computed: GFLOP per pair: image tower {counts.image / 1e9:.1f}, text tower "
        f"{counts.caption / 1e9:.1f}, training step {counts.step / 1e9:.1f}\n"
        f"computed: {steps:,} steps of {window}; peak memory {counts.memory / 1e9:.1f} GB at batch "
        f"{batch}, {counts.memory_per_pair / 1e6:.1f} MB per further pair\n"
        f"computed: at {options.utilisation} of the peak, {USABLE:.0%} of the memory\n"
        f"{table.loc[options.gpu].round(2).to_string()}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
