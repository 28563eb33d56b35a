"""A published dataset to the Hub."""

from pathlib import Path
from typing import Any

from .errors import DatasetError
from .hub_errors import explain
from .publish import CARD_FILE, PLACEHOLDER
from .publishing import check_gate, files_of
from .schema import parse_config_name
from .storage import list_tables


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    tag: str | None = None,
    message: str = "Upload the dataset",
    dry_run: bool = False,
) -> str | None:
    """Push a published dataset; what is there already is not sent again.

    Shards and figures of an earlier push of these cities go with the same commit: left there, the
    Hub would load them too. Earlier commits keep them.

    Args:
        folder: that [`publish`][dataset_builders.publishing.publish] wrote.
        repo_id: "org/name"; made if need be. The token is that of `hf auth login` or HF_TOKEN.
        private: of a repository that is made.
        tag: name for the commit.
        message: of the commit.
        dry_run: look at the licences, send nothing.

    Returns:
        The address of the repository; None for a dry run.

    Raises:
        DatasetError: the folder did not pass the licence gate, or the Hub refuses; says what to
            do, and never the token.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    check_gate(folder)
    if dry_run:
        return None
    root = Path(folder)
    api = HfApi()
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        names = [name for name, _ in files_of(root)]
        there = api.list_repo_files(repo_id, repo_type="dataset")
        gone = sorted(name for name in set(there) - set(names) if _is_of(name, root))
        operations: list[Any] = [
            CommitOperationAdd(name, _card(root, repo_id) if name == CARD_FILE else root / name)
            for name in names
        ]
        operations += [CommitOperationDelete(name) for name in gone]
        api.create_commit(repo_id, operations, repo_type="dataset", commit_message=message)
        if tag is not None:
            api.create_tag(repo_id, tag=tag, repo_type="dataset", exist_ok=True)
    except Exception as error:
        said = explain(error, repo_id)
        if said is None:
            raise
        raise DatasetError(said) from error
    return str(url)


def _card(root: Path, repo_id: str) -> bytes:
    text = (root / CARD_FILE).read_text(encoding="utf-8")
    return text.replace(PLACEHOLDER, f'name = "{repo_id}"').encode()


def _is_of(name: str, root: Path) -> bool:
    """Whether a file of the repository is a shard or a figure of a city of this dataset."""
    parts = name.split("/")
    if len(parts) < 2 or parts[0] not in ("data", "figures"):
        return False
    try:
        city, _ = parse_config_name(parts[1].removesuffix(".png"))
    except DatasetError:
        return False
    return city in {one for one, _ in list_tables(root)}


__all__ = ["files_of", "push"]
