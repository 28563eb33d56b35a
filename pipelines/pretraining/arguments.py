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
Pretrain UrbanLN on image-text pairs of a city: CLIP with long text (248 tokens) and
momentum self-distillation.

examples:
  python train.py --config configs/quickstart.yaml --dataset_name DIR --output_dir runs/quickstart
  accelerate launch train.py --config configs/vitb16.yaml --dataset_name DIR --output_dir runs/b16
  torchrun --nproc_per_node 8 train.py --config configs/paper.yaml --dataset_name DIR ...

A recipe is a YAML file whose keys are the flags below without their dashes; flags win over it.
The same command run again goes on where the run was stopped, to the same result.
"""
EPILOG = """\
In OUTPUT_DIR: the best model by validation retrieval, ready for AutoModel.from_pretrained; last/,
that of the last step; checkpoint-STEP/, the training state; metrics.jsonl; rejects.parquet, what
was left out and why; training_summary.json; train_arguments.yaml, this run as a recipe.
"""


PROGRAM = "python train.py"
EXPONENT_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


@dataclass
class ModelArguments:
    """Model architecture, initialisation and objective."""

    model_name_or_path: str | None = argument(
        None,
        "Folder or Hub id of an UrbanLN model, or of any CLIP or SigLIP 2 checkpoint of a fixed "
        "resolution, whose text positions are then stretched. Without it a model is trained from "
        "scratch, from --config_overrides.",
    )
    config_overrides: str | None = argument(
        None,
        "Fields of UrbanLNConfig: a mapping in a recipe, JSON on the command line. From scratch "
        "they describe the model.",
    )
    position_mode: Literal["ipsi", "resize", "equation2", "midpoint", "none"] = argument(
        "ipsi",
        "How a checkpoint's text positions are stretched; 'none' cuts texts at CLIP's 77 tokens or "
        "SigLIP's 64.",
    )
    num_preserved_positions: int = argument(
        20, "First text positions that stretching leaves alone."
    )
    position_ratio: int = argument(
        4, "New positions for each later one: 77 become 248, 64 become 196."
    )
    freeze_preserved_positions: bool | None = argument(
        None, "Keep the preserved positions out of training. Default: yes, but not from scratch."
    )
    distillation_weight: float | None = argument(
        None, "mu, weight of the teacher's pseudo-targets (0: plain contrastive). Default: 0.5."
    )
    distillation_warmup_steps: int | None = argument(
        None, "Steps over which mu rises from 0. Default: 0, no ramp."
    )
    momentum: float | None = argument(None, "m of the teacher's moving average. Default: 0.995.")
    queue_size: int | None = argument(
        None, "K, earlier teacher embeddings that serve as keys. Default: 4096."
    )
    contrastive_keys: Literal["teacher", "both", "student"] | None = argument(
        None,
        "'teacher': the paper's, keys without gradient. 'both': the student's of the batch, with "
        "gradient, and the teacher's of the queue. 'student': CLIP's own loss within the batch, "
        "without teacher and queue (implies --distillation_weight 0 and --queue_size 0). "
        "Default: teacher.",
    )
    train_last_k_blocks: int | None = argument(
        None,
        "Train only the last k blocks of each tower, the layers after them, the projections and "
        "the temperature. Default: everything.",
        least=0,
    )
    lora_rank: int = argument(
        0,
        "Train LoRA adapters of this rank alone (0: none). Published merged, and as adapter/.",
        least=0,
    )
    lora_alpha: int = argument(16, "Scale of the LoRA adapters.")
    lora_target_modules: list[str] = argument(
        ["q_proj", "v_proj"], "Linear layers that get LoRA adapters."
    )


@dataclass
class DataArguments:
    """Selection and preprocessing of image-text pairs."""

    dataset_name: str = argument(
        "", "Folder or Hub id of a dataset: Parquet tables <city>-street_view, <city>-satellite."
    )
    cities: list[str] | None = argument(None, "Cities to train on. Default: all of the dataset.")
    views: list[str] | None = argument(
        None, "street_view, satellite or both. Default: those the dataset has."
    )
    split_column: Literal["split_block", "split_random", "none"] = argument(
        "none",
        "Train on images of the regions this column calls 'train', validate on its 'validation', "
        "leave the rest unseen. 'none': split the images by --validation_split_percentage.",
    )
    validation_split_percentage: float = argument(
        5.0, "Percentage of images for validation, where --split_column is none. 0: none."
    )
    positives: Literal["image", "region"] = argument(
        "image", "Which pairs are positives of one another: the same image, or the same region."
    )
    max_train_samples: int | None = argument(
        None, "Train on a seeded choice of so many images.", least=1
    )
    max_eval_samples: int | None = argument(
        None, "Validate on a seeded choice of so many images.", least=2
    )
    caption_sampling: Literal["best", "score", "random"] = argument(
        "best",
        "'best': the caption in the image tables. 'score': one of all kept candidates in the table "
        "<city>-captions, drawn anew every epoch in proportion to their scores. 'random': one of "
        "them, drawn once, each with the same chance, also for validation.",
    )
    shuffle_sentences: bool = argument(
        False, "Draw the order of a caption's sentences anew every epoch (independent sentences)."
    )
    short_caption_probability: float = argument(
        0.0,
        "Chance that one sentence of a caption, drawn anew every epoch, replaces it; keeps "
        "the model good at short texts such as search queries.",
    )
    group_by_length: bool = argument(
        True, "Put captions of like length in a batch, so that little is spent on padding."
    )
    pad_to_multiple_of: int | None = argument(
        None, "Round the length of text batches up; 8 suits the tensor cores of GPUs.", least=1
    )
    dataloader_num_workers: int = argument(
        0, "Processes that decode images beside the training.", least=0
    )


@dataclass
class OptimizationArguments:
    """Optimization."""

    per_device_train_batch_size: int = argument(32, "Pairs a process takes at a time.", least=1)
    per_device_eval_batch_size: int = argument(
        64, "Images or texts a process embeds at a time.", least=1
    )
    gradient_accumulation_steps: int = argument(1, "Batches to an optimizer step.", least=1)
    gradient_caching: bool = argument(
        False,
        "Let the batches of an accumulation see one another's keys: the gradient is exactly that "
        "of one large batch, in the memory of a small one.",
    )
    learning_rate: float = argument(1e-6, "Highest learning rate.", least=0)
    weight_decay: float = argument(
        0.01, "AdamW's, not for biases, norms, positions, class embedding and temperature.", least=0
    )
    adam_beta1: float = argument(0.9, "AdamW's beta1.")
    adam_beta2: float = argument(0.999, "AdamW's beta2.")
    adam_epsilon: float = argument(1e-8, "AdamW's epsilon.")
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = argument(
        "cosine", "How the rate falls to 0 after the warm-up."
    )
    warmup_steps: int = argument(0, "Steps over which the rate rises from 0.", least=0)
    warmup_ratio: float = argument(
        0.0, "The same as a share of all steps, where warmup_steps is 0."
    )
    max_grad_norm: float = argument(
        1.0, "Gradients are clipped to this norm (0: not at all).", least=0
    )
    num_train_epochs: int = argument(3, "Passes over the training images.", least=1)
    max_train_steps: int | None = argument(
        None, "Optimizer steps; wins over num_train_epochs.", least=1
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = argument("no", "Precision of the passes.")
    gradient_checkpointing: bool = argument(False, "Less memory for about a third more time.")
    torch_compile: bool = argument(False, "Compile the towers with torch.compile.")


@dataclass
class RunArguments:
    """Output, logging and checkpoints."""

    output_dir: str = argument("", "Where everything is written.")
    config: str | None = argument(
        None, "YAML recipe with any of these flags as keys; `base` names one it builds on."
    )
    overwrite_output_dir: bool = argument(
        False, "Start anew, removing the earlier run in OUTPUT_DIR, where it would go on."
    )
    resume_from_checkpoint: str | None = argument(
        None, "A checkpoint-STEP folder. Default: the latest in OUTPUT_DIR, if any."
    )
    seed: int = argument(0, "Of the weights, the splits and the order of the data.", least=0)
    logging_steps: int = argument(10, "Log the mean of the losses every so many steps.", least=1)
    eval_steps: int | None = argument(
        None, "Measure validation retrieval every so many steps. Default: once an epoch.", least=1
    )
    checkpointing_steps: int | None = argument(
        None, "Save the training state every so many steps. Default: once an epoch.", least=1
    )
    save_total_limit: int = argument(2, "Training states kept; older ones are removed.", least=1)
    report_to: list[str] = argument(
        ["none"], "Trackers of accelerate: tensorboard, wandb, ..., or none."
    )
    use_cpu: bool = argument(False, "Stay on the CPU where there is an accelerator.")


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
            "Nothing to train: give --model_name_or_path (a checkpoint of UrbanLN, CLIP or SigLIP "
            "2), or --config_overrides to train from scratch."
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
                    f"--contrastive_keys student excludes --{name} {values[name]}: there is no "
                    "teacher and no key beyond the batch."
                )
    if values["contrastive_keys"] == "both" and values["gradient_caching"]:
        raise InputError(
            "--contrastive_keys both excludes --gradient_caching: the keys of the other batches "
            "would carry no gradient, and the result would not be that of one large batch."
        )
    if values["lora_rank"] and values["train_last_k_blocks"] is not None:
        raise InputError("--lora_rank and --train_last_k_blocks exclude one another.")


__all__ = [
    "DataArguments",
    "ModelArguments",
    "OptimizationArguments",
    "PretrainingArguments",
    "RunArguments",
    "parse_arguments",
    "parse_config_overrides",
]
