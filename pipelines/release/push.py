"""To the Hub: a model, an adapter or a Space, each in one commit; datasets by their own gate.

Cards are written in a temporary folder: a push, dry or not, leaves the folder it reads as it is.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, HfApi

from dataset_builders.errors import DatasetError
from dataset_builders.hub_errors import explain
from dataset_builders.publish import files_of
from dataset_builders.publish import push as push_published

from ..common.errors import InputError
from .adapter import ADAPTER_FILES, ADAPTER_FOLDER, write_adapter_card
from .model_card import CARD_FILE, write_model_card
from .runs import read_run

# what a user of the model needs; checkpoints, pairs and ledgers of the training stay at home
PUBLISHED = (
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "*.py",
    "training_summary.json",
    "train_arguments.yaml",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "figures/*.png",
    "onnx/*.onnx",
    "openvino/*",
    "export.json",
)


# these name folders of the machine that trained
WITH_PATHS = ("training_summary.json", "train_arguments.yaml", "adapter/adapter_config.json")


@dataclass(frozen=True)
class Pushed:
    """What was pushed, or would be.

    Attributes:
        repo_id: "org/name".
        files: path and size in bytes of each.
        card: the text of README.md.
        commit: its address; None for a dry run.
    """

    repo_id: str
    files: tuple[tuple[str, int], ...]
    card: str
    commit: str | None = None

    def __str__(self) -> str:
        lines = [f"{size:>14,}  {path}" for path, size in self.files]
        total = sum(size for _, size in self.files)
        lines.append(f"{total:>14,}  bytes in {len(self.files)} files to {self.repo_id}")
        if self.commit is None:
            lines = [self.card, *lines, "Nothing was sent."]
        else:
            lines.append(f"Commit: {self.commit}")
        return "\n".join(lines)


def push_model(
    folder: str | Path,
    repo_id: str,
    *,
    results: str | Path | None = None,
    system: str | None = None,
    private: bool = False,
    tag: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Push a model, in one commit: the Hub has it whole or not at all.

    The card is written anew from the run; a README.md in the folder is neither sent nor changed.
    Large files go first and are not sent twice, so the same call after an interruption goes on.

    Args:
        folder: that `train.py` wrote.
        repo_id: "org/name"; made if need be.
        results: the `--output_dir` of `evaluate.py probe` and `report`, for the card.
        system: label of the model in the results.
        private: of a repository that is made.
        tag: name for the commit.
        message: of the commit.
        dry_run: list the files, send nothing.

    Raises:
        InputError: no finished model, scores without controls, or an answer of the Hub that
            cannot be mended here; says what to do, and never the token.
    """
    root = Path(folder)
    with tempfile.TemporaryDirectory() as name:
        card = write_model_card(read_run(root, results, system), repo_id, Path(name)).parent
        for file in WITH_PATHS:
            _copy_without_paths(root / file, card / file)
        files = {
            path.relative_to(one).as_posix(): path
            for one in (root, card)
            for path in published_files(one)
        }
        return push_files(
            files,
            repo_id,
            private=private,
            tag=tag,
            message=message or "Upload UrbanLN",
            dry_run=dry_run,
        )


def push_adapter(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    tag: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Push the LoRA adapter of a training alone, as `PeftModel.from_pretrained` takes it.

    Args:
        folder: that `train.py --lora_rank` wrote.
        repo_id: see [`push_model`], as the others.
        private: likewise.
        tag: likewise.
        message: likewise.
        dry_run: likewise.

    Raises:
        InputError: there is no adapter, or the Hub refuses.
    """
    root = Path(folder)
    with tempfile.TemporaryDirectory() as name:
        card = Path(name) / CARD_FILE
        write_adapter_card(root, repo_id, card)
        files = {CARD_FILE: card, **{one: root / ADAPTER_FOLDER / one for one in ADAPTER_FILES}}
        config = ADAPTER_FILES[0]
        files[config] = _copy_without_paths(files[config], Path(name) / config)
        return push_files(
            files,
            repo_id,
            private=private,
            tag=tag,
            message=message or "Upload an UrbanLN adapter",
            dry_run=dry_run,
        )


def push_dataset(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    tag: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Push a published dataset, past its licence gate.

    Args:
        folder: that `python -m dataset_builders publish` wrote.
        repo_id: see [`push_model`], as the others.
        private: likewise.
        tag: likewise.
        message: likewise.
        dry_run: likewise.

    Raises:
        InputError: the folder did not pass the gate, or the Hub refuses.
    """
    root = Path(folder)
    try:
        commit = push_published(
            root,
            repo_id,
            private=private,
            tag=tag,
            message=message or "Upload the dataset",
            dry_run=dry_run,
        )
    except DatasetError as error:
        raise InputError(str(error)) from error
    card = (root / CARD_FILE).read_text(encoding="utf-8")
    return Pushed(repo_id, tuple(files_of(root)), card, commit)


def push_files(
    files: Mapping[str, Path],
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool = False,
    tag: str | None = None,
    message: str,
    dry_run: bool = False,
) -> Pushed:
    """Push files in one commit.

    Args:
        files: by name in the repository; README.md is the card.
        repo_id: see [`push_model`], as the others.
        repo_type: "model" or "space".
        private: of a repository that is made.
        tag: name for the commit.
        message: of the commit.
        dry_run: send nothing.

    Raises:
        InputError: the Hub refuses.
    """
    sizes = tuple((name, path.stat().st_size) for name, path in sorted(files.items()))
    card = files[CARD_FILE].read_text(encoding="utf-8")
    if dry_run:
        return Pushed(repo_id, sizes, card)
    api, sdk = HfApi(), "gradio" if repo_type == "space" else None
    try:
        operations = [CommitOperationAdd(name, path) for name, path in sorted(files.items())]
        api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk)
        commit = api.create_commit(repo_id, operations, repo_type=repo_type, commit_message=message)
        if tag is not None:
            api.create_tag(repo_id, tag=tag, repo_type=repo_type, exist_ok=True)
    except Exception as error:
        said = explain(error, repo_id)
        if said is None:
            raise
        raise InputError(said) from error
    return Pushed(repo_id, sizes, card, commit.commit_url)


def _copy_without_paths(source: Path, target: Path) -> Path:
    """A copy of a JSON or YAML file in which paths of this machine are folder names."""
    if source.is_file():
        values = yaml.safe_load(source.read_text(encoding="utf-8"))
        shown = {key: _without_path(value) for key, value in values.items()}
        is_yaml = source.suffix == ".yaml"
        text = yaml.safe_dump(shown, sort_keys=False) if is_yaml else json.dumps(shown, indent=2)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return target


def _without_path(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_path(one) for one in value]
    is_path = isinstance(value, str) and (os.path.isabs(value) or os.path.exists(value))
    return Path(value).name if is_path else value


def published_files(root: Path) -> list[Path]:
    """The files of a model's folder that are published, sorted; no pickle is ever among them."""
    found = {path for pattern in PUBLISHED for path in root.glob(pattern) if path.is_file()}
    return sorted(found)


__all__ = [
    "CARD_FILE",
    "Pushed",
    "published_files",
    "push_adapter",
    "push_dataset",
    "push_files",
    "push_model",
]
