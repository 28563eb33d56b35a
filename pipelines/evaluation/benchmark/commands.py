"""Command lines of the project as steps, and the files a job is made of."""

import json
import re
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dataset_builders.errors import DatasetError
from dataset_builders.files import atomic_path
from dataset_builders.yaml_records import read_layered_yaml, unknown_name

from ..baselines.registry import RECIPES
from ..errors import InputError
from .recipe import Recipe, Settings
from .runner import PROJECT, Step

FLAG = re.compile(r"^\s+--(\w+)", re.MULTILINE)


class Job:
    """Where things lie, and the steps that make them.

    A city's images and labels are of the built dataset; captions are of a captioned copy of it.

    Args:
        recipe: what is made.
        run: folder that everything goes to.
    """

    def __init__(self, recipe: Recipe, run: Path):
        self.recipe, self.run = recipe, run

    # ---- places ---------------------------------------------------------------------------------

    def built(self, world: str) -> Path:
        """The dataset of a world, with its truth."""
        return self.run / "worlds" / world

    def captioned(self, world: str, captions: str) -> Path:
        """The same with captions of a pipeline."""
        return self.run / "captioned" / f"{world}-{captions}"

    # ---- steps ----------------------------------------------------------------------------------

    def build(self, world: str) -> Step:
        """Make the cities, with the truth that simulated models look at."""
        one, folder = self.recipe.worlds[world], self.built(world)
        command = python("-m", "dataset_builders.synthetic", "--with_masks")
        command += flags(
            {
                "output_dir": folder,
                "cities": one.cities,
                "grid_size": one.grid_size,
                "street_views": one.street_views,
                "seed": one.seed,
                "num_workers": 1,
            }
        )
        outputs = (folder / "README.md",)
        return self.step(f"build-{world}", command, outputs=outputs, clears=(folder,))

    def caption(self, world: str, captions: str) -> list[Step]:
        """Caption the images of a world, and write a dataset with the captions."""
        name = f"{world}-{captions}"
        output, dataset = self.run / "captioning" / name, self.captioned(world, captions)
        recipe = self.run / "recipes" / f"captions-{captions}.yaml"
        places = [recipe, *flags({"dataset_name": self.built(world), "output_dir": output})]
        program = python("-m", "pipelines.captioning")
        run = self.step(
            f"caption-{name}",
            [*program, "run", *map(str, places)],
            needs=(f"build-{world}",),
            outputs=(output / "report" / "report.md",),
            clears=(output,),
            settings=_merged(self.recipe.captions[captions]),
        )
        export = self.step(
            f"export-{name}",
            [*program, "export", *map(str, places), *flags({"dataset_dir": dataset})],
            needs=(run.name,),
            outputs=(dataset / "README.md",),
            clears=(dataset,),
        )
        return [run, export]

    def train(
        self, name: str, world: str, cities: Sequence[str], variant: str, seed: int, model: Path
    ) -> Step:
        """Pretrain a variant on the images and captions of some cities of a world."""
        one, training = self.recipe.variants[variant], self.recipe.training
        values = {
            **training.set,
            **one.train,
            "dataset_name": self.captioned(world, one.captions),
            "cities": cities,
            "output_dir": model,
            "seed": seed,
        }
        return self.step(
            f"train-{name}",
            python("train.py", "--config", str(training.path), *flags(values)),
            needs=(f"export-{world}-{one.captions}",),
            outputs=(model / "model.safetensors",),
            completed=model / "training_summary.json",
            clears=(model,),
            settings=_read(training.path),
        )

    def training_settings(self, variant: str) -> dict[str, Any]:
        """All that a variant's training is told, but data and seed."""
        training = self.recipe.training
        return {**_read(training.path), **training.set, **self.recipe.variants[variant].train}

    def embed(
        self,
        name: str,
        world: str,
        city: str,
        output: Path,
        label: str,
        needs: Sequence[str],
        **values: Any,
    ) -> Step:
        """Encode the images of a city; `values` say by what."""
        command = python("evaluate.py", "embed") + flags(
            {**values, **self._place(self.built(world), city, output), "label": label}
        )
        table = output / city / f"{label}.parquet"
        needs = tuple(dict.fromkeys([f"build-{world}", *needs]))
        return self.step(f"embed-{name}", command, needs=needs, outputs=(table,), clears=(table,))

    def embed_captions(self, world: str, city: str, captions: str, output: Path) -> Step:
        """Region vectors of the captions' words alone."""
        label = "captions-tfidf"
        place = self._place(self.captioned(world, captions), city, output)
        table = output / city / f"{label}.parquet"
        return self.step(
            f"embed-{label}",
            python("evaluate.py", "embed_captions", *flags({**place, "label": label})),
            needs=(f"export-{world}-{captions}",),
            outputs=(table,),
            clears=(table,),
        )

    def baseline(
        self, system: str, seed: int, world: str, city: str, captions: str, output: Path
    ) -> Step:
        """Fit a published system on a city."""
        label = f"{system}-s{seed}"
        training = {"group": system, "seed": seed}
        table = output / city / f"{label}.parquet"
        values = {
            "system": system,
            "size": self.recipe.comparison.size,
            **self._place(self.captioned(world, captions), city, output),
            "cache_dir": self.run / "pixels",
            "label": label,
            "training": training,
            "seed": seed,
        }
        return self.step(
            f"baseline-{label}",
            python("evaluate.py", "baseline", *flags(values)),
            needs=(f"export-{world}-{captions}",),
            outputs=(table,),
            clears=(table,),
            settings=_read(RECIPES / f"{system}.yaml"),
        )

    def _place(self, dataset: Path, city: str, output: Path) -> dict[str, Any]:
        return {"dataset_name": dataset, "city": city, "output_dir": output}

    def step(self, name: str, command: Sequence[str], **fields: Any) -> Step:
        """Any other step."""
        return Step(name, tuple(command), **fields)

    # ---- before the start -----------------------------------------------------------------------

    def write_recipes(self) -> None:
        """The recipes of the captions, with what stands above them, as files."""
        for name, settings in self.recipe.captions.items():
            with atomic_path(self.run / "recipes" / f"captions-{name}.yaml") as temporary:
                temporary.write_text(yaml.safe_dump(_merged(settings)), encoding="utf-8")


def python(*words: str) -> list[str]:
    """A command of this Python."""
    return [sys.executable, *words]


def flags(values: Mapping[str, Any]) -> list[str]:
    """Values as words of a command line: lists as several, mappings as JSON, None not at all."""
    words: list[str] = []
    for name, value in values.items():
        if value is None:
            continue
        words.append(f"--{name}")
        if isinstance(value, list | tuple):
            words += map(str, value)
        elif isinstance(value, Mapping):
            words.append(json.dumps(value))
        elif isinstance(value, bool):
            words.append(str(value).lower())
        else:
            words.append(str(value))
    return words


def check_flags(where: str, given: Collection[str], known: Collection[str]) -> None:
    """Find a wrong flag now, not after an hour.

    Raises:
        InputError: one is unknown; the nearest known one is named.
    """
    for name in given:
        if name not in known:
            raise InputError(unknown_name(f"{where}.{name}", name, sorted(known)))


def training_flags() -> set[str]:
    """What train.py can be told, by its own help: another pipeline is known by its commands."""
    done = subprocess.run(
        python("train.py", "--help"), cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return set(FLAG.findall(done.stdout))


def _merged(settings: Settings) -> dict[str, Any]:
    values = _read(settings.path)
    for name, value in settings.set.items():
        known = values.get(name)
        if isinstance(known, dict) and isinstance(value, dict):
            value = {**known, **value}
        values[name] = value
    return values


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_layered_yaml(path)
    except DatasetError as error:
        raise InputError(str(error)) from error


__all__ = ["Job", "check_flags", "flags", "python", "training_flags"]
