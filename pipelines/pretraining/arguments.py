"""What train.py can be told: flags and recipe keys are the same names."""

import copy
import dataclasses
import difflib
import json
import re
import sys
from argparse import ArgumentDefaultsHelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from transformers import HfArgumentParser

from dataset_builders.errors import DatasetError
from dataset_builders.yaml_records import read_layered_yaml

from .errors import InputError

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


EXPONENT_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def _help(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """Which model is trained."""

    _argument_group_name = "model"

    model_name_or_path: str | None = _help(
        None,
        "Folder or Hub id of an UrbanLN model, or of any CLIP checkpoint, whose text positions are "
        "then stretched. Without it a model is trained from scratch, from --config_overrides.",
    )
    config_overrides: str | None = _help(
        None,
        "Fields of UrbanLNConfig: a mapping in a recipe, JSON on the command line. From scratch "
        "they describe the model.",
    )
    position_mode: Literal["ipsi", "resize", "equation2", "midpoint", "none"] = _help(
        "ipsi",
        "How a CLIP checkpoint's text positions are stretched; 'none' cuts texts at 77 tokens.",
    )
    num_preserved_positions: int = _help(20, "First text positions that stretching leaves alone.")
    position_ratio: int = _help(4, "New positions for each later one: 77 become 248.")
    freeze_preserved_positions: bool | None = _help(
        None, "Keep the preserved positions out of training. Default: yes, but not from scratch."
    )
    distillation_weight: float | None = _help(
        None, "mu, weight of the teacher's pseudo-targets (0: plain contrastive). Default: 0.5."
    )
    distillation_warmup_steps: int | None = _help(
        None, "Steps over which mu rises from 0. Default: 0, no ramp."
    )
    momentum: float | None = _help(None, "m of the teacher's moving average. Default: 0.995.")
    queue_size: int | None = _help(
        None, "K, earlier teacher embeddings that serve as keys. Default: 4096."
    )
    contrastive_keys: Literal["teacher", "student"] | None = _help(
        None,
        "'student': CLIP's own loss within the batch, without teacher and queue (implies "
        "--distillation_weight 0 and --queue_size 0). Default: teacher.",
    )
    train_last_k_blocks: int | None = _help(
        None,
        "Train only the last k blocks of each tower, the layers after them, the projections and "
        "the temperature. Default: everything.",
    )
    lora_rank: int = _help(
        0, "Train LoRA adapters of this rank alone (0: none). Published merged, and as adapter/."
    )
    lora_alpha: int = _help(16, "Scale of the LoRA adapters.")
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "v_proj"],
        metadata={"help": "Linear layers that get LoRA adapters."},
    )


@dataclass
class DataArguments:
    """Which image-text pairs are used."""

    _argument_group_name = "data"

    dataset_name: str = _help(
        "", "Folder or Hub id of a dataset: Parquet tables <city>-street_view, <city>-satellite."
    )
    cities: list[str] | None = field(
        default=None, metadata={"help": "Cities to train on. Default: all of the dataset."}
    )
    views: list[str] | None = field(
        default=None,
        metadata={"help": "street_view, satellite or both. Default: those the dataset has."},
    )
    split_column: Literal["split_block", "split_random", "none"] = _help(
        "none",
        "Train on images of the regions this column calls 'train', validate on its 'validation', "
        "leave the rest unseen. 'none': split the images by --validation_split_percentage.",
    )
    validation_split_percentage: float = _help(
        5.0, "Percentage of images for validation, where --split_column is none. 0: none."
    )
    positives: Literal["image", "region"] = _help(
        "image", "Which pairs are positives of one another: the same image, or the same region."
    )
    max_train_samples: int | None = _help(None, "Train on a seeded choice of so many images.")
    max_eval_samples: int | None = _help(None, "Validate on a seeded choice of so many images.")
    caption_sampling: Literal["best", "score", "random"] = _help(
        "best",
        "'best': the caption in the image tables. 'score': one of all kept candidates in the table "
        "<city>-captions, drawn anew every epoch in proportion to their scores. 'random': one of "
        "them, drawn once, each with the same chance, also for validation.",
    )
    shuffle_sentences: bool = _help(
        False, "Draw the order of a caption's sentences anew every epoch (independent sentences)."
    )
    group_by_length: bool = _help(
        True, "Put captions of like length in a batch, so that little is spent on padding."
    )
    pad_to_multiple_of: int | None = _help(
        None, "Round the length of text batches up; 8 suits the tensor cores of GPUs."
    )
    dataloader_num_workers: int = _help(0, "Processes that decode images beside the training.")


@dataclass
class OptimizationArguments:
    """How it is trained."""

    _argument_group_name = "optimisation"

    per_device_train_batch_size: int = _help(32, "Pairs a process takes at a time.")
    per_device_eval_batch_size: int = _help(64, "Images or texts a process embeds at a time.")
    gradient_accumulation_steps: int = _help(1, "Batches to an optimizer step.")
    gradient_caching: bool = _help(
        False,
        "Let the batches of an accumulation see one another's keys: the gradient is exactly that "
        "of one large batch, in the memory of a small one.",
    )
    learning_rate: float = _help(1e-6, "Highest learning rate.")
    weight_decay: float = _help(
        0.01, "AdamW's, not for biases, norms, positions, class embedding and temperature."
    )
    adam_beta1: float = _help(0.9, "AdamW's beta1.")
    adam_beta2: float = _help(0.999, "AdamW's beta2.")
    adam_epsilon: float = _help(1e-8, "AdamW's epsilon.")
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = _help(
        "cosine", "How the rate falls to 0 after the warm-up."
    )
    warmup_steps: int = _help(0, "Steps over which the rate rises from 0.")
    warmup_ratio: float = _help(0.0, "The same as a share of all steps, where warmup_steps is 0.")
    max_grad_norm: float = _help(1.0, "Gradients are clipped to this norm (0: not at all).")
    num_train_epochs: int = _help(3, "Passes over the training images.")
    max_train_steps: int | None = _help(None, "Optimizer steps; wins over num_train_epochs.")
    mixed_precision: Literal["no", "bf16", "fp16"] = _help("no", "Precision of the passes.")
    gradient_checkpointing: bool = _help(False, "Less memory for about a third more time.")
    torch_compile: bool = _help(False, "Compile the towers with torch.compile.")


@dataclass
class RunArguments:
    """Where it goes, and what is written when."""

    _argument_group_name = "run"

    output_dir: str = _help("", "Where everything is written.")
    config: str | None = _help(
        None, "YAML recipe with any of these flags as keys; `base` names one it builds on."
    )
    overwrite_output_dir: bool = _help(
        False, "Start anew, removing the earlier run in OUTPUT_DIR, where it would go on."
    )
    resume_from_checkpoint: str | None = _help(
        None, "A checkpoint-STEP folder. Default: the latest in OUTPUT_DIR, if any."
    )
    seed: int = _help(0, "Of the weights, the splits and the order of the data.")
    logging_steps: int = _help(10, "Log the mean of the losses every so many steps.")
    eval_steps: int | None = _help(
        None, "Measure validation retrieval every so many steps. Default: once an epoch."
    )
    checkpointing_steps: int | None = _help(
        None, "Save the training state every so many steps. Default: once an epoch."
    )
    save_total_limit: int = _help(2, "Training states kept; older ones are removed.")
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={"help": "Trackers of accelerate: tensorboard, wandb, ..., or none."},
    )
    use_cpu: bool = _help(False, "Stay on the CPU where there is an accelerator.")


@dataclass(frozen=True)
class PretrainingArguments:
    """All arguments of a run, checked."""

    model: ModelArguments
    data: DataArguments
    optimization: OptimizationArguments
    run: RunArguments

    def to_dict(self) -> dict[str, Any]:
        """All arguments by their flag names."""
        parts = (self.model, self.data, self.optimization, self.run)
        return {name: value for part in parts for name, value in dataclasses.asdict(part).items()}


def parse_arguments(argv: Sequence[str] | None = None) -> PretrainingArguments:
    """Read flags and the recipe they name.

    Args:
        argv: the command line without the program's name; `sys.argv` where None.

    Raises:
        InputError: an unknown name (with the nearest known one), or an impossible value.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parts = (ModelArguments, DataArguments, OptimizationArguments, RunArguments)
    parser = HfArgumentParser(
        cast(Any, parts),
        usage="python train.py --config RECIPE --dataset_name DIR --output_dir OUT [flags]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.error = _raise_input_error  # type: ignore[method-assign, assignment]
    names = [f.name for part in parts for f in dataclasses.fields(part)]
    recipe = _recipe_flags(_recipe_path(argv), names)
    # flags come last: of two values the parser keeps the later
    *parsed, unknown = parser.parse_args_into_dataclasses(
        recipe + argv, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        raise InputError(f"Unknown argument {unknown[0]!r}.{_nearest(unknown[0], names)}")
    arguments = PretrainingArguments(*parsed)
    _check(arguments)
    return arguments


def parse_config_overrides(text: str | None) -> dict[str, Any]:
    """Read `--config_overrides`, a JSON object.

    Raises:
        InputError: it is none.
    """
    try:
        overrides = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise InputError(f"--config_overrides is not valid JSON: {error}.") from error
    if not isinstance(overrides, dict):
        raise InputError(f"--config_overrides must be a JSON object, got {text}.")
    return overrides


def _read_numbers(value: Any) -> Any:
    """YAML reads 1e-7 as text; this reads it as a number, also inside mappings and lists."""
    if isinstance(value, dict):
        return {key: _read_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_read_numbers(item) for item in value]
    if isinstance(value, str) and EXPONENT_NUMBER.fullmatch(value):
        return float(value)
    return value


class _HelpFormatter(ArgumentDefaultsHelpFormatter):
    """Defaults in the help, except where they say nothing; description and epilog as written."""

    def _get_help_string(self, action: Any) -> str | None:
        if action.default in (None, "", False) or "efault" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)

    def _format_action_invocation(self, action: Any) -> str:
        """One spelling of each flag: the parser also takes hyphens for underscores."""
        shown = copy.copy(action)
        shown.option_strings = action.option_strings[:1]
        return super()._format_action_invocation(shown)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


def _raise_input_error(message: str) -> None:
    raise InputError(message[0].upper() + message[1:] + ". `python train.py --help` lists all.")


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name.lstrip("-").replace("-", "_"), names, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else " `python train.py --help` lists all."


def _recipe_path(argv: Sequence[str]) -> Path | None:
    for index, item in enumerate(argv):
        if item == "--config" and index + 1 < len(argv):
            return Path(argv[index + 1])
        if item.startswith("--config="):
            return Path(item.partition("=")[2])
    return None


def _recipe_flags(path: Path | None, names: Sequence[str]) -> list[str]:
    """The recipe as flags, so that both pass through the same checks (YAML reads 1e-7 as text)."""
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
        if key not in names or key == "config":
            raise InputError(f"{path}: unknown key {key!r}.{_nearest(str(key), names)}")
        if value is None or value == []:
            continue
        flags.append(f"--{key}")
        if isinstance(value, dict):
            flags.append(json.dumps(_read_numbers(value)))
        elif isinstance(value, list):
            flags.extend(str(item) for item in value)
        else:
            flags.append(str(value))
    return flags


def _check(arguments: PretrainingArguments) -> None:
    values = arguments.to_dict()
    for name in ("dataset_name", "output_dir"):
        if not values[name]:
            raise InputError(f"--{name} is missing.")
    if not values["model_name_or_path"] and not values["config_overrides"]:
        raise InputError(
            "Nothing to train: give --model_name_or_path (an UrbanLN or CLIP checkpoint), or "
            "--config_overrides to train from scratch."
        )
    at_least = {
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1,
        "max_train_steps": 1,
        "logging_steps": 1,
        "eval_steps": 1,
        "checkpointing_steps": 1,
        "save_total_limit": 1,
        "max_train_samples": 1,
        "max_eval_samples": 2,
        "pad_to_multiple_of": 1,
        "learning_rate": 0,
        "weight_decay": 0,
        "warmup_steps": 0,
        "max_grad_norm": 0,
        "dataloader_num_workers": 0,
        "lora_rank": 0,
        "train_last_k_blocks": 0,
        "seed": 0,
    }
    for name, least in at_least.items():
        if values[name] is not None and values[name] < least:
            raise InputError(f"--{name} must be at least {least}, got {values[name]}.")
    if not 0 <= values["validation_split_percentage"] < 100:
        raise InputError(
            "--validation_split_percentage must lie in [0, 100), got "
            f"{values['validation_split_percentage']}."
        )
    if not 0 <= values["warmup_ratio"] <= 1:
        raise InputError(f"--warmup_ratio must lie in [0, 1], got {values['warmup_ratio']}.")
    if values["contrastive_keys"] == "student":
        _check_student_keys(values)
    if values["lora_rank"] and values["train_last_k_blocks"] is not None:
        raise InputError("--lora_rank and --train_last_k_blocks exclude one another.")


def _check_student_keys(values: Mapping[str, Any]) -> None:
    for name in ("distillation_weight", "queue_size", "gradient_caching"):
        if values[name]:
            raise InputError(
                f"--contrastive_keys student excludes --{name} {values[name]}: there is no teacher "
                "and no key beyond the batch."
            )


__all__ = [
    "DataArguments",
    "ModelArguments",
    "OptimizationArguments",
    "PretrainingArguments",
    "RunArguments",
    "parse_arguments",
    "parse_config_overrides",
]
