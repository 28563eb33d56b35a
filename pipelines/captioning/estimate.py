"""What a run would take, before anybody is asked."""

from .inputs import list_shards
from .kit import open_models
from .passes import plan_passes
from .recipe import Recipe

TOKENS_OF_AN_IMAGE, TOKENS_OF_A_PROMPT, TOKENS_OF_A_MERGE = 1000, 150, 500
BOXES_OF_AN_IMAGE = 4
"""Rough means, for an estimate only; the report has what was counted."""


def estimate(recipe: Recipe) -> str:
    """Images, requests, tokens and price of a run that starts from nothing.

    The tokens of an image differ between models by a factor of ten: after `--max_images 20` the
    report says what yours takes.
    """
    images = sum(shard.count for shard in list_shards(recipe))
    long = recipe.generate.captions_per_model
    local, merges = (BOXES_OF_AN_IMAGE, long) if recipe.refine else (0, 0)
    requests = images * (long + local + merges)
    asked = requests * (TOKENS_OF_AN_IMAGE + TOKENS_OF_A_PROMPT)
    asked += images * merges * TOKENS_OF_A_MERGE
    answered = images * (
        (long * recipe.generate.max_tokens + merges * recipe.merge.max_tokens) // 2
        + local * recipe.segment.max_tokens // 2
    )
    models = open_models(recipe)
    passes = plan_passes(recipe, models)
    remote = [name for name, model in models.items() if model.remote]
    lines = [
        f"{images} images; of each model about {requests:,} requests, {asked / 1e6:,.1f} million "
        f"tokens in and {answered / 1e6:,.1f} million out.",
        f"Passes: {', '.join(one.name for one in passes)}.",
    ]
    for model in recipe.models:
        price = asked * float(model.get("price_per_million_input", 0)) / 1e6
        price += answered * float(model.get("price_per_million_output", 0)) / 1e6
        where = "images leave this machine" if model["name"] in remote else "on this machine"
        lines.append(f"  {model['name']}: {where}; price {price:,.2f}")
    return "\n".join(lines)


__all__ = ["estimate"]
