"""UrbanLN with one thing taken away at a time, each trained anew from every seed.

A variant's table is labelled `urbanln-<variant>-s<seed>`, and says that it is one training of
`urbanln-<variant>`, a variant of `urbanln-full`, the method.
"""

from collections.abc import Sequence
from typing import Any

from .commands import Job
from .recipe import FULL
from .runner import Step

GROUP = "urbanln-{variant}"
LABEL = GROUP + "-s{seed}"


def world_steps(job: Job, uses: Sequence[tuple[str, str]]) -> list[Step]:
    """Build worlds, and caption them.

    Args:
        job: the benchmark.
        uses: pairs of a world and of captions of it, those needed first in front.
    """
    uses = list(dict.fromkeys(uses))
    built = [job.build(world) for world in dict.fromkeys(world for world, _ in uses)]
    return [*built, *(step for use in uses for step in job.caption(*use))]


def captions_used(job: Job) -> list[tuple[str, str]]:
    """The worlds and captions that the compared variants are trained on."""
    recipe = job.recipe
    world = recipe.comparison.world
    return [(world, recipe.variants[name].captions) for name in recipe.compared]


def ablation_steps(job: Job, seed: int) -> list[Step]:
    """Train each variant from a seed, and encode the city with it."""
    recipe, steps = job.recipe, []
    comparison = recipe.comparison
    for variant in recipe.compared:
        name = f"{variant}-s{seed}"
        model = job.run / "models" / name
        train = job.train(name, comparison.world, [comparison.city], variant, seed, model)
        embed = job.embed(
            name,
            comparison.world,
            comparison.city,
            job.run / "embeddings",
            LABEL.format(variant=variant, seed=seed),
            [train.name],
            model_name_or_path=model,
            training=training_metadata(job, variant, seed),
        )
        steps += [train, embed]
    return steps


def training_metadata(job: Job, variant: str, seed: int) -> dict[str, Any]:
    """What a variant's table says of its training."""
    own = job.recipe.variants[variant]
    told = {name for other in job.recipe.variants.values() for name in other.train}
    settings = job.training_settings(variant)
    base = GROUP.format(variant=FULL)
    return {
        "group": GROUP.format(variant=variant),
        "seed": seed,
        "variant_of": base if variant != FULL else None,
        "differs": own.differs if variant != FULL else "",
        "settings": {
            "captions": own.captions,
            **{name: settings.get(name) for name in sorted(told)},
        },
    }


__all__ = ["LABEL", "ablation_steps", "captions_used", "training_metadata", "world_steps"]
