"""Command-line arguments and recipe keys of train.py."""

import dataclasses
import json
import re
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dataset_builders.errors import DatasetError
from dataset_builders.yaml_records import read_layered_yaml

from ..common.command_line import argument, did_you_mean, parse_dataclasses
from ..common.errors import InputError

DESCRIPTION = """\
Pretrain UrbanLN, CLIP with long text (248 tokens) and momentum self-distillation, on image-text
pairs of cities.

examples:
  python train.py --config configs/quickstart.yaml --dataset_name DIR --output_dir runs/quickstart
  accelerate launch train.py --config configs/vitb16.yaml --dataset_name DIR --output_dir runs/b16
  torchrun --nproc_per_node 8 train.py --config configs/paper.yaml --dataset_name DIR ...

A recipe is a YAML file with the flags below as keys; flags override it. Rerun the command to
resume an interrupted run, with the same result.
"""
EPILOG = """\
OUTPUT_DIR receives the best model by validation retrieval, for AutoModel.from_pretrained; last/,
the last model; checkpoint-STEP/, training states; metrics.jsonl; rejects.parquet, rejected rows and
reasons; training_summary.json; train_arguments.yaml, the arguments as a recipe.
"""

PROGRAM = "python train.py"
# may differ when a run is resumed
FREE_ARGUMENTS = (
    "caption_sampling",  # the candidates are compared instead
    "checkpointing_steps",
    "config",
    "dataloader_num_workers",
    "dataset_name",  # its content is compared instead
    "eval_steps",
    "logging_steps",
    "output_dir",
    "overwrite_output_dir",
    "per_device_eval_batch_size",
    "report_to",
    "resume_from_checkpoint",
    "save_total_limit",
    "torch_compile",
    "use_cpu",
)
NOT_OF_RECIPE = ("config", "overwrite_output_dir", "resume_from_checkpoint")
EXPONENT_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


@dataclass
class ModelArguments:
    """Model architecture, initialisation and objective."""

    model_name_or_path: str | None = argument(
        None,
        "Folder or Hub id of an UrbanLN model, or of a CLIP or SigLIP 2 checkpoint of fixed "
        "resolution, whose text positions are stretched. Without it, the model of "
        "--config_overrides is trained from scratch.",
    )
    config_overrides: str | None = argument(
        None,
        "Fields of UrbanLNConfig: a mapping in a recipe, JSON on the command line.",
    )
    position_mode: Literal["ipsi", "resize", "equation2", "midpoint", "none"] = argument(
        "ipsi",
        "How to stretch the text positions; 'none' truncates texts at CLIP's 77 tokens or "
        "SigLIP's 64.",
    )
    num_preserved_positions: int = argument(
        20, "Number of initial text positions that stretching keeps."
    )
    position_ratio: int = argument(
        4, "Stretching factor of the other positions: 77 become 248, 64 become 196."
    )
    freeze_preserved_positions: bool | None = argument(
        None, "Exclude the preserved positions from training. Default: yes, unless from scratch."
    )
    distillation_weight: float | None = argument(
        None, "Weight mu of the distillation loss (0: contrastive loss only). Default: 0.5."
    )
    distillation_warmup_steps: int | None = argument(
        None, "Steps over which mu rises linearly from 0. Default: 0."
    )
    momentum: float | None = argument(None, "Momentum m of the teacher. Default: 0.995.")
    queue_size: int | None = argument(
        None, "Number K of earlier teacher embeddings that serve as keys. Default: 4096."
    )
    contrastive_keys: Literal["teacher", "both", "student"] | None = argument(
        None,
        "Keys of the contrastive loss. 'teacher' (the paper): teacher embeddings, without "
        "gradient. 'both': student embeddings of the batch, with gradient, and teacher embeddings "
        "of the queue. 'student': CLIP's in-batch loss without teacher and queue (implies "
        "--distillation_weight 0 and --queue_size 0). Default: teacher.",
    )
    train_last_k_blocks: int | None = argument(
        None,
        "Train only the last k blocks of each tower, the layers after them, the projections and "
        "the temperature. Default: all weights.",
        least=0,
    )
    lora_rank: int = argument(
        0,
        "Train only LoRA adapters of this rank (0: none). Saved merged and in adapter/.",
        least=0,
    )
    lora_alpha: int = argument(16, "Alpha of the LoRA adapters.")
    lora_target_modules: list[str] = argument(
        ["q_proj", "v_proj"], "Linear layers that get LoRA adapters."
    )


@dataclass
class DataArguments:
    """Selection and preprocessing of image-text pairs."""

    dataset_name: str = argument(
        "", "Folder or Hub id of a dataset with tables <city>-street_view, <city>-satellite."
    )
    cities: list[str] | None = argument(None, "Cities to train on. Default: all.")
    views: list[str] | None = argument(
        None, "Views to train on: street_view, satellite or both. Default: all in the dataset."
    )
    split_column: Literal["split_block", "split_random", "none"] = argument(
        "none",
        "Column of the regions' split: train on images of 'train', validate on 'validation', hold "
        "out the others. 'none': split the images by --validation_split_percentage.",
    )
    validation_split_percentage: float = argument(
        5.0, "Percentage of images for validation if --split_column is none."
    )
    positives: Literal["image", "region"] = argument(
        "image", "Pairs that are positives of one another: of the same image or the same region."
    )
    max_train_samples: int | None = argument(
        None, "Maximum number of training images, sampled at random.", least=1
    )
    max_eval_samples: int | None = argument(
        None, "Maximum number of validation images, sampled at random.", least=2
    )
    caption_sampling: Literal["best", "score", "random"] = argument(
        "best",
        "'best': the caption in the image tables. 'score': one of the kept candidates in the table "
        "<city>-captions, sampled every epoch in proportion to their scores. 'random': one of the "
        "candidates, sampled once and uniformly, also for validation.",
    )
    shuffle_sentences: bool = argument(
        False, "Shuffle the sentences of a caption every epoch (for independent sentences)."
    )
    short_caption_probability: float = argument(
        0.0,
        "Probability to replace a caption by one of its sentences, sampled every epoch; improves "
        "retrieval by short texts such as search queries.",
    )
    group_by_length: bool = argument(
        True, "Group captions of similar length in a batch to reduce padding."
    )
    pad_to_multiple_of: int | None = argument(
        None, "Pad texts to a multiple of this length; 8 suits the tensor cores of GPUs.", least=1
    )
    dataloader_num_workers: int = argument(0, "Number of data loading processes.", least=0)


@dataclass
class OptimizationArguments:
    """Optimization."""

    per_device_train_batch_size: int = argument(32, "Pairs per batch and process.", least=1)
    per_device_eval_batch_size: int = argument(
        64, "Pairs per batch and process in validation.", least=1
    )
    gradient_accumulation_steps: int = argument(1, "Batches per optimizer step.", least=1)
    gradient_caching: bool = argument(
        False,
        "Share keys between the batches of an accumulation: the gradient equals that of one large "
        "batch, with the memory of a small one.",
    )
    learning_rate: float = argument(1e-6, "Peak learning rate.", least=0)
    weight_decay: float = argument(
        0.01,
        "Weight decay, except of biases, norms, position and class embeddings, and temperature.",
        least=0,
    )
    adam_beta1: float = argument(0.9, "beta1 of AdamW.")
    adam_beta2: float = argument(0.999, "beta2 of AdamW.")
    adam_epsilon: float = argument(1e-8, "epsilon of AdamW.")
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = argument(
        "cosine", "Schedule of the learning rate after the warm-up."
    )
    warmup_steps: int = argument(0, "Steps of the linear warm-up.", least=0)
    warmup_ratio: float = argument(0.0, "Warm-up as a fraction of all steps, if warmup_steps is 0.")
    max_grad_norm: float = argument(1.0, "Maximum gradient norm (0: no clipping).", least=0)
    num_train_epochs: int = argument(3, "Number of epochs.", least=1)
    max_train_steps: int | None = argument(
        None, "Number of optimizer steps; overrides num_train_epochs.", least=1
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = argument("no", "Mixed precision.")
    gradient_checkpointing: bool = argument(
        False, "Recompute activations: less memory, about a third more time."
    )
    torch_compile: bool = argument(False, "Compile the towers with torch.compile.")


@dataclass
class RunArguments:
    """Output, logging and checkpoints."""

    output_dir: str = argument("", "Output folder.")
    config: str | None = argument(
        None, "YAML recipe with any of these flags as keys, and optionally a `base` recipe."
    )
    overwrite_output_dir: bool = argument(
        False, "Remove an earlier run in OUTPUT_DIR instead of resuming it."
    )
    resume_from_checkpoint: str | None = argument(
        None, "A checkpoint-STEP folder. Default: the latest in OUTPUT_DIR, if any."
    )
    seed: int = argument(0, "Seed of the weights, splits and data order.", least=0)
    logging_steps: int = argument(10, "Steps between logs of the mean losses.", least=1)
    eval_steps: int | None = argument(
        None, "Steps between measurements of validation retrieval. Default: an epoch.", least=1
    )
    checkpointing_steps: int | None = argument(
        None, "Steps between checkpoints. Default: an epoch.", least=1
    )
    save_total_limit: int = argument(2, "Number of checkpoints to keep.", least=1)
    report_to: list[str] = argument(
        ["none"], "Trackers of accelerate: tensorboard, wandb, ..., or none."
    )
    use_cpu: bool = argument(False, "Use the CPU even if there is an accelerator.")


@dataclass(frozen=True)
class PretrainingArguments:
    """Validated arguments of a run."""

    model: ModelArguments
    data: DataArguments
    optimization: OptimizationArguments
    run: RunArguments

    def to_dict(self) -> dict[str, Any]:
        """All arguments by flag name."""
        parts = (self.model, self.data, self.optimization, self.run)
        return {name: value for part in parts for name, value in dataclasses.asdict(part).items()}

    def recipe(self) -> dict[str, Any]:
        """Arguments that repeat the run."""
        values = self.to_dict().items()
        return {n: v for n, v in values if v is not None and n not in NOT_OF_RECIPE}


PARTS = {
    "model": ModelArguments,
    "data": DataArguments,
    "optimisation": OptimizationArguments,
    "run": RunArguments,
}
NAMES = [one.name for part in PARTS.values() for one in dataclasses.fields(part)]


def parse_arguments(argv: Sequence[str] | None = None) -> PretrainingArguments:
    """Parse flags and the recipe that they name.

    Args:
        argv: Command line without the program name. Defaults to `sys.argv`.

    Raises:
        InputError: If a name is unknown or a value invalid.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parts = parse_dataclasses(
        _recipe_flags(_recipe_path(argv)) + argv,  # the last value of a flag counts
        PARTS,
        program=PROGRAM,
        usage=f"{PROGRAM} --config RECIPE --dataset_name DIR --output_dir OUT [flags]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    arguments = PretrainingArguments(*parts)
    _check(arguments.to_dict())
    return arguments


def parse_config_overrides(text: str | None) -> dict[str, Any]:
    """Parse the JSON object of `--config_overrides`.

    Raises:
        InputError: If the text is not a JSON object.
    """
    try:
        overrides = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise InputError(f"--config_overrides is not valid JSON: {error}.") from error
    if not isinstance(overrides, dict):
        raise InputError(f"--config_overrides must be a JSON object, got {text}.")
    return overrides


def _recipe_path(argv: Sequence[str]) -> Path | None:
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path, nargs="?")
    path: Path | None = parser.parse_known_args(argv)[0].config
    return path


def _recipe_flags(path: Path | None) -> list[str]:
    """Convert the recipe to flags, so that both are validated alike."""
    if path is None:
        return []
    if not path.is_file():
        raise InputError(f"There is no recipe at {str(path)!r} (--config).")
    try:
        recipe = read_layered_yaml(path)
    except DatasetError as error:
        raise InputError(str(error)) from error
    flags: list[str] = []
    for key, value in recipe.items():
        if key not in NAMES or key == "config":
            hint = did_you_mean(str(key), NAMES) or f" `{PROGRAM} --help` lists all."
            raise InputError(f"{path}: unknown key {key!r}.{hint}")
        if value is None or value == []:
            continue
        if isinstance(value, dict):
            value = json.dumps(_read_numbers(value))
        flags += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return flags


def _read_numbers(value: Any) -> Any:
    """Convert numbers such as 1e-7, which YAML reads as strings, also in mappings and lists."""
    if isinstance(value, dict):
        return {key: _read_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_read_numbers(item) for item in value]
    if isinstance(value, str) and EXPONENT_NUMBER.fullmatch(value):
        return float(value)
    return value


def _check(values: dict[str, Any]) -> None:
    for name in ("dataset_name", "output_dir"):
        if not values[name]:
            raise InputError(f"--{name} is missing.")
    if not values["model_name_or_path"] and not values["config_overrides"]:
        raise InputError(
            "Pass --model_name_or_path (a checkpoint of UrbanLN, CLIP or SigLIP 2), or "
            "--config_overrides to train from scratch."
        )
    if not 0 <= values["validation_split_percentage"] < 100:
        raise InputError(
            "--validation_split_percentage must lie in [0, 100), got "
            f"{values['validation_split_percentage']}."
        )
    for name in ("warmup_ratio", "short_caption_probability"):
        if not 0 <= values[name] <= 1:
            raise InputError(f"--{name} must lie in [0, 1], got {values[name]}.")
    if values["contrastive_keys"] == "student":
        for name in ("distillation_weight", "queue_size", "gradient_caching"):
            if values[name]:
                raise InputError(
                    f"--contrastive_keys student excludes --{name} {values[name]}: it uses neither "
                    "teacher nor queue."
                )
    if values["contrastive_keys"] == "both" and values["gradient_caching"]:
        raise InputError(
            "--contrastive_keys both excludes --gradient_caching: keys of other batches have no "
            "gradient, so the result would differ from one large batch."
        )
    if values["lora_rank"] and values["train_last_k_blocks"] is not None:
        raise InputError("--lora_rank and --train_last_k_blocks exclude one another.")


__all__ = [
    "FREE_ARGUMENTS",
    "DataArguments",
    "ModelArguments",
    "OptimizationArguments",
    "PretrainingArguments",
    "RunArguments",
    "parse_arguments",
    "parse_config_overrides",
]
