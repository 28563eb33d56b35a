"""A published dataset to the Hub."""

from pathlib import Path
from typing import Any

from .errors import DatasetError
from .publishing import check_gate, files_of
from .schema import parse_config_name
from .storage import list_tables

ADVICE = {
    401: "The token is missing or wrong: `hf auth login`, or set HF_TOKEN.",
    403: "The token may not write there: make one with write access to the organisation.",
    404: "There is no such repository, and it could not be made: check the name.",
    429: "The Hub asks to slow down: try again in some minutes.",
}


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    message: str = "Upload the dataset",
) -> str:
    """Push a published dataset; what is there already is not sent again.

    Shards and figures of an earlier push of these cities go with the same commit: left there, the
    Hub would load them too. Earlier commits keep them.

    Args:
        folder: that [`publish`][dataset_builders.publishing.publish] wrote.
        repo_id: "org/name"; made if need be. The token is that of `hf auth login` or HF_TOKEN.
        private: of a repository that is made.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        DatasetError: the folder did not pass the licence gate, or the Hub refuses; says what to
            do, and never the token.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    check_gate(folder)
    root = Path(folder)
    api = HfApi()
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        names = [name for name, _ in files_of(root)]
        there = api.list_repo_files(repo_id, repo_type="dataset")
        gone = sorted(name for name in set(there) - set(names) if _is_of(name, root))
        operations: list[Any] = [CommitOperationAdd(name, root / name) for name in names]
        operations += [CommitOperationDelete(name) for name in gone]
        api.create_commit(repo_id, operations, repo_type="dataset", commit_message=message)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise DatasetError(_explain(error, repo_id)) from error
    return str(url)


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


def _explain(error: Exception, repo_id: str) -> str:
    response: Any = getattr(error, "response", None)
    code = getattr(response, "status_code", None)
    if type(error).__name__ == "HFValidationError":
        return f"{repo_id!r} is no name of a repository: give org/name."
    if type(error).__name__ == "LocalTokenNotFoundError":
        return ADVICE[401]
    if code is None:
        return f"The Hub could not be reached ({type(error).__name__}). Try the same command again."
    advice = ADVICE.get(code, "Try the same command again; what was sent is not sent twice.")
    return f"The Hub answered {code} for {repo_id}. {advice}"


__all__ = ["files_of", "push"]
