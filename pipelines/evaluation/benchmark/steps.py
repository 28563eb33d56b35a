"""Recipes of the benchmark and its steps: build a city, caption, train, embed, probe, report.

Layout of the output folder: world/ and captioned/ (datasets), models/ and embeddings/ by label of
the training, results/ (rows and report), transfer/, logs/. The report reads retrieval metrics from
models/LABEL/metrics.jsonl.
"""

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from dataset_builders.errors import DatasetError
from dataset_builders.files import atomic_path
from dataset_builders.yaml_records import make_record, nearest, read_layered_yaml, read_yaml

from ..arguments import ProbeArguments
from ..baselines.registry import RECIPES, SYSTEMS
from ..errors import InputError
from .arguments import TransferArguments
from .runner import PROJECT, Runner, Step

FULL = "full"
GROUP = "urbanln-"


@dataclass(frozen=True)
class Settings:
    """Recipe of another command, and values that override it.

    Attributes:
        recipe: Path of the YAML file, relative to the project folder.
        set: Overrides.
    """

    recipe: str
    set: Mapping[str, Any] = field(default_factory=dict)

    def merged(self) -> dict[str, Any]:
        """The recipe with its overrides; mappings are merged one level deep."""
        values = read_layered_yaml(PROJECT / self.recipe)
        for name, value in self.set.items():
            both = isinstance(value, dict) and isinstance(values.get(name), dict)
            values[name] = {**values[name], **value} if both else value
        return values


@dataclass(frozen=True)
class Variant:
    """Variant of the method for an ablation.

    Attributes:
        differs: Description of the difference from `against`.
        captions: Name of the caption set for training.
        train: Flags of train.py that override those of `training`.
        against: Variant to compare with.
        claim: Hypothesis that the comparison tests; without one, the report gives no verdict.
        expected: Direction of the variant's score under the hypothesis.
        curve: Curves that the variant is a point of, with its position on the x axis.
    """

    differs: str
    captions: str
    train: Mapping[str, Any] = field(default_factory=dict)
    against: str = FULL
    claim: str = ""
    expected: Literal["lower", "higher"] = "lower"
    curve: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """Benchmark recipe.

    Attributes:
        world: Flags of `python -m dataset_builders.synthetic`; systems are compared on the first
            city.
        captions: Recipes of `python -m pipelines.captioning` by name.
        training: Recipe of train.py for all variants.
        variants: Variants by name; `full` is the method.
        seeds: Training seeds of every system.
        baselines: Systems of `evaluate.py baseline`, trained on the captions of `full`.
        transfer: Whether to also train the method on each city and on all but one city, and
            evaluate every training on every city.
        probe: Flags of `evaluate.py probe` and, where it has them, of `evaluate.py transfer`.
        jobs: Number of concurrent steps.
        threads: Threads per step.
    """

    world: Mapping[str, Any]
    captions: Mapping[str, Settings]
    training: Settings
    variants: Mapping[str, Variant]
    seeds: tuple[int, ...]
    baselines: tuple[str, ...] = ()
    transfer: bool = False
    probe: Mapping[str, Any] = field(default_factory=dict)
    jobs: int = 2
    threads: int = 1

    @property
    def cities(self) -> tuple[str, ...]:
        """Names of the synthetic cities."""
        return tuple(self.world["cities"])


def read_recipe(path: str | Path) -> Recipe:
    """Read and validate a recipe.

    Raises:
        InputError: The file does not exist, or has an unknown field, flag or name or a value of
            the wrong type.
    """
    try:
        recipe = make_record(Recipe, read_layered_yaml(path))
        for settings in (recipe.training, *recipe.captions.values()):
            settings.merged()
    except DatasetError as error:
        raise InputError(f"{path}: {error}") from error
    if min(recipe.jobs, recipe.threads, len(recipe.seeds)) < 1 or not recipe.world.get("cities"):
        raise InputError(f"{path}: needs `world.cities`, `seeds`, `jobs` and `threads`.")
    for where, names, known in _names(recipe):
        for name in names:
            if name not in known:
                raise InputError(f"{path}, `{where}`: no {name!r}.{nearest(name, sorted(known))}")
    return recipe


def _names(recipe: Recipe) -> Iterable[tuple[str, Iterable[str], Iterable[str]]]:
    """References to check: location in the recipe, names, known names."""
    flags = _training_flags()
    yield "variants", [FULL], recipe.variants
    yield "baselines", recipe.baselines, SYSTEMS
    yield "probe", recipe.probe, [flag.name for flag in fields(ProbeArguments)]
    yield "training.set", recipe.training.set, flags
    for name, variant in recipe.variants.items():
        yield f"variants.{name}.captions", [variant.captions], recipe.captions
        yield f"variants.{name}.against", [variant.against], recipe.variants
        yield f"variants.{name}.train", variant.train, flags


@cache
def _training_flags() -> list[str]:
    """Flags of train.py, from its help text because pipelines do not import one another."""
    command = [sys.executable, "train.py", "--help"]
    shown = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    return re.findall(r"^\s+--(\w+)", shown, re.MULTILINE)


# ---- steps --------------------------------------------------------------------------------------


def run_benchmark(
    config: str | Path,
    output_dir: str | Path,
    whole: bool = True,
    dry_run: bool = False,
    log: Callable[[str], None] = print,
) -> None:
    """Run the unfinished steps of a benchmark.

    Args:
        config: Path of the recipe.
        output_dir: Output folder.
        whole: Whether to run controls, baselines and transfer besides the variants.
        dry_run: List the steps and their commands without running them.
        log: Receives progress messages.

    Raises:
        InputError: The recipe is invalid, or steps have failed.
    """
    recipe, run = read_recipe(config), Path(output_dir).resolve()
    runner = Runner(run, list(_Plan(recipe, run).steps(whole)), recipe.jobs, recipe.threads, log)
    states = runner.plan()
    if dry_run:
        for step, state in states:
            command = shlex.join(step.command).replace(sys.executable, "python")
            log(f"{state} {step.name}: {command}{' ...' if any(step.takes.values()) else ''}")
    left = sum(state != "done" for _, state in states)
    log(f"{left} of {len(states)} steps to run; logs: {run / 'logs'}.")
    if dry_run:
        return
    for name, settings in recipe.captions.items():
        with atomic_path(run / "recipes" / f"{name}.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(settings.merged()), encoding="utf-8")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # also terminates running steps
    lost = runner()
    log(f"Total duration of the steps: {runner.seconds() / 60:.0f} minutes.")
    if lost:
        raise InputError(
            f"{len(lost)} steps did not finish ({', '.join(lost)}). Rerun the command to resume."
        )
    log(f"Report: {run / 'results' / 'report.md'}")


@dataclass(frozen=True)
class _Plan:
    """Steps of a recipe in the folder `run`."""

    recipe: Recipe
    run: Path

    def steps(self, whole: bool) -> Iterator[Step]:
        """All steps or only those of variants, seed by seed so that early seeds are complete."""
        recipe, city = self.recipe, self.recipe.cities[0]
        yield self.build()
        for captions in dict.fromkeys(one.captions for one in recipe.variants.values()):
            yield from self.caption(captions)
        embeds: list[Step] = []
        for seed in recipe.seeds:
            for name in recipe.variants:
                model = self.run / "models" / f"{GROUP}{name}-s{seed}"
                train = self.train(name, seed, f"{name}-s{seed}", [city], model)
                embeds.append(self.embed(train, name, seed, f"{name}-s{seed}", city, model))
                yield from (train, embeds[-1])
        if whole:
            others = [*self.controls(), *self.baselines()]
            embeds += others
            yield from others
        results = self.run / "results"
        place = self.place(city, results)
        yield self.evaluate(
            "probe",
            "probe",
            results / city / "results.jsonl",
            {**recipe.probe, **place},
            ("build",),
            last="--embeddings",
            takes={step.name: (str(step.output),) for step in embeds},
        )
        transfer = list(self.transfer()) if whole and recipe.transfer else []
        yield from transfer
        report, takes = results / "report.md", {step.name: () for step in transfer[-1:]}
        place = {"output_dir": results}
        takes["probe"] = ()
        yield self.evaluate("report", "report", report, place, ("probe",), takes=takes)

    # ---- data -----------------------------------------------------------------------------------

    def build(self) -> Step:
        folder = self.run / "world"
        command = _python("-m", "dataset_builders.synthetic", "--with_masks", "--num_workers", "1")
        command += _flags({"output_dir": folder, **self.recipe.world})
        return Step("build", command, folder / "README.md", clears=folder)

    def caption(self, name: str) -> Iterator[Step]:
        output, dataset = self.run / "captioning" / name, self.run / "captioned" / name
        places = _flags({"dataset_name": self.run / "world", "output_dir": output})
        places = (str(self.run / "recipes" / f"{name}.yaml"), *places)
        program = _python("-m", "pipelines.captioning")
        yield Step(
            f"caption-{name}",
            (*program, "run", *places),
            output / "report" / "report.md",
            ("build",),
            clears=output,
            settings=self.recipe.captions[name].merged(),
        )
        command = (*program, "export", *places, *_flags({"dataset_dir": dataset}))
        needs = (f"caption-{name}",)
        yield Step(f"export-{name}", command, dataset / "README.md", needs, clears=dataset)

    def place(self, city: str, output: Path, captions: str = "") -> dict[str, Any]:
        dataset = self.run / "captioned" / captions if captions else self.run / "world"
        return {"dataset_name": dataset, "city": city, "output_dir": output}

    # ---- systems --------------------------------------------------------------------------------

    def train(self, variant: str, seed: int, name: str, cities: Sequence[str], model: Path) -> Step:
        own, training = self.recipe.variants[variant], self.recipe.training
        values = {
            **training.set,
            **own.train,
            "dataset_name": self.run / "captioned" / own.captions,
            "cities": cities,
            "output_dir": model,
            "seed": seed,
        }
        return Step(
            f"train-{name}",
            _python("train.py", "--config", str(PROJECT / training.recipe), *_flags(values)),
            model / "training_summary.json",
            (f"export-{own.captions}",),
            clears=model,
            settings=training.merged(),
        )

    def embed(
        self, train: Step, variant: str, seed: int, name: str, city: str, model: Path,
        folder: str = "embeddings",
    ) -> Step:  # fmt: skip
        """Embed a city with a trained variant and record the training in the table."""
        own, label = self.recipe.variants[variant], f"{GROUP}{variant}-s{seed}"
        training: dict[str, Any] = {"group": f"{GROUP}{variant}", "seed": seed, "curve": own.curve}
        training["settings"] = {"captions": own.captions, **own.train}
        if variant != FULL:
            training["variant_of"] = f"{GROUP}{own.against}"
            training |= {"differs": own.differs, "claim": own.claim, "expected": own.expected}
        values = {"model_name_or_path": model, "training": training}
        return self.table("embed", name, city, values, train.name, label, folder)

    def table(
        self, command: str, name: str, city: str, values: Mapping[str, Any], needs: str,
        label: str = "", folder: str = "embeddings", **more: Any,
    ) -> Step:  # fmt: skip
        """Command that writes an embedding table."""
        output = self.run / folder
        values = {**self.place(city, output), "label": label or name, **values}
        path = output / city / f"{label or name}.parquet"
        return self.evaluate(f"embed-{name}", command, path, values, (needs,), clears=path, **more)

    def evaluate(
        self, name: str, command: str, output: Path, values: Mapping[str, Any],
        needs: tuple[str, ...], last: str = "", **more: Any,
    ) -> Step:  # fmt: skip
        words = _python("evaluate.py", command, *_flags(values), *last.split())
        return Step(name, words, output, needs, **more)

    def controls(self) -> Iterator[Step]:
        """Encoders without adaptation: colour and texture, frozen base, random initialisation."""
        city, seeds = self.recipe.cities[0], self.recipe.seeds
        yield self.table("embed", "colour_texture", city, {"encoder": "colour_texture"}, "build")
        if base := self.recipe.training.merged().get("model_name_or_path"):
            yield self.table("embed", "base-frozen", city, {"model_name_or_path": base}, "build")
        model = self.run / "models" / f"{GROUP}{FULL}-s{seeds[0]}"  # for its architecture
        for seed in seeds:
            values = {"model_name_or_path": model, "random_init": True, "seed": seed}
            values["training"] = {"group": "random-init", "seed": seed}
            needs = f"train-{FULL}-s{seeds[0]}"
            yield self.table("embed", f"random-init-s{seed}", city, values, needs)

    def baselines(self) -> Iterator[Step]:
        """Published systems, and TF-IDF of the captions as a text-only baseline."""
        recipe, city = self.recipe, self.recipe.cities[0]
        captions = recipe.variants[FULL].captions
        place = self.place(city, self.run / "embeddings", captions)
        for seed in recipe.seeds:
            for system in recipe.baselines:
                values = {**place, "system": system, "seed": seed, "cache_dir": self.run / "pixels"}
                values["training"] = {"group": system, "seed": seed}
                name, settings = f"{system}-s{seed}", read_yaml(RECIPES / f"{system}.yaml")
                needs = f"export-{captions}"
                yield self.table("baseline", name, city, values, needs, settings=settings)
        if recipe.baselines:
            yield self.table("embed_captions", "captions-tfidf", city, place, f"export-{captions}")

    def transfer(self) -> Iterator[Step]:
        """Train on each city and on all but one city; evaluate every training on every city."""
        recipe, seed, folder = self.recipe, self.recipe.seeds[0], self.run / "transfer"
        sources = [[city] for city in recipe.cities]
        if len(sources) > 2:
            sources += [[one for one in recipe.cities if one != left] for left in recipe.cities]
        takes: dict[str, tuple[str, ...]] = {}
        for source in sources:
            name = "+".join(source)
            model = folder / "models" / name
            train = self.train(FULL, seed, f"from-{name}", source, model)
            yield train
            for city in recipe.cities:
                place = f"from-{name}-{city}", city, model, f"transfer/embeddings/{name}"
                yield (step := self.embed(train, FULL, seed, *place))
                takes[step.name] = ()
        known = {flag.name for flag in fields(TransferArguments)}
        values = {name: value for name, value in recipe.probe.items() if name in known}
        values["embeddings"] = folder / "embeddings"
        values |= {"dataset_name": self.run / "world", "output_dir": folder / "results"}
        table = folder / "results" / "transfer.csv"
        yield self.evaluate("transfer", "transfer", table, values, (), takes=takes)


def _python(*words: str) -> tuple[str, ...]:
    return sys.executable, *words


def _flags(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Command-line arguments: lists as several words, mappings as JSON."""
    words: list[str] = []
    for name, value in values.items():
        words.append(f"--{name}")
        if isinstance(value, list | tuple):
            words += map(str, value)
        else:
            words.append(json.dumps(value) if isinstance(value, Mapping | bool) else str(value))
    return tuple(words)


__all__ = ["Recipe", "Settings", "Variant", "read_recipe", "run_benchmark"]
