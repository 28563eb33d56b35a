"""Commands under test, each on an input so small that it takes about a second."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.dataset_builders.provider import CityProvider
from tests.dataset_builders.town import KEY, recipe_values
from tests.dataset_builders.town import write_recipe as write_town
from tests.pipelines.captioning import runs
from tests.pipelines.evaluation.toy import CITY, build_toy
from tests.pipelines.prediction.conftest import make_town
from tests.pipelines.prediction.test_cli import flags as predict_flags
from tests.pipelines.pretraining.conftest import TINY_MODEL, image_rows, write_dataset
from tests.processes import ROOT

EVALUATE = str(ROOT / "evaluate.py")
SYNTHETIC = (
    *("-m", "dataset_builders.synthetic", "--cities", "harborview", "--grid_size", "3"),
    *("--street_views", "1", "--with_masks", "--num_workers", "1", "--output_dir", "out"),
)
TRAIN = (
    *("-m", "train", "--config_overrides", TINY_MODEL, "--queue_size", "20", "--use_cpu"),
    *("--per_device_train_batch_size", "8", "--validation_split_percentage", "20"),
    *("--learning_rate", "1e-3", "--max_train_steps", "6", "--logging_steps", "1"),
    *("--eval_steps", "2", "--checkpointing_steps", "2", "--output_dir", "out"),
)


@dataclass(frozen=True)
class Subject:
    """Command that runs in its own folder and writes to `out`.

    Attributes:
        command: Arguments of Python.
        start_from: Subject whose outputs it starts from.
        provider: Whether it needs the town's providers.
    """

    name: str
    command: tuple[str, ...]
    start_from: str | None = None
    provider: bool = False


class Provider(CityProvider):
    """Providers of the town that close all connections after `left` requests."""

    left: int | None = None

    def answer(self, request):
        with self.lock:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise ConnectionResetError
        return super().answer(request)


def subjects(inputs: Path, names: list[str], url: str) -> dict[str, Subject]:
    """Named subjects and those that they start from.

    Args:
        inputs: Folder of their inputs; missing inputs are created.
        names: Keys of `MAKERS`.
        url: URL of the town's providers.
    """
    made: dict[str, Subject] = {}
    for name in names:
        subject = MAKERS[name](inputs, url)
        if subject.start_from:
            made |= subjects(inputs, [subject.start_from], url)
        made[name] = subject
    return made


def _once(folder: Path, make: Callable[[Path], object]) -> Path:
    if not folder.exists():
        make(folder)
    return folder


def _town(inputs: Path, url: str) -> Path:
    os.environ["BAIDU_MAP_AK"] = KEY
    inputs.mkdir(parents=True, exist_ok=True)
    network = recipe_values(url)["network"] | {"max_attempts": 2}
    views = recipe_values(url)["street_view"][1:]
    regions = {"side_m": 400, "plane": "epsg32632"}
    return write_town(inputs, url, street_view=views, network=network, regions=regions)


def _build(inputs: Path, url: str) -> Subject:
    command = ("-m", "dataset_builders", "build", str(_town(inputs, url)), "--yes")
    return Subject("build", (*command, "--output_dir", "out"), provider=True)


def _publish(inputs: Path, url: str) -> Subject:
    command = ("-m", "dataset_builders", "publish", str(_town(inputs, url)))
    return Subject("publish", (*command, "--output_dir", "out"), start_from="build")


def _city(inputs: Path) -> Path:
    from dataset_builders.synthetic import build_dataset

    options = {"grid_size": 3, "street_views": 1, "with_masks": True, "num_workers": 1}
    return _once(inputs / "city", lambda folder: build_dataset(folder, **options))


def _caption_recipe(inputs: Path) -> str:
    values = runs.recipe_values(_city(inputs), Path("out/run"), **runs.FEW)
    return str(runs.write_recipe(inputs / "captions.yaml", values))


def _captions(inputs: Path, url: str) -> Subject:
    recipe = _caption_recipe(inputs)
    return Subject("captions", ("-m", "pipelines.captioning", "run", recipe))


def _export(inputs: Path, url: str) -> Subject:
    command = ("-m", "pipelines.captioning", "export", _caption_recipe(inputs))
    return Subject("export", (*command, "--dataset_dir", "out/dataset"), start_from="captions")


def _train(inputs: Path, url: str) -> Subject:
    pairs = _once(inputs / "pairs", lambda folder: write_dataset(folder, image_rows(48)))
    return Subject("train", (*TRAIN, "--dataset_name", str(pairs)))


def _toy(inputs: Path) -> tuple[str, ...]:
    toy = _once(inputs / "toy", lambda folder: build_toy(folder, side=12, street_views=1))
    return ("--dataset_name", str(toy), "--city", CITY, "--output_dir", "out")


def _embed(inputs: Path, url: str) -> Subject:
    command = (EVALUATE, "embed", "--encoder", "colour_texture", *_toy(inputs))
    sizes = ("--batch_size", "16", "--chunk_size", "64", "--num_workers", "2")
    return Subject("embed", (*command, *sizes))


def _probe(inputs: Path, url: str) -> Subject:
    table = f"out/{CITY}/colour_texture.parquet"
    command = (EVALUATE, "probe", "--embeddings", table, *_toy(inputs)[:-1], "out/results")
    return Subject("probe", (*command, "--seeds", "1", "--probes", "ridge"), start_from="embed")


def _predict(inputs: Path, url: str) -> Subject:
    place = inputs / "photos"
    _once(place, lambda folder: make_town(folder, side=9))
    town = type("Town", (), {"photos": place / "photos", "tracts": place / "tracts.gpkg"})
    return Subject("predict", (EVALUATE, "predict", *predict_flags(town, Path("out"))))


MAKERS: dict[str, Callable[[Path, str], Subject]] = {
    **{
        "synthetic": lambda *_: Subject("synthetic", SYNTHETIC),
        "build": _build,
        "publish": _publish,
        "captions": _captions,
    },
    **{"export": _export, "train": _train, "embed": _embed, "probe": _probe, "predict": _predict},
}


__all__ = ["KEY", "MAKERS", "Provider", "Subject", "subjects"]
