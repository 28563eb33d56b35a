"""Push models, adapters, datasets and Spaces to the Hub, each in one commit.

Cards are written to a temporary folder, so that a push does not change the source folder.
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

from dataset_builders.hub_errors import explained
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

PUBLISHED = (
    *("README.md", "config.json", "generation_config.json", "*.py", "export.json"),
    *("model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
    *("preprocessor_config.json", "processor_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
    *("training_summary.json", "train_arguments.yaml", "figures/*.png", "onnx/*.onnx"),
    *("openvino/*", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
)

# contain local paths
WITH_PATHS = ("training_summary.json", "train_arguments.yaml", "adapter/adapter_config.json")


@dataclass(frozen=True)
class Destination:
    """Repository on the Hub and push options.

    Attributes:
        repo_id: "org/name"; created if necessary.
        private: Whether to create a private repository.
        tag: Tag of the commit, such as "v1".
        dry_run: Whether to only list the files.
    """

    repo_id: str
    private: bool = False
    tag: str | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Pushed:
    """Result of a push or dry run.

    Attributes:
        repo_id: "org/name".
        files: Path and size in bytes of each file.
        card: Text of README.md.
        commit: URL of the commit; None for a dry run.
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
    """Push a model in one atomic commit.

    The card is generated from the run; a README.md in the folder is neither sent nor changed. Files
    already uploaded are not sent again when an interrupted call is repeated.

    Args:
        folder: Output folder of `train.py`.
        to: Destination.
        results: Output folder of `evaluate.py probe` and `report`, for the card.
        system: Label of the model in the results.

    Raises:
        InputError: If there is no finished model, scores lack their controls, or the Hub returns an
            error.
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
    """Push the LoRA adapter of a run, for `PeftModel.from_pretrained`.

    Args:
        folder: Output folder of `train.py --lora_rank`.
        to: Destination.

    Raises:
        InputError: If there is no adapter, or the Hub returns an error.
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
    """Push a dataset that passed its licence check.

    Args:
        folder: Output folder of `python -m dataset_builders publish`.
        to: Destination.

    Raises:
        DatasetError: If the folder did not pass the check, or the Hub returns an error.
    """
    root = Path(folder)
    commit = push_published(root, to.repo_id, private=to.private, tag=to.tag, dry_run=to.dry_run)
    card = (root / CARD_FILE).read_text(encoding="utf-8")
    return Pushed(to.repo_id, tuple(files_of(root)), card, commit)


def push_files(
    files: Mapping[str, Path], to: Destination, message: str, repo_type: str = "model"
) -> Pushed:
    """Push files in one commit.

    Args:
        files: Files by path in the repository, including README.md.
        to: Destination.
        message: Commit message.
        repo_type: "model" or "space".

    Raises:
        InputError: If the Hub returns an error.
    """
    sizes = tuple((name, path.stat().st_size) for name, path in sorted(files.items()))
    card = files[CARD_FILE].read_text(encoding="utf-8")
    if to.dry_run:
        return Pushed(to.repo_id, sizes, card)
    api, sdk = HfApi(), "gradio" if repo_type == "space" else None
    kind: dict[str, Any] = {"repo_id": to.repo_id, "repo_type": repo_type}
    with explained(to.repo_id, InputError):
        operations = [CommitOperationAdd(name, path) for name, path in sorted(files.items())]
        api.create_repo(**kind, private=to.private, exist_ok=True, space_sdk=sdk)
        commit = api.create_commit(**kind, operations=operations, commit_message=message)
        if to.tag is not None:
            api.create_tag(**kind, tag=to.tag, exist_ok=True)
    return Pushed(to.repo_id, sizes, card, commit.commit_url)


def _copy_without_paths(source: Path, target: Path) -> Path:
    """Copy a JSON or YAML file, replacing local paths by their last component."""

    def without_path(value: Any) -> Any:
        if isinstance(value, list):
            return [without_path(one) for one in value]
        is_path = isinstance(value, str) and (os.path.isabs(value) or os.path.exists(value))
        return Path(value).name if is_path else value

    if source.is_file():
        is_yaml = source.suffix == ".yaml"
        # YAML reads numbers such as 5e-05 as text
        values = read_yaml(source) if is_yaml else json.loads(source.read_text(encoding="utf-8"))
        shown = {key: without_path(value) for key, value in values.items()}
        text = yaml.safe_dump(shown, sort_keys=False) if is_yaml else json.dumps(shown, indent=2)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return target


def published_files(root: Path) -> list[Path]:
    """Files of a model folder to publish, sorted."""
    found = {path for pattern in PUBLISHED for path in root.glob(pattern) if path.is_file()}
    return sorted(found)


__all__ = [
    "Destination",
    "Pushed",
    "published_files",
    "push_adapter",
    "push_dataset",
    "push_files",
    "push_model",
]
