"""A Space: the demo with its code, a model, a dataset and embeddings.

<folder>/app.py requirements.txt README.md
<folder>/demo modeling_urbanln dataset_builders pipelines configs     code
<folder>/demo/demo.json                                               settings of the demo
<folder>/data/model dataset embeddings results                        data that is not on the Hub

The folder records its files with checksums; only these are replaced or deleted.
"""

import configparser
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import SpaceCard, SpaceCardData

from dataset_builders.errors import DatasetError, MissingExtraError
from dataset_builders.files import WrittenFiles, write_json
from dataset_builders.publish import MARKER, check_gate, files_of, publish

from ..common.errors import InputError
from .model_card import CARD_FILE, LICENCE, TEMPLATES, is_hub_id
from .push import Destination, Pushed, published_files, push_files
from .runs import read_run

CHECKOUT = Path(__file__).resolve().parents[2]
CODE = ("demo", "modeling_urbanln", "dataset_builders", "pipelines", "configs")
NOT_CODE = shutil.ignore_patterns("__pycache__", "*.pyc", "demo.json", ".*")
APP = '''"""Start the demo with the settings of demo/demo.json."""

import sys

from demo.app import main

if __name__ == "__main__":
    sys.exit(main())
'''
DATA = "data"
FILES_KIND = "space"
RESULT_FILES = ("results.jsonl", "probe.json", "regions.parquet")
MAX_BYTES = 900_000_000  # below the limit of a free Space, with margin for the history


@dataclass(frozen=True)
class SpaceSources:
    """Contents of a Space. Folders are copied, Hub ids are referenced.

    Attributes:
        model: Folder or Hub id.
        dataset_name: Folder or Hub id; a folder must pass the licence check.
        embeddings: Tables of `evaluate.py embed`, or folders of them.
        results: Output folder of `evaluate.py probe`, if scores are shown.
        city: City shown first.
    """

    model: str
    dataset_name: str
    embeddings: Sequence[str]
    results: str | None = None
    city: str | None = None


def write_space(folder: str | Path, repo_id: str, sources: SpaceSources) -> Path:
    """Write a Space to a new folder, or update one.

    Other files in the folder are kept. The update is atomic.

    Args:
        folder: Folder of the Space.
        repo_id: "org/name"; the name is the title.
        sources: Contents.

    Returns:
        The folder.

    Raises:
        InputError: If the folder contains other files, or a source is missing, too large or not
            redistributable.
        ForeignFileError: If a file to replace was not written by this function, or was edited.
        MissingExtraError: If Gradio is not installed.
    """
    files = _open_folder(Path(folder))
    with files.staging(whole=True) as staged:
        _compose(staged, repo_id, sources)
    return files.root


def _open_folder(root: Path) -> WrittenFiles:
    """Files of an earlier Space in the folder, which must otherwise be empty."""
    files = WrittenFiles(root, FILES_KIND)
    if root.exists() and not files.names() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(
            f"{root.resolve()} is not empty and was not written by this command: give a new "
            "folder (--space)."
        )
    files.check(files.names())
    return files


def _compose(root: Path, repo_id: str, sources: SpaceSources) -> None:
    try:
        gradio = version("gradio")
    except PackageNotFoundError as error:
        raise MissingExtraError("gradio", "demo") from error
    shown: dict[str, Any] = {"embeddings": [_embeddings(sources.embeddings, root)]}
    if sources.results is not None:
        shown["results"] = _results(Path(sources.results), root)
    if sources.city is not None:
        known = sorted(path.name for path in (root / DATA / "embeddings").iterdir())
        if sources.city not in known:
            have = ", ".join(known)
            raise InputError(f"No embeddings of {sources.city!r}, only of {have} (--city).")
        shown["city"] = sources.city
    shown["model_name_or_path"] = _model(sources.model, root)
    shown["dataset_name"] = _dataset(sources.dataset_name, root)
    for name in CODE:
        shutil.copytree(CHECKOUT / name, root / name, ignore=NOT_CODE)
    (root / "app.py").write_text(APP, encoding="utf-8")
    (root / "requirements.txt").write_text("\n".join(_requirements()) + "\n", encoding="utf-8")
    write_json(root / "demo" / "demo.json", shown)
    _write_card(root, repo_id, gradio, shown)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise InputError(
            f"The Space would take {size / 1e6:,.0f} MB, more than {MAX_BYTES / 1e6:,.0f}. Push "
            "model and dataset to the Hub and pass their ids instead of the folders."
        )


def push_space(folder: str | Path, sources: SpaceSources, to: Destination) -> Pushed:
    """Write a Space and push it in one commit.

    Args:
        folder: Folder of the Space, see [`write_space`]; a dry run does not write to it.
        sources: Contents.
        to: Destination.

    Raises:
        InputError: See [`write_space`]; or if the Hub returns an error.
    """
    message = "Upload the demo"
    if to.dry_run:
        _open_folder(Path(folder))
        with tempfile.TemporaryDirectory() as name:
            staged = Path(name)
            _compose(staged, to.repo_id, sources)
            return push_files({one: staged / one for one, _ in files_of(staged)}, to, message)
    root = write_space(folder, to.repo_id, sources)
    names = WrittenFiles(root, FILES_KIND).names()
    files = {name: root / name for name in names if (root / name).is_file()}
    return push_files(files, to, message, repo_type="space")


def _requirements() -> list[str]:
    """Requirements of the project without Gradio, whose version the Space's sdk_version sets."""
    settings = configparser.ConfigParser()
    settings.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    lines = settings["options"]["install_requires"].splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _dataset(name: str, root: Path) -> str:
    if is_hub_id(name):
        return name
    target = root / DATA / "dataset"
    try:
        if (Path(name) / MARKER).exists():
            check_gate(name)
            shutil.copytree(name, target, ignore=shutil.ignore_patterns(".*"))
        else:
            publish(name, target)
    except DatasetError as error:
        raise InputError(f"The dataset cannot be published: {error}") from error
    return f"../{DATA}/dataset"


def _model(name: str, root: Path) -> str:
    if is_hub_id(name):
        return name
    folder = read_run(name).folder
    for path in published_files(folder):
        relative = path.relative_to(folder)
        if len(relative.parts) == 1:  # not exports and figures
            target = root / DATA / "model" / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return f"../{DATA}/model"


def _embeddings(names: Sequence[str], root: Path) -> str:
    found = [
        path
        for name in map(Path, names)
        for path in ([name] if name.is_file() else sorted(name.rglob("*.parquet")))
        if not path.name.endswith(".rejects.parquet")
    ]
    if not found:
        raise InputError(
            f"There are no embeddings in {', '.join(names)}: pass tables of `evaluate.py embed`, "
            "or folders of them (--embeddings)."
        )
    for path in found:
        target = root / DATA / "embeddings" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return f"../{DATA}/embeddings"


def _results(results: Path, root: Path) -> str:
    cities = sorted(path.parent for path in results.glob("*/probe.json"))
    if not cities:
        raise InputError(f"There are no results in {results}: pass the output folder of `probe`.")
    for city in cities:
        target = root / DATA / "results" / city.name
        target.mkdir(parents=True)
        for name in RESULT_FILES:
            if (city / name).exists():
                shutil.copyfile(city / name, target / name)
    return f"../{DATA}/results"


def _write_card(root: Path, repo_id: str, gradio: str, shown: dict[str, Any]) -> None:
    title, synthetic = repo_id.split("/")[-1], _synthetic(root)
    data = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=gradio,
        python_version="3.11",
        app_file="app.py",
        license=LICENCE,
        emoji="🏙️",
        colorFrom="blue",
        colorTo="gray",
        models=[name for name in [shown["model_name_or_path"]] if is_hub_id(name)] or None,
        datasets=[name for name in [shown["dataset_name"]] if is_hub_id(name)] or None,
        tags=["urban", "geospatial", "urbanln", *["synthetic"] * synthetic],
    )
    template = str(TEMPLATES / "space_card.md.j2")
    card = SpaceCard.from_template(data, template, name=title, gradio=gradio, synthetic=synthetic)
    card.save(root / CARD_FILE)


def _synthetic(root: Path) -> bool:
    """Whether any embedding table is of a simulated city."""
    tables = (root / DATA / "embeddings").rglob("*.parquet")
    metadata = [(pq.read_schema(path).metadata or {}).values() for path in tables]
    return any(b'"synthetic": true' in value for values in metadata for value in values)


__all__ = ["SpaceSources", "push_space", "write_space"]
