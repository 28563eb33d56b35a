"""To the Hub: a model with its code, card and figures, in one commit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from .errors import ReleaseError
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
ADVICE = {
    401: "The token is missing or wrong: `hf auth login`, or set HF_TOKEN.",
    403: "The token may not write there: make one with write access to the organisation.",
    404: "There is no such repository, and it could not be made: check the name.",
    429: "The Hub asks to slow down: try again in some minutes.",
}


@dataclass(frozen=True)
class Pushed:
    """What was pushed, or would be.

    Attributes:
        repo_id: "org/name".
        files: path and size in bytes of each.
        commit: its address; None for a dry run.
    """

    repo_id: str
    files: tuple[tuple[str, int], ...]
    commit: str | None = None

    def __str__(self) -> str:
        lines = [f"{size:>14,}  {path}" for path, size in self.files]
        total = sum(size for _, size in self.files)
        lines.append(f"{total:>14,}  bytes in {len(self.files)} files to {self.repo_id}")
        lines.append("Nothing was sent." if self.commit is None else f"Commit: {self.commit}")
        return "\n".join(lines)


def push_model(
    folder: str | Path,
    repo_id: str,
    *,
    results: str | Path | None = None,
    private: bool = False,
    tag: str | None = None,
    message: str = "Upload UrbanLN",
    dry_run: bool = False,
) -> Pushed:
    """Push a model, in one commit: the Hub has it whole or not at all.

    Large files go first and are not sent twice, so the same call after an interruption goes on.

    Args:
        folder: that `train.py` wrote.
        repo_id: "org/name"; made if need be.
        results: the `--output_dir` of `evaluate.py probe`, for the card.
        private: of a repository that is made.
        tag: name for the commit.
        message: of the commit.
        dry_run: write the card, list the files, send nothing.

    Raises:
        ReleaseError: no finished model, scores without controls, or an answer of the Hub that
            cannot be mended here; says what to do, and never the token.
    """
    root = Path(folder)
    write_model_card(read_run(root, results), repo_id)
    paths = published_files(root)
    files = tuple((path.relative_to(root).as_posix(), path.stat().st_size) for path in paths)
    if dry_run:
        return Pushed(repo_id, files)
    api = HfApi()
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
        for (name, _), path in zip(files, paths, strict=True)
    ]
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.create_commit(repo_id, operations, commit_message=message)
        if tag is not None:
            api.create_tag(repo_id, tag=tag, exist_ok=True)
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise ReleaseError(explain(error, repo_id)) from error
    return Pushed(repo_id, files, commit.commit_url)


def published_files(root: Path) -> list[Path]:
    """The files of a model's folder that are published, sorted; no pickle is ever among them."""
    found = {path for pattern in PUBLISHED for path in root.glob(pattern) if path.is_file()}
    return sorted(found)


def explain(error: Exception, repo_id: str) -> str:
    """An error of the Hub in a sentence that says what to do."""
    response: Any = getattr(error, "response", None)
    code = getattr(response, "status_code", None)
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} is no name of a repository: give org/name."
    if isinstance(error, LocalTokenNotFoundError):
        return ADVICE[401]
    if code is None:
        return f"The Hub could not be reached ({type(error).__name__}). Try the same command again."
    advice = ADVICE.get(code, "Try the same command again; what was sent is not sent twice.")
    return f"The Hub answered {code} for {repo_id}. {advice}"


__all__ = ["CARD_FILE", "Pushed", "explain", "published_files", "push_model"]
