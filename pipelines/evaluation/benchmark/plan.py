"""The synthetic benchmark: cities, captions, every system, probes, from city to city, report.

A recipe becomes a list of the project's own command lines, each a step that is done once
(see `runner`); what this module knows is which steps there are, and what waits for what.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal

from ..arguments import ProbeArguments
from .arguments import TransferArguments
from .commands import Job, check_flags, flags, python, training_flags
from .recipe import FULL, Recipe, read_recipe
from .runner import Outcome, Runner, Step, raise_for_failures
from .variants import LABEL, ablation_steps, captions_used, training_metadata, world_steps

Part = Literal["benchmark", "ablate"]


def benchmark_steps(job: Job, part: Part = "benchmark") -> list[Step]:
    """The steps of the whole benchmark, or of the ablations alone.

    Args:
        job: recipe and folder.
        part: "ablate": no baselines, no controls that are encoders, no transfer.
    """
    whole = part == "benchmark"
    transfer = job.recipe.transfer if whole else None
    uses = captions_used(job)
    if whole:
        uses.append((job.recipe.comparison.world, job.recipe.comparison.baseline_captions))
    if transfer:
        uses.append((transfer.world, job.recipe.variants[transfer.variant].captions))
    steps = world_steps(job, uses)
    encoders = _encoders(job, whole)
    steps += [*encoders, _probe(job, [step for step in encoders if not _trains(step)])]
    if transfer:
        steps += _transfer(job)
    if whole and FULL in job.recipe.compared:
        steps.append(_efficiency(job))
    # last: it shows all that there is by then
    also = [step.name for step in steps if step.name in ("transfer", "efficiency")]
    return [*steps, _report(job, also)]


def run_benchmark(
    config: str | Path,
    output_dir: str | Path,
    part: Part = "benchmark",
    dry_run: bool = False,
    log: Callable[[str], None] = print,
) -> Outcome | None:
    """Do what is left of a benchmark.

    Args:
        config: the recipe.
        output_dir: folder that everything goes to; it is resolved.
        part: see [`benchmark_steps`].
        dry_run: list the steps, and do nothing.
        log: takes a line.

    Returns:
        How it ended; None of a dry run.

    Raises:
        InputError: the recipe is wrong, or, at the end, steps have failed.
    """
    recipe = read_recipe(config)
    _check_flags(recipe)
    job = Job(recipe, Path(output_dir).resolve())
    runner = Runner(job.run, benchmark_steps(job, part), recipe.threads, log)
    if dry_run:
        _show(runner, log)
        return None
    job.write_recipes()
    outcome = runner.run()
    log(f"{len(outcome.ran)} steps done now, {len(outcome.keys) - len(outcome.ran)} before.")
    raise_for_failures(outcome)
    log(f"Report: {job.run / 'results' / 'report.md'}")
    return outcome


# ---- parts --------------------------------------------------------------------------------------


def _encoders(job: Job, whole: bool) -> list[Step]:
    """All that gives region vectors, seed by seed: a run that is stopped early has whole tables."""
    comparison = job.recipe.comparison
    steps: list[Step] = []
    for seed in dict.fromkeys((*comparison.seeds, *comparison.baseline_seeds)):
        if seed in comparison.seeds:
            steps += ablation_steps(job, seed)
        if whole and seed in comparison.baseline_seeds:
            steps += _baselines(job, seed)
    return [*steps, *_controls(job)] if whole else steps


def _controls(job: Job) -> list[Step]:
    """Encoders that learnt nothing, and words without pictures."""
    comparison, output = job.recipe.comparison, job.run / "embeddings"
    place = (comparison.world, comparison.city, output)
    steps = [job.embed("colour-texture", *place, "colour_texture", [], encoder="colour_texture")]
    if FULL in job.recipe.compared:
        # the architecture of the method: its checkpoint says which
        name = f"{FULL}-s{comparison.seeds[0]}"
        steps += [
            job.embed(
                f"random-init-s{seed}",
                *place,
                f"random-init-s{seed}",
                [f"train-{name}"],
                model_name_or_path=job.run / "models" / name,
                random_init=True,
                seed=seed,
                training={"group": "random-init", "seed": seed},
            )
            for seed in comparison.seeds
        ]
    steps.append(
        job.embed_captions(comparison.world, comparison.city, comparison.baseline_captions, output)
    )
    return steps


def _baselines(job: Job, seed: int) -> list[Step]:
    comparison = job.recipe.comparison
    return [
        job.baseline(
            system,
            seed,
            comparison.world,
            comparison.city,
            comparison.baseline_captions,
            job.run / "embeddings",
        )
        for system in comparison.baselines
    ]


def _trains(step: Step) -> bool:
    return step.name.startswith("train-")


def _probe(job: Job, tables: Sequence[Step]) -> Step:
    """All tables at once, on the regions that all have; those that failed are left out."""
    comparison = job.recipe.comparison
    values = {
        **job.recipe.probe,
        "dataset_name": job.built(comparison.world),
        "city": comparison.city,
        "output_dir": job.run / "results",
    }
    return job.step(
        "probe",
        python("evaluate.py", "probe", *flags(values), "--embeddings"),
        needs=(f"build-{comparison.world}",),
        takes={step.name: tuple(map(str, step.outputs)) for step in tables},
        outputs=(job.run / "results" / comparison.city / "results.jsonl",),
    )


def _efficiency(job: Job) -> Step:
    """Sizes and speeds; of the method, as its first training left it."""
    comparison = job.recipe.comparison
    name = f"{FULL}-s{comparison.seeds[0]}"
    values = {
        "dataset_name": job.captioned(comparison.world, comparison.baseline_captions),
        "city": comparison.city,
        "model_name_or_path": job.run / "models" / name,
        "systems": comparison.baselines or None,
        "size": comparison.size,
        "output_dir": job.run,
    }
    return job.step(
        "efficiency",
        python("evaluate.py", "efficiency", *flags(values)),
        needs=(
            f"train-{name}",
            f"export-{comparison.world}-{comparison.baseline_captions}",
        ),
        outputs=(job.run / "efficiency.json",),
    )


def _report(job: Job, also: Sequence[str]) -> Step:
    """Of the results, and of what the other steps have left beside them."""
    output = job.run / "results"
    return job.step(
        "report",
        python("evaluate.py", "report", *flags({"output_dir": output})),
        needs=("probe",),
        takes=dict.fromkeys(("probe", *also), ()),
        outputs=(output / "report.md",),
    )


def _transfer(job: Job) -> list[Step]:
    """An encoder from each source, and one from all cities but one; every city by each."""
    plan = job.recipe.transfer
    assert plan is not None
    cities = job.recipe.worlds[plan.world].cities
    sources: list[tuple[str, ...]] = [(city,) for city in cities]
    if plan.leave_one_out and len(cities) > 2:
        sources += [tuple(other for other in cities if other != left) for left in cities]
    steps: list[Step] = []
    for seed in plan.seeds:
        for source in sources:
            name = "+".join(source)
            model = job.run / "models" / f"from-{name}-s{seed}"
            train = job.train(f"from-{name}-s{seed}", plan.world, source, plan.variant, seed, model)
            label = LABEL.format(variant=plan.variant, seed=seed)
            output = job.run / "transfer" / "embeddings" / name
            steps.append(train)
            steps += [
                job.embed(
                    f"from-{name}-s{seed}-{city}",
                    plan.world,
                    city,
                    output,
                    label,
                    [train.name],
                    model_name_or_path=model,
                    training=training_metadata(job, plan.variant, seed),
                )
                for city in cities
            ]
    embeds = {step.name: () for step in steps if not _trains(step)}
    known = {one.name for one in fields(TransferArguments)}
    values = {
        **{name: value for name, value in job.recipe.probe.items() if name in known},
        "dataset_name": job.built(plan.world),
        "embeddings": job.run / "transfer" / "embeddings",
        "output_dir": job.run / "transfer" / "results",
    }
    command = python("evaluate.py", "transfer", *flags(values))
    output = job.run / "transfer" / "results" / "transfer.csv"
    return [*steps, job.step("transfer", command, takes=embeds, outputs=(output,))]


# ---- before the start ---------------------------------------------------------------------------


def _check_flags(recipe: Recipe) -> None:
    """Wrong flags now, not when their step has its turn."""
    known = training_flags()
    check_flags("training.set", recipe.training.set, known)
    for name, variant in recipe.variants.items():
        check_flags(f"variants.{name}.train", variant.train, known)
    check_flags("probe", recipe.probe, {one.name for one in fields(ProbeArguments)})


def _show(runner: Runner, log: Callable[[str], None]) -> None:
    states = runner.plan()
    for step, state in states:
        log(f"{state:<6} {step.name}")
    left = sum(state != "done" for _, state in states)
    folder = runner.log_path(runner.steps[0]).parent
    log(f"{left} of {len(states)} steps to do. Logs go to {folder}.")


__all__ = ["Part", "benchmark_steps", "run_benchmark"]
