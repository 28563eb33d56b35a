"""Training checkpoints and published models.

All writes are atomic: folders are written under a name that starts with `.tmp-` and then renamed,
files by [`atomic_path`].
"""

import json
import os
import random
import re
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import logging as transformers_logging

from dataset_builders.files import (
    atomic_path,
    contents,
    file_sha256,
    read_json,
    verified,
    write_state,
)
from modeling_urbanln import UrbanLNForPreTraining, UrbanLNProcessor

from ..common.errors import InputError
from .arguments import ModelArguments
from .model import merge_lora, save_lora

CHECKSUMS = "sha256"  # key of the state file
STATE_FILE, ARGUMENTS_FILE = "trainer_state.json", "train_arguments.yaml"
METRICS_FILE = "metrics.jsonl"
WEIGHTS_FILE, OPTIMIZER_FILE, SCALER_FILE = (
    "training_model.safetensors",
    "optimizer.pt",
    "scaler.pt",
)
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
PUBLISHED_FILE = ".urbanln-published.json"  # step and checksums of the best model
TEMPORARY = ".tmp-"
OWN_FILES = (
    METRICS_FILE,
    PUBLISHED_FILE,
    "rejects.parquet",
    "pairs.parquet",
    "training_summary.json",
    "model.safetensors",
)
OWN_FOLDERS = ("last", "adapter", "logs/urbanln")


@dataclass
class TrainingState:
    """State that all processes share, except weights and optimizer.

    Attributes:
        step: Number of completed steps.
        best_step: Step of the best model, None before the first.
        best_metric: Validation retrieval of the best model.
        seconds: Training time so far.
        identity: Settings and data that must not change when a run is resumed.
    """

    step: int
    best_step: int | None
    best_metric: float | None
    seconds: float
    identity: dict[str, Any]


NAMES = {field.name for field in fields(TrainingState)}


def check_output_dir(output_dir: Path) -> None:
    """Raise an error if the output folder is not empty and contains no run.

    Raises:
        InputError: If the folder contains other files, which a run could overwrite.
    """
    if not output_dir.exists() or (output_dir / ARGUMENTS_FILE).is_file():
        return
    others = [path for path in contents(output_dir) if not path.name.startswith(TEMPORARY)]
    if not output_dir.is_dir() or others:
        raise InputError(
            f"--output_dir {output_dir} is not empty and contains no run of train.py (no "
            f"{ARGUMENTS_FILE}): pass a new folder, so that no files are overwritten."
        )


def remove_unfinished(output_dir: Path) -> None:
    """Remove temporary files of a killed run."""
    for path in output_dir.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_run(output_dir: Path) -> None:
    """Remove the files of an earlier run, and no others."""
    for folder in [*find_checkpoints(output_dir), *(output_dir / name for name in OWN_FOLDERS)]:
        shutil.rmtree(folder, ignore_errors=True)
    for name in OWN_FILES:
        (output_dir / name).unlink(missing_ok=True)


# ---- training states ------------------------------------------------------------------------


def find_checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [
        (int(match[1]), path)
        for path in (output_dir.iterdir() if output_dir.is_dir() else ())
        if (match := CHECKPOINT_NAME.fullmatch(path.name)) and (path / STATE_FILE).is_file()
    ]
    return [path for _, path in sorted(found)]


def save_checkpoint(
    output_dir: Path,
    state: TrainingState,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Any,
    sums: dict[str, torch.Tensor],
    limit: int,
) -> None:
    """Save a checkpoint, in all processes, and keep the latest `limit`.

    `sums` are those of the losses of this process that are not logged yet.
    """
    folder = output_dir / f"checkpoint-{state.step}"
    temporary = folder.with_name(TEMPORARY + folder.name)
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(tensors, temporary / WEIGHTS_FILE)
        torch.save(optimizer.state_dict(), temporary / OPTIMIZER_FILE)
        if accelerator.scaler is not None:
            torch.save(accelerator.scaler.state_dict(), temporary / SCALER_FILE)
        if (output_dir / METRICS_FILE).exists():
            shutil.copyfile(output_dir / METRICS_FILE, temporary / METRICS_FILE)
    accelerator.wait_for_everyone()
    save_process_state(temporary, accelerator.process_index, sums)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        files = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
        write_state(temporary / STATE_FILE, {**vars(state), CHECKSUMS: files})
        swap_in(temporary, folder)
        for old in find_checkpoints(output_dir)[:-limit]:
            gone = old.with_name(f"{TEMPORARY}old-{old.name}")
            old.replace(gone)  # a partly removed checkpoint could look complete
            shutil.rmtree(gone)
    accelerator.wait_for_everyone()


def load_checkpoint(
    folder: Path, accelerator: Accelerator, model: nn.Module, optimizer: Any
) -> dict[str, torch.Tensor]:
    """Load all but the shared state, restore the random states and return the sums."""
    model.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=True)
    optimizer.load_state_dict(_load(folder / OPTIMIZER_FILE))
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(_load(folder / SCALER_FILE))
    return load_process_state(folder, accelerator.process_index)


def save_process_state(folder: Path, rank: int, sums: dict[str, torch.Tensor]) -> None:
    """Save the random states of a process and its sums of losses not logged yet."""
    numpy_state: Any = np.random.get_state(legacy=True)
    version, keys, position, has_gauss, gauss = numpy_state
    state = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [version, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": random.getstate(),
        "sums": {name: value.cpu() for name, value in sums.items()},
    }
    torch.save(state, folder / f"process-{rank}.pt")


def load_process_state(folder: Path, rank: int) -> dict[str, torch.Tensor]:
    """Restore the random states of a process and return its sums."""
    state = _load(folder / f"process-{rank}.pt")
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((version, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    random.setstate(state["python"])
    sums: dict[str, torch.Tensor] = state["sums"]
    return sums


def load_state(folder: Path) -> TrainingState:
    """Load the shared state.

    Raises:
        InputError: If `folder` is not a complete checkpoint, or one of its files is damaged.
    """
    if not (folder / STATE_FILE).is_file():
        raise InputError(f"{folder} is not a complete training checkpoint: no {STATE_FILE}.")
    if damaged := find_damage(folder):
        raise InputError(
            f"The training checkpoint {folder} is damaged ({damaged}): pass another one by "
            "--resume_from_checkpoint."
        )
    values = verified(json.loads((folder / STATE_FILE).read_text(encoding="utf-8")))
    return TrainingState(**{name: values[name] for name in NAMES})


def find_damage(folder: Path) -> str:
    """Name the first missing or altered file of a checkpoint; empty if there is none."""
    try:
        values = verified(json.loads((folder / STATE_FILE).read_text(encoding="utf-8")))
        if set(values) != {*NAMES, CHECKSUMS}:
            return STATE_FILE
        files = values[CHECKSUMS].items()
        return next((n for n, known in files if file_sha256(folder / n) != known), "")
    except (OSError, ValueError, AttributeError) as error:
        name = Path(getattr(error, "filename", None) or STATE_FILE).name
        return f"{name}: {type(error).__name__}"


def set_damaged_aside(output_dir: Path) -> list[Path]:
    """Rename damaged checkpoints, from the latest to the first intact one.

    Returns:
        Their new paths, `damaged-checkpoint-<step>`.
    """
    renamed = []
    for folder in reversed(find_checkpoints(output_dir)):
        if not find_damage(folder):
            break
        aside = folder.with_name(f"damaged-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        renamed.append(folder.rename(aside))
    return renamed


def check_identity(saved: dict[str, Any], current: dict[str, Any], folder: Path) -> None:
    """Raise an error if settings or data differ from those of a checkpoint.

    Raises:
        InputError: If they differ; the message lists the differences.
    """
    current = json.loads(json.dumps(current))
    differences = [
        f"{name} was {saved.get(name)!r} and is {current.get(name)!r}"
        for name in sorted({*saved, *current})
        if saved.get(name) != current.get(name)
    ]
    if differences:
        raise InputError(
            f"{folder} belongs to another run: {'; '.join(differences)}. Resume with the same "
            "settings, start a new run with --overwrite_output_dir or another --output_dir, or "
            "start from its weights with --model_name_or_path."
        )


# ---- published models -----------------------------------------------------------------------


def save_model(
    folder: Path, model: UrbanLNForPreTraining, processor: UrbanLNProcessor, args: ModelArguments
) -> None:
    """Save the model to publish: weights with LoRA merged, configuration, processor and code."""
    base = model.to_base()
    transformers_logging.disable_progress_bar()  # of shards
    if args.lora_rank:
        base.save_pretrained(folder, state_dict=merge_lora(base))
        save_lora(base, args, folder / "adapter")
    else:
        base.save_pretrained(folder)
    tokenizer: Any = processor.tokenizer
    # calls of the tokenizer change its truncation, which tokenizer.json stores
    tokenizer.backend_tokenizer.enable_truncation(tokenizer.model_max_length)
    processor.save_pretrained(folder)
    transformers_logging.enable_progress_bar()


def publish(
    output_dir: Path,
    model: UrbanLNForPreTraining,
    processor: UrbanLNProcessor,
    args: ModelArguments,
    step: int,
) -> None:
    """Save the model in `output_dir`, replacing each file atomically, the weights last."""
    temporary = output_dir / f"{TEMPORARY}best"
    shutil.rmtree(temporary, ignore_errors=True)
    save_model(temporary, model, processor, args)
    _sync_to_disk(temporary)
    files = {
        path.relative_to(temporary).as_posix(): file_sha256(path)
        for path in temporary.rglob("*")
        if path.is_file()
    }
    write_state(output_dir / PUBLISHED_FILE, {"step": step, CHECKSUMS: files})
    for path in sorted(temporary.iterdir(), key=lambda path: path.suffix == ".safetensors"):
        if path.is_dir():
            swap_in(path, output_dir / path.name)
        else:
            path.replace(output_dir / path.name)
    temporary.rmdir()


def mend_published(output_dir: Path, best_step: int | None) -> Path | None:
    """Replace damaged files of the best model by equal ones in last/.

    A published model of another step than `best_step` is ignored: its run was killed before the
    next checkpoint and will publish it again.

    Returns:
        Checkpoint to publish the weights from, if they are damaged.

    Raises:
        InputError: If they are damaged and there is no such checkpoint.
    """
    known = read_json(output_dir / PUBLISHED_FILE) or {}
    if best_step is None or known.get("step") != best_step:
        return None
    damaged = ""
    for name, sha256 in known[CHECKSUMS].items():
        path, last = output_dir / name, output_dir / "last" / name
        if path.is_file() and file_sha256(path) == sha256:
            continue
        if last.is_file() and file_sha256(last) == sha256:
            with atomic_path(path) as temporary:
                shutil.copyfile(last, temporary)
        else:
            damaged = name
    if not damaged:
        return None
    folder = output_dir / f"checkpoint-{best_step}"
    if find_damage(folder):
        raise InputError(
            f"{output_dir / damaged} of the best model (step {best_step}) is damaged or missing, "
            f"and so is {folder}. Restore one of them, delete {PUBLISHED_FILE} to continue without "
            "it (the last model is in last/), or start a new run with --overwrite_output_dir."
        )
    return folder


def save_last(
    output_dir: Path,
    model: UrbanLNForPreTraining,
    processor: UrbanLNProcessor,
    args: ModelArguments,
) -> None:
    """Save the model in last/, replacing an earlier one at once."""
    temporary = output_dir / f"{TEMPORARY}last"
    shutil.rmtree(temporary, ignore_errors=True)
    save_model(temporary, model, processor, args)
    swap_in(temporary, output_dir / "last")


def swap_in(temporary: Path, folder: Path) -> None:
    """Rename a complete temporary folder, replacing an earlier one."""
    _sync_to_disk(temporary)
    old = folder.with_name(f"{TEMPORARY}old-{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    temporary.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _sync_to_disk(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


__all__ = [
    "TrainingState",
    "check_identity",
    "check_output_dir",
    "find_checkpoints",
    "find_damage",
    "load_checkpoint",
    "load_process_state",
    "load_state",
    "mend_published",
    "publish",
    "remove_run",
    "remove_unfinished",
    "save_checkpoint",
    "save_last",
    "save_model",
    "save_process_state",
    "set_damaged_aside",
]
