"""Speed of pretraining, as ratios within one run.

    export OMP_NUM_THREADS=1
    python -m benchmarks.training momentum    # update of the momentum encoder, fused vs. a loop
    python -m benchmarks.training padding     # padding to the longest caption vs. to 248 tokens
    python -m benchmarks.training step        # training step vs. its passes and vs. open_clip

Models are randomly initialised: the time does not depend on the weights.
"""

import argparse
import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import CLIPConfig, CLIPModel

from benchmarks.measure import cpu_seconds
from modeling_urbanln import UrbanLNForPreTraining
from pipelines.common.tokenizer import clip_tokenizer
from pipelines.pretraining.batches import BatchPlan, tokenize
from pipelines.pretraining.step import Student, adamw, train_step

VITB16 = {
    "text_config": {"max_position_embeddings": 77},
    "vision_config": {"patch_size": 16},
    "projection_dim": 512,
}
SMALL = {
    "text_config": {
        "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3,
        "num_attention_heads": 4,
    },
    "vision_config": {
        "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 4, "image_size": 64, "patch_size": 8,
    },
    "projection_dim": 128,
}  # fmt: skip
WORDS = (
    "the street building road trees houses windows cars park river grey white tall small along "
    "beside several green roof roofs pavement industrial residential commercial facade parked "
    "intersection pedestrians vegetation rows left right background foreground buildings with and "
    "of a in on to several kilometres neighbourhood storeys balconies warehouse courtyard"
)
EPOCH_BATCHES = 400


def make_model(architecture: dict) -> Any:
    """Randomly initialised model of this architecture with 248 text positions."""
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(**architecture))
    return UrbanLNForPreTraining.from_clip_pretrained(clip)


def make_captions(count: int, shortest: int, longest: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, count)
    words = WORDS.split()
    return [" ".join(rng.choice(words, length)) for length in lengths]


def benchmark_step(architecture: dict, batch_size: int, repeats: int) -> None:
    """Compare a training step with its passes and with a plain CLIP step of open_clip.

    The plain step uses open_clip's model of the same shape and its loss, without momentum encoder
    and queue, with the same optimizer, pixels and tokens.
    """
    accelerator = Accelerator(cpu=True)
    model = make_model(architecture).train()
    optimizer = accelerator.prepare(adamw(model, 1e-6, 0.01))
    student = Student(accelerator.prepare(model), model)
    tokens = tokenize(make_captions(batch_size, 80, 200), clip_tokenizer(), 248)
    config: Any = model.config
    side = config.vision_config.image_size
    inputs = {**tokens, "pixel_values": torch.randn(batch_size, 3, side, side)}
    batch = {**inputs, "sample_ids": torch.arange(batch_size)}
    keys = torch.nn.functional.normalize(torch.randn(2, 4096, config.projection_dim), dim=-1)
    model.enqueue(*keys)

    def parts() -> None:
        model.encode_momentum(**inputs)
        image = model.get_image_features(inputs["pixel_values"]).pooler_output
        text = model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        (image.mean() + text.mean()).backward()
        model.zero_grad(set_to_none=True)

    def step() -> None:
        train_step(
            accelerator, student, optimizer, [batch], learning_rate=1e-6, distillation_weight=0.5
        )

    plain = plain_clip_step(config, inputs)
    seconds = cpu_seconds(repeats, parts=parts, step=step, plain=plain)
    print(
        f"step: {seconds['step']:.3f} s, its passes {seconds['parts']:.3f} s, "
        f"ratio {seconds['step'] / seconds['parts']:.3f}, plain step of open_clip "
        f"{seconds['plain']:.3f} s, ratio {seconds['step'] / seconds['plain']:.3f} "
        f"({sum(p.numel() for p in model.parameters()) // 2 / 1e6:.1f}M parameters, "
        f"batch {batch_size}, {tokens['input_ids'].shape[1]} tokens, queue 4096)"
    )


def plain_clip_step(config: Any, inputs: dict[str, torch.Tensor]) -> Callable[[], None]:
    """Training step of open_clip's model and loss in the shape of this configuration."""
    import open_clip

    vision, text = config.vision_config, config.text_config
    model = open_clip.CLIP(
        config.projection_dim,
        open_clip.CLIPVisionCfg(
            layers=vision.num_hidden_layers,
            width=vision.hidden_size,
            head_width=vision.hidden_size // vision.num_attention_heads,
            mlp_ratio=vision.intermediate_size / vision.hidden_size,
            patch_size=vision.patch_size,
            image_size=vision.image_size,
        ),
        open_clip.CLIPTextCfg(
            context_length=inputs["input_ids"].shape[1],  # open_clip pads all texts to this length
            vocab_size=text.vocab_size,
            width=text.hidden_size,
            heads=text.num_attention_heads,
            layers=text.num_hidden_layers,
        ),
        quick_gelu=True,
    ).train()
    optimizer, loss = adamw(model, 1e-6, 0.01), open_clip.ClipLoss()

    def step() -> None:
        loss(*model(inputs["pixel_values"], inputs["input_ids"])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def benchmark_momentum(repeats: int) -> None:
    """Compare fused and per-parameter updates of the momentum encoder of ViT-B/16."""
    model = make_model(VITB16)
    pairs = list(model._paired_parameters())

    @torch.no_grad()
    def loop() -> None:  # as in ALBEF and lightly
        for student, teacher in pairs:
            teacher.data = teacher.data * 0.995 + student.data * (1 - 0.995)

    @torch.no_grad()
    def loop_in_place() -> None:
        for student, teacher in pairs:
            teacher.lerp_(student, 1 - 0.995)

    fused = model.update_momentum_encoder
    seconds = cpu_seconds(repeats, loop=loop, in_place=loop_in_place, fused=fused)
    print(
        f"momentum: loop {seconds['loop'] * 1e3:.0f} ms, fused {seconds['fused'] * 1e3:.0f} ms, "
        f"ratio {seconds['loop'] / seconds['fused']:.2f}; loop of lerp_ "
        f"{seconds['in_place'] * 1e3:.0f} ms, ratio {seconds['in_place'] / seconds['fused']:.2f} "
        f"({len(pairs)} tensors, {sum(p.numel() for p, _ in pairs) / 1e6:.1f}M parameters)"
    )


def benchmark_padding(batch_size: int, num_batches: int, repeats: int) -> None:
    """Compare paddings in ViT-B/16's text tower, forward and backward, captions of 80-200 words."""
    model = make_model(VITB16).train()
    tokenizer = clip_tokenizer()
    captions = make_captions(batch_size * EPOCH_BATCHES, 80, 200)
    lengths = np.asarray([len(ids) for ids in tokenizer(captions)["input_ids"]]).clip(max=248)

    def batches(group_by_length: bool, fixed: bool) -> list[dict[str, torch.Tensor]]:
        plan = BatchPlan(
            np.arange(len(captions)), lengths, batch_size, group_by_length=group_by_length
        )
        epoch = sorted(
            (batch.indices for batch in plan.process_batches(0, 0, EPOCH_BATCHES)),
            key=lambda indices: lengths[indices].max(),
        )
        # evenly spaced from shortest to longest, to represent the epoch
        places = (np.arange(num_batches) + 0.5) * EPOCH_BATCHES / num_batches
        return [
            tokenize(
                [captions[index] for index in epoch[place]],
                tokenizer,
                248,
                pad_to_multiple_of=248 if fixed else None,
            )
            for place in places.astype(int)
        ]

    def passes(prepared: list[dict[str, torch.Tensor]]) -> Callable[[], None]:
        def run() -> None:
            for batch in prepared:
                model.get_text_features(**batch).pooler_output.mean().backward()
                model.zero_grad(set_to_none=True)

        return run

    sets = {
        "fixed": batches(group_by_length=True, fixed=True),
        "dynamic": batches(group_by_length=True, fixed=False),
        "mixed": batches(group_by_length=False, fixed=False),
    }
    seconds = cpu_seconds(repeats, **{name: passes(prepared) for name, prepared in sets.items()})
    mean = {n: np.mean([b["input_ids"].shape[1] for b in prepared]) for n, prepared in sets.items()}
    print(
        f"padding: to 248 {seconds['fixed']:.2f} s; to the batch, grouped by length "
        f"{seconds['dynamic']:.2f} s, ratio {seconds['fixed'] / seconds['dynamic']:.2f} "
        f"(mean length {mean['dynamic']:.0f}); to the batch, not grouped {seconds['mixed']:.2f} s, "
        f"ratio {seconds['fixed'] / seconds['mixed']:.2f} (mean length {mean['mixed']:.0f}); "
        f"captions have {lengths.mean():.0f} tokens on average, batch {batch_size}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", nargs="*", choices=["step", "momentum", "padding"], default=[])
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    which = args.which or ["momentum", "padding", "step"]
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} CPUs, "
        f"{platform.machine()}, load {os.getloadavg()[0]:.1f}"
    )
    if "momentum" in which:
        benchmark_momentum(max(args.repeats, 10))
    if "padding" in which:
        benchmark_padding(args.batch_size, num_batches=4, repeats=args.repeats)
    if "step" in which:
        benchmark_step(SMALL, 64, max(args.repeats, 10))
        benchmark_step(VITB16, args.batch_size, args.repeats)


if __name__ == "__main__":
    main()
