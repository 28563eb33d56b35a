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
from dataset_builders.hub_errors import AGAIN, explain
from dataset_builders.publish import files_of
from dataset_builders.publish import push as push_published
from dataset_builders.yaml_records import read_yaml

from ..common.errors import InputError
from .model_card import (
    ADAPTER_FILES,
    ADAPTER_FOLDER,
    CARD_FILE,
    write_adapter_card,
    write_model_card,
)
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
class Destination:
    """A repository of the Hub, and how to push to it.

    Attributes:
        repo_id: "org/name"; created if necessary.
        private: Create it as a private repository.
        tag: Name for the commit, such as "v1".
        message: Commit message; a default by what is pushed.
        dry_run: List the files and send nothing.
    """

    repo_id: str
    private: bool = False
    tag: str | None = None
    message: str | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Pushed:
    """What was pushed, or would be.

    Attributes:
        repo_id: "org/name".
        files: Path and size in bytes of each file.
        card: Text of README.md.
        commit: Address of the commit; None for a dry run.
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
    to: Destination,
    results: str | Path | None = None,
    system: str | None = None,
) -> Pushed:
    """Push a model in one commit: the Hub has all of it or nothing.

    The card is written anew from the run; a README.md in the folder is neither sent nor changed.
    Large files go first and are not sent twice, so an interrupted call can be repeated.

    Args:
        folder: Output folder of `train.py`.
        to: Where to push.
        results: The `--output_dir` of `evaluate.py probe` and `report`, for the card.
        system: Label of the model in the results.

    Raises:
        InputError: There is no finished model, scores lack their controls, or the Hub refuses;
            the message says what to do, and never the token.
    """
    root = Path(folder)
    with tempfile.TemporaryDirectory() as name:
        card = write_model_card(read_run(root, results, system), to.repo_id, Path(name)).parent
        for file in WITH_PATHS:
            _copy_without_paths(root / file, card / file)
        files = {
            path.relative_to(one).as_posix(): path
            for one in (root, card)
            for path in published_files(one)
        }
        return push_files(files, to, "Upload UrbanLN")


def push_adapter(folder: str | Path, to: Destination) -> Pushed:
    """Push the LoRA adapter of a training alone, for `PeftModel.from_pretrained`.

    Args:
        folder: Output folder of `train.py --lora_rank`.
        to: Where to push.

    Raises:
        InputError: There is no adapter, or the Hub refuses.
    """
    root = Path(folder)
    with tempfile.TemporaryDirectory() as name:
        card = Path(name) / CARD_FILE
        write_adapter_card(root, to.repo_id, card)
        files = {CARD_FILE: card, **{one: root / ADAPTER_FOLDER / one for one in ADAPTER_FILES}}
        config = ADAPTER_FILES[0]
        files[config] = _copy_without_paths(files[config], Path(name) / config)
        return push_files(files, to, "Upload an UrbanLN adapter")


def push_dataset(folder: str | Path, to: Destination) -> Pushed:
    """Push a published dataset, which has passed its licence gate.

    Args:
        folder: Output folder of `python -m dataset_builders publish`.
        to: Where to push.

    Raises:
        InputError: The folder did not pass the gate, or the Hub refuses.
    """
    root = Path(folder)
    try:
        commit = push_published(
            root,
            to.repo_id,
            private=to.private,
            tag=to.tag,
            message=to.message or "Upload the dataset",
            dry_run=to.dry_run,
        )
    except DatasetError as error:
        raise InputError(str(error)) from error
    card = (root / CARD_FILE).read_text(encoding="utf-8")
    return Pushed(to.repo_id, tuple(files_of(root)), card, commit)


def push_files(
    files: Mapping[str, Path], to: Destination, message: str, repo_type: str = "model"
) -> Pushed:
    """Push files in one commit.

    Args:
        files: Files by name in the repository; README.md is the card.
        to: Where to push.
        message: Commit message if the destination has none.
        repo_type: "model" or "space".

    Raises:
        InputError: The Hub refuses.
    """
    sizes = tuple((name, path.stat().st_size) for name, path in sorted(files.items()))
    card = files[CARD_FILE].read_text(encoding="utf-8")
    if to.dry_run:
        return Pushed(to.repo_id, sizes, card)
    api, sdk = HfApi(), "gradio" if repo_type == "space" else None
    kind: dict[str, Any] = {"repo_id": to.repo_id, "repo_type": repo_type}
    try:
        operations = [CommitOperationAdd(name, path) for name, path in sorted(files.items())]
        api.create_repo(**kind, private=to.private, exist_ok=True, space_sdk=sdk)
        commit = api.create_commit(
            **kind, operations=operations, commit_message=to.message or message
        )
        if to.tag is not None:
            api.create_tag(**kind, tag=to.tag, exist_ok=True)
    except Exception as error:
        said = explain(error, to.repo_id)
        if said is None:
            raise
        failure = InputError(said)
        failure.exit_code = 1 if said.endswith(AGAIN) else 2
        raise failure from error
    return Pushed(to.repo_id, sizes, card, commit.commit_url)


def _copy_without_paths(source: Path, target: Path) -> Path:
    """A copy of a JSON or YAML file in which paths of this machine are folder names."""
    if source.is_file():
        values = read_yaml(source)
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
    "Destination",
    "Pushed",
    "published_files",
    "push_adapter",
    "push_dataset",
    "push_files",
    "push_model",
]
